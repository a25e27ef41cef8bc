# SPDX-License-Identifier: Apache-2.0
"""Loggers that load :mod:`logging` with their first message.

To load it takes 4 ms, which a command such as ``dpop curl`` spends on nothing else: it logs only what goes wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import logging

__all__ = ["before_messages", "late_logger"]

_prepare: list[Callable[[], object]] = []


def late_logger(name: str) -> logging.Logger:
    """Return what can be used like the logger of this name."""
    return cast("logging.Logger", _LateLogger(name))


def before_messages(prepare: Callable[[], object]) -> None:
    """Call a function each time before a late logger is used; a program adds its handler there."""
    if prepare not in _prepare:
        _prepare.append(prepare)


class _LateLogger:
    """Passes everything on to the logger itself, so that records name the caller's line."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        import logging  # noqa: PLC0415 - slow to load, see above

        for prepare in _prepare:
            prepare()
        return getattr(logging.getLogger(self._name), attribute)
