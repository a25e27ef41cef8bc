# SPDX-License-Identifier: Apache-2.0
"""Refusals of a token endpoint whose body is no JSON object, or not quite: the error code in them is understood."""

from __future__ import annotations

import json

import pytest
from support.endpoints import ENDPOINTS, Endpoint
from support.recorder import Recorder, Response, script

import dpop
from dpop.client._forgiving import error_in_pieces
from dpop.errors import ReauthorizationError
from dpop.tokens import MemoryTokenStore, TokenSet

KEY = dpop.generate_key()
TAKEN = Response(200, [], b'{"access_token":"a","token_type":"DPoP"}')
NONCE = ("DPoP-Nonce", "n1")

SPELLINGS = {
    "cut off": b'{"error":"CODE","error_descr',
    "a comma too many": b'{"error":"CODE",}',
    "single quotes": b"{'error': 'CODE'}",
    "a hash of Ruby": b'{"error"=>"CODE"}',
    "XML": b"<OAuth><error>CODE</error><error_description>expired</error_description></OAuth>",
    "an array of two": b'[{"error":"CODE"},{"took":3}]',
    "JSON in a string": json.dumps({"statusCode": 400, "body": '{"error":"CODE"}'}).encode(),
    "a page around it": b'<html><pre>{"error": "CODE"}</pre></html>',
    "upper case": b'{"errorCode":"UPPER",}',
}


def spelt(name: str, code: str) -> bytes:
    """The body of a refusal with this code."""
    return SPELLINGS[name].replace(b"CODE", code.encode()).replace(b"UPPER", code.upper().encode())


@pytest.mark.parametrize("spelling", sorted(SPELLINGS.keys() - {"cut off"}))
def test_a_nonce_is_sent_however_its_refusal_is_spelt(spelling: str) -> None:
    """The request is sent again with the nonce that came."""
    refusal = Response(400, [NONCE], spelt(spelling, "use_dpop_nonce"))
    with (
        Recorder(script(refusal, TAKEN)) as server,
        Endpoint("requests", KEY, server.url("/token"), client_id="c") as endpoint,
    ):
        endpoint.refresh("r")
    assert [request.claims.get("nonce") for request in server.requests] == [None, "n1"]


@pytest.mark.parametrize("name", sorted(ENDPOINTS))
def test_a_refusal_with_a_coding_that_it_does_not_have_is_understood(name: str) -> None:
    """Some gateways leave a Content-Encoding behind, although they have decoded the body."""
    body = b'{"error":"use_dpop_nonce"}'
    refusal = Response(400, [NONCE, ("Content-Encoding", "gzip")], body)
    with (
        Recorder(script(refusal, TAKEN)) as server,
        Endpoint(name, KEY, server.url("/token"), client_id="c") as endpoint,
    ):
        endpoint.refresh("r")
    assert [request.claims.get("nonce") for request in server.requests] == [None, "n1"]


@pytest.mark.parametrize("name", sorted(ENDPOINTS))
@pytest.mark.parametrize(
    "body", [b'{"error":"invalid_grant"}', b'{"ok":false,"error":"invalid_grant"}', b"error=invalid_grant"]
)
def test_a_refusal_with_the_status_of_a_success(name: str, body: bytes) -> None:
    """Some servers say 200 to everything: an error without any token is a refusal, and the grant is dead."""
    with (
        Recorder(script(Response(200, [], body))) as server,
        Endpoint(name, KEY, server.url("/token"), client_id="c") as endpoint,
        pytest.raises(ReauthorizationError, match=r"says invalid_grant \(200\)"),
    ):
        endpoint.refresh("r")
    assert len(server.requests) == 1


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_dead_refresh_token_is_told_however_its_refusal_is_spelt(spelling: str) -> None:
    """The source says so, and sends the token only once."""
    refusal = Response(400, [], spelt(spelling, "invalid_grant"))
    store = MemoryTokenStore()
    store.save(TokenSet(access_token="old", refresh_token="r", expires_at=1))
    with (
        Recorder(script(refusal)) as server,
        Endpoint("requests", KEY, server.url("/token"), client_id="c") as endpoint,
    ):
        source = endpoint.source(store)
        for _ in range(2):
            with pytest.raises(ReauthorizationError):
                source()
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>the error was invalid_grant</html>",
        b'{"error":"invalid_grant"} or {"error":"invalid_client"}',
        b'{"errors":"invalid_grant"',
        b'{"error":"my_own_code"',
        b'{"error":"invalid_gra',
    ],
)
def test_no_code_is_guessed(body: bytes) -> None:
    """A code without its name, two codes, an unknown one, and half a code are none."""
    assert error_in_pieces(body) is None
