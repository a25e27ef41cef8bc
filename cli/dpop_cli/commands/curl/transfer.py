# SPDX-License-Identifier: Apache-2.0
"""One run of curl: its response is held back until it is known whether it is the final one.

Only the head of a response and the first bytes of its body are held back; the rest is passed on as it arrives.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import click

from dpop.client import DRAIN_BYTES, DRAIN_SECONDS
from dpop_cli.commands.curl.process import started
from dpop_cli.commands.curl.request import CurlRequest
from dpop_cli.commands.curl.scratch import Scratch, has_dev_fd
from dpop_cli.commands.curl.streams import Held, Sink, print_bytes
from dpop_cli.wire.header_dump import Head, heads

__all__ = ["CurlTransfer", "HeaderFile"]

_HTTP_ERROR = 22
_WRITE_ERROR = 23
_OUTPUT = (
    "output",
    "out-null",
    "remote-name",
    "remote-name-all",
    "output-dir",
    "create-dirs",
    "fail",
    "fail-with-body",
    # Options about a file that curl writes itself; they have no effect with standard output.
    "clobber",
    "create-file-mode",
    "remote-header-name",
    "remote-time",
    "remove-on-error",
    "skip-existing",
    "xattr",
)


class HeaderFile:
    """Writes the user's ``-D FILE``, because curl's own ``-D`` is used by this command."""

    def __init__(self, name: str | None) -> None:
        self._name = name
        self._mode = "wb"

    def write(self, data: bytes) -> None:
        """Add the head of a response; ``-`` is standard output.

        :raises click.ClickException: the file cannot be written.
        """
        if self._name is None or not data:
            return
        if self._name == "-":
            print_bytes(data)
            return
        try:
            with Path(self._name).open(self._mode) as file:
                file.write(data)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "not a file name"
            raise click.ClickException(f"the headers cannot be written to the file of -D: {why}") from None
        self._mode = "ab"


class CurlTransfer:
    """A running curl, as a context manager.

    :param curl: the program.
    :param request: the request to send.
    :param lines: header lines that must not be in the command line.
    :param header_file: the file for the response's head.
    """

    def __init__(self, curl: str, request: CurlRequest, lines: Sequence[str], header_file: HeaderFile) -> None:
        self._request = request
        self._words = request.words
        self._header_file = header_file
        # The body comes through a pipe of its own, which separates it from the output of -w. Without /dev/fd the two
        # are mixed, or curl writes the body to its file, so that a refusal cannot be read.
        self._apart = not request.writes_itself and not request.shows_json and has_dev_fd()
        with contextlib.ExitStack() as resources:
            given = resources.enter_context(Scratch("".join(f"{line}\n" for line in lines).encode("latin-1")))
            self._dump = resources.enter_context(Scratch())
            arguments = request.arguments(leave_out=_OUTPUT, elsewhere=True) if self._apart else request.arguments()
            said, output = os.pipe()
            reader, writer = os.pipe() if self._apart else (-1, -1)
            if self._apart:
                os.set_inheritable(writer, True)
                arguments += ["--output", f"/dev/fd/{writer}"]
            if request.output is None and sys.stdout.isatty():
                arguments.append("--no-progress-meter")  # curl shows none at a terminal
            # A proxy's headers, before the tunnel is open, are not the server's: no nonce is taken from them.
            arguments.append("--suppress-connect-headers")
            arguments += ["--no-buffer", "--header", f"@{given.path}", "--dump-header", self._dump.path]
            try:
                self._process = started([curl, "-q", *arguments], output)
            finally:
                os.close(output)
                if self._apart:
                    os.close(writer)
            self._said = Held(said)
            self._body = Held(reader) if self._apart else self._said
            self._resources = resources.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        with self._resources:
            if self._process.poll() is None:
                self._process.terminate()
            self._process.wait()
            for stream in {self._body, self._said}:
                stream.send(lambda _bytes: None)
                stream.join()

    def head(self) -> Head | None:
        """Wait for the head of the response, until its body begins; None if there is no response."""
        self._body.wait_for_more_than(self._head_bytes)
        found = [head for head in heads(self._dump.read().decode("latin-1")) if head.status >= 200]
        return found[-1] if found else None

    def peek(self, data: int) -> bytes:
        """Return the first bytes of the body, which can still be passed on; empty if curl writes the body to a file."""
        if not self._apart and self._request.output is not None:
            return b""
        before = self._head_bytes()
        return self._body.wait_for_more_than(lambda: before + data - 1)[before:][:data]

    def drop(self, *, show_head: bool = False) -> None:
        """Discard this response.

        :param show_head: show its head if heads are shown; curl shows the head of each redirect.
        """
        if show_head:
            head = self._dump.read()
            self._header_file.write(head)
            if self._head_bytes() and self._request.output is None:
                print_bytes(head)
        dropped = 0

        def drop(data: bytes) -> None:
            nonlocal dropped
            dropped += len(data)
            if dropped > DRAIN_BYTES:
                self._process.terminate()

        # Read a short body to its end, so that curl saves cookies and similar files.
        patience = threading.Timer(DRAIN_SECONDS, self._process.terminate)
        patience.start()
        try:
            for stream in {self._body, self._said}:
                stream.send(drop)
            self._process.wait()
        finally:
            patience.cancel()

    def release(self, head: Head | None) -> int:
        """Pass the response on, from the held bytes to its end; return curl's exit status."""
        shown = self._dump.read()
        self._header_file.write(shown)
        failed = self._apart and head is not None and head.status >= 400
        if self._words.has("trace", "trace-ascii", "stderr"):
            self._said.send(print_bytes)  # it may be much, long before the end
        with self._sink(shown if failed and self._words.is_on("fail") else None) as sink:
            self._body.send(sink)
            self._body.join()
            if sink.refused:
                self._process.terminate()
            code = self._process.wait()
            sink.complete(create=code == 0)
        self._said.send(print_bytes)
        self._said.join()
        self._header_file.write(self._dump.read()[len(shown) :])  # trailers
        if sink.refused:
            return _WRITE_ERROR
        if code == 0 and self._body.error is not None:
            # curl had written the complete body to us before that.
            why = getattr(self._body.error, "strerror", None) or "it cannot be written"
            return self._fail(_WRITE_ERROR, f"Failed writing output: {why}")
        if code == 0 and failed and head is not None and self._words.is_on("fail", "fail-with-body"):
            return self._fail(_HTTP_ERROR, f"The requested URL returned error: {head.status}")
        return code if code >= 0 else 128 - code

    def _fail(self, status: int, message: str) -> int:
        """Print a message as curl does; return the status."""
        if self._words.is_on("show-error") or not self._words.is_on("silent"):
            click.echo(f"curl: ({status}) {message}", err=True)
        return status

    def _sink(self, only: bytes | None) -> Sink:
        """The destination of the body.

        :param only: with ``-f`` nothing but the head, if heads are shown.
        """
        name = self._request.output if self._apart else None
        if only is not None:
            return Sink(name, limit=self._head_bytes())
        return Sink(name, directories=self._words.is_on("create-dirs"), any_bytes="-" in self._words.values("output"))

    def _head_bytes(self) -> int:
        """The size of the head within the body's stream: curl saves each head line before it prints it."""
        if not self._words.is_on("include", "show-headers", "head"):
            return 0
        return len(self._dump.read())
