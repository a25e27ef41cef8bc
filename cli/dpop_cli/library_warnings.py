# SPDX-License-Identifier: Apache-2.0
"""What the library logs as a warning is a warning to the person at the terminal."""

from __future__ import annotations

import logging

from dpop_cli.careful import tell

__all__ = ["show_warnings"]


class _Warnings(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """Print it on the stderr of this moment."""
        tell("Warning", record.getMessage())


_warnings = _Warnings(logging.WARNING)


def show_warnings() -> None:
    """From now on; a second call changes nothing."""
    logging.getLogger("dpop").addHandler(_warnings)
