# SPDX-License-Identifier: Apache-2.0
"""What the agent asks of its own process: no core dumps, no debugger, and the sockets that systemd hands over."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
from typing import Final

from dpop.errors import UsageError

__all__ = ["inherited_socket", "is_dumpable", "protect_memory"]

_PR_GET_DUMPABLE: Final = 3
_PR_SET_DUMPABLE: Final = 4
_FIRST_DESCRIPTOR: Final = 3  # sd_listen_fds(3)


def protect_memory() -> None:
    """Let no other process of this user read the memory of this one, where the system allows that.

    On Linux that is PR_SET_DUMPABLE: no debugger can attach, and ``/proc`` shows the process as root's. Elsewhere at
    least no core file is written.
    """
    import resource  # noqa: PLC0415 - not on Windows

    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        _prctl(_PR_SET_DUMPABLE, 0)


def is_dumpable() -> bool | None:
    """Whether other processes of this user can read this one's memory; None where the system does not say."""
    return bool(_prctl(_PR_GET_DUMPABLE, 0)) if sys.platform == "linux" else None


def _prctl(option: int, value: int) -> int:
    import ctypes  # noqa: PLC0415 - only the agent needs it

    return int(ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0))


def inherited_socket() -> socket.socket | None:
    """The listening socket that systemd made for this process (sd_listen_fds(3)); None without one.

    :raises UsageError: it passed several, or something else than a listening Unix stream socket.
    """
    pid, count = os.environ.get("LISTEN_PID", ""), os.environ.get("LISTEN_FDS", "")
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)  # they are for this process only
    if pid != str(os.getpid()) or not count.isdigit() or count == "0":
        return None
    if count != "1" or not stat.S_ISSOCK(os.fstat(_FIRST_DESCRIPTOR).st_mode):
        raise UsageError(
            "the agent was started with other descriptors than one socket; its unit needs one ListenStream="
        )
    listener = socket.socket(fileno=_FIRST_DESCRIPTOR)
    listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if listener.family != socket.AF_UNIX or listener.type != socket.SOCK_STREAM or not listening:
        raise UsageError("the agent listens on a Unix socket only; write ListenStream= with an absolute path")
    listener.set_inheritable(False)
    listener.setblocking(True)
    return listener
