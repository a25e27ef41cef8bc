# SPDX-License-Identifier: Apache-2.0
"""Transports and clients that are never shared between processes.

If two processes used one connection, each would get responses for the other, and both would use one TLS session state.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Generic, TypeVar

from dpop.errors import ArgumentTypeError, UsageError

__all__ = ["OnePerProcess"]

_T = TypeVar("_T")


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


def _named(kind: type[object]) -> str:
    return f"a transport or client of {kind.__module__.partition('.')[0]} ({kind.__name__})"
