# SPDX-License-Identifier: Apache-2.0
"""Clients of other makers: the verifier accepts their proofs, and they get along with the test server.

What each sends is made by itself, by its own documentation; nothing here knows how a proof is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from interop.peers import Program, node

from dpop.keys._algorithms import ALGORITHMS
from dpop.server import InvalidProof, MemoryReplayCache, NonceIssuer, ProofVerifier
from dpop.testing import DISCIPLINES, Discipline, DPoPTestServer

TOKEN = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"
EVERY = ["ES256", "ES384", "ES512", "Ed25519", "EdDSA", "PS256", "RS256", "PS384", "PS512", "RS384", "RS512"]
# What each can sign with here. All but dpop know ML-DSA too, which this Node.js has not and no profile of DPoP names.
CAN = {
    "dpop": ["ES256", "Ed25519", "PS256", "RS256"],
    "jose": EVERY,
    "oauth4webapi": EVERY,
    "openid-client": EVERY,
}
PAIRS = [(library, alg) for library, algs in CAN.items() for alg in algs]


@pytest.fixture(scope="session")
def mint() -> Iterator[Program]:
    """Mints proofs."""
    with node("mint.mjs") as process:
        yield Program(process)


@pytest.fixture(scope="session")
def application() -> Iterator[Program]:
    """Goes through the flows of OAuth."""
    with node("flows.mjs") as process:
        yield Program(process)


def verifier(**options: Any) -> ProofVerifier:
    """A verifier that takes every algorithm there is."""
    return ProofVerifier(replay=MemoryReplayCache(), algs=ALGORITHMS, **options)


@pytest.mark.parametrize(("library", "alg"), PAIRS)
def test_its_proofs_are_accepted(mint: Program, library: str, alg: str) -> None:
    """At a token endpoint with and without a nonce, and at an API."""
    nonces = NonceIssuer()
    url = "https://as.example/to%2Fken/~x"
    for nonce in (None, nonces.issue()):
        made = mint(library=library, alg=alg, method="POST", url=url, nonce=nonce, access_token=None)
        judge = verifier(nonces=nonces if nonce else None)
        seen = judge.verify_token_request([("DPoP", made["proof"])], "POST", url)
        assert (seen.jkt, seen.alg, seen.nonce) == (made["jkt"], alg, nonce)
    url = "https://api.example:8443/a?b=c"
    # The makers of bare proofs are told the htu; the others cut the URL themselves.
    told = url if library in {"oauth4webapi", "openid-client"} else url.partition("?")[0]
    made = mint(library=library, alg=alg, method="PATCH", url=told, nonce=nonces.issue(), access_token=TOKEN)
    judge = verifier(nonces=nonces)
    fields = [("DPoP", made["proof"])]
    seen = judge.verify_resource(fields, "PATCH", url, access_token=TOKEN, bound_jkt=made["jkt"])
    assert seen.jkt == made["jkt"]
    with pytest.raises(InvalidProof, match="used before"):
        judge.verify_resource(fields, "PATCH", url, access_token=TOKEN, bound_jkt=made["jkt"])


@pytest.mark.parametrize("library", list(CAN))
def test_none_signs_by_ed448(mint: Program, library: str) -> None:
    """EdDSA means Ed25519 to them, as it does here, also where the platform has a key of the other curve."""
    made = mint(library=library, alg="Ed448", method="GET", url="https://a.example/", nonce=None, access_token=None)
    assert made.keys() == {"error"}
    assert made["error"].startswith(("UnsupportedOperationError", "JOSENotSupported", "ClientError"))


@pytest.mark.parametrize("discipline", [name for name in DISCIPLINES if not name.startswith("endless")])
@pytest.mark.parametrize("library", ["oauth4webapi", "openid-client"])
def test_its_flows_complete(application: Program, library: str, discipline: Discipline) -> None:
    """Client credentials, code, refresh and the API: each token is bound to its key, and no proof is sent twice."""
    with DPoPTestServer(nonces=discipline) as server:
        for secret in (server.client_secret, None):
            server.reset()
            got = application(
                library=library,
                issuer=server.issuer,
                resource=server.resource,
                alg="ES256",
                client_id=server.client_id if secret else server.public_client_id,
                client_secret=secret,
            )
            assert "error" not in got, (got, server.refusals)
            grants = ["client_credentials", "code", "refresh"] if secret else ["code", "refresh"]
            for grant in grants:
                assert got[grant]["token_type"].lower() == "dpop"
                assert got[grant]["api"]["jkt"] == got["jkt"]
            # They keep one nonce for each origin, and here the API is at the AS's: its nonce is then unknown.
            reasons = {refusal.reason for refusal in server.refusals}
            assert reasons == (set() if discipline == "none" else {"nonce_missing", "nonce_unknown"})
            proofs = [field for request in server.requests for name, field in request.headers if name.lower() == "dpop"]
            assert len(proofs) == len(set(proofs)) == server.stats.proofs


@pytest.mark.parametrize("alg", ["ES256", "Ed25519", "PS256"])
@pytest.mark.parametrize("library", ["oauth4webapi", "openid-client"])
def test_its_flows_complete_in_each_algorithm(application: Program, library: str, alg: str) -> None:
    """Every algorithm that the server's metadata lists."""
    with DPoPTestServer(nonces="rotating") as server:
        got = application(
            library=library,
            issuer=server.issuer,
            resource=server.resource,
            alg=alg,
            client_id=server.client_id,
            client_secret=server.client_secret,
        )
        assert "error" not in got, (got, server.refusals)
        assert got["refresh"]["api"]["jkt"] == got["jkt"]


@pytest.mark.parametrize("library", list(CAN)[1:])
def test_an_algorithm_that_is_not_allowed_is_named(mint: Program, library: str) -> None:
    """A proof in another algorithm is refused with the list of those that are taken."""
    made = mint(library=library, alg="ES384", method="GET", url="https://a.example/", nonce=None, access_token=None)
    with pytest.raises(InvalidProof) as refused:
        ProofVerifier(replay=MemoryReplayCache()).verify_token_request(
            [("DPoP", made["proof"])], "GET", "https://a.example/"
        )
    assert refused.value.reason == "alg_refused"
    assert refused.value.expected == "ES256 or Ed25519 or EdDSA or PS256 or RS256"
