# SPDX-License-Identifier: Apache-2.0
"""A server that records what was on the wire, byte by byte, and answers as a test tells it to.

with Recorder(script(Answer(401, [("DPoP-Nonce", "n1")]), Answer(200))) as server:
    ...
assert [request.method for request in server.requests] == ["GET", "GET"]
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

__all__ = ["Handler", "Received", "Recorder", "Response", "challenge", "demanding", "script"]


@dataclass
class Received:
    """One request as it came."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes
    complete: bool
    connection: int
    server: str

    @property
    def method(self) -> str:
        return self.line.split(" ")[0]

    @property
    def target(self) -> str:
        return self.line.split(" ")[1]

    def all(self, name: str) -> list[str]:
        """Every value of a header, in order."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def one(self, name: str) -> str:
        """The value of a header that is there exactly once."""
        values = self.all(name)
        assert len(values) == 1, f"{len(values)} {name} headers"
        return values[0]

    @property
    def claims(self) -> dict[str, Any]:
        """The claims of the one proof."""
        payload = self.one("DPoP").split(".")[1]
        decoded: dict[str, Any] = json.loads(urlsafe_b64decode(payload + "=="))
        return decoded

    @property
    def jwk(self) -> dict[str, str]:
        """The public key in the one proof."""
        header = self.one("DPoP").split(".")[0]
        jwk: dict[str, str] = json.loads(urlsafe_b64decode(header + "=="))["jwk"]
        return jwk

    @property
    def nonce(self) -> str | None:
        """The nonce of the one proof."""
        nonce: str | None = self.claims.get("nonce")
        return nonce


@dataclass
class Response:
    """What the server does with a request; ``body`` as an iterable is sent chunked, however long it is."""

    status: int = 200
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes | Iterable[bytes] = b""
    drop: bool = False
    content_length: int | None = None


Handler = Callable[[Received], Response]


def script(*responses: Response) -> Handler:
    """Answers in sequence; the last one repeats."""
    lock = threading.Lock()
    left = list(responses)

    def handler(_request: Received) -> Response:
        with lock:
            return left.pop(0) if len(left) > 1 else left[0]

    return handler


def challenge(nonce: str, body: bytes = b"") -> Response:
    """A resource server's wish for this nonce (RFC 9449 §9)."""
    return Response(401, [("WWW-Authenticate", 'DPoP error="use_dpop_nonce"'), ("DPoP-Nonce", nonce)], body)


def demanding(first: str = "n1") -> Handler:
    """A resource server that takes only this nonce."""

    def handler(request: Received) -> Response:
        return Response(200, body=b"done") if request.nonce == first else challenge(first)

    return handler


class Recorder:
    """HTTP/1.1 on 127.0.0.1, a thread per connection; knows nothing of DPoP but how to decode a proof."""

    def __init__(self, handler: Handler, *, tls: ssl.SSLContext | None = None, name: str = "") -> None:
        self.handler = handler
        self.name = name
        self.requests: list[Received] = []
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        scheme = "https" if tls else "http"
        self.origin = f"{scheme}://127.0.0.1:{self.port}"
        self.other_origin = f"{scheme}://localhost:{self.port}"
        """The same socket under another name: to a client, another host."""
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._count = 0

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            connections, threads = list(self._open), list(self._threads)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(60)

    def url(self, path: str = "/") -> str:
        return self.origin + path

    def _start(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        with self._lock:
            self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._count += 1
            self._start(self._serve, connection, self._count)

    def _serve(self, connection: socket.socket, number: int) -> None:
        # A client that goes away, in whatever way, ends the connection and nothing else.
        with contextlib.suppress(OSError, EOFError, ValueError), connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(300)  # longer than a client of a busy machine leaves it idle
            if self._tls:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with self._lock:
                self._open.add(connection)
            try:
                with connection, connection.makefile("rb") as stream:
                    while self._exchange(connection, stream, number):
                        pass
            finally:
                with self._lock:
                    self._open.discard(connection)

    def _exchange(self, connection: socket.socket, stream: Any, number: int) -> bool:
        line = stream.readline(65536)
        if not line:
            return False
        headers: list[tuple[str, str]] = []
        while (field_line := stream.readline(65536)) not in {b"\r\n", b""}:
            name, _, value = field_line.decode("latin-1").rstrip("\r\n").partition(":")
            headers.append((name, value.strip()))
        request = Received(line.decode("latin-1").rstrip("\r\n"), headers, b"", True, number, self.name)
        request.body, request.complete = self._body(request, stream)
        with self._lock:
            self.requests.append(request)
        response = self.handler(request)
        if response.drop or not request.complete:
            return False
        self._response(connection, request, response)
        both = [*request.all("Connection"), *(value for name, value in response.headers if name == "Connection")]
        return "close" not in [value.lower() for value in both]

    def _body(self, request: Received, stream: Any) -> tuple[bytes, bool]:
        if request.all("Transfer-Encoding"):
            body = b""
            while True:
                size = int(stream.readline(), 16)
                chunk = stream.read(size)
                stream.readline()
                if size == 0:
                    return body, True
                body += chunk
        length = int((request.all("Content-Length") or ["0"])[0])
        body = stream.read(length)
        return body, len(body) == length

    def _response(self, connection: socket.socket, request: Received, response: Response) -> None:
        head = [f"HTTP/1.1 {response.status} X", *(f"{name}: {value}" for name, value in response.headers)]
        whole = isinstance(response.body, bytes)
        if whole:
            length = len(response.body) if response.content_length is None else response.content_length  # type: ignore[arg-type]
            head.append(f"Content-Length: {length}")
        else:
            head.append("Transfer-Encoding: chunked")
        data = ("\r\n".join(head) + "\r\n\r\n").encode("latin-1")
        if request.method == "HEAD" or whole:
            body = b"" if request.method == "HEAD" else bytes(response.body)  # type: ignore[arg-type]
            connection.sendall(data + body)
            return
        connection.sendall(data)
        for chunk in response.body:
            connection.sendall(b"%x\r\n%b\r\n" % (len(chunk), chunk))  # type: ignore[str-bytes-safe]
        connection.sendall(b"0\r\n\r\n")
