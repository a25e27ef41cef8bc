# SPDX-License-Identifier: Apache-2.0
"""Call a user's function for events, whose faults must not become faults of requests."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar
from weakref import WeakKeyDictionary

from dpop.errors import ArgumentTypeError, UsageError

if TYPE_CHECKING:
    import logging

__all__ = ["call_hook", "checked_hook"]

_E = TypeVar("_E")
_H = TypeVar("_H", bound=Callable[..., object] | None)
_PAUSE: Final = 60.0  # seconds: any stranger can cause events, and so one traceback for each
_reported: WeakKeyDictionary[Callable[..., object], float] = WeakKeyDictionary()


def checked_hook(hook: _H) -> _H:
    """Return a hook that can be called.

    :raises ArgumentTypeError: the hook is not a function.
    :raises UsageError: the hook is async: nothing would await it.
    """
    if hook is None:
        return hook
    if not callable(hook):
        raise ArgumentTypeError("events", "a function", hook)
    if inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(getattr(hook, "__call__", None)):  # noqa: B004
        raise UsageError("events must not be async, because nothing awaits it; put the event into a queue instead")
    return hook


def call_hook(hook: Callable[[_E], object] | None, event: _E, log: logging.Logger) -> None:
    """Give an event to a hook, if there is one; an error that it raises is logged, once a minute at most."""
    if hook is None:
        return
    try:
        hook(event)
    except Exception:
        if _worth_reporting(hook):
            log.exception(
                "the event hook failed at %s; more failures within a minute are not logged",
                getattr(event, "kind", "an event"),
            )


def _worth_reporting(hook: Callable[..., object]) -> bool:
    now = time.monotonic()
    try:
        then = _reported.get(hook, -_PAUSE)
    except TypeError:  # an object without a hash or without weak references, such as a dataclass, has its class instead
        hook = type(hook)
        then = _reported.get(hook, -_PAUSE)
    if now - then < _PAUSE:
        return False
    _reported[hook] = now
    return True
