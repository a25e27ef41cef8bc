# SPDX-License-Identifier: Apache-2.0
"""Base of the replay caches for threads and for tasks: the entry, its reading, and the behaviour in an outage."""

from __future__ import annotations

import inspect
import logging
import math
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

import redis
import redis.asyncio

from dpop.errors import ArgumentTypeError, ReplayCacheError, UsageError
from dpop.redis._errors import close_idle_connections, is_down, is_from_redis, unusable
from dpop.server import AsyncReplayCache, ReplayCache

__all__ = [
    "ACKNOWLEDGE_WITHIN",
    "MAX_CLOCK_STEP",
    "UNBOUND_SLOT",
    "ReplayMarks",
    "add_unbound_of",
    "all_primaries",
    "awaited",
    "refuse_eviction",
]

_log = logging.getLogger("dpop.server")

_CHECK_MS = 1000
_CLUSTERS = (redis.RedisCluster, redis.asyncio.RedisCluster)
# Unbound requests are counted in slots of this many seconds. By default, a verifier remembers a proof as long.
UNBOUND_SLOT = 120
MAX_CLOCK_STEP = 60.0
ACKNOWLEDGE_WITHIN = 0.25


class ReplayMarks:
    """The base of both caches; they add how a command is sent."""

    _client: Any

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
        if redis.Redis in kinds and not isinstance(when_down, str) and inspect.iscoroutinefunction(when_down.add):
            raise UsageError("when_down is an async cache: use AsyncRedisReplayCache")
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
        """Whether this call made the entry that was there, in an earlier try whose reply was lost."""
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

    def _interrupted(self) -> None:
        close_idle_connections(self._client)

    def _for_check(self) -> tuple[str, str, int]:
        return f"{self._prefix}check:{secrets.token_urlsafe(9)}", "check", _CHECK_MS

    def _refuse_unacknowledged(self, before: object, mine: str, replicas: int) -> None:
        """Refuse a new entry that too few replicas have.

        :raises ReplayCacheError: too few have it; the client may try again with a new proof.
        """
        if replicas < self._acknowledged_by and (before is None or self._is_ours(before, mine)):
            raise ReplayCacheError(
                f"{replicas} replicas of Redis have the entry, and {self._acknowledged_by} must have it within "
                f"{self._acknowledge_ms} ms: look at the replicas",
                retry_after=1,
            )

    def _counter(self) -> str:
        """Return the name of the counter of unbound requests in this time slot."""
        return f"{self._prefix}unbound:{math.floor(self._clock() / UNBOUND_SLOT)}"

    def _refuse_more(self, counted: int) -> None:
        if counted > self._max_unbound:
            raise ReplayCacheError(
                f"more than {self._max_unbound} token requests without a bound key arrived within {UNBOUND_SLOT} s; "
                "authenticate clients first (check_token_request), or raise max_unbound",
                retry_after=UNBOUND_SLOT - self._clock() % UNBOUND_SLOT,
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
        if not is_from_redis(error):
            self._interrupted()
        if self._when_down == "refuse" or not is_down(error):
            raise unusable(error) from error
        if not self._was_down:
            self._was_down = True
            instead = "are accepted without it" if self._when_down == "accept" else "are remembered in the other cache"
            _log.warning("Redis cannot be reached; until it can, proofs %s: %s", instead, error)


def add_unbound_of(cache: ReplayCache | AsyncReplayCache) -> Callable[[str, float], Any]:
    """Return what a cache does with a proof that is bound to no key."""
    add: Callable[[str, float], Any] = getattr(cache, "add_unbound", cache.add)
    return add


def all_primaries(client: object) -> dict[str, Any]:
    """Return the argument that sends a command to every node of a cluster that takes entries."""
    if isinstance(client, redis.RedisCluster | redis.asyncio.RedisCluster):
        return {"target_nodes": type(client).PRIMARIES}
    return {}


def refuse_eviction(memory: Mapping[str, Any]) -> None:
    """Check what Redis says of its memory.

    :raises ReplayCacheError: its policy lets it drop entries before they expire.
    """
    nodes = [each for each in memory.values() if isinstance(each, Mapping)]
    for node in nodes:  # of a cluster
        refuse_eviction(node)
    policy = memory.get("maxmemory_policy", "noeviction")
    if memory.get("maxmemory", 0) and policy != "noeviction":
        raise ReplayCacheError(
            f"Redis has maxmemory-policy {policy}: if it is full, it drops valid proofs, which could then be "
            "used again; set the policy to noeviction, or use a separate Redis"
        )


async def awaited(added: bool | Awaitable[bool]) -> bool:
    """Return the result of another cache, which may be sync or async."""
    return await added if inspect.isawaitable(added) else added
