# SPDX-License-Identifier: Apache-2.0
"""Sign each request where urllib3 writes it to its socket.

requests does not see the retries that urllib3 makes below it, and urllib3 does not know DPoP. So the connection signs.
Between the last header and the body it knows the method, target and Host exactly as they are on the wire. It also sees
the head of every response, even if urllib3 then retries the request. All kinds of connections (direct, TLS, tunnelled,
forwarded, SOCKS) are replaced in the same way, through the pool classes of every pool manager.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import time
from collections.abc import Callable
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, TypeVar, cast

import urllib3
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.response import BaseHTTPResponse, HTTPResponse
from urllib3.util.retry import Retry

from dpop._final_response import FinalResponse
from dpop.client._decoding import decoded_start
from dpop.client._driver import DRAIN_BYTES, DRAIN_SECONDS, ask_token, sign_now, wait_for_nonce
from dpop.client._flow import PEEK_BYTES, ProofFlow, Step

__all__ = ["Exchange", "Wire", "drain", "install_signing", "peek"]

_T = TypeVar("_T")

_PEEK_SECONDS = 5.0


class Exchange:
    """One call of the adapter: its flow, and the next step after the last response on the wire."""

    __slots__ = ("failure", "flow", "one_shot", "signed", "step", "tokens", "withheld")

    def __init__(self, flow: ProofFlow | None, *, one_shot: bool, withheld: frozenset[str]) -> None:
        self.flow = flow
        self.one_shot = one_shot
        self.withheld = withheld
        self.step = Step.DONE
        self.signed = False
        self.tokens: list[str | None] = []
        self.failure: BaseException | None = None

    @staticmethod
    def current() -> Exchange | None:
        """Return the exchange that this thread is sending, or ``None``."""
        return _current.get()

    def send(self, send: Callable[..., _T], *args: Any, **options: Any) -> _T:
        """Call ``send``; requests that this thread writes meanwhile belong to this exchange.

        A context variable carries the exchange to the connection, because urllib3 passes only the request there. The
        request must not be changed: it belongs to the caller, and redirects are made from it.
        """
        if self.flow is not None:
            # Ask before taking a connection: a token source may need a connection, and the pool may have only one.
            self.tokens = [ask_token(self.flow)]
            wait_for_nonce(self.flow)
        token = _current.set(self)
        try:
            return send(*args, **options)
        except _NotSignedError:
            if self.failure is None:  # pragma: no cover - always set before the error is raised
                raise
            raise self.failure from None
        finally:
            _current.reset(token)

    def headers(self, authority: str, target: str) -> list[tuple[str, str]]:
        """Sign one request on the wire and return its headers; a retry by urllib3 asks for a token again.

        :raises _NotSignedError: signing failed, for any reason. urllib3 would take an OSError of a token source or
            a key for an error of the connection, and try again.
        """
        flow = self.flow
        if flow is None:
            return []
        self.signed = True

        def signed() -> list[tuple[str, str]]:
            token = self.tokens.pop() if self.tokens else ask_token(flow)
            return sign_now(flow, flow.origin.scheme, authority or flow.origin.authority, target, token)

        try:
            return _apart(signed)
        except Exception as error:  # noqa: BLE001 - raised again by send()
            self.failure = error
            raise _NotSignedError from None


class Wire:
    """Records whether any byte of a request was written, in any of its attempts, and bounds the time of each response.

    :param seconds: for a whole response; a server may send it byte by byte, or informational responses without an end.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.sent = False

    def watch(self, send: Callable[..., _T], *args: Any, **options: Any) -> _T:
        """Call ``send``, and record whether this thread writes meanwhile."""
        token = _watched.set(self)
        try:
            return send(*args, **options)
        finally:
            _watched.reset(token)


class _NotSignedError(Exception):
    """Carries a failure through urllib3, which would treat some errors as its own and try again."""


_current: ContextVar[Exchange | None] = ContextVar("dpop_exchange", default=None)
_watched: ContextVar[Wire | None] = ContextVar("dpop_wire", default=None)


def _apart(function: Callable[..., _T], *args: Any) -> _T:
    """Call a function that may call the user's: a token source, a key or an event hook.

    These may send requests of their own. Such a request belongs neither to the exchange, whose token it would carry to
    another server, nor to the wire that is watched.
    """
    outer, watched = _current.set(None), _watched.set(None)
    try:
        return function(*args)
    finally:
        _watched.reset(watched)
        _current.reset(outer)


class _SigningConnection(HTTPConnection):
    """A mixin for each of urllib3's connection classes."""

    _exchange: Exchange | None = None
    _target: str = ""
    _host_field: str = ""

    # Forks of urllib3 have more arguments and return values; all are passed on unchanged.
    def putrequest(self, method: str, url: str, *args: Any, **options: Any) -> Any:
        self._exchange = _current.get()
        self._target = url
        self._host_field = ""
        return super().putrequest(method, url, *args, **options)

    def putheader(self, header: str, *values: str) -> None:  # type: ignore[override]
        if self._exchange is None:
            return super().putheader(header, *values)
        name = header.lower()
        if name in self._exchange.withheld:
            return None
        super().putheader(header, *values)
        if name == "host" and values:
            value: str | bytes = values[0]
            self._host_field = value.decode("latin-1") if isinstance(value, bytes) else value
        return None

    def endheaders(self, *args: Any, **options: Any) -> Any:
        exchange, wire = self._exchange, _watched.get()
        if self.sock is None and (wire is not None or (exchange is not None and exchange.flow is not None)):
            self.connect()  # first, so that waiting for a connection does not age the proof
        if exchange is not None and exchange.flow is not None:
            for name, value in exchange.headers(self._host_field, self._target):
                super().putheader(name, value)
        if wire is not None:
            wire.sent = True
        return super().endheaders(*args, **options)

    def getresponse(self, *args: Any, **options: Any) -> HTTPResponse:  # type: ignore[override]  # as in urllib3
        response = super().getresponse(*args, **options)
        exchange, self._exchange = self._exchange, None
        if exchange is not None and exchange.flow is not None:
            exchange.step = _apart(exchange.flow.received, response.status, response.headers.iteritems())
        return response


class _SigningPool(HTTPConnectionPool):
    """A mixin for each of urllib3's pool classes."""

    def urlopen(  # type: ignore[override]
        self,
        method: str,
        url: str,
        body: Any = None,
        headers: Any = None,
        retries: Any = None,
        *args: Any,
        **options: Any,
    ) -> BaseHTTPResponse:
        exchange = _current.get()
        if exchange is not None and exchange.one_shot and isinstance(retries, Retry):
            # The body can be read only once, so only failures before that may be retried: urllib3 would send an
            # empty body the second time.
            retries = retries.new(read=False, other=0, status=0, status_forcelist=(), respect_retry_after_header=False)
        return super().urlopen(method, url, body, headers, retries, *args, **options)


def install_signing(manager: urllib3.PoolManager) -> None:
    """Make a pool manager's pools and connections sign the requests that carry an exchange."""
    manager.pool_classes_by_scheme = {
        scheme: _signing_pool(pool) for scheme, pool in manager.pool_classes_by_scheme.items()
    }


@lru_cache(maxsize=32)
def _signing_pool(pool: type[HTTPConnectionPool]) -> type[HTTPConnectionPool]:
    if issubclass(pool, _SigningPool):
        return pool
    return type(f"Signing{pool.__name__}", (_SigningPool, pool), {"ConnectionCls": _ConnectionClass(pool)})


class _ConnectionClass:
    """Looks up a pool's connection class at each use, because test tools replace it to record or replay."""

    def __init__(self, pool: type[HTTPConnectionPool]) -> None:
        self._pool = pool

    def __get__(self, instance: object, owner: object = None) -> type[HTTPConnection]:
        return _signing_connection(self._pool.ConnectionCls)


@lru_cache(maxsize=32)
def _signing_connection(connection: Any) -> type[HTTPConnection]:
    own: dict[str, Any] = {}
    if getattr(connection, "response_class", None) is http.client.HTTPResponse:
        own["response_class"] = _TimedResponse
    return type(f"Signing{connection.__name__}", (_SigningConnection, connection), own)


class _TimedResponse(FinalResponse):
    """A response that is read by the deadline of the exchange, if it has one."""

    def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
        wire = _watched.get()
        super().__init__(sock if wire is None else cast("Any", _Timed(sock, wire.seconds)), *args, **options)


class _Timed(io.RawIOBase):
    """A socket as ``http.client`` reads a response from it, all of it before one deadline."""

    def __init__(self, sock: Any, seconds: float) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._deadline = time.monotonic() + seconds

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left, most = self._deadline - time.monotonic(), self._sock.gettimeout()
        if left <= 0:
            raise TimeoutError("the response did not end in time")
        self._sock.settimeout(left if most is None else min(left, most))
        return cast("int | None", self._raw.readinto(buffer))

    def close(self) -> None:
        self._raw.close()
        super().close()


def drain(raw: BaseHTTPResponse) -> None:
    """Read a short remaining body, so that the connection can be used again; close the connection if it is long."""
    try:
        if not _drained(raw):
            raw.close()
    finally:
        raw.release_conn()  # even if it is closed: a blocking pool waits until it gets the connection back


def _drained(raw: BaseHTTPResponse) -> bool:
    left = DRAIN_BYTES
    connection = cast("HTTPConnection | None", raw.connection)
    if connection is None:
        return True  # the body was read to its end, so the connection is back in its pool and may be in use again
    if connection.sock is None or (raw.length_remaining or 0) > left:
        return False  # the server closes it anyway, or there is too much to read
    deadline = time.monotonic() + DRAIN_SECONDS
    with contextlib.suppress(Exception):
        while (seconds := deadline - time.monotonic()) > 0:
            connection.sock.settimeout(seconds)  # urllib3 sets it again before each use
            chunk = raw.read1(left, decode_content=False)
            left -= len(chunk)
            if not chunk:
                return True
            if left <= 0:
                break
    return False


def peek(raw: BaseHTTPResponse) -> tuple[bytes, BaseHTTPResponse]:
    """Return the first bytes of a body, decoded, and a response that still has its complete body."""
    data = b""
    failure: Exception | None = None
    deadline = time.monotonic() + _PEEK_SECONDS
    try:
        while len(data) < PEEK_BYTES and time.monotonic() < deadline:
            chunk = raw.read1(PEEK_BYTES - len(data), decode_content=False)
            if not chunk:
                break
            data += chunk
    except Exception as error:  # noqa: BLE001 - raised again when the body is read, where requests expects it
        failure = error
    start = decoded_start(raw.headers.get("Content-Encoding"), data, PEEK_BYTES) or data
    return start, _PeekedResponse(data, raw, failure)


class _PeekedResponse(HTTPResponse):
    """A response whose first bytes were read already; its body still begins with them."""

    def __init__(self, data: bytes, raw: BaseHTTPResponse, failure: Exception | None) -> None:
        self._peeked = raw
        super().__init__(
            body=cast("Any", _Rejoined(data, raw, failure)),
            headers=raw.headers,
            status=raw.status,
            version=raw.version,
            reason=raw.reason,
            preload_content=False,
            decode_content=False,
            original_response=getattr(raw, "_original_response", None),
            request_method=getattr(raw, "_request_method", None),
            request_url=raw.url,
        )

    @property
    def connection(self) -> Any:
        return self._peeked.connection

    def release_conn(self) -> None:
        self._peeked.release_conn()

    def close(self) -> None:
        super().close()
        self._peeked.close()


class _Rejoined:
    """A file-like object: the bytes that were read already, then the unread rest of the body."""

    closed = False

    def __init__(self, data: bytes, raw: BaseHTTPResponse, failure: Exception | None) -> None:
        self._bytes = data
        self._raw = raw
        self._failure = failure

    def read(self, amt: int | None = None) -> bytes:
        if not self._bytes:
            return self._rest(amt)
        if amt is None:
            data, self._bytes = self._bytes, b""
            return data + self._rest(None)
        data, self._bytes = self._bytes[:amt], self._bytes[amt:]
        return data

    read1 = read

    def _rest(self, amt: int | None) -> bytes:
        if self._failure is not None:
            raise self._failure
        return self._raw.read(amt, decode_content=False)

    def close(self) -> None:
        self.closed = True
