# SPDX-License-Identifier: Apache-2.0
"""A refresher: renews stored tokens before they are needed.

It runs in one process, or in several for safety, next to the processes that use the tokens. Their sources find fresh
tokens in the store and send no requests. If no refresher runs, they renew the tokens themselves, under the same lock.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from dpop.errors import DPoPError, ReauthorizationError, UsageError
from dpop.tokens._source import CLOCK_TOLERANCE, MAX_RETRY_AFTER, RefreshingSource
from dpop.tokens._token_set import TokenSet

__all__ = ["AccountStatus", "Refresher"]

_log: Final = logging.getLogger("dpop.tokens")
_WITHOUT_EXPIRY: Final = 900.0
_LONGEST: Final = 900.0
_RETRY: Final = 15.0
_MAX_RETRY: Final = 300.0
_SHORTEST: Final = 1.0


@dataclass(frozen=True, slots=True)
class AccountStatus:
    """The state of an account's tokens.

    :param state: ``fresh``, ``failing`` (and tried again), or ``dead``: the user has to authorise again.
    :param expires_at: Unix seconds when the access token expires.
    :param next_at: Unix seconds of the next check; a dead account is checked, too, because of a new login.
    :param error: the error of the last attempt, if it failed; it contains no secret.
    """

    account: str
    state: str
    expires_at: float | None
    next_at: float
    error: str | None = None


class Refresher:
    """Renews each account's tokens when two thirds of their life are over, every 15 minutes at the latest.

    :param sources: one source for each account, made by ``source()`` of a token endpoint.
    :param share: the part of an access token's lifetime after which it is renewed.
    :param every: seconds after which tokens are renewed at the latest, whatever their lifetime is.
    :param clock: Unix seconds.
    :param tell: a function that is called with the status of an account after each check.
    :raises UsageError: there are no sources, or ``share`` is not between 0 and 1.
    """

    def __init__(
        self,
        sources: Iterable[RefreshingSource],
        *,
        share: float = 2 / 3,
        every: float = _LONGEST,
        clock: Callable[[], float] = time.time,
        tell: Callable[[AccountStatus], object] | None = None,
    ) -> None:
        self._sources = list(sources)
        if not self._sources or not all(isinstance(source, RefreshingSource) for source in self._sources):
            raise UsageError("a refresher needs one or more sources, made by an endpoint's source()")
        if not 0 < share < 1 or not every > 0:
            raise UsageError("share must be between 0 and 1, and every must be seconds above 0")
        self._share = share
        self._every = every
        self._clock = clock
        self._tell = tell
        self._due: dict[int, tuple[float, float]] = {}  # by the given clock, and by the monotonic clock
        self._failures: dict[int, int] = {}

    def step(self) -> float:
        """Check every account that is due; return the seconds until the next one is due."""
        for number, source in enumerate(self._sources):
            if self._left(number) <= 0:
                status = self._look(number, source)
                self._due[number] = status.next_at, time.monotonic() + max(0.0, status.next_at - self._clock())
                if self._tell is not None:
                    self._tell(status)
        return max(0.0, min(map(self._left, self._due)))

    def _left(self, number: int) -> float:
        """Return the seconds until an account is due, even if the clock was set back meanwhile."""
        if number not in self._due:
            return 0.0
        by_clock: float = self._due[number][0] - self._clock()
        by_monotonic = self._due[number][1] - time.monotonic()
        return by_clock if by_clock < by_monotonic + 1.0 else by_monotonic

    def run(self, stop: threading.Event) -> None:
        """Call :meth:`step` until ``stop`` is set; a refresh in progress is finished first."""
        while not stop.is_set():
            stop.wait(min(self.step(), self._every))

    def _look(self, number: int, source: RefreshingSource) -> AccountStatus:
        try:
            tokens = source.ensure(lambda tokens: self._clock() < self._renew_at(tokens))
        except ReauthorizationError as error:
            _log.warning("the tokens of %r are dead until the user authorises again: %s", source.account, error)
            return AccountStatus(source.account, "dead", None, self._clock() + _RETRY * 4, str(error))
        except DPoPError as error:
            failures = self._failures[number] = self._failures.get(number, 0) + 1
            expires_at, now = self._expiry(source), self._clock()
            wait = self._wait(failures, getattr(error, "retry_after", None) or 0.0, expires_at, now)
            _log.warning("the tokens of %r could not be renewed, next try in %.0f s: %s", source.account, wait, error)
            return AccountStatus(source.account, "failing", expires_at, now + wait, str(error))
        self._failures.pop(number, None)
        # Not at once: tokens that are stale when they are issued would otherwise cause requests without pause.
        next_at = max(self._renew_at(tokens), self._clock() + 1.0)
        return AccountStatus(source.account, "fresh", tokens.expires_at, next_at)

    def _wait(self, failures: int, retry_after: float, expires_at: float | None, now: float) -> float:
        """Return the seconds until the next attempt: as the server asks, up to a limit, not past the token's end."""
        backoff: float = _RETRY * 2 ** min(failures - 1, 10)
        wait = max(min(_MAX_RETRY, backoff), min(MAX_RETRY_AFTER, retry_after))
        left = _MAX_RETRY if expires_at is None else expires_at - now
        return wait if left <= 0 else min(wait, max(_SHORTEST, left))

    def _renew_at(self, tokens: TokenSet) -> float:
        if not tokens.access_token:
            return 0.0  # a response may have brought a refresh token alone
        if tokens.issued_at is not None and tokens.issued_at > self._clock() + CLOCK_TOLERANCE:
            return 0.0  # the clock was ahead when they were issued, so their end is unknown
        issued_at = self._clock() if tokens.issued_at is None else tokens.issued_at
        if tokens.expires_at is None:
            return issued_at + _WITHOUT_EXPIRY if tokens.issued_at is None else float("inf")
        return min(issued_at + self._share * (tokens.expires_at - issued_at), issued_at + self._every)

    def _expiry(self, source: RefreshingSource) -> float | None:
        try:
            tokens = source.store.load(source.account)
        except DPoPError:
            return None
        return None if tokens is None else tokens.expires_at
