# SPDX-License-Identifier: Apache-2.0
"""Drive a flow, synchronously or asynchronously: wait for a turn, ask for tokens, sign.

The integrations of all HTTP libraries share these functions. The functions make no protocol decision. Only they use
keys and token sources; the rest of an integration does not.
"""

from __future__ import annotations

import contextvars
import inspect
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from dpop._tracebacks import hide_frames
from dpop.client._events import timed
from dpop.client._flow import Attempt, ProofFlow
from dpop.client._nonces import Role, Turn
from dpop.errors import ArgumentTypeError, UsageError
from dpop.proof import sign

if TYPE_CHECKING:
    from dpop.client._prover import Prover
    from dpop.origin import Origin

__all__ = [
    "DRAIN_BYTES",
    "DRAIN_SECONDS",
    "AsyncTools",
    "BeforeEachSend",
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
"""How much of a dropped response is read, and for how long, to reuse its connection; then it is closed."""


class BeforeEachSend(NamedTuple):
    """A function that is called directly before each signed request of one token endpoint, nonce retries too.

    Nothing is sent if it raises. A token renewal uses it to check that it still holds its lock.

    A context variable reaches more than the requests of the renewal: an event hook or a transport of the user may
    send requests meanwhile, or start a task that keeps the context for ever. Those are not asked about.
    """

    prover: Prover
    origin: Origin
    ask: Callable[[], object]

    def concerns(self, flow: ProofFlow) -> bool:
        """Whether a request may be one of this token endpoint."""
        return flow.role is Role.AS and flow.prover is self.prover and flow.origin == self.origin


before_each_send: contextvars.ContextVar[BeforeEachSend | None] = contextvars.ContextVar(
    "dpop_before_each_send", default=None
)

_T = TypeVar("_T")

_TURN_SECONDS = 60.0
_LOOK_SECONDS = 0.25
_POLL_SECONDS = 0.005


class AsyncTools(Protocol):
    """The functions that the driver needs from an asynchronous library: sleeping, and worker threads."""

    async def sleep(self, seconds: float) -> None:
        """Sleep for this many seconds; other tasks run meanwhile."""

    async def to_thread(self, function: Callable[[], _T]) -> _T:
        """Run a blocking function without stopping the event loop."""


def wait_for_nonce(flow: ProofFlow) -> None:
    """Wait until the request may be sent; call it before each attempt, after :func:`ask_token`.

    Most requests do not wait. Requests go one at a time while it is unknown how a server treats nonces, and to a
    server that accepts only its newest nonce. A thread never waits for itself: not in a signal handler that
    interrupts a request, and not if it runs the event loop of the request it would wait for.
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
    granted = asyncio.Event()
    turn.call_when_granted(lambda: loop.call_soon_threadsafe(granted.set))
    waiting = asyncio.ensure_future(granted.wait())
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
    signature = b"" if data is None else _signature(flow, data)
    _ask_before_sending(flow)
    return attempt.headers(signature)


@hide_frames
async def async_sign(
    flow: ProofFlow, scheme: str, authority: str, target: str, token: str | None, *, tools: AsyncTools
) -> list[tuple[str, str]]:
    """Asynchronous form of :func:`sign_now`; a key that blocks signs in a worker thread."""
    attempt: Attempt = flow.attempt(scheme, authority, target, token)
    data = attempt.signing_input
    signature = b""
    if data is not None:
        blocking = getattr(flow.prover.key, "blocking", True)
        signature = await tools.to_thread(lambda: _signature(flow, data)) if blocking else _signature(flow, data)
    _ask_before_sending(flow)
    return attempt.headers(signature)


def _signature(flow: ProofFlow, data: bytes) -> bytes:
    prover = flow.prover
    if prover.events is None:
        return sign(prover.key, data)
    with timed(prover.events, "proof", flow.origin, flow.role):
        return sign(prover.key, data)


def _ask_before_sending(flow: ProofFlow) -> None:
    before = before_each_send.get()
    if before is not None and before.concerns(flow):
        before.ask()


def refresh(flow: ProofFlow) -> None:
    """Tell the token source that its token was refused, unless another request has done so.

    If the response is to be dropped, drop it before this call: the source may need its connection.
    """
    try:
        result = _tell_source(flow)
    finally:
        flow._told_source()  # noqa: SLF001 - the same package
    if inspect.isawaitable(result):
        _discard(result)
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
    try:
        result = _tell_source(flow)
        if inspect.isawaitable(result):
            await result
    finally:
        flow._told_source()  # noqa: SLF001 - the same package


async def async_report(flow: ProofFlow, close: Callable[[], Awaitable[object]]) -> None:
    """Asynchronous form of :func:`report`."""
    try:
        await async_refresh(flow)
    except BaseException:
        await close()
        raise


def _tell_source(flow: ProofFlow) -> object:
    if not flow.tells_source:
        return None  # another request has done so
    by: Callable[[str | None, object], object] | None = getattr(flow.access_token, "_refused_by", None)
    if by is not None:  # a source of this package, which counts refusals by server
        return by(flow.sent_token, flow.origin)
    refused: Callable[[str | None], object] = getattr(flow.access_token, "refused")  # noqa: B009 - not in AccessToken: a str has none
    return refused(flow.sent_token)


@hide_frames
def ask_token(flow: ProofFlow) -> str | None:
    """Return the access token for the next attempt; a function or token source is asked for it.

    Errors of the function or source propagate.

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
        close()  # Python warns of a coroutine that is never awaited
