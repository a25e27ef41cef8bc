# SPDX-License-Identifier: Apache-2.0
"""Answers of httpx or httpx2 that are not handed on as they came: looked into, or read to be dropped."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio

from dpop.client.drive import DRAIN_OCTETS, DRAIN_SECONDS

__all__ = ["AsyncReplay", "Replay", "async_drain", "drain"]

# Requests, responses and streams of either library. Any, because the two share no base class.
_Any = Any


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


def drain(response: _Any, signed: _Any) -> None:
    """Read what little is left of an answer, so that its connection can be used again; then close it."""
    # The read timeout is looked up when reading starts: an answer that stalls costs a second.
    timeout = signed.extensions["timeout"]
    timeout["read"] = min(timeout.get("read") or DRAIN_SECONDS, DRAIN_SECONDS)
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
