# SPDX-License-Identifier: Apache-2.0
"""The agent: takes connections, and has each request served.

Each connection has a thread, which is all the concurrency there is: a client that stops in the middle of a
frame delays only its own thread, and a key that waits for a touch only those who ask for that key.
"""

from __future__ import annotations

import contextlib
import errno
import selectors
import signal
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from heapq import nsmallest
from typing import Any, Final

from dpop._tracebacks import clear_frames, hide_frames
from dpop.agent._held import Ask
from dpop.agent._logins import AgentLogins
from dpop.agent._peer import executable_of, peer_of
from dpop.agent._place import check_system
from dpop.agent._protocol import MAX_REQUEST, Frames, Refusal, pack, read_request
from dpop.agent._rules import AgentRules, KeyRules
from dpop.agent._service import Service

__all__ = ["Agent"]

_MAX_CONNECTIONS: Final = 256
_ROOM: Final = 32  # connections that are ended at once where there are too many
_FRAME_SECONDS: Final = 5.0  # from the first byte of a frame to its last, and for a response to be taken
_STOP_SECONDS: Final = 2.0
_CHUNK: Final = 64 * 1024
_TIMEVAL: Final = struct.Struct("ll")


class Agent:
    """A signing agent. Make one, then call :meth:`serve` with a listening socket; it returns after :meth:`stop`.

    The keys are opened at once.

    :param rules: the keys, and what each may sign; or what :func:`dpop.agent.read_rules` read.
    :param read: reads the rules anew for :meth:`reload`; None if there is nothing to read.
    :param ask: asks for the password or PIN of a key.
    :param audit: takes each signature, access token and refusal as a dict; what it raises keeps the response back.
    :param clock: seconds since the epoch.
    :param logins: the logins whose access tokens it keeps fresh and gives out; None if it only signs.
    :raises DPoPKeyError: a key cannot be opened.
    :raises TokenStoreError: the logins cannot be read.
    :raises UsageError: no keys, or two of one name.
    """

    @hide_frames
    def __init__(
        self,
        rules: AgentRules | Iterable[KeyRules],
        *,
        read: Callable[[], AgentRules] | None = None,
        ask: Ask | None = None,
        audit: Callable[[Mapping[str, Any]], object] | None = None,
        clock: Callable[[], float] = time.time,
        logins: AgentLogins | None = None,
    ) -> None:
        check_system()
        self._connections: dict[int, _Connection] = {}
        self._guard = threading.Lock()
        self._stopping = False
        self._service = Service(
            rules if isinstance(rules, AgentRules) else AgentRules(tuple(rules)),
            read=read,
            ask=ask,
            audit=audit,
            clock=clock,
            stop=self.stop,
            connections=lambda: len(self._connections),
            logins=logins,
        )
        self._keeps_fresh = logins is not None
        self._wake: socket.socket | None = None

    # --- its life

    def serve(self, listener: socket.socket) -> None:
        """Take connections until :meth:`stop` is called. The listener is closed at the end.

        :param listener: a listening Unix stream socket.
        """
        listener.setblocking(False)
        wake, woken = socket.socketpair()
        with listener, wake, woken, selectors.DefaultSelector() as selector:
            wake.setblocking(False)
            woken.setblocking(False)
            self._wake = wake
            selector.register(listener, selectors.EVENT_READ)
            selector.register(woken, selectors.EVENT_READ)
            keeper = threading.Thread(target=self._service.accounts.keep_fresh, name="dpop agent", daemon=True)
            if self._keeps_fresh:
                keeper.start()
            with _woken_by_signals(wake):
                while not self._stopping:
                    selector.select(self._service.until_lock())
                    with contextlib.suppress(BlockingIOError):
                        woken.recv(4096)
                    self._accept(listener)
        self._service.accounts.stop()
        with self._guard:
            left = list(self._connections.values())
        for connection in left:
            connection.end()
        due = time.monotonic() + _STOP_SECONDS
        for thread in (*(connection.thread for connection in left), *([keeper] if self._keeps_fresh else [])):
            thread.join(max(0.0, due - time.monotonic()))
        self._service.lock()

    def stop(self) -> None:
        """Have :meth:`serve` return; from a signal handler, another thread, or a request."""
        self._stopping = True
        if self._wake is not None:
            with contextlib.suppress(OSError):  # it has been woken, or has ended
                self._wake.send(b"\0")

    def lock(self) -> None:
        """Forget all keys, until :meth:`unlock`."""
        self._service.lock()

    @hide_frames
    def unlock(self, ask: Ask | None = None) -> None:
        """Open all keys again.

        :param ask: asks for the password or PIN of a key.
        :raises DPoPKeyError: one of them cannot be opened. Those opened before it can sign.
        """
        self._service.unlock(ask)

    @hide_frames
    def reload(self) -> str | None:
        """Read the rules anew. If anything is wrong with them, nothing changes, and the problem is returned."""
        return self._service.reload()

    def __repr__(self) -> str:
        return "<Agent>"

    # --- connections

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError as error:
            if error.errno in {errno.EMFILE, errno.ENFILE} and not self._make_room():
                time.sleep(0.05)  # the listener stays ready, so without this the loop would spin
            return
        with self._guard:
            full = len(self._connections) >= _MAX_CONNECTIONS
        if full and not self._make_room():
            with connection, contextlib.suppress(OSError):
                connection.setblocking(False)
                connection.send(pack(Refusal("busy", f"all {_MAX_CONNECTIONS} connections are in use").response()))
            return
        try:
            made = _Connection(self._service, self._ended, connection)
        except OSError:  # it is gone
            connection.close()
            return
        with self._guard:
            self._connections[id(made)] = made
        try:
            made.thread.start()
        except RuntimeError:  # the system has no thread left
            self._ended(made)
            connection.close()

    def _make_room(self) -> bool:
        """End the connections that stood idle for the longest, of the user who has most of them.

        Their clients find that out at their next request, and connect again. Several at once, because looking for them
        takes longer than ending them.
        """
        with self._guard:
            idle = [each for each in self._connections.values() if each.idle_since is not None]
            held = Counter(each.peer.uid for each in self._connections.values())
            chosen = nsmallest(_ROOM, idle, key=lambda each: (-held[each.peer.uid], each.idle_since or 0.0))
            for connection in chosen:
                del self._connections[id(connection)]
        for connection in chosen:
            connection.end()
        return bool(chosen)

    def _ended(self, connection: _Connection) -> None:
        """Note that the thread of a connection ends."""
        with self._guard:
            self._connections.pop(id(connection), None)


@contextlib.contextmanager
def _woken_by_signals(wake: socket.socket) -> Iterator[None]:
    """Have each signal write to a socket.

    Python's handlers run in the main thread, between two of its steps. A signal that another thread receives, or that
    comes just before the main thread begins to wait, would otherwise have its handler run when the wait ends, which
    may be never.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)


class _Connection:
    """One client's connection, and the thread that serves it.

    :param idle_since: when its last request was served; None while one is.
    """

    def __init__(self, service: Service, ended: Callable[[_Connection], None], connection: socket.socket) -> None:
        self._service = service
        self._ended = ended
        self._socket = connection
        self.peer = peer_of(connection)
        self.idle_since: float | None = time.monotonic()
        self.thread = threading.Thread(target=self._run, name="dpop agent", daemon=True)

    def end(self) -> None:
        """Have its thread end, also one that waits for a request."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        try:
            with self._socket, contextlib.suppress(OSError):
                self._serve()
        finally:
            self._service.left(self.peer)
            self._ended(self)

    def _serve(self) -> None:
        # The kernel keeps the time, on a blocking socket: Python's own timeouts cost three system calls a request.
        self._socket.setblocking(True)
        self._limit(socket.SO_SNDTIMEO, _FRAME_SECONDS)
        if not self._service.admits(self.peer):
            self._send(Refusal("denied", f"this agent does not serve the user {self.peer.uid}").response())
            return
        executable = executable_of(self.peer.pid)
        frames = Frames(MAX_REQUEST)
        while True:
            try:
                frame = self._frame(frames)
            except Refusal as refusal:
                self._send(refusal.response())
                return  # nothing tells where the next frame would begin
            if frame is None:
                return
            self.idle_since = None
            response = self._response(frame, executable)
            self._send(response)
            if response.get("stopping"):
                self._service.end_agent()  # only now, or the response would be lost with the connection
            self.idle_since = time.monotonic()

    def _frame(self, frames: Frames) -> bytes | None:
        """Receive a frame; None at the end of the connection. A client may take its time before a frame, not within."""
        due: float | None = None
        while (frame := frames.next()) is None:
            if frames.within:
                due = due or time.monotonic() + _FRAME_SECONDS
                left = due - time.monotonic()
                if left <= 0:
                    return None
                self._limit(socket.SO_RCVTIMEO, left)
            chunk = self._socket.recv(_CHUNK)
            if not chunk:
                return None
            frames.feed(chunk)
        if due is not None:
            self._limit(socket.SO_RCVTIMEO, 0)
        return frame

    def _limit(self, option: int, seconds: float) -> None:
        """Limit the time of a receive or send; 0 for no limit. What takes longer is an OSError."""
        whole = int(seconds)
        self._socket.setsockopt(
            socket.SOL_SOCKET, option, _TIMEVAL.pack(whole, max(int((seconds - whole) * 1e6), int(0 < seconds < 1)))
        )

    def _response(self, frame: bytes, executable: str) -> dict[str, Any]:
        try:
            return self._service.respond(read_request(frame), self.peer, executable)
        except Refusal as refusal:
            return refusal.response()
        except Exception as error:  # noqa: BLE001 - a fault of ours must not end the agent, nor tell what it holds
            clear_frames(error)
            return Refusal("internal", f"a fault of the agent's own ({type(error).__name__})").response()

    def _send(self, members: Mapping[str, Any]) -> None:
        self._socket.sendall(pack(members))
