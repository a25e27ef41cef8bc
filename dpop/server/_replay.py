# SPDX-License-Identifier: Apache-2.0
"""Remember proofs, so that each is accepted once (RFC 9449 §11.1).

A cache is asked one question, "was this key added before?", and answers and remembers in one step:
two requests with the same proof at the same moment must not both hear "no".
"""

from __future__ import annotations

import hashlib
import heapq
import math
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from dpop._forking import reset_after_fork
from dpop.encoding import b64url_encode
from dpop.errors import ReplayCacheError, UsageError

__all__ = ["AsyncReplayCache", "MemoryReplayCache", "ReplayCache", "nonce_key", "replay_key"]


class ReplayCache(Protocol):
    """What a verifier needs of a replay cache; the same store can burn single-use nonces."""

    def add(self, key: str, expires_at: float) -> bool:
        """Remember ``key`` until ``expires_at`` (Unix seconds), atomically.

        :param key: two parts joined by a dot, at most 100 ASCII characters. The part before the dot
            says whose entry it is, so that a cache can bound what one client may store.
        :returns: True if the key is new, False if it is known already.
        :raises ReplayCacheError: the cache is full or cannot be reached. Never answer True instead.
        """
        ...


class AsyncReplayCache(Protocol):
    """A replay cache whose answer is awaited; only the async methods of a verifier can use it."""

    def add(self, key: str, expires_at: float) -> Awaitable[bool]:
        """As :meth:`ReplayCache.add`."""
        ...


def replay_key(jkt: str, htu: str, jti: str) -> str:
    """The cache key of a proof: 87 characters, whatever the length of its claims (RFC 9449 §11.1).

    :param jkt: thumbprint of the proof's key. Without it, a client that learns another's jti could
        use it first and have the other's proof refused.
    :param htu: canonical form, not the claim's text, or a second spelling would be a second proof.
    """
    return f"{jkt}.{_digest(htu + chr(0) + jti)}"


def nonce_key(nonce: str) -> str:
    """The cache key of a single-use nonce, which nobody may use again, with whatever key."""
    return f"{_digest(nonce)}.nonce"


def _digest(text: str) -> str:
    return b64url_encode(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())


# A set that grows is copied whole. In parts that takes a fraction of a millisecond at a million entries.
_PARTS = 64
# Entries forgotten with each one added: more than one, or a burst would never be forgotten.
_AT_A_TIME = 16


class MemoryReplayCache:
    """A replay cache in this process's memory. Thread-safe, bounded, fails closed.

    It sees the requests of one process only. A server of several processes or hosts needs a cache
    that all of them share, or a proof can be used once in each.

    :param max_entries: entries kept at most, of 200 octets each, or 320 where each has a key of its own. A
        proof stays for ``max_age`` + twice the ``skew`` of the verifier at most, so requests per second times
        120 is enough with the defaults.
    :param max_per_key: entries one proof key may have at most, so that one client cannot fill the cache.
    :param clock: Unix seconds; give the cache and its verifier the same one.
    """

    def __init__(
        self,
        *,
        max_entries: int = 100_000,
        max_per_key: int = 10_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if max_entries < 1 or max_per_key < 1:
            raise UsageError("max_entries and max_per_key must be 1 or more: a cache of nothing refuses everything")
        self._max_entries = max_entries
        self._max_per_key = max_per_key
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: tuple[set[str], ...] = tuple(set() for _ in range(_PARTS))
        self._size = 0
        self._per_owner: dict[str, int] = {}
        # Entries lie in one bucket for each second in which some expire. Each add forgets a few that are
        # due, so expiry is constant work per entry, needs no timer and stops nobody for long.
        self._buckets: dict[int, list[str]] = {}
        self._due: list[int] = []
        self._forgotten_until = -math.inf
        reset_after_fork(self)

    def __len__(self) -> int:
        """Entries held now, those that expired since the last ``add`` included."""
        return self._size

    def __repr__(self) -> str:
        return f"<MemoryReplayCache {len(self)} of {self._max_entries} entries>"

    def add(self, key: str, expires_at: float) -> bool:
        """Remember ``key`` until ``expires_at``; True if it is new (see :class:`ReplayCache`).

        :raises ReplayCacheError: a bound is reached. Entries are never dropped early to make room:
            that would let an attacker push out the proof it wants to replay.
        """
        if not math.isfinite(expires_at):
            raise UsageError(f"expires_at must be a time in Unix seconds, not {expires_at}")
        owner = key.partition(".")[0]
        with self._lock:
            now = self._clock()
            if self._due and self._due[0] < now:
                self._forget_expired(now, _AT_A_TIME)
            seen = self._seen[hash(key) % _PARTS]
            # The second half matters when the clock was set back: what was forgotten cannot be judged.
            if key in seen or expires_at <= self._forgotten_until:
                return False
            held = self._per_owner.get(owner, 0)
            if held >= self._max_per_key or self._size >= self._max_entries:
                self._forget_expired(now, self._size)
                held = self._per_owner.get(owner, 0)
                self._refuse_when_full(held)
            second = math.ceil(expires_at)
            bucket = self._buckets.get(second)
            if bucket is None:
                bucket = self._buckets[second] = []
                heapq.heappush(self._due, second)
            bucket.append(key)
            self._per_owner[owner] = held + 1
            self._size += 1
            seen.add(key)
            return True

    def _refuse_when_full(self, held: int) -> None:
        if self._size >= self._max_entries:
            raise ReplayCacheError(
                f"the replay cache holds its {self._max_entries} entries; raise max_entries, "
                "lower the verifier's max_age, or spread the load"
            )
        if held >= self._max_per_key:
            raise ReplayCacheError(
                f"one proof key has its {self._max_per_key} entries in the replay cache; "
                "raise max_per_key if a client may send that many requests"
            )

    def _forget_expired(self, now: float, at_most: int) -> None:
        while at_most > 0 and self._due and self._due[0] < now:
            second = self._due[0]
            self._forgotten_until = max(self._forgotten_until, second)
            bucket = self._buckets[second]
            for key in bucket[-at_most:]:
                self._seen[hash(key) % _PARTS].discard(key)
                owner = key.partition(".")[0]
                left = self._per_owner.get(owner, 0) - 1
                if left > 0:
                    self._per_owner[owner] = left
                else:
                    self._per_owner.pop(owner, None)
            before = len(bucket)
            del bucket[-at_most:]
            self._size -= before - len(bucket)
            at_most -= before - len(bucket)
            if not bucket:
                del self._buckets[second]
                heapq.heappop(self._due)

    def _reset_after_fork(self) -> None:
        """In a forked child: a lock that another thread held would never be released."""
        self._lock = threading.Lock()
