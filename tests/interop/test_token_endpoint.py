# SPDX-License-Identifier: Apache-2.0
"""Token endpoints against oidc-provider: every integration, every way to authenticate."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from interop.application import AUTHENTICATION, browse
from interop.peers import OidcProvider
from joserfc.jwk import ECKey
from support.endpoints import ENDPOINTS, Endpoint

import dpop
from dpop.errors import ReauthorizationError
from dpop.tokens import PrivateKeyJWT


@pytest.fixture(params=sorted(ENDPOINTS))
def name(request: pytest.FixtureRequest) -> str:
    """Each integration in turn."""
    return str(request.param)


@pytest.fixture(params=AUTHENTICATION)
def endpoint(
    request: pytest.FixtureRequest, name: str, oidc_provider: OidcProvider, assertion_key: ECKey
) -> Iterator[Endpoint]:
    """An endpoint found by its issuer; the server's record starts empty."""
    kind = request.param
    options = {
        "public": {"client_id": "public"},
        "assertion": {
            "client_auth": PrivateKeyJWT(
                "assertion", dpop.load_key(assertion_key.as_dict(private=True)), kid="assertion"
            )
        },
    }.get(
        kind, {"client_id": kind, "client_secret": oidc_provider.secrets[kind], "client_auth": f"client_secret_{kind}"}
    )
    oidc_provider.seen()
    with Endpoint(name, dpop.generate_key(), oidc_provider["issuer"], discover=True, **options) as made:
        yield made


def test_a_whole_life(endpoint: Endpoint, oidc_provider: OidcProvider) -> None:
    """Discovery, PAR, code, two refreshes, introspection, revocation, and a refusal: no request too many."""
    asked = endpoint.start_authorization(oidc_provider["redirect_uri"], scope="openid offline_access", prompt="consent")
    first = endpoint.finish_authorization(asked, browse(oidc_provider, asked.url))
    assert first.is_bound
    assert first.id_token
    assert first.id_token_verified
    second = endpoint.refresh(first)
    third = endpoint.refresh(second)
    assert len({first.refresh_token, second.refresh_token, third.refresh_token}) == 3
    assert third.seconds_left(third.issued_at) == 600
    assert third.scopes == {"openid", "offline_access"}
    assert endpoint.introspect(third.access_token)["cnf"] == {"jkt": endpoint.prover.thumbprint}
    endpoint.revoke(third)
    with pytest.raises(ReauthorizationError) as caught:
        endpoint.refresh(third)
    assert caught.value.error == "invalid_grant"
    wire = oidc_provider.seen()
    assert [(entry.path, entry.status) for entry in wire] == [
        ("/.well-known/oauth-authorization-server", 200),
        ("/request", 400),
        ("/request", 201),
        ("/jwks", 200),  # for the ID token, before the code is sent
        ("/token", 200),
        ("/token", 200),
        ("/token", 200),
        ("/token/introspection", 200),
        ("/token/revocation", 200),
        ("/token", 400),
    ]
    assert [bool(entry.proof) for entry in wire] == [False] + [True] * 2 + [False] + [True] * 3 + [False] * 2 + [True]


def test_unasked_proofs(name: str, oidc_provider: OidcProvider) -> None:
    """oidc-provider, which reads no proof at these endpoints, takes no offence at one."""
    options = {"client_id": "post", "client_secret": oidc_provider.secrets["post"]}
    everywhere = ["revocation", "introspection", "device_authorization"]
    with Endpoint(
        name, dpop.generate_key(), oidc_provider["issuer"], discover=True, signed_endpoints=everywhere, **options
    ) as endpoint:
        tokens = endpoint.grant("client_credentials")
        assert endpoint.introspect(tokens.access_token)["active"] is True
        oidc_provider.seen()
        endpoint.revoke(tokens)
        assert endpoint.introspect(tokens.access_token)["active"] is False
    assert [(entry.path, entry.status, bool(entry.proof)) for entry in oidc_provider.seen()] == [
        ("/token/revocation", 200, True),
        ("/token/introspection", 200, True),
    ]
