# SPDX-License-Identifier: Apache-2.0
"""An HTTP/1.1 server that records what was on the wire, octet by octet, and answers as a test tells it to.

with WireServer(Script([challenge("n1"), Answer(200, body=b"done")])) as server:
    requests.get(server.url("/r?q=1"), timeout=10)
assert [request.method for request in server.requests] == ["GET"]
assert server.requests[0].raw_line == b"GET /r?q=1 HTTP/1.1"

TLS is one argument: ``WireServer(handler, tls=make_authority(folder).server_context())``, with
``want_client=True`` to ask the client for its certificate. Two origins are two servers, or one server and its
two names: ``server.origin`` and ``server.other_origin``.
"""

from __future__ import annotations

import contextlib
import http
import socket
import ssl
import struct
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from adapters.listener import PATIENCE, Listener, hang_up, linger
from adapters.messages import (
    Answer,
    Handler,
    Header,
    Received,
    Routes,
    Script,
    certificate_of,
    challenge,
    endless,
    huge,
    octets,
)

__all__ = [
    "Answer",
    "Handler",
    "Received",
    "Routes",
    "Script",
    "WireServer",
    "challenge",
    "endless",
    "huge",
    "read_body",
    "read_head",
    "wire_servers",
]


class WireServer(Listener):
    """HTTP/1.1 on 127.0.0.1, a thread per connection; knows nothing of DPoP but how to decode a proof.

    A request is in ``requests`` from the moment its head was read, before the handler is called.
    """

    def __init__(self, handler: Handler, *, tls: ssl.SSLContext | None = None, name: str = "") -> None:
        super().__init__()
        self.handler = handler
        self.name = name
        self.requests: list[Received] = []
        self.tls = tls
        self.scheme = "https" if tls else "http"
        self.origin = f"{self.scheme}://127.0.0.1:{self.port}"
        self.other_origin = f"{self.scheme}://localhost:{self.port}"
        """The same socket under another name: to a client, another host and another origin."""

    def url(self, path: str = "/", *, host: str = "127.0.0.1") -> str:
        """The URL of a path, under one name of this machine or another."""
        return f"{self.scheme}://{host}:{self.port}{path}"

    def wait_for(self, count: int, timeout: float = PATIENCE) -> list[Received]:
        """Wait until so many requests have come; all that are there."""
        with self._changed:
            came = self._changed.wait_for(lambda: len(self.requests) >= count, timeout)
            assert came, f"{len(self.requests)} requests came in {timeout} s, not {count}"
            return list(self.requests)

    def record(self, request: Received) -> None:
        """Keep a request."""
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()

    def ask(self, request: Received) -> Answer:
        """The handler's answer; a handler that fails fails the test, and answers 500 meanwhile."""
        try:
            return self.handler(request)
        except BaseException as error:  # noqa: BLE001 - raised again at the end of the test
            self.failures.append(error)
            return Answer(500, body=f"the handler failed: {error!r}".encode(), early=True)

    def serve(self, connection: socket.socket, number: int) -> None:
        if self.tls is None:
            self._talk(connection, number)
            return
        wrapped = self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        with self.watched(wrapped) as secure:
            secure.do_handshake()
            self._talk(secure, number)

    def _talk(self, connection: socket.socket, number: int) -> None:
        with connection.makefile("rb") as stream:
            sequence = 1
            while self._exchange(connection, stream, number, sequence):
                sequence += 1

    def _exchange(self, connection: socket.socket, stream: BinaryIO, number: int, sequence: int) -> bool:
        """One request and its answer; whether the connection may carry another."""
        head = read_head(stream)
        if head is None:
            return False
        certificate = certificate_of(connection) if isinstance(connection, ssl.SSLSocket) else None
        request = Received(
            *head,
            connection=number,
            sequence=sequence,
            server=self.name,
            scheme=self.scheme,
            client_certificate=certificate,
            read_body=lambda: read_body(stream, request),
        )
        if not request.all("Content-Length") and not request.all("Transfer-Encoding"):
            request.read_body = None
        self.record(request)
        answer = self.ask(request)
        if answer.drop_before_reading:
            return _drop(connection, request, answer)
        for status, fields in answer.interim:
            connection.sendall(_head(status, fields, None))
        # A request cut off by its client gets no answer, unless it is one that does not wait for the body.
        if not answer.early and (not request.complete or answer.drop):
            return _drop(connection, request, answer)
        if self.closing.wait(answer.delay):
            return False
        stays = self._answer(connection, request, answer)
        if answer.early and request.read_body:
            linger(connection)
            request.leave_body()
            return False
        return stays

    def _answer(self, connection: socket.socket, request: Received, answer: Answer) -> bool:
        """Send an answer; whether the connection may stay."""
        if answer.raw is not None:
            connection.sendall(answer.raw)
            return False
        payload = answer.payload()
        whole = isinstance(payload, bytes)
        bodiless = request.method == "HEAD" or answer.status in {204, 304}
        plain = answer.until_close or answer.has("Content-Length") or answer.has("Transfer-Encoding")
        chunked = not whole and not plain and answer.content_length is None
        stays = not (answer.close or answer.until_close or answer.silent_close)
        fields = list(answer.headers)
        if answer.gzip:
            fields.append(("Content-Encoding", "gzip"))
        if chunked:
            fields.append(("Transfer-Encoding", "chunked"))
        elif not plain and answer.status not in {204, 304}:
            length = len(payload) if isinstance(payload, bytes) else 0
            fields.append(("Content-Length", str(length if answer.content_length is None else answer.content_length)))
        if answer.close or answer.until_close:
            fields.append(("Connection", "close"))
        head = _head(answer.status, fields, answer.reason)
        if bodiless:
            connection.sendall(head)
        elif isinstance(payload, bytes):
            connection.sendall(head + payload[: answer.cut_after])
        else:
            connection.sendall(head)
            _stream(connection, payload, chunked=chunked, cut_after=answer.cut_after)
        asked_to_close = "close" in [value.lower() for value in request.all("Connection")]
        return stays and answer.cut_after is None and not asked_to_close and not request.line.endswith("HTTP/1.0")


def _head(status: int, fields: Sequence[Header], reason: str | None) -> bytes:
    if reason is None:
        known = status in http.HTTPStatus.__members__.values()
        reason = http.HTTPStatus(status).phrase if known else "Unknown"
    lines = [f"HTTP/1.1 {status} {reason}".encode("latin-1")]
    lines += [octets(name) + b": " + octets(value) for name, value in fields]
    return b"\r\n".join([*lines, b"", b""])


def _stream(connection: socket.socket, chunks: Iterator[bytes], *, chunked: bool, cut_after: int | None) -> None:
    left = cut_after
    # A generator is closed as soon as the client has gone.
    closer = contextlib.closing(chunks) if hasattr(chunks, "close") else contextlib.nullcontext()
    with closer:
        for chunk in chunks:
            piece = chunk[:left]
            if piece:  # an empty chunk would end the body
                connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            if left is not None:
                left -= len(piece)
                if left == 0:
                    return
    if chunked and cut_after is None:
        connection.sendall(b"0\r\n\r\n")


def _drop(connection: socket.socket, request: Received, answer: Answer) -> bool:
    if answer.reset:
        # Lingering for no time makes close() send a reset.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif answer.drop_before_reading:
        hang_up(connection)
    request.leave_body()
    return False


def read_head(stream: BinaryIO) -> tuple[bytes, list[bytes]] | None:
    """A request or status line and the header lines, without line ends; None if the peer has closed."""
    lines: list[bytes] = []
    while line := stream.readline(1 << 20):
        line = line.removesuffix(b"\n").removesuffix(b"\r")  # noqa: PLW2901 - the same line, its end cut
        if not line and lines:
            return lines[0], lines[1:]
        if line:
            lines.append(line)
    return None


def read_body(stream: BinaryIO, request: Received) -> tuple[bytes, bool]:
    """The body as its client meant it, and whether it came to its end."""
    body = bytearray()
    try:
        if request.all("Transfer-Encoding"):
            while size := int(stream.readline().partition(b";")[0], 16):
                chunk = stream.read(size)
                body += chunk
                if len(chunk) < size or stream.readline() != b"\r\n":
                    return bytes(body), False
            while (trailer := stream.readline()) != b"\r\n":
                if not trailer:
                    return bytes(body), False
            return bytes(body), True
        length = int(request.one("Content-Length"))
        while len(body) < length and (piece := stream.read(min(65536, length - len(body)))):
            body += piece
        return bytes(body), len(body) == length
    except (OSError, ValueError):
        return bytes(body), False


@contextlib.contextmanager
def wire_servers(*handlers: Handler, tls: ssl.SSLContext | None = None) -> Iterator[list[WireServer]]:
    """A server for each handler, each an origin of its own: ``with wire_servers(api, evil) as (home, away):``."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(WireServer(handler, tls=tls)) for handler in handlers]
