# SPDX-License-Identifier: Apache-2.0
"""Replay caches in Redis. One command checks and writes, so that no other process can act in between."""

from __future__ import annotations

import inspect
import logging
import math
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import redis
import redis.asyncio

from dpop.errors import ArgumentTypeError, ReplayCacheError, UsageError
from dpop.redis._errors import REDIS_ERRORS, is_down, unusable
from dpop.server import AsyncReplayCache, ReplayCache

__all__ = ["AsyncRedisReplayCache", "RedisReplayCache"]

_log = logging.getLogger("dpop.server")

_CHECK_MS = 1000
_CLUSTERS = (redis.RedisCluster, redis.asyncio.RedisCluster)
# Unbound requests are counted in slots of this many seconds. By default, a verifier remembers a proof as long.
_UNBOUND_SLOT = 120
_MAX_CLOCK_STEP = 60.0
_ACKNOWLEDGE_WITHIN = 0.25


class _Marks:
    """The common base of both caches: the entry, the reading of the reply, and the behaviour in an outage."""

    def __init__(
        self,
        client: object,
        kinds: tuple[type, ...],
        when_down: Literal["refuse", "accept"] | ReplayCache | AsyncReplayCache,
        prefix: str,
        *,
        max_unbound: int,
        acknowledged_by: int,
        acknowledge_within: float,
        max_clock_step: float,
        clock: Callable[[], float],
    ) -> None:
        if max_unbound < 1:
            raise UsageError(f"max_unbound must be 1 or more, not {max_unbound}")
        if acknowledged_by < 0 or not 0.001 <= acknowledge_within < math.inf or not 0 <= max_clock_step < math.inf:
            raise UsageError(
                "acknowledged_by must be 0 or more, acknowledge_within 0.001 s or more, max_clock_step 0 s or more; "
                f"got {acknowledged_by}, {acknowledge_within} and {max_clock_step}"
            )
        if not isinstance(client, kinds):
            module = kinds[0].__module__.removesuffix(".client")
            raise ArgumentTypeError("client", " or ".join(f"a {module}.{kind.__name__}" for kind in kinds), client)
        if isinstance(when_down, str) and when_down not in {"refuse", "accept"}:
            raise UsageError(f'when_down must be "refuse", "accept" or another replay cache, not {when_down!r}')
        if acknowledged_by and (when_down != "refuse" or isinstance(client, _CLUSTERS)):
            raise UsageError(
                'acknowledged_by is for when_down="refuse", because a proof that no replica has is refused, and for a'
                " client that is no cluster"
            )
        self._when_down = when_down
        self._prefix = prefix
        self._clock = clock
        self._max_unbound = max_unbound
        self._acknowledged_by = acknowledged_by
        self._acknowledge_ms = math.ceil(acknowledge_within * 1000)
        self._clock_step_ms = math.ceil(max_clock_step * 1000)
        self._was_down = False

    def __repr__(self) -> str:
        choice = self._when_down if isinstance(self._when_down, str) else repr(self._when_down)
        return f"<{type(self).__name__} {self._prefix}*, when down: {choice}>"

    def _mark(self, key: str, expires_at: float) -> tuple[str, str, int] | None:
        """Return the name, the value and the lifetime in milliseconds of an entry; None if the proof has expired.

        The value is random for each call. A Redis client repeats a command whose reply was lost. It must then recognise
        its own entry, because otherwise the proof of an honest client would be refused as a replay.

        The lifetime is a duration and not a point in time, because the clock of Redis may differ from ours. It is
        longer than the proof's: if a clock is set, the proof may become valid again, or Redis drop the entry early.
        """
        left = math.ceil((expires_at - self._clock()) * 1000)
        if left <= 0:
            return None
        return self._prefix + key, secrets.token_urlsafe(9), left + self._clock_step_ms

    def _is_ours(self, before: object, mine: str) -> bool:
        """Whether the entry that was there is of this call: the reply to an earlier try of the client was lost."""
        return before in (mine, mine.encode())

    def _queue(self, pipeline: Any, name: str, life: int, mine: str | None) -> None:
        """Queue the commands that make an entry, or extend one, and wait for its replicas.

        WAIT knows only what its own connection wrote. So an entry of an earlier try, whose connection is gone, must be
        written to once more.
        """
        if mine is None:
            pipeline.pexpire(name, life)
        else:
            pipeline.set(name, mine, px=life, nx=True, get=True)
        pipeline.wait(self._acknowledged_by, self._acknowledge_ms)

    def _for_check(self) -> tuple[str, str, int]:
        return f"{self._prefix}check:{secrets.token_urlsafe(9)}", "check", _CHECK_MS

    def _refuse_unacknowledged(self, before: object, mine: str, replicas: int) -> None:
        """Refuse a new entry that too few replicas have.

        :raises ReplayCacheError: as said; the client may try again with a new proof.
        """
        if replicas < self._acknowledged_by and (before is None or self._is_ours(before, mine)):
            raise ReplayCacheError(
                f"{replicas} replicas of Redis have the entry, and {self._acknowledged_by} must have it within "
                f"{self._acknowledge_ms} ms: look at the replicas",
                retry_after=1,
            )

    def _counter(self) -> str:
        """Return the name of the counter of unbound requests in this time slot."""
        return f"{self._prefix}unbound:{math.floor(self._clock() / _UNBOUND_SLOT)}"

    def _refuse_more(self, counted: int) -> None:
        if counted > self._max_unbound:
            raise ReplayCacheError(
                f"more than {self._max_unbound} token requests without a bound key arrived within {_UNBOUND_SLOT} s; "
                "authenticate clients first (check_token_request), or raise max_unbound",
                retry_after=_UNBOUND_SLOT - self._clock() % _UNBOUND_SLOT,
            )

    def _is_new(self, before: object, mine: str) -> bool:
        """Return whether the entry is new, judged by the previous value that Redis returned."""
        if self._was_down:
            self._was_down = False
            _log.warning("Redis can be reached again: the replay cache remembers proofs again")
        return before is None or self._is_ours(before, mine)

    def _continue_without_redis(self, error: Exception) -> None:
        """Return if the operator chose to continue without Redis; otherwise raise the error.

        :raises ReplayCacheError: the operator chose to refuse, or Redis responds but cannot do the command: an
            attacker who fills Redis must not switch off the protection.
        """
        if self._when_down == "refuse" or not is_down(error):
            raise unusable(error) from error
        if not self._was_down:
            self._was_down = True
            instead = "are accepted without it" if self._when_down == "accept" else "are remembered in the other cache"
            _log.warning("Redis cannot be reached; until it can, proofs %s: %s", instead, error)


class RedisReplayCache(_Marks):
    """A replay cache, or a store of used nonces, for several processes and hosts.

    Set ``maxmemory`` and the policy ``noeviction`` in Redis, so that Redis refuses entries for which it has no memory.
    An entry takes about 200 bytes.

    After a failover, proofs that had not reached the replica yet can be used again, unless ``acknowledged_by`` is set.

    :param client: a client with timeouts, such as ``socket_timeout=0.5``; its retries are safe. A
        ``RedisCluster`` is accepted, too, and so is the client of ``Sentinel.master_for``.
    :param when_down: how to treat proofs while Redis cannot be reached. ``"refuse"`` raises ReplayCacheError, so
        that clients get a 503. ``"accept"`` also accepts proofs that were used before, as long as they are valid.
        Another cache, such as a MemoryReplayCache, takes the place of Redis: each process then accepts a proof
        once, even if it was used before.
    :param prefix: the prefix of the names in Redis. Of all servers with the same prefix, one accepts a proof.
    :param max_unbound: the maximum number of token requests without a bound key that are accepted in two minutes.
        Any stranger can send such requests, with any number of keys.
    :param acknowledged_by: replicas that must have an entry before its proof is accepted (``WAIT``). With the number of
        all replicas, no failover lets a proof pass again, and a replica that is down refuses everything. With fewer,
        one that lacks the last proofs may be promoted only if those that have them are unreachable. Only with
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
        acknowledge_within: float = _ACKNOWLEDGE_WITHIN,
        max_clock_step: float = _MAX_CLOCK_STEP,
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
        if not isinstance(when_down, str) and inspect.iscoroutinefunction(when_down.add):
            raise UsageError("when_down is an async cache: use AsyncRedisReplayCache")
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
        return self._is_new(before, mark[1])

    def add_unbound(self, key: str, expires_at: float) -> bool:
        """Add the proof of a token request that is bound to no key; see ``max_unbound``.

        :raises ReplayCacheError: there were too many of them; or as for :meth:`add`.
        """
        name = self._counter()
        try:
            with self._client.pipeline() as pipeline:
                pipeline.incr(name)
                pipeline.expire(name, 2 * _UNBOUND_SLOT)
                counted = pipeline.execute()[0]
        except REDIS_ERRORS as error:
            self._continue_without_redis(error)
            return True if self._fallback is None else _add_unbound_of(self._fallback)(key, expires_at)
        self._refuse_more(counted)
        return self.add(key, expires_at)

    def check(self) -> None:
        """Check, when a server starts, that Redis can serve as a replay cache.

        :raises ReplayCacheError: Redis cannot be reached, whatever ``when_down`` says; it cannot do the command;
            it has too few replicas; or its policy lets it drop entries before they expire.
        """
        try:
            self._set(*self._for_check())
            _refuse_eviction(self._client.info("memory", **_all_primaries(self._client)))
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
                replicas = pipeline.execute()[-1]
        self._refuse_unacknowledged(before, mine, replicas)
        return before


class AsyncRedisReplayCache(_Marks):
    """A :class:`RedisReplayCache` for a client of ``redis.asyncio`` and the async methods of a verifier.

    The other parameters are those of :class:`RedisReplayCache`.

    :param client: a client of ``redis.asyncio``.
    :param when_down: as for :class:`RedisReplayCache`; the other cache may be sync or async.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis | redis.asyncio.RedisCluster,
        *,
        when_down: Literal["refuse", "accept"] | ReplayCache | AsyncReplayCache,
        prefix: str = "dpop:once:",
        max_unbound: int = 100_000,
        acknowledged_by: int = 0,
        acknowledge_within: float = _ACKNOWLEDGE_WITHIN,
        max_clock_step: float = _MAX_CLOCK_STEP,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(
            client,
            (redis.asyncio.Redis, redis.asyncio.RedisCluster),
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

    async def add(self, key: str, expires_at: float) -> bool:
        """Async form of :meth:`RedisReplayCache.add`."""
        mark = self._mark(key, expires_at)
        if mark is None:
            return False
        try:
            before = await self._set(*mark)
        except REDIS_ERRORS as error:
            self._continue_without_redis(error)
            added = True if self._fallback is None else self._fallback.add(key, expires_at)
            return await added if inspect.isawaitable(added) else added
        return self._is_new(before, mark[1])

    async def add_unbound(self, key: str, expires_at: float) -> bool:
        """Async form of :meth:`RedisReplayCache.add_unbound`."""
        name = self._counter()
        try:
            async with self._client.pipeline() as pipeline:
                pipeline.incr(name)
                pipeline.expire(name, 2 * _UNBOUND_SLOT)
                counted = (await pipeline.execute())[0]
        except REDIS_ERRORS as error:
            self._continue_without_redis(error)
            added = True if self._fallback is None else _add_unbound_of(self._fallback)(key, expires_at)
            return await added if inspect.isawaitable(added) else added
        self._refuse_more(counted)
        return await self.add(key, expires_at)

    async def check(self) -> None:
        """Async form of :meth:`RedisReplayCache.check`."""
        try:
            await self._set(*self._for_check())
            _refuse_eviction(await self._client.info("memory", **_all_primaries(self._client)))
        except REDIS_ERRORS as error:
            raise unusable(error) from error

    async def _set(self, name: str, mine: str, life: int) -> object:
        """Make an entry unless there is one; return the previous value."""
        if not self._acknowledged_by:
            return await self._client.set(name, mine, px=life, nx=True, get=True)
        async with self._client.pipeline(transaction=False) as pipeline:
            self._queue(pipeline, name, life, mine)
            before, replicas = await pipeline.execute()
            if self._is_ours(before, mine):
                self._queue(pipeline, name, life, None)
                replicas = (await pipeline.execute())[-1]
        self._refuse_unacknowledged(before, mine, replicas)
        return before


def _add_unbound_of(cache: ReplayCache | AsyncReplayCache) -> Callable[[str, float], Any]:
    add: Callable[[str, float], Any] = getattr(cache, "add_unbound", cache.add)
    return add


def _all_primaries(client: object) -> dict[str, Any]:
    """Return the argument that sends a command to every node of a cluster that takes entries."""
    if isinstance(client, redis.RedisCluster | redis.asyncio.RedisCluster):
        return {"target_nodes": type(client).PRIMARIES}
    return {}


def _refuse_eviction(memory: Mapping[str, Any]) -> None:
    nodes = [each for each in memory.values() if isinstance(each, Mapping)]
    for node in nodes:  # of a cluster
        _refuse_eviction(node)
    policy = memory.get("maxmemory_policy", "noeviction")
    if memory.get("maxmemory", 0) and policy != "noeviction":
        raise ReplayCacheError(
            f"Redis has maxmemory-policy {policy}: if it is full, it drops valid proofs, which could then be "
            "used again; set the policy to noeviction, or use a separate Redis"
        )
