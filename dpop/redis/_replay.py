# SPDX-License-Identifier: Apache-2.0
"""Replay cache in Redis for threads. One command checks and writes, so that no other process can act in between.

The module for tasks is :mod:`dpop.redis._async_replay`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

import redis

from dpop.redis._errors import REDIS_ERRORS, unusable
from dpop.redis._replay_base import (
    ACKNOWLEDGE_WITHIN,
    MAX_CLOCK_STEP,
    UNBOUND_SLOT,
    ReplayMarks,
    add_unbound_of,
    all_primaries,
    refuse_eviction,
)
from dpop.server import ReplayCache

__all__ = ["RedisReplayCache"]


class RedisReplayCache(ReplayMarks):
    """A replay cache, or a store of used nonces, for several processes and hosts.

    Set ``maxmemory`` and the policy ``noeviction`` in Redis, so that Redis refuses entries for which it has no memory.
    An entry takes about 200 bytes.

    After a failover, proofs that had not reached the replica yet can be used again, unless ``acknowledged_by`` is set.

    :param client: a client with timeouts, such as ``socket_timeout=0.5``; its retries are safe. A
        ``RedisCluster`` is accepted, too, and so is the client of ``Sentinel.master_for``.
    :param when_down: how to treat proofs while Redis cannot be reached. ``"refuse"`` raises ReplayCacheError, so
        that clients get a 503. ``"accept"`` also accepts proofs that were used before, as long as they are valid.
        Another cache, such as a MemoryReplayCache, takes the place of Redis: each process then accepts
        a proof once, even if it was used before.
    :param prefix: the prefix of the names in Redis. All servers with the same prefix together accept a proof once.
    :param max_unbound: the maximum number of token requests without a bound key that are accepted in two minutes.
        Any stranger can send such requests, with any number of keys.
    :param acknowledged_by: replicas that must have an entry before its proof is accepted (``WAIT``). With the number of
        all replicas, no failover lets a proof pass again, but all proofs are refused while a replica is down. With
        fewer, one that lacks the last proofs may be promoted only if those that have them are unreachable. Only with
        ``when_down="refuse"``, and not for a ``RedisCluster``.
    :param acknowledge_within: seconds that the replicas have for that; less than the ``socket_timeout`` of the client.
    :param max_clock_step: seconds by which the clock of a server may be set back, or that of Redis forward, without a
        proof passing again. Entries stay as much longer.
    :param clock: a function that returns Unix seconds; use the same one for the cache and its verifier.
    :raises ArgumentTypeError: ``client`` is not a Redis client of this kind.
    :raises UsageError: ``when_down`` has another value.
    """

    def __init__(
        self,
        client: redis.Redis | redis.RedisCluster,
        *,
        when_down: Literal["refuse", "accept"] | ReplayCache,
        prefix: str = "dpop:once:",
        max_unbound: int = 100_000,
        acknowledged_by: int = 0,
        acknowledge_within: float = ACKNOWLEDGE_WITHIN,
        max_clock_step: float = MAX_CLOCK_STEP,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(
            client,
            (redis.Redis, redis.RedisCluster),
            when_down,
            prefix,
            max_unbound=max_unbound,
            acknowledged_by=acknowledged_by,
            acknowledge_within=acknowledge_within,
            max_clock_step=max_clock_step,
            clock=clock,
        )
        self._client = client
        self._fallback = None if isinstance(when_down, str) else when_down

    def add(self, key: str, expires_at: float) -> bool:
        """Remember ``key`` until ``expires_at``; True if it is new (see :class:`dpop.server.ReplayCache`).

        :raises ReplayCacheError: Redis cannot be reached and ``when_down`` is ``"refuse"``; or Redis can be
            reached but cannot do the command: it is full, requires a password, or is older than 7.0.
        """
        mark = self._mark(key, expires_at)
        if mark is None:
            return False
        try:
            before = self._set(*mark)
        except REDIS_ERRORS as error:
            self._continue_without_redis(error)
            return True if self._fallback is None else self._fallback.add(key, expires_at)
        except BaseException:
            self._interrupted()
            raise
        return self._is_new(before, mark[1])

    def add_unbound(self, key: str, expires_at: float) -> bool:
        """Add the proof of a token request that is bound to no key; see ``max_unbound``.

        :raises ReplayCacheError: there were too many of them; or as for :meth:`add`.
        """
        name = self._counter()
        try:
            with self._client.pipeline() as pipeline:
                pipeline.incr(name)
                pipeline.expire(name, 2 * UNBOUND_SLOT)
                counted, _ = pipeline.execute()
        except REDIS_ERRORS as error:
            self._continue_without_redis(error)
            return True if self._fallback is None else add_unbound_of(self._fallback)(key, expires_at)
        except BaseException:
            self._interrupted()
            raise
        self._refuse_more(counted)
        return self.add(key, expires_at)

    def check(self) -> None:
        """Check, when a server starts, that Redis can serve as a replay cache.

        :raises ReplayCacheError: Redis cannot be reached, whatever ``when_down`` says; it cannot do the command;
            it has too few replicas; or its policy lets it drop entries before they expire.
        """
        try:
            self._set(*self._for_check())
            refuse_eviction(self._client.info("memory", **all_primaries(self._client)))
        except REDIS_ERRORS as error:
            raise unusable(error) from error

    def _set(self, name: str, mine: str, life: int) -> object:
        """Make an entry unless there is one; return the previous value."""
        if not self._acknowledged_by:
            return self._client.set(name, mine, px=life, nx=True, get=True)
        with self._client.pipeline(transaction=False) as pipeline:
            self._queue(pipeline, name, life, mine)
            before, replicas = pipeline.execute()
            if self._is_ours(before, mine):
                self._queue(pipeline, name, life, None)
                _, replicas = pipeline.execute()
        self._refuse_unacknowledged(before, mine, replicas)
        return before
