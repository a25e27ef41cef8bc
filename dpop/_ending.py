# SPDX-License-Identifier: Apache-2.0
"""Keep daemon threads out of ``cryptography`` while the program ends.

A daemon thread ends where it next waits for the interpreter after the end has begun. Inside of ``cryptography`` the
process aborts there, because Rust lets no thread end in its code: 1 of 40 exits of a program that only verifies.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
from collections.abc import Iterator
from typing import Final

from dpop._forking import reset_after_fork

__all__ = ["uninterrupted"]

_SECONDS: Final = 2.0


class _Work:
    def __init__(self) -> None:
        self._reset_after_fork()
        self._ended = False
        reset_after_fork(self)

    def _reset_after_fork(self) -> None:
        """In a child of a fork, which has none of its parent's threads."""
        self._changed = threading.Condition(threading.RLock())
        self._running = 0

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        with self._changed:
            while self._ended and threading.current_thread() is not threading.main_thread():
                self._changed.wait()
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                if not self._running:
                    self._changed.notify_all()

    def end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.wait_for(lambda: not self._running, _SECONDS)


_work: Final = _Work()
atexit.register(_work.end)


def uninterrupted() -> contextlib.AbstractContextManager[None]:
    """A context that the program's end waits for, two seconds at most. After that, other threads stay at its start."""
    return _work.one()
