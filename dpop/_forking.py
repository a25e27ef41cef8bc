# SPDX-License-Identifier: Apache-2.0
"""Reset the state of objects after a fork.

A forked child has a copy of its parent's memory, but not its parent's other threads. A lock that one of them held would
never be released in the child, and work that one of them had begun would never end. So each object with locks or work
in progress registers here, and is reset in the child.
"""

from __future__ import annotations

import importlib
import os
import weakref
from collections.abc import Callable
from typing import Protocol

__all__ = ["at_fork", "import_now", "reset_after_fork"]


class _Resettable(Protocol):
    def _reset_after_fork(self) -> None: ...


_objects: weakref.WeakSet[_Resettable] = weakref.WeakSet()


def at_fork(
    *,
    before: Callable[[], object] | None = None,
    in_parent: Callable[[], object] | None = None,
    in_child: Callable[[], object] | None = None,
) -> None:
    """Register functions for every fork of this process, as :func:`os.register_at_fork` does.

    On Windows, which has no fork, this does nothing.
    """
    if not hasattr(os, "register_at_fork"):
        return
    given = {"before": before, "after_in_parent": in_parent, "after_in_child": in_child}
    register: Callable[..., None] = os.register_at_fork
    register(**{name: function for name, function in given.items() if function is not None})


def import_now(*modules: str) -> None:
    """Import modules that are first used in a thread; to be called when an object is made, which threads will use.

    The lock of an import that is going on is inherited by a forked child, and nobody there releases it: the child would
    wait for ever at its first use of the module.
    """
    for name in modules:
        importlib.import_module(name)


def reset_after_fork(instance: _Resettable) -> None:
    """Call the ``_reset_after_fork`` method of an object in each forked child, for as long as the object lives."""
    _objects.add(instance)


def _reset_all() -> None:
    for instance in list(_objects):
        instance._reset_after_fork()  # noqa: SLF001 - the protocol of this module


at_fork(in_child=_reset_all)
