# SPDX-License-Identifier: Apache-2.0
"""Token sources: a fresh access token for every caller, refreshed once for all of them.

Usually a call only compares two times and returns the token. Otherwise one *shared refresh* renews the tokens for all
waiting callers. It runs in a separate thread, so a caller that stops waiting does not stop it. The store's lock ensures
that only one process or host refreshes at a time.
"""

from __future__ import annotations

import contextvars
import copy
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Final, cast

from dpop._forking import reset_after_fork
from dpop.client._request import BearerToken
from dpop.errors import (
    DPoPError,
    ReauthorizationError,
    TokenLockError,
    TokenRequestError,
    UsageError,
)
from dpop.tokens._program_end import delay_program_end
from dpop.tokens._renewal import Renewal
from dpop.tokens._steps import Steps
from dpop.tokens._stores import LOCK_SECONDS, TokenStore, check_account, check_store
from dpop.tokens._token_set import TokenSet
from dpop.tokens._waiting import waiting_here

if TYPE_CHECKING:
    from dpop.tokens._grants import Grants, Parameter

__all__ = [
    "CLOCK_TOLERANCE",
    "MAX_RETRY_AFTER",
    "Abandoned",
    "RefreshInProgress",
    "RefreshingSource",
    "SharedRefresh",
    "awaited",
]

_log: Final = logging.getLogger("dpop.tokens")
_NEVER: Final = float("inf")
_BACKOFF_SECONDS: Final = 0.5
_MAX_BACKOFF_SECONDS: Final = 10.0
MAX_RETRY_AFTER: Final = 60.0
"""The longest pause in seconds; if a server asks for a longer one, the next request is sent after this time."""
CLOCK_TOLERANCE: Final = 60.0
"""Seconds by which the clocks of hosts may differ. If tokens were issued later than that, their end is unknown."""
_REFUSALS: Final = 5
_REFUSALS_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 1.0
_SHORT_LIFE: Final = 60.0


class Abandoned(Exception):  # noqa: N818 - callers never get it: another refresh starts
    """A shared refresh ended without a result, because the thread that made it was interrupted; another one starts."""

    def __init__(self) -> None:
        super().__init__("the shared refresh was abandoned before it began; ask again")


class RefreshInProgress(Future[TokenSet]):
    """A refresh in progress: one renewal for all callers that wait for it.

    A caller creates it, and a separate thread then starts it. If the caller is interrupted in between, another
    caller notices that it has not started, and abandons it.

    :param after: how many refreshes had been forced when it was created.
    :param refusals: how many tokens had been refused by then.
    :param forced: whether new tokens are needed although the current ones are good.
    """

    def __init__(self, after: int = 0, refusals: int = 0, *, forced: bool = False) -> None:
        super().__init__()
        self.after = after
        self.refusals = refusals
        self.forced = forced
        self.begun = False
        self.thread: int | None = None  # that carries it out
        self.made = time.monotonic()
        self.set_running_or_notify_cancel()  # so no waiter can cancel it

    @property
    def is_stuck(self) -> bool:
        """Whether the refresh should have been started long ago."""
        return not self.begun and time.monotonic() > self.made + _LOOK_SECONDS


class SharedRefresh:
    """The common base of sources for threads and for tasks: it decides if a token is fresh and which caller renews it.

    :param detached: a function that returns a runner, which runs the steps of a renewal in a separate thread.
    """

    def __init__(
        self,
        detached: Callable[[], Callable[[Steps[TokenSet]], TokenSet]],
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
        check_store(store)
        self._detached = detached
        self._clock = grants.clock
        self._account = check_account(account)
        self._store = store
        self._ahead = ahead
        self._early = 1 + jitter() / 2
        self._renewal = Renewal(
            grants,
            store,
            account,
            clock=self._clock,
            lock_seconds=lock_seconds,
            grant=grant,
            seen=self._found_in_store,
            begin=lambda: delay_program_end(account),
        )
        self._token = ""
        self._until = 0.0
        self._tokens: TokenSet | None = None
        # By the monotonic clock: the latest times at which the current tokens are stale, and have expired.
        self._stale_by = self._expired_by = _NEVER
        self._refused: str | None = None
        self._times_refused = 0
        self._refusals: list[tuple[object, float]] = []
        self._failures = 0
        self._next_try = 0.0
        self._last_error: BaseException | None = None
        self._lock = threading.RLock()  # a signal handler of the thread that holds it may ask for a token
        self._refresh: RefreshInProgress | None = None
        self._forced: RefreshInProgress | None = None
        self._times_forced = 0
        reset_after_fork(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._account!r} in {self._store!r}>"

    def __reduce__(self) -> tuple[object, ...]:
        raise UsageError("a token source cannot be pickled: its key must not travel; make one in each process")

    @property
    def account(self) -> str:
        """The account of the tokens."""
        return self._account

    @property
    def store(self) -> TokenStore:
        """The store of the tokens."""
        return self._store

    def refused(self, token: str, /) -> None:
        """Record that a resource server refused this token with ``invalid_token``: the next call gets another one.

        If the token is not the current one, it was replaced already. More than five refused tokens a minute are
        ignored, because then the token is not the reason.
        """
        self._refused_by(token, None)

    def _refused_by(self, token: str, server: object) -> None:
        """Form of :meth:`refused` for an adapter, with a separate limit of five tokens a minute for each server.

        :param server: the origin of the server that refused the token.
        """
        with self._lock:
            if self._tokens is None or token != self._tokens.access_token or token == self._refused:
                return  # if many threads get a refusal of one token, it counts once
            now = time.monotonic()
            self._refusals = [(by, then) for by, then in self._refusals if now - then < _REFUSALS_SECONDS]
            if sum(by == server for by, _ in self._refusals) < _REFUSALS:
                self._refusals.append((server, now))
                self._refused = token
                self._times_refused += 1
                self._until = 0.0
                return
        # Never with our lock: a log handler has a lock of its own, and may ask this source for a token to send the log.
        _log.warning("fresh tokens of %r are refused again and again; the current one is kept", self._account)

    # -- when a token is fresh

    def _stale_at(self, tokens: TokenSet) -> float:
        """When to renew: one fifth of the lifetime (at most 5 min) before expiry, and up to half of that earlier."""
        if tokens.expires_at is None:
            return _NEVER
        life = self._life(tokens)
        ahead = min(300.0, life / 5) if self._ahead is None else min(self._ahead, life / 2)
        # Not within a second: tokens with a lifetime of zero would otherwise cause requests without pause.
        return max(tokens.expires_at - ahead * self._early, (tokens.issued_at or 0.0) + 1.0)

    def _is_usable(self, tokens: TokenSet, *, doubtful: bool = False) -> bool:
        """Whether the token can be used if there is no better one: it is not refused, and valid long enough to be sent.

        :param doubtful: the result for tokens whose end is unknown, because a clock was wrong.
        """
        if tokens.access_token in {"", self._refused}:  # a response may have brought a refresh token alone
            return False
        if tokens.expires_at is None:
            return True
        if self._is_current(tokens) and time.monotonic() >= self._expired_by:
            return False
        if self._is_from_the_future(tokens):
            return doubtful
        return self._clock() < tokens.expires_at - min(10.0, self._life(tokens) / 20)

    def _life(self, tokens: TokenSet) -> float:
        if tokens.expires_at is None or tokens.issued_at is None:
            return 3600.0
        return max(0.0, tokens.expires_at - tokens.issued_at)

    def _is_good(self, tokens: TokenSet) -> bool:
        if tokens.access_token in {"", self._refused} or (tokens.expires_at and self._is_from_the_future(tokens)):
            return False
        if self._is_current(tokens) and time.monotonic() >= self._stale_by:
            return False
        return self._clock() < self._stale_at(tokens)

    def _is_from_the_future(self, tokens: TokenSet) -> bool:
        """Whether the tokens were issued in the future, so that the clock was or is wrong and their end is unknown."""
        return (tokens.issued_at or 0.0) > self._clock() + CLOCK_TOLERANCE

    def _is_current(self, tokens: TokenSet) -> bool:
        return self._tokens is not None and tokens.access_token == self._tokens.access_token

    def _take(self, tokens: TokenSet) -> None:
        """Make these the current tokens, and record with the monotonic clock how long they can live."""
        if not self._is_current(tokens):
            self._stale_by = self._expired_by = _NEVER
            if tokens.expires_at is not None and self._life(tokens) >= _SHORT_LIFE:
                now, wall, life = time.monotonic(), self._clock(), self._life(tokens)
                self._stale_by = now + min(life, max(0.0, self._stale_at(tokens) - wall))
                self._expired_by = now + min(life, max(0.0, tokens.expires_at - wall))
        self._tokens = tokens

    # -- the shared refresh

    def _fresh(self) -> str | None:
        """Return the current access token, unless it must be renewed."""
        # This order matters: a reader between two writes of _adopt sees the old time or the new token.
        if self._clock() < self._until and time.monotonic() < self._stale_by:
            return self._token
        return None

    def _wanted(self) -> str | RefreshInProgress:
        """Return a usable token, or the shared refresh that brings one."""
        reason = self._why_not_wait()
        if reason is not None:
            return self._without_waiting(reason)
        made: RefreshInProgress | None = None
        try:
            with self._lock:
                tokens = self._tokens
                usable = tokens is not None and self._is_usable(tokens)
                refresh = self._refresh
                if refresh is not None and refresh.is_stuck:
                    self._abandon(refresh)
                    refresh = None
                if refresh is None:
                    if time.monotonic() < self._next_try:
                        if usable:
                            return self._token
                        if self._last_error is not None:
                            raise own_copy(self._last_error)
                    refresh = made = RefreshInProgress(self._times_forced, self._times_refused)
                    self._refresh = made
            if made is not None:
                self._start_thread(made, self._is_good, patient=not usable)
        except BaseException:
            if made is not None:
                self._abandon(made)
            raise
        return self._token if usable else refresh

    def _wanted_new(self) -> RefreshInProgress:
        """Return the shared refresh of tokens that did not exist when it began."""
        reason = self._why_not_wait()
        if reason is not None:
            raise TokenLockError(reason)
        made: RefreshInProgress | None = None
        try:
            with self._lock:
                refresh = self._forced
                if refresh is not None and refresh.is_stuck:
                    self._abandon(refresh)
                    refresh = None
                if refresh is None:
                    if time.monotonic() < self._next_try and self._last_error is not None:
                        raise own_copy(self._last_error)
                    refresh = made = RefreshInProgress(forced=True)
                    self._forced = made
            if made is not None:
                self._start_thread(made, _OtherThanFirst(), patient=True)
        except BaseException:
            if made is not None:
                self._abandon(made)
            raise
        return refresh

    def _why_not_wait(self) -> str | None:
        """Why this thread would wait for itself; ``None`` if it would not."""
        if self._lock._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001 - threading.Condition asks so too
            return _INTERRUPTED
        for refresh in (self._refresh, self._forced):
            if refresh is not None and refresh.thread == threading.get_ident():
                return _ASKED_BY_ITSELF
        return None

    def _without_waiting(self, reason: str) -> str:
        """Return the token to a caller that must not wait, because its own thread holds what it would wait for."""
        if self._tokens is not None and self._is_usable(self._tokens):
            return self._token
        raise TokenLockError(reason)

    def text_of(self, tokens: TokenSet) -> str:
        """Return the access token to send: a BearerToken if it is not bound to a key."""
        return tokens.access_token if tokens.is_bound else BearerToken(tokens.access_token)

    def _start_thread(self, refresh: RefreshInProgress, good: Callable[[TokenSet], bool], *, patient: bool) -> None:
        run = self._detached()
        context = contextvars.copy_context()
        # A separate thread, so that interrupting the caller cannot lose tokens between a response and the store.
        thread = threading.Thread(
            target=context.run, args=(self._carry_out, refresh, run, good, patient), name="dpop-refresh", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # the interpreter is shutting down, or has no thread left
            self._carry_out(refresh, run, good, patient)

    def _carry_out(
        self,
        refresh: RefreshInProgress,
        run: Callable[[Steps[TokenSet]], TokenSet],
        good: Callable[[TokenSet], bool],
        patient: bool,
    ) -> None:
        with self._lock:
            if refresh.begun:
                return  # abandoned before this thread began
            refresh.begun = True
            refresh.thread = threading.get_ident()
        try:
            tokens = run(self._renewal.steps(good, patient=patient))
        except BaseException as error:  # noqa: BLE001 - raised in all waiting callers
            self._failed(refresh, error, patient=patient)
        else:
            self._succeeded(refresh, tokens)

    def _abandon(self, refresh: RefreshInProgress) -> None:
        """End a shared refresh that has not started; its waiters start another one."""
        with self._lock:
            if refresh.begun:
                return
            refresh.begun = True
            self._is_over(refresh)
        refresh.set_exception(Abandoned())

    def _is_over(self, refresh: RefreshInProgress) -> bool:
        """Forget a shared refresh; return whether callers were waiting for it."""
        if self._refresh is refresh:
            self._refresh = None
        elif self._forced is refresh:
            self._forced = None
        else:
            return False
        return True

    def _found_in_store(self, tokens: TokenSet) -> None:
        """Use tokens that were found in the store; stale ones only until there are better ones."""
        with self._lock:
            if self._tokens is None or not self._is_usable(self._tokens):
                self._take(tokens)
                self._token = self.text_of(tokens)

    def _succeeded(self, refresh: RefreshInProgress, tokens: TokenSet) -> None:
        late = False
        with self._lock:
            if self._is_over(refresh):
                # Found good before a server refused them: such a refresh says nothing about the refusal.
                found_before = refresh.refusals != self._times_refused and not refresh.forced
                late = found_before and tokens.access_token == self._refused
                if refresh.forced:
                    self._times_forced += 1
                if self._tokens is not None and not refresh.forced and refresh.after != self._times_forced:
                    tokens = self._tokens  # the tokens that were found may be older than those of renew()
                elif not late:
                    self._adopt(tokens)
        if late:
            refresh.set_exception(Abandoned())  # its waiters start another one
        else:
            refresh.set_result(tokens)

    def _adopt(self, tokens: TokenSet) -> None:
        if tokens.access_token == self._refused:
            self._refused = None  # the server gave the same token again, so it must be valid
        self._failures, self._next_try, self._last_error = 0, 0.0, None
        # Write the token before the time: a reader between the two sees the old time or the new token.
        self._until = 0.0
        self._take(tokens)
        self._token = self.text_of(tokens)
        self._until = self._stale_at(tokens)

    def _failed(self, refresh: RefreshInProgress, error: BaseException, *, patient: bool) -> None:
        early = False
        with self._lock:
            if self._is_over(refresh):
                early = self._note(error)
            tokens = self._tokens
            usable = not refresh.forced and tokens is not None and self._is_usable(tokens, doubtful=True)
        if usable and isinstance(error, DPoPError):
            refresh.set_result(cast("TokenSet", tokens))
        else:
            # The refresh did not wait for the lock, because the token was still good. Who needs a new token must wait.
            impatient = isinstance(error, TokenLockError) and not patient
            refresh.set_exception(Abandoned() if impatient else error)
        if early and not isinstance(error, TokenLockError):  # otherwise another process is refreshing
            # Last, because a log handler may ask this source for a token to send the log.
            _log.warning("the tokens of %r could not be renewed ahead of time: %s", self._account, error)

    def _note(self, error: BaseException) -> bool:
        """Remember a failure, so that not every caller sends a request to a server that is down.

        Returns whether no caller needs new tokens yet.
        """
        early = self._tokens is not None and self._is_usable(self._tokens)
        if early:
            self._next_try = time.monotonic() + 1.0
        if not isinstance(error, TokenRequestError) or isinstance(error, ReauthorizationError):
            return early
        wait = 0.0 if self._failures == 0 else _BACKOFF_SECONDS * 2 ** min(self._failures - 1, 10)
        self._failures += 1
        wait = max(min(_MAX_BACKOFF_SECONDS, wait), min(MAX_RETRY_AFTER, error.retry_after or 0.0))
        self._next_try = max(self._next_try, time.monotonic() + wait)
        self._last_error = error
        return early

    def _reset_after_fork(self) -> None:
        """In a forked child: forget a refresh in progress, which belongs to the parent."""
        self._lock = threading.RLock()
        self._refresh = self._forced = None

    def _wait_for(self, refresh: RefreshInProgress) -> None:
        """Abandon a shared refresh that has not started in time, so that its waiters continue."""
        if refresh.is_stuck:
            self._abandon(refresh)


class _OtherThanFirst:
    """A function that tells whether tokens differ from the first ones it was called with, so were renewed since."""

    def __init__(self) -> None:
        self._first: str | None = None

    def __call__(self, tokens: TokenSet) -> bool:
        if self._first is None:
            self._first = tokens.fingerprint
        return tokens.fingerprint != self._first


_INTERRUPTED: Final = (
    "a signal handler called the token source that it interrupted; call it outside of the signal handler"
)
_ASKED_BY_ITSELF: Final = (
    "the token source was called by its own refresh, which would wait for itself: by the key, an event hook or the HTTP"
    " session of its token endpoint; call it elsewhere, for example from a queue"
)


def own_copy(error: BaseException) -> BaseException:
    """Copy the exception for each waiter; a shared one accumulates tracebacks."""
    try:
        return copy.copy(error)
    except Exception:  # noqa: BLE001 - an error of another package that cannot be copied
        return error


class RefreshingSource(SharedRefresh):
    """Fresh access tokens from a ``TokenEndpoint``; its ``source()`` makes one.

    Call it for a token, from any thread, or await :meth:`atoken`, on any event loop of asyncio or trio.
    """

    def __call__(self) -> str:
        """Return a fresh access token.

        :raises ReauthorizationError: the user has to authorise.
        :raises TokenRequestError: the server gave no tokens.
        :raises TokenStoreError: the store cannot be read or written.
        """
        if self._clock() < self._until and time.monotonic() < self._stale_by:
            return self._token
        return self._waited(self._wanted)

    async def atoken(self) -> str:
        """Return a fresh access token to a task; other tasks run meanwhile."""
        token = self._fresh()
        return await awaited(self._wanted, self) if token is None else token

    def renew(self) -> str:
        """Renew the tokens now, although they have not expired, and return the new access token.

        Use it to get a token with rights that the user was just given, for example. Callers at the same time share one
        refresh, also with other processes and hosts: tokens that another one has stored meanwhile are returned.

        :raises ReauthorizationError: the user has to authorise.
        :raises TokenRequestError: the server gave no tokens, or the pause after a failure is not over. The current
            tokens are still valid.
        :raises TokenStoreError: the store cannot be read or written.
        """
        return self._waited(self._wanted_new)

    async def arenew(self) -> str:
        """Form of :meth:`renew` for a task; other tasks run meanwhile."""
        return await awaited(self._wanted_new, self)

    def _waited(self, wanted: Callable[[], str | RefreshInProgress]) -> str:
        while True:
            refresh = wanted()
            if isinstance(refresh, str):
                return refresh
            try:
                return self.text_of(self._result(refresh))
            except Abandoned:
                continue

    def tokens(self) -> TokenSet:
        """Return the token set of the fresh access token."""
        self()
        assert self._tokens is not None  # noqa: S101 - a call that returns has adopted one
        return self._tokens

    def ensure(self, good: Callable[[TokenSet], bool]) -> TokenSet:
        """Return tokens for which ``good`` is true: those in the store, or else new ones.

        :raises TokenError: as for a call.
        """
        run = self._detached()
        refresh: Future[TokenSet] = Future()

        def carry_out() -> None:
            try:
                refresh.set_result(run(self._renewal.steps(good)))
            except BaseException as error:  # noqa: BLE001 - raised in the waiting caller
                refresh.set_exception(error)

        try:
            # In a separate thread, too, so that an interrupt cannot lose tokens between a response and the store.
            threading.Thread(
                target=contextvars.copy_context().run, args=(carry_out,), name="dpop-refresh", daemon=True
            ).start()
        except RuntimeError:  # the interpreter is shutting down, or has no thread left
            carry_out()
        tokens = refresh.result()
        with self._lock:
            if tokens.access_token != self._refused:  # they may be from the store, which knows of no refusal
                self._adopt(tokens)
        return tokens

    def _result(self, refresh: RefreshInProgress) -> TokenSet:
        while True:
            try:
                return refresh.result(_LOOK_SECONDS)
            except TimeoutError:
                if refresh.done():
                    raise
                self._wait_for(refresh)
            except DPoPError as error:
                raise own_copy(error) from error


async def awaited(ask: Callable[[], str | RefreshInProgress], source: SharedRefresh) -> str:
    """Wait for the shared refresh that brings a token and return the token; other tasks run meanwhile.

    :param ask: a function that returns a token of the source, or its shared refresh.
    :raises UsageError: the running event loop is neither asyncio's nor trio's.
    """
    wait = waiting_here()
    while True:
        wanted = ask()
        if isinstance(wanted, str):
            return wanted
        while not wanted.done():
            await wait(wanted)
            source._wait_for(wanted)  # noqa: SLF001 - a function of the same class, but for the event loop
        try:
            return source.text_of(wanted.result())
        except Abandoned:
            continue
        except DPoPError as error:
            raise own_copy(error) from error
