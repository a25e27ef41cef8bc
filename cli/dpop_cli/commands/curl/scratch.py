# SPDX-License-Identifier: Apache-2.0
"""Private files for a child process, which opens them by name.

Such a file is in memory, if the system supports that; otherwise it is a file without a name; on Windows it is a file
with mode 0600, which is deleted afterwards. So its content is in no command line and does not stay on a disk.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Self

__all__ = ["Scratch", "has_dev_fd"]


def has_dev_fd() -> bool:
    """Whether a child can open inherited descriptors by name; on Windows it cannot."""
    return Path("/dev/fd").is_dir()


class Scratch:
    """A private file for a child process, as a context manager.

    :param data: the initial content.
    :param named: whether it has a name in the file system; by default only if there is no ``/dev/fd``.
    """

    def __init__(self, data: bytes = b"", *, named: bool | None = None) -> None:
        if named is None:
            named = not has_dev_fd()
        if named:
            import tempfile  # noqa: PLC0415 - slow to load, and not needed where files can be in memory

            self._descriptor, self.path = tempfile.mkstemp(prefix="dpop-")
        else:
            self._descriptor = _nameless()
            self.path = f"/dev/fd/{self._descriptor}"
            os.set_inheritable(self._descriptor, True)
        self._named = named
        with os.fdopen(os.dup(self._descriptor), "wb") as file:
            file.write(data)
        # On some systems, opening /dev/fd/N shares our position, so set it to the start.
        os.lseek(self._descriptor, 0, os.SEEK_SET)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        os.close(self._descriptor)
        if self._named:
            with contextlib.suppress(OSError):
                Path(self.path).unlink()

    def read(self) -> bytes:
        """Read all bytes in the file, also while the child is writing."""
        # Do not seek: the writer may share our position.
        if hasattr(os, "pread"):
            return os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)
        return Path(self.path).read_bytes()


def _nameless() -> int:
    if hasattr(os, "memfd_create"):
        with contextlib.suppress(OSError):
            return os.memfd_create("dpop")
    import tempfile  # noqa: PLC0415 - as above

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
