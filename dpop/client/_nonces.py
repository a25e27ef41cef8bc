# SPDX-License-Identifier: Apache-2.0
"""The nonce cache: which nonce the next proof to a server carries (RFC 9449 §8, §9).

Servers differ. Most accept one nonce for many requests, some for one only, and none says which. So a
server's entry starts as *unknown* and settles by what happens:

- *unknown*: a nonce that no proof has carried yet is preferred, newest first; without one, the
  newest is sent again, which costs no more than sending none, and tells.
- *shared*: a nonce was accepted twice. The newest is sent with every request.
- back to *unknown*: two different nonces were refused within seconds of their own acceptance. An
  expired nonce looks the same once, but not twice with nothing accepted twice in between.

On a single-use server N workers thus come to hold N nonces and nobody is refused; on a server with a
time window everybody uses the newest. Who would send none to a server that has just asked for one waits
for the first retry. No lock is held while a request is on its way.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple, TypeVar

from dpop._forking import reset_after_fork
from dpop.errors import ArgumentTypeError, UsageError
from dpop.origin import Origin

__all__ = ["ColdStart", "Lease", "NonceCache", "NonceKey", "Role"]

_SUSPICIOUS_SECONDS = 2.0
_SUSPECTS_NEEDED = 2
_POOL_SIZE = 256
_HISTORY_SIZE = 512

_T = TypeVar("_T")


class Role(StrEnum):
    """What the server is to a request: nonces of the two roles never mix (RFC 9449 §9)."""

    AS = "AS"  # authorization server
    RS = "RS"  # resource server


class NonceKey(NamedTuple):
    """Whose nonce: the key that signs, the server, and its role."""

    jkt: str
    origin: Origin
    role: Role | None


class ColdStart:
    """The first request to a server that wants nonces; others wait for what it learns."""

    __slots__ = ("_over",)

    def __init__(self) -> None:
        self._over = threading.Event()

    @property
    def over(self) -> bool:
        """Whether the first request has brought a nonce, or will not."""
        return self._over.is_set()

    def wait(self, timeout: float) -> None:
        """Block this thread until it is over, at most ``timeout`` seconds."""
        self._over.wait(timeout)

    def end(self) -> None:
        """Let everyone go who waits."""
        self._over.set()


class Lease:
    """One proof's nonce, and what the cache must know to judge the answer to it."""

    __slots__ = ("cold_start", "epoch", "generation", "key", "nonce", "reserved")

    def __init__(self, key: NonceKey, nonce: str | None, generation: int, epoch: int) -> None:
        self.key: NonceKey = key
        self.nonce: str | None = nonce
        self.generation: int = generation
        self.epoch: int = epoch
        self.reserved: bool = False
        self.cold_start: ColdStart | None = None

    def __repr__(self) -> str:
        return f"<Lease for {self.key.origin}, {'with' if self.nonce else 'without'} a nonce>"


class _Entry:
    """What is known of one server's nonces."""

    __slots__ = ("accepted", "cold_start", "epoch", "known", "newest", "pool", "shared", "suspects")

    def __init__(self) -> None:
        self.newest: str | None = None
        self.shared = False
        # Nonces no proof has carried yet, oldest first.
        self.pool: OrderedDict[str, None] = OrderedDict()
        # Every nonce seen of late, with the epoch it came in: counts how often the newest has changed.
        self.known: OrderedDict[str, int] = OrderedDict()
        self.epoch = 0
        self.accepted: OrderedDict[str, float] = OrderedDict()
        self.suspects: set[str] = set()
        self.cold_start: ColdStart | None = None


class NonceCache:
    """Nonces by key, origin and role; bounded, in memory only, safe for threads and after fork.

    :param max_entries: servers remembered; the least recently used is forgotten first.
    :param clock: monotonic seconds.
    """

    def __init__(self, *, max_entries: int = 100, clock: Callable[[], float] = time.monotonic) -> None:
        if not isinstance(max_entries, int):
            raise ArgumentTypeError("max_entries", "int", max_entries)
        if max_entries < 1:
            raise UsageError("max_entries must be at least 1")
        self._max_entries = max_entries
        self._clock = clock
        self._generation = 0
        self._lock = threading.Lock()
        self._entries: OrderedDict[NonceKey, _Entry] = OrderedDict()
        reset_after_fork(self)

    def __repr__(self) -> str:
        return f"<NonceCache of {len(self._entries)} servers>"

    def __len__(self) -> int:
        return len(self._entries)

    def __reduce__(self) -> tuple[object, ...]:
        raise UsageError("a NonceCache cannot be pickled: nonces belong to one process; make a new one there")

    def lease(self, key: NonceKey, *, required: bool = False, wait: bool = False) -> Lease | ColdStart:
        """The nonce for one proof; or the cold start to wait for.

        Every lease is given back once, by :meth:`answered` or :meth:`release`.

        :param required: the server is known to want nonces: the first to come makes a cold start, and others wait.
        :param wait: the caller can wait for a cold start of somebody else: whom the server has asked for a nonce.
        """
        with self._lock:
            entry = self._entry(key)
            if (required or wait) and entry.newest is None and entry.cold_start is not None:
                return entry.cold_start
            nonce = entry.newest
            if entry.pool and not entry.shared:
                nonce = next(reversed(entry.pool))
            if nonce is not None:
                entry.pool.pop(nonce, None)
            lease = Lease(key, nonce, self._generation, entry.epoch)
            if required and nonce is None:
                lease.cold_start = entry.cold_start = ColdStart()
            return lease

    def challenged(self, lease: Lease, nonce: str) -> Lease:
        """The server refused this proof and gave a nonce; the lease of that nonce, for the retry.

        There is only one retry. So on a server that may take each nonce once, nobody else gets this one
        before the retry has been answered; where nonces are shared, all use it at once. Who would have none
        meanwhile, and be refused for it, can wait.
        """
        with self._lock:
            entry = self._entry(lease.key)
            self._judge(entry, lease, accepted=False, refused=True)
            if entry.shared:
                self._learn(entry, nonce, lease)
            entry.pool.pop(nonce, None)
            retry = Lease(lease.key, nonce, self._generation, entry.epoch)
            retry.reserved = not entry.shared
            retry.cold_start, lease.cold_start = lease.cold_start, None
            if entry.newest is None and entry.cold_start is None:
                retry.cold_start = entry.cold_start = ColdStart()
            return retry

    def answered(self, lease: Lease, *, learnt: str | None, accepted: bool = False, refused: bool = False) -> None:
        """Take in the answer to a proof and give its lease back.

        :param learnt: the nonce the answer carried.
        :param accepted: the server took the proof.
        :param refused: the server asked for another nonce.
        """
        if learnt is None and lease.nonce is None:
            # Nothing to learn, and nothing was sent that could be judged.
            self.release(lease)
            return
        with self._lock:
            entry = self._entry(lease.key)
            if lease.reserved and lease.nonce is not None and not refused:
                self._learn(entry, lease.nonce, lease)
                entry.pool.pop(lease.nonce, None)
            self._judge(entry, lease, accepted=accepted, refused=refused)
            lease.reserved = False
            if learnt is not None:
                self._learn(entry, learnt, lease)
        self.release(lease)

    def release(self, lease: Lease) -> None:
        """Give a lease back without an answer: an error, a cancellation."""
        if lease.reserved and lease.nonce is not None:
            # Perhaps it was never seen. To send it again costs no more than to send none.
            lease.reserved = False
            with self._lock:
                known = self._entry(lease.key)
                self._learn(known, lease.nonce, lease)
                known.pool.pop(lease.nonce, None)
        cold_start, lease.cold_start = lease.cold_start, None
        if cold_start is None:
            return
        with self._lock:
            entry = self._entries.get(lease.key)
            if entry is not None and entry.cold_start is cold_start:
                entry.cold_start = None
        cold_start.end()

    def newest(self, key: NonceKey) -> str | None:
        """The newest nonce of a server, for a look; :meth:`lease` is for use."""
        with self._lock:
            entry = self._entries.get(key)
            return entry.newest if entry else None

    def learn(self, key: NonceKey, nonce: str) -> None:
        """Take in a nonce that did not come with an answer to a proof of this cache."""
        with self._lock:
            entry = self._entry(key)
            self._learn(entry, nonce, Lease(key, None, self._generation, entry.epoch))

    def _entry(self, key: NonceKey) -> _Entry:
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry()
            if len(self._entries) > self._max_entries:
                _, forgotten = self._entries.popitem(last=False)
                if forgotten.cold_start is not None:
                    forgotten.cold_start.end()
        else:
            self._entries.move_to_end(key)
        return entry

    def _judge(self, entry: _Entry, lease: Lease, *, accepted: bool, refused: bool) -> None:
        """What an answer says about the server's way with nonces."""
        if lease.nonce is not None and lease.generation == self._generation:
            if accepted:
                self._accepted(entry, lease.nonce)
            elif refused:
                self._refused(entry, lease.nonce)

    def _accepted(self, entry: _Entry, nonce: str) -> None:
        if nonce in entry.accepted:
            entry.shared = True
            entry.suspects.clear()
        else:
            _remember(entry.accepted, nonce, self._clock(), _HISTORY_SIZE)

    def _refused(self, entry: _Entry, nonce: str) -> None:
        accepted_at = entry.accepted.get(nonce)
        if accepted_at is None:
            # Never accepted, so it was too old; what lies below it in the pool is older.
            epoch = entry.known.get(nonce, 0)
            for older in [n for n in entry.pool if entry.known.get(n, 0) < epoch]:
                del entry.pool[older]
        elif self._clock() - accepted_at <= _SUSPICIOUS_SECONDS:
            entry.suspects.add(nonce)
            if len(entry.suspects) >= _SUSPECTS_NEEDED:
                entry.shared = False
                entry.suspects.clear()

    def _learn(self, entry: _Entry, nonce: str, lease: Lease) -> None:
        known = entry.known.get(nonce)
        if nonce != entry.newest:
            if known is not None and lease.epoch < entry.epoch:
                # An old acquaintance in the answer to a request sent before the newest came: late, not new.
                return
            entry.newest = nonce
            entry.epoch += 1
            _remember(entry.known, nonce, entry.epoch, _HISTORY_SIZE)
        if known is None:
            _remember(entry.pool, nonce, None, _POOL_SIZE)
        if entry.cold_start is not None:
            entry.cold_start.end()
            entry.cold_start = None

    def _reset_after_fork(self) -> None:
        """In a forked child: no lock, wait or lease of the parent may hold, and no leased nonce be shared.

        A nonce of a single-use server may be in the parent's hands too, so only a shared one is kept.
        """
        self._lock = threading.Lock()
        self._generation += 1
        for entry in self._entries.values():
            entry.pool.clear()
            entry.cold_start = None
            if not entry.shared:
                entry.newest = None


def _remember(memory: OrderedDict[str, _T], name: str, value: _T, limit: int) -> None:
    memory[name] = value
    memory.move_to_end(name)
    if len(memory) > limit:
        memory.popitem(last=False)
