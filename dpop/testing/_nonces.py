# SPDX-License-Identifier: Apache-2.0
"""The nonces of one role of the test server, under one discipline.

Real servers use :class:`dpop.server.NonceIssuer`, whose nonces lapse after some time. A test must not depend on time,
so here a nonce belongs to a *generation*: an issuer whose clock is stopped. A lapse begins another generation.
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
    """Issues and checks nonces as the policy says: a :class:`dpop.server.NonceChecker`.

    :param role: the role; the nonces of one role are unknown to the other (RFC 9449 §9).
    :param clock: monotonic seconds, for nonces that lapse after some time.
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
        """Return the nonce to issue now."""
        if self._discipline == "endless":
            self.lapse()
        self._lapse_if_due()
        return self._generations[0].issue()

    def check(self, nonce: str, jkt: str) -> NonceVerdict | None:
        """Return a verdict on a nonce; None if it is refused.

        The verdict never contains the time of issue, so that the verifier checks ``iat``, too: a client with a wrong
        clock must notice that in a test.
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
        """Return the nonce to send after ``nonce``; None if ``nonce`` is still the newest."""
        return self._generations[0].next_for(nonce, jkt)

    def accepted(self) -> None:
        """Record an accepted request, after which another nonce may be needed."""
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
