# SPDX-License-Identifier: Apache-2.0
"""Request bodies of httpx and httpx2: find out whether and how a body can be sent a second time.

Both libraries iterate over a request's stream when they send it. A second iteration gives the same bytes for some
streams, no bytes for others, and an error for the rest; no public attribute tells which. A body counts as repeatable
only if this module can show it.
"""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeAlias, cast

from dpop._httpx.protocols import AsyncByteStream, ByteStream, Request, Response
from dpop.client._decoding import decoded_start
from dpop.client._driver import DRAIN_BYTES, DRAIN_SECONDS
from dpop.client._flow import PEEK_BYTES

__all__ = [
    "AsyncPeekedStream",
    "PeekedStream",
    "Rewind",
    "async_drain",
    "async_peek",
    "drain",
    "in_memory",
    "peek",
    "rewind_of",
]

Rewind: TypeAlias = "Callable[[], Awaitable[object] | None]"
"""A function that rewinds a body so that it can be sent again; for asynchronous files it returns an awaitable."""


def in_memory(request: Request) -> bytes | None:
    """Return the body if it is bytes in memory, otherwise ``None``; streams are not read."""
    try:
        content: bytes = request.content
    except RuntimeError:  # either library's RequestNotRead
        # A redirected request has the stream of the request before, but does not know that it was read.
        source = getattr(request.stream, "_stream", None)
        return source if isinstance(source, bytes) else None
    return content


def rewind_of(request: Request, content: bytes | None) -> Rewind | None:
    """Return a function that rewinds the body, or ``None`` if it cannot be sent again. Call before the first send.

    :param content: the result of :func:`in_memory` for this request.
    """
    if content is not None:
        return _no_rewind
    fields = getattr(request.stream, "fields", None)
    if isinstance(fields, list):
        # Multipart: the library itself seeks to the start of each file, if the file is seekable.
        files = [field.file for field in fields if hasattr(field, "file")]
        return _no_rewind if all(isinstance(file, (str, bytes)) or _seekable(file) for file in files) else None
    source = getattr(request.stream, "_stream", None)
    if isinstance(source, (list, tuple)):
        return _no_rewind
    return _rewind_of_file(source) if source is not None and _seekable(source) else None


def _seekable(file: object) -> bool:
    if not (hasattr(file, "seek") and hasattr(file, "tell")):
        return False
    seekable = getattr(file, "seekable", None)
    result = seekable() if seekable is not None else True
    if inspect.iscoroutine(result):
        result.close()  # an asynchronous file; if it is not seekable, seek() will raise an error
        return True
    return bool(result)


def _rewind_of_file(file: Any) -> Rewind | None:  # Any: a file of the user, synchronous or not
    start = file.tell()
    if not inspect.iscoroutine(start):

        def rewind() -> None:
            file.seek(start)

        return rewind
    start.close()
    # Only a coroutine can ask an asynchronous file for its position. So assume that it is sent from its start.
    wrapped = getattr(file, "wrapped", None)
    position = wrapped.tell() if wrapped is not None else 0

    def async_rewind() -> Awaitable[object]:
        seeking: Awaitable[object] = file.seek(position)
        return seeking

    return async_rewind


def _no_rewind() -> None:
    """Do nothing: a body in memory needs no rewinding."""


_PEEK_SECONDS = 5.0


class PeekedStream:
    """A response body whose first chunks were read already; iteration still returns all chunks, also the first."""

    def __init__(
        self, chunks: list[bytes], rest: Iterator[bytes], stream: ByteStream, failure: Exception | None
    ) -> None:
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


class AsyncPeekedStream:
    """Asynchronous form of :class:`PeekedStream`."""

    def __init__(
        self, chunks: list[bytes], rest: AsyncIterator[bytes], stream: AsyncByteStream, failure: Exception | None
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
    """Collects the first chunks of a body, and puts them back."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.failure: Exception | None = None
        self._size = 0
        self._deadline = time.monotonic() + _PEEK_SECONDS

    def suffices_with(self, chunk: bytes) -> bool:
        """Add a chunk; return True once there are enough bytes, or it has taken too long."""
        self.chunks.append(chunk)
        self._size += len(chunk)
        return self._size >= PEEK_BYTES or time.monotonic() > self._deadline

    def put_back(self, response: Response, peeked: PeekedStream | AsyncPeekedStream) -> bytes:
        """Give the response its complete body again; return the decoded bytes that were read."""
        response.stream = peeked
        start = b"".join(self.chunks)
        return decoded_start(response.headers.get("content-encoding"), start, PEEK_BYTES) or start


def peek(response: Response, peeked_stream: type[PeekedStream]) -> bytes:
    """Return the first bytes of a body, decoded; the response keeps its complete body, as a ``peeked_stream``."""
    stream = cast("ByteStream", response.stream)  # as the libraries do: one class serves both kinds of bodies
    start, rest = _Start(), iter(stream)
    try:
        for chunk in rest:
            if start.suffices_with(chunk):
                break
    except Exception as error:  # noqa: BLE001 - raised again when the body is read
        start.failure = error
    return start.put_back(response, peeked_stream(start.chunks, rest, stream, start.failure))


async def async_peek(response: Response, peeked_stream: type[AsyncPeekedStream]) -> bytes:
    """Asynchronous form of :func:`peek`."""
    stream = cast("AsyncByteStream", response.stream)
    start, rest = _Start(), aiter(stream)
    try:
        async for chunk in rest:
            if start.suffices_with(chunk):
                break
    except Exception as error:  # noqa: BLE001 - raised again when the body is read
        start.failure = error
    return start.put_back(response, peeked_stream(start.chunks, rest, stream, start.failure))


# All streams of an HTTP/2 connection share one receive window, and a stream's unread bytes use up a part of it. So it
# is worth reading more.
_HTTP2_DRAIN_BYTES = 1_048_576


def _is_http2(response: Response) -> bool:
    return bool(response.extensions.get("http_version") == b"HTTP/2")


def _allowance(response: Response, signed: Request) -> int:
    """Limit each read to one second, and return how many bytes may be read at most."""
    # The read timeout is looked up when reading starts.
    timeout = signed.extensions.get("timeout") or {}
    signed.extensions["timeout"] = {**timeout, "read": min(timeout.get("read") or DRAIN_SECONDS, DRAIN_SECONDS)}
    return _HTTP2_DRAIN_BYTES if _is_http2(response) else DRAIN_BYTES


def drain(response: Response, signed: Request) -> None:
    """Read a short remaining body, so that the connection can be used again; then close the response."""
    left, deadline = _allowance(response, signed), time.monotonic() + DRAIN_SECONDS
    rest = iter(cast("ByteStream", response.stream))
    try:
        with contextlib.suppress(Exception):
            for chunk in rest:
                left -= len(chunk)
                if left < 0 or time.monotonic() > deadline:
                    break
            else:
                return
            if _is_http2(response):
                response.extensions["network_stream"].close()
                # Read the bytes that have arrived; the error after them tells the connection that it has ended.
                for _ in rest:
                    pass
    finally:
        response.close()


async def async_drain(response: Response, signed: Request) -> None:
    """Asynchronous form of :func:`drain`."""
    left, deadline = _allowance(response, signed), time.monotonic() + DRAIN_SECONDS
    rest = aiter(cast("AsyncByteStream", response.stream))
    try:
        with contextlib.suppress(Exception):
            async for chunk in rest:
                left -= len(chunk)
                if left < 0 or time.monotonic() > deadline:
                    break
            else:
                return
            if _is_http2(response):
                await response.extensions["network_stream"].aclose()
                async for _ in rest:  # as above
                    pass
    finally:
        await response.aclose()
