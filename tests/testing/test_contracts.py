# SPDX-License-Identifier: Apache-2.0
"""The contract of replay caches: it holds for those of this package and of the guide, and finds what is wrong."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from functools import partial
from typing import Any

import psycopg
import pytest
import redis
import redis.asyncio
from support.paths import DOCS
from support.postgres_server import running_postgres
from support.redis_server import running_cluster

from dpop.errors import ReplayCacheError
from dpop.redis import AsyncRedisReplayCache, RedisReplayCache
from dpop.server import MemoryReplayCache
from dpop.testing import check_replay_cache


def test_the_cache_in_memory() -> None:
    """One object for all threads of a process."""
    cache = MemoryReplayCache()
    check_replay_cache(lambda: cache)


def test_the_cache_in_redis(redis_url: str) -> None:
    """A connection for each caller."""
    client = redis.Redis.from_url(redis_url)
    check_replay_cache(lambda: RedisReplayCache(client, when_down="refuse"))
    client.close()


def test_the_cache_in_a_cluster() -> None:
    """A cluster keeps the contract too, for both kinds of clients."""
    with running_cluster() as port:
        cluster = redis.RedisCluster(host="127.0.0.1", port=port)
        cache = RedisReplayCache(cluster, when_down="refuse")
        cache.check()
        check_replay_cache(lambda: cache, rounds=5)

        async def twice() -> list[bool]:
            client = redis.asyncio.RedisCluster(host="127.0.0.1", port=port)
            async with client:
                shared = AsyncRedisReplayCache(client, when_down="refuse")
                await shared.check()
                add, later = shared.add_unbound, time.time() + 60
                return [await add("owner.key", later), await add("owner.key", later), await shared.add("o.k", later)]

        assert asyncio.run(twice()) == [True, False, True]
        cluster.config_set("maxmemory", "10mb")
        cluster.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(ReplayCacheError, match="allkeys-lru"):
            cache.check()
        cluster.close()


def test_the_cache_of_the_guide_on_postgresql() -> None:
    """It takes each key once, whoever asks at the same moment, and refuses while the server is down."""
    text = (DOCS / "servers.md").read_text("utf-8")
    (block,) = re.findall(r"^```python\n(# PostgreSQL: .*?)^```$", text, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    exec(compile(block, "servers.md", "exec"), names)
    with running_postgres() as where:
        with psycopg.connect(where) as connection:
            connection.execute(block.partition("\n")[0].removeprefix("# PostgreSQL: "))
        make = partial(names["PostgresReplayCache"], partial(psycopg.connect, where))
        check_replay_cache(make, threads=8, rounds=3)
        with psycopg.connect(where) as connection:
            (clean,) = re.findall(r"`(DELETE FROM proofs[^`]*)`", text)
            connection.execute(clean)
        cache = make()
    with pytest.raises(ReplayCacheError, match="cannot be asked"):
        cache.add("owner.key", time.time() + 60)


class Wrong:
    """A cache with one fault."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.seen: dict[str, float] = {}
        self.lock = threading.Lock()

    def add(self, key: str, expires_at: float) -> Any:
        """Remember a key, wrongly."""
        if self.fault == "folds case":
            key = key.lower()
        if self.fault == "cuts":
            key = key[:60]
        if self.fault == "forgets the owner":
            key = key.partition(".")[2]
        if self.fault == "two steps":
            new = key not in self.seen
            time.sleep(0.001)
            self.seen[key] = expires_at
            return new
        with self.lock:
            known = self.seen.get(key)
            new = known is None or (self.fault == "compares expiry" and expires_at > known)
            if not new and self.fault == "short" and expires_at < time.time() + 10:
                return True
            self.seen[key] = expires_at
        if self.fault == "None":
            return True if new else None
        return not new if self.fault == "reversed" else new


FAULTS = [
    "folds case",
    "cuts",
    "forgets the owner",
    "two steps",
    "compares expiry",
    "short",
    "None",
    "reversed",
    "separate",
]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_cache_with_a_fault(fault: str) -> None:
    """It is named."""
    shared = Wrong(fault)
    with pytest.raises(AssertionError):
        check_replay_cache(lambda: Wrong("") if fault == "separate" else shared)
    fine = Wrong("")
    check_replay_cache(lambda: fine)
