# SPDX-License-Identifier: Apache-2.0
"""Start curl and wait for its end. :mod:`subprocess` does the same, but takes 3 ms to load."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Protocol

__all__ = ["Process", "started"]


class Process(Protocol):
    """A running program."""

    def poll(self) -> int | None:
        """Return the exit status, or None if the program is still running."""

    def wait(self) -> int:
        """Wait for the end; return the exit status, or the negative number of the signal that ended the program."""

    def terminate(self) -> None:
        """Ask the program to end, if it is still running."""


def started(command: list[str], output: int) -> Process:
    """Start a program, which inherits all inheritable descriptors: curl reads our scratch files, and a shell's <(...).

    :param command: the path of the program, and its arguments.
    :param output: the descriptor for its standard output.
    :raises OSError: it cannot be started.
    """
    if os.name == "nt":
        import subprocess  # noqa: PLC0415 - see above; only Windows needs it

        return subprocess.Popen(command, stdout=output, close_fds=False)  # noqa: S603 - curl is what is run
    if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # otherwise the system would keep no exit status for us
    # Python ignores these two signals, and a program would inherit that.
    ours = [signal.SIGPIPE, signal.SIGXFSZ]
    to_output = (os.POSIX_SPAWN_DUP2, output, 1)
    # The system can hand over a variable without a name, and posix_spawn refuses it.
    environment = {name: value for name, value in os.environ.items() if name}
    return _Child(os.posix_spawn(command[0], command, environment, file_actions=[to_output], setsigdef=ours))


class _Child:
    """A child process, of which only the thread that began it may wait for the end."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._status: int | None = None

    def poll(self) -> int | None:
        return self._look(os.WNOHANG)

    def wait(self) -> int:
        status = self._look(0)
        assert status is not None  # noqa: S101 - it is None only without waiting
        return status

    def terminate(self) -> None:
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGTERM)

    def _look(self, flags: int) -> int | None:
        if self._status is None:
            pid, status = os.waitpid(self._pid, flags)
            if pid == self._pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status
