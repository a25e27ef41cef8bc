# SPDX-License-Identifier: Apache-2.0
"""Find the refusal behind a framework's "500 Internal Server Error": an InvalidProof the application did not catch.

Most web frameworks turn every exception they do not know into a 500 before a middleware sees it.
"""

from __future__ import annotations

import sys
from types import TracebackType

from dpop.errors import InvalidProof, LookupUnavailableError, ReplayCacheError

__all__ = ["REFUSALS", "Refusal", "refusal_behind_500", "refusal_in"]

Refusal = InvalidProof | ReplayCacheError | LookupUnavailableError
"""An error that a :class:`dpop.server.ProtectedResource` turns into a response."""

REFUSALS: tuple[type[InvalidProof], type[ReplayCacheError], type[LookupUnavailableError]] = (
    InvalidProof,
    ReplayCacheError,
    LookupUnavailableError,
)
"""The classes of :data:`Refusal`, for ``except`` and for the error handlers of a framework."""

# Where frameworks catch the exceptions for which nothing else is registered: module and function. Those that send
# the 500 while they handle the exception need no entry.
_LAST_RESORTS = {
    ("django.core.handlers.exception", "inner"),
    ("falcon.app", "__call__"),
    ("falcon.asgi.app", "__call__"),
    ("flask.app", "wsgi_app"),
    ("quart.app", "handle_request"),
    ("quart.app", "handle_websocket"),
}
_PASSES_ON = "asgiref.sync"  # raises an exception again in another thread


def refusal_in(error: BaseException) -> Refusal | None:
    """The refusal that an error is; of an exception group, its first, if it has nothing else.

    A task group of asyncio or anyio raises a group for the tasks in which an application asks for its access.
    """
    if isinstance(error, BaseExceptionGroup):
        found = [refusal_in(each) for each in error.exceptions]
        return found[0] if all(found) else None
    return error if isinstance(error, REFUSALS) else None


def refusal_behind_500(refused: Refusal | None) -> Refusal | None:
    """The refusal that caused the 500 which a framework is about to send; None for any other failure.

    An application may have caught the refusal and failed later: such a failure must stay a 500.

    :param refused: the last refusal that was raised in this request.
    """
    handled = sys.exc_info()[1]
    if handled is not None:
        return refusal_in(handled)
    if refused is None:
        return None
    # The outermost entry of the traceback is the function that caught it.
    caught: TracebackType | None = refused.__traceback__
    while caught is not None and caught.tb_frame.f_globals.get("__name__") == _PASSES_ON:
        caught = caught.tb_next
    if caught is None:
        return None
    frame = caught.tb_frame
    return refused if (frame.f_globals.get("__name__"), frame.f_code.co_name) in _LAST_RESORTS else None
