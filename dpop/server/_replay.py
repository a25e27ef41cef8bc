# SPDX-License-Identifier: Apache-2.0
"""Remember proofs, so that each is accepted once (RFC 9449 §11.1).

A cache tells whether a key was added before, and adds it, in one step: of two requests that carry the same proof at
the same moment, one must be refused.
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
    """Remembers each proof until it expires; the same cache can remember used nonces.

    It may have a second method ``add_unbound`` like ``add``, for the proofs of token requests that are bound to no
    key. Any stranger can make these, so they should not be able to fill the cache for others. Both methods must
    know the keys that were added by the other.
    """

    def add(self, key: str, expires_at: float) -> bool:
        """Remember ``key`` until ``expires_at`` (Unix seconds), atomically.

        :param key: two parts joined by a dot, at most 100 ASCII characters. The part before the dot names the
            owner of the entry, so that a cache can limit the entries of one client.
        :returns: True if the key is new, False if the cache has it already.
        :raises ReplayCacheError: the cache is full or cannot be reached. Never return True instead.
        """
        ...


class AsyncReplayCache(Protocol):
    """A replay cache that must be awaited; only the async methods of a verifier can use it."""

    def add(self, key: str, expires_at: float) -> Awaitable[bool]:
        """Async form of :meth:`ReplayCache.add`."""
        ...


def replay_key(jkt: str, compared: bytes, jti: str) -> str:
    """The cache key of a proof: 87 characters, whatever the length of its claims (RFC 9449 §11.1).

    :param jkt: thumbprint of the proof's key. Without it, a client that learns another client's jti could use it
        first, and the other's proof would be refused.
    :param compared: :func:`dpop.htu.compared_request` of the URL. With the claim's own text, a second spelling would
        make a second proof.
    """
    proof = compared + b"\0" + jti.encode("utf-8", "surrogatepass")
    return f"{jkt}.{_digest(proof)}"


def nonce_key(nonce: str) -> str:
    """The cache key of a single-use nonce, which may not be used again with any proof key."""
    return f"{_digest(nonce.encode('utf-8', 'surrogatepass'))}.nonce"


def _digest(data: bytes) -> str:
    return b64url_encode(hashlib.sha256(data).digest())


# A growing set is copied as a whole. Of 64 small sets, each copy takes under a millisecond at a million entries.
_PARTS = 64
# Expired entries that each add removes: more than one, or the entries of a burst would stay.
_AT_A_TIME = 16


class MemoryReplayCache:
    """A replay cache in this process's memory. Thread-safe and bounded; it refuses when it is full.

    It sees the requests of one process only. A server of several processes or hosts needs a shared cache, or a
    proof could be used once in each process.

    :param max_entries: entries in all, at most. One takes about 200 bytes, or 320 if each has a different proof
        key. A proof stays for at most ``max_age`` plus twice the ``skew`` of the verifier, so 120 times the
        requests per second is enough with the defaults.
    :param max_per_key: entries of one proof key, at most, so that one client cannot fill the cache.
    :param unbound_share: part of ``max_entries`` that token requests without a bound key may have. Any stranger can
        send these with as many keys as it likes.
    :param clock: returns Unix seconds; give the cache and its verifier the same one.
    """

    def __init__(
        self,
        *,
        max_entries: int = 100_000,
        max_per_key: int = 10_000,
        unbound_share: float = 0.1,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if max_entries < 1 or max_per_key < 1:
            raise UsageError("max_entries and max_per_key must be 1 or more: a cache of nothing refuses everything")
        if not 0 < unbound_share <= 1:
            raise UsageError(f"unbound_share must be more than 0 and at most 1, not {unbound_share}")
        self._max_entries = max_entries
        self._max_unbound = max(1, int(max_entries * unbound_share))
        self._unbound: set[str] = set()
        self._max_per_key = max_per_key
        self._clock = clock
        self._lock = threading.RLock()  # a signal handler of the thread that holds it may verify a request
        self._is_inside = False
        self._seen: tuple[set[str], ...] = tuple(set() for _ in range(_PARTS))
        self._size = 0
        self._per_owner: dict[str, int] = {}
        # Entries that expire in the same second share a bucket. Each add removes a few expired ones, so expiry
        # is constant work for each entry, needs no timer and never holds the lock for long.
        self._buckets: dict[int, list[str]] = {}
        self._due: list[int] = []
        self._forgotten_until = -math.inf
        reset_after_fork(self)

    def __len__(self) -> int:
        """Entries held now, including those that expired since the last ``add``."""
        return self._size

    def __repr__(self) -> str:
        return f"<MemoryReplayCache {len(self)} of {self._max_entries} entries>"

    def add(self, key: str, expires_at: float) -> bool:
        """Remember ``key`` until ``expires_at``; True if it is new (see :class:`ReplayCache`).

        :raises ReplayCacheError: a limit is reached. No entry is removed early to make room: an attacker could
            push out the proof that it wants to replay.
        """
        return self._add(key, expires_at, unbound=False)

    def add_unbound(self, key: str, expires_at: float) -> bool:
        """Add the proof of a token request that is bound to no key; see ``unbound_share``.

        :raises ReplayCacheError: that share, or the cache, is full.
        """
        return self._add(key, expires_at, unbound=True)

    def _add(self, key: str, expires_at: float, *, unbound: bool) -> bool:
        if not math.isfinite(expires_at):
            raise UsageError(f"expires_at must be a time in Unix seconds, not {expires_at}")
        with self._lock:
            if self._is_inside:
                raise ReplayCacheError(
                    "this thread was interrupted inside the replay cache, by a signal handler that asks it too",
                    retry_after=0,
                )
            self._is_inside = True
            try:
                return self._add_locked(key, expires_at, unbound=unbound)
            finally:
                self._is_inside = False

    def _add_locked(self, key: str, expires_at: float, *, unbound: bool) -> bool:
        owner = key.partition(".")[0]
        now = self._clock()
        if self._due and self._due[0] < now:
            self._forget_expired(now, _AT_A_TIME)
        seen = self._seen[hash(key) % _PARTS]
        # The second condition matters after the clock was set back: removed entries cannot be recognised.
        if key in seen or expires_at <= self._forgotten_until:
            return False
        held = self._per_owner.get(owner, 0)
        if (
            held >= self._max_per_key
            or self._size >= self._max_entries
            or (unbound and len(self._unbound) >= self._max_unbound)
        ):
            self._forget_expired(now, self._size)
            held = self._per_owner.get(owner, 0)
            self._refuse_when_full(held, self._due[0] - now if self._due else 0, unbound=unbound)
        second = math.ceil(expires_at)
        bucket = self._buckets.get(second)
        if bucket is None:
            bucket = self._buckets[second] = []
            heapq.heappush(self._due, second)
        bucket.append(key)
        self._per_owner[owner] = held + 1
        self._size += 1
        seen.add(key)
        if unbound:
            self._unbound.add(key)
        return True

    def _refuse_when_full(self, held: int, retry_after: float, *, unbound: bool) -> None:
        if unbound and len(self._unbound) >= self._max_unbound:
            raise ReplayCacheError(
                f"the replay cache holds {self._max_unbound} proofs of token requests without a bound key, which is "
                "their share; authenticate clients first (check_token_request), or raise unbound_share",
                retry_after=retry_after,
            )
        if self._size >= self._max_entries:
            raise ReplayCacheError(
                f"the replay cache holds its {self._max_entries} entries; raise max_entries, "
                "lower the verifier's max_age, or spread the load",
                retry_after=retry_after,
            )
        if held >= self._max_per_key:
            raise ReplayCacheError(
                f"one proof key has its {self._max_per_key} entries in the replay cache; "
                "raise max_per_key if a client may send that many requests",
                retry_after=retry_after,
            )

    def _forget_expired(self, now: float, at_most: int) -> None:
        while at_most > 0 and self._due and self._due[0] < now:
            second = self._due[0]
            self._forgotten_until = max(self._forgotten_until, second)
            bucket = self._buckets[second]
            for key in bucket[-at_most:]:
                self._seen[hash(key) % _PARTS].discard(key)
                self._unbound.discard(key)
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
        self._lock, self._is_inside = threading.RLock(), False
