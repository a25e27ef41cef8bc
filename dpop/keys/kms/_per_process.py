# SPDX-License-Identifier: Apache-2.0
"""One client per process: the connections of a parent are not its child's to use."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["PerProcess"]

_Client = TypeVar("_Client")

# How many forks lie between this process and the one that started Python. Unlike process ids, which the
# system gives out again, no process has a number that one of its ancestors had.
_generation = 0


class _Made(Generic[_Client]):
    """The client of one process, once it is there, and the lock of whoever makes it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.client: _Client | None = None


class PerProcess(Generic[_Client]):
    """A client that is made when first needed, and made anew in a forked process.

    A child must not use its parent's connections, nor wait for a lock that some thread of the parent
    held: it gets its own of both. What the parent had is kept, unused: closing it would end the
    parent's connections too.
    """

    def __init__(self, make: Callable[[], _Client]) -> None:
        self._make = make
        self._made: dict[int, _Made[_Client]] = {}

    def __call__(self) -> _Client:
        """The client of this process. Many threads may ask at once; what making it raises is raised to all."""
        made = self._made.get(_generation) or self._made.setdefault(_generation, _Made())
        if made.client is None:
            with made.lock:
                if made.client is None:
                    made.client = self._make()
        return made.client


def _count_fork() -> None:
    global _generation  # noqa: PLW0603 - a fact about the process
    _generation += 1


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_count_fork)
