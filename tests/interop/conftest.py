# SPDX-License-Identifier: Apache-2.0
"""Real peers: started once for each test process, ended with it. Without Node.js they fail; none is skipped."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from interop.peers import JoseVerifier, OidcProvider, jose_verifier, running_oidc_provider
from joserfc.jwk import ECKey


@pytest.fixture(scope="session")
def assertion_key() -> ECKey:
    """The key of the client that authenticates by private_key_jwt."""
    return ECKey.generate_key("P-256", {"alg": "ES256", "use": "sig", "kid": "assertion"})


@pytest.fixture(scope="session")
def oidc_provider(assertion_key: ECKey) -> Iterator[OidcProvider]:
    """An oidc-provider that demands DPoP and nonces."""
    with running_oidc_provider({"keys": [assertion_key.as_dict(private=False)]}) as provider:
        yield provider


@pytest.fixture(scope="session")
def jose_verify() -> Iterator[JoseVerifier]:
    """Verifies proofs with npm jose."""
    with jose_verifier() as verifier:
        yield verifier
