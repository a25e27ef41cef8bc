# SPDX-License-Identifier: Apache-2.0
"""Write private files: with mode 0600, and atomically.

The data is written to a temporary file in the same directory, which has mode 0600 from its start. Only the complete
file gets the final name. So whenever the process stops, the final name has either all old data or all new data.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "keep_for_user",
    "open_regular_file",
    "path_from_home",
    "sync_directory",
    "toml_document",
    "when_not_in_use",
    "without_mark",
    "write_private_file",
]

_T = TypeVar("_T")

# Errors of os.link on a file system without hard links; Windows says ERROR_INVALID_FUNCTION or ERROR_NOT_SUPPORTED.
_NO_HARD_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
_NO_HARD_LINKS_ON_WINDOWS: Final = frozenset({1, 50})
# On Windows a file cannot be replaced while another process has it open, and not opened while it is being replaced:
# ERROR_ACCESS_DENIED, ERROR_SHARING_VIOLATION, ERROR_LOCK_VIOLATION. Virus scanners do that to new files, too.
_IN_USE_ON_WINDOWS: Final = frozenset({5, 32, 33})
_IN_USE_SECONDS: Final = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
# Errors of systems that cannot sync a directory. They are ignored; PostgreSQL ignores the same ones.
_NO_DIRECTORY_OPEN: Final = frozenset({errno.EACCES, errno.EISDIR})
_NO_DIRECTORY_SYNC: Final = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP})


def without_mark(data: bytes) -> bytes:
    """Remove the byte order mark that some editors write; convert UTF-16 to UTF-8.

    Windows PowerShell writes UTF-16 when its output goes to a file. No DER and no JSON begins with such a mark.
    """
    if data[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        try:
            return data.decode("utf-16").encode()
        except UnicodeDecodeError:
            return data
    return data.removeprefix(b"\xef\xbb\xbf")


def toml_document(data: bytes) -> dict[str, Any]:
    """Parse TOML.

    :raises ValueError: it is not TOML; the message has the reason or the place, and nothing of the content.
    """
    import tomllib  # noqa: PLC0415 - most programs read no TOML

    try:
        return tomllib.loads(without_mark(data).decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        # The library's message may repeat a character of the file, before the place in parentheses.
        raise ValueError(str(error).rpartition("(")[2].rstrip(")")) from None
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except ValueError:  # int() has a limit
        raise ValueError("a number in it is too long") from None


def path_from_home(path: str | os.PathLike[str]) -> Path:
    """Return a path with ``~`` and ``~user`` replaced; if that home directory is unknown, unchanged, as in a shell."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def open_regular_file(path: Path) -> BinaryIO:
    """Open a regular file for reading; refuse a pipe or device, because reading from one may never end.

    :raises OSError: the file cannot be opened, or is not a regular file.
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
    names: Iterable[Path] = (),
    link: Callable[[str, Path], None] = os.link,
) -> None:
    """Write a file with mode 0600, atomically: the complete new content, or no change.

    :param overwrite: replace an existing file. Otherwise an existing file is a FileExistsError, even if it
        appears at the last moment.
    :param durable: wait until the data is on the disk. The name is durable after :func:`sync_directory`.
    :param prefix: the start of the temporary file's name, which ends in ``.tmp``.
    :param names: paths in the same directory to try for the temporary file first.
    :param link: makes a hard link; on a file system without hard links an empty file claims the name.
    :raises OSError: the file cannot be written. An existing file is unchanged, and no temporary file remains.
    :raises ValueError: the path holds characters that no file name can have.
    """
    descriptor, temporary = _temporary_file(path.parent, prefix, names)
    try:
        with os.fdopen(descriptor, "wb") as file:
            keep_for_user(descriptor)
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


def keep_for_user(descriptor: int) -> None:
    """Let the user read and write an own file that was created under a umask of 0400 or more.

    Otherwise this process could write the file, but no process could read it or open it again.
    """
    if os.name == "posix":
        mode = os.fstat(descriptor).st_mode
        if mode & 0o600 != 0o600:
            with contextlib.suppress(OSError):  # it may be another user's
                os.fchmod(descriptor, stat.S_IMODE(mode) | 0o600)


def sync_directory(directory: Path) -> None:
    """Sync a directory, so that its new and removed names survive a crash of the machine.

    If the file system cannot sync directories, this does nothing.

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
    """Call ``action``; repeat it for up to 1.6 s while Windows says that another process has the file open.

    :param sleep: a function that waits for the given seconds.
    :raises OSError: the last error of ``action``.
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
    """Wait until the data is on the disk; on macOS ``fsync`` alone leaves it in the disk's own cache."""
    whole = getattr(fcntl, "F_FULLFSYNC", None)
    if whole is not None:
        with contextlib.suppress(OSError):  # some file systems do not support it, such as network file systems
            fcntl.fcntl(descriptor, whole)
            return
    os.fsync(descriptor)


def _temporary_file(directory: Path, prefix: str, names: Iterable[Path]) -> tuple[int, str]:
    """Create a temporary file and open it for writing, like ``tempfile.mkstemp``, which is slow to import."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    for name in names:
        with contextlib.suppress(FileExistsError):
            return os.open(name, flags, 0o600), os.fspath(name)
    while True:
        random = os.fspath(directory / f"{prefix}{os.urandom(6).hex()}.tmp")
        with contextlib.suppress(FileExistsError):
            return os.open(random, flags, 0o600), random


def _replace(temporary: str, path: Path) -> None:
    try:
        when_not_in_use(lambda: Path(temporary).replace(path))
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        raise OSError(
            errno.EBUSY, "the file itself is a mount point and cannot be replaced; mount its directory instead"
        ) from error


def _publish(temporary: str, path: Path, link: Callable[[str, Path], None]) -> None:
    """Give the complete file its final name, unless another process has created a file of that name meanwhile."""
    try:
        link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS and getattr(error, "winerror", None) not in _NO_HARD_LINKS_ON_WINDOWS:
            raise
    else:
        return
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    _replace(temporary, path)
