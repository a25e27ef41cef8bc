# SPDX-License-Identifier: Apache-2.0
"""Who owns a refresh: a note in the store, by which others see whether its process still lives.

A lock alone does not tell: somebody may delete a lock file while its holder waits for the response to a refresh. The
next process would take a new lock file for its own, find the note that a refresh began, and send the same refresh token
again, which looks like a theft to the server.
"""

from __future__ import annotations

import functools
import os
import secrets
import time
from pathlib import Path
from typing import Final

__all__ = ["RefreshOwner", "is_at_work"]

_LONGEST: Final = 900.0
"""Seconds after which a refresh counts as over: its process may live and have failed to say so in the store."""

_MAX_NAME: Final = 256
"""Characters of a name that are read: a damaged store may hold any text, and a number of any length."""

_at_work: Final = set[str]()
"""The names of this process's refreshes that were sent and are not over."""


class RefreshOwner:
    """One refresh of this process."""

    def __init__(self) -> None:
        process = f"{_machine()} {os.getpid()} {_start_of(os.getpid())}"
        self.name: Final = f"{process} {time.monotonic():.0f} {secrets.token_hex(8)}"
        """The name to store: machine, process, when it began, when the refresh began, and a random part."""

    def begin(self) -> None:
        """The refresh token is about to be sent; until then another refresh may still overtake this one."""
        _at_work.add(self.name)

    def end(self) -> None:
        """The refresh is over: no response can come any more, and none is waiting to be stored."""
        _at_work.discard(self.name)

    def __del__(self) -> None:
        self.end()


def is_at_work(name: str | None) -> bool:
    """Whether the refresh of this name is certainly not over. If that cannot be known, the result is False."""
    parts = (name or "")[:_MAX_NAME].split(" ")
    if len(parts) != 5 or not parts[0] or parts[0] != _machine():
        return False
    _, process, began, sent, _ = parts
    # The monotonic clock is the machine's: all processes of one boot read the same one.
    if not (process.isdecimal() and sent.isdecimal() and -1 <= time.monotonic() - int(sent) < _LONGEST):
        return False
    return name in _at_work if int(process) == os.getpid() else began == _start_of(int(process)) != ""


@functools.cache
def _machine() -> str:
    """Return a name for this boot of this machine and its namespace of processes; empty if the system has none."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except (OSError, ValueError):
        return ""


def _start_of(number: int) -> str:
    """Return when a process began, in ticks since the boot; empty if there is no such process, or it is dead."""
    try:
        fields = Path(f"/proc/{number}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in {"Z", "X"} else fields[19]
