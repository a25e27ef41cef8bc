# SPDX-License-Identifier: Apache-2.0
"""Driving a flow, synchronously and asynchronously: waiting, asking for tokens, signing.

What the adapters of all HTTP libraries have in common. Nothing here decides anything; nothing in an
adapter but these functions touches a key or a token source.
"""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, cast

from dpop.client._flow import Attempt, ProofFlow
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
    "refresh",
    "report",
    "sign_now",
    "wait_for_nonce",
]

DRAIN_BYTES = 65_536
DRAIN_SECONDS = 1.0
"""How much of an answer that is not handed on is read to keep its connection; beyond, it is closed."""

_COLD_START_SECONDS = 1.0
_POLL_SECONDS = 0.005


class AsyncTools(Protocol):
    """What an async library lends: a sleep, and a worker thread for keys that block."""

    async def sleep(self, seconds: float) -> None:
        """Let other tasks run for so long."""

    async def to_thread(self, function: Callable[[], Any]) -> Any:
        """Run a blocking function without stopping the event loop."""


def wait_for_nonce(flow: ProofFlow) -> None:
    """Wait until the first request to a server has brought its nonce, at most a second.

    Never in a thread that runs an event loop: that would stop the very task it waits for.
    """
    cold_start = flow.ready()
    if cold_start is None:
        return
    deadline = time.monotonic() + _COLD_START_SECONDS
    while cold_start is not None:
        left = deadline - time.monotonic()
        if left <= 0 or _runs_an_event_loop():
            flow.ready(give_up=True)
            return
        cold_start.wait(left)
        cold_start = flow.ready()


async def async_wait_for_nonce(flow: ProofFlow, tools: AsyncTools) -> None:
    """The same for a task: other tasks run meanwhile."""
    deadline = time.monotonic() + _COLD_START_SECONDS
    while (cold_start := flow.ready()) is not None:
        while not cold_start.over:
            if time.monotonic() >= deadline:
                flow.ready(give_up=True)
                return
            await tools.sleep(_POLL_SECONDS)


def _runs_an_event_loop() -> bool:
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None  # noqa: SLF001 - documented for this use


def sign_now(flow: ProofFlow, scheme: str, authority: str, target: str, token: str | None) -> list[tuple[str, str]]:
    """The headers of one attempt, signed in this thread; ``token`` is what :func:`ask_token` returned for it."""
    attempt = flow.attempt(scheme, authority, target, token)
    data = attempt.signing_input
    return attempt.headers(b"" if data is None else sign(flow.prover.key, data))


async def async_sign(
    flow: ProofFlow, scheme: str, authority: str, target: str, token: str | None, *, tools: AsyncTools
) -> list[tuple[str, str]]:
    """:func:`sign_now` for a task; a key that blocks signs in a worker thread."""
    attempt: Attempt = flow.attempt(scheme, authority, target, token)
    key, data = flow.prover.key, attempt.signing_input
    if data is None:
        return attempt.headers(b"")
    if getattr(key, "blocking", True):
        return attempt.headers(cast("bytes", await tools.to_thread(lambda: sign(key, data))))
    return attempt.headers(sign(key, data))


def refresh(flow: ProofFlow) -> None:
    """Tell the token source that its token was refused.

    Where the answer is to be dropped, drop it first: the source may need its connection.
    """
    response = _refused(flow)
    if inspect.isawaitable(response):
        _discard(response)
        raise UsageError("the token source's refused() is asynchronous; use an asynchronous client with it")


def report(flow: ProofFlow, close: Callable[[], object]) -> None:
    """:func:`refresh` where the answer is to be handed on; if it fails, nobody gets the answer, so it is closed."""
    try:
        refresh(flow)
    except BaseException:
        close()
        raise


async def async_refresh(flow: ProofFlow) -> None:
    """:func:`refresh` for a task; an awaitable ``refused()`` is awaited."""
    response = _refused(flow)
    if inspect.isawaitable(response):
        await response


async def async_report(flow: ProofFlow, close: Callable[[], Awaitable[object]]) -> None:
    """:func:`report` for a task."""
    try:
        await async_refresh(flow)
    except BaseException:
        await close()
        raise


def _refused(flow: ProofFlow) -> object:
    refused: Callable[[str | None], object] = getattr(flow.access_token, "refused")  # noqa: B009 - a str has none
    return refused(flow.sent_token)


def ask_token(flow: ProofFlow) -> str | None:
    """The access token for the next attempt, from the function or source that has it.

    Whatever the function raises is raised.

    :raises UsageError: the function is asynchronous.
    """
    token = flow.access_token
    if token is None or isinstance(token, str):
        return token
    value: object = token()
    if inspect.isawaitable(value):
        _discard(value)
        raise UsageError("access_token is an asynchronous function; use an asynchronous client with it")
    return _checked(value)


async def async_ask_token(flow: ProofFlow) -> str | None:
    """:func:`ask_token` for a task; what the function returns is awaited where it can be."""
    token = flow.access_token
    if token is None or isinstance(token, str):
        return token
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
