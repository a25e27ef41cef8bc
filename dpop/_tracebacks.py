# SPDX-License-Identifier: Apache-2.0
"""Hide secrets in tracebacks: crash reporters send the local variables of every frame.

The frames of a function that signs, verifies or stores hold keys, tokens, proofs and nonces. Every public entry point
is decorated with :func:`hide_frames`: an error of ours shows the frames of its caller only. Any other error, such as
one of a key, a store or a connection, keeps its frames, and ours and those of HTTP libraries lose their variables.
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
    """Decorate a function so that an error passes without the variables of frames that hold secrets.

    For functions, coroutine functions and generator functions. A DPoPError shows the frames of its caller only; any
    other error is the same error, with all its lines.
    """
    # Before each raise the arguments are deleted: these frames show, and one of them may be a token or a password.

    @functools.wraps(function)
    def call(*arguments: _P.args, **options: _P.kwargs) -> _T:
        try:
            return function(*arguments, **options)
        except Exception as error:  # noqa: BLE001 - it is raised again
            del arguments, options
            raise _without_secrets(error)  # noqa: B904 - it is the same error

    @functools.wraps(function)
    async def acall(*arguments: _P.args, **options: _P.kwargs) -> Any:
        try:
            return await cast("Any", function)(*arguments, **options)
        except Exception as error:  # noqa: BLE001 - it is raised again
            del arguments, options
            raise _without_secrets(error)  # noqa: B904 - it is the same error

    @functools.wraps(function)
    def generate(*arguments: _P.args, **options: _P.kwargs) -> Generator[Any, Any, Any]:
        try:
            return (yield from cast("Any", function)(*arguments, **options))
        except Exception as error:  # noqa: BLE001 - it is raised again
            del arguments, options
            raise _without_secrets(error)  # noqa: B904 - it is the same error

    if inspect.iscoroutinefunction(function):
        return cast("Callable[_P, _T]", acall)
    if inspect.isgeneratorfunction(function):
        return cast("Callable[_P, _T]", generate)
    return call


def clear_frames(error: BaseException | None) -> None:
    """Clear the variables of the frames of ours and of HTTP libraries, in an error and in what it was made from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] in _HOLD_SECRETS:
                with contextlib.suppress(RuntimeError):  # it still runs, or is a generator that waits
                    trace.tb_frame.clear()
            trace = trace.tb_next
        error = error.__cause__ or error.__context__


def _without_secrets(error: Exception) -> Exception:
    if isinstance(error, DPoPError):
        drop_frames(error)
        return error.with_traceback(None)
    clear_frames(error)
    return error


def drop_frames(error: BaseException) -> None:
    """Drop the frames of the exceptions that caused an error; the error's message says all there is to know."""
    below = error.__cause__
    if below is None and not error.__suppress_context__:
        below = error.__context__
    error.__context__ = below
    if below is not None:
        below.__traceback__ = None
        drop_frames(below)
