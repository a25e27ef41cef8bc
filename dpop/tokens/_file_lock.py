# SPDX-License-Identifier: Apache-2.0
"""A lock between processes of one machine: a file, locked by the operating system.

The system releases the lock when its holder dies, in any way. The file is never removed, because otherwise two
processes could hold locks with the same name.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Hashable
from pathlib import Path
from typing import Final, Self

from dpop._files import keep_for_user
from dpop._forking import reset_after_fork
from dpop.errors import TokenLockError, TokenStoreError

__all__ = ["FileLock"]

_PATIENCE: Final = 60.0
_SLEEPS: Final = (0.001, 0.002, 0.005, 0.01, 0.02)


class FileLock:
    """A handle of a lock file (:class:`dpop.tokens.StoreLock`). It also excludes other handles in its own process.

    On a network file system it depends on the system's ``flock``. In a ``with`` statement it waits at most a minute.

    :param path: the path of the lock file, which is created if it is missing, and never removed.
    """

    fence: int = 0

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self._given_up = False

    @property
    def name(self) -> Hashable:
        """The path of the lock file."""
        return self._path

    def is_held(self) -> bool:
        """Whether this handle holds the lock, and the locked file still has this path."""
        descriptor = self._descriptor
        try:
            return descriptor >= 0 and self._is_still_named(descriptor)
        except OSError:
            return False

    def acquire(self, timeout: float) -> bool:
        """Take the lock, after waiting at most ``timeout`` seconds.

        :raises TokenStoreError: the file cannot be opened, or its file system has no locks.
        """
        deadline = time.monotonic() + timeout
        tries = 0
        while not self._given_up:
            if self._try():
                if not self._given_up:
                    return True
                break
            if time.monotonic() >= deadline:
                return False
            time.sleep(_SLEEPS[min(tries, len(_SLEEPS) - 1)])
            tries += 1
        self.release()
        return False

    def _try(self) -> bool:
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        except OSError as error:
            raise TokenStoreError(f"cannot open the lock {str(self._path)!r}: {error.strerror}") from error
        try:
            keep_for_user(descriptor)
            # The file may have been removed since it was opened: then other handles lock another file.
            if _lock(descriptor) and self._is_still_named(descriptor):
                self._descriptor, descriptor = descriptor, -1
                reset_after_fork(self)
                return True
        except OSError as error:
            if error.errno == errno.ESTALE:  # on NFS: another host has removed the file
                return False
            raise TokenStoreError(
                f"the file system of {str(self._path)!r} has no locks ({error.strerror});"
                " store the tokens on another one"
            ) from error
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        return False

    def _is_still_named(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self._path.stat())
        except FileNotFoundError:
            return False

    def __enter__(self) -> Self:
        if not self.acquire(_PATIENCE):
            raise TokenLockError(f"another handle has held the lock {str(self._path)!r} for {_PATIENCE:.0f} s")
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def release(self) -> None:
        """Release the lock."""
        self._given_up = True
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            _unlock(descriptor)
            os.close(descriptor)

    def _reset_after_fork(self) -> None:
        """In a forked child: close the copied file, so that the parent alone holds and releases the lock."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


if sys.platform == "win32":  # pragma: no cover
    import msvcrt

    def _lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:  # another process has it
            return False
        return True

    def _unlock(descriptor: int) -> None:
        os.lseek(descriptor, 0, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(descriptor: int) -> None:
        # Unlock explicitly, because a child that was forked meanwhile may have the file open, too.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
