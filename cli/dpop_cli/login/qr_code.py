# SPDX-License-Identifier: Apache-2.0
"""Draw a QR code in the terminal, where the terminal can show one."""

from __future__ import annotations

import sys

from dpop_cli.console.output import may_color, width_of

__all__ = ["qr_code"]

_BORDER = 4  # modules of quiet zone, as the standard has it
_WIDEST = 400
# Both colours are named: a scanner needs dark on light, whatever the colours of the terminal.
_WHITE_ON_BLACK, _RESET = "\x1b[97;40m", "\x1b[0m"
_HALVES = {(0, 0): "█", (0, 1): "▀", (1, 0): "▄", (1, 1): " "}  # the light modules are painted, two in one character


def qr_code(text: str) -> list[str]:
    """The lines of a QR code for standard error; none if it cannot be drawn there.

    It needs a terminal with colours, block characters and enough columns, and the package segno.
    """
    if not may_color("stderr") or not _has_blocks():
        return []
    try:
        import segno  # noqa: PLC0415 - of an extra
    except ModuleNotFoundError:
        return []
    try:
        rows = [list(row) for row in segno.make_qr(text, error="l").matrix_iter(border=_BORDER)]
    except ValueError:  # a server's address may be longer than any QR code
        return []
    if len(rows[0]) > width_of("stderr", _WIDEST):
        return []
    if len(rows) % 2:
        rows.append([0] * len(rows[0]))
    pairs = zip(rows[::2], rows[1::2], strict=True)
    return [
        _WHITE_ON_BLACK + "".join(_HALVES[pair] for pair in zip(above, below, strict=True)) + _RESET
        for above, below in pairs
    ]


def _has_blocks() -> bool:
    try:
        "█▀▄".encode(sys.stderr.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
