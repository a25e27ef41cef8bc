# SPDX-License-Identifier: Apache-2.0
"""The nonce cache: it decides which nonce the next proof to a server carries (RFC 9449 §8, §9).

Servers differ. Most accept one nonce for many requests; some accept it for one request; some accept only the newest
nonce they gave. No server says which it does, so the cache finds out, for each key, server and role
(docs/decisions/0002). It is in one of three modes:

- *trial*: requests go one at a time, in order of arrival, each with the newest nonce. While others wait, a request may
  try another nonce, to find out what the server accepts: first one that was accepted before, then an older one that
  no proof has carried. A trial costs at most two refusals, and a request that nobody waits behind tries nothing.
- *open*: no request waits. A nonce that no proof has carried is preferred, newest first; without one, the newest is
  sent again. Once a nonce has been accepted twice it is *shared*: every request carries the newest.
- *serial*: the server accepts only its newest nonce, so requests go one at a time. It ends when the server accepts an
  older nonce after all.

A server that sends no nonce is open from its first response on. A request gives its turn back when the head of its
response has arrived. A turn that is not given back in time passes to the next request, so that no request waits
forever. No lock is held while a request is on its way.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from enum import Enum, StrEnum
from typing import NamedTuple, TypeVar

from dpop._forking import reset_after_fork
from dpop.errors import ArgumentTypeError, UsageError
from dpop.origin import Origin

__all__ = ["Lease", "NonceCache", "NonceKey", "Role", "Turn"]

_SUSPICIOUS_SECONDS = 2.0
_SUSPECTS_NEEDED = 2
_POOL_SIZE = 256
_HISTORY_SIZE = 512

_TRIAL_TURN_SECONDS = 1.0
"""How long one request may hold up the others before it is known that the server takes only its newest nonce."""
_TRIAL_LOOKS = 4
"""A waiting request must also have checked this often: if a busy event loop delays everything, time proves nothing."""
_SERIAL_TURN_SECONDS = 5.0
_SERIAL_SECONDS = 600.0
"""How long a server counts as serial before it is tried again."""
_TRIAL_TURNS = 64
"""How many requests a trial may send; then it ends without a result: none was accepted, or none could be repeated."""
_OVERTAKEN_NEEDED = 3
"""How many nonces must be refused because another response replaced them before an open server is tried again."""

_USES_NEEDED = 5
"""How often one nonce must be accepted to end the serial mode, after other requests used up the nonce of a retry."""

_T = TypeVar("_T")


class Role(StrEnum):
    """The role of a server for a request; nonces of the two roles never mix (RFC 9449 §9)."""

    AS = "AS"  # authorization server
    RS = "RS"  # resource server


class NonceKey(NamedTuple):
    """The owner of a nonce: the key that signs (its thumbprint), the server, and the server's role."""

    jkt: str
    origin: Origin
    role: Role | None


class _Mode(Enum):
    TRIAL = "one at a time, until it is known what the server accepts"
    OPEN = "all at once"
    SERIAL = "one at a time"


_TRIAL, _OPEN, _SERIAL = _Mode


class Turn:
    """A place in the order in which requests go to a server one at a time."""

    __slots__ = ("_gate", "_wake", "begun", "behind", "granted", "looks", "thread", "waited")

    def __init__(self, now: float) -> None:
        # A plain lock, made only for a request that has to wait. An Event has another lock inside, which a signal
        # handler could find held.
        self._gate: threading.Lock | None = None
        self.granted: bool = False
        """Whether the request may go."""
        self.looks: int = 0
        """How often its request has checked whether it is granted."""
        self.waited: bool = False
        """Whether another request was on its way when this turn was asked for."""
        self.begun: float = now
        """When it was granted; before that, when it was asked for."""
        self.thread: int = threading.get_ident()
        """The thread that asked for it."""
        self.behind: int | None = None
        """The thread of the request that is on its way."""
        self._wake: Callable[[], object] | None = None

    def queue_up(self) -> None:
        """Prepare to wait, behind another request."""
        self.waited = True
        self._gate = threading.Lock()
        self._gate.acquire()

    def wait(self, timeout: float) -> None:
        """Block this thread until the turn is granted, at most ``timeout`` seconds; only the turn's owner may wait."""
        if self._gate is not None:
            self._gate.acquire(timeout=timeout)

    def grant(self, now: float) -> None:
        """Grant the turn: its request may be sent."""
        if not self.granted:
            self.begun = now
            self.granted = True
            if self._gate is not None:
                self._gate.release()
            if self._wake is not None:
                with contextlib.suppress(RuntimeError):  # the event loop is closed
                    self._wake()

    def call_when_granted(self, wake: Callable[[], object]) -> None:
        """Call a function, from any thread, once the turn is granted."""
        self._wake = wake
        if self.granted:
            wake()


class Lease:
    """One proof's nonce, and the facts the cache needs to judge the response to it."""

    __slots__ = ("epoch", "generation", "key", "nonce", "older", "reserved", "retry", "turn")

    def __init__(self, key: NonceKey, nonce: str | None, generation: int, epoch: int) -> None:
        self.key: NonceKey = key
        self.nonce: str | None = nonce
        self.generation: int = generation
        self.epoch: int = epoch
        self.older: bool = False
        self.reserved: bool = False
        self.retry: bool = False
        self.turn: Turn | None = None

    def __repr__(self) -> str:
        return f"<Lease for {self.key.origin}, {'with' if self.nonce else 'without'} a nonce>"


class _Entry:
    """The state of one server: its nonces, and how it treats them."""

    __slots__ = (
        "accepted",
        "epoch",
        "holder",
        "known",
        "mode",
        "newest",
        "overtaken",
        "pool",
        "queue",
        "reused",
        "reuses_refused",
        "serial_since",
        "shared",
        "slow",
        "strict",
        "suspects",
        "trial_turns",
        "uses",
    )

    def __init__(self) -> None:
        self.newest: str | None = None
        self.shared = False
        # Nonces that no proof has carried yet, oldest first.
        self.pool: OrderedDict[str, None] = OrderedDict()
        # Every recent nonce, with the epoch it came in; the epoch counts how often the newest has changed.
        self.known: OrderedDict[str, int] = OrderedDict()
        self.epoch = 0
        self.accepted: OrderedDict[str, float] = OrderedDict()
        self.suspects: set[str] = set()
        self.overtaken = 0
        self.holder: Turn | None = None
        self.queue: deque[Turn] = deque()
        self.serial_since = 0.0
        # The last nonce that was accepted again, how often it was, and whether twice is not enough (_USES_NEEDED).
        self.reused: str | None = None
        self.uses = 0
        self.strict = False
        # Whether a trial ended because a response took too long.
        self.slow = False
        self.try_again()

    def try_again(self) -> None:
        """Begin a trial of how the server treats nonces."""
        self.mode = _TRIAL
        self.reuses_refused = 0
        self.trial_turns = 0
        self.overtaken = 0

    def open(self, now: float) -> None:
        """Allow all requests to be sent at once, including those that wait."""
        self.mode = _OPEN
        self.strict = False
        self.overtaken = 0
        self.holder = None
        while self.queue:
            self.queue.popleft().grant(now)

    def advance(self, now: float, looks: int = 0) -> None:
        """Grant the turn that is next in the queue.

        :param looks: how often a waiting request has checked its turn.
        """
        seconds = 0.0 if self.holder is None else now - self.holder.begun
        if self.mode is _TRIAL and seconds > _TRIAL_TURN_SECONDS and looks >= _TRIAL_LOOKS:
            self.open(now)  # the slow response may have nothing to do with nonces, so the others go on
            self.slow = True
            return
        if self.mode is _SERIAL and seconds > _SERIAL_TURN_SECONDS:
            self.holder = None
        if self.holder is None and self.queue:
            self.holder = self.queue.popleft()
            self.holder.grant(now)

    def leave(self, turn: Turn, now: float) -> None:
        """Give back a turn, or leave the queue."""
        if self.holder is turn:
            self.holder = None
        elif turn in self.queue:
            self.queue.remove(turn)
        self.advance(now)


class NonceCache:
    """A cache of nonces by key, origin and role: bounded, in memory, safe for threads, signal handlers and forks.

    :param max_entries: how many servers are remembered, in about 1,600 bytes each; the least recently used is forgotten
        first, and its next request may be refused because it has no nonce.
    :param clock: monotonic seconds.
    """

    def __init__(self, *, max_entries: int = 1000, clock: Callable[[], float] = time.monotonic) -> None:
        if not isinstance(max_entries, int):
            raise ArgumentTypeError("max_entries", "int", max_entries)
        if max_entries < 1:
            raise UsageError("max_entries must be at least 1")
        self._max_entries = max_entries
        self._clock = clock
        self._generation = 0
        # A thread that holds the lock never waits. A signal handler may run while its own thread holds it: the
        # lock then lets the handler in, and _busy tells it to skip the cache, which may be in the middle of a change.
        self._lock = threading.RLock()
        self._busy = False
        self._entries: OrderedDict[NonceKey, _Entry] = OrderedDict()
        self._share: Callable[[str, str, str, bool], object] | None = None
        reset_after_fork(self)

    def __repr__(self) -> str:
        return f"<NonceCache of {len(self._entries)} servers>"

    def __len__(self) -> int:
        return len(self._entries)

    def __reduce__(self) -> tuple[object, ...]:
        raise UsageError("a NonceCache cannot be pickled: nonces belong to one process; make a new one there")

    def share_with(self, report: Callable[[str, str, str, bool], object]) -> None:
        """Report the newest nonce of a server to other processes, each time that the server took a proof.

        :param report: takes origin, role, nonce, and whether the nonce is known to be good for more than one request.
            It must not wait, nor raise: it is called within the cache.
        """
        self._share = report

    def lease(
        self,
        key: NonceKey,
        *,
        wait: bool = False,
        turn: Turn | None = None,
        required: bool = False,
        serial: bool | None = None,
        may_try: bool = False,
    ) -> Lease | Turn:
        """Return a lease of the nonce for one proof, or a turn; wait for the turn, then call again with it.

        Give back every lease once, with :meth:`answered` or :meth:`release`, and a turn that you stop waiting for
        with :meth:`leave`.

        :param wait: the caller can wait for a turn.
        :param turn: the turn that an earlier call returned.
        :param required: the server refuses proofs without a nonce: only one request at a time goes without.
        :param serial: whether requests go one at a time; ``None``: find out.
        :param may_try: the request can be sent again, so that it may find out what the server accepts.
        """
        with self._lock:
            if self._busy:
                return Lease(key, None, -1, 0)
            try:
                self._busy = True
                entry, now = self._entry(key), self._clock()
                if entry.mode is not _OPEN or serial or entry.newest is None:
                    self._set_mode(entry, now, required=required, serial=serial)
                if entry.mode is not _OPEN or turn is not None:
                    turn = self._turn(entry, turn, now, wait=wait)
                    if turn is not None and not turn.granted:
                        turn.behind = None if entry.holder is None else entry.holder.thread
                        return turn
                nonce = self._choose(entry, turn, may_try=may_try)
                lease = Lease(key, nonce, self._generation, entry.epoch)
                lease.older = nonce != entry.newest
                lease.turn = turn
                return lease
            finally:
                self._busy = False

    def leave(self, key: NonceKey, turn: Turn) -> None:
        """Give up waiting for a turn."""
        with self._lock:
            if self._busy:
                return
            try:
                self._busy = True
                entry = self._entries.get(key)
                if entry is not None:
                    entry.leave(turn, self._clock())
            finally:
                self._busy = False

    def _set_mode(self, entry: _Entry, now: float, *, required: bool, serial: bool | None) -> None:
        mode = entry.mode
        if serial:
            entry.mode, entry.serial_since = _SERIAL, now
        elif mode is _OPEN:
            if required and entry.newest is None:
                entry.try_again()
        elif serial is False:
            if entry.newest is not None:
                entry.open(now)
        elif mode is _SERIAL and now - entry.serial_since > _SERIAL_SECONDS:
            entry.try_again()

    def _turn(self, entry: _Entry, turn: Turn | None, now: float, *, wait: bool) -> Turn | None:
        """Return the turn of a request, granted or not; ``None`` if the request needs none."""
        if turn is None:
            if not wait:
                return None
            turn = Turn(now)
            if entry.holder is None and not entry.queue:
                turn.granted = True
                entry.holder = turn
                return turn
            turn.queue_up()
            entry.queue.append(turn)
        elif not wait and not turn.granted:
            if entry.mode is _TRIAL:
                entry.open(now)
            entry.leave(turn, now)
            return None
        else:
            turn.looks += 1
        entry.advance(now, turn.looks)
        return turn

    def _choose(self, entry: _Entry, turn: Turn | None, *, may_try: bool) -> str | None:
        """Choose the nonce of the next proof, and remove it from the unused ones."""
        nonce = entry.newest
        if entry.mode is _OPEN or turn is None:
            if entry.pool and not entry.shared:
                nonce = next(reversed(entry.pool))
        elif entry.mode is _TRIAL and nonce is not None and (turn.waited or entry.queue):
            entry.trial_turns += 1
            if entry.trial_turns > _TRIAL_TURNS:
                entry.open(turn.begun)
            elif may_try:
                nonce = _trial_of(entry) or nonce
        if nonce is not None:
            entry.pool.pop(nonce, None)
        return nonce

    def challenged(self, lease: Lease, nonce: str, *, wait: bool = False) -> Lease | None:
        """Learn from a refusal that gave a nonce; return the lease of that nonce, for the retry.

        A server may accept each nonce only once, so no other request gets this one before the response to the retry.
        If nonces are shared, all requests use it at once.

        :param wait: the caller can wait for a turn. It gets ``None`` if requests go one at a time and another one is
            on its way: when its own turn comes, the nonce will have been replaced. Then call :meth:`lease` again.
        """
        with self._lock:
            if self._busy:
                return Lease(lease.key, nonce, -1, 0)
            try:
                self._busy = True
                entry, now = self._entry(lease.key), self._clock()
                self._judge(entry, lease, nonce, accepted=False, refused=True)
                if entry.newest is None and entry.mode is _OPEN:
                    entry.try_again()
                entry.advance(now)
                turn, lease.turn = lease.turn, None
                if entry.mode is not _OPEN and turn is not entry.holder:
                    turn = None
                if turn is None and entry.mode is not _OPEN:
                    if entry.holder is not None and wait:
                        self._learn(entry, nonce, lease)
                        return None
                    if entry.holder is None:
                        turn = entry.holder = Turn(now)
                        turn.grant(now)
                if entry.shared:
                    self._learn(entry, nonce, lease)
                entry.pool.pop(nonce, None)
                retry = Lease(lease.key, nonce, self._generation, entry.epoch)
                retry.retry, retry.reserved = True, not entry.shared
                retry.turn = turn
                return retry
            finally:
                self._busy = False

    def answered(self, lease: Lease, *, learnt: str | None, accepted: bool = False, refused: bool = False) -> None:
        """Learn from the response to a proof, and give its lease back.

        :param learnt: the nonce the response carried.
        :param accepted: the server took the proof.
        :param refused: the server asked for another nonce.
        """
        if learnt is None and lease.nonce is None and lease.turn is None:
            return  # no nonce was sent or received
        with self._lock:
            if self._busy:
                return
            try:
                self._busy = True
                entry = self._entry(lease.key)
                if lease.reserved and lease.nonce is not None and not refused:
                    self._learn(entry, lease.nonce, lease)
                    entry.pool.pop(lease.nonce, None)
                self._judge(entry, lease, learnt, accepted=accepted, refused=refused)
                if learnt is not None:
                    self._learn(entry, learnt, lease)
                elif entry.newest is None and not refused:
                    entry.open(self._clock())  # as far as is known, this server uses no nonces
                if accepted and self._share is not None and entry.newest is not None and lease.key.role is not None:
                    self._share(str(lease.key.origin), str(lease.key.role), entry.newest, entry.shared)
                self._end(entry, lease)
            finally:
                self._busy = False

    def release(self, lease: Lease) -> None:
        """Give a lease back if no response came: after an error, or if the request was cancelled."""
        if not lease.reserved and lease.turn is None:
            return
        with self._lock:
            if self._busy:
                return
            try:
                self._busy = True
                entry = self._entry(lease.key)
                if lease.reserved and lease.nonce is not None:
                    # Perhaps the server never saw the nonce. Sending it again costs no more than sending no nonce.
                    lease.reserved = False
                    self._learn(entry, lease.nonce, lease)
                    entry.pool.pop(lease.nonce, None)
                self._end(entry, lease)
            finally:
                self._busy = False

    def _end(self, entry: _Entry, lease: Lease) -> None:
        turn, lease.turn = lease.turn, None
        if turn is not None:
            entry.leave(turn, self._clock())

    def newest(self, key: NonceKey) -> str | None:
        """Return the newest nonce of a server, to look at; to send one, call :meth:`lease`."""
        entry = self._entries.get(key)
        return entry.newest if entry else None

    def learn(self, key: NonceKey, nonce: str) -> None:
        """Learn a nonce that did not come in a response to a proof of this cache."""
        with self._lock:
            if self._busy:
                return
            try:
                self._busy = True
                entry = self._entry(key)
                self._learn(entry, nonce, Lease(key, None, self._generation, entry.epoch))
            finally:
                self._busy = False

    def _entry(self, key: NonceKey) -> _Entry:
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry()
            if len(self._entries) > self._max_entries:
                _, forgotten = self._entries.popitem(last=False)
                forgotten.open(self._clock())
        else:
            self._entries.move_to_end(key)
        return entry

    def _judge(self, entry: _Entry, lease: Lease, given: str | None, *, accepted: bool, refused: bool) -> None:
        """Conclude from a response how the server treats nonces."""
        if lease.nonce is not None and lease.generation == self._generation:
            if accepted:
                self._accepted(entry, lease, lease.nonce)
            elif refused:
                self._refused(entry, lease, lease.nonce, given)

    def _accepted(self, entry: _Entry, lease: Lease, nonce: str) -> None:
        if nonce in entry.accepted:
            entry.shared = True
            entry.suspects.clear()
            entry.uses = entry.uses + 1 if nonce == entry.reused else 2
            entry.reused = nonce
            if not entry.strict or entry.uses >= _USES_NEEDED:
                entry.open(self._clock())
        else:
            _remember(entry.accepted, nonce, self._clock(), _HISTORY_SIZE)
            if lease.older:
                entry.open(self._clock())

    def _refused(self, entry: _Entry, lease: Lease, nonce: str, given: str | None) -> None:
        accepted_at = entry.accepted.get(nonce)
        if accepted_at is None:
            # The nonce was never accepted, so it was too old; so are the older ones in the pool.
            epoch = entry.known.get(nonce, 0)
            for older in [n for n in entry.pool if entry.known.get(n, 0) < epoch]:
                del entry.pool[older]
        elif self._clock() - accepted_at <= _SUSPICIOUS_SECONDS:
            entry.suspects.add(nonce)
            if len(entry.suspects) >= _SUSPECTS_NEEDED:
                entry.shared = False
                entry.suspects.clear()
        self._find_out(entry, lease, given, was_accepted=accepted_at is not None)

    def _find_out(self, entry: _Entry, lease: Lease, given: str | None, *, was_accepted: bool) -> None:
        """Conclude from a refusal whether the server accepts only its newest nonce."""
        if entry.mode is _TRIAL and lease.turn is not None:
            only_newest = lease.older and entry.reuses_refused > 0
            if was_accepted:
                entry.reuses_refused += 1
                # The server gave the same nonce again: it knows one nonce at a time.
                only_newest = given == entry.newest or entry.reuses_refused > 1
            if only_newest:
                entry.mode, entry.serial_since = _SERIAL, self._clock()
        elif entry.mode is _OPEN and lease.retry:
            # Other requests used up the nonce of this retry: the server accepts each nonce a few times only.
            entry.mode, entry.serial_since, entry.strict = _SERIAL, self._clock(), True
        elif entry.mode is _OPEN and not was_accepted and not lease.older and lease.epoch < entry.epoch:
            # The nonce was the newest when it was sent, and another response replaced it meanwhile.
            entry.overtaken += 1
            if entry.overtaken >= _OVERTAKEN_NEEDED:
                if entry.slow:  # another trial would end without a result, like the last one
                    entry.mode, entry.serial_since = _SERIAL, self._clock()
                else:
                    entry.try_again()

    def _learn(self, entry: _Entry, nonce: str, lease: Lease) -> None:
        known = entry.known.get(nonce)
        if nonce != entry.newest:
            if known is not None and lease.epoch < entry.epoch:
                # A known nonce in the response to a request sent before the newest came: late, not new.
                return
            if entry.newest is None and entry.mode is _OPEN:
                entry.try_again()
            entry.newest = nonce
            entry.epoch += 1
            _remember(entry.known, nonce, entry.epoch, _HISTORY_SIZE)
        if known is None:
            _remember(entry.pool, nonce, None, _POOL_SIZE)

    def _reset_after_fork(self) -> None:
        """In a forked child: forget the parent's locks, turns and leases, and every nonce that both could send.

        A nonce of a single-use server may be in the parent's hands too, so only a shared one is kept.
        """
        self._lock = threading.RLock()
        self._busy = False
        self._generation += 1
        for entry in self._entries.values():
            entry.pool.clear()
            entry.queue.clear()
            entry.holder = None
            if not entry.shared:
                entry.newest = None
                if entry.mode is _OPEN:
                    entry.try_again()


def _trial_of(entry: _Entry) -> str | None:
    """Return the nonce for a trial: an accepted one; once such a nonce was refused, an older one that was never sent.

    A trial with an accepted nonce does not use up the newest one, so that the next trial has an older, unused nonce.
    """
    older = (nonce for nonce in reversed(entry.pool) if nonce != entry.newest)
    return (next(older, None) if entry.reuses_refused else None) or next(reversed(entry.accepted), None)


def _remember(memory: OrderedDict[str, _T], name: str, value: _T, limit: int) -> None:
    memory[name] = value
    memory.move_to_end(name)
    if len(memory) > limit:
        memory.popitem(last=False)
