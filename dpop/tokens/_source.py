# SPDX-License-Identifier: Apache-2.0
"""Token sources: a fresh access token for whoever asks, refreshed once for all of them.

The common case is a comparison. Otherwise a *flight* renews the tokens, in a thread or task of its own, so
that nobody who stops waiting stops it; everybody else waits for the same flight. Between processes and hosts
the store's lock sees to that.
"""

from __future__ import annotations

import contextvars
import copy
import logging
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, cast

from dpop._forking import reset_after_fork
from dpop.client._request import BearerToken
from dpop.errors import (
    ArgumentTypeError,
    DPoPError,
    ReauthorizationError,
    TokenLockError,
    TokenRequestError,
    UsageError,
)
from dpop.tokens._renewal import Renewal
from dpop.tokens._steps import Steps
from dpop.tokens._stores import LOCK_SECONDS, TokenStore, check_account
from dpop.tokens._token_set import TokenSet

if TYPE_CHECKING:
    from dpop.tokens._grants import Grants, Parameter

__all__ = ["Abandoned", "RefreshingSource", "SharedRefresh", "awaited", "own_copy"]

_log: Final = logging.getLogger("dpop.tokens")
_NEVER: Final = float("inf")
_BACKOFF_SECONDS: Final = 0.5
_MAX_BACKOFF_SECONDS: Final = 10.0
_MAX_RETRY_AFTER: Final = 60.0
_REFUSALS: Final = 5
_REFUSALS_SECONDS: Final = 60.0


class Abandoned(Exception):  # noqa: N818 - not an error of anybody's: the flight is begun anew
    """A flight ended with its event loop."""


class SharedRefresh(ABC):
    """What both kinds have in common: when a token is fresh, and who renews it."""

    def __init__(
        self,
        grants: Grants,
        store: TokenStore,
        account: str,
        *,
        ahead: float | None = None,
        lock_seconds: float = LOCK_SECONDS,
        grant: tuple[str, Mapping[str, Parameter]] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        if ahead is not None and not 0 <= ahead < _NEVER:
            raise UsageError(f"ahead must be seconds, 0 or more, got {ahead!r:.40}")
        if not all(hasattr(store, method) for method in ("load", "replace", "lock")):
            raise ArgumentTypeError("store", "a FileTokenStore or another TokenStore", store)
        self._clock = grants.clock
        self._account = check_account(account)
        self._store = store
        self._ahead = ahead
        self._early = 1 + jitter() / 2
        self._renewal = Renewal(
            grants, store, account, clock=self._clock, lock_seconds=lock_seconds, grant=grant, seen=self._saw
        )
        self._token = ""
        self._until = 0.0
        self._tokens: TokenSet | None = None
        self._refused: str | None = None
        self._refusals: list[float] = []
        self._failures = 0
        self._next_try = 0.0
        self._last_error: BaseException | None = None
        self._lock = threading.Lock()
        self._flight: Future[TokenSet] | None = None
        reset_after_fork(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._account!r} in {self._store!r}>"

    def __reduce__(self) -> tuple[object, ...]:
        raise UsageError("a token source cannot be pickled: its key must not travel; make one in each process")

    @property
    def account(self) -> str:
        """Whose tokens."""
        return self._account

    @property
    def store(self) -> TokenStore:
        """Where they are kept."""
        return self._store

    def refused(self, token: str, /) -> None:
        """A resource server answered ``invalid_token`` to this token: the next call gets another.

        A token that is not the current one is refused for a reason that is past. More than five refusals a
        minute are ignored: then it is not the token.
        """
        with self._lock:
            if self._tokens is None or token != self._tokens.access_token:
                return
            now = time.monotonic()
            self._refusals = [then for then in self._refusals if now - then < _REFUSALS_SECONDS]
            if len(self._refusals) >= _REFUSALS:
                _log.warning("fresh tokens of %r are refused again and again; this one is kept", self._account)
                return
            self._refusals.append(now)
            self._refused = token
            self._until = 0.0

    # -- when a token is fresh

    def _stale_at(self, tokens: TokenSet) -> float:
        """When to renew: a fifth of its life before it ends, at most five minutes, and up to half that earlier."""
        if tokens.expires_at is None:
            return _NEVER
        life = self._life(tokens)
        ahead = min(300.0, life / 5) if self._ahead is None else min(self._ahead, life / 2)
        # Not within a second: a server whose tokens live for no time would be asked without pause.
        return max(tokens.expires_at - ahead * self._early, (tokens.issued_at or 0.0) + 1.0)

    def _usable(self, tokens: TokenSet) -> bool:
        """Whether it will do if there is no better one: not refused, and good for long enough to be sent."""
        if tokens.access_token == self._refused:
            return False
        if tokens.expires_at is None:
            return True
        return self._clock() < tokens.expires_at - min(10.0, self._life(tokens) / 20)

    def _life(self, tokens: TokenSet) -> float:
        if tokens.expires_at is None or tokens.issued_at is None:
            return 3600.0
        return max(0.0, tokens.expires_at - tokens.issued_at)

    def _good(self, tokens: TokenSet) -> bool:
        return tokens.access_token != self._refused and self._clock() < self._stale_at(tokens)

    # -- flights

    def wanted(self) -> str | Future[TokenSet]:
        """A token that will do, or the flight that brings one."""
        with self._lock:
            tokens = self._tokens
            usable = tokens is not None and self._usable(tokens)
            flight = self._flight
            if flight is None:
                if time.monotonic() < self._next_try:
                    if usable:
                        return self._token
                    if self._last_error is not None:
                        raise own_copy(self._last_error)
                flight = self._flight = Future()
                flight.set_running_or_notify_cancel()
                launch = True
            else:
                launch = False
        if launch:
            self._launch(flight, self._good, patient=not usable)
        return self._token if usable else flight

    def text_of(self, tokens: TokenSet) -> str:
        """The access token, as it is to be sent: one that is bound to no key says so by its type."""
        return tokens.access_token if tokens.is_bound else BearerToken(tokens.access_token)

    @abstractmethod
    def _launch(self, flight: Future[TokenSet], good: Callable[[TokenSet], bool], *, patient: bool) -> None: ...

    def _saw(self, tokens: TokenSet) -> None:
        """Keep tokens that were found in the store; if they are stale, for want of better ones."""
        with self._lock:
            if self._tokens is None or not self._usable(self._tokens):
                self._tokens, self._token = tokens, self.text_of(tokens)

    def _landed(self, flight: Future[TokenSet], tokens: TokenSet) -> None:
        with self._lock:
            if self._flight is flight:
                self._flight = None
                self._adopt(tokens)
        flight.set_result(tokens)

    def _adopt(self, tokens: TokenSet) -> None:
        self._tokens = tokens
        if tokens.access_token == self._refused:
            self._refused = None  # the server gave the same one again: it must know
        self._failures, self._next_try, self._last_error = 0, 0.0, None
        # The token before the time: whoever reads between the two has the old time or the new token.
        self._token = self.text_of(tokens)
        self._until = self._stale_at(tokens)

    def _crashed(self, flight: Future[TokenSet], error: BaseException, *, patient: bool) -> None:
        with self._lock:
            if self._flight is flight:
                self._flight = None
                self._note(error)
            tokens = self._tokens
            usable = tokens is not None and self._usable(tokens)
        if usable and isinstance(error, DPoPError):
            flight.set_result(cast("TokenSet", tokens))
            return
        # It did not wait for the lock, as the token was still good. Whoever waits for it now has to.
        impatient = isinstance(error, TokenLockError) and not patient
        flight.set_exception(Abandoned() if impatient else error)

    def _note(self, error: BaseException) -> None:
        """Remember a failure, so that a server that is down is not asked by every caller."""
        if self._tokens is not None and self._usable(self._tokens):
            self._next_try = time.monotonic() + 1.0  # nobody is in need of it
            if not isinstance(error, TokenLockError):  # somebody else is at it
                _log.warning("the tokens of %r could not be renewed ahead of time: %s", self._account, error)
        if not isinstance(error, TokenRequestError) or isinstance(error, ReauthorizationError):
            return
        wait = 0.0 if self._failures == 0 else _BACKOFF_SECONDS * 2 ** min(self._failures - 1, 10)
        self._failures += 1
        wait = max(min(_MAX_BACKOFF_SECONDS, wait), min(_MAX_RETRY_AFTER, error.retry_after or 0.0))
        self._next_try = max(self._next_try, time.monotonic() + wait)
        self._last_error = error

    def _reset_after_fork(self) -> None:
        """In a forked child: whoever was renewing the tokens does so for the parent."""
        self._lock = threading.Lock()
        self._flight = None


def own_copy(error: BaseException) -> BaseException:
    """Each who waits raises an error of its own: one that several threads raise gathers all their tracebacks."""
    try:
        return copy.copy(error)
    except Exception:  # noqa: BLE001 - an error of others that cannot be copied
        return error


class RefreshingSource(SharedRefresh):
    """Fresh access tokens from a ``TokenEndpoint``; its ``source()`` makes one.

    Call it for a token, from any thread, or await :meth:`atoken`, on any asyncio loop.
    """

    def __init__(
        self,
        run: Callable[[Steps[TokenSet]], TokenSet],
        grants: Grants,
        store: TokenStore,
        account: str,
        **options: Any,
    ) -> None:
        super().__init__(grants, store, account, **options)
        self._run = run

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

    async def atoken(self) -> str:
        """The same for a task: others run meanwhile."""
        if self._clock() < self._until:
            return self._token
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
        tokens = self._run(self._renewal.steps(good))
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
            tokens = self._run(self._renewal.steps(good, patient=patient))
        except BaseException as error:  # noqa: BLE001 - raised by all who wait
            self._crashed(flight, error, patient=patient)
        else:
            self._landed(flight, tokens)


def _result(flight: Future[TokenSet]) -> TokenSet:
    try:
        return flight.result()
    except DPoPError as error:
        raise own_copy(error) from error


async def awaited(source: SharedRefresh) -> str:
    """A token of a source, once the flight that brings it has landed; other tasks run meanwhile."""
    import asyncio  # noqa: PLC0415 - it is slow to load, and threads do without

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
