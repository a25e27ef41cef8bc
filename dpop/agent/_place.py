# SPDX-License-Identifier: Apache-2.0
"""The place of the agent's socket, and the checks that only trusted users can have put it there.

Another user who makes the socket first must gain nothing: the agent and its clients refuse a socket or folder that
another user owns or could replace.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path
from typing import Final

from dpop.errors import KeyAccessDeniedError, KeyFileError, UsageError

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["SOCKET_VARIABLE", "agent_socket", "check_socket", "check_system", "listen_at", "lock_place"]

SOCKET_VARIABLE: Final = "DPOP_AGENT_SOCK"
_MAX_PATH: Final = 103  # macOS; Linux has four more
_BACKLOG: Final = 1024


def check_system() -> None:
    """Check that this system has Unix sockets and users.

    :raises UsageError: it does not.
    """
    if not hasattr(socket, "AF_UNIX") or not hasattr(os, "geteuid"):
        raise UsageError("the agent needs Unix sockets, which Python does not have on this system; load the key itself")


def agent_socket() -> Path:
    """The agent's socket: ``DPOP_AGENT_SOCK``, or ``agent.sock`` in the user's run-time or cache folder.

    :raises UsageError: it is not an absolute path, or this system has no Unix sockets.
    """
    check_system()
    given = os.environ.get(SOCKET_VARIABLE, "").strip()
    if given:
        return _checked_path(Path(given), SOCKET_VARIABLE)
    runtime = os.environ.get("XDG_RUNTIME_DIR", "").strip()
    if runtime and Path(runtime).is_absolute():
        return _checked_path(Path(runtime) / "dpop" / "agent.sock", "XDG_RUNTIME_DIR")
    import platformdirs  # noqa: PLC0415 - only where there is no run-time folder

    return _checked_path(platformdirs.user_cache_path("dpop", appauthor=False) / "agent" / "agent.sock", "HOME")


def _checked_path(path: Path, source: str) -> Path:
    if not path.is_absolute():
        raise UsageError(f"{source} must lead to an absolute path for the agent's socket")
    if len(os.fsencode(path)) > _MAX_PATH:
        raise UsageError(
            f"the path of a Unix socket has {_MAX_PATH} bytes at most, and {source} leads to a longer one;"
            f" set {SOCKET_VARIABLE} to a shorter one, in a folder of yours"
        )
    return path


# --- whom to trust


def _why_not_trusted(path: Path, trusted: frozenset[int]) -> str | None:
    """Say who else could put another socket in the place of this one; None if nobody can."""
    folder = path.parent
    for place in (folder, *folder.parents):
        seen = place.lstat()
        writable = seen.st_mode & 0o022
        if seen.st_uid not in trusted:
            return f"the folder {place} belongs to the user {seen.st_uid}"
        # In a sticky folder such as /tmp others cannot rename what is not theirs, but they can make what is not there.
        if writable and (place == folder or not seen.st_mode & stat.S_ISVTX):
            return f"other users can change files in {place}; repair: chmod go-w {place}"
    return None


def check_socket(path: Path, trusted: frozenset[int]) -> None:
    """Check, as a client, that nobody but trusted users can have put the socket there.

    :param trusted: user ids; root is one of them.
    :raises FileNotFoundError: there is no socket.
    :raises KeyAccessDeniedError: it is of another owner, no socket, or could be replaced by others.
    """
    seen = path.lstat()
    if not stat.S_ISSOCK(seen.st_mode):
        raise KeyAccessDeniedError(f"{path} is no socket, so no agent of yours listens there; it was not used")
    if seen.st_uid not in trusted:
        raise KeyAccessDeniedError(
            f"the agent's socket {path} belongs to the user {seen.st_uid}; it was not used. If that user's agent is"
            f" yours to use, name it: agent:NAME?uid={seen.st_uid}"
        )
    why = _why_not_trusted(path.parent.resolve() / path.name, trusted)
    if why is not None:
        raise KeyAccessDeniedError(f"the agent's socket {path} was not used: {why}")


# --- the agent's side


def lock_place(path: Path) -> int:
    """Make the socket's folder, with mode 0700, and hold it for this agent alone; the descriptor keeps the lock.

    :raises KeyFileError: the folder is of another owner, a symbolic link, or writable by others, or another agent
        holds it.
    """
    folder = path.parent
    try:
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        seen = folder.lstat()
    except OSError as error:
        raise KeyFileError(f"the folder of the agent's socket, {folder}, cannot be made: {error.strerror}") from None
    if not stat.S_ISDIR(seen.st_mode):
        raise KeyFileError(f"{folder}, where the agent's socket belongs, is a symbolic link or no folder; name another")
    why = _why_not_trusted(folder.resolve() / path.name, frozenset({0, os.geteuid()}))
    if why is None and seen.st_uid != os.geteuid():
        why = f"the folder {folder} belongs to the user {seen.st_uid}"
    if why is not None:
        raise KeyFileError(f"the agent does not put its socket at {path}: {why}")
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(folder / f".{path.name}.lock", flags, 0o600)
    except OSError as error:
        raise KeyFileError(f"the lock in {folder} cannot be opened: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise KeyFileError(
            f"an agent listens at {path} already; ask it with: dpop agent status, or end it with: dpop agent stop"
        ) from None
    return descriptor


def listen_at(path: Path, group: int | None = None) -> socket.socket:
    """Bind the socket, whose folder :func:`lock_place` holds, and listen; what an agent left there goes away.

    :param group: a group whose members may connect, too; then the folder is 0710 and the socket 0660.
    :raises KeyFileError: something else is in its place, or it cannot be bound.
    """
    with contextlib.suppress(FileNotFoundError):
        seen = path.lstat()
        if not stat.S_ISSOCK(seen.st_mode) or seen.st_uid != os.geteuid():
            raise KeyFileError(f"{path} is not a socket of yours, so the agent does not replace it; take it away")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
        if group is not None:
            os.chown(path.parent, -1, group)
            path.parent.chmod(0o710)
            os.chown(path, -1, group)
            path.chmod(0o660)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        what = "its name is too long" if error.errno in {None, errno.ENAMETOOLONG} else error.strerror
        raise KeyFileError(f"the agent's socket {path} cannot be made: {what}") from None
    finally:
        os.umask(before)
    return listener
