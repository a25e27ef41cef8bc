# SPDX-License-Identifier: Apache-2.0
"""The terminal side of every command: styles, hints, warnings of the library, and signals that stop it."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = [
    "BAD",
    "GOOD",
    "TITLE",
    "WAITING",
    "close_to",
    "closest",
    "done",
    "ended_by_signals",
    "file_names",
    "hanging",
    "hint",
    "may_color",
    "printable",
    "show_late_warnings",
    "show_warnings",
    "stopped_by_signals",
    "tell",
    "waiting",
    "width_of",
]

TITLE: Final[dict[str, Any]] = {"bold": True}
GOOD: Final[dict[str, Any]] = {"fg": "green", "bold": True}
WAITING: Final[dict[str, Any]] = {"fg": "magenta", "bold": True}
BAD: Final[dict[str, Any]] = {"fg": "red", "bold": True}


_WIDEST = 100
_STYLES: Final[dict[str, dict[str, Any]]] = {"Error": BAD, "Warning": WAITING, "Hint": TITLE, "Done": GOOD}
_QUIET_SECONDS = 1.0
_TURN_SECONDS = 0.1
_waits: list[str] = []


def may_color(name: str) -> bool:
    """Whether ``stdout`` or ``stderr`` is a terminal that shows styles, and NO_COLOR is not set (no-color.org)."""
    stream = getattr(sys, name)
    if stream is None or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return bool(stream.isatty())


def width_of(name: str, widest: int) -> int:
    """Return the columns of the terminal at ``stdout`` or ``stderr``, at most ``widest``, also without a terminal."""
    stream = getattr(sys, name)
    if stream is None or not stream.isatty():
        return widest
    import shutil  # noqa: PLC0415 - it brings bz2 and more, and only a terminal needs it

    return min(shutil.get_terminal_size().columns, widest)


def tell(kind: str, text: str) -> None:
    """Print a message on stderr; at a terminal, lines break only between words, and the kind has a colour.

    Control characters, such as those in the name of a file, are printed as escapes.
    """
    message = f"{kind}: {printable(text)}"
    if sys.stderr is not None and sys.stderr.isatty():
        import textwrap  # noqa: PLC0415 - only a terminal needs it

        width = width_of("stderr", _WIDEST)
        message = textwrap.fill(message, width, break_long_words=False, break_on_hyphens=False)
        if may_color("stderr"):
            message = click.style(f"{kind}:", **_STYLES[kind]) + message[len(kind) + 1 :]
    click.echo(message, err=True, color=None if may_color("stderr") else False)


def printable(text: str) -> str:
    """Return a text with all characters as escapes that a terminal would obey or not show, except line breaks."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character == "\n" else ascii(character)[1:-1] for character in text
    )


def hanging(text: str, indent: int) -> str:
    """Return a line for stdout; at a terminal it goes on below, after an indent."""
    if not sys.stdout.isatty():
        return text
    import textwrap  # noqa: PLC0415 - only a terminal needs it

    width, rest = width_of("stdout", 10_000), " " * indent
    return textwrap.fill(text, width, subsequent_indent=rest, break_on_hyphens=False)


def hint(text: str) -> None:
    """Print a hint on stderr; the command goes on."""
    tell("Hint", text)


def done(text: str) -> None:
    """Print on stderr what was done, and what can be done next."""
    tell("Done", text)


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Print on stderr what a command waits for, if it takes more than a second.

    At a terminal one line counts the seconds and disappears at the end; elsewhere the line is printed once.
    """
    if _waits:
        yield  # the outer wait is shown already
        return
    ended = threading.Event()
    _waits.append(what)

    def show() -> None:
        if ended.wait(_QUIET_SECONDS) or sys.stderr is None:
            return
        if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
            click.echo(f"{what} ...", err=True)
            return
        since, turn = time.monotonic() - _QUIET_SECONDS, 0
        while not ended.wait(_TURN_SECONDS):
            seconds = f", {time.monotonic() - since:.0f} s"
            shown = _cut(what, width_of("stderr", _WIDEST) - 3 - len(seconds))
            click.echo(f"\r{('|/-' + chr(92))[turn % 4]} {shown}{seconds}", err=True, nl=False)
            turn += 1
        click.echo("\r\x1b[K", err=True, nl=False)

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        _waits.clear()


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: max(width - 3, 0)]}..."


def closest(word: str, known: Iterable[str]) -> list[str]:
    """Return the most similar known word, or no word if none is similar."""
    from difflib import get_close_matches  # noqa: PLC0415 - only after a mistyped word

    return get_close_matches(word, list(known), n=1)


def close_to(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean X?`` for the most similar known word, or an empty text."""
    found = closest(word, known)
    return f"; did you mean {found[0]}?" if found else ""


def file_names(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete file names."""
    from click.shell_completion import CompletionItem  # noqa: PLC0415 - only for a shell that asks

    return [CompletionItem(incomplete, type="file")]


_STOPPING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # the last on Windows only
_ENDING = ("SIGTERM", "SIGHUP", "SIGQUIT")  # the last two not on Windows


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C, SIGTERM and SIGHUP set; afterwards restore the signal handlers."""
    import signal  # noqa: PLC0415 - only commands that run until they are stopped need it

    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    numbers: list[signal.Signals] = [getattr(signal, name) for name in _STOPPING if hasattr(signal, name)]
    before = [
        (number, signal.signal(number, on_signal))
        for number in numbers
        # Under nohup SIGHUP is ignored, and stays so.
        if number.name != "SIGHUP" or signal.getsignal(number) != signal.SIG_IGN
    ]
    try:
        yield stop
    finally:
        for number, handler in before:
            signal.signal(number, handler)


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Convert a signal that ends a command to an exit, which first finishes what must not be lost, as Ctrl-C does."""
    import signal  # noqa: PLC0415 - as above

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        if number == getattr(signal, "SIGHUP", None):
            # A terminal that goes away sends it twice: once by the shell, and once more when the shell has ended.
            signal.signal(number, signal.SIG_IGN)
        sys.exit(128 + number)

    numbers = [getattr(signal, name) for name in _ENDING if hasattr(signal, name)]
    # An ignored signal, such as SIGHUP under nohup, stays ignored.
    before = [
        (number, signal.signal(number, leave)) for number in numbers if signal.getsignal(number) != signal.SIG_IGN
    ]
    try:
        yield
    finally:
        for number, handler in before:
            if signal.getsignal(number) is leave:
                signal.signal(number, handler)


@functools.cache
def show_warnings() -> None:
    """Print the library's warnings on stderr from now on; a second call changes nothing."""
    import logging  # noqa: PLC0415 - it is slow to load, and most commands log nothing

    class Warnings(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            """Print the message on the current ``sys.stderr``, if that is possible.

            The library logs in the middle of a refresh: an error here would cost the tokens that it has received.
            """
            with contextlib.suppress(OSError):
                tell("Warning", record.getMessage())

    logging.getLogger("dpop").addHandler(Warnings(logging.WARNING))


def show_late_warnings() -> None:
    """Print the warnings of :mod:`dpop.client` without loading logging before there is one."""
    from dpop._late_logging import before_messages  # noqa: PLC0415 - help needs nothing of the library

    before_messages(show_warnings)
