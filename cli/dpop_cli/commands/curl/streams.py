# SPDX-License-Identifier: Apache-2.0
"""Hold curl's output back until its destination is known, and write it there."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Self

import click

from dpop_cli.console.exit_status import drop_output

__all__ = ["Held", "Sink", "print_bytes"]

_CHUNK = 65_536
# More than all header fields that curl accepts; this command waits for them and the beginning of the body.
_MOST = 1 << 20
_TERMINAL_LOOK = 2000


class Held:
    """Holds the bytes of a pipe until :meth:`send`; after that, bytes are passed on as they arrive.

    :param reader: the descriptor to read, which this object closes.
    """

    def __init__(self, reader: int) -> None:
        self._reader = reader
        self._bytes = b""
        self._ended = False
        self._write: Callable[[bytes], None] | None = None
        self._changed = threading.Condition()
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._relay, daemon=True)
        self._thread.start()

    def wait_for_more_than(self, count: Callable[[], int]) -> bytes:
        """Wait for more than ``count()`` bytes, or for the end; return all bytes so far."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or len(self._bytes) > count())
            return self._bytes

    def send(self, write: Callable[[bytes], None]) -> None:
        """Pass the held bytes to ``write``, and all later ones."""
        with self._changed:
            self._write = write
            self._flush()
            self._changed.notify_all()

    def join(self) -> None:
        """Wait for the end."""
        self._thread.join()

    def _relay(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(self._reader, _CHUNK):
                with self._changed:
                    self._bytes += data
                    self._flush()
                    self._changed.notify_all()
                    # curl then waits, too, so that memory does not fill up.
                    self._changed.wait_for(lambda: self._write is not None or len(self._bytes) < _MOST)
                if self.error is not None:
                    break
        os.close(self._reader)  # if curl is still writing, it notices
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _flush(self) -> None:
        if self._write is None or not self._bytes or self.error is not None:
            return
        data, self._bytes = self._bytes, b""
        try:
            self._write(data)
        except (OSError, click.ClickException) as error:
            self.error = error


class Sink:
    """A context manager that writes to a file or standard output like curl.

    :param name: the name of the file, which is created at the first bytes; None for standard output.
    :param directories: create the directories of the file.
    :param any_bytes: print binary data to a terminal, too.
    :param limit: the maximal number of bytes; the rest is discarded.
    """

    def __init__(
        self, name: str | None, *, directories: bool = False, any_bytes: bool = False, limit: int | None = None
    ) -> None:
        self._name = name
        self._directories = directories
        self._looked = _TERMINAL_LOOK if name is not None or any_bytes or not sys.stdout.isatty() else 0
        self._left = limit
        self._file: BinaryIO | None = None
        self.refused = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()

    def __call__(self, data: bytes) -> None:
        """Write bytes to the destination.

        :raises OSError: the bytes cannot be written, which curl must notice.
        """
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        if not data or self.refused:
            return
        if self._name is not None:
            self._opened().write(data)
            self._opened().flush()
            return
        if self._looked < _TERMINAL_LOOK and b"\0" in data:
            self.refused = True
            click.echo('Warning: Binary output can mess up your terminal. Use "--output -" to tell', err=True)
            click.echo('Warning: curl to output it to your terminal anyway, or "--output <FILE>".', err=True)
            raise OSError
        self._looked += len(data)
        try:
            print_bytes(data)
        except OSError:
            drop_output()
            raise

    def complete(self, *, create: bool) -> None:
        """Finish, after all bytes have been written.

        :param create: create the file even if there were no bytes.
        """
        if create and self._name is not None and self._left is None:
            with contextlib.suppress(OSError, ValueError):
                self._opened()

    def _opened(self) -> BinaryIO:
        if self._file is None:
            path = Path(self._name or "")
            if self._directories:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb")
        return self._file


def print_bytes(data: bytes) -> None:
    """Write to standard output, without buffering."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
