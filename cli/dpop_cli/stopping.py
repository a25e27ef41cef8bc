# SPDX-License-Identifier: Apache-2.0
"""How a command that runs until it is stopped hears of it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

__all__ = ["stopped_by_signals"]

_STOPPING = ("SIGINT", "SIGTERM", "SIGBREAK")  # the last on Windows only


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set; before and after, signals do what they did."""
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    numbers = [getattr(signal, name) for name in _STOPPING if hasattr(signal, name)]
    before = [(number, signal.signal(number, on_signal)) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in before:
            signal.signal(number, handler)
