# SPDX-License-Identifier: Apache-2.0
"""The mode ``google``: a token endpoint as Google's guides describe it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import pytest
from support.testing_client import KEY, OTHER_KEY, Response, ask, call, post, reasons, send

import dpop
from dpop.testing import DPoPTestServer


@pytest.fixture
def server() -> Iterator[DPoPTestServer]:
    """A server of Google's kind, with its defaults."""
    with DPoPTestServer(mode="google") as running:
        yield running


def redeem(server: DPoPTestServer, code: str, **options: Any) -> Response:
    """A code exchange with the jti Google wants."""
    form = {"grant_type": "authorization_code", "code": code}
    return post(server, server.token_endpoint, form, **{"jti": dpop.code_jti(code), **options})


def refresh(server: DPoPTestServer, token: str, **options: Any) -> Response:
    """A refresh."""
    return post(server, server.token_endpoint, {"grant_type": "refresh_token", "refresh_token": token}, **options)


def test_a_whole_flow_works(server: DPoPTestServer) -> None:
    """Exchange without nonce, refresh with the nonce of the 200, API calls with a bearer token."""
    response = redeem(server, server.issue_code())
    tokens = response.json
    assert (response.status, tokens["token_type"]) == (200, "Bearer")
    assert response.nonce is not None
    again = refresh(server, tokens["refresh_token"], nonce=response.nonce)
    assert (again.status, again.json["token_type"]) == (200, "Bearer")
    assert again.nonce not in {None, response.nonce}
    assert "refresh_token" not in again.json
    headers = [("Authorization", f"Bearer {again.json['access_token']}")]
    assert send("GET", server.resource, headers).json["scheme"] == "Bearer"
    assert (server.stats.challenges, reasons(server)) == (0, [])


def test_the_jti_of_an_exchange_is_the_hash_of_the_code(server: DPoPTestServer) -> None:
    """A random jti is refused, and the hash of the form-encoded code; the code stays good."""
    code = server.issue_code()
    assert "/" in code
    for wrong in (None, dpop.code_jti(quote(code, safe=""))):
        response = redeem(server, code, jti=wrong)
        assert (response.status, response.json["error"]) == (400, "invalid_dpop_proof")
    assert reasons(server) == ["code_jti_mismatch"] * 2
    assert redeem(server, code).status == 200


def test_the_jti_is_the_same_on_a_nonce_retry(server: DPoPTestServer) -> None:
    """With exchange_needs_nonce the first try is challenged, and the second has the same jti."""
    server.levers.exchange_needs_nonce = True
    code = server.issue_code()
    refused = redeem(server, code)
    assert (refused.status, refused.json["error"]) == (400, "use_dpop_nonce")
    assert redeem(server, code, nonce=refused.nonce).status == 200
    assert server.stats.repeated_jti == 1


def test_a_bad_nonce_is_refused_even_where_none_is_needed(server: DPoPTestServer) -> None:
    """A nonce is optional at the exchange, a wrong one is not."""
    code = server.issue_code()
    refused = redeem(server, code, nonce="made-up")
    assert refused.json["error"] == "use_dpop_nonce"
    assert redeem(server, code, nonce=refused.nonce).status == 200


def test_an_exchange_with_a_proof_nobody_can_read(server: DPoPTestServer) -> None:
    """To see whether there is a nonce the proof is read; garbage is refused as it is elsewhere."""
    body = f"grant_type=authorization_code&code=x&client_id={server.client_id}"
    body += f"&client_secret={server.client_secret}"
    headers = [("Content-Type", "application/x-www-form-urlencoded"), ("DPoP", "garbage")]
    response = send("POST", server.token_endpoint, headers, body.encode())
    assert (response.json["error"], reasons(server)) == ("invalid_dpop_proof", ["not_compact"])
    twice = send("POST", server.token_endpoint, [*headers, headers[-1]], body.encode())
    assert (twice.json["error"], reasons(server)[1:]) == ("invalid_dpop_proof", ["proof_repeated"])


def test_a_refresh_needs_a_nonce(server: DPoPTestServer) -> None:
    """Without one it is challenged, and nothing is used up."""
    token = server.issue_refresh_token(jkt=KEY.thumbprint)
    refused = refresh(server, token)
    assert (refused.status, refused.json["error"]) == (400, "use_dpop_nonce")
    assert refresh(server, token, nonce=refused.nonce).status == 200


def test_nonces_are_single_use(server: DPoPTestServer) -> None:
    """Of two refreshes with one nonce the loser is challenged, and wins with the new one."""
    token = server.issue_refresh_token(jkt=KEY.thumbprint)
    nonce = refresh(server, token).nonce
    together = threading.Barrier(2)
    responses: list[Response] = []

    def run() -> None:
        together.wait(60)
        responses.append(refresh(server, token, nonce=nonce))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winner, loser = sorted(responses, key=lambda response: response.status)
    assert (winner.status, loser.status, loser.json["error"]) == (200, 400, "use_dpop_nonce")
    assert refresh(server, token, nonce=loser.nonce).status == 200


def test_a_nonce_of_the_exchange_may_be_refused_at_refresh(server: DPoPTestServer) -> None:
    """With isolate_exchange_nonces the first refresh is challenged once."""
    server.levers.isolate_exchange_nonces = True
    response = redeem(server, server.issue_code())
    refused = refresh(server, response.json["refresh_token"], nonce=response.nonce)
    assert refused.json["error"] == "use_dpop_nonce"
    assert refresh(server, response.json["refresh_token"], nonce=refused.nonce).status == 200
    assert reasons(server) == ["nonce_unknown"]


def test_only_the_refresh_token_is_bound(server: DPoPTestServer) -> None:
    """Also for this confidential client; another key or no proof is invalid_grant."""
    response = redeem(server, server.issue_code())
    token = response.json["refresh_token"]
    other = refresh(server, token, key=OTHER_KEY, nonce=response.nonce)
    assert (other.status, other.json["error"]) == (400, "invalid_grant")
    assert refresh(server, token, key=None).json["error"] == "invalid_grant"
    told = post(server, server.introspection_endpoint, {"token": response.json["access_token"]}, key=None).json
    assert (told["token_type"], "cnf" in told) == ("Bearer", False)


def test_bad_proofs_are_invalid_dpop_proof(server: DPoPTestServer) -> None:
    """Method, URL, time, signature; and the refresh's jti is fresh."""
    token = server.issue_refresh_token(jkt=KEY.thumbprint)
    nonce = refresh(server, token).nonce
    late = refresh(server, token, nonce=nonce, iat=1_000_000_000)
    assert (late.status, late.json["error"]) == (400, "invalid_dpop_proof")
    first = refresh(server, token, nonce=nonce, jti="same")
    assert first.status == 200
    assert refresh(server, token, nonce=first.nonce, jti="same").json["error"] == "invalid_dpop_proof"
    assert reasons(server) == ["nonce_missing", "iat_too_old", "replayed"]


def test_codes_that_are_none_are_invalid_grant(server: DPoPTestServer) -> None:
    """Unknown, used or missing codes, with the jti that fits them."""
    code = server.issue_code()
    assert redeem(server, code).status == 200
    assert redeem(server, code, key=OTHER_KEY).json["error"] == "invalid_grant"
    assert redeem(server, "4/unknown").json["error"] == "invalid_grant"
    missing = post(server, server.token_endpoint, {"grant_type": "authorization_code"})
    assert missing.json["error"] == "invalid_grant"
    assert reasons(server) == ["code_reused", "code_unknown", "code_unknown"]


def test_the_client_secret_is_required(server: DPoPTestServer) -> None:
    """There is no public client here."""
    response = ask(server, {"grant_type": "authorization_code", "code": server.issue_code()}, public=True)
    assert (response.status, response.json["error"]) == (401, "invalid_client")


def test_the_user_may_grant_less(server: DPoPTestServer) -> None:
    """With granted_scope the token has fewer scopes than were asked for."""
    server.levers.granted_scope = "b"
    asked = {
        "response_type": "code",
        "client_id": server.client_id,
        "redirect_uri": "http://x/",
        "scope": "a b",
    }
    location = send("GET", f"{server.authorization_endpoint}?{urlencode(asked)}").field("Location") or ""
    code = parse_qs(urlsplit(location).query)["code"][0]
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": "http://x/"}
    assert post(server, server.token_endpoint, form, jti=dpop.code_jti(code)).json["scope"] == "b"


def test_time_based_access(server: DPoPTestServer) -> None:
    """refresh_token_expires_in appears when it is set."""
    plain = redeem(server, server.issue_code(scope="a b")).json
    assert "refresh_token_expires_in" not in plain
    server.levers.refresh_token_expires_in = 3600
    assert redeem(server, server.issue_code()).json["refresh_token_expires_in"] in {3599, 3600}


def test_without_proof_nothing_is_bound_if_that_is_allowed(server: DPoPTestServer) -> None:
    """require_proof off: an ordinary exchange, an ordinary refresh token."""
    form = {"grant_type": "authorization_code", "code": server.issue_code()}
    refused = post(server, server.token_endpoint, form, key=None)
    assert refused.json["error"] == "invalid_dpop_proof"
    server.levers.require_proof = False
    tokens = post(server, server.token_endpoint, form, key=None).json
    assert refresh(server, tokens["refresh_token"], key=None).status == 200


def test_the_api_knows_bearer_tokens_only(server: DPoPTestServer) -> None:
    """Its challenges have no DPoP, and a token sent as DPoP is refused."""
    token = server.issue_access_token()
    assert send("GET", server.resource).challenge.startswith("Bearer")
    assert "DPoP" not in send("GET", server.resource).challenge
    response = call(server, token)
    assert (response.status, "DPoP" in response.challenge) == (401, False)
    twice = [("Authorization", f"Bearer {token}")] * 2
    assert send("GET", server.resource, twice).status == 400
    metadata = send("GET", server.issuer + "/.well-known/oauth-protected-resource").json
    assert "dpop_signing_alg_values_supported" not in metadata


def test_nonces_may_be_of_another_discipline() -> None:
    """nonces= sets the token endpoint's; the API has none."""
    with DPoPTestServer(mode="google", nonces="rotating") as server:
        assert (server.levers.as_nonces, server.levers.rs_nonces) == ("rotating", "none")
        nonce = refresh(server, server.issue_refresh_token()).nonce
        for _ in range(2):
            response = refresh(server, server.issue_refresh_token(), nonce=nonce)
            assert (response.status, response.nonce) == (200, nonce)
    with DPoPTestServer(mode="google", nonces="none") as server:
        response = refresh(server, server.issue_refresh_token())
        assert (response.status, response.nonce) == (200, None)
