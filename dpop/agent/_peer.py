# SPDX-License-Identifier: Apache-2.0
"""Who is at the other end of a Unix socket, as the kernel says it."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
from typing import Any, Final, NamedTuple

from dpop.errors import UsageError

__all__ = ["Peer", "executable_of", "peer_of"]

_THREE_INTS: Final = struct.Struct("3i")
_SO_PEERGROUPS: Final = 59  # linux/asm-generic/socket.h; the socket module has no name for it
_MAX_GROUPS: Final = 256

# sys/un.h and sys/ucred.h of macOS: version, uid, number of groups, padding, 16 groups.
_SOL_LOCAL: Final = 0
_LOCAL_PEERCRED: Final = 1
_LOCAL_PEERPID: Final = 2
_XUCRED: Final = struct.Struct("=IIh2x16I")


class Peer(NamedTuple):
    """The process at the other end, at the time it connected.

    :param pid: None where the system does not say.
    :param gids: its group, and on Linux its further groups.
    """

    pid: int | None
    uid: int
    gids: frozenset[int]


def peer_of(connection: socket.socket) -> Peer:
    """Read the credentials of the peer: SO_PEERCRED on Linux, LOCAL_PEERCRED on macOS.

    Of a listening process they are those of its call of listen(2).

    :raises UsageError: this system has neither.
    :raises OSError: the connection is gone.
    """
    if hasattr(socket, "SO_PEERCRED"):
        pid, uid, gid = _THREE_INTS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _THREE_INTS.size)
        )
        return Peer(pid, uid, _groups(connection) | {gid})
    if sys.platform == "darwin":
        return _peer_on_macos(connection)
    raise UsageError("this system does not say who connects to a socket, so there can be no agent on it")


def _groups(connection: socket.socket) -> frozenset[int]:
    with contextlib.suppress(OSError):  # an old kernel, or more groups than fit
        data = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _MAX_GROUPS)
        return frozenset(struct.unpack(f"{len(data) // 4}I", data))
    return frozenset()


def _peer_on_macos(connection: Any) -> Peer:
    _, uid, count, *groups = _XUCRED.unpack(connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED.size))
    pid = None
    with contextlib.suppress(OSError):
        pid = int.from_bytes(connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERPID, 4), sys.byteorder)
    return Peer(pid, uid, frozenset(groups[:count]))


def executable_of(pid: int | None) -> str:
    """The program of a process, for the log only: a process can run another one meanwhile, or lie.

    ``unknown`` where the system does not show it.
    """
    if pid is None:
        return "unknown"
    try:
        return os.readlink(f"/proc/{pid}/exe")  # noqa: PTH115 - no path to be used, only text
    except OSError:
        return "unknown"
