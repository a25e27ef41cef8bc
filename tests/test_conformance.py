# SPDX-License-Identifier: Apache-2.0
"""What the OpenID Foundation's suite for FAPI 2.0 asks of a resource server, an AS and a client, as tables.

Its tests are named in the rows by what they do; the words and the code are this project's own.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from support.clients import CLIENTS, make
from support.recorder import Received, Recorder
from support.recorder import Response as Reply
from support.testing_client import KEY, OTHER_KEY, Response, ask, post, send

import dpop
import dpop.requests
from dpop.client._prover import Prover
from dpop.errors import TokenRequestError
from dpop.testing import DPoPTestServer
from dpop.testing.defects import defective_fields
from dpop.tokens import ServerMetadata

FAPI_ALGS = ["PS256", "ES256", "Ed25519", "EdDSA"]
RSA = dpop.generate_key("RS256")


def fapi_server(**settings: Any) -> DPoPTestServer:
    """A server with the algorithms of FAPI 2.0, without nonces unless asked for."""
    return DPoPTestServer(algs=FAPI_ALGS, **{"nonces": "none", **settings})


def call(server: DPoPTestServer, defect: str | None, key: dpop.Key = KEY, **options: Any) -> Response:
    """A GET of the resource with a token of its own; ``scheme`` and ``proofs`` are the request's."""
    token = server.issue_access_token(jkt=options.pop("bound_to", key).thumbprint)
    scheme, proofs = options.pop("scheme", "DPoP"), options.pop("proofs", None)
    if proofs is None and defect is None:
        proofs = [("DPoP", dpop.create_proof(key, "GET", server.resource, access_token=token, **options))]
    elif proofs is None:
        proofs = defective_fields(defect or "", key, "GET", server.resource, access_token=token, **options)
    return send("GET", server.resource, [*proofs, ("Authorization", f"{scheme} {token}")])


# --- a resource server: what it must accept


@pytest.mark.parametrize(
    "defect",
    [
        "ok-header-name-case",
        "ok-htu-query-fragment",
        "ok-extra-members",
        "ok-exp-future",
        "ok-iat-future-10",
        # A warning there, not a failure:
        "ok-htu-case-port",
    ],
)
def test_the_resource_server_accepts(defect: str) -> None:
    """The name of the header in capitals, htu with query and fragment, more members, iat 10 s ahead."""
    with fapi_server() as server:
        assert call(server, defect).status == 200, server.refusals


@pytest.mark.parametrize("scheme", ["DPoP", "dpop", "DPOP"])
def test_the_scheme_has_no_case(scheme: str) -> None:
    """RFC 9110 §11.1."""
    with fapi_server() as server:
        assert call(server, None, scheme=scheme).status == 200


# --- a resource server: what it must refuse

# What the suite sends, and the reason that must be found. It takes 400 and 401 for an answer.
NEGATIVE = {
    "two DPoP headers": ("two-headers-different", "proof_repeated"),
    "the same header twice": ("two-headers-same", "proof_repeated"),
    "a JWT of two parts": ("two-segments", "not_compact"),
    "no typ": ("typ-missing", "typ_mismatch"),
    "another typ": ("typ-jwt", "typ_mismatch"),
    "no alg": ("alg-missing", "alg_refused"),
    "alg none": ("alg-none", "not_compact"),
    "alg none and a signature": ("alg-none-with-signature", "alg_refused"),
    "no jwk": ("jwk-missing", "jwk_missing"),
    "a private jwk": ("jwk-private-d", "jwk_private"),
    "no jti": ("jti-missing", "jti_missing"),
    "no htm": ("htm-missing", "htm_missing"),
    "no htu": ("htu-missing", "htu_missing"),
    "no iat": ("iat-missing", "iat_missing"),
    "no ath": ("ath-missing", "ath_missing"),
    "another signature": ("sig-flipped-bit", "signature_invalid"),
    "another key's signature": ("jwk-second-key-signs", "signature_invalid"),
    "htm PUT": ("htm-other", "htm_mismatch"),
    "another htu": ("htu-other-path", "htu_mismatch"),
    "iat an hour ago": ("iat-stale-3600", "iat_too_old"),
    "iat in an hour": ("iat-future-3600", "iat_in_future"),
    "iat more than 60 s ahead": ("iat-future-61", "iat_in_future"),
    "another token's ath": ("ath-other-token", "ath_mismatch"),
    "another key": ("cnf-other-key", "key_mismatch"),
    "no proof": ("no-header", "proof_missing"),
}


@pytest.mark.parametrize("row", NEGATIVE)
def test_the_resource_server_refuses(row: str) -> None:
    """401 with a DPoP challenge that lists the algorithms, for the reason of the row and no other."""
    defect, reason = NEGATIVE[row]
    with fapi_server() as server:
        response = call(server, defect)
        assert (response.status, [refusal.reason for refusal in server.refusals]) == (401, [reason])
        assert re.search(r'DPoP .*error="(invalid_dpop_proof|invalid_token)"', response.challenge)
        assert f'algs="{" ".join(FAPI_ALGS)}"' in response.challenge


def test_rs256_is_not_in_the_profile() -> None:
    """RS256 is refused, PS256 by the same key is not; 2048 bits are the least an RSA key may have."""
    with fapi_server() as server:
        assert call(server, None, RSA).status == 401
        assert server.refusals[-1].reason == "alg_refused"
        assert call(server, None, RSA.with_alg("PS256")).status == 200
        assert call(server, "jwk-rsa-1024").status == 401


def test_a_bound_token_as_bearer() -> None:
    """With and without a proof."""
    with fapi_server() as server:
        assert call(server, None, scheme="Bearer").status == 401
        assert call(server, None, scheme="Bearer", proofs=[]).status == 401
        assert {refusal.reason for refusal in server.refusals} == {"bound_token_as_bearer"}


def test_a_proof_is_accepted_once() -> None:
    """A warning there, a refusal here."""
    with fapi_server() as server:
        token = server.issue_access_token(jkt=KEY.thumbprint)
        proof = dpop.create_proof(KEY, "GET", server.resource, access_token=token)
        fields = [("DPoP", proof), ("Authorization", f"DPoP {token}")]
        assert [send("GET", server.resource, fields).status for _ in range(2)] == [200, 401]
        assert server.refusals[-1].reason == "replayed"


@pytest.mark.parametrize("skew", [-3600, 3600])
def test_with_nonces_too_a_wrong_clock_is_refused(skew: int) -> None:
    """The suite asks it of servers without nonces; here a nonce that tells no time changes nothing."""
    with fapi_server(nonces="rotating") as server:
        asked = call(server, None)
        assert asked.nonce is not None
        assert call(server, None, nonce=asked.nonce, iat=int(time.time()) + skew).status == 401
        assert server.refusals[-1].reason in {"iat_too_old", "iat_in_future"}


# --- an authorization server


def test_another_key_than_that_of_the_code_or_of_par() -> None:
    """invalid_grant for a code bound by dpop_jkt, invalid_dpop_proof for PAR with two keys, as the suite lets it be."""
    with fapi_server() as server:
        code = server.issue_code(jkt=KEY.thumbprint)
        response = ask(server, {"grant_type": "authorization_code", "code": code}, key=OTHER_KEY)
        assert (response.status, response.json["error"]) == (400, "invalid_grant")
        form = {"response_type": "code", "redirect_uri": "https://c.example/", "dpop_jkt": KEY.thumbprint}
        response = post(server, server.par_endpoint, form, key=OTHER_KEY)
        assert (response.status, response.json["error"]) == (400, "invalid_dpop_proof")


@pytest.mark.parametrize("how", ["dpop_jkt", "proof", "both"])
def test_both_ways_to_bind_a_code(how: str) -> None:
    """By the parameter and by a proof at PAR: the code is worth something to that key only."""
    with fapi_server(require_pkce=False) as server:
        form = {"response_type": "code", "redirect_uri": "https://c.example/"}
        form |= {} if how == "proof" else {"dpop_jkt": KEY.thumbprint}
        pushed = post(server, server.par_endpoint, form, key=None if how == "dpop_jkt" else KEY)
        assert pushed.status == 201
        where = f"{server.authorization_endpoint}?client_id={server.client_id}&request_uri={pushed.json['request_uri']}"
        location = send("GET", where).field("Location")
        assert location is not None
        (code,) = parse_qs(urlsplit(location).query)["code"]
        redeem = {"grant_type": "authorization_code", "code": code, "redirect_uri": "https://c.example/"}
        assert ask(server, redeem, key=OTHER_KEY).json["error"] == "invalid_grant"
        assert ask(server, redeem, key=KEY).status == 200


# --- a client: the suite is the server, and compares letter by letter


@pytest.mark.parametrize("name", sorted(CLIENTS))
def test_what_the_suite_asks_of_a_client(name: str) -> None:
    """htu by exact string, no ath at the AS, no jti twice, a nonce as it was given, a scheme in lower case."""
    used: set[str] = set()
    nonce = "!#$%&'()*+,-./:;<=>?@[]^_`{|}~"  # every mark that a nonce may have

    def suite(request: Received) -> Reply:
        claims = request.claims
        assert claims["htm"] == request.method
        assert claims["htu"] == f"http://{request.one('Host')}{request.target}".partition("?")[0]
        assert claims["jti"] not in used
        used.add(claims["jti"])
        assert type(claims["iat"]) is int
        assert abs(claims["iat"] - time.time()) < 60
        if request.target.startswith("/token"):
            assert "ath" not in claims
            assert request.all("Authorization") == []
            if "nonce" not in claims:
                fields = [("DPoP-Nonce", nonce), ("Content-Type", "application/json")]
                return Reply(400, fields, b'{"error":"use_dpop_nonce"}')
        else:
            assert claims["ath"] == dpop.access_token_hash("to.ken")
            assert request.one("Authorization") == "DPoP to.ken"
            if "nonce" not in claims:
                return Reply(401, [("WWW-Authenticate", 'dpop error="use_dpop_nonce"'), ("DPoP-Nonce", nonce)])
        assert claims["nonce"] == nonce
        return Reply(200, [("DPoP-Nonce", nonce)])

    with Recorder(suite) as server:
        with make(name, Prover(KEY), origins=server.origin) as client:
            for _ in range(2):
                assert client.send("POST", server.url("/token"), body=client.form_body({"a": "b"})).status == 200
        with make(name, Prover(KEY), origins=server.origin, access_token="to.ken") as client:
            for target in ["/accounts", "/accounts?page=2", "/a%2Fb/~c;v=1?x"]:
                assert client.send("GET", server.url(target)).status == 200
        assert len(server.requests) == 2 + 1 + 3 + 1


@pytest.mark.parametrize("error", ["invalid_request", "invalid_grant", "invalid_dpop_proof"])
@pytest.mark.parametrize("pushed", [False, True], ids=["code", "PAR"])
def test_every_name_for_another_key_is_one_family_of_errors(error: str, pushed: bool) -> None:
    """The suite, and servers, say each of three things when the key is not that of the code or of dpop_jkt."""
    body = json.dumps({"error": error}).encode()
    with Recorder(lambda _: Reply(400, [("Content-Type", "application/json")], body)) as server:
        metadata = ServerMetadata(
            token_endpoint=server.url("/token"),
            authorization_endpoint=server.url("/authorize"),
            pushed_authorization_request_endpoint=server.url("/par"),
        )
        with contextlib.closing(dpop.requests.TokenEndpoint(KEY, metadata, client_id="c")) as endpoint:
            with pytest.raises(TokenRequestError) as caught:
                if pushed:
                    endpoint.start_authorization("https://c.example/", push=True)
                else:
                    endpoint.redeem_code("code", redirect_uri="https://c.example/")
        assert caught.value.error == error
        assert len(server.requests) == 1
