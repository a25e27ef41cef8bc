# SPDX-License-Identifier: Apache-2.0
"""Refused tokens: handed on, or renewed by a token source once."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from support.clients import BODY, TOKEN, assert_fresh
from support.recorder import Handler, Received, Recorder, Response, script
from support.token_source import Source

import dpop

# -- refused tokens ----------------------------------------------------------------------------


@pytest.mark.parametrize("nonce", [[], [("DPoP-Nonce", "n1")]])
def test_an_invalid_token_is_handed_on(client: Callable[..., Any], nonce: list[tuple[str, str]]) -> None:
    """401 invalid_token: one request, the answer untouched, its nonce kept."""
    refusal = Response(401, [("WWW-Authenticate", 'DPoP error="invalid_token"'), *nonce], b"why not")
    with Recorder(script(refusal)) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        reply = one.send("GET", server.url("/r"))
        assert (reply.status, reply.body, len(server.requests)) == (401, b"why not", 1)
        one.send("GET", server.url("/r"))
        assert server.requests[1].nonce == ("n1" if nonce else None)


def test_an_invalid_grant_is_handed_on(client: Callable[..., Any]) -> None:
    """400 invalid_grant with a nonce: one request, the body untouched, the nonce kept."""
    refusal = Response(400, [("DPoP-Nonce", "n1")], b'{"error":"invalid_grant"}')
    with Recorder(script(refusal)) as server:
        one = client(origins=server.origin)
        reply = one.send("POST", server.url("/token"), body=one.form_body({"a": "b"}))
        assert (reply.status, json.loads(reply.body), len(server.requests)) == (400, {"error": "invalid_grant"}, 1)
        one.send("POST", server.url("/token"), body=one.form_body({"a": "b"}))
        assert server.requests[1].nonce == "n1"


def test_a_source_refreshes_once(client: Callable[..., Any]) -> None:
    """invalid_token with a token source: told once, sent once more, then handed on."""
    refusal = Response(401, [("WWW-Authenticate", 'DPoP error="invalid_token"')])
    with Recorder(script(refusal)) as server:
        source = Source()
        one = client(origins=server.origin, access_token=source)
        assert one.send("POST", server.url("/r"), body=one.bytes_body(BODY)).status == 401
        assert source.told == ["token-1"]
        first, second = server.requests
        assert [r.one("Authorization") for r in (first, second)] == ["DPoP token-1", "DPoP token-2"]
        assert second.claims["ath"] == dpop.access_token_hash("token-2")
        assert second.body == BODY


# -- a dead token in each form -----------------------------------------------------------------


DEAD = {
    "DPoP invalid_token": ['DPoP error="invalid_token"'],
    "Bearer invalid_token": ['Bearer realm="x", error="invalid_token"'],
    "both": ['DPoP algs="ES256", Bearer error="invalid_token"'],
    "both, two fields": ['DPoP algs="ES256"', 'Bearer error="invalid_token"'],
    "DPoP without an error": ['DPoP algs="ES256"'],
    "Bearer without an error": ["Bearer"],
    "no challenge": [],
}
NOT_DEAD = {
    "Basic": ['Basic realm="login"'],
    "Basic beside DPoP": ['DPoP algs="ES256", Basic realm="login"'],
    "another scheme": ["Negotiate"],
    "another error": ['DPoP error="invalid_request"'],
    "another error of DPoP beside Bearer": ['DPoP error="insufficient_scope", Bearer error="invalid_token"'],
    "outside the grammar": ['DPoP error="invalid_token'],
}


def refusing(fields: list[str], good: str = "token-2") -> Handler:
    """A resource server that takes only this token."""

    def handler(request: Received) -> Response:
        if request.one("Authorization") == f"DPoP {good}":
            return Response(200)
        return Response(401, [("WWW-Authenticate", field) for field in fields])

    return handler


@pytest.mark.parametrize("form", DEAD)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
def test_a_dead_token_is_renewed(
    client: Callable[..., Any], form: str, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """However the server says so: the source is told once, the request sent again, and a warning says what happened."""
    with Recorder(refusing(DEAD[form])) as server:
        source = Source()
        one = client(origins=server.origin, access_token=source)
        body = one.bytes_body(BODY) if method == "PUT" else None
        assert one.send(method, server.url("/r"), body=body).status == 200
        assert source.told == ["token-1"]
        assert [r.one("Authorization") for r in server.requests] == ["DPoP token-1", "DPoP token-2"]
        assert [r.body for r in server.requests] == [BODY if method == "PUT" else b""] * 2
        assert_fresh(server.requests)
    assert "refused the access token" in caplog.text
    assert "token-1" not in caplog.text


@pytest.mark.parametrize("form", [form for form in DEAD if form != "DPoP invalid_token"])
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_a_dead_token_is_renewed_for_the_next_request(client: Callable[..., Any], form: str, method: str) -> None:
    """A POST is not sent again where the server does not say that it refused the token in this scheme."""
    with Recorder(refusing(DEAD[form])) as server:
        source = Source()
        one = client(origins=server.origin, access_token=source)
        assert one.send(method, server.url("/r"), body=one.bytes_body(BODY)).status == 401
        assert (source.told, len(server.requests)) == (["token-1"], 1)
        assert one.send(method, server.url("/r"), body=one.bytes_body(BODY)).status == 200


@pytest.mark.parametrize("form", NOT_DEAD)
def test_a_401_that_is_not_about_the_token(client: Callable[..., Any], form: str) -> None:
    """A login wall, a firewall, another error: one request, and the source is not told."""
    with Recorder(refusing(NOT_DEAD[form])) as server:
        source = Source()
        assert client(origins=server.origin, access_token=source).send("GET", server.url("/r")).status == 401
        assert (source.told, len(server.requests)) == ([], 1)


def test_renewing_can_be_turned_off(client: Callable[..., Any]) -> None:
    """renew_refused=False: one request, whatever the server says."""
    with Recorder(refusing(DEAD["DPoP invalid_token"])) as server:
        source = Source()
        one = client(origins=server.origin, access_token=source, renew_refused=False)
        assert one.send("GET", server.url("/r")).status == 401
        assert (source.told, len(server.requests)) == ([], 1)


class Stubborn(Source):
    """A token source that has no other token."""

    def refused(self, token: str, /) -> None:
        self.told.append(token)


def test_a_source_is_told_of_a_token_once(client: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    """It goes on giving the token: one request for each call after the first, and one line."""
    with Recorder(refusing(DEAD["no challenge"])) as server:
        source = Stubborn()
        one = client(origins=server.origin, access_token=source)
        assert [one.send("GET", server.url("/r")).status for _ in range(5)] == [401] * 5
        assert source.told == ["token-1"]
        assert len(server.requests) == 6
    assert caplog.text.count("goes on refusing") == 1
    assert "the source still gives the token that was refused" in caplog.text


def test_a_storm_of_refusals_is_damped(client: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    """An API that refuses every fresh token: after five a minute, one request for each call, and one line."""
    with Recorder(refusing(DEAD["Bearer invalid_token"], good="none")) as server:
        source = Source()
        one = client(origins=server.origin, access_token=source)
        assert [one.send("GET", server.url("/r")).status for _ in range(12)] == [401] * 12
        assert source.told == [f"token-{number}" for number in range(1, 6)]
        assert len(server.requests) == 12 + 5
    assert caplog.text.count("goes on refusing") == 1
    assert "five tokens within a minute" in caplog.text


def test_one_origin_does_not_spend_the_budget_of_another(client: Callable[..., Any]) -> None:
    """After a bad origin has used up its five, a token that another origin refuses is renewed all the same."""
    with (
        Recorder(refusing(DEAD["no challenge"], good="none")) as bad,
        Recorder(refusing(DEAD["both"], good="token-7")) as other,
    ):
        source = Source()
        one = client(origins=[bad.origin, other.origin], access_token=source)
        for _ in range(8):
            one.send("GET", bad.url("/r"))
        assert source.token == 6
        assert one.send("GET", other.url("/r")).status == 200
