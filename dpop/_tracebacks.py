# SPDX-License-Identifier: Apache-2.0
"""Hide secrets in tracebacks: crash reporters send the local variables of every frame.

The frames of a function that signs, verifies or stores contain keys, tokens, proofs and nonces. So every public entry
point is decorated with :func:`hide_frames`. A DPoPError then shows only the frames of its caller. Any other error, such
as one of a key, a store or a connection, keeps its frames, but those of this package and of HTTP libraries lose their
variables.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Generator
from typing import Any, ParamSpec, TypeVar, cast

from dpop.errors import DPoPError

__all__ = ["clear_frames", "drop_frames", "hide_frames"]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_HOLD_SECRETS = frozenset(
    {"dpop", "requests", "urllib3", "http", "httpx", "httpx2", "httpcore", "httpcore2", "aiohttp"}
)


def hide_frames(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Decorate a function so that its errors carry no variables of frames that hold secrets.

    For functions, coroutine functions and generator functions. A DPoPError shows only the frames of its caller; any
    other error keeps the lines of all frames.
    """
    untyped = cast("Any", function)  # once: each call of cast would cost as much as a call of any function

    # Each wrapper deletes its arguments before it raises: its own frame is shown, and an argument may be a token.

    @functools.wraps(function)
    def call(*arguments: _P.args, **options: _P.kwargs) -> _T:
        try:
            return function(*arguments, **options)
        except BaseException as error:  # noqa: BLE001 - raised again
            del arguments, options
            raise _without_secrets(error)  # noqa: B904 - the same exception

    @functools.wraps(function)
    async def acall(*arguments: _P.args, **options: _P.kwargs) -> Any:
        try:
            return await untyped(*arguments, **options)
        except BaseException as error:  # noqa: BLE001 - raised again
            del arguments, options
            raise _without_secrets(error)  # noqa: B904 - the same exception

    @functools.wraps(function)
    def generate(*arguments: _P.args, **options: _P.kwargs) -> Generator[Any, Any, Any]:
        try:
            return (yield from untyped(*arguments, **options))
        except BaseException as error:  # noqa: BLE001 - raised again
            del arguments, options
            raise _without_secrets(error)  # noqa: B904 - the same exception

    if inspect.iscoroutinefunction(function):
        return cast("Callable[_P, _T]", acall)
    if inspect.isgeneratorfunction(function):
        return cast("Callable[_P, _T]", generate)
    return call


def clear_frames(error: BaseException | None) -> None:
    """Clear the variables of this package's and HTTP libraries' frames, in an error and in those that caused it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] in _HOLD_SECRETS:
                with contextlib.suppress(RuntimeError):  # the frame still runs, or belongs to a suspended generator
                    trace.tb_frame.clear()
            trace = trace.tb_next
        error = error.__cause__ or error.__context__


def _without_secrets(error: BaseException) -> BaseException:
    if isinstance(error, DPoPError):
        drop_frames(error)
        return error.with_traceback(None)
    clear_frames(error)
    return error


def drop_frames(error: BaseException) -> None:
    """Drop the frames of the exceptions that caused an error; its message says everything that matters."""
    seen = {id(error)}
    while True:
        cause = error.__cause__
        if cause is None and not error.__suppress_context__:
            cause = error.__context__
        if cause is not None and id(cause) in seen:
            cause = error.__cause__ = None  # "raise error from error" makes a circle, in which Python itself may hang
        error.__context__ = cause
        if cause is None:
            return
        cause.__traceback__ = None
        seen.add(id(cause))
        error = cause
