# SPDX-License-Identifier: Apache-2.0
"""What of a request of httpx or httpx2 is on the wire, and how a proof gets there as it is written."""

from __future__ import annotations

from typing import Any

__all__ = ["replace_fields", "url_of", "wire_of", "writes_headers"]

# Requests of either library. Any, because the two share no base class.
_Any = Any


def url_of(request: _Any) -> str:
    """scheme, host, port and path as the library will connect to them; no userinfo."""
    scheme, path = request.url.raw_scheme.decode("ascii"), request.url.raw_path.decode("ascii")
    return f"{scheme}://{request.url.netloc.decode('ascii')}{path}"


def wire_of(request: _Any) -> tuple[str, str, str]:
    """scheme, Host and target as they will be on the wire."""
    return request.url.raw_scheme.decode("ascii"), request.headers["host"], request.url.raw_path.decode("ascii")


def writes_headers(event: str, info: dict[str, _Any]) -> bool:
    """Whether a request's headers are about to be written, by an event of the library's ``trace`` extension.

    Those of a CONNECT, which opens a tunnel through a proxy, carry no proof and do not count.
    """
    return event.endswith(".send_request_headers.started") and info["request"].method != b"CONNECT"


def replace_fields(fields: list[tuple[bytes, bytes]], headers: list[tuple[str, str]]) -> None:
    """Put our headers in place of those of the same names, in the list that is about to be written."""
    ours = {name.lower().encode("ascii"): value.encode("ascii") for name, value in headers}
    fields[:] = [(name, ours.get(name.lower(), value)) for name, value in fields]
