# SPDX-License-Identifier: Apache-2.0
"""Reading HTTP/1.1 requests and writing responses, as far as a test server needs it (RFC 9112).

It is strict if two readers could understand a request differently. All limits are constants.
"""

from __future__ import annotations

import hashlib
import re
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from http import HTTPStatus

from dpop.testing._messages import KEPT_BODY, Headers, Request, Response

__all__ = ["BadRequest", "RequestReader", "response_bytes"]

_MAX_HEAD = 65_536
_MAX_CHUNK_LINE = 1_024
_RECEIVE = 65_536

_REQUEST_LINE = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([\x21-\x7e]+) HTTP/1\.([01])\Z")
_FIELD = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\x00\r\n]*?)[ \t]*\Z")


class BadRequest(Exception):  # noqa: N818 - never leaves this package; the name is the status's
    """A malformed request; the connection ends with this status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


@dataclass(frozen=True, slots=True)
class _Head:
    method: str
    target: str
    minor: int
    headers: Headers

    def one(self, name: str) -> str | None:
        """Return the value of a field that may occur only once."""
        values = [value for field, value in self.headers if field.lower() == name]
        if len(values) > 1:
            raise BadRequest(400)
        return values[0] if values else None


class RequestReader:
    """Reads the requests of one connection, one after the other.

    :param authority: the server's ``host:port``, for a request-target in absolute form.
    """

    def __init__(self, connection: socket.socket, authority: str) -> None:
        self._connection = connection
        self._authority = authority
        self._buffer = bytearray()
        self.keep_alive: bool = True

    def read(self) -> Request | None:
        """Read the next request; None at the end of the connection.

        :raises BadRequest: the request is malformed.
        :raises OSError: the connection broke or stayed silent too long.
        """
        head = self._read_head()
        if head is None:
            return None
        connection = (head.one("connection") or "").lower()
        self.keep_alive = head.minor == 1 and "close" not in connection
        coding, length = head.one("transfer-encoding"), head.one("content-length")
        if coding is not None and (coding.lower() != "chunked" or length is not None or head.minor == 0):
            raise BadRequest(400)
        if length is not None and not (length.isascii() and length.isdigit() and len(length) < 16):
            raise BadRequest(400)
        if (head.one("expect") or "").lower() == "100-continue" and not self._buffer:
            self._connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        pieces = self._chunks() if coding is not None else self._bytes(int(length or "0"))
        return _request(head, self._origin_form(head.target), pieces)

    def _read_head(self) -> _Head | None:
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > _MAX_HEAD:
                raise BadRequest(431)
            if not self._receive():
                return None
        text = self._buffer[:end].decode("latin-1")
        del self._buffer[: end + 4]
        first, *lines = text.lstrip("\r\n").split("\r\n")
        request_line = _REQUEST_LINE.match(first)
        if request_line is None:
            raise BadRequest(400)
        fields = [_FIELD.match(line) for line in lines]
        headers = [(field[1], field[2]) for field in fields if field is not None]
        if len(headers) < len(fields):
            raise BadRequest(400)
        head = _Head(request_line[1], request_line[2], int(request_line[3]), headers)
        if head.one("host") is None and head.minor == 1:
            raise BadRequest(400)
        return head

    def _origin_form(self, target: str) -> str:
        """Return the target without scheme and authority, which a client may send (RFC 9112 §3.2.2)."""
        if target.startswith("/") or target == "*":
            return target
        scheme, _, rest = target.partition("://")
        authority, slash, path = rest.partition("/")
        if scheme.lower() != "http" or authority.lower() != self._authority:
            raise BadRequest(421)
        return slash + path or "/"

    def _bytes(self, length: int) -> Iterator[bytes]:
        while length:
            if not self._buffer and not self._receive():
                raise BadRequest(400)
            piece = bytes(self._buffer[:length])
            del self._buffer[:length]
            length -= len(piece)
            yield piece

    def _chunks(self) -> Iterator[bytes]:
        """Read a chunked body (RFC 9112 §7.1); trailers are dropped."""
        while True:
            size = self._line().partition(b";")[0].strip()
            if not re.fullmatch(rb"[0-9A-Fa-f]{1,15}", size):
                raise BadRequest(400)
            if not int(size, 16):
                break
            yield from self._bytes(int(size, 16))
            if self._line():
                raise BadRequest(400)
        while self._line():
            pass

    def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > _MAX_CHUNK_LINE or not self._receive():
                raise BadRequest(400)
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _receive(self) -> bool:
        data = self._connection.recv(_RECEIVE)
        self._buffer += data
        return bool(data)


def _request(head: _Head, target: str, pieces: Iterable[bytes]) -> Request:
    """Read a body of any length and keep its beginning."""
    digest, kept, length = hashlib.sha256(), bytearray(), 0
    for piece in pieces:
        digest.update(piece)
        length += len(piece)
        if len(kept) < KEPT_BODY:
            kept += piece[: KEPT_BODY - len(kept)]
    return Request(head.method, target, head.headers, bytes(kept), length, digest.hexdigest())


def response_bytes(response: Response, *, method: str, date: str, keep_alive: bool) -> Iterator[bytes]:
    """Yield the bytes of a response, one piece for each write.

    A body of bytes is sent together with its head in one piece; an iterable is chunked (RFC 9112 §7.1).
    """
    try:
        phrase = HTTPStatus(response.status).phrase
    except ValueError:
        phrase = ""
    lines = [f"HTTP/1.1 {response.status} {phrase}", f"Date: {date}"]
    lines += [f"{name}: {value}" for name, value in response.headers]
    if not keep_alive:
        lines.append("Connection: close")
    body = response.body
    if isinstance(body, bytes):
        if response.status != 204:
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        yield head if method == "HEAD" or response.status in {204, 304} else head + body
        return
    lines.append("Transfer-Encoding: chunked")
    yield "\r\n".join([*lines, "", ""]).encode("latin-1")
    if method != "HEAD":
        for piece in body:
            yield b"%x\r\n%b\r\n" % (len(piece), piece)
        yield b"0\r\n\r\n"
