# SPDX-License-Identifier: Apache-2.0
"""Whether a body of httpx or httpx2 can be sent again, whole, and how.

Both libraries iterate over a request's stream when they send it. A second iteration gives the same
octets for some streams, none for others, and an error for the rest; nothing public tells which. What
cannot be shown to be repeatable here is not.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

__all__ = ["Repeat", "in_memory", "repeat_of"]

Repeat: TypeAlias = "Callable[[], Awaitable[object] | None]"
"""Makes a body ready to be sent again; asynchronous files return an awaitable."""


def in_memory(request: Any) -> bytes | None:
    """The body, if it is bytes already; a stream is not read."""
    try:
        content: bytes = request.content
    except RuntimeError:  # either library's RequestNotRead
        # A redirected request takes over the stream of the one before, and forgets that it was read.
        source = getattr(request.stream, "_stream", None)
        return source if isinstance(source, bytes) else None
    return content


def repeat_of(request: Any, content: bytes | None) -> Repeat | None:
    """How to send the body again, or ``None`` if it cannot be. Call it before the body is first sent.

    :param content: what :func:`in_memory` says of it.
    """
    if content is not None:
        return _nothing
    fields = getattr(request.stream, "fields", None)
    if isinstance(fields, list):
        # Multipart: the library itself goes back to the start of each file, if the file can.
        files = [field.file for field in fields if hasattr(field, "file")]
        return _nothing if all(isinstance(file, (str, bytes)) or _seekable(file) for file in files) else None
    source = getattr(request.stream, "_stream", None)
    if isinstance(source, (list, tuple)):
        return _nothing
    return _rewind_of(source) if source is not None and _seekable(source) else None


def _seekable(file: Any) -> bool:
    if not (hasattr(file, "seek") and hasattr(file, "tell")):
        return False
    seekable = getattr(file, "seekable", None)
    answer = seekable() if seekable is not None else True
    if inspect.iscoroutine(answer):
        answer.close()  # an asynchronous file; whether it can seek shows when it must
        return True
    return bool(answer)


def _rewind_of(file: Any) -> Repeat | None:
    start = file.tell()
    if not inspect.iscoroutine(start):

        def rewind() -> None:
            file.seek(start)

        return rewind
    start.close()
    # An asynchronous file tells its position only to a coroutine. It was opened to be sent, from its start.
    wrapped = getattr(file, "wrapped", None)
    position = wrapped.tell() if wrapped is not None else 0

    def async_rewind() -> Awaitable[object]:
        moved: Awaitable[object] = file.seek(position)
        return moved

    return async_rewind


def _nothing() -> None:
    """A body in memory is ready as it is."""
