# SPDX-License-Identifier: Apache-2.0
"""What libraries send again by themselves: each time with a fresh proof, and nothing that can be read once."""

from __future__ import annotations

import io
import itertools
import urllib.parse
from collections.abc import Callable
from typing import Any

import pytest
import requests
from support.authority import Authority
from support.clients import BODY, HTTPX, TOKEN, assert_fresh, make, tls_options
from support.http2_recorder import Http2Recorder
from support.recorder import Recorder, challenge, script
from support.recorder import Response as Reply
from urllib3.util.retry import Retry

import dpop


@pytest.mark.parametrize("status", [503, 429])
def test_urllib3_retries_get_fresh_proofs(status: int) -> None:
    """Each retry that urllib3 makes by itself has a proof of its own, and the newest nonce."""
    responses = [Reply(status, [("DPoP-Nonce", f"n{number}"), ("Retry-After", "0")]) for number in range(3)]
    retry = Retry(total=5, status_forcelist=[503, 429], allowed_methods=None, backoff_factor=0)
    with Recorder(script(*responses, Reply(200))) as server:
        with make("requests", origins=server.origin, access_token=TOKEN, max_retries=retry) as client:
            assert client.send("POST", server.url("/r?q=1"), body=client.bytes_body(BODY)).status == 200
        assert [request.nonce for request in server.requests] == [None, "n0", "n1", "n2"]
        assert {request.body for request in server.requests} == {BODY}
        assert_fresh(server.requests)


def test_a_dropped_connection_is_retried_with_a_fresh_proof() -> None:
    """A kept-alive connection that is gone: urllib3 sends again, with another proof."""
    with Recorder(script(Reply(200), Reply(drop=True), Reply(200))) as server:
        with make("requests", origins=server.origin, access_token=TOKEN, max_retries=2) as client:
            for _ in range(2):
                assert client.send("GET", server.url("/r")).status == 200
        assert len(server.requests) == 3
        assert_fresh(server.requests)


def test_a_retried_stream_is_not_sent_empty() -> None:
    """A body that can be read once is sent once: the 503 is handed on although retries are left."""
    retry = Retry(total=5, status_forcelist=[503], allowed_methods=None, backoff_factor=0)
    with Recorder(script(Reply(503, [("Retry-After", "0")]), Reply(200))) as server:
        with make("requests", origins=server.origin, access_token=TOKEN, max_retries=retry) as client:
            assert client.send("POST", server.url("/r"), body=client.stream_body(BODY)).status == 503
        assert [request.body for request in server.requests] == [BODY]


def test_a_stream_on_a_dropped_connection_fails_as_requests_fails() -> None:
    """The server may have read it, so it is not sent again although retries are left."""
    with Recorder(script(Reply(drop=True), Reply(200))) as server:
        with make("requests", origins=server.origin, access_token=TOKEN, max_retries=3) as client:
            with pytest.raises(requests.ConnectionError):
                client.send("PUT", server.url("/r"), body=client.stream_body(BODY))
        assert [request.body for request in server.requests] == [BODY]


def test_a_retried_code_exchange_keeps_its_identifier() -> None:
    """Google's code exchange: the same jti on every attempt, a fresh signature on each."""
    retry = Retry(total=2, status_forcelist=[503], allowed_methods=None, backoff_factor=0)
    form = {"grant_type": "authorization_code", "code": "4/P7q7W91a-oMsCeLvIaQm6bTrgtp7"}
    wants = Reply(400, [("DPoP-Nonce", "n1")], b'{"error":"use_dpop_nonce"}')
    with Recorder(script(Reply(503), wants, Reply(200))) as server:
        options = {"profile": dpop.profiles.GOOGLE, "max_retries": retry}
        with make("requests", origins=server.origin, **options) as client:
            assert client.send("POST", server.url("/token"), body=client.form_body(form)).status == 200
        assert {request.claims["jti"] for request in server.requests} == {"3xbsgA0UB_TL-2wQicAwURmxtBIKPGNmnUFBhZtC0tc"}
        assert len({request.one("DPoP") for request in server.requests}) == 3


def test_a_client_assertion_is_sent_once(client: Callable[..., Any]) -> None:
    """A bare adapter hands the challenge on; with rebuild= the retry has a new assertion."""
    numbers = itertools.count(1)

    def rebuild(body: bytes) -> bytes:
        fields = dict(urllib.parse.parse_qsl(body.decode()))
        fields["client_assertion"] = f"assertion-{next(numbers)}-longer-than-before"
        return urllib.parse.urlencode(fields).encode()

    wants = Reply(400, [("DPoP-Nonce", "n1")], b'{"error":"use_dpop_nonce"}')
    form = {"grant_type": "client_credentials", "client_assertion": "assertion-0"}
    for option, expected in ((None, 1), (rebuild, 2)):
        with Recorder(script(wants, Reply(200))) as server:
            one = client(origins=server.origin, rebuild=option)
            reply = one.send("POST", server.url("/token"), body=one.form_body(form))
            assert (reply.status, len(server.requests)) == (200 if option else 400, expected)
            assertions = [dict(urllib.parse.parse_qsl(r.body.decode()))["client_assertion"] for r in server.requests]
            assert assertions == ["assertion-0", "assertion-1-longer-than-before"][:expected]
            assert all(request.complete for request in server.requests)


def test_a_client_assertion_is_not_sent_again_by_urllib3() -> None:
    """A used assertion is refused, and rebuild= cannot reach what urllib3 retries: the 503 is handed on."""
    retry = Retry(total=3, status_forcelist=[503], allowed_methods=None, backoff_factor=0)
    form = {"grant_type": "client_credentials", "client_assertion": "assertion-0"}
    with Recorder(script(Reply(503, [("Retry-After", "0")]), Reply(200))) as server:
        with make("requests", origins=server.origin, max_retries=retry) as one:
            assert one.send("POST", server.url("/token"), body=one.form_body(form)).status == 503
        assert len(server.requests) == 1


@pytest.mark.parametrize("name", ["httpx2"], indirect=True)  # httpx itself counts such a file from its beginning
def test_a_file_is_sent_again_from_where_it_stood(client: Callable[..., Any]) -> None:
    """Not from its beginning; and the caller's own trace sees every request."""
    seen: list[str] = []
    with Recorder(script(challenge("n1"), Reply(200))) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        file = io.BytesIO(b"skipped" + BODY)
        file.seek(7)
        extensions = {"trace": lambda event, _info: seen.append(event)}
        assert one.send("POST", server.url("/r"), body={"content": file}, extensions=extensions).status == 200
        assert [request.body for request in server.requests] == [BODY] * 2
        assert seen.count("http11.send_request_headers.started") == 2


def test_one_prepared_request_sent_twice_has_two_proofs() -> None:
    """Session.send() with the same prepared request signs each time."""
    with Recorder(script(Reply(200))) as server:
        with make("requests", origins=server.origin, access_token=TOKEN) as client:
            prepared = client.session.prepare_request(requests.Request("POST", server.url("/r"), data=BODY))
            for _ in range(2):
                client.session.send(prepared)
            assert "DPoP" not in prepared.headers
        assert_fresh(server.requests)


def test_a_body_that_tells_and_cannot_go_back_is_sent_once() -> None:
    """A download handed on as an upload: requests notes its position, but the 401 is returned, not an error."""

    class Download(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_where: int) -> int:
            raise io.UnsupportedOperation("seek")

    with Recorder(script(challenge("n1"), Reply(200))) as server:
        with make("requests", origins=server.origin, access_token=TOKEN) as one:
            assert one.send("POST", server.url("/r"), body={"data": Download(BODY)}).status == 401
        assert [request.body for request in server.requests] == [BODY]


@pytest.mark.parametrize("name", HTTPX, indirect=True)
def test_a_stream_refused_by_goaway_is_signed_again(
    name: str, client: Callable[..., Any], authority: Authority
) -> None:
    """A server ends its connection gracefully: the library sends the stream again, with another proof."""
    for kind in ("bytes", "file", "multipart"):
        responses = script(Reply(200), Reply(drop=True), Reply(200))
        with Http2Recorder(responses, tls=authority.server_context(http2=True)) as server:
            one = client(origins=server.origin, access_token=TOKEN, http2=True, **tls_options(name, authority))
            for _ in range(2):
                body = getattr(one, f"{kind}_body")(BODY)
                assert one.send("POST", server.url("/r"), body=body).status == 200
            assert [request.connection for request in server.requests] == [1, 1, 2]
            assert [BODY in request.body for request in server.requests] == [True] * 3
            assert_fresh(server.requests, "https")


class OneWayFile(io.RawIOBase):
    """A file that is read once and tells nobody where it is."""

    def __init__(self, payload: bytes) -> None:
        self.payload = payload

    def read(self, size: int = -1) -> bytes:
        size = len(self.payload) if size < 0 else size
        taken, self.payload = self.payload[:size], self.payload[size:]
        return taken

    def readable(self) -> bool:
        return True


def test_a_multipart_body_that_cannot_go_back_is_sent_once(client: Callable[..., Any], name: str) -> None:
    """A challenge to a form with a pipe in it reaches the caller, and the nonce is kept."""
    with Recorder(script(challenge("n1"), Reply(200))) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        body = one.multipart_of(OneWayFile(BODY))
        # requests reads the file into memory before, and so can send it again.
        expected = [401, 200] if name == "requests" else [401]
        assert one.send("POST", server.url("/r"), body=body).status == expected[-1]
        assert len(server.requests) == len(expected)
        assert BODY in server.requests[0].body
