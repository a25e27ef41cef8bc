# SPDX-License-Identifier: Apache-2.0
"""Drive a flow, synchronously and asynchronously: wait, ask for tokens, sign.

The integrations of all HTTP libraries share these functions. They decide nothing; nothing else in an integration
touches a key or a token source.
"""

from __future__ import annotations

import contextvars
import inspect
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from dpop._tracebacks import hide_frames
from dpop.client._flow import Attempt, ProofFlow
from dpop.client._nonces import Turn
from dpop.errors import ArgumentTypeError, UsageError
from dpop.proof import sign

__all__ = [
    "DRAIN_BYTES",
    "DRAIN_SECONDS",
    "AsyncTools",
    "ask_token",
    "async_ask_token",
    "async_refresh",
    "async_report",
    "async_sign",
    "async_wait_for_nonce",
    "before_each_send",
    "refresh",
    "report",
    "sign_now",
    "wait_for_nonce",
]

DRAIN_BYTES = 65_536
DRAIN_SECONDS = 1.0
"""How much of a dropped response is read to keep its connection, and for how long; beyond, it is closed."""

before_each_send: contextvars.ContextVar[Callable[[], object] | None] = contextvars.ContextVar(
    "dpop_before_each_send", default=None
)
"""A function that is called directly before each signed request leaves, nonce retries too.

Nothing is sent if it raises. A renewal of tokens asks here whether it still holds the lock.
"""

_T = TypeVar("_T")

_TURN_SECONDS = 60.0
_LOOK_SECONDS = 0.25
_POLL_SECONDS = 0.005


class AsyncTools(Protocol):
    """The functions the driver needs of an asynchronous library: a sleep, and worker threads for blocking keys."""

    async def sleep(self, seconds: float) -> None:
        """Sleep for this many seconds; other tasks run meanwhile."""

    async def to_thread(self, function: Callable[[], _T]) -> _T:
        """Run a blocking function without stopping the event loop."""


def wait_for_nonce(flow: ProofFlow) -> None:
    """Wait until the request may go; call it before each attempt, after :func:`ask_token`.

    Most requests do not wait. Where it is not known yet how a server treats nonces, or where it takes only its newest,
    requests go one at a time. A thread never waits for itself: not in a signal handler that interrupts a request, and
    not where it runs the event loop of one.
    """
    turn = flow.ready()
    if turn is None:
        return
    deadline = time.monotonic() + _TURN_SECONDS
    while turn is not None:
        left = deadline - time.monotonic()
        if left <= 0 or turn.behind == threading.get_ident() or _runs_an_event_loop():
            flow.ready(give_up=True)
            return
        turn.wait(min(left, _LOOK_SECONDS))
        turn = flow.ready()


async def async_wait_for_nonce(flow: ProofFlow, tools: AsyncTools) -> None:
    """Asynchronous form of :func:`wait_for_nonce`: other tasks run meanwhile."""
    turn = flow.ready()
    if turn is None:
        return
    deadline = time.monotonic() + _TURN_SECONDS
    while turn is not None:
        if time.monotonic() >= deadline:
            flow.ready(give_up=True)
            return
        await _granted(turn, tools)
        turn = flow.ready()


async def _granted(turn: Turn, tools: AsyncTools) -> None:
    """Wait until the turn is granted, or until the next time to check the queue."""
    asyncio = sys.modules.get("asyncio")
    loop = None if asyncio is None else asyncio._get_running_loop()  # noqa: SLF001 - documented for this use
    if asyncio is None or loop is None:
        look = time.monotonic() + _LOOK_SECONDS
        while not turn.granted and time.monotonic() < look:
            await tools.sleep(_POLL_SECONDS)
        return
    come = asyncio.Event()
    turn.call_when_granted(lambda: loop.call_soon_threadsafe(come.set))
    waiting = asyncio.ensure_future(come.wait())
    try:
        await asyncio.wait([waiting], timeout=_LOOK_SECONDS)
    finally:
        waiting.cancel()


def _runs_an_event_loop() -> bool:
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None  # noqa: SLF001 - documented for this use


@hide_frames
def sign_now(flow: ProofFlow, scheme: str, authority: str, target: str, token: str | None) -> list[tuple[str, str]]:
    """Sign one attempt in this thread and return its headers; ``token`` is the result of :func:`ask_token`."""
    attempt = flow.attempt(scheme, authority, target, token)
    data = attempt.signing_input
    signature = b"" if data is None else sign(flow.prover.key, data)
    _ask_before_sending()
    return attempt.headers(signature)


@hide_frames
async def async_sign(
    flow: ProofFlow, scheme: str, authority: str, target: str, token: str | None, *, tools: AsyncTools
) -> list[tuple[str, str]]:
    """Asynchronous form of :func:`sign_now`; a key that blocks signs in a worker thread."""
    attempt: Attempt = flow.attempt(scheme, authority, target, token)
    key, data = flow.prover.key, attempt.signing_input
    signature = b""
    if data is not None:
        blocking = getattr(key, "blocking", True)
        signature = await tools.to_thread(lambda: sign(key, data)) if blocking else sign(key, data)
    _ask_before_sending()
    return attempt.headers(signature)


def _ask_before_sending() -> None:
    ask = before_each_send.get()
    if ask is not None:
        ask()


def refresh(flow: ProofFlow) -> None:
    """Tell the token source that its token was refused, unless another request has done so.

    Where the response is to be dropped, drop it first: the source may need its connection.
    """
    response = _refused(flow)
    if inspect.isawaitable(response):
        _discard(response)
        raise UsageError("the token source's refused() is asynchronous; use an asynchronous client with it")


def report(flow: ProofFlow, close: Callable[[], object]) -> None:
    """Call :func:`refresh` before the caller gets the response; if the source fails, close the response."""
    try:
        refresh(flow)
    except BaseException:
        close()
        raise


async def async_refresh(flow: ProofFlow) -> None:
    """Asynchronous form of :func:`refresh`; an awaitable ``refused()`` is awaited."""
    response = _refused(flow)
    if inspect.isawaitable(response):
        await response


async def async_report(flow: ProofFlow, close: Callable[[], Awaitable[object]]) -> None:
    """Asynchronous form of :func:`report`."""
    try:
        await async_refresh(flow)
    except BaseException:
        await close()
        raise


def _refused(flow: ProofFlow) -> object:
    if not flow.tells_source:
        return None  # another request has told it
    by: Callable[[str | None, object], object] | None = getattr(flow.access_token, "_refused_by", None)
    if by is not None:  # a source of this package, which counts refusals by server
        return by(flow.sent_token, flow.origin)
    refused: Callable[[str | None], object] = getattr(flow.access_token, "refused")  # noqa: B009 - a str has none
    return refused(flow.sent_token)


@hide_frames
def ask_token(flow: ProofFlow) -> str | None:
    """The access token for the next attempt, from the function or source that has it.

    Whatever the function raises is raised.

    :raises UsageError: the function is asynchronous.
    """
    token = flow.access_token
    if token is None or isinstance(token, str):
        return token
    flow.asked_at = time.monotonic()
    value: object = token()
    if inspect.isawaitable(value):
        _discard(value)
        raise UsageError("access_token is an asynchronous function; use an asynchronous client with it")
    return _checked(value)


async def async_ask_token(flow: ProofFlow) -> str | None:
    """Asynchronous form of :func:`ask_token`; an awaitable result of the function is awaited."""
    token = flow.access_token
    if token is None or isinstance(token, str):
        return token
    flow.asked_at = time.monotonic()
    ask: Callable[[], str | Awaitable[str]] = getattr(token, "atoken", token)
    value: object = ask()
    if inspect.isawaitable(value):
        value = await value
    return _checked(value)


def _checked(value: object) -> str:
    if not isinstance(value, str):
        raise ArgumentTypeError("the token that access_token() returned", "str", value)
    return value


def _discard(awaitable: object) -> None:
    close = getattr(awaitable, "close", None)
    if close is not None:
        close()  # a coroutine that is never awaited would warn
