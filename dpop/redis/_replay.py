# SPDX-License-Identifier: Apache-2.0
"""Replay caches in Redis: one command for each question, so that nobody comes between it and the answer."""

from __future__ import annotations

import inspect
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import redis
import redis.asyncio

from dpop.errors import ArgumentTypeError, ReplayCacheError, UsageError
from dpop.redis._errors import is_down, unusable
from dpop.server._replay import AsyncReplayCache, ReplayCache

__all__ = ["AsyncRedisReplayCache", "RedisReplayCache"]

_log = logging.getLogger("dpop.server")

# Of a proof that could not have been accepted any more; Redis wants a life above zero.
_SHORTEST_MS = 1000


class _Marks:
    """What both caches share: the command, the meaning of its answer, and the choice for when there is none."""

    def __init__(
        self,
        client: object,
        kind: type,
        when_down: Literal["refuse", "accept"] | ReplayCache | AsyncReplayCache,
        prefix: str,
        clock: Callable[[], float],
    ) -> None:
        if not isinstance(client, kind):
            raise ArgumentTypeError("client", f"a {kind.__module__.removesuffix('.client')}.{kind.__name__}", client)
        if isinstance(when_down, str) and when_down not in {"refuse", "accept"}:
            raise UsageError(f'when_down must be "refuse", "accept" or another replay cache, not {when_down!r}')
        self._when_down = when_down
        self._prefix = prefix
        self._clock = clock
        self._was_down = False

    def __repr__(self) -> str:
        choice = self._when_down if isinstance(self._when_down, str) else repr(self._when_down)
        return f"<{type(self).__name__} {self._prefix}*, when down: {choice}>"

    def _mark(self, key: str, expires_at: float) -> tuple[str, str, int]:
        """Name, value and life in milliseconds of an entry.

        The value is this call's alone. A client whose answer got lost asks again by itself, and must not
        take its own mark for another's: the proof of an honest client would be refused as a replay.

        The life is counted from now, not to a time of day: only its length must be the same on Redis's clock.
        """
        life = max(round((expires_at - self._clock()) * 1000), _SHORTEST_MS)
        return self._prefix + key, secrets.token_urlsafe(9), life

    def _is_new(self, before: object, mine: str) -> bool:
        """Whether the entry was not there before this call, by what Redis says was there."""
        if self._was_down:
            self._was_down = False
            _log.warning("Redis answers again: proofs are remembered in the replay cache")
        return before is None or before in (mine, mine.encode())

    def _do_without(self, error: redis.RedisError) -> None:
        """Return if the operator chose something else than to refuse.

        :raises ReplayCacheError: to refuse. So it is, whatever the choice, where Redis does answer and cannot do
            what it is asked: whoever can fill it must not thereby switch off the protection.
        """
        if self._when_down == "refuse" or not is_down(error):
            raise unusable(error) from error
        if not self._was_down:
            self._was_down = True
            told = "are accepted without it" if self._when_down == "accept" else "are remembered elsewhere"
            _log.warning("Redis cannot be reached, proofs %s until it answers: %s", told, error)


class RedisReplayCache(_Marks):
    """A replay cache, or the store of used nonces, that any number of processes and hosts share.

    Bounds are Redis's own: give it a ``maxmemory`` with the policy ``noeviction``, and it refuses what it
    cannot keep. An entry takes some 200 octets there.

    What it does not protect from: a failover to a replica that had not yet heard of the last proofs.

    :param client: with timeouts, such as ``socket_timeout=0.5``; its retries are safe.
    :param when_down: what to do with a proof while Redis cannot be reached. ``"refuse"`` raises
        ReplayCacheError, so that clients get a 503. ``"accept"`` lets proofs pass that were used before, for
        as long as they are valid. Another cache, such as a MemoryReplayCache, is asked instead: a proof
        then passes once in each process, and may have passed before.
    :param prefix: of the names in Redis. Servers that share it accept each proof once between them.
    :param clock: Unix seconds; give the cache and its verifier the same one.
    :raises ArgumentTypeError: not a client of this kind.
    :raises UsageError: another word in ``when_down``.
    """

    def __init__(
        self,
        client: redis.Redis,
        *,
        when_down: Literal["refuse", "accept"] | ReplayCache,
        prefix: str = "dpop:once:",
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(client, redis.Redis, when_down, prefix, clock)
        if not isinstance(when_down, str) and inspect.iscoroutinefunction(when_down.add):
            raise UsageError("when_down is a cache that must be awaited: use AsyncRedisReplayCache")
        self._client = client
        self._instead = None if isinstance(when_down, str) else when_down

    def add(self, key: str, expires_at: float) -> bool:
        """Remember ``key`` until ``expires_at``; True if it is new (see :class:`dpop.server.ReplayCache`).

        :raises ReplayCacheError: Redis cannot be reached and ``when_down`` is ``"refuse"``; or it answers
            and cannot do this: it is full, it wants a password, it is older than 7.0.
        """
        name, mine, life = self._mark(key, expires_at)
        try:
            before = self._client.set(name, mine, px=life, nx=True, get=True)
        except redis.RedisError as error:
            self._do_without(error)
            return True if self._instead is None else self._instead.add(key, expires_at)
        return self._is_new(before, mine)

    def check(self) -> None:
        """Ask Redis once, at the start of a server, whether it will keep what it is told.

        :raises ReplayCacheError: it cannot be reached, whatever ``when_down`` says; it cannot do the command;
            or it may throw out entries before their time.
        """
        name, mine, life = self._mark("check", 0)
        try:
            self._client.set(name, mine, px=life, nx=True, get=True)
            _refuse_eviction(self._client.info("memory"))
        except redis.RedisError as error:
            raise unusable(error) from error


class AsyncRedisReplayCache(_Marks):
    """As :class:`RedisReplayCache`, with a client of ``redis.asyncio``; for the async methods of a verifier.

    :param when_down: the other cache may be one that is awaited, or one that answers at once.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        *,
        when_down: Literal["refuse", "accept"] | ReplayCache | AsyncReplayCache,
        prefix: str = "dpop:once:",
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(client, redis.asyncio.Redis, when_down, prefix, clock)
        self._client = client
        self._instead = None if isinstance(when_down, str) else when_down

    async def add(self, key: str, expires_at: float) -> bool:
        """As :meth:`RedisReplayCache.add`."""
        name, mine, life = self._mark(key, expires_at)
        try:
            before = await self._client.set(name, mine, px=life, nx=True, get=True)
        except redis.RedisError as error:
            self._do_without(error)
            added = True if self._instead is None else self._instead.add(key, expires_at)
            return await added if inspect.isawaitable(added) else added
        return self._is_new(before, mine)

    async def check(self) -> None:
        """As :meth:`RedisReplayCache.check`."""
        name, mine, life = self._mark("check", 0)
        try:
            await self._client.set(name, mine, px=life, nx=True, get=True)
            _refuse_eviction(await self._client.info("memory"))
        except redis.RedisError as error:
            raise unusable(error) from error


def _refuse_eviction(memory: Mapping[str, Any]) -> None:
    policy = memory.get("maxmemory_policy", "noeviction")
    if memory.get("maxmemory", 0) and policy != "noeviction":
        raise ReplayCacheError(
            f"Redis has maxmemory-policy {policy}: full, it would forget proofs that are still valid, and accept "
            "them again; set it to noeviction, or use a Redis of its own"
        )
