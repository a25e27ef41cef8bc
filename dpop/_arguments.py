# SPDX-License-Identifier: Apache-2.0
"""Errors that help with arguments of constructors: unknown names, and a class in the place of an object."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from dpop.errors import UsageError

__all__ = ["explain_unknown_arguments", "refuse_class"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


def explain_unknown_arguments(constructor: Callable[_P, _T]) -> Callable[_P, _T]:
    """Decorate a constructor: an unknown keyword argument is a UsageError that suggests the most similar known one."""
    known = inspect.signature(constructor).parameters.keys()
    owner = constructor.__qualname__.rpartition(".")[0]

    @functools.wraps(constructor)
    def call(*arguments: _P.args, **options: _P.kwargs) -> _T:
        for name in options:
            if name not in known:
                from difflib import get_close_matches  # noqa: PLC0415 - slow, and seldom needed

                near = get_close_matches(name, known, 1)
                hint = f"; did you mean {near[0]}=?" if near else f"; help({owner}) lists its settings"
                raise UsageError(f"{owner} has no setting {name}={hint}")
        return constructor(*arguments, **options)

    return call


def refuse_class(name: str, value: object) -> None:
    """Refuse a class that was given where one of its objects is needed.

    :raises UsageError: ``value`` is a class.
    """
    if isinstance(value, type):
        raise UsageError(f"{name} is the class {value.__name__}; make one: {value.__name__}(...)")
