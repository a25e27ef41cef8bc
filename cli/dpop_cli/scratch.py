# SPDX-License-Identifier: Apache-2.0
"""Private files for a child process, which opens them by name.

In memory where the system can, otherwise a file without a name, otherwise (Windows) one with mode 0600
that is deleted afterwards. What passes this way is in no command line and stays on no disk.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Self

__all__ = ["Scratch", "has_dev_fd"]


def has_dev_fd() -> bool:
    """Whether a child can open inherited descriptors by name; on Windows it cannot."""
    return Path("/dev/fd").is_dir()


class Scratch:
    """A private file for a child process, as a context manager.

    :param data: the initial content.
    :param named: give it a name in the file system, as where there is no ``/dev/fd``.
    """

    def __init__(self, data: bytes = b"", *, named: bool | None = None) -> None:
        if named is None:
            named = not has_dev_fd()
        if named:
            self._descriptor, self.path = tempfile.mkstemp(prefix="dpop-")
        else:
            self._descriptor = _nameless()
            self.path = f"/dev/fd/{self._descriptor}"
            os.set_inheritable(self._descriptor, True)
        self._named = named
        with os.fdopen(os.dup(self._descriptor), "wb") as file:
            file.write(data)
        # Where opening /dev/fd/N means the same open file, the reader begins where we stand.
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
        # Not by seeking: the writer may share our position.
        if hasattr(os, "pread"):
            return os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)
        return Path(self.path).read_bytes()


def _nameless() -> int:
    if hasattr(os, "memfd_create"):
        with contextlib.suppress(OSError):
            return os.memfd_create("dpop")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
