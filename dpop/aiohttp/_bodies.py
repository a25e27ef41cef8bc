# SPDX-License-Identifier: Apache-2.0
"""Bodies of aiohttp: whether a request's can be sent again, and the start of a response's."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from typing import TYPE_CHECKING, Final

from aiohttp import ClientError, ClientRequest, ClientResponse, MultipartWriter
from aiohttp.payload import BytesPayload, IOBasePayload, Payload

from dpop.client._decoding import decoded_start
from dpop.client._driver import DRAIN_BYTES, DRAIN_SECONDS
from dpop.client._flow import PEEK_BYTES

if TYPE_CHECKING:
    from aiohttp import StreamReader

__all__ = ["drain", "in_memory", "is_repeatable", "peek"]

_PEEK_SECONDS: Final = 5.0


async def in_memory(request: ClientRequest) -> bytes | None:
    """Return the body if it is bytes in memory, otherwise ``None``; files and streams are not read."""
    body = request.body
    if isinstance(body, bytes):  # none at all
        return body
    return await body.as_bytes() if isinstance(body, BytesPayload) else None


def is_repeatable(body: Payload | bytes) -> bool:
    """Whether the same body can be sent again, whole. Call before the first send.

    aiohttp itself writes what can be read only once as an empty body the second time.
    """
    if isinstance(body, bytes):
        return True
    if body.consumed:
        return False
    if isinstance(body, MultipartWriter):
        return all(is_repeatable(part) for part, _, _ in body)
    return isinstance(body, BytesPayload) or (isinstance(body, IOBasePayload) and _is_seekable(body))


def _is_seekable(body: IOBasePayload) -> bool:
    file: object = body._value  # noqa: SLF001 - nothing public tells it before the body was written
    seekable = getattr(file, "seekable", None)
    return hasattr(file, "seek") and hasattr(file, "tell") and (seekable is None or bool(seekable()))


async def peek(response: ClientResponse) -> bytes:
    """Return the first bytes of a body, decoded; the response keeps its complete body."""
    content = response.content
    start = b""
    # An error of the body is raised again when the caller reads it.
    with contextlib.suppress(TimeoutError, ClientError):
        async with asyncio.timeout(_PEEK_SECONDS):
            while len(start) < PEEK_BYTES and not content.at_eof():
                start += await content.readany()
    _unread(content, start)
    if content.total_compressed_bytes is not None:
        return start[:PEEK_BYTES]  # decoded by aiohttp
    return decoded_start(response.headers.get("Content-Encoding"), start, PEEK_BYTES) or start


def _unread(content: StreamReader, data: bytes) -> None:
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        content.unread_data(data)  # deprecated since 2018, and nothing has come in its place


async def drain(response: ClientResponse, request: ClientRequest) -> None:
    """Read a short remaining body, so that the connection can be used again; else close the connection."""
    content, left = response.content, DRAIN_BYTES
    try:
        with contextlib.suppress(TimeoutError, ClientError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while left >= 0 and not content.at_eof():
                    left -= len(await content.readany())
        if content.at_eof() and content.exception() is None:
            response.release()
    finally:
        response.close()  # without effect where the connection was given back
    await request.close()  # the writer may still be at work, on the body that is to be sent again
