# SPDX-License-Identifier: Apache-2.0
"""Write private files: with mode 0600, and atomically.

The data goes to a temporary file in the same directory, which never has a wider mode, and only a finished file
gets the final name. Whenever the process stops, the final name stands for all of the old data or all of the new.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["open_regular_file", "sync_directory", "when_not_in_use", "without_mark", "write_private_file"]

_T = TypeVar("_T")

# Errors of os.link on a file system without hard links; Windows says ERROR_INVALID_FUNCTION or ERROR_NOT_SUPPORTED.
_NO_HARD_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
_NO_HARD_LINKS_ON_WINDOWS: Final = frozenset({1, 50})
# On Windows a file cannot be replaced while another process has it open, nor opened at the moment it is replaced:
# ERROR_ACCESS_DENIED, ERROR_SHARING_VIOLATION, ERROR_LOCK_VIOLATION. Virus scanners do that to new files, too.
_IN_USE_ON_WINDOWS: Final = frozenset({5, 32, 33})
_IN_USE_SECONDS: Final = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
# Errors of a system or file system that cannot sync a directory. They are ignored, as PostgreSQL does.
_NO_DIRECTORY_OPEN: Final = frozenset({errno.EACCES, errno.EISDIR})
_NO_DIRECTORY_SYNC: Final = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP})


def without_mark(data: bytes) -> bytes:
    """Remove the byte order mark that some editors write; convert UTF-16 to UTF-8.

    Windows PowerShell writes UTF-16 when its output goes to a file. No key in DER begins like either, and no JSON.
    """
    if data[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        try:
            return data.decode("utf-16").encode()
        except UnicodeDecodeError:
            return data
    return data.removeprefix(b"\xef\xbb\xbf")


def open_regular_file(path: Path) -> BinaryIO:
    """Open a regular file to read it; refuse a pipe or device, because a read from one may never end.

    :raises OSError: it cannot be opened, or is no regular file.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = os.fdopen(when_not_in_use(lambda: os.open(path, flags)), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return file


def write_private_file(
    path: Path,
    data: bytes,
    *,
    overwrite: bool = True,
    durable: bool = True,
    prefix: str = ".dpop-",
    link: Callable[[str, Path], None] = os.link,
) -> None:
    """Write a file with mode 0600, atomically: the complete new content, or no change.

    :param overwrite: replace a file that is there. Otherwise that is a FileExistsError, even if the file
        appears in the last moment.
    :param durable: wait until the data is on the disk. The name is durable after :func:`sync_directory`.
    :param prefix: of the temporary file's name, which ends in ``.tmp``.
    :param link: makes a hard link; on a file system without hard links an empty file claims the name.
    :raises OSError: it cannot be written. What was there is as it was, and no temporary file remains.
    :raises ValueError: the path holds characters that no file name can have.
    """
    descriptor, temporary = _temporary_file(path.parent, prefix)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                _sync(file.fileno())
        if overwrite:
            _replace(temporary, path)
        else:
            _publish(temporary, path, link)
    finally:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()


def sync_directory(directory: Path) -> None:
    """Sync a directory, so that its new and removed names survive a crash of the machine.

    A file system that cannot sync directories is no failure.

    :raises OSError: the disk reports an error.
    """
    if os.name != "posix":
        return
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError as error:
        if error.errno in _NO_DIRECTORY_OPEN:
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise
    finally:
        os.close(descriptor)


def when_not_in_use(action: Callable[[], _T], *, sleep: Callable[[float], object] = time.sleep) -> _T:
    """Call ``action``, and again for up to 1.6 s while Windows says that another process has the file open.

    :param sleep: waits so many seconds.
    :raises OSError: as ``action`` raised it.
    """
    for seconds in _IN_USE_SECONDS:
        try:
            return action()
        except OSError as error:
            if getattr(error, "winerror", None) not in _IN_USE_ON_WINDOWS:
                raise
        sleep(seconds)
    return action()


def _sync(descriptor: int) -> None:
    """Wait until the data is on the disk; on macOS ``fsync`` leaves it in the disk's own cache."""
    whole = getattr(fcntl, "F_FULLFSYNC", None)
    if whole is not None:
        with contextlib.suppress(OSError):  # a file system that has none, such as a network's
            fcntl.fcntl(descriptor, whole)
            return
    os.fsync(descriptor)


def _temporary_file(directory: Path, prefix: str) -> tuple[int, str]:
    """Create a temporary file and open it for writing, like ``tempfile.mkstemp``, which is slow to import."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    while True:
        name = os.fspath(directory / f"{prefix}{os.urandom(6).hex()}.tmp")
        with contextlib.suppress(FileExistsError):
            return os.open(name, flags, 0o600), name


def _replace(temporary: str, path: Path) -> None:
    try:
        when_not_in_use(lambda: Path(temporary).replace(path))
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        raise OSError(
            errno.EBUSY, "it is a mount point of its own and cannot be replaced; mount its directory instead"
        ) from error


def _publish(temporary: str, path: Path, link: Callable[[str, Path], None]) -> None:
    """Give the finished file its final name, unless another process has created a file of that name meanwhile."""
    try:
        link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS and getattr(error, "winerror", None) not in _NO_HARD_LINKS_ON_WINDOWS:
            raise
    else:
        return
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    _replace(temporary, path)
