# SPDX-License-Identifier: Apache-2.0
"""Answers of httpx or httpx2 that are not handed on as they came: looked into, or read to be dropped."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio

from dpop.client._decoding import decoded_start
from dpop.client._driver import DRAIN_OCTETS, DRAIN_SECONDS
from dpop.client._flow import PEEK_OCTETS

__all__ = ["AsyncReplay", "Replay", "async_drain", "async_peek", "drain", "peek"]

# Requests, responses and streams of either library. Any, because the two share no base class.
_Any = Any

_PEEK_SECONDS = 5.0


class Replay:
    """A response body whose first chunks have been looked at: they come again, then the rest."""

    def __init__(self, chunks: list[bytes], rest: Iterator[bytes], stream: _Any, failure: Exception | None) -> None:
        self._chunks = chunks
        self._rest = rest
        self._stream = stream
        self._failure = failure

    def __iter__(self) -> Iterator[bytes]:
        yield from self._chunks
        if self._failure is not None:
            raise self._failure
        yield from self._rest

    def close(self) -> None:
        self._stream.close()


class AsyncReplay:
    """The same for an asynchronous body."""

    def __init__(
        self, chunks: list[bytes], rest: AsyncIterator[bytes], stream: _Any, failure: Exception | None
    ) -> None:
        self._chunks = chunks
        self._rest = rest
        self._stream = stream
        self._failure = failure

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk
        if self._failure is not None:
            raise self._failure
        async for chunk in self._rest:
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Start:
    """What has been read of a body, to be looked at and put back."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.failure: Exception | None = None
        self._size = 0
        self._deadline = time.monotonic() + _PEEK_SECONDS

    def suffices_with(self, chunk: bytes) -> bool:
        """Take a chunk; whether that is enough, or has taken long enough."""
        self.chunks.append(chunk)
        self._size += len(chunk)
        return self._size >= PEEK_OCTETS or time.monotonic() > self._deadline

    def put_back(self, response: _Any, rest: _Any, replay: type[_Any]) -> bytes:
        """Give the response all of its body again; what was read of it, decoded."""
        response.stream = replay(self.chunks, rest, response.stream, self.failure)
        return decoded_start(response.headers.get("content-encoding"), b"".join(self.chunks), PEEK_OCTETS)


def peek(response: _Any, replay: type[Replay]) -> bytes:
    """The first octets of a body, decoded; the response keeps all of it, as a ``replay``."""
    start, rest = _Start(), iter(response.stream)
    try:
        for chunk in rest:
            if start.suffices_with(chunk):
                break
    except Exception as error:  # noqa: BLE001 - raised again to whoever reads the body
        start.failure = error
    return start.put_back(response, rest, replay)


async def async_peek(response: _Any, replay: type[AsyncReplay]) -> bytes:
    """The same for an asynchronous body."""
    start, rest = _Start(), aiter(response.stream)
    try:
        async for chunk in rest:
            if start.suffices_with(chunk):
                break
    except Exception as error:  # noqa: BLE001 - raised again to whoever reads the body
        start.failure = error
    return start.put_back(response, rest, replay)


def drain(response: _Any, signed: _Any) -> None:
    """Read what little is left of an answer, so that its connection can be used again; then close it."""
    # The read timeout is looked up when reading starts: an answer that stalls costs a second.
    timeout = signed.extensions.get("timeout") or {}
    signed.extensions["timeout"] = {**timeout, "read": min(timeout.get("read") or DRAIN_SECONDS, DRAIN_SECONDS)}
    deadline = time.monotonic() + DRAIN_SECONDS
    left = DRAIN_OCTETS
    try:
        with contextlib.suppress(Exception):
            for chunk in response.stream:
                left -= len(chunk)
                if left < 0 or time.monotonic() > deadline:
                    break
    finally:
        response.close()


async def async_drain(response: _Any) -> None:
    """The same, in a task of its own time."""
    left = DRAIN_OCTETS
    try:
        with contextlib.suppress(Exception), anyio.move_on_after(DRAIN_SECONDS):
            async for chunk in response.stream:
                left -= len(chunk)
                if left < 0:
                    break
    finally:
        await response.aclose()
