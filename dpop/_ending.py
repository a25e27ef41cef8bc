# SPDX-License-Identifier: Apache-2.0
"""Keep daemon threads out of ``cryptography`` while the program ends.

When a program ends, Python stops each daemon thread at the point where it next needs the interpreter. If that is inside
``cryptography``, the process aborts, because Rust does not allow a thread to end in its code. A program that only
verified proofs aborted in 1 of 40 exits.
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


class _RunningWork:
    def __init__(self) -> None:
        self._reset_after_fork()
        self._ended = False
        reset_after_fork(self)

    def _reset_after_fork(self) -> None:
        """Begin anew in a forked child: its parent's threads do not exist there."""
        self._changed = threading.Condition(threading.RLock())
        self._running = 0

    @contextlib.contextmanager
    def run(self) -> Iterator[None]:
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


_work: Final = _RunningWork()
atexit.register(_work.end)


def uninterrupted() -> contextlib.AbstractContextManager[None]:
    """Return a context that the program's end waits for, two seconds at most; threads that enter it later never run."""
    return _work.run()
