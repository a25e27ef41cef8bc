# SPDX-License-Identifier: Apache-2.0
"""A port on 127.0.0.1 with a thread for each connection: what the recording server and the proxies share.

class Echo(Listener):
    def serve(self, connection: socket.socket, number: int) -> None:
        connection.sendall(connection.recv(100))

with Echo() as echo, socket.create_connection(("127.0.0.1", echo.port)) as client:
    ...
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self, TypeVar

__all__ = ["Listener", "hang_up", "linger"]

Socket = TypeVar("Socket", bound=socket.socket)

PATIENCE = 10.0
"""Seconds until a wait in a test is given up. It decides no test; it only ends one that has failed."""


class Listener:
    """Accepts connections until it is closed; leaving the ``with`` block ends every connection and thread.

    What goes wrong in ``serve`` is kept in ``failures`` and the first of it raised at the end of the block, so
    that an assertion in a thread fails its test. A peer that goes away, in whatever way, is no failure.
    """

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self._listening.getsockname()[1]
        self.connections = 0
        """How many connections were accepted."""
        self.failures: list[BaseException] = []
        self.closing = threading.Event()
        self._changed = threading.Condition()
        self._sockets: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self._acceptor = threading.Thread(target=self._accept, daemon=True)

    def serve(self, connection: socket.socket, number: int) -> None:
        """Talk to one client; ``number`` counts connections from 1. The connection is closed afterwards."""
        raise NotImplementedError

    @property
    def open_connections(self) -> int:
        """How many connections have a thread now."""
        with self._changed:
            return len(self._threads)

    def wait_until_idle(self, timeout: float = PATIENCE) -> None:
        """Wait until no connection is open, and no thread serves one."""
        with self._changed:
            idle = self._changed.wait_for(lambda: not self._threads, timeout)
            assert idle, f"{len(self._threads)} connections are still open after {timeout} s"

    def hang_up(self) -> None:
        """End every open connection at once, as a restart would; new ones are welcome."""
        with self._changed:
            sockets = list(self._sockets)
        for one in sockets:
            hang_up(one)

    @contextlib.contextmanager
    def watched(self, connection: Socket) -> Iterator[Socket]:
        """Close a socket after the block, and hang it up earlier if the listener is closed."""
        with self._changed:
            self._sockets.add(connection)
        try:
            if self.closing.is_set():
                hang_up(connection)
            with connection:
                yield connection
        finally:
            with self._changed:
                self._sockets.discard(connection)

    def __enter__(self) -> Self:
        self._acceptor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        # A connection of our own wakes accept() on every system; closing the socket does so only on some.
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), PATIENCE).close()
        self._acceptor.join(PATIENCE)
        self._listening.close()
        self.hang_up()
        deadline = time.monotonic() + PATIENCE
        with self._changed:
            threads = list(self._threads)
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if stuck := sum(thread.is_alive() for thread in threads):
            self.failures.append(RuntimeError(f"{stuck} connections are still served: does a handler wait for ever?"))
        if not self.failures:
            return
        if error is None:
            raise self.failures[0]
        error.add_note(f"A server of this test failed as well: {self.failures[0]!r}")

    def _accept(self) -> None:
        while True:
            connection, _ = self._listening.accept()
            if self.closing.is_set():
                connection.close()
                return
            self.connections += 1
            thread = threading.Thread(target=self._run, args=(connection, self.connections), daemon=True)
            with self._changed:
                self._threads.add(thread)
            thread.start()

    def _run(self, connection: socket.socket, number: int) -> None:
        try:
            # The last resort for a client that neither speaks nor leaves.
            connection.settimeout(60)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.watched(connection):
                self.serve(connection, number)
        except (OSError, EOFError):
            pass
        except BaseException as error:  # noqa: BLE001 - raised again by __exit__
            self.failures.append(error)
        finally:
            with self._changed:
                self._threads.discard(threading.current_thread())
                self._changed.notify_all()


def hang_up(connection: socket.socket) -> None:
    """End both directions; a thread that waits for this socket goes on at once."""
    with contextlib.suppress(OSError):
        # The plain method even on a TLS socket, whose own one would change it under the feet of its thread.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def linger(connection: socket.socket) -> None:
    """Say no more, and read until the client has closed.

    A socket closed with octets unread sends a reset, which can overtake the answer just sent.
    """
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_WR)
        while connection.recv(65536):
            pass
