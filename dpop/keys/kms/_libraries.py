# SPDX-License-Identifier: Apache-2.0
"""The clouds' own libraries: imported when one is needed, and set up for many threads."""

from __future__ import annotations

import importlib
from typing import Any, Final

from dpop.errors import MissingExtraError

__all__ = ["CONNECTIONS", "need", "told", "widen"]

CONNECTIONS: Final = 64
"""How many connections a client keeps: as many threads may sign at once without each making its own."""

_MAX_SHOWN: Final = 300


def need(module: str, extra: str) -> Any:
    """Import a module of a cloud's library.

    :raises MissingExtraError: it is not installed; the message names the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"this key needs the Python package {error.name}, which is not installed;"
            f" run: pip install 'dpop-toolkit[{extra}]'",
            name=error.name,
        ) from None


def widen(session: Any) -> None:
    """Let a session of requests, which the libraries use, keep :data:`CONNECTIONS` connections instead of ten.

    Beyond ten it would close each connection after one request, and log a warning.
    """
    for adapter in session.adapters.values():
        adapter.init_poolmanager(CONNECTIONS, CONNECTIONS)


def told(text: object) -> str:
    """What a service says of a refusal, fit for a message: one line, printable, not too long."""
    words = "".join(c if c.isprintable() else " " for c in str(text))
    return " ".join(words.split())[:_MAX_SHOWN]
