# SPDX-License-Identifier: Apache-2.0
"""Ask another server, in a thread of its own, with bounds on time and size.

A look-up must not block an event loop, and several requests wait for one response. So each question runs in a thread
that ends with it, and those who wait are threads or tasks. Nothing runs between requests: a process that is
forked after it has loaded its application has no thread to lose.
"""

from __future__ import annotations

import io
import ipaddress
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar
from urllib.parse import urljoin

from dpop._forking import import_now
from dpop.errors import InsecureOriginError, InvalidTargetError, LookupUnavailableError
from dpop.origin import Origin, split_url

if TYPE_CHECKING:
    import socket
    import ssl

__all__ = [
    "Fetch",
    "Guard",
    "Lookup",
    "LookupRequest",
    "LookupResponse",
    "Waits",
    "check_configured_url",
    "check_url",
    "default_fetch",
    "run",
    "run_async",
]

_T = TypeVar("_T")
_MAX_REDIRECTS = 3
_REDIRECTS = {301, 302, 303, 307, 308}


class LookupRequest(NamedTuple):
    """A request to an authorization server.

    :param headers: names and values; no name occurs twice.
    :param body: empty for a GET.
    :param timeout: seconds for the whole response.
    :param max_bytes: bytes of the body that are read; a longer one is a failure.
    :param configured: the URL in the configuration from which this one follows. It says which hosts are trusted.
    """

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    timeout: float
    max_bytes: int
    configured: str

    def __repr__(self) -> str:
        return f"<LookupRequest {self.method} {self.url}>"


class LookupResponse(NamedTuple):
    """The response of an authorization server.

    :param headers: names in lower case, and values.
    """

    status: int
    headers: dict[str, str]
    body: bytes

    def __repr__(self) -> str:
        return f"<LookupResponse {self.status}>"


Fetch = Callable[[LookupRequest], LookupResponse]
"""Sends one request and returns its response. Called in a thread of its own; any exception means "cannot tell now".

It must end in time: while one has not ended, the keys of its issuer are not asked for again.
"""


def check_configured_url(url: str) -> None:
    """Check the URL of a server in the configuration: https, or http on this machine.

    :raises InsecureOriginError: http to another machine.
    :raises InvalidTargetError: not an http or https URL.
    """
    origin = Origin.of_url(url)
    if origin.scheme != "https" and not origin.is_loopback:
        raise InsecureOriginError(f"{origin} is not https: anybody on the network could choose the keys and responses")


def check_url(url: str, configured: str) -> None:
    """Check a URL that a server named: https, and not this machine, unless the configuration names this machine.

    Otherwise a hostile server could make this one ask the services beside it.

    :raises InsecureOriginError: plain http, or a host of this machine.
    :raises InvalidTargetError: not an http or https URL.
    """
    origin, home = Origin.of_url(url), Origin.of_url(configured)
    if home.is_loopback and origin.is_loopback:
        return
    if origin.scheme != "https":
        raise InsecureOriginError(f"{configured} leads to {origin}, which is not https")
    if origin.is_loopback and origin != home:
        raise InsecureOriginError(f"{configured} leads to {origin}, which is this machine")


# --- one question, in a thread of its own


class Guard:
    """A lock that its own thread cannot enter again, as a signal handler could try to; there it raises an error."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._is_inside = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock.

        :raises LookupUnavailableError: this thread holds it already.
        """
        with self._lock:
            if self._is_inside:
                raise LookupUnavailableError(
                    "this thread was interrupted inside the look-up, by a signal handler that asks it too",
                    retry_after=0,
                )
            self._is_inside = True
            try:
                yield
            finally:
                self._is_inside = False


class Lookup(Generic[_T]):
    """Work in a thread of its own, for which several threads and tasks can wait.

    :param work: a function that returns the result.
    :param timeout: seconds after which nobody waits any longer; the work has bounds of its own.
    :raises LookupUnavailableError: no thread can be started.
    """

    def __init__(self, work: Callable[[], _T], timeout: float) -> None:
        self._result: futures.Future[_T] = futures.Future()
        self._result.set_running_or_notify_cancel()  # a task that is cancelled cannot cancel it for others
        self._deadline = time.monotonic() + timeout
        try:
            threading.Thread(target=self._run, args=(work,), name="dpop-lookup", daemon=True).start()
        except RuntimeError as error:  # no more threads, or the interpreter is ending
            raise LookupUnavailableError(f"no thread for a look-up can be started: {error}") from None

    def _run(self, work: Callable[[], _T]) -> None:
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - those who wait get it
            self._result.set_exception(error)
        except BaseException as error:  # noqa: BLE001 - SystemExit, for example, would end the threads of those who wait
            self._result.set_exception(_copied(error))
        else:
            self._result.set_result(result)

    def wait(self) -> _T:
        """Wait for the result as a thread.

        :raises LookupUnavailableError: there is none in time. An error of the work is raised as it is.
        """
        try:
            return self._result.result(max(0.0, self._deadline - time.monotonic()))
        except futures.TimeoutError:
            if self._result.done():  # the work itself raised it
                raise
            raise self._late() from None

    async def wait_async(self) -> _T:
        """Wait for the result as a task of asyncio or trio.

        :raises LookupUnavailableError: there is none in time. An error of the work is raised as it is.
        """
        import asyncio  # noqa: PLC0415 - it loads ssl, and importing dpop.server stays light

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            trio: Any = sys.modules["trio"]  # the other event loop for which ASGI servers exist
            result: _T = await trio.to_thread.run_sync(self.wait, abandon_on_cancel=True)
            return result
        waiting = asyncio.wrap_future(self._result)
        # If this task is cancelled, nobody else retrieves an error, and asyncio would log it with its traceback.
        waiting.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        done, _ = await asyncio.wait([waiting], timeout=max(0.0, self._deadline - time.monotonic()))
        if not done:
            waiting.cancel()
            raise self._late()
        return waiting.result()

    def _late(self) -> LookupUnavailableError:
        return LookupUnavailableError("the authorization server did not respond in time")


Waits = Generator[Lookup[Any], Any, _T]
"""Steps that yield what they must wait for and get its result: one text for threads and for tasks."""


def run(steps: Waits[_T]) -> _T:
    """Run steps, waiting as a thread."""
    try:
        lookup = next(steps)
        while True:
            try:
                found = lookup.wait()
            except Exception as error:  # noqa: BLE001 - the steps decide
                lookup = steps.throw(_copied(error))
            else:
                lookup = steps.send(found)
    except StopIteration as end:
        result: _T = end.value
        return result
    finally:
        steps.close()


async def run_async(steps: Waits[_T]) -> _T:
    """Run steps, waiting as a task."""
    try:
        lookup = next(steps)
        while True:
            try:
                found = await lookup.wait_async()
            except Exception as error:  # noqa: BLE001 - the steps decide
                lookup = steps.throw(_copied(error))
            else:
                lookup = steps.send(found)
    except StopIteration as end:
        result: _T = end.value
        return result
    finally:
        steps.close()


def _copied(error: BaseException) -> Exception:
    """An error for one waiter: tracebacks of several would pile up in a shared one."""
    if isinstance(error, LookupUnavailableError):
        return LookupUnavailableError(str(error), retry_after=error.retry_after)
    return LookupUnavailableError(f"the look-up raised {type(error).__name__}")


# --- HTTP, with the standard library


def default_fetch(tls: ssl.SSLContext | None = None) -> Fetch:
    """Make the function that sends requests with the standard library: no proxies, no cookies, no credentials.

    A GET follows up to three redirects, each checked like :func:`check_url`. The whole response must come in time.

    :param tls: certificates to trust, and one's own, instead of the system's.
    """
    import_now("dpop._final_response", "encodings.idna", "http.client", "ssl")
    contexts: list[Any] = [] if tls is None else [tls]

    def fetch(request: LookupRequest) -> LookupResponse:
        deadline = time.monotonic() + request.timeout
        url = request.url
        for _ in range(_MAX_REDIRECTS + 1):
            origin = Origin.of_url(url)
            if origin.scheme == "https" and not contexts:
                import ssl  # noqa: PLC0415 - importing dpop.server stays light

                contexts.append(ssl.create_default_context())
            response = _exchange(request, url, origin, contexts[0] if contexts else None, deadline)
            location = response.headers.get("location")
            if request.method != "GET" or response.status not in _REDIRECTS or location is None:
                return response
            url = urljoin(url, location)
            check_url(url, request.configured)
        raise LookupUnavailableError(f"{request.configured} leads to more than {_MAX_REDIRECTS} redirects")

    return fetch


def _exchange(request: LookupRequest, url: str, origin: Origin, tls: Any, deadline: float) -> LookupResponse:
    import http.client  # noqa: PLC0415 - importing dpop.server stays light
    import socket  # noqa: PLC0415

    from dpop._final_response import FinalResponse  # noqa: PLC0415

    left = deadline - time.monotonic()
    if left <= 0:
        raise LookupUnavailableError(f"{origin} did not respond in {request.timeout:g} s")
    connection = http.client.HTTPConnection(origin.host, origin.port)
    connection.response_class = FinalResponse
    sock: Any = None
    try:
        sock = socket.create_connection((origin.host, origin.port), timeout=left)
        _check_peer(sock, origin, request.configured)
        if origin.scheme == "https":
            sock = tls.wrap_socket(sock, server_hostname=origin.host)
        connection.sock = _TimedSocket(sock, deadline)
        headers = {"Host": origin.authority, "Accept": "application/json", "Connection": "close"}
        connection.request(request.method, _target(url), request.body or None, headers | dict(request.headers))
        response = connection.getresponse()
        body = response.read(request.max_bytes + 1)
        if len(body) > request.max_bytes:
            raise LookupUnavailableError(f"the response of {origin} has more than {request.max_bytes} bytes")
        fields = {name.lower(): value for name, value in response.getheaders()}
        return LookupResponse(response.status, fields, body)
    except (OSError, http.client.HTTPException) as error:
        reason = "in time" if isinstance(error, TimeoutError) else f"as HTTP says ({type(error).__name__})"
        raise LookupUnavailableError(f"{origin} did not respond {reason}") from None
    finally:
        connection.close()
        if sock is not None:
            sock.close()


def _check_peer(sock: socket.socket, origin: Origin, configured: str) -> None:
    """Check that a name which another server chose does not lead to this machine."""
    home = Origin.of_url(configured)
    if origin == home or home.is_loopback:
        return
    address = ipaddress.ip_address(sock.getpeername()[0].partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None) or address
    if mapped.is_loopback:
        raise LookupUnavailableError(f"{configured} leads to {origin}, which is this machine")


def _target(url: str) -> str:
    """The request-target: path and query."""
    _, authority, path = split_url(url)
    rest = url.partition("//")[2].removeprefix(authority).partition("#")[0]
    if not rest.isascii() or not rest.isprintable() or " " in rest:
        raise InvalidTargetError("the URL has characters that no request may have")
    return rest if path else f"/{rest}"


class _TimedSocket:
    """A socket, as :mod:`http.client` uses one, for which each operation ends at one deadline.

    The timeout of a plain socket begins anew with each byte, so that a server could hold a thread for ever.
    """

    def __init__(self, sock: Any, deadline: float) -> None:
        self._socket = sock
        self._deadline = deadline

    def _limit(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)

    def sendall(self, data: Any) -> None:
        self._limit()
        self._socket.sendall(data)

    def makefile(self, mode: str, *_: Any) -> io.BufferedReader:  # noqa: ARG002 - http.client reads bytes only
        return io.BufferedReader(_Reader(self))

    def receive(self, buffer: Any) -> int:
        self._limit()
        received: int = self._socket.recv_into(buffer)
        return received

    def close(self) -> None:
        """Do nothing: the response may still be read from."""


class _Reader(io.RawIOBase):
    def __init__(self, source: _TimedSocket) -> None:
        super().__init__()
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._source.receive(buffer)
