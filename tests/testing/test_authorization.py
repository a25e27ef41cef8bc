# SPDX-License-Identifier: Apache-2.0
"""The test server's authorization server: the user's consent, pushed requests, grants, revocation."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from support.testing_client import KEY, OTHER_KEY, Response, ask, call, post, reasons, send

import dpop
from dpop.encoding import b64url_encode
from dpop.testing import DPoPTestServer

CALLBACK = "http://127.0.0.1/callback"
VERIFIER = "v" * 43
CHALLENGE = b64url_encode(hashlib.sha256(VERIFIER.encode()).digest())
PKCE = {"code_challenge": CHALLENGE, "code_challenge_method": "S256"}


@pytest.fixture
def server() -> Iterator[DPoPTestServer]:
    """A server without nonces: what they do is tested with the levers."""
    with DPoPTestServer(nonces="none") as running:
        yield running


def authorize(server: DPoPTestServer, **changes: str | None) -> Response:
    """Send the user's browser to the authorization endpoint."""
    asked: dict[str, str | None] = {
        "response_type": "code",
        "client_id": server.client_id,
        "redirect_uri": CALLBACK,
        "state": "s",
        "scope": "read write",
        **PKCE,
        **changes,
    }
    present = {name: value for name, value in asked.items() if value is not None}
    return send("GET", f"{server.authorization_endpoint}?{urlencode(present)}")


def sent_back(response: Response) -> dict[str, str]:
    """The parameters the browser was sent back with."""
    assert response.status == 302
    location = urlsplit(response.field("Location") or "")
    assert location._replace(query="").geturl() == CALLBACK
    return {name: values[0] for name, values in parse_qs(location.query).items()}


def redemption(code: str, /, **changes: str) -> dict[str, str]:
    """The form that redeems a code."""
    return {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": CALLBACK,
        "code_verifier": VERIFIER,
        **changes,
    }


def refresh(token: str, /, **changes: str) -> dict[str, str]:
    """The form that refreshes."""
    return {"grant_type": "refresh_token", "refresh_token": token, **changes}


def error(response: Response) -> tuple[int, str]:
    """Status and OAuth error."""
    return response.status, response.json["error"]


# --- from consent to resource


@pytest.mark.parametrize("public", [True, False])
def test_a_whole_flow_works(server: DPoPTestServer, public: bool) -> None:
    """Authorize, redeem, call, refresh, call: with and without a client secret."""
    client_id = server.public_client_id if public else server.client_id
    back = sent_back(authorize(server, client_id=client_id))
    assert (back["state"], back["iss"]) == ("s", server.issuer)
    tokens = ask(server, redemption(back["code"]), public=public).json
    assert tokens["token_type"] == "DPoP"
    assert (tokens["scope"], tokens["expires_in"]) == ("read write", 3600)
    assert call(server, tokens["access_token"]).json["jkt"] == KEY.thumbprint
    again = ask(server, refresh(tokens["refresh_token"]), public=public).json
    assert again["access_token"] != tokens["access_token"]
    assert "refresh_token" not in again
    assert call(server, again["access_token"]).status == 200
    assert reasons(server) == []


def test_a_pushed_request_is_used_once(server: DPoPTestServer) -> None:
    """RFC 9126: the request_uri stands for the pushed parameters, once, for the client that pushed them."""
    pushed = post(server, server.par_endpoint, {"response_type": "code", "redirect_uri": CALLBACK, **PKCE}, key=None)
    assert pushed.status == 201
    uri = pushed.json["request_uri"]
    query = {"request_uri": uri, "client_id": server.client_id}
    back = sent_back(send("GET", f"{server.authorization_endpoint}?{urlencode(query)}"))
    assert ask(server, redemption(back["code"])).status == 200
    assert error(send("GET", f"{server.authorization_endpoint}?{urlencode(query)}")) == (
        400,
        "invalid_request",
    )
    other = {"request_uri": uri, "client_id": server.public_client_id}
    assert error(send("GET", f"{server.authorization_endpoint}?{urlencode(other)}")) == (
        400,
        "invalid_request",
    )


def test_the_authorization_request_may_be_posted(server: DPoPTestServer) -> None:
    """RFC 6749 §3.1 lets a client post it."""
    form = {"response_type": "code", "client_id": server.client_id, "redirect_uri": CALLBACK, **PKCE}
    response = send(
        "POST",
        server.authorization_endpoint,
        [("Content-Type", "application/x-www-form-urlencoded")],
        urlencode(form).encode(),
    )
    assert "code" in sent_back(response)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_type": None}, "unsupported_response_type"),
        ({"code_challenge": None}, "invalid_request"),
        ({"code_challenge": "short"}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge_method": None}, "invalid_request"),
        ({"dpop_jkt": "short"}, "invalid_request"),
    ],
)
def test_a_bad_authorization_request_is_sent_back(
    server: DPoPTestServer, changes: dict[str, str | None], expected: str
) -> None:
    """What the client did wrong it is told by redirect, with state and issuer."""
    back = sent_back(authorize(server, **changes))
    assert (back["error"], back["state"], back["iss"]) == (expected, "s", server.issuer)
    assert "code" not in back


@pytest.mark.parametrize(
    "changes",
    [
        {"client_id": "nobody"},
        {"client_id": None},
        {"redirect_uri": None},
        {"redirect_uri": "/relative"},
        {"redirect_uri": "http://x/#fragment"},
        {"redirect_uri": "http://x/\r\nX: y"},
    ],
)
def test_a_browser_is_not_sent_just_anywhere(server: DPoPTestServer, changes: dict[str, str | None]) -> None:
    """Without a known client and a sound redirect_uri the browser stays here."""
    response = authorize(server, **changes)
    assert response.status in {400, 401}
    assert response.field("Location") is None


def test_a_redirect_uri_with_half_a_bracket(server: DPoPTestServer) -> None:
    """Python's parser of URLs refuses it; the server takes any, and does not fail."""
    assert authorize(server, redirect_uri="http://[/").status == 302


def test_what_the_user_grants_may_be_less(server: DPoPTestServer) -> None:
    """The lever granted_scope limits what any request gets."""
    server.levers.granted_scope = "write delete"
    back = sent_back(authorize(server))
    assert ask(server, redemption(back["code"])).json["scope"] == "write"


# --- the binding of codes


def test_dpop_jkt_binds_the_code(server: DPoPTestServer) -> None:
    """Rule 76: a code asked for with dpop_jkt is redeemed with that key only, and survives the attempt."""
    code = sent_back(authorize(server, dpop_jkt=KEY.thumbprint))["code"]
    assert error(ask(server, redemption(code), key=OTHER_KEY)) == (400, "invalid_grant")
    assert error(ask(server, redemption(code), key=None)) == (400, "invalid_grant")
    assert reasons(server) == ["key_mismatch", "proof_missing"]
    assert ask(server, redemption(code)).status == 200


def test_a_proof_at_par_binds_the_code(server: DPoPTestServer) -> None:
    """What was pushed with a proof is redeemed with that key, as if dpop_jkt had been sent."""
    pushed = post(server, server.par_endpoint, {"response_type": "code", "redirect_uri": CALLBACK, **PKCE})
    query = {"request_uri": pushed.json["request_uri"], "client_id": server.client_id}
    code = sent_back(send("GET", f"{server.authorization_endpoint}?{urlencode(query)}"))["code"]
    assert error(ask(server, redemption(code), key=None)) == (400, "invalid_grant")
    assert error(ask(server, redemption(code), key=OTHER_KEY)) == (400, "invalid_grant")
    assert ask(server, redemption(code)).status == 200


def test_dpop_jkt_and_proof_must_agree_at_par(server: DPoPTestServer) -> None:
    """Two keys in one pushed request are refused; equal ones are fine."""
    form = {"response_type": "code", "redirect_uri": CALLBACK, **PKCE}
    wrong = post(server, server.par_endpoint, {**form, "dpop_jkt": OTHER_KEY.thumbprint})
    assert error(wrong) == (400, "invalid_dpop_proof")
    assert reasons(server) == ["dpop_jkt_mismatch"]
    assert post(server, server.par_endpoint, {**form, "dpop_jkt": KEY.thumbprint}).status == 201


def test_a_proof_for_the_token_endpoint_is_not_one_for_par(server: DPoPTestServer) -> None:
    """Rule 79: htu is the URL of the PAR endpoint."""
    form = {"response_type": "code", "redirect_uri": CALLBACK, "client_id": server.public_client_id, **PKCE}
    headers = [
        ("Content-Type", "application/x-www-form-urlencoded"),
        ("DPoP", dpop.create_proof(KEY, "POST", server.token_endpoint)),
    ]
    response = send("POST", server.par_endpoint, headers, urlencode(form).encode())
    assert (error(response), reasons(server)) == ((400, "invalid_dpop_proof"), ["htu_mismatch"])


@pytest.mark.parametrize("changes", [{"request_uri": "urn:x"}, {"redirect_uri": "x"}, {"response_type": "token"}])
def test_a_bad_pushed_request_is_refused_at_once(server: DPoPTestServer, changes: dict[str, str]) -> None:
    """What would fail at the authorization endpoint fails here."""
    form = {"response_type": "code", "redirect_uri": CALLBACK, **PKCE, **changes}
    assert post(server, server.par_endpoint, form).status == 400


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"code_verifier": "w" * 43}, "code_verifier_mismatch"),
        ({"code_verifier": ""}, "code_verifier_missing"),
        ({"redirect_uri": CALLBACK + "/x"}, "redirect_uri_mismatch"),
        ({"code": "unknown"}, "code_unknown"),
        ({"code": ""}, "code_unknown"),
    ],
)
def test_a_bad_redemption_is_refused_and_costs_nothing(
    server: DPoPTestServer, changes: dict[str, str], reason: str
) -> None:
    """invalid_grant for what does not fit; the code is still good for who has everything."""
    code = sent_back(authorize(server))["code"]
    assert error(ask(server, redemption(code, **changes))) == (400, "invalid_grant")
    assert reasons(server) == [reason]
    assert ask(server, redemption(code)).status == 200


def test_another_clients_code_is_unknown(server: DPoPTestServer) -> None:
    """A code belongs to the client that asked for it."""
    code = sent_back(authorize(server))["code"]
    assert error(ask(server, redemption(code), public=True)) == (400, "invalid_grant")


def test_a_code_redeemed_twice_revokes_what_it_brought(server: DPoPTestServer) -> None:
    """RFC 6749 §4.1.2: the second use is refused and the tokens of the first are revoked."""
    code = sent_back(authorize(server))["code"]
    tokens = ask(server, redemption(code)).json
    assert error(ask(server, redemption(code))) == (400, "invalid_grant")
    assert call(server, tokens["access_token"]).status == 401
    assert error(ask(server, refresh(tokens["refresh_token"]))) == (400, "invalid_grant")
    assert reasons(server) == ["code_reused", "token_inactive", "refresh_token_unknown"]


def test_one_of_many_redeems_the_code(server: DPoPTestServer) -> None:
    """Of many simultaneous redemptions exactly one succeeds."""
    code = server.issue_code()
    form = {"grant_type": "authorization_code", "code": code}
    together = threading.Barrier(8)
    statuses: list[int] = []

    def redeem() -> None:
        together.wait(60)
        statuses.append(ask(server, form).status)

    threads = [threading.Thread(target=redeem) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] + [400] * 7


# --- refresh tokens


def test_a_bound_refresh_token_needs_its_key(server: DPoPTestServer) -> None:
    """Without proof or with another key it is refused, and stays good."""
    token = server.issue_refresh_token(jkt=KEY.thumbprint)
    assert error(ask(server, refresh(token), key=None)) == (400, "invalid_grant")
    assert error(ask(server, refresh(token), key=OTHER_KEY)) == (400, "invalid_grant")
    assert reasons(server) == ["proof_missing", "key_mismatch"]
    assert ask(server, refresh(token)).status == 200


@pytest.mark.parametrize(
    ("setting", "public", "status"), [("always", False, 400), ("public", False, 200), ("public", True, 400)]
)
def test_whose_refresh_tokens_are_bound_is_a_lever(
    server: DPoPTestServer, setting: Any, public: bool, status: int
) -> None:
    """Rule 38: a confidential client may change its key if the server binds public clients only."""
    server.levers.bind_refresh_tokens = setting
    client_id = server.public_client_id if public else server.client_id
    code = server.issue_code(client_id=client_id)
    tokens = ask(server, {"grant_type": "authorization_code", "code": code}, public=public).json
    response = ask(server, refresh(tokens["refresh_token"]), public=public, key=OTHER_KEY)
    assert response.status == status
    if status == 200:
        assert call(server, response.json["access_token"], key=OTHER_KEY).status == 200


def test_an_unbound_refresh_token_gives_a_bound_access_token(server: DPoPTestServer) -> None:
    """A proof at refresh binds the new access token to its key."""
    tokens = ask(server, refresh(server.issue_refresh_token()), key=OTHER_KEY).json
    assert tokens["token_type"] == "DPoP"
    assert call(server, tokens["access_token"], key=OTHER_KEY).status == 200


def test_another_clients_refresh_token_is_unknown(server: DPoPTestServer) -> None:
    """A refresh token belongs to its client."""
    assert error(ask(server, refresh(server.issue_refresh_token()), public=True)) == (400, "invalid_grant")


def test_a_refresh_may_narrow_the_scope_and_not_widen_it(server: DPoPTestServer) -> None:
    """RFC 6749 §6."""
    token = server.issue_refresh_token(scope="read write")
    assert ask(server, refresh(token, scope="read")).json["scope"] == "read"
    assert error(ask(server, refresh(token, scope="read admin"))) == (400, "invalid_scope")


# --- requests of no use


def test_client_credentials_are_for_who_has_some(server: DPoPTestServer) -> None:
    """A confidential client gets a token of its own, without a refresh token; a public one gets none."""
    tokens = ask(server, {"grant_type": "client_credentials", "scope": "read"}).json
    assert "refresh_token" not in tokens
    assert call(server, tokens["access_token"]).json["sub"] == server.client_id
    assert error(ask(server, {"grant_type": "client_credentials"}, public=True)) == (
        400,
        "unauthorized_client",
    )


@pytest.mark.parametrize(
    ("form", "expected"),
    [({}, "invalid_request"), ({"grant_type": "password"}, "unsupported_grant_type")],
)
def test_unknown_grants_are_refused(server: DPoPTestServer, form: dict[str, str], expected: str) -> None:
    """The grant_type is one of three."""
    assert error(ask(server, form)) == (400, expected)


def test_a_token_request_needs_a_proof(server: DPoPTestServer) -> None:
    """Rule 40, as-no-proof-required: 400 invalid_dpop_proof."""
    assert error(ask(server, {"grant_type": "client_credentials"}, key=None)) == (400, "invalid_dpop_proof")


def test_without_that_lever_a_bearer_token_is_issued(server: DPoPTestServer) -> None:
    """Without a proof the token is a bearer token, and the challenge offers Bearer first."""
    server.levers.require_proof = False
    tokens = ask(server, {"grant_type": "authorization_code", "code": server.issue_code()}, key=None).json
    assert tokens["token_type"] == "Bearer"
    headers = [("Authorization", f"Bearer {tokens['access_token']}")]
    assert send("GET", server.resource, headers).status == 200
    assert send("GET", server.resource).challenge.startswith("Bearer")
    assert ask(server, refresh(tokens["refresh_token"]), key=None).json["token_type"] == "Bearer"


def test_bad_proofs_are_refused_for_real(server: DPoPTestServer) -> None:
    """At the token endpoint too, and in the form of RFC 6749 §5.2."""
    form = {"grant_type": "client_credentials"}
    response = ask(server, form, jti="once")
    assert response.status == 200
    response = ask(server, form, jti="once")
    assert error(response) == (400, "invalid_dpop_proof")
    assert response.field("Content-Type") == "application/json"
    assert response.field("Cache-Control") == "no-store"
    assert error(ask(server, form, iat=1_000_000_000)) == (400, "invalid_dpop_proof")
    assert reasons(server) == ["replayed", "iat_too_old"]


def test_ath_is_ignored_where_no_token_is(server: DPoPTestServer) -> None:
    """RFC 9449 says nothing about ath at a token endpoint."""
    assert ask(server, {"grant_type": "client_credentials"}, access_token="x").status == 200


@pytest.mark.parametrize("basic", [True, False])
def test_a_wrong_secret_is_refused(server: DPoPTestServer, basic: bool) -> None:
    """Both ways to send the secret work with the right one, and give 401 with another."""
    form = {"grant_type": "client_credentials"}
    assert ask(server, form, basic=basic).status == 200
    response = ask(server, form, basic=basic, secret="wrong")
    assert error(response) == (401, "invalid_client")
    assert bool(response.field("WWW-Authenticate")) is basic


def test_odd_client_authentication_is_refused(server: DPoPTestServer) -> None:
    """Unknown clients, missing secrets, two methods at once, Basic that is none."""
    form = {"grant_type": "client_credentials"}
    secret = {"client_secret": server.client_secret}
    headers = [("Content-Type", "application/x-www-form-urlencoded")]
    url = server.token_endpoint

    def attempt(authorization: str | None, **fields: str) -> tuple[int, str]:
        extra = [] if authorization is None else [("Authorization", authorization)]
        return error(send("POST", url, headers + extra, urlencode({**form, **fields}).encode()))

    assert attempt(None, client_id="nobody") == (401, "invalid_client")
    assert attempt(None) == (401, "invalid_client")
    assert attempt(None, client_id=server.client_id) == (401, "invalid_client")
    assert attempt(None, client_id=server.public_client_id, client_secret="x") == (401, "invalid_client")
    assert attempt("Basic dGVzdC1jbGllbnQ6eA==", **secret) == (400, "invalid_request")
    assert attempt("Basic dGVzdC1jbGllbnQ6eA==", client_id="other") == (400, "invalid_request")
    for broken in ("Bearer x", "Basic", "Basic !", "Basic eA==", "Basic /w=="):
        assert attempt(broken) == (401, "invalid_client")


def test_a_form_is_read_strictly(server: DPoPTestServer) -> None:
    """Another content type, a parameter twice, broken UTF-8 and a form too long are refused."""
    good = b"grant_type=client_credentials"
    form = [("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")]
    for headers, body in (
        ([("Content-Type", "application/json")], good),
        ([], good),
        (form, good + b"&" + good),
        (form, b"a=%ff"),
        (form, b"&".join(b"p%d=1" % number for number in range(200))),
        (form, b"a=" + b"x" * 70_000),
    ):
        assert error(send("POST", server.token_endpoint, headers, body)) == (400, "invalid_request")


# --- revocation and introspection


def test_introspection_tells_the_binding(server: DPoPTestServer) -> None:
    """Rule 44: cnf.jkt at the top level, token_type DPoP; for clients with a secret only."""
    token = server.issue_access_token(jkt=KEY.thumbprint, sub="bob")
    told = post(server, server.introspection_endpoint, {"token": token}, key=None, basic=True).json
    assert told["active"] is True
    assert told["cnf"] == {"jkt": KEY.thumbprint}
    assert (told["token_type"], told["sub"], told["iss"]) == ("DPoP", "bob", server.issuer)
    bearer = post(server, server.introspection_endpoint, {"token": server.issue_access_token()}, key=None).json
    assert bearer["token_type"] == "Bearer"
    assert "cnf" not in bearer
    assert post(server, server.introspection_endpoint, {"token": "x"}, key=None).json == {"active": False}
    assert error(post(server, server.introspection_endpoint, {"token": token}, public=True, key=None))[0] == 401


def test_revocation_ends_tokens(server: DPoPTestServer) -> None:
    """RFC 7009: an access token alone, a refresh token with what came of it, unknown ones quietly."""
    first = ask(server, {"grant_type": "authorization_code", "code": server.issue_code()}).json
    assert post(server, server.revocation_endpoint, {"token": first["access_token"]}).status == 200
    assert call(server, first["access_token"]).status == 401
    second = ask(server, refresh(first["refresh_token"])).json
    assert call(server, second["access_token"]).status == 200
    assert post(server, server.revocation_endpoint, {"token": first["refresh_token"]}, key=None).status == 200
    assert call(server, second["access_token"]).status == 401
    assert post(server, server.revocation_endpoint, {"token": "unknown"}, key=None).status == 200


def test_nobody_revokes_another_clients_token(server: DPoPTestServer) -> None:
    """RFC 7009 §2.1."""
    token = server.issue_access_token(jkt=KEY.thumbprint)
    post(server, server.revocation_endpoint, {"token": token}, public=True)
    assert call(server, token).status == 200


def test_a_bad_proof_is_refused_even_where_none_is_needed(server: DPoPTestServer) -> None:
    """Who sends a proof to the revocation endpoint is told when it is wrong."""
    response = post(server, server.revocation_endpoint, {"token": "x"}, iat=1_000_000_000)
    assert error(response) == (400, "invalid_dpop_proof")
