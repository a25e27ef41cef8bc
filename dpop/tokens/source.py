# SPDX-License-Identifier: Apache-2.0
"""Token sources: a fresh access token for whoever asks, refreshed once for all of them.

The common case is a comparison. Otherwise a *flight* renews the tokens, in a thread or task of its own, so
that nobody who stops waiting stops it; everybody else waits for the same flight. Between processes and hosts
the store's lock sees to that.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from dpop.client.request import BearerToken
from dpop.errors import DPoPError
from dpop.tokens.flights import Abandoned, Flights, own_copy
from dpop.tokens.stores import TokenStore
from dpop.tokens.token_set import TokenSet

if TYPE_CHECKING:
    from dpop.tokens.facade import AsyncEndpoint, SyncEndpoint

__all__ = ["AsyncRefreshingSource", "RefreshingSource"]


class RefreshingSource(Flights):
    """Fresh access tokens from a :class:`dpop.tokens.facade.SyncEndpoint`; made by its ``source()``.

    Call it for a token, from any thread, or await :meth:`async_token`, on any asyncio loop.
    """

    def __init__(self, endpoint: SyncEndpoint, store: TokenStore, account: str, **options: Any) -> None:
        super().__init__(endpoint.grants, store, account, **options)
        self._endpoint = endpoint

    def __call__(self) -> str:
        """A fresh access token.

        :raises ReauthorizationError: the user has to authorise.
        :raises TokenRequestError: the server gave none.
        :raises TokenStoreError: the store cannot be read or written.
        """
        if self._clock() < self._until:
            return self._token
        while True:
            wanted = self._wanted()
            if isinstance(wanted, str):
                return wanted
            try:
                return self._text(_result(wanted))
            except Abandoned:
                continue

    async def async_token(self) -> str:
        """The same for a task: others run meanwhile."""
        if self._clock() < self._until:
            return self._token
        return await _awaited(self)

    def tokens(self) -> TokenSet:
        """The token set the access token is from, fresh."""
        self()
        assert self._tokens is not None  # noqa: S101 - a call that returns has adopted one
        return self._tokens

    def ensure(self, good: Callable[[TokenSet], bool]) -> TokenSet:
        """Tokens for which ``good`` holds: those in the store, or else new ones.

        :raises TokenError: as a call does.
        """
        tokens = self._endpoint.run(self._renewal.steps(good))
        with self._lock:
            self._adopt(tokens)
        return tokens

    def _text(self, tokens: TokenSet) -> str:
        return tokens.access_token if tokens.is_bound else BearerToken(tokens.access_token)

    def _launch(self, flight: Future[TokenSet], good: Callable[[TokenSet], bool], *, patient: bool) -> None:
        context = contextvars.copy_context()
        # A thread of its own: an interrupt of the caller must not come between an answer and the store.
        thread = threading.Thread(target=context.run, args=(self._fly, flight, good, patient), name="dpop-refresh")
        try:
            thread.start()
        except RuntimeError:  # the interpreter is shutting down
            self._fly(flight, good, patient)

    def _fly(self, flight: Future[TokenSet], good: Callable[[TokenSet], bool], patient: bool) -> None:
        try:
            tokens = self._endpoint.run(self._renewal.steps(good, patient=patient))
        except BaseException as error:  # noqa: BLE001 - raised by all who wait
            self._crashed(flight, error, patient=patient)
        else:
            self._landed(flight, tokens)


class AsyncRefreshingSource(Flights):
    """Fresh access tokens from a :class:`dpop.tokens.facade.AsyncEndpoint`; made by its ``source()``.

    Await it, or :meth:`async_token`, on the event loop the endpoint is used on.
    """

    def __init__(self, endpoint: AsyncEndpoint, store: TokenStore, account: str, **options: Any) -> None:
        super().__init__(endpoint.grants, store, account, **options)
        self._endpoint = endpoint
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self) -> str:
        """A fresh access token.

        :raises ReauthorizationError: the user has to authorise.
        :raises TokenRequestError: the server gave none.
        :raises TokenStoreError: the store cannot be read or written.
        """
        return await self.async_token()

    async def async_token(self) -> str:
        """A fresh access token; a caller that is cancelled does not stop the others."""
        if self._clock() < self._until:
            return self._token
        return await _awaited(self)

    async def tokens(self) -> TokenSet:
        """The token set the access token is from, fresh."""
        await self.async_token()
        assert self._tokens is not None  # noqa: S101 - a call that returns has adopted one
        return self._tokens

    def _text(self, tokens: TokenSet) -> str:
        return tokens.access_token if tokens.is_bound else BearerToken(tokens.access_token)

    def _launch(self, flight: Future[TokenSet], good: Callable[[TokenSet], bool], *, patient: bool) -> None:
        task = asyncio.get_running_loop().create_task(self._fly(flight, good, patient))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fly(self, flight: Future[TokenSet], good: Callable[[TokenSet], bool], patient: bool) -> None:
        try:
            tokens = await self._endpoint.run(self._renewal.steps(good, patient=patient))
        except asyncio.CancelledError:
            self._crashed(flight, Abandoned(), patient=patient)
            raise
        except BaseException as error:  # noqa: BLE001 - raised by all who wait
            self._crashed(flight, error, patient=patient)
        else:
            self._landed(flight, tokens)


async def _awaited(source: RefreshingSource | AsyncRefreshingSource) -> str:
    while True:
        wanted = source._wanted()  # noqa: SLF001 - the same module
        if isinstance(wanted, str):
            return wanted
        try:
            # A future that runs cannot be cancelled, so the others who wait are safe from our being so.
            tokens = await asyncio.shield(asyncio.wrap_future(wanted))
        except Abandoned:
            continue
        except DPoPError as error:
            raise own_copy(error) from error
        return source._text(tokens)  # noqa: SLF001 - the same module


def _result(flight: Future[TokenSet]) -> TokenSet:
    try:
        return flight.result()
    except DPoPError as error:
        raise own_copy(error) from error
