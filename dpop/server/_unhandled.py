# SPDX-License-Identifier: Apache-2.0
"""Find the refusal behind a framework's "500 Internal Server Error": an InvalidProof the application did not catch.

Most web frameworks turn every exception they do not know into a 500 before a middleware sees it.
"""

from __future__ import annotations

import sys
import traceback
from typing import Final

from dpop.errors import InvalidProof, LookupUnavailableError, ReplayCacheError

__all__ = ["REFUSALS", "TOO_LATE", "Refusal", "refusal_behind_500", "refusal_in"]

Refusal = InvalidProof | ReplayCacheError | LookupUnavailableError
"""An error that a :class:`dpop.server.ProtectedResource` turns into a response."""

REFUSALS: tuple[type[InvalidProof], type[ReplayCacheError], type[LookupUnavailableError]] = (
    InvalidProof,
    ReplayCacheError,
    LookupUnavailableError,
)
"""The classes of :data:`Refusal`, for ``except`` and for the error handlers of a framework."""

TOO_LATE: Final = (
    "The response had begun when this request was refused, so the connection breaks. Call access() before that, not in "
    "the generator of a streamed body."
)
"""The note of the exception, if an application raises a refusal too late."""

# Modules of frameworks that call the views of an application, and the functions around them. A refusal with a frame of
# theirs in its traceback has left the views: the code that caught it catches every exception.
_CALL_VIEWS = frozenset(
    {
        "django.core.handlers.base",
        "django.core.handlers.exception",
        "falcon.app",
        "falcon.asgi.app",
        "fastapi.routing",
        "flask.app",
        "quart.app",
        "rest_framework.views",
        "starlette.middleware.base",
        "starlette.middleware.errors",
        "starlette.routing",
    }
)


def refusal_in(error: BaseException) -> Refusal | None:
    """Return the error if it is a refusal; of an exception group that has only refusals, the first one.

    A task group of asyncio or anyio raises a group for the tasks in which an application asks for its access.
    """
    if isinstance(error, BaseExceptionGroup):
        found = [refusal_in(each) for each in error.exceptions]
        return found[0] if all(found) else None
    return error if isinstance(error, REFUSALS) else None


def refusal_behind_500(refused: Refusal | None, handled: BaseException | None = None) -> Refusal | None:
    """The refusal that caused the 500 which a framework is about to send; None for any other failure.

    A view may have caught the refusal and failed later, or decided to send a 500: that must stay a 500.

    :param refused: the last refusal that was raised in this request.
    :param handled: the exception that the framework says it handles. Default: the one being handled right now.
    """
    if handled is None:
        handled = sys.exc_info()[1]
    if handled is not None:
        found = refusal_in(handled)
        if found is not None or refused is None or not _is_raised_from(handled, refused):
            return found
    return refused if refused is not None and _has_left_the_views(refused) else None


def _is_raised_from(error: BaseException, refused: Refusal) -> bool:
    """Whether something translated the refusal: ``raise HTTPException(500) from refused``."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:  # "raise error from error" makes a circle
        seen.add(id(cause))
        cause = cause.__cause__
        if cause is refused:
            return True
    return False


def _has_left_the_views(refused: Refusal) -> bool:
    frames = traceback.walk_tb(refused.__traceback__)
    return any(frame.f_globals.get("__name__") in _CALL_VIEWS for frame, _ in frames)
