# SPDX-License-Identifier: Apache-2.0
"""The replay cache through a failover, with replicas that lag, few rights, and clocks that are set: on real servers."""

from __future__ import annotations

import asyncio
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel
from support.paths import DOCS
from support.redis_server import Replicated, losing_the_first_answer, running_redis, running_replicas, running_sentinel

from dpop.errors import ReplayCacheError, UsageError
from dpop.redis import AsyncRedisReplayCache, RedisIntrospectionCache, RedisReplayCache
from dpop.server import MemoryReplayCache

LONG = 30.0
"""Seconds for a replica that works. It responds long before, on any machine."""
CLOCK = Path(__file__).parents[1] / "support" / "stepped_clock.c"


def soon() -> float:
    """When proofs of now have expired."""
    return time.time() + 90


# --- a primary that dies


class Traffic(threading.Thread):
    """A client that adds a new key again and again until it is refused, and keeps those that were accepted."""

    def __init__(self, cache: RedisReplayCache, name: str) -> None:
        super().__init__(name=name)
        self.cache = cache
        self.accepted: list[str] = []

    def run(self) -> None:
        while True:
            key = f"{self.name}.{len(self.accepted)}"
            try:
                assert self.cache.add(key, soon())
            except ReplayCacheError:
                return
            self.accepted.append(key)
            time.sleep(0.002)


def test_no_proof_passes_again_after_a_failover() -> None:
    """Sentinel promotes the replica; requests get a 503 until then, and what was accepted before is known after."""
    with running_sentinel(replicas=1) as servers:
        watched = Sentinel([("127.0.0.1", servers.sentinel)], socket_timeout=10)
        with watched.master_for("dpop", socket_timeout=2 * LONG) as client:
            careful = RedisReplayCache(client, when_down="refuse", acknowledged_by=1, acknowledge_within=LONG)
            careful.check()
            traffic = [Traffic(careful, f"client-{number}") for number in range(3)]
            for each in traffic:
                each.start()
            until(lambda: all(len(each.accepted) >= 20 for each in traffic))
            servers.primary.stop()
            for each in traffic:
                each.join(60)
            cache = RedisReplayCache(client, when_down="refuse")
            until(lambda: accepts(cache))
            assert [key for each in traffic for key in each.accepted if cache.add(key, soon())] == []
            assert asyncio.run(known_to_a_task(servers.sentinel, traffic[0].accepted[0]))
            hasty = RedisReplayCache(client, when_down="refuse", acknowledged_by=1, acknowledge_within=0.01)
            with pytest.raises(ReplayCacheError, match="look at the replicas"):  # there is none left
                hasty.check()


async def known_to_a_task(sentinel: int, key: str) -> bool:
    """Whether a client of redis.asyncio finds the primary and refuses this key."""
    watched = redis.asyncio.Sentinel([("127.0.0.1", sentinel)], socket_timeout=10)
    async with watched.master_for("dpop", socket_timeout=10) as client:
        known = not await AsyncRedisReplayCache(client, when_down="refuse").add(key, soon())
    for each in watched.sentinels:
        await each.aclose()
    return known


def accepts(cache: RedisReplayCache) -> bool:
    """Whether Redis is back."""
    try:
        cache.check()
    except ReplayCacheError:
        return False
    return True


def until(holds: Callable[[], bool]) -> None:
    """Wait for something that other threads and processes do."""
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- replicas that lag


@pytest.fixture
def replicated() -> Iterator[Replicated]:
    """A primary with one replica."""
    with running_replicas(1) as servers:
        yield servers


def add_in(servers: Replicated, asynchronous: bool, keys: list[str], **settings: Any) -> list[bool | str]:
    """What a cache with settings says of keys, through a client of either kind."""
    said: list[bool | str] = []
    if not asynchronous:
        with redis.Redis.from_url(servers.primary.url) as client:
            cache = RedisReplayCache(client, when_down="refuse", **settings)
            for key in keys:
                try:
                    said.append(cache.add(key, soon()))
                except ReplayCacheError as error:
                    said.append(str(error))
        return said

    async def use() -> None:
        async with redis.asyncio.Redis.from_url(servers.primary.url) as client:
            cache = AsyncRedisReplayCache(client, when_down="refuse", **settings)
            for key in keys:
                try:
                    said.append(await cache.add(key, soon()))
                except ReplayCacheError as error:
                    said.append(str(error))

    asyncio.run(use())
    return said


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_proof_is_accepted_once_a_replica_has_it(replicated: Replicated, asynchronous: bool) -> None:
    """With ``acknowledged_by``: what was accepted is known after the primary is lost, and nothing else is accepted."""
    assert add_in(replicated, asynchronous, ["a.1", "a.1"], acknowledged_by=1, acknowledge_within=LONG) == [
        True,
        False,
    ]
    (replica,) = replicated.replicas
    with replica.frozen():
        late, known = add_in(replicated, asynchronous, ["a.2", "a.1"], acknowledged_by=1, acknowledge_within=0.05)
        assert isinstance(late, str)
        assert "0 replicas of Redis have the entry, and 1 must have it within 50 ms" in late
        assert known is False  # a replay is refused as one, whatever the replica does
        assert add_in(replicated, asynchronous, ["a.3"]) == [True]
        replicated.primary.stop()
    with redis.Redis.from_url(replica.url) as client:
        client.replicaof("NO", "ONE")
        assert RedisReplayCache(client, when_down="refuse").add("a.1", soon()) is False


@pytest.mark.parametrize("lags", [False, True])
def test_a_lost_answer_proves_nothing_of_the_replica(replicated: Replicated, lags: bool) -> None:
    """The client repeats the command on another connection, which waits for none of what the first one wrote."""
    with (
        losing_the_first_answer(replicated.primary) as url,
        redis.Redis.from_url(url, retry=Retry(NoBackoff(), 1)) as client,
    ):
        within = 0.1 if lags else LONG
        cache = RedisReplayCache(client, when_down="refuse", acknowledged_by=1, acknowledge_within=within)
        if not lags:
            assert cache.add("a.1", soon()) is True
            return
        with replicated.replicas[0].frozen(), pytest.raises(ReplayCacheError, match="0 replicas"):
            cache.add("a.1", soon())


def test_too_few_replicas_are_found_out_at_the_start(redis_url: str) -> None:
    """Before the first request."""
    with redis.Redis.from_url(redis_url) as client:
        RedisReplayCache(client, when_down="refuse").check()
        cache = RedisReplayCache(client, when_down="refuse", acknowledged_by=1, acknowledge_within=0.01)
        for _ in range(2):
            with pytest.raises(ReplayCacheError, match="look at the replicas"):
                cache.check()


@pytest.mark.parametrize(
    "settings",
    [
        {"acknowledged_by": -1},
        {"acknowledged_by": 1, "when_down": "accept"},
        {"acknowledged_by": 1, "when_down": MemoryReplayCache()},
        {"acknowledged_by": 1, "acknowledge_within": 0},
        {"max_clock_step": -1},
        {"max_clock_step": float("inf")},
    ],
)
def test_settings_that_make_no_sense(redis_url: str, settings: dict[str, Any]) -> None:
    """WAIT for no time waits for ever; and who accepts proofs without Redis need not wait for its replicas."""
    with redis.Redis.from_url(redis_url) as client, pytest.raises(UsageError):
        RedisReplayCache(client, **{"when_down": "refuse"} | settings)


# --- a user of its own


def test_the_rights_that_the_guide_gives() -> None:
    """They are enough for all that both caches do, and for no names of others."""
    (line,) = re.findall(r"^user dpop on .*$", (DOCS / "servers.md").read_text("utf-8"), re.MULTILINE)
    name, *rights = line.removeprefix("user ").split(" ")
    with running_redis() as server, redis.Redis.from_url(server.url) as administrator:
        administrator.execute_command("ACL", "SETUSER", name, *rights)
        with redis.Redis.from_url(server.url, username=name, password="PASSWORD") as client:
            cache = RedisReplayCache(client, when_down="refuse")
            cache.check()
            assert [cache.add("a.1", soon()) for _ in range(2)] == [True, False]
            assert cache.add_unbound("b.1", soon()) is True
            careful = RedisReplayCache(client, when_down="refuse", acknowledged_by=1, acknowledge_within=0.001)
            with pytest.raises(ReplayCacheError, match="look at the replicas"):
                careful.add("c.1", soon())
            responses = RedisIntrospectionCache(client)
            responses.put("n", "entry", 10)
            assert responses.get("n") == "entry"
            for command in (("DEL", "dpop:once:a.1"), ("SET", "other", "x"), ("FLUSHALL",), ("KEYS", "*")):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    client.execute_command(*command)


# --- clocks


def test_a_clock_of_redis_that_is_set_forward(tmp_path: Path) -> None:
    """Redis drops entries by its own clock; those of proofs that are valid for another minute and a half stay."""
    library, ahead = tmp_path / "clock.so", tmp_path / "ahead"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(CLOCK), "-ldl"], check=True, timeout=60)
    ahead.write_text("0", "utf-8")
    environment = {"LD_PRELOAD": str(library), "STEPPED_CLOCK": str(ahead)}
    with running_redis(environment=environment) as server, redis.Redis.from_url(server.url) as client:
        cache = RedisReplayCache(client, when_down="refuse")
        assert cache.add("a.1", soon()) is True
        client.set("other", "1", px=90_000)
        ahead.write_text("100", "utf-8")
        assert client.get("other") is None  # so the step is real
        assert cache.add("a.1", soon()) is False
