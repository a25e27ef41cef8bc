# SPDX-License-Identifier: Apache-2.0
"""A small HTTP/1.1 server with a thread per connection, on this machine only.

It prints nothing, keeps connections alive and writes each response at once. After it has stopped, none of its threads
and sockets remain.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable
from email.utils import formatdate

from dpop.errors import UsageError
from dpop.testing._http_message import BadRequest, RequestReader, response_bytes
from dpop.testing._messages import Request, Response, empty

__all__ = ["HTTPServer"]

_LOGGER = logging.getLogger("dpop.testing")

_BACKLOG = 512
_PAUSE_SECONDS = 0.05
_IDLE_SECONDS = 60
_STOP_SECONDS = 5.0
_LINGER_SECONDS = 1.0
_LINGER_BYTES = 4_194_304

Respond = Callable[[Request, int], Response | None]


class HTTPServer:
    """An HTTP server that listens as soon as it is made, and serves between :meth:`start` and :meth:`stop`.

    :param host: the address or name to listen on.
    :param port: the port; 0 for a free one.
    :param clock: Unix seconds, for the Date field.
    :param connected: a function that is called for each connection.
    :raises UsageError: the server cannot listen on this address.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        clock: Callable[[], float] = time.time,
        connected: Callable[[], None] = lambda: None,
    ) -> None:
        self._clock = clock
        self._connected = connected
        self._listener = _listen(host, port)
        self._host = host
        self._lock = threading.Lock()
        self._connections: dict[threading.Thread, socket.socket] = {}
        self._accepted = 0
        self._stopping = False
        self._wake, self._woken = socket.socketpair()
        self._acceptor: threading.Thread | None = None
        self._date = (0, "")

    @property
    def port(self) -> int:
        """The port of the listener."""
        return int(self._listener.getsockname()[1])

    @property
    def authority(self) -> str:
        """``host:port``, an IPv6 address in brackets; without the port if it is 80."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return host if self.port == 80 else f"{host}:{self.port}"

    def start(self, respond: Respond) -> None:
        """Begin to serve, in separate threads."""
        # Read once: the property asks the socket, which stop() closes.
        authority = self.authority
        self._acceptor = threading.Thread(
            target=self._accept, args=(respond, authority), name="dpop-testing-accept", daemon=True
        )
        self._acceptor.start()

    def stop(self) -> None:
        """Close the listener and all connections, and wait for their threads."""
        self._stopping = True
        self._wake.send(b"x")
        if self._acceptor is not None:
            self._acceptor.join(_STOP_SECONDS)
        self._listener.close()
        with self._lock:
            connections = dict(self._connections)
        for connection in connections.values():
            _shut(connection)
        deadline = time.monotonic() + _STOP_SECONDS
        for thread in connections:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._wake.close()
        self._woken.close()

    # --- threads

    def _accept(self, respond: Respond, authority: str) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while not self._stopping:
                selector.select()
                try:
                    connection, _ = self._listener.accept()
                except BlockingIOError:
                    continue  # woken to stop, or the client has already gone
                except OSError:
                    time.sleep(_PAUSE_SECONDS)  # there is no free descriptor: trying again at once would not help
                    continue
                self._accepted += 1
                thread = threading.Thread(
                    target=self._serve,
                    args=(connection, respond, authority, self._accepted),
                    name=f"dpop-testing-{self._accepted}",
                    daemon=True,
                )
                with self._lock:
                    self._connections[thread] = connection
                self._connected()
                thread.start()

    def _serve(self, connection: socket.socket, respond: Respond, authority: str, number: int) -> None:
        try:
            with connection:
                connection.settimeout(_IDLE_SECONDS)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._converse(connection, RequestReader(connection, authority), respond, number)
        except OSError:
            pass  # the client went away, or was silent too long: no response is possible
        finally:
            with self._lock:
                del self._connections[threading.current_thread()]

    def _converse(self, connection: socket.socket, reader: RequestReader, respond: Respond, number: int) -> None:
        while reader.keep_alive and not self._stopping:
            method = ""
            try:
                request = reader.read()
                if request is None:
                    return
                method = request.method
                response = respond(request, number)
            except BadRequest as error:
                self._write(connection, empty(error.status), method, keep_alive=False)
                _linger(connection)
                return
            except OSError:
                raise
            except Exception:
                _LOGGER.exception("the test server failed while it handled a request; this is a bug of the test server")
                reader.keep_alive = False
                response = empty(500)
            if response is None:
                return
            self._write(connection, response, method, keep_alive=reader.keep_alive)

    def _write(self, connection: socket.socket, response: Response, method: str, *, keep_alive: bool) -> None:
        pieces = response_bytes(response, method=method, date=self._http_date(), keep_alive=keep_alive)
        for piece in pieces:
            connection.sendall(piece)

    def _http_date(self) -> str:
        """The Date field, formatted once a second."""
        now = int(self._clock())
        second, text = self._date
        if second != now:
            text = formatdate(now, usegmt=True)
            self._date = (now, text)
        return text


def _listen(host: str, port: int) -> socket.socket:
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise UsageError(f"{host} is not an address of this machine: {error.strerror}") from error
    listener = socket.socket(address[0], socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            # This allows reuse of a port that was just in use; on Windows the option would share the port instead.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address[4])
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except (OSError, OverflowError) as error:
        listener.close()
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(
            f"cannot listen on port {port} of {host}: {why}; choose another port, or 0 for a free one"
        ) from error
    return listener


def _linger(connection: socket.socket) -> None:
    """Read for some time: closing a connection with unread bytes would reset it, and lose our response."""
    connection.shutdown(socket.SHUT_WR)
    connection.settimeout(_LINGER_SECONDS)
    left = _LINGER_BYTES
    while left > 0 and (data := connection.recv(65_536)):
        left -= len(data)


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it may be closed already
        connection.shutdown(socket.SHUT_RDWR)
