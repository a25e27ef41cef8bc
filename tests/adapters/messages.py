# SPDX-License-Identifier: Apache-2.0
"""What a recording server got, what it shall answer, and handlers that stand between the two.

handler = Routes({"/token": Answer(200, body=b"{}"), "/r": Script([challenge("n1"), Answer(200)])})
"""

from __future__ import annotations

import gzip as _gzip
import json
import ssl
import threading
import time
import zlib
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Answer", "Handler", "Received", "Routes", "Script", "challenge", "endless", "huge"]

Header = tuple[str | bytes, str | bytes]
Body = bytes | Iterable[bytes] | Callable[[], Iterable[bytes]]


@dataclass(eq=False)
class Received:
    """One request as it came.

    The body is read when it is first asked for, by the handler or, after it, by the server; so a handler can
    answer, or have the connection dropped, before the client's body was read.
    """

    raw_line: bytes
    """The request line without its line end. HTTP/2 has none: ``GET /path HTTP/2`` is made of its pseudo headers."""
    raw_headers: list[bytes]
    """The header lines in order, octet by octet, without their line ends."""
    connection: int = 1
    """Which connection of this server it came on, from 1."""
    sequence: int = 1
    """Which request of its connection it is, from 1."""
    server: str = ""
    """The name of the server, if a test gave it one."""
    scheme: str = "http"
    pseudo: dict[str, str] = field(default_factory=dict)
    """HTTP/2's ``:method``, ``:scheme``, ``:authority`` and ``:path``; empty for HTTP/1.1."""
    client_certificate: Mapping[str, Any] | None = None
    """What ``ssl.SSLSocket.getpeercert`` says of the client, if it showed a certificate."""
    read_body: Callable[[], tuple[bytes, bool]] | None = field(default=None, repr=False)
    _read: tuple[bytes, bool] | None = field(default=None, repr=False)
    _reading: threading.RLock = field(default_factory=threading.RLock, repr=False)

    @property
    def line(self) -> str:
        return self.raw_line.decode("latin-1")

    @property
    def method(self) -> str:
        return self.line.partition(" ")[0]

    @property
    def target(self) -> str:
        """The request target as sent: origin form, or absolute form where a proxy is spoken to."""
        return self.line.partition(" ")[2].rpartition(" ")[0]

    @property
    def path(self) -> str:
        """The target's path alone."""
        return urlsplit(self.target).path if "://" in self.target else self.target.partition("?")[0]

    @cached_property
    def headers(self) -> list[tuple[str, str]]:
        """Names and values in order, names as spelt, every octet a character."""
        pairs = (line.decode("latin-1").partition(":") for line in self.raw_headers)
        return [(name, value.strip(" \t")) for name, _, value in pairs]

    def all(self, name: str) -> list[str]:
        """Every value of a header, in order."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def one(self, name: str) -> str:
        """The value of a header that is there exactly once."""
        values = self.all(name)
        assert len(values) == 1, f"{len(values)} {name} headers in {self.line}, not one"
        return values[0]

    @property
    def origin(self) -> str:
        """The origin the client meant: from Host, or from ``:authority``."""
        return f"{self.scheme}://{self.pseudo.get(':authority') or self.one('Host')}"

    # -- body --

    @property
    def body(self) -> bytes:
        """The body's octets, the chunked coding taken off; as much as came if it was cut."""
        return self._body()[0]

    @property
    def complete(self) -> bool:
        """Whether the body came, and was read, to its end."""
        return self._body()[1]

    def leave_body(self) -> None:
        """Read no body any more."""
        with self._reading:
            self._read = self._read or (b"", False)

    def _body(self) -> tuple[bytes, bool]:
        with self._reading:
            if self._read is None:
                self._read = self.read_body() if self.read_body else (b"", True)
            return self._read

    # -- proof --

    @property
    def proof(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Header and claims of the one proof, decoded and not verified."""
        header, claims, _ = self.one("DPoP").split(".")
        return _decoded(header), _decoded(claims)

    @property
    def claims(self) -> dict[str, Any]:
        """The claims of the one proof."""
        return self.proof[1]

    @property
    def jwk(self) -> dict[str, Any]:
        """The public key in the one proof."""
        jwk: dict[str, Any] = self.proof[0]["jwk"]
        return jwk

    @property
    def nonce(self) -> str | None:
        """The nonce in the one proof."""
        nonce: str | None = self.claims.get("nonce")
        return nonce


def _decoded(part: str) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return decoded


@dataclass
class Answer:
    """What the server does with a request. Characters of headers are octets (latin-1).

    Content-Length is added to bytes and Transfer-Encoding to an iterable, unless ``headers`` has either: then
    the body goes out as it is. An iterable is used up by one answer; give a function that makes one for more.
    """

    status: int = 200
    headers: Sequence[Header] = ()
    body: Body = b""
    drop: bool = False
    """Read the request to its end, then close without an answer."""
    content_length: int | None = None
    """What Content-Length says, true or not. An iterable body is then sent plainly, not chunked."""
    drop_before_reading: bool = False
    """Close without an answer and without reading the body."""
    reset: bool = False
    """With a drop: a TCP reset (RST) and not an orderly end (FIN)."""
    early: bool = False
    """Answer without waiting for the request's body, and close."""
    close: bool = False
    """Say ``Connection: close``, and do so."""
    silent_close: bool = False
    """Close after the answer and do not say so: the client's pool is left with a dead connection."""
    until_close: bool = False
    """Neither length nor chunks: the body ends where the connection does."""
    cut_after: int | None = None
    """Close after so many octets of the body (framing not counted), whatever was announced."""
    delay: float = 0
    """Seconds before the answer."""
    gzip: bool = False
    """Compress the body, and say so."""
    interim: Sequence[tuple[int, Sequence[Header]]] = ()
    """1xx answers before this one, sent before the body is read if the handler did not ask for it."""
    reason: str | None = None
    """The reason phrase; the usual one by default."""
    raw: bytes | None = None
    """Send exactly these octets and close; nothing else above counts."""

    def payload(self) -> bytes | Iterator[bytes]:
        """The body to send, compressed if it is to be."""
        body = self.body() if callable(self.body) else self.body
        if isinstance(body, bytes):
            return _gzip.compress(body, mtime=0) if self.gzip else body
        return _squeezed(body) if self.gzip else iter(body)

    def has(self, name: str) -> bool:
        """Whether the test itself sets this header."""
        return any(octets(key).lower() == name.lower().encode() for key, _ in self.headers)


def octets(text: str | bytes) -> bytes:
    """A header's name or value as sent."""
    return text if isinstance(text, bytes) else text.encode("latin-1")


def _squeezed(chunks: Iterable[bytes]) -> Iterator[bytes]:
    compressor = zlib.compressobj(wbits=31)
    for chunk in chunks:
        yield compressor.compress(chunk) + compressor.flush(zlib.Z_SYNC_FLUSH)
    yield compressor.flush()


def endless(
    status: int = 200, headers: Sequence[Header] = (), *, chunk: bytes = b"x" * 1024, pause: float = 0.002
) -> Answer:
    """An answer whose body goes on until the client closes; the pause keeps it from eating a core."""

    def forever() -> Iterator[bytes]:
        while True:
            yield chunk
            time.sleep(pause)

    return Answer(status, headers, forever)


def huge(size: int, status: int = 200, headers: Sequence[Header] = (), *, octet: bytes = b"x") -> Answer:
    """An answer of so many octets, announced by Content-Length and made while it is sent."""

    def pieces() -> Iterator[bytes]:
        piece = octet * 65536
        for _ in range(size // len(piece)):
            yield piece
        yield piece[: size % len(piece)]

    return Answer(status, headers, pieces, content_length=size)


def challenge(nonce: str, body: bytes = b"") -> Answer:
    """A resource server's wish for this nonce (RFC 9449 §9)."""
    return Answer(401, [("WWW-Authenticate", 'DPoP error="use_dpop_nonce"'), ("DPoP-Nonce", nonce)], body)


Handler = Callable[[Received], Answer]
"""Called in the thread of the connection; may wait, and may fail: the test then fails when the server is closed."""


class Script:
    """Answers in sequence; the last one repeats. A step may be a handler."""

    def __init__(self, steps: Iterable[Answer | Handler]) -> None:
        self._steps = list(steps)
        self._lock = threading.Lock()
        assert self._steps, "a script needs at least one answer"

    def __call__(self, request: Received) -> Answer:
        with self._lock:
            step = self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]
        return step if isinstance(step, Answer) else step(request)


class Routes:
    """A handler or an answer for each path, the query apart; 404 for any other, unless told otherwise."""

    def __init__(self, routes: Mapping[str, Answer | Handler], *, default: Answer | Handler | None = None) -> None:
        self._routes = dict(routes)
        self._default = default or Answer(404)

    def __call__(self, request: Received) -> Answer:
        found = self._routes.get(request.path, self._default)
        return found if isinstance(found, Answer) else found(request)


def certificate_of(connection: ssl.SSLSocket | ssl.SSLObject) -> Mapping[str, Any] | None:
    """The client's certificate, None if it showed none."""
    return connection.getpeercert() or None
