# SPDX-License-Identifier: Apache-2.0
"""Challenges: which ones an adapter answers with another request, how often, and whose bodies it does not wait for."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.clients import TOKEN, assert_fresh
from support.recorder import Received, Recorder, Response, challenge, script
from support.token_source import Source

from dpop.profiles import RFC9449

# -- nonces under load -------------------------------------------------------------------------


def test_a_nonce_that_rotates_on_each_answer_costs_one_request(client: Callable[..., Any]) -> None:
    """N sequential calls on a server with a new nonce per answer cost N + 1 requests."""
    counter = itertools.count(1)
    valid = {"n0"}

    def handler(request: Received) -> Response:
        fresh = f"n{next(counter)}"
        good = request.nonce in valid
        valid.clear()
        valid.add(fresh)
        return Response(200, [("DPoP-Nonce", fresh)]) if good else challenge(fresh)

    with Recorder(handler) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        assert [one.send("GET", server.url("/r")).status for _ in range(10)] == [200] * 10
        assert len(server.requests) == 11
        assert_fresh(server.requests)


# -- challenges --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        ['Bearer realm="x"', 'DPoP error="use_dpop_nonce"'],
        ['Basic realm="a, b", dpop ERROR=use_dpop_nonce, algs="ES256"'],
        ['Negotiate YIIBhg==, DPoP algs="ES256",error="use_dpop_nonce"'],
    ],
)
def test_challenges_in_all_their_forms(client: Callable[..., Any], fields: list[str]) -> None:
    """Several in one field, several fields, any case, unquoted: one retry."""
    refusal = Response(401, [*(("WWW-Authenticate", value) for value in fields), ("DPoP-Nonce", "n1")])
    with Recorder(script(refusal, Response(200))) as server:
        assert client(origins=server.origin, access_token=TOKEN).send("GET", server.url("/r")).status == 200
        assert [request.nonce for request in server.requests] == [None, "n1"]


@pytest.mark.parametrize(
    "field",
    [
        'Basic realm="DPoP error=use_dpop_nonce"',
        'Bearer error="use_dpop_nonce"',
        'Bearer error_description="DPoP error=\\"use_dpop_nonce\\""',
        'DPoPX error="use_dpop_nonce"',
        'DPoP error="use_dpop_nonce',
    ],
)
def test_look_alikes_cause_no_retry(client: Callable[..., Any], field: str) -> None:
    """What only looks like a challenge is handed on."""
    refusal = Response(401, [("WWW-Authenticate", field), ("DPoP-Nonce", "n1")])
    with Recorder(script(refusal)) as server:
        assert client(origins=server.origin, access_token=TOKEN).send("GET", server.url("/r")).status == 401
        assert len(server.requests) == 1


def test_a_resource_challenge_with_a_json_body(client: Callable[..., Any]) -> None:
    """401 with the challenge in the header and JSON in the body: recognised."""
    with Recorder(script(challenge("n1", b'{"error":"use_dpop_nonce"}'), Response(200))) as server:
        assert client(origins=server.origin, access_token=TOKEN).send("GET", server.url("/r")).status == 200


def test_a_json_challenge_of_an_api_is_handed_on(client: Callable[..., Any]) -> None:
    """use_dpop_nonce in the body of an API, which says nothing in WWW-Authenticate: not what RFC 9449 §9 asks for."""
    with Recorder(script(Response(400, [("DPoP-Nonce", "n1")], b'{"error":"use_dpop_nonce"}'))) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        reply = one.send("POST", server.url("/r"), body=one.form_body({"a": "b"}))
        assert (reply.status, len(server.requests)) == (400, 1)


@pytest.mark.parametrize("status", [400, 401, 403])
@pytest.mark.parametrize("error", ["use_dpop_nonce", "Invalid_DPoP_Nonce", "invalid_dpop_proof"])
@pytest.mark.parametrize("where", ["API", "token endpoint, challenge", "token endpoint, body"])
def test_a_nonce_refusal_in_every_spelling(client: Callable[..., Any], status: int, error: str, where: str) -> None:
    """400, 401 or 403, three codes in any case, in a challenge or a body: sent again with the new nonce."""
    body = json.dumps({"error": error}).encode() if where == "token endpoint, body" else b""
    fields = [] if body else [("WWW-Authenticate", f'DPoP error="{error}"')]
    refusal = Response(status, [*fields, ("DPoP-Nonce", "n1")], body)
    with Recorder(script(refusal, Response(200))) as server:
        one = client(origins=server.origin, access_token=TOKEN if where == "API" else None)
        assert one.send("POST", server.url("/r"), body=one.form_body({"a": "b"})).status == 200
        first, second = server.requests
        assert (first.nonce, second.nonce) == (None, "n1")
        assert first.body == second.body
        assert_fresh(server.requests)


@pytest.mark.parametrize("error", ["use_dpop_nonce", "invalid_dpop_nonce", "invalid_dpop_proof"])
def test_a_nonce_refusal_without_a_new_nonce_is_handed_on(client: Callable[..., Any], error: str) -> None:
    """One request, and the caller gets the response untouched."""
    refusal = Response(401, [("WWW-Authenticate", f'DPoP error="{error}"')], b"why not")
    with Recorder(script(refusal)) as server:
        reply = client(origins=server.origin, access_token=TOKEN).send("GET", server.url("/r"))
        assert (reply.status, reply.body, len(server.requests)) == (401, b"why not", 1)


def test_an_endless_challenger_gets_three_requests(client: Callable[..., Any]) -> None:
    """A server that always wants another nonce: three requests, then its response."""
    counter = itertools.count()
    with Recorder(lambda request: challenge(f"n{next(counter)}")) as server:
        assert client(origins=server.origin, access_token=TOKEN).send("GET", server.url("/r")).status == 401
        assert len(server.requests) == 3
        assert_fresh(server.requests)


def test_an_endless_challenger_gets_two_requests_where_the_profile_says_so(client: Callable[..., Any]) -> None:
    """A profile that allows one nonce retry."""
    counter = itertools.count()
    with Recorder(lambda request: challenge(f"n{next(counter)}")) as server:
        one = client(origins=server.origin, access_token=TOKEN, profile=RFC9449._replace(nonce_retries=1))
        assert one.send("GET", server.url("/r")).status == 401
        assert len(server.requests) == 2


def test_challenges_and_a_dead_token_cost_four_requests(client: Callable[..., Any]) -> None:
    """Two nonce retries and one request with a new token, in whatever order they come."""
    counter = itertools.count()

    def handler(request: Received) -> Response:
        if len(server.requests) == 2:
            return Response(401, [("WWW-Authenticate", 'DPoP error="invalid_token"')])
        return challenge(f"n{next(counter)}")

    with Recorder(handler) as server:
        one = client(origins=server.origin, access_token=Source())
        assert one.send("GET", server.url("/r")).status == 401
        assert len(server.requests) == 4


def test_a_challenge_outside_the_grammar_is_told(client: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    """One request, and a warning that says where the challenge breaks RFC 9110."""
    refusal = Response(401, [("WWW-Authenticate", 'DPoP error="use_dpop_nonce'), ("DPoP-Nonce", "n1")])
    with Recorder(script(refusal)) as server:
        assert client(origins=server.origin, access_token=TOKEN).send("GET", server.url("/r")).status == 401
        assert len(server.requests) == 1
    assert "breaks RFC 9110" in caplog.text


def test_a_challenger_that_repeats_itself_gets_two_requests(client: Callable[..., Any]) -> None:
    """A server that refuses the very nonce it gave: two requests, and one for each call after."""
    with Recorder(script(challenge("same"))) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        assert [one.send("GET", server.url("/r")).status for _ in range(2)] == [401, 401]
        assert len(server.requests) == 3


# -- answers that do not end -------------------------------------------------------------------


def forever() -> Iterator[bytes]:
    """A body without an end."""
    while True:
        yield b"x" * 65536


def test_a_challenge_whose_body_never_ends(client: Callable[..., Any]) -> None:
    """The first answer is dropped after 64 KiB, and the retry goes out on another connection."""
    sent = itertools.count()

    def handler(request: Received) -> Response:
        response = challenge("n1")
        response.body = (chunk for chunk in forever() if next(sent) >= 0)
        return Response(200) if request.nonce == "n1" else response

    with Recorder(handler) as server:
        assert client(origins=server.origin, access_token=TOKEN).send("GET", server.url("/r")).status == 200
        assert len({request.connection for request in server.requests}) == 2
    assert next(sent) < 1000  # what fits into the buffers of two sockets, not what can be read in a second


def test_a_challenge_whose_body_stalls(client: Callable[..., Any]) -> None:
    """The first answer is dropped after a second of silence, whatever the caller's timeout."""
    retried = threading.Event()
    in_time: list[bool] = []

    def silence() -> Iterator[bytes]:
        yield b"x"
        in_time.append(retried.wait(60))

    def handler(request: Received) -> Response:
        if request.nonce == "n1":
            retried.set()
            return Response(200)
        return Response(401, challenge("n1").headers, silence())

    with Recorder(handler) as server:
        assert client(origins=server.origin, access_token=TOKEN).send("GET", server.url("/r")).status == 200
        assert len(server.requests) == 2
    assert in_time == [True]


def test_a_short_challenge_keeps_its_connection(client: Callable[..., Any]) -> None:
    """A small body is read, so that the retry uses the same connection."""
    with Recorder(script(challenge("n1", b"x" * 2000), Response(200))) as server:
        assert client(origins=server.origin, access_token=TOKEN).send("GET", server.url("/r")).status == 200
        assert [request.connection for request in server.requests] == [1, 1]


def test_a_huge_400_stays_readable(client: Callable[..., Any]) -> None:
    """A 400 with a new nonce is looked into and stays whole."""
    body = b'{"error":"use_dpop_nonce","padding":"' + b"x" * 300_000 + b'"}'
    with Recorder(script(Response(400, [("DPoP-Nonce", "n1")], body))) as server:
        one = client(origins=server.origin)
        reply = one.send("POST", server.url("/token"), body=one.form_body({"a": "b"}))
        assert (reply.status, reply.body == body, len(server.requests)) == (400, True, 1)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_compressed_400_is_understood_and_stays_whole(client: Callable[..., Any], chunked: bool) -> None:
    """A gzipped challenge is recognised; a gzipped refusal reaches the caller decoded."""
    import gzip

    def packed(text: bytes) -> Any:
        data = gzip.compress(text)
        return iter([data[:7], data[7:]]) if chunked else data

    headers = [("DPoP-Nonce", "n1"), ("Content-Encoding", "gzip")]
    wants = Response(400, headers, packed(b'{"error":"use_dpop_nonce"}'))
    refuses = Response(400, [("DPoP-Nonce", "n2"), ("Content-Encoding", "gzip")], packed(b'{"error":"invalid_grant"}'))
    with Recorder(script(wants, refuses)) as server:
        one = client(origins=server.origin)
        reply = one.send("POST", server.url("/token"), body=one.form_body({"a": "b"}))
        assert json.loads(reply.body) == {"error": "invalid_grant"}
        assert [request.nonce for request in server.requests] == [None, "n1"]


@pytest.mark.parametrize("realm", ["Stra\u00dfe".encode("latin-1"), "\u4e2d\u6587".encode(), b"\xff\xfe"])
def test_a_challenge_with_bytes_that_are_no_ascii(client: Callable[..., Any], realm: bytes) -> None:
    """In whatever way the library decodes them: real servers write realms and descriptions in their language."""
    said = b'DPoP realm="%b", error="use_dpop_nonce"' % realm
    headers = [("WWW-Authenticate", said.decode("latin-1")), ("DPoP-Nonce", "n")]
    with Recorder(script(Response(401, headers), Response(200))) as server:
        assert client(origins=server.origin, access_token=TOKEN).send("GET", server.url("/r")).status == 200


# -- bad nonces --------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [["a", "b"], [""], ["a b"], ['quo"te'], ["caf\xe9"]])
def test_bad_nonces_are_ignored(
    client: Callable[..., Any], fields: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Two, empty, or outside NQCHAR: not kept, no retry, a warning."""
    headers = [("WWW-Authenticate", 'DPoP error="use_dpop_nonce"'), *(("DPoP-Nonce", value) for value in fields)]
    with Recorder(script(Response(401, headers))) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        for _ in range(2):
            assert one.send("GET", server.url("/r")).status == 401
        assert [request.nonce for request in server.requests] == [None, None]
        assert "is ignored" in caplog.text
