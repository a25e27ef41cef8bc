# SPDX-License-Identifier: Apache-2.0
"""The end of a command: a message for people and an exit status for scripts, but never a traceback.

========  ==================================================
status    meaning
========  ==================================================
0         done
1         a server refused, or a proof is bad
2         wrong usage
3         an error with a key, a PIN, a store or a file
70        a bug in this program
130, 141  ended by Ctrl-C; by a reader that closed the pipe
========  ==================================================
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
from collections.abc import Callable, Iterator
from enum import IntEnum
from pathlib import Path

import click

from dpop_cli.console.output import may_color, tell

__all__ = [
    "BrokenInstallationError",
    "PipeClosedError",
    "Status",
    "broken_installation",
    "drop_output",
    "pipe_kept_from_click",
    "run_to_exit_status",
]


class Status(IntEnum):
    """Exit statuses. The last three are conventions of shells and of ``sysexits.h``."""

    DONE = 0
    REFUSED = 1
    USAGE = 2
    TROUBLE = 3
    BUG = 70
    INTERRUPTED = 128 + 2
    PIPE_CLOSED = 128 + 13


_STANDARD_ERROR = 2


class PipeClosedError(Exception):
    """The reader of our output has closed the pipe."""


class BrokenInstallationError(click.ClickException):
    """Another project's files have replaced files of this one."""

    exit_code = Status.TROUBLE


@contextlib.contextmanager
def pipe_kept_from_click() -> Iterator[None]:
    """Convert EPIPE to our own error, because click would exit with status 1 for EPIPE."""
    try:
        yield
    except OSError as error:
        if not _is_closed_pipe(error):
            raise
        raise PipeClosedError from None


def _is_closed_pipe(error: OSError) -> bool:
    """Whether the error means a closed pipe; Windows reports EINVAL for a stream without a name."""
    return error.errno == errno.EPIPE or (os.name == "nt" and error.errno == errno.EINVAL and error.filename is None)


def run_to_exit_status(run: Callable[[], object]) -> int:
    """Call ``run``, and turn any error into a message on stderr and an exit status.

    :param run: a click command in non-standalone mode; an int that it returns is its status.
    """
    if sys.stdout is None:
        # The next file that is opened, such as a key file, would get descriptor 1 and all output.
        return _fail(
            "standard output is closed, so there is nowhere to print to; open it or use > /dev/null", Status.USAGE
        )
    _occupy_standard_descriptors()
    _print_unknown_characters_as_escapes()
    try:
        status = _ended(run)
        sys.stdout.flush()
    except PipeClosedError:
        drop_output()
        return Status.PIPE_CLOSED
    except OSError as error:
        drop_output()
        if _is_closed_pipe(error):
            return Status.PIPE_CLOSED
        try:
            return _fail(f"the output could not be written: {error.strerror}", Status.TROUBLE)
        except OSError:
            return Status.TROUBLE
    return status


def _ended(run: Callable[[], object]) -> int:
    try:
        status = run()
    except click.ClickException as error:
        _show(error)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted; nothing more was done.", err=True)
        return Status.INTERRUPTED
    except PipeClosedError:
        raise
    except OSError as error:
        if error.filename is None and error.errno == errno.ENOSPC:
            raise
        where = "" if error.filename is None else f"{click.format_filename(error.filename)}: "
        return _fail(f"{where}{error.strerror or type(error).__name__}", Status.TROUBLE)
    except Exception as error:  # noqa: BLE001 - the last place before a traceback
        return _other_error(error)
    return status if isinstance(status, int) else Status.DONE


def _occupy_standard_descriptors() -> None:
    """Open the null device where standard input or standard error is closed.

    Otherwise the next file that is opened would get its descriptor, and a child such as curl would read a file with our
    token as its standard input, or write messages into one.
    """
    while (opened := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
        os.set_inheritable(opened, True)
    os.close(opened)


def _print_unknown_characters_as_escapes() -> None:
    """Print characters that the code page lacks as escapes, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def drop_output() -> None:
    """Discard all further output: the reader is gone, and Python would report an error when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def broken_installation() -> str | None:
    """Say how to repair this installation, if an unrelated project named dpop overwrote or removed its files."""
    import dpop  # noqa: PLC0415 - help needs none of it

    if "create_proof" in getattr(dpop, "__all__", ()):
        return None
    return (
        "the Python package dpop does not belong to dpop-toolkit: an unrelated project named dpop, with the same import"
        " and command, has overwritten or removed its files. Repair: pip uninstall dpop dpop-toolkit, then"
        " pip install dpop-toolkit"
    )


def _other_error(error: Exception) -> int:
    # Imported only now, because it loads most of the library.
    try:
        from dpop.errors import (  # noqa: PLC0415
            DPoPError,
            DPoPKeyError,
            ReplayCacheError,
            TokenStoreError,
            UsageError,
        )
    except ImportError as missing:
        return _fail(broken_installation() or str(missing), Status.TROUBLE)

    if isinstance(error, UsageError):
        return _fail(str(error), Status.USAGE)
    if isinstance(error, (DPoPKeyError, ReplayCacheError, TokenStoreError)):
        return _fail(str(error), Status.TROUBLE)
    if isinstance(error, DPoPError):
        return _fail(str(error), Status.REFUSED)
    if isinstance(error, ImportError) and (repair := broken_installation()):
        return _fail(repair, Status.TROUBLE)
    # The text of an unexpected exception may contain a secret, so only its place is shown.
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""
    return _fail(f"this is a bug in dpop: {type(error).__name__}{place}; please report it with the command", Status.BUG)


def _fail(message: str, status: Status) -> Status:
    tell("Error", message)
    return status


def _show(error: click.ClickException) -> None:
    """Show an error as click does, except for the line width and line breaks within a message."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):  # a group without a command: its message is its help
        click.echo(error.format_message(), err=True, color=None if may_color("stderr") else False)
        return
    if isinstance(error, click.UsageError) and error.ctx is not None:
        click.echo(error.ctx.get_usage(), err=True, color=None if may_color("stderr") else False)
        click.echo(f"Try '{error.ctx.command_path} --help' for help.\n", err=True)
    tell("Error", re.sub(r"\s*[\n\t]\s*", " ", error.format_message()))
