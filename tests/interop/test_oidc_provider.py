# SPDX-License-Identifier: Apache-2.0
"""OAuth against oidc-provider, which demands a nonce with every proof, through every HTTP client.

How often something is sent is read from what the server saw, never from what a client says.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from interop.application import AUTHENTICATION, Application, json_of
from interop.peers import OidcProvider, ask
from joserfc.jwk import ECKey
from support.clients import CLIENTS

import dpop
from dpop.client._nonces import NonceKey, Role
from dpop.client._prover import Prover
from dpop.origin import Origin

CLIENT_CREDENTIALS = {"grant_type": "client_credentials"}

Make = Callable[..., Application]


@pytest.fixture(params=sorted(CLIENTS))
def name(request: pytest.FixtureRequest) -> str:
    """Each HTTP client in turn."""
    return str(request.param)


@pytest.fixture
def app(name: str, oidc_provider: OidcProvider, assertion_key: ECKey) -> Iterator[Make]:
    """Makes applications, and closes their clients; the server's record starts empty."""
    made: list[Application] = []

    def build(kind: str = "public", **options: Any) -> Application:
        made.append(Application(name, kind, oidc_provider, assertion_key, **options))
        return made[-1]

    oidc_provider.seen()
    yield build
    for one in made:
        one.close()


def claims(proof: str | None) -> dict[str, Any]:
    """What a proof says; whether it is true is the server's to judge."""
    assert proof is not None
    said: dict[str, Any] = json.loads(base64.urlsafe_b64decode(proof.split(".")[1] + "=="))
    return said


@pytest.mark.parametrize("kind", AUTHENTICATION)
def test_a_whole_life(app: Make, oidc_provider: OidcProvider, kind: str) -> None:
    """PAR, code, userinfo and refresh: one challenge for each role of the server, and each proof is sent once."""
    one = app(kind)
    tokens = one.redeem()
    assert tokens["token_type"] == "DPoP"
    api = one.client(access_token=tokens["access_token"])
    for method in ("GET", "POST"):
        reply = api.send(method, oidc_provider["userinfo_endpoint"])
        assert (reply.status, json_of(reply)) == (200, {"sub": "alice"})
    reply = one.refresh(tokens)
    assert (reply.status, json_of(reply)["token_type"]) == (200, "DPoP")

    wire = oidc_provider.seen()
    assert [(entry.path, entry.method, entry.status) for entry in wire] == [
        ("/request", "POST", 400),
        ("/request", "POST", 201),
        ("/token", "POST", 200),
        ("/me", "GET", 401),
        ("/me", "GET", 200),
        ("/me", "POST", 200),
        ("/token", "POST", 200),
    ]
    assert {entry.error for entry in wire} == {None, "use_dpop_nonce"}
    proofs = [claims(entry.proof) for entry in wire]
    assert len({proof["jti"] for proof in proofs}) == len(proofs)
    assert [proof["htm"] for proof in proofs] == [entry.method for entry in wire]
    assert [proof["htu"] for proof in proofs] == [oidc_provider["issuer"] + entry.path for entry in wire]
    assert ["ath" in proof for proof in proofs] == [entry.path == "/me" for entry in wire]
    for entry, proof in zip(wire, proofs, strict=True):
        # The challenges had no nonce to judge; a 200 brings one only if the one it got is not the newest.
        assert ("nonce" not in proof) == (entry.status in {400, 401})
        assert entry.nonce is None or entry.nonce != proof.get("nonce")


@pytest.mark.parametrize("kind", AUTHENTICATION)
def test_refresh_tokens_rotate(app: Make, oidc_provider: OidcProvider, kind: str) -> None:
    """The new refresh token works; the old one does not, and its refusal is not tried again."""
    one = app(kind)
    tokens = one.redeem()
    fresh = json_of(one.refresh(tokens))
    assert fresh["refresh_token"] != tokens["refresh_token"]
    assert one.refresh(fresh).status == 200
    oidc_provider.seen()
    reply = one.refresh(tokens)
    assert (reply.status, json_of(reply)["error"]) == (400, "invalid_grant")
    assert oidc_provider.statuses() == [("token", 400)]


@pytest.mark.parametrize("kind", AUTHENTICATION[1:])
def test_client_credentials(app: Make, oidc_provider: OidcProvider, kind: str) -> None:
    """The first request is challenged and answered; later ones need no second try."""
    one = app(kind)
    for expected in ([("token", 400), ("token", 200)], [("token", 200)]):
        reply = one.post("token", CLIENT_CREDENTIALS)
        assert (reply.status, json_of(reply)["token_type"]) == (200, "DPoP")
        assert oidc_provider.statuses() == expected


@pytest.mark.parametrize("kind", AUTHENTICATION)
def test_introspection_and_revocation(app: Make, oidc_provider: OidcProvider, kind: str) -> None:
    """The server says the token is bound to our key; a revoked one is refused, without a second try."""
    one = app(kind)
    token = one.redeem()["access_token"]
    about = json_of(one.post("introspection", {"token": token}))
    assert (about["active"], about["token_type"]) == (True, "DPoP")
    assert about["cnf"] == {"jkt": one.prover.thumbprint}
    api = one.client(access_token=token)
    assert api.send("GET", oidc_provider["userinfo_endpoint"]).status == 200
    oidc_provider.seen()
    assert one.post("revocation", {"token": token}).status == 200
    assert api.send("GET", oidc_provider["userinfo_endpoint"]).status == 401
    assert oidc_provider.statuses() == [("revocation", 200), ("userinfo", 401)]
    assert json_of(one.post("introspection", {"token": token})) == {"active": False}


def test_one_client_for_both_roles(app: Make, oidc_provider: OidcProvider) -> None:
    """With as_endpoints= one client refreshes, without ath, and calls, with the token of the moment."""
    one = app("basic")
    tokens = one.redeem()
    oidc_provider.seen()
    endpoints = [oidc_provider["token_endpoint"], oidc_provider["introspection_endpoint"]]
    both = one.client(access_token=lambda: str(tokens["access_token"]), as_endpoints=endpoints)
    for _ in range(2):
        assert both.send("GET", oidc_provider["userinfo_endpoint"]).status == 200
        form = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
        tokens = json_of(one.post("token", form, client=both))
        assert tokens["token_type"] == "DPoP"
    wire = oidc_provider.seen()
    assert [(entry.path, entry.status) for entry in wire] == [
        ("/me", 401),
        ("/me", 200),
        ("/token", 200),
        ("/me", 200),
        ("/token", 200),
    ]
    assert ["ath" in claims(entry.proof) for entry in wire] == [entry.path == "/me" for entry in wire]


def test_one_client_for_many_users(app: Make, oidc_provider: OidcProvider) -> None:
    """Each request is signed by its own user's key and carries that user's token."""
    one = app()
    users = [(user.prover, user.redeem()["access_token"]) for user in (app(), app())]
    oidc_provider.seen()
    for user in [*users, *users]:
        assert one.http.send("GET", oidc_provider["userinfo_endpoint"], user=user).status == 200
    # Nonces are kept for each key, so each user meets one challenge.
    assert [status for _, status in oidc_provider.statuses()] == [401, 200, 401, 200, 200, 200]
    (mallory, _), (_, token) = users
    assert one.http.send("GET", oidc_provider["userinfo_endpoint"], user=(mallory, token)).status == 401
    assert oidc_provider.statuses() == [("userinfo", 401)]


def test_a_lapsed_nonce_costs_one_request(app: Make, oidc_provider: OidcProvider) -> None:
    """A nonce the server no longer takes is replaced by the one it gives, in both roles."""
    one = app()
    tokens = one.redeem()
    api = one.client(access_token=tokens["access_token"])
    assert api.send("GET", oidc_provider["userinfo_endpoint"]).status == 200
    oidc_provider.seen()
    for role in Role:
        key = NonceKey(one.prover.thumbprint, Origin.parse(oidc_provider["issuer"]), role)
        one.prover.nonces.learn(key, "of-last-week")
    assert api.send("GET", oidc_provider["userinfo_endpoint"]).status == 200
    assert one.refresh(tokens).status == 200
    wire = oidc_provider.seen()
    assert [(entry.path, entry.status) for entry in wire] == [
        ("/me", 401),
        ("/me", 200),
        ("/token", 400),
        ("/token", 200),
    ]
    assert [claims(entry.proof)["nonce"] == "of-last-week" for entry in wire] == [True, False, True, False]


def test_a_body_that_can_be_read_once(app: Make, oidc_provider: OidcProvider) -> None:
    """A streamed form is sent once and its challenge handed on; the next one has the nonce."""
    one = app("post")
    url = oidc_provider["token_endpoint"]
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    content = b"grant_type=client_credentials&client_id=post&client_secret=post-secret"
    replies = [one.http.send("POST", url, body=one.http.stream_body(content), headers=form) for _ in range(2)]
    assert [reply.status for reply in replies] == [400, 200]
    assert json_of(replies[0])["error"] == "use_dpop_nonce"
    assert oidc_provider.statuses() == [("token", 400), ("token", 200)]


def test_another_key_is_refused(app: Make, oidc_provider: OidcProvider) -> None:
    """A stolen refresh token or access token is worth nothing with another key, and is sent once."""
    one, thief = app(), app()
    tokens = one.redeem()
    thief.redeem()  # so that the thief has a nonce
    oidc_provider.seen()
    reply = thief.refresh(tokens)
    assert (reply.status, json_of(reply)["error"]) == (400, "invalid_grant")
    assert oidc_provider.statuses() == [("token", 400)]
    api = thief.client(access_token=tokens["access_token"])
    reply = api.send("GET", oidc_provider["userinfo_endpoint"])
    assert (reply.status, json_of(reply)["error"]) == (401, "invalid_token")
    assert oidc_provider.statuses() == [("userinfo", 401), ("userinfo", 401)]
    assert one.refresh(tokens).status == 200


def test_an_assertion_is_not_sent_twice(app: Make, oidc_provider: OidcProvider) -> None:
    """Without rebuild= the challenge is handed on after one request; the next call has the nonce."""
    one = app("assertion", rebuild=None)
    replies = [one.post("token", CLIENT_CREDENTIALS) for _ in range(2)]
    assert [reply.status for reply in replies] == [400, 200]
    assert json_of(replies[0])["error"] == "use_dpop_nonce"
    assert oidc_provider.statuses() == [("token", 400), ("token", 200)]


def test_a_second_try_has_an_assertion_of_its_own(app: Make, oidc_provider: OidcProvider) -> None:
    """rebuild= is asked for the second try alone, with the body of the first."""
    asked: list[bytes] = []

    def rebuild(body: bytes) -> bytes:
        asked.append(body)
        return one.rebuild(body)

    one = app("assertion", rebuild=rebuild)
    for expected in ([("token", 400), ("token", 200)], [("token", 200)]):
        assert one.post("token", CLIENT_CREDENTIALS).status == 200
        assert oidc_provider.statuses() == expected
    assert [b"client_assertion=" in body for body in asked] == [True]


@pytest.mark.parametrize(
    "alg", ["ES256", "ES384", "ES512", "Ed25519", "EdDSA", "PS256", "RS256", "PS384", "PS512", "RS384", "RS512"]
)
def test_every_algorithm(oidc_provider: OidcProvider, assertion_key: ECKey, alg: str) -> None:
    """Keys of every algorithm the server lists get tokens bound to them and can use them."""
    metadata = ask("GET", oidc_provider["issuer"] + "/.well-known/openid-configuration").json()
    listed = metadata["dpop_signing_alg_values_supported"]
    assert alg in listed
    prover = Prover(dpop.generate_key(alg))
    with Application("httpx2", "public", oidc_provider, assertion_key, prover=prover) as one:
        api = one.client(access_token=one.redeem()["access_token"], algs=listed)
        assert api.send("GET", oidc_provider["userinfo_endpoint"]).status == 200


# The server is strict: what it takes in the tests above, it takes for a reason. No client of ours takes part.


@pytest.fixture
def stranger(oidc_provider: OidcProvider, assertion_key: ECKey) -> Iterator[Application]:
    """A public application whose requests the test makes by hand."""
    with Application("requests", "public", oidc_provider, assertion_key) as one:
        yield one


def test_what_the_token_endpoint_refuses(oidc_provider: OidcProvider, stranger: Application) -> None:
    """No proof, no nonce, a made-up nonce, another key's proof, and a proof seen before."""
    url, key = oidc_provider["token_endpoint"], stranger.prover.key
    tokens = stranger.redeem()

    def refresh(proof: str | None) -> tuple[int, str | None, str | None]:
        form = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"], "client_id": "public"}
        response = ask("POST", url, data=form, headers={} if proof is None else {"DPoP": proof})
        tokens.update(response.json())
        return response.status_code, response.json().get("error"), response.headers.get("DPoP-Nonce")

    assert refresh(None) == (400, "invalid_grant", None)
    status, error, nonce = refresh(dpop.create_proof(key, "POST", url))
    assert (status, error) == (400, "use_dpop_nonce")
    assert refresh(dpop.create_proof(key, "POST", url, nonce="made-up"))[:2] == (400, "use_dpop_nonce")
    assert refresh(dpop.create_proof(dpop.generate_key(), "POST", url, nonce=nonce))[:2] == (400, "invalid_grant")
    assert refresh(dpop.create_proof(key, "GET", url, nonce=nonce))[:2] == (400, "invalid_dpop_proof")
    proof = dpop.create_proof(key, "POST", url, nonce=nonce)
    assert refresh(proof)[:2] == (200, None)
    assert refresh(proof)[:2] == (400, "invalid_grant")


def test_what_the_resource_refuses(oidc_provider: OidcProvider, stranger: Application) -> None:
    """The same, and a token presented as Bearer or with another token's hash."""
    url, key = oidc_provider["userinfo_endpoint"], stranger.prover.key
    token = str(stranger.redeem()["access_token"])

    def call(proof: str | None, scheme: str = "DPoP") -> tuple[int, str | None, str | None]:
        headers = {"Authorization": f"{scheme} {token}"} | ({} if proof is None else {"DPoP": proof})
        response = ask("GET", url, headers=headers)
        return response.status_code, response.json().get("error"), response.headers.get("DPoP-Nonce")

    def proof_of(signer: Any = key, method: str = "GET", access_token: str | None = token, **facts: Any) -> str:
        return dpop.create_proof(signer, method, url, access_token=access_token, **facts)

    assert call(None) == (400, "invalid_request", None)
    assert call(None, "Bearer") == (401, "invalid_token", None)
    status, error, nonce = call(proof_of())
    assert (status, error) == (401, "use_dpop_nonce")
    assert call(proof_of(nonce="made-up"))[:2] == (401, "use_dpop_nonce")
    assert call(proof_of(dpop.generate_key(), nonce=nonce))[:2] == (401, "invalid_token")
    assert call(proof_of(method="POST", nonce=nonce))[:2] == (401, "invalid_dpop_proof")
    assert call(proof_of(access_token=None, nonce=nonce))[:2] == (401, "invalid_dpop_proof")
    assert call(proof_of(access_token="another", nonce=nonce))[:2] == (401, "invalid_dpop_proof")
    proof = proof_of(nonce=nonce)
    assert call(proof)[:2] == (200, None)
    assert call(proof)[:2] == (401, "invalid_token")


def test_a_used_assertion_is_refused(oidc_provider: OidcProvider, assertion_key: ECKey) -> None:
    """Why there is rebuild=: after a challenge the same assertion is a replay, and the client is refused."""
    with Application("requests", "assertion", oidc_provider, assertion_key) as one:
        url, form = oidc_provider["token_endpoint"], {**CLIENT_CREDENTIALS, **one.credentials()}
        key = one.prover.key
    first = ask("POST", url, data=form, headers={"DPoP": dpop.create_proof(key, "POST", url)})
    assert (first.status_code, first.json()["error"]) == (400, "use_dpop_nonce")
    proof = dpop.create_proof(key, "POST", url, nonce=first.headers["DPoP-Nonce"])
    again = ask("POST", url, data=form, headers={"DPoP": proof})
    assert (again.status_code, again.json()["error"]) == (401, "invalid_client")
