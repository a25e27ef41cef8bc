# SPDX-License-Identifier: Apache-2.0
"""Hide secrets in tracebacks: crash reporters send the local variables of every frame.

The frames of a function that signs, verifies or stores hold keys, tokens, proofs and nonces. Every public entry point
is decorated with :func:`hide_frames`, so that an error of ours shows the frames of its caller only.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator
from typing import Any, ParamSpec, TypeVar, cast

from dpop.errors import DPoPError

__all__ = ["drop_frames", "hide_frames"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


def hide_frames(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Decorate a function so that a DPoPError it raises shows the frames of its caller only.

    For functions, coroutine functions and generator functions. Any other error is left as it is.
    """
    # Before each raise the arguments are deleted: these frames show, and one of them may be a token or a password.

    @functools.wraps(function)
    def call(*arguments: _P.args, **options: _P.kwargs) -> _T:
        try:
            return function(*arguments, **options)
        except DPoPError as error:
            del arguments, options
            raise _bare(error)  # noqa: B904 - it is the same error

    @functools.wraps(function)
    async def acall(*arguments: _P.args, **options: _P.kwargs) -> Any:
        try:
            return await cast("Any", function)(*arguments, **options)
        except DPoPError as error:
            del arguments, options
            raise _bare(error)  # noqa: B904 - it is the same error

    @functools.wraps(function)
    def generate(*arguments: _P.args, **options: _P.kwargs) -> Generator[Any, Any, Any]:
        try:
            return (yield from cast("Any", function)(*arguments, **options))
        except DPoPError as error:
            del arguments, options
            raise _bare(error)  # noqa: B904 - it is the same error

    if inspect.iscoroutinefunction(function):
        return cast("Callable[_P, _T]", acall)
    if inspect.isgeneratorfunction(function):
        return cast("Callable[_P, _T]", generate)
    return call


def _bare(error: DPoPError) -> DPoPError:
    drop_frames(error)
    return error.with_traceback(None)


def drop_frames(error: BaseException) -> None:
    """Drop the frames of the exceptions that caused an error; the error's message says all there is to know."""
    below = error.__cause__
    if below is None and not error.__suppress_context__:
        below = error.__context__
    error.__context__ = below
    if below is not None:
        below.__traceback__ = None
        drop_frames(below)
