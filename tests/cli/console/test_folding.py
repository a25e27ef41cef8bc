# SPDX-License-Identifier: Apache-2.0
"""Examples and tables in a help text, in a narrow terminal."""

from __future__ import annotations

import importlib
import inspect
import shlex
from collections.abc import Iterator

import click
import pytest
from dpop_cli.console.folding import folded, folded_name
from dpop_cli.main import COMMANDS, main

NARROW = 36  # of 40 columns, with click's margins


def texts(command: click.Command) -> Iterator[str]:
    """The help and the epilog of a command and of those in it."""
    yield inspect.cleandoc(command.help or "")
    yield inspect.cleandoc(command.epilog or "")
    if isinstance(command, click.Group):
        for each in command.commands.values():
            yield from texts(each)


def all_texts() -> list[str]:
    """Those of all commands."""
    found = [inspect.cleandoc(main.help or ""), inspect.cleandoc(main.epilog or "")]
    for each in COMMANDS.values():
        module, _, attribute = each.target.partition(":")
        found += texts(getattr(importlib.import_module(module), attribute))
    return [text for text in found if "\b\n" in text]


def test_a_command_goes_on_after_a_backslash() -> None:
    """An option stays with its value, and a word in quotation marks stays whole."""
    line = "\b\n  dpop curl --token-file token.json --json '{\"a\": 1}' https://api.example/me > out.json"
    assert folded(line, NARROW).splitlines()[1:] == [
        "  dpop curl \\",
        "    --token-file token.json \\",
        "    --json '{\"a\": 1}' \\",
        "    https://api.example/me \\",
        "    > out.json",
    ]


def test_a_pipe_needs_no_backslash() -> None:
    """The line after a pipe, or after the text's own backslash, is one of the same command."""
    line = "\b\n  dpop headers GET https://api.example/me |\n    curl -H @- https://api.example/me/and/more \\\n    -s"
    assert folded(line, NARROW).splitlines()[1:] == [
        "  dpop headers GET \\",
        "    https://api.example/me |",
        "    curl -H @- \\",
        "    https://api.example/me/and/more \\",
        "    -s",
    ]


def test_a_second_column_goes_below_the_first() -> None:
    """In all lines of a table, if one does not fit."""
    table = "\b\nWords:\n  A      short\n  LONGER words that are many\n  B      one more of many, many words"
    assert folded(table, 24).splitlines()[1:] == [
        *("Words:", "  A", "      short", "  LONGER words that are", "    many"),
        *("  B", "      one more of many,", "      many words"),
    ]


def test_the_values_of_an_option_are_kept_whole() -> None:
    """A line ends behind a bar or a blank."""
    assert folded_name("--nonces [none|rotating|single-use]", 24) == "--nonces [none|rotating|\n    single-use]"
    assert folded_name("-o, --out FILE", 24) == "-o, --out FILE"


def test_what_fits_or_is_prose_is_left_alone() -> None:
    """click wraps prose itself."""
    text = "Prose that click wraps, as long as it may be.\n\n\b\n  dpop demo   it fits"
    assert folded(text, 24) == text


@pytest.mark.parametrize("width", [NARROW, 56])
def test_all_examples_fit_and_say_the_same(width: int) -> None:
    """No line is too wide but for one word, or for an option and its value; a shell reads the same words."""
    seen = 0
    for text in all_texts():
        for part in folded(text, width).split("\n\n"):
            for line in part.splitlines() if part.startswith("\b") else ():
                seen += 1
                assert len(line) <= width or len(shlex.split(line.removesuffix("\\"))) <= 2, line
        assert folded(text, width).replace("\\\n", "").split() == text.replace("\\\n", "").split()
    assert seen > 100
