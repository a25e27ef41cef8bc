# SPDX-License-Identifier: Apache-2.0
"""Keep a program from ending in the middle of a refresh, whose response would be lost with the new refresh token."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Final

__all__ = ["delay_program_end"]

_log: Final = logging.getLogger("dpop.tokens")
_NEVER: Final = float("inf")
_END_SECONDS: Final = 5.0


def delay_program_end(account: str) -> Callable[[], object]:
    """Delay the program's end by a few seconds during a refresh; return a function to call when it is over."""
    over = threading.Event()
    with contextlib.suppress(RuntimeError):  # the interpreter is shutting down: the caller itself refreshes
        _Guard(account, over).start()
    return over.set


class _Guard(threading.Thread):
    """A non-daemon thread, for which the interpreter waits when it ends; the refresh itself runs in a daemon thread."""

    def __init__(self, account: str, over: threading.Event) -> None:
        super().__init__(name="dpop-refresh-guard", daemon=False)
        self._account = account
        self._over = over

    def run(self) -> None:
        """Wait until the refresh is over, or the program has been ending for five seconds."""
        deadline = _NEVER
        while not self._over.wait(0.1):
            if not _program_ends():
                deadline = _NEVER
            elif deadline == _NEVER:
                deadline = time.monotonic() + _END_SECONDS
            elif time.monotonic() > deadline:
                _log.warning(
                    "the program ends %.0f s after a refresh of the tokens of %r was sent, and no response came. The"
                    " store says so, and the next program sends it again",
                    _END_SECONDS,
                    self._account,
                )
                return


def _program_ends() -> bool:
    """Whether the program is ending: the interpreter waits only for guard threads."""
    return not any(
        thread.is_alive() and not thread.daemon and not isinstance(thread, _Guard) for thread in threading.enumerate()
    )
