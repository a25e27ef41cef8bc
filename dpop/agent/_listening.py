# SPDX-License-Identifier: Apache-2.0
"""The socket that the agent listens at: of its own making, or systemd's."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

from dpop._files import path_from_home
from dpop.agent._place import agent_socket, check_system, listen_at, lock_place
from dpop.agent._process import inherited_socket
from dpop.errors import UsageError

__all__ = ["listen"]


@contextlib.contextmanager
def listen(path: str | os.PathLike[str] | None = None, *, group: int | None = None) -> Iterator[socket.socket]:
    """Listen at the agent's socket; at the end, remove it.

    A socket that systemd passed (``LISTEN_FDS``) is used as it is, and stays. Otherwise the socket is made, with mode
    0600, in a folder of mode 0700.

    :param path: where; :func:`agent_socket` by default.
    :param group: a group whose members may connect, too; then the folder is 0710 and the socket 0660.
    :raises UsageError: this system has no Unix sockets, or systemd passed something else.
    :raises KeyFileError: the folder or the socket is not to be trusted, or another agent listens there.
    """
    check_system()
    passed = inherited_socket()
    if passed is not None:
        with passed:
            yield passed
        return
    place = agent_socket() if path is None else path_from_home(path)
    if not place.is_absolute():
        raise UsageError("the path of the agent's socket must be absolute")
    lock = lock_place(place)
    try:
        with listen_at(place, group) as listener:
            made = place.lstat()
            try:
                yield listener
            finally:
                with contextlib.suppress(OSError):
                    now = place.lstat()
                    if (now.st_dev, now.st_ino) == (made.st_dev, made.st_ino):
                        place.unlink()
    finally:
        os.close(lock)
