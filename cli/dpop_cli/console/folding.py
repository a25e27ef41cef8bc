# SPDX-License-Identifier: Apache-2.0
"""Fold the examples and tables of a help text that are too wide for a terminal.

click keeps the lines of such a paragraph, which follow its mark, as they are, and a narrow terminal then breaks them
anywhere, so that a command cannot be read, and not be copied.
"""

from __future__ import annotations

import re

__all__ = ["folded", "folded_name"]

_COMMAND = re.compile(r"\s*(?:dpop|curl|openssl|export) ")
_TWO_COLUMNS = re.compile(r"( *)(\S.*?) {2,}(\S.*)")
# What a shell takes for one word, where blanks between quotation marks do not end it; with the option in front of it.
_WORD = re.compile(r"""(?:(?:--?[\w-]+|>) (?=[^-|>]))?(?:'[^']*'|"[^"]*"|[^\s'"])+""")


def folded(text: str, width: int) -> str:
    """Return the text with its paragraphs of fixed lines folded to a width.

    A command goes on in the next line after a backslash. The second column of a table goes below the first one.
    """
    return "\n\n".join(
        part if part.partition("\n")[0].strip() != "\b" else _fitting(part, width) for part in text.split("\n\n")
    )


def folded_name(name: str, width: int) -> str:
    """Return an option and its values, with line ends between values where the width needs them."""
    rows = [""]
    for piece in re.split(r"(?<=[| ])", name):
        if rows[-1] and len(rows[-1]) + len(piece) > width:
            rows.append("    ")
        rows[-1] += piece
    return "\n".join(rows)


def _fitting(paragraph: str, width: int) -> str:
    lines = paragraph.split("\n")
    if max(map(len, lines)) <= width:
        return paragraph
    found: list[str] = []
    continued = False
    for line in lines:
        command = continued or _COMMAND.match(line) is not None
        columns = _TWO_COLUMNS.fullmatch(line)
        if columns is not None and not continued:
            found += _row(columns[1] + columns[2], width, command=command, continued=False)
            found += _prose(f"{columns[1]}    {columns[3]}", width, hang="")
            command = False
        else:
            found += _row(line, width, command=command, continued=continued)
        continued = command and line.endswith(("\\", "|"))
    return "\n".join(found)


def _row(line: str, width: int, *, command: bool, continued: bool) -> list[str]:
    if len(line) <= width:
        return [line]
    if command:
        return _command(line, width, hang="" if continued else "  ")
    return _prose(line, width, hang="  " if line.startswith(" ") else "")


def _command(line: str, width: int, *, hang: str) -> list[str]:
    end = " \\" if line.endswith(" \\") else ""
    rows = _rows(line.removesuffix(end), _WORD.findall(line.removesuffix(end)), width - 2, hang)
    return [row if row.endswith("|") else f"{row} \\" for row in rows[:-1]] + [rows[-1] + end]


def _prose(line: str, width: int, *, hang: str) -> list[str]:
    return _rows(line, line.split(), width, hang)


def _rows(line: str, words: list[str], width: int, hang: str) -> list[str]:
    """Put words into rows that are as wide as allowed; a longer word gets a row of its own."""
    indent = " " * (len(line) - len(line.lstrip()))
    rows = [f"{indent}{words[0]}"]
    for word in words[1:]:
        if len(rows[-1]) + 1 + len(word) <= width:
            rows[-1] += f" {word}"
        else:
            rows.append(f"{indent}{hang}{word}")
    return rows
