# SPDX-License-Identifier: Apache-2.0
"""Key files: reading is limited in size, writing is atomic, and only the owner can open a written file."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from dpop._files import sync_directory, when_not_in_use, write_private_file
from dpop.errors import ArgumentTypeError, KeyFileError

__all__ = ["MAX_KEY_BYTES", "key_path", "read_key_file", "shown", "write_key_file"]

MAX_KEY_BYTES: Final = 64 * 1024

_MAX_SHOWN: Final = 300


def key_path(path: str | os.PathLike[str]) -> Path:
    """Return the path of a key file, with ``~`` and ``~user`` replaced.

    :raises ArgumentTypeError: the path is neither a str nor a path object.
    :raises KeyFileError: the path is empty, or the home directory is unknown.
    """
    name = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    if not isinstance(name, str):
        raise ArgumentTypeError("path", "str or a path object", path)
    if not name:
        raise KeyFileError("the path of the key file is empty")
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise KeyFileError("the home directory that ~ stands for is unknown; give the complete path") from None


def read_key_file(path: Path) -> bytes:
    """Read a key file, or a pipe such as ``<(command)`` in a shell. Links are followed.

    If everybody may read or write the file, the logger ``dpop.keys`` gets a warning. The file is not refused, because
    some container platforms set such a mode.

    :raises KeyFileError: the file cannot be read, is empty, or has more than 64 KiB.
    """
    try:
        with when_not_in_use(lambda: path.open("rb")) as file:
            status = os.fstat(file.fileno())
            data = file.read(MAX_KEY_BYTES + 1)
    except (OSError, ValueError) as error:
        if _may_be_a_key(str(path)):
            raise KeyFileError(
                "there is no such file, and its name looks like a key or a token; a key itself is passed as bytes or a"
                " dict, and a token never in the place of a key"
            ) from None
        raise KeyFileError(f"cannot read the key file {shown(path)}: {_reason(error)}") from error
    if not data:
        raise KeyFileError(f"the key file {shown(path)} is empty")
    if len(data) > MAX_KEY_BYTES:
        raise KeyFileError(f"the key file {shown(path)} has more than {MAX_KEY_BYTES // 1024} KiB, too much for a key")
    if os.name == "posix" and stat.S_ISREG(status.st_mode) and status.st_mode & 0o007:
        import logging  # noqa: PLC0415 - slow to load, and most keys are private
        import shlex  # noqa: PLC0415 - only for this warning

        mode = stat.S_IMODE(status.st_mode)
        logging.getLogger("dpop.keys").warning(
            "the key file %r is open to every user (mode %04o); run: chmod 600 %s",
            str(path),
            mode,
            shlex.quote(str(path)),
        )
    return data


def write_key_file(
    path: Path, data: bytes, *, overwrite: bool = False, link: Callable[[str, Path], None] = os.link
) -> None:
    """Write a key file with mode 0600, atomically.

    The bytes are written to a temporary file in the same directory, with mode 0600 from its start. They are on the
    disk before the file gets its final name. A symbolic link as the last part of ``path`` is refused, even with
    ``overwrite``, because it is unclear whether the link or its target is meant. Links to directories are followed.

    :param overwrite: replace an existing file. The new file has mode 0600 and belongs to the current user.
    :param link: makes a hard link; on a file system without hard links, an empty file reserves the name.
    :raises KeyFileError: the file exists, or cannot be written. An existing file is unchanged.
    """
    try:
        _check_target(path, overwrite=overwrite)
        write_private_file(
            path, data, overwrite=overwrite, link=link
        )  # short prefix: the name may have the maximal length
    except (OSError, ValueError) as error:
        raise KeyFileError(f"cannot write the key file {shown(path)}: {_reason(error)}") from error
    with contextlib.suppress(OSError):  # the key is written, so an error here would only confuse
        sync_directory(path.parent)


def _check_target(path: Path, *, overwrite: bool) -> None:
    if path.is_symlink():
        raise FileExistsError(errno.EEXIST, "it is a symbolic link; give the path of the file itself")
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a directory; add a file name")
    if not overwrite and path.exists():
        raise FileExistsError(errno.EEXIST, "it exists; pass overwrite=True to replace it")


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return "the path contains characters that no file name can have"


def shown(path: Path) -> str:
    """Quote a path for a message; the middle of a very long path is left out."""
    text = repr(str(path))
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN // 2]} ... {text[-_MAX_SHOWN // 2 :]}"


def _may_be_a_key(path: str) -> bool:
    """Whether a name could be a base64 or hex secret or a JWT, given by mistake; no message repeats such a name."""
    if re.match(r"eyJ[\w-]*\.", path):
        return True  # a JWT, whose first part is a JSON object
    return bool(re.fullmatch(r"[A-Za-z0-9+_=-][A-Za-z0-9+/_=-]{39,}", path)) and bool(re.search(r"\d", path))
