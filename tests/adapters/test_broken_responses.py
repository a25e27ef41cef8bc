# SPDX-License-Identifier: Apache-2.0
"""Responses that break off, stall, are huge or never end."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from support.clients import ASYNCHRONOUS, BODY, TOKEN, make
from support.recorder import Received, Recorder, challenge, script
from support.recorder import Response as Reply


def test_a_streamed_answer_is_not_read_early(name: str) -> None:
    """A streamed 200 reaches the caller while the server is still sending it."""
    pieces = itertools.count()

    def endless() -> Iterator[bytes]:
        for _ in pieces:
            yield b"x" * 1000
            time.sleep(0.01)

    with Recorder(lambda request: Reply(200, [("DPoP-Nonce", "n1")], endless())) as server:
        with make(name, origins=server.origin, access_token=TOKEN) as one:
            assert first_bytes(one, server.url("/r")) == b"x"


def first_bytes(client: Any, url: str) -> bytes:
    """The first byte of a streamed answer, in the way of each library."""
    if client.name == "requests":
        with client.session.get(url, stream=True, timeout=60) as response:
            return bytes(next(response.iter_content(1)))
    if client.name == "aiohttp":

        async def read_one() -> bytes:
            async with client.session.get(url) as response:
                return bytes(await response.content.read(1))

        return bytes(client.runner.run(read_one()))
    if client.name in ASYNCHRONOUS:

        async def read() -> bytes:
            async with client.client.stream("GET", url) as response:
                async for chunk in response.aiter_bytes(1):
                    return bytes(chunk)
            return b""

        return bytes(client.runner.run(read()))
    with client.client.stream("GET", url) as response:
        return bytes(next(response.iter_bytes(1)))


def test_a_huge_nonce_is_not_kept(client: Callable[..., Any]) -> None:
    """A nonce that would make every later proof too large for a header is ignored."""
    with Recorder(script(Reply(200, [("DPoP-Nonce", "n" * 5000)]))) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        for _ in range(2):
            one.send("GET", server.url("/r"))
        assert [request.nonce for request in server.requests] == [None, None]


def cut_short(client: Any) -> Any:
    """The error of each library for a body that ends before its end."""
    if client.name == "requests":
        return requests.exceptions.ChunkedEncodingError
    return client.library.ClientPayloadError if client.name == "aiohttp" else client.library.RemoteProtocolError


def test_a_cut_off_400_fails_as_the_library_fails(client: Callable[..., Any]) -> None:
    """A 400 whose body breaks off while it is looked into: the library's own error, and the nonce is kept."""
    cut = Reply(400, [("DPoP-Nonce", "n1"), ("Connection", "close")], b'{"error":"use_dp', content_length=100)
    with Recorder(script(cut, Reply(200))) as server:
        one = client(origins=server.origin)
        expected = cut_short(one)
        with pytest.raises(expected):
            one.send("POST", server.url("/token"), body=one.form_body({"a": "b"}), headers={"Connection": "close"})
        one.send("POST", server.url("/token"), body=one.form_body({"a": "b"}))
        assert [request.nonce for request in server.requests] == [None, "n1"]


def test_a_400_whose_chunks_break_off_is_not_taken_for_whole(client: Callable[..., Any]) -> None:
    """A chunked 400 that ends too early while it is looked into: the caller gets the library's error, not a part."""

    def body() -> Iterator[bytes]:
        yield b'{"error":"use_dp'
        raise ConnectionAbortedError

    with Recorder(script(Reply(400, [("DPoP-Nonce", "n1")], body()))) as server:
        one = client(origins=server.origin)
        expected = cut_short(one)
        with pytest.raises(expected):
            one.send("POST", server.url("/token"), body=one.form_body({"a": "b"}))


def test_a_nonce_survives_the_failure_of_its_retry(client: Callable[..., Any]) -> None:
    """The retry's connection drops: the next call still carries the nonce the challenge gave."""
    with Recorder(script(challenge("n1"), Reply(drop=True), Reply(200))) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        with pytest.raises(Exception, match=r"(?i)disconnect|abort|closed|reset|remote"):
            one.send("POST", server.url("/r"), body=one.bytes_body(BODY))
        assert one.send("GET", server.url("/r")).status == 200
        assert [request.nonce for request in server.requests] == [None, "n1", "n1"]


def test_a_stalled_challenge_that_closes_its_connection(client: Callable[..., Any]) -> None:
    """Connection: close and a body that does not end: the retry does not wait for it, whatever the timeout."""
    retried = threading.Event()
    in_time: list[bool] = []

    def body() -> Iterator[bytes]:
        yield b"x"
        in_time.append(retried.wait(60))

    def handler(request: Received) -> Reply:
        if request.nonce == "n1":
            retried.set()
            return Reply(200)
        return Reply(401, [*challenge("n1").headers, ("Connection", "close")], body())

    with Recorder(handler) as server:
        assert client(origins=server.origin, access_token=TOKEN).send("GET", server.url("/r")).status == 200
    assert False not in in_time  # empty, where the client was gone before the body began to wait


def test_a_content_length_of_5000_digits() -> None:
    """A length that Python refuses to read as a number is no reason to fail."""
    answer = challenge("n1")
    answer.content_length = "9" * 5000  # type: ignore[assignment]
    with Recorder(script(answer, Reply(200))) as server:
        with make("requests", origins=server.origin, access_token=TOKEN) as one:
            assert one.send("GET", server.url("/r"), timeout=60).status == 200


def test_a_400_is_not_looked_into_beyond_its_limit(name: str) -> None:
    """Ten kilobytes are looked at: a 400 that goes on reaches the caller while the server still sends it."""
    handed_over = threading.Event()
    in_time: list[bool] = []

    def endless() -> Iterator[bytes]:
        yield b"x" * 20_000
        in_time.append(handed_over.wait(60))
        yield b"x"

    answer = Reply(400, [("DPoP-Nonce", "n1")], endless())
    with Recorder(lambda _: answer) as server:
        with make(name, origins=server.origin) as one:
            assert first_bytes(one, server.url("/token")) == b"x"
            handed_over.set()
    assert False not in in_time
