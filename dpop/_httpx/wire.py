# SPDX-License-Identifier: Apache-2.0
"""What of a request of httpx or httpx2 is on the wire, and how a proof gets there as it is written."""

from __future__ import annotations

from typing import Any, TypeAlias

__all__ = [
    "HEADERS_START",
    "Wire",
    "carries_proof",
    "copied",
    "fields_of",
    "give_trace_back",
    "replace_fields",
    "stop_tracing",
    "told_fields",
]

# Requests of either library. Any, because the two share no base class.
_Any = Any


Wire: TypeAlias = tuple[str, str, str]
"""Scheme, Host and target of a request as they will be on the wire."""


_TOLD = frozenset({b"host", b"authorization", b"content-type"})


def told_fields(request: _Any) -> dict[bytes, str]:
    """The header fields of a request that tell what to do with it, by their names in lower case; repeated ones joined.

    The library's own lookup first finds out how all fields are encoded, which takes ten times as long.
    """
    told: dict[bytes, str] = {}
    for name, value in request.headers.raw:
        lower = name.lower()
        if lower in _TOLD:
            text = value.decode("latin-1")
            told[lower] = f"{told[lower]}, {text}" if lower in told else text
    return told


def fields_of(response: _Any) -> list[tuple[str, str]]:
    """The header fields of an answer, repeated ones as often as they came."""
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers.raw]


def copied(request: _Any, extensions: dict[str, _Any]) -> _Any:
    """A request with the same method, URL and stream, and headers of its own.

    ``copy.copy`` would pickle it, without stream and extensions; its constructor looks at everything anew, which takes
    a third as long as a signature.
    """
    copy = object.__new__(type(request))
    vars(copy).update(vars(request))
    copy.headers = type(request.headers)(request.headers)
    copy.extensions = extensions
    return copy


HEADERS_START = ".send_request_headers.started"
"""How the event of the library's ``trace`` extension ends that says headers are about to be written."""


def carries_proof(info: dict[str, _Any]) -> bool:
    """Whether the headers of such an event carry one; those of a CONNECT, which opens a tunnel, do not."""
    method: bytes = info["request"].method
    return method != b"CONNECT"


def stop_tracing(event: str, info: dict[str, _Any]) -> None:
    """Take our ``trace`` away once HTTP/1.1 headers are written, for nothing is sent again then.

    Each event costs two microseconds, and eight of ten are still to come. HTTP/2 goes on: a GOAWAY makes the library
    send a stream again.
    """
    if event.startswith("http11."):
        info["request"].extensions.pop("trace", None)


def give_trace_back(signed: _Any, request: _Any) -> None:
    """Put the caller's own ``trace`` in place of ours, which holds on to the request that it is a part of.

    Once an answer is there nothing is sent again. Such a circle, body and all, would stay until the garbage
    collector comes by.
    """
    users = request.extensions.get("trace")
    if users is None:
        signed.extensions.pop("trace", None)
    else:
        signed.extensions["trace"] = users


def replace_fields(fields: list[tuple[bytes, bytes]], headers: list[tuple[str, str]]) -> None:
    """Put our headers in place of those of the same names, in the list that is about to be written."""
    ours = {name.lower().encode("ascii"): value.encode("ascii") for name, value in headers}
    fields[:] = [(name, ours.get(name.lower(), value)) for name, value in fields]
