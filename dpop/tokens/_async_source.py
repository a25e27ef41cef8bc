# SPDX-License-Identifier: Apache-2.0
"""Token sources for tasks; see :mod:`dpop.tokens._source`. Nothing here is imported before one is wanted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from dpop.errors import DPoPError
from dpop.tokens._source import Abandoned, SharedRefresh, own_copy
from dpop.tokens._stores import TokenStore
from dpop.tokens._token_set import TokenSet

if TYPE_CHECKING:
    from dpop.tokens._async_endpoint import AsyncEndpoint

__all__ = ["AsyncRefreshingSource", "awaited"]


class AsyncRefreshingSource(SharedRefresh):
    """Fresh access tokens from a :class:`dpop.tokens._endpoint.AsyncEndpoint`; made by its ``source()``.

    Await it, or :meth:`atoken`, on the event loop the endpoint is used on.
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
        return await self.atoken()

    async def atoken(self) -> str:
        """A fresh access token; a caller that is cancelled does not stop the others."""
        if self._clock() < self._until:
            return self._token
        return await awaited(self)

    async def tokens(self) -> TokenSet:
        """The token set the access token is from, fresh."""
        await self.atoken()
        assert self._tokens is not None  # noqa: S101 - a call that returns has adopted one
        return self._tokens

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


async def awaited(source: SharedRefresh) -> str:
    """A token of a source, once the flight that brings it has landed; other tasks run meanwhile."""
    while True:
        wanted = source.wanted()
        if isinstance(wanted, str):
            return wanted
        try:
            # A future that runs cannot be cancelled, so the others who wait are safe from our being so.
            tokens = await asyncio.shield(asyncio.wrap_future(wanted))
        except Abandoned:
            continue
        except DPoPError as error:
            raise own_copy(error) from error
        return source.text_of(tokens)
