# SPDX-License-Identifier: Apache-2.0
"""Token sources for tasks; see :mod:`dpop.tokens._source`. This module is imported on first use only.

A renewal belongs to no task and no event loop, because either may end between a refresh and its response. It runs in a
separate thread, with an event loop for its requests. A client that the user gave has to work on the user's event loop:
then only the requests run there, and the rest runs in the thread.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Self, TypeVar

from dpop.tokens._source import SharedRefresh, awaited
from dpop.tokens._steps import HTTPRequest, HTTPResponse, NoResponse, Steps, is_unsent, run_steps
from dpop.tokens._token_set import TokenSet

__all__ = ["AsyncRefreshingSource", "sent_on_callers_loop", "sent_on_own_loop"]

_T = TypeVar("_T")
_Exchange = Callable[[HTTPRequest], Awaitable[HTTPResponse]]

_LOOK_SECONDS: Final = 0.25
_LOOKS: Final = 8
"""How often a caller's event loop may be found stopped before its response is given up."""


class AsyncRefreshingSource(SharedRefresh):
    """Fresh access tokens from an ``AsyncTokenEndpoint``; its ``source()`` makes one.

    Await it, or :meth:`atoken`, on any event loop of asyncio or trio, in any thread.
    """

    async def __call__(self) -> str:
        """Return a fresh access token.

        :raises ReauthorizationError: the user has to authorise.
        :raises TokenRequestError: the server gave no tokens.
        :raises TokenStoreError: the store cannot be read or written.
        """
        return await self.atoken()

    async def atoken(self) -> str:
        """Return a fresh access token; cancelling one caller does not stop the others."""
        token = self._fresh()
        return await awaited(self._wanted, self) if token is None else token

    async def renew(self) -> str:
        """Renew the tokens now, although they have not expired, and return the new access token.

        Use it to get a token with rights that the user was just given, for example. Callers at the same time share one
        refresh, also with other processes and hosts: tokens that another one has stored meanwhile are returned.

        :raises ReauthorizationError: the user has to authorise.
        :raises TokenRequestError: the server gave no tokens, or the pause after a failure is not over. The current
            tokens are still valid.
        :raises TokenStoreError: the store cannot be read or written.
        """
        return await self.arenew()

    async def arenew(self) -> str:
        """Alias of :meth:`renew`, which both kinds of sources have."""
        return await awaited(self._wanted_new, self)

    async def tokens(self) -> TokenSet:
        """Return the token set of the fresh access token."""
        await self.atoken()
        assert self._tokens is not None  # noqa: S101 - a call that returns has adopted one
        return self._tokens


def sent_on_own_loop(exchange: _Exchange, close: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[Steps[_T]], _T]:
    """Run steps in this thread, with an event loop of their own.

    :param close: closes the connections of the event loop on which it is awaited.
    """

    def run(steps: Steps[_T]) -> _T:
        with _OwnLoop(exchange, close) as carry:
            return run_steps(steps, carry)

    return run


class _OwnLoop:
    """An event loop that is created at the first request, because most renewals find fresh tokens in the store."""

    def __init__(self, exchange: _Exchange, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._exchange = exchange
        self._close = close
        self._runner: asyncio.Runner | None = None

    def __call__(self, request: HTTPRequest) -> HTTPResponse:
        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.run(_once(self._exchange, request), context=contextvars.copy_context())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._runner is not None:
            # The response has arrived; errors while closing its connection do not matter.
            with self._runner, contextlib.suppress(Exception):
                self._runner.run(self._close())


def sent_on_callers_loop(exchange: _Exchange) -> Callable[[Steps[_T]], _T]:
    """Run steps in a thread; only their requests run on the caller's event loop."""
    carry = _of_trio(exchange) or _OfAsyncio(exchange, asyncio.get_running_loop())
    return lambda steps: run_steps(steps, carry)


class _OfAsyncio:
    def __init__(self, exchange: _Exchange, loop: asyncio.AbstractEventLoop) -> None:
        self._exchange = exchange
        self._loop = loop

    def __call__(self, request: HTTPRequest) -> HTTPResponse:
        sent, given_up = False, False

        async def once() -> HTTPResponse:
            nonlocal sent
            if given_up:
                raise NoResponse("its caller has given up", sent=False)
            sent = True
            try:
                return await self._exchange(request)
            except BaseException as interrupt:
                sent = not is_unsent(interrupt)
                raise

        coroutine = once()
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:  # the loop is closed
            coroutine.close()
            raise NoResponse("the event loop of its client is closed", sent=False) from None
        stopped = 0
        while True:
            try:
                return future.result(_LOOK_SECONDS)
            except concurrent.futures.CancelledError:
                break
            except TimeoutError:
                if future.done():
                    raise
                stopped = 0 if self._loop.is_running() else stopped + 1
                if self._loop.is_closed() or stopped >= _LOOKS:
                    break
        given_up = True
        future.cancel()
        raise NoResponse("the event loop of its client ended", sent=sent)


def _of_trio(exchange: _Exchange) -> Callable[[HTTPRequest], HTTPResponse] | None:
    trio: Any = sys.modules.get("trio")
    if trio is None:
        return None
    try:
        token = trio.lowlevel.current_trio_token()
    except RuntimeError:
        return None

    def carry(request: HTTPRequest) -> HTTPResponse:
        try:
            response: HTTPResponse = trio.from_thread.run(exchange, request, trio_token=token)
        except (trio.RunFinishedError, trio.Cancelled) as interrupt:
            raise NoResponse("the event loop of its client ended", sent=not is_unsent(interrupt)) from None
        return response

    return carry


async def _once(exchange: _Exchange, request: HTTPRequest) -> HTTPResponse:
    return await exchange(request)
