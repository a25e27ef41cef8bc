# SPDX-License-Identifier: Apache-2.0
"""Writes a page for each command of the command line, made from the texts that its help shows."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click
from dpop_cli.main import COMMANDS, main

__all__ = ["write_commands"]


def write_commands(into: Path) -> None:
    """Write ``index.rst`` and a page for each command.

    :param into: an empty folder.
    """
    into.mkdir(parents=True)
    context = main.make_context("dpop", ["demo"], resilient_parsing=True)
    parts = [_described(main, context, "="), "Commands\n--------\n\n.. list-table::\n   :widths: auto\n\n"]
    for name, command in COMMANDS.items():
        parts.append(f"   * - :doc:`dpop {name} <dpop-{name}>`\n     - {_escaped(command.help)}\n")
        page = "".join(_pages(context, name, "="))
        (into / f"dpop-{name}.rst").write_text(page, "utf-8")
    parts.append("\n.. toctree::\n   :hidden:\n\n" + "".join(f"   dpop-{name}\n" for name in COMMANDS))
    (into / "index.rst").write_text("".join(parts), "utf-8")


def _pages(context: click.Context, name: str, line: str) -> Iterator[str]:
    """A command, and the commands below it."""
    group = context.command
    assert isinstance(group, click.Group)
    _, command, _ = group.resolve_command(context, [name])
    assert command is not None
    inner = command.context_class(command, info_name=name, parent=context)
    yield _described(command, inner, line)
    if isinstance(command, click.Group):
        for below in command.list_commands(inner):
            yield from _pages(inner, below, "-")


def _described(command: click.Command, context: click.Context, line: str) -> str:
    path = context.command_path
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    parts = [
        f"{path}\n{line * len(path)}\n\n",
        f".. program:: {path}\n\n",
        _literal([usage]),
        "".join(_text(inspect.cleandoc(command.help or ""))),
    ]
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None or isinstance(parameter, click.Argument) or "--help-all" in parameter.opts:
            continue
        parts.append(_option(*record))
    parts += _text(inspect.cleandoc(command.epilog or ""))
    return "".join(parts)


def _option(names: str, text: str) -> str:
    lists = names.replace(" / ", ", ")
    return f".. option:: {lists}\n\n   {_escaped(text)}\n\n"


def _text(text: str) -> Iterator[str]:
    """Paragraphs; those that click does not wrap stay as they are."""
    for paragraph in text.split("\n\n"):
        lines = paragraph.splitlines()
        if not lines:
            continue
        if lines[0].strip() != "\b":
            yield _escaped(" ".join(lines)) + "\n\n"
            continue
        title, *rest = lines[1:]
        if title.endswith(":"):
            yield f"{_escaped(title)}\n\n"
        else:
            rest = [title, *rest]
        yield _literal(inspect.cleandoc("\n".join(["", *rest])).splitlines())


def _literal(lines: list[str]) -> str:
    return ".. code-block:: text\n\n" + "".join(f"   {line}\n" for line in lines) + "\n"


def _escaped(text: str) -> str:
    """The text as it is: nothing in it is markup."""
    return re.sub(r"([\\*`|_])", r"\\\1", text)
