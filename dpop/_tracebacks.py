# SPDX-License-Identifier: Apache-2.0
"""Errors that take nothing of a key along: crash reporters send the local variables of every frame."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from dpop.errors import DPoPError

__all__ = ["drop_frames", "hide_frames"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


def hide_frames(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Let what a function raises show its caller's frames only: those below hold a key file or a password."""

    @functools.wraps(function)
    def call(*arguments: _P.args, **options: _P.kwargs) -> _T:
        try:
            return function(*arguments, **options)
        except DPoPError as error:
            drop_frames(error)
            del arguments, options  # this frame shows, and one of them may be a PIN or a password
            raise error.with_traceback(None)  # noqa: B904 - it is the same error

    return call


def drop_frames(error: BaseException) -> None:
    """Drop the frames of what an error was made from; its own words say what there is to know."""
    below = error.__cause__
    if below is None and not error.__suppress_context__:
        below = error.__context__
    error.__context__ = below
    if below is not None:
        below.__traceback__ = None
        drop_frames(below)
