# SPDX-License-Identifier: Apache-2.0
"""The few styles of ``dpop``, which must be read on light and on dark terminals.

What is to be read has the terminal's own colours. A colour only repeats what a word says: of the sixteen that
terminals share, yellow and cyan vanish on white, blue on black, and faint text on either.
"""

from __future__ import annotations

from typing import Any, Final

__all__ = ["BAD", "GOOD", "TITLE", "WAITING"]

TITLE: Final[dict[str, Any]] = {"bold": True}
GOOD: Final[dict[str, Any]] = {"fg": "green", "bold": True}
WAITING: Final[dict[str, Any]] = {"fg": "magenta", "bold": True}
BAD: Final[dict[str, Any]] = {"fg": "red", "bold": True}
