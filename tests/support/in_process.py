# SPDX-License-Identifier: Apache-2.0
"""One request put to an application in this process, by either interface."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote_to_bytes
from wsgiref.validate import validator

import anyio
import trio

from dpop.asgi import Application

__all__ = ["ask_asgi", "ask_wsgi"]

Response = tuple[int, list[tuple[str, str]], bytes]


def ask_asgi(
    app: Application,
    method: str,
    target: str,
    fields: Iterable[tuple[str, str]],
    *,
    on_trio: bool = False,
    **more: Any,
) -> Response:
    """The answer of an ASGI application; ``more`` goes into the scope, None takes a member out of it."""
    path, _, query = target.partition("?")
    raw = path.encode("latin-1")
    scope: dict[str, Any] = {
        "type": "http",
        "method": method,
        "path": unquote_to_bytes(raw).decode("utf-8", "replace"),
        "raw_path": raw,
        "query_string": query.encode("latin-1"),
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in fields],
    }
    scope = {name: value for name, value in (scope | more).items() if value is not None}
    sent: list[Any] = []
    to_receive = [{"type": "http.request", "body": b""}]
    ended = anyio.Event()

    async def receive() -> dict[str, Any]:
        if to_receive:
            return to_receive.pop()
        # As servers do. An application that waits for the end of the connection would never let its other tasks run.
        await ended.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            ended.set()

    if on_trio:
        trio.run(app, scope, receive, send)
    else:
        asyncio.run(app(scope, receive, send))
    start, *bodies = sent
    headers = [(name.decode(), value.decode("latin-1")) for name, value in start["headers"]]
    return start["status"], headers, b"".join(message["body"] for message in bodies)


def ask_wsgi(
    app: Any, method: str, target: str, fields: Iterable[tuple[str, str]], *, check: bool = True, **more: Any
) -> Response:
    """The answer of a WSGI application, held to PEP 3333; fields of one name are joined, as servers do.

    :param check: False for requests that are too odd for the validator of the standard library.
    """
    path, _, query = target.partition("?")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path.encode("latin-1")).decode("latin-1"),
        "QUERY_STRING": query,
        "REQUEST_URI": target,
        "SERVER_NAME": "internal.example",
        "SERVER_PORT": "8080",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": _Empty(),
        "wsgi.errors": _Errors(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in fields:
        key = "HTTP_" + name.upper().replace("-", "_")
        environ[key] = f"{environ[key]}, {value}" if key in environ else value
    environ = {name: value for name, value in (environ | more).items() if value is not None}
    started: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], *_: Any) -> Any:
        started[:] = [int(status.split(" ", maxsplit=1)[0]), headers]
        return lambda _bytes: None

    chunks = (validator(app) if check else app)(environ, start_response)
    body = b"".join(chunks)
    if check:
        chunks.close()
    return started[0], [(name.lower(), value) for name, value in started[1]], body


class _Empty:
    def read(self, *_: Any) -> bytes:
        return b""

    readline = read

    def readlines(self, *_: Any) -> list[bytes]:
        return []

    def __iter__(self) -> Any:
        return iter(())


class _Errors:
    def write(self, _text: str) -> None: ...

    def writelines(self, _lines: Any) -> None: ...

    def flush(self) -> None: ...
