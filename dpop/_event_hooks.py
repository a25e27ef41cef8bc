# SPDX-License-Identifier: Apache-2.0
"""Call a user's function for events, whose faults must not become faults of requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import logging

__all__ = ["call_hook"]

_E = TypeVar("_E")


def call_hook(hook: Callable[[_E], object] | None, event: _E, log: logging.Logger) -> None:
    """Give an event to a hook, if there is one; an error that it raises is logged."""
    if hook is None:
        return
    try:
        hook(event)
    except Exception:
        log.exception("the event hook failed at %s", getattr(event, "kind", "an event"))
