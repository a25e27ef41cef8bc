# SPDX-License-Identifier: Apache-2.0
"""Work in a forked process."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable


def in_child(work: Callable[[], bytes], seconds: int = 30) -> bytes:
    """Run ``work`` in a forked process and return its result; empty if it fails or does not end in time."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - coverage does not follow
        try:
            signal.alarm(seconds)
            os.write(write, work())
        except BaseException:  # noqa: BLE001 - whatever it is, the child ends here
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(write)
    try:
        return os.read(read, 10_000)
    finally:
        os.close(read)
        os.waitpid(child, 0)
