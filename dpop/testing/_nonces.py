# SPDX-License-Identifier: Apache-2.0
"""The nonces of one role of the test server, under one discipline.

Real servers take :class:`dpop.server.NonceIssuer` as it is, and let time decide what lapses. In a test
time must decide nothing, so here a nonce belongs to a *generation*: an issuer whose clock stands still.
A lapse is the beginning of another generation.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from dpop.server import MemoryReplayCache, NonceIssuer, NonceVerdict, ReplayCache
from dpop.testing._levers import NoncePolicy

__all__ = ["NonceBook"]

_SINGLE_USE_SLOT = 300
_MAX_USED = 1_000_000


class NonceBook:
    """Issues and recognises nonces as the policy says: a :class:`dpop.server.NonceChecker`.

    :param role: the nonces of one role are unknown to another (RFC 9449 §9).
    :param clock: monotonic seconds, for nonces that lapse by time.
    """

    def __init__(self, role: str, policy: NoncePolicy, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._role = role
        self._discipline = policy.discipline
        self._seconds = policy.seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._used = (
            MemoryReplayCache(max_entries=_MAX_USED, max_per_key=_MAX_USED)
            if policy.discipline == "single-use"
            else None
        )
        shares = policy.discipline in {"rotating", "per-answer"}
        self._generations = deque([self._generation()], maxlen=1 + (policy.grace if shares else 0))
        self._began_at = clock()

    def __repr__(self) -> str:
        return f"<NonceBook {self._role}, {self._discipline}>"

    @property
    def used(self) -> ReplayCache | None:
        """The cache of used nonces, if each nonce is valid for one request."""
        return self._used

    def issue(self, jkt: str | None = None) -> str:  # noqa: ARG002 - these nonces are not bound to a key
        """The nonce to issue now."""
        if self._discipline == "endless":
            self.lapse()
        self._lapse_if_due()
        return self._generations[0].issue()

    def check(self, nonce: str, jkt: str) -> NonceVerdict | None:
        """Judge a nonce; None means refuse it.

        It never says when the nonce was issued, so that ``iat`` is checked as well: a client whose clock
        is wrong is to hear of it here.
        """
        if self._discipline.startswith("endless"):
            return None
        self._lapse_if_due()
        for generation in tuple(self._generations):
            verdict = generation.check(nonce, jkt)
            if verdict is not None:
                return NonceVerdict(issued_at=None, expires_at=verdict.expires_at)
        return None

    def next_for(self, nonce: str | None, jkt: str | None) -> str | None:
        """The nonce to send after ``nonce``, None if that is still the newest."""
        return self._generations[0].next_for(nonce, jkt)

    def accepted(self) -> None:
        """Take note of an accepted request, after which another nonce may be due."""
        if self._discipline == "per-answer":
            self.lapse()

    def lapse(self) -> None:
        """Begin another generation of nonces; forget the oldest if there are too many."""
        with self._lock:
            self._generations.appendleft(self._generation())
            self._began_at = self._clock()

    def _lapse_if_due(self) -> None:
        if self._seconds is not None and self._clock() - self._began_at >= self._seconds:
            self.lapse()

    def _generation(self) -> NonceIssuer:
        if self._used is not None:
            return NonceIssuer(role=self._role, slot=_SINGLE_USE_SLOT, window=2, single_use=self._used)
        return NonceIssuer(role=self._role, clock=lambda: 0.0)
