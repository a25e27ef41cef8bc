# SPDX-License-Identifier: Apache-2.0
"""Token sources: a fresh access token for whoever asks, refreshed once for all of them.

The common case is a comparison. Otherwise a *flight* renews the tokens, in a thread or task of its own, so
that nobody who stops waiting stops it; everybody else waits for the same flight. Between processes and hosts
the store's lock sees to that.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from dpop.errors import DPoPError
from dpop.tokens._flights import Abandoned, Flights, own_copy
from dpop.tokens._stores import TokenStore
from dpop.tokens._token_set import TokenSet

if TYPE_CHECKING:
    from dpop.tokens._endpoint import SyncEndpoint

__all__ = ["RefreshingSource"]


class RefreshingSource(Flights):
    """Fresh access tokens from a :class:`dpop.tokens._endpoint.SyncEndpoint`; made by its ``source()``.

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
            wanted = self.wanted()
            if isinstance(wanted, str):
                return wanted
            try:
                return self.text_of(_result(wanted))
            except Abandoned:
                continue

    async def async_token(self) -> str:
        """The same for a task: others run meanwhile."""
        if self._clock() < self._until:
            return self._token
        from dpop.tokens._async_source import awaited  # noqa: PLC0415 - asyncio is slow to load

        return await awaited(self)

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


def _result(flight: Future[TokenSet]) -> TokenSet:
    try:
        return flight.result()
    except DPoPError as error:
        raise own_copy(error) from error
