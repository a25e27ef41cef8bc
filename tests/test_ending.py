# SPDX-License-Identifier: Apache-2.0
"""The end of a program waits for daemon threads inside of cryptography, and lets none in any more."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import atexit, threading, time
atexit.register(time.sleep, 0.3)  # runs last: the time in which the thread could begin again
from dpop import _ending
from dpop._ending import uninterrupted

_ending._SECONDS = 60.0  # enough for a busy machine
inside = threading.Event()

def work():
    with uninterrupted():
        inside.set()
        while not _ending._work._ended:
            time.sleep(0.01)
        time.sleep(0.1)
        print("the first is done", flush=True)
    with uninterrupted():
        print("a second began", flush=True)

threading.Thread(target=work, daemon=True).start()
inside.wait()
"""


def test_the_end_of_a_program_waits_for_what_has_begun_and_lets_nothing_begin() -> None:
    """Otherwise the thread would be ended in the middle, which aborts the process where it is in Rust's code."""
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "the first is done\n", "")
