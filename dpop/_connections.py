# SPDX-License-Identifier: Apache-2.0
"""Transports and clients that are never shared between processes, and asynchronous ones not between event loops.

If two processes used one connection, each would get responses for the other, and both would use one TLS session state.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Generic, Protocol, TypeVar

from dpop.errors import ArgumentTypeError, UsageError

__all__ = ["HasSocket", "OnePerLoop", "OnePerProcess", "close_socket"]

_T = TypeVar("_T")


class HasSocket(Protocol):
    """A transport of asyncio, or a network stream of httpcore."""

    def get_extra_info(self, name: str, /) -> Any:
        """Return what is known under a name, such as ``"socket"``; None if nothing is."""


def close_socket(connection: HasSocket | None) -> None:
    """Close the socket of a connection whose event loop is closed: nothing can be awaited on that loop any more."""
    sock = None if connection is None else connection.get_extra_info("socket")
    sock = getattr(sock, "_sock", sock)  # asyncio wraps it in an object without close()
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.close()


class OnePerProcess(Generic[_T]):
    """A transport or client per process: a forked child makes a new one, or refuses one that belongs to its parent.

    :param given: a transport or client, or a function that makes one.
    :param kind: the class of the transport or client.
    :param name: the name of the argument, for error messages.
    :param now: call the function now, so that wrong settings raise early; otherwise call it at the first use.
    :raises ArgumentTypeError: ``given`` is neither of the two.
    """

    def __init__(self, given: _T | Callable[[], _T], kind: type[_T], name: str, *, now: bool) -> None:
        self._kind = kind
        self._name = name
        self._make: Callable[[], _T] | None = None
        self._current: _T | None = None
        self._pid = 0
        if isinstance(given, kind):
            self._current, self._pid = given, os.getpid()
        elif callable(given):
            self._make = given
            if now:
                self.get()
        else:
            raise ArgumentTypeError(name, f"{_named(kind)}, or a function that makes one", given)

    def get(self) -> _T:
        """Return the transport or client of this process.

        :raises UsageError: the transport or client was given to another process.
        """
        current = self._current
        if self._pid == os.getpid() and current is not None:
            return current
        if self._make is None:
            raise UsageError(
                f"{self._name}= was made in another process, before a fork, and its connections are that process's:"
                " nothing was sent. Make it in this process, or give a function that makes one:"
                f" {self._name}=lambda: {type(current).__name__}(...)"
            )
        made = self._make()
        if not isinstance(made, self._kind):
            raise ArgumentTypeError(f"the result of {self._name}()", _named(self._kind), made)
        # Set the process id last: until then, no other thread may take the parent's transport for its own.
        self._current = made
        self._pid = os.getpid()
        return made

    def own(self) -> _T | None:
        """Return the transport or client of this process, or ``None``: a child must not close its parent's."""
        return self._current if self._pid == os.getpid() else None


class OnePerLoop(Generic[_T]):
    """The given client, or one client for each event loop, because connections work in one event loop only.

    An event loop that ends finishes its asynchronous generators, and one of them closes the client. If a loop was
    closed without that, the next call closes the client's sockets.

    :param given: a client, a function that makes one, or ``None``.
    :param kind: its class.
    :param close: closes a client.
    :param close_sockets: closes the sockets of a client whose event loop is closed.
    """

    def __init__(
        self,
        given: _T | Callable[[], _T] | None,
        kind: type[_T],
        *,
        close: Callable[[_T], Awaitable[None]],
        close_sockets: Callable[[_T], None],
    ) -> None:
        self._make: Callable[[], _T] = kind
        self._given: OnePerProcess[_T] | None = None
        if isinstance(given, kind) or (given is not None and not callable(given)):
            self._given = OnePerProcess(given, kind, "http", now=True)
        elif given is not None:
            self._make = given
        self._close = close
        self._close_sockets = close_sockets
        self._pid = os.getpid()
        self._by_loop: dict[object, tuple[_T, AsyncGenerator[None]]] = {}

    @property
    def has_given(self) -> bool:
        """Whether the user gave a client, which then serves all event loops."""
        return self._given is not None

    async def get(self) -> _T:
        """Return the client for the running event loop and this process."""
        if self._given is not None:
            return self._given.get()
        if self._pid != os.getpid():
            # Do not close these clients: their connections belong to the parent.
            self._by_loop, self._pid = {}, os.getpid()
        loop = _running_loop()
        known = self._by_loop.get(loop)
        if known is not None:
            return known[0]
        for other in [other for other in list(self._by_loop) if _is_closed(other)]:
            abandoned, _ = self._by_loop.pop(other)
            self._close_sockets(abandoned)
        client = self._make()
        life = self._life_of(client, loop)
        self._by_loop[loop] = client, life
        await anext(life)
        return client

    async def _life_of(self, client: _T, loop: object) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            self._by_loop.pop(loop, None)
            await self._close(client)

    async def aclose(self) -> None:
        """Close the client of this event loop, unless the user gave it."""
        if self._pid == os.getpid() and (known := self._by_loop.get(_running_loop())) is not None:
            await known[1].aclose()


def _running_loop() -> object:
    """The event loop of this task, of asyncio or trio."""
    trio = sys.modules.get("trio")
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return trio.lowlevel.current_trio_token() if trio is not None else None


def _is_closed(loop: object) -> bool:
    return isinstance(loop, asyncio.AbstractEventLoop) and loop.is_closed()


def _named(kind: type[object]) -> str:
    return f"a transport or client of {kind.__module__.partition('.')[0]} ({kind.__name__})"
