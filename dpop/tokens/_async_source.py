# SPDX-License-Identifier: Apache-2.0
"""Token sources for tasks; see :mod:`dpop.tokens._source`. Nothing here is imported before one is wanted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from dpop.tokens._source import Abandoned, SharedRefresh, awaited
from dpop.tokens._steps import Steps
from dpop.tokens._stores import TokenStore
from dpop.tokens._token_set import TokenSet

if TYPE_CHECKING:
    from dpop.tokens._grants import Grants

__all__ = ["AsyncRefreshingSource"]


class AsyncRefreshingSource(SharedRefresh):
    """Fresh access tokens from an ``AsyncTokenEndpoint``; its ``source()`` makes one.

    Await it, or :meth:`atoken`, on the event loop the endpoint is used on.
    """

    def __init__(
        self,
        run: Callable[[Steps[TokenSet]], Awaitable[TokenSet]],
        grants: Grants,
        store: TokenStore,
        account: str,
        **options: Any,
    ) -> None:
        super().__init__(grants, store, account, **options)
        self._run = run
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
            tokens = await self._run(self._renewal.steps(good, patient=patient))
        except asyncio.CancelledError:
            self._crashed(flight, Abandoned(), patient=patient)
            raise
        except BaseException as error:  # noqa: BLE001 - raised by all who wait
            self._crashed(flight, error, patient=patient)
        else:
            self._landed(flight, tokens)
