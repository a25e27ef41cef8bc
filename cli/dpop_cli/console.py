# SPDX-License-Identifier: Apache-2.0
"""The terminal side of every command: styles, hints, warnings of the library, and signals that stop it."""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = [
    "BAD",
    "GOOD",
    "TITLE",
    "WAITING",
    "NoEchoCommand",
    "file_names",
    "hint",
    "show_warnings",
    "stopped_by_signals",
    "tell",
]

TITLE: Final[dict[str, Any]] = {"bold": True}
GOOD: Final[dict[str, Any]] = {"fg": "green", "bold": True}
WAITING: Final[dict[str, Any]] = {"fg": "magenta", "bold": True}
BAD: Final[dict[str, Any]] = {"fg": "red", "bold": True}


_WIDEST = 100
_LONGEST_OPTION = 40


def tell(kind: str, text: str) -> None:
    """Print a message on stderr; at a terminal, lines break between words only."""
    message = f"{kind}: {text}"
    if sys.stderr is not None and sys.stderr.isatty():
        import shutil  # noqa: PLC0415 - these bring bz2 and more, and only a terminal needs them
        import textwrap  # noqa: PLC0415

        width = min(shutil.get_terminal_size().columns, _WIDEST)
        message = textwrap.fill(message, width, break_long_words=False, break_on_hyphens=False)
    click.echo(message, err=True)


def hint(text: str) -> None:
    """Print a hint on stderr; the command goes on."""
    tell("Hint", text)


def file_names(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete file names."""
    from click.shell_completion import CompletionItem  # noqa: PLC0415 - only for a shell that asks

    return [CompletionItem(incomplete, type="file")]


class NoEchoCommand(click.Command):
    """A command that does not repeat arguments it did not expect: one of them may be a token."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does, with our own message for too many arguments."""
        ctx.allow_extra_args = True
        try:
            rest = super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if len(error.option_name) <= _LONGEST_OPTION and error.option_name.isprintable():
                raise
            # A key in PEM begins with dashes too.
            ctx.fail("an option was expected, and something came that is too long for one. A key is named by its file")
        if rest and not ctx.resilient_parsing:
            expected = " ".join(self.collect_usage_pieces(ctx)[1:])
            ctx.fail(
                f"{len(rest)} more argument{'s' * (len(rest) > 1)} than expected"
                f"{f'; expected {expected}' if expected else ''}. A key is named by --key, where a command takes one."
                " A token or a password is never an argument: see the options that end in -file, -env and -prompt"
            )
        return rest


_STOPPING = ("SIGINT", "SIGTERM", "SIGBREAK")  # the last on Windows only


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C and SIGTERM set; afterwards restore the signal handlers."""
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    numbers = [getattr(signal, name) for name in _STOPPING if hasattr(signal, name)]
    before = [(number, signal.signal(number, on_signal)) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in before:
            signal.signal(number, handler)


@functools.cache
def show_warnings() -> None:
    """Print the library's warnings on stderr from now on; a second call changes nothing."""
    import logging  # noqa: PLC0415 - it is slow to load, and most commands log nothing

    class Warnings(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            """Print the message on the current ``sys.stderr``."""
            tell("Warning", record.getMessage())

    logging.getLogger("dpop").addHandler(Warnings(logging.WARNING))
