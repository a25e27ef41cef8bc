# SPDX-License-Identifier: Apache-2.0
"""Redis as a replay cache: once among many processes, kept long enough, and never open by accident."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
import redis.asyncio
import redis.asyncio.retry
from redis.backoff import NoBackoff
from redis.retry import Retry
from support.interrupted_redis import InterruptedOnce, Stop
from support.redis_server import RedisServer, losing_the_first_answer, running_redis
from support.redis_verifiers import URL, verify_in_a_process

from dpop.errors import ArgumentTypeError, InvalidProof, ReplayCacheError, UsageError
from dpop.keys import generate_key
from dpop.proof import create_proof
from dpop.redis import AsyncRedisReplayCache, RedisReplayCache
from dpop.redis._errors import is_down, unusable
from dpop.server import MemoryReplayCache, NonceIssuer, ProofVerifier
from dpop.server._replay import nonce_key, replay_key

KEY = generate_key()
SECRET = bytes(range(32))


class Clock:
    """A clock that a test sets."""

    def __init__(self, now: float = 1_700_000_000) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    """A client of the server of the tests, which is empty."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """A server that a test may stop."""
    with running_redis() as server:
        yield server


@contextlib.contextmanager
def impatient(server: RedisServer, *, timeout: float = 60) -> Iterator[redis.Redis]:
    """A client that does not try again, and gives up on a server that does not respond within the timeout."""
    with redis.Redis.from_url(server.url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=None) as client:
        yield client


def awaited(use: Callable[[redis.asyncio.Redis], Awaitable[Any]], url: str, **settings: Any) -> Any:
    """What comes of using a client of ``redis.asyncio`` in an event loop of its own."""

    async def run() -> Any:
        async with redis.asyncio.Redis.from_url(url, **settings) as client:
            return await use(client)

    return asyncio.run(run())


# --- once


def test_a_key_is_new_once(client: redis.Redis) -> None:
    """Also to another cache, as another process would have."""
    cache, other = (RedisReplayCache(client, when_down="refuse") for _ in range(2))
    soon = time.time() + 90
    assert cache.add("a.1", soon) is True
    assert cache.add("a.1", soon) is False
    assert other.add("a.1", soon) is False
    assert other.add("a.2", soon) is True


def test_the_awaited_cache_does_the_same(redis_url: str) -> None:
    """And the two see each other's entries."""

    async def use(client: redis.asyncio.Redis) -> list[bool]:
        cache = AsyncRedisReplayCache(client, when_down="refuse")
        await cache.check()
        return [await cache.add(key, time.time() + 90) for key in ("a.1", "a.1", "a.2")]

    assert awaited(use, redis_url) == [True, False, True]
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        assert RedisReplayCache(client, when_down="refuse").add("a.2", time.time() + 90) is False


def test_servers_with_other_prefixes_are_apart(client: redis.Redis) -> None:
    """The prefix is the name of those who accept a proof once between them."""
    one = RedisReplayCache(client, when_down="refuse", prefix="one:")
    other = RedisReplayCache(client, when_down="refuse", prefix="other:")
    assert one.add("a.1", time.time() + 90)
    assert other.add("a.1", time.time() + 90)
    assert sorted(client.keys()) == [b"one:a.1", b"other:a.1"]


def test_an_entry_lives_as_long_as_the_proof(client: redis.Redis) -> None:
    """And as much longer as clocks may be set, whatever time Redis believes it is; then it is gone from there."""
    clock = Clock(1_000)  # a machine whose clock was never set
    cache = RedisReplayCache(client, when_down="refuse", clock=clock, prefix="", max_clock_step=30)
    cache.add("a.1", clock.now + 90.25)
    assert not cache.add("late.1", clock.now - 1)  # an expired proof is not new, and needs no entry
    left = client.pttl("a.1")
    assert 90_250 < left <= 120_250
    assert not client.exists("late.1")


def test_a_clock_that_is_set_back(client: redis.Redis) -> None:
    """A proof that had expired is valid again, and must still be known; so must a nonce that was used."""
    clock = Clock()
    cache = RedisReplayCache(client, when_down="refuse", clock=clock)
    for key in ("a.1", "b.nonce"):
        assert cache.add(key, clock.now + 0.05) is True
    time.sleep(0.2)  # for Redis, whose clock goes on
    clock.now -= 59
    for key in ("a.1", "b.nonce"):
        assert cache.add(key, clock.now + 59.05) is False


def test_one_of_a_hundred_threads_wins(client: redis.Redis) -> None:
    """The same key at a hundred threads at once is new to exactly one of them."""
    cache = RedisReplayCache(client, when_down="refuse")
    start = threading.Barrier(100)

    def add(_: int) -> bool:
        start.wait()
        return cache.add("a.1", time.time() + 90)

    with ThreadPoolExecutor(100) as pool:
        assert sum(pool.map(add, range(100))) == 1


def test_one_of_a_hundred_tasks_wins(redis_url: str) -> None:
    """The same in an event loop."""

    async def use(client: redis.asyncio.Redis) -> list[bool]:
        cache = AsyncRedisReplayCache(client, when_down="refuse")
        return await asyncio.gather(*(cache.add("a.1", time.time() + 90) for _ in range(100)))

    assert sum(awaited(use, redis_url)) == 1


def test_a_hundred_verifiers_in_four_processes_accept_a_proof_once(redis_url: str) -> None:
    """Each of ten proofs is offered to 25 threads in each of 4 processes."""
    proofs = [create_proof(KEY, "POST", URL) for _ in range(10)]
    spawning = multiprocessing.get_context("spawn")
    with spawning.Manager() as manager, spawning.Pool(4) as pool:
        start = manager.Barrier(4)
        # A deadline, for a pool replaces a worker that dies, and waits for its task for ever.
        verdicts = pool.starmap_async(verify_in_a_process, [(redis_url, proofs, start)] * 4, chunksize=1).get(120)
    flat = [verdict for each in verdicts for verdict in each]
    assert flat.count("accepted") == 10
    assert flat.count("replayed") == 990


def test_a_lost_answer_is_no_replay(redis_server: RedisServer, redis_url: str) -> None:
    """The client asks again by itself and finds its own mark; whoever comes later finds another's."""
    again = Retry(NoBackoff(), 1)
    with losing_the_first_answer(redis_server) as url, redis.Redis.from_url(url, retry=again) as client:
        cache = RedisReplayCache(client, when_down="refuse")
        assert cache.add("a.1", time.time() + 90) is True
        assert cache.add("a.1", time.time() + 90) is False


def test_a_lost_answer_is_no_replay_where_it_is_awaited(redis_server: RedisServer, redis_url: str) -> None:
    """The same with a client of redis.asyncio."""

    async def use(client: redis.asyncio.Redis) -> list[bool]:
        cache = AsyncRedisReplayCache(client, when_down="refuse")
        return [await cache.add("a.1", time.time() + 90) for _ in range(2)]

    with losing_the_first_answer(redis_server) as url:
        assert awaited(use, url, retry=redis.asyncio.retry.Retry(NoBackoff(), 1)) == [True, False]


# --- single-use nonces


def test_a_nonce_is_used_once_by_all_processes(redis_url: str) -> None:
    """One cache for proofs and for nonces: neither takes the other's names."""
    with redis.Redis.from_url(redis_url) as client:
        caches = [RedisReplayCache(client, when_down="refuse") for _ in range(2)]
        issuers = [NonceIssuer(SECRET, single_use=cache) for cache in caches]
        one, other = (ProofVerifier(replay=cache, nonces=issuer) for cache, issuer in zip(caches, issuers, strict=True))
        nonce = issuers[0].issue()
        assert one.verify_token_request([("DPoP", create_proof(KEY, "POST", URL, nonce=nonce))], "POST", URL)
        with pytest.raises(InvalidProof) as caught:
            other.verify_token_request([("DPoP", create_proof(KEY, "POST", URL, nonce=nonce))], "POST", URL)
        assert (caught.value.error, caught.value.reason) == ("use_dpop_nonce", "nonce_used")
        assert client.dbsize() == 3  # and the number of such requests


def test_no_nonce_and_no_jti_is_in_redis(client: redis.Redis) -> None:
    """Names hold digests; values hold nothing of the proof."""
    cache = RedisReplayCache(client, when_down="refuse")
    cache.add(replay_key(KEY.thumbprint, URL.encode(), "a-secret-jti"), time.time() + 90)
    cache.add(nonce_key("a-secret-nonce"), time.time() + 90)
    stored = repr([(key, client.get(key)) for key in client.scan_iter()])
    assert stored.count("dpop:once:") == 2
    assert "a-secret" not in stored
    assert "as.example" not in stored


# --- when it is down


def test_refusing_while_it_is_down(own_server: RedisServer) -> None:
    """Nobody is let in by an outage, and Redis is used again when it is back."""
    with impatient(own_server) as client:
        cache = RedisReplayCache(client, when_down="refuse")
        own_server.stop()
        with pytest.raises(ReplayCacheError, match="cannot be reached"):
            cache.add("a.1", time.time() + 90)
        with pytest.raises(ReplayCacheError, match="cannot be reached"):
            cache.check()
        own_server.start()
        cache.check()
        assert cache.add("a.1", time.time() + 90) is True


def test_a_server_that_does_not_answer_is_down(own_server: RedisServer) -> None:
    """A frozen machine takes connections; the client's timeout tells."""
    with impatient(own_server) as client, impatient(own_server, timeout=0.1) as hasty:
        assert RedisReplayCache(client, when_down="refuse").add("a.1", time.time() + 90)
        with own_server.frozen(), pytest.raises(ReplayCacheError, match="cannot be reached"):
            RedisReplayCache(hasty, when_down="refuse").add("a.2", time.time() + 90)


def test_accepting_while_it_is_down(own_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """Only by that word; the log says once that it begins and once that it ends."""
    caplog.set_level(logging.INFO, "dpop.server")
    with impatient(own_server) as client:
        cache = RedisReplayCache(client, when_down="accept")
        own_server.stop()
        assert [cache.add("a.1", time.time() + 90) for _ in range(3)] == [True] * 3
        own_server.start()
        assert [cache.add("a.1", time.time() + 90) for _ in range(3)] == [True, False, False]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "accepted without it" in said[0]
    assert "reached again" in said[1]


def test_another_cache_while_it_is_down(own_server: RedisServer) -> None:
    """The protection shrinks to this process instead of going away."""
    with impatient(own_server) as client:
        cache = RedisReplayCache(client, when_down=MemoryReplayCache())
        own_server.stop()
        assert [cache.add("a.1", time.time() + 90) for _ in range(3)] == [True, False, False]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [("refuse", [ReplayCacheError] * 2), ("accept", [True, True]), (MemoryReplayCache, [True, False])],
)
def test_the_awaited_cache_chooses_alike(own_server: RedisServer, choice: Any, expected: list[object]) -> None:
    """All three choices, where the client is awaited."""
    own_server.stop()

    async def use(client: redis.asyncio.Redis) -> list[object]:
        when_down: Any = choice if isinstance(choice, str) else choice()
        cache = AsyncRedisReplayCache(client, when_down=when_down)
        with pytest.raises(ReplayCacheError, match="cannot be reached"):
            await cache.check()
        responses: list[object] = []
        for _ in range(2):
            try:
                responses.append(await cache.add("a.1", time.time() + 90))
            except ReplayCacheError as error:
                responses.append(type(error))
        return responses

    assert awaited(use, own_server.url, retry=None) == expected


def test_another_awaited_cache_while_it_is_down(own_server: RedisServer, redis_url: str) -> None:
    """The second may be a Redis too."""
    own_server.stop()

    async def use(client: redis.asyncio.Redis) -> list[bool]:
        async with redis.asyncio.Redis.from_url(redis_url) as second:
            cache = AsyncRedisReplayCache(client, when_down=AsyncRedisReplayCache(second, when_down="refuse"))
            return [await cache.add("a.1", time.time() + 90) for _ in range(2)]

    assert awaited(use, own_server.url, retry=None) == [True, False]


@pytest.mark.parametrize("choice", ["refuse", "accept"])
def test_a_full_server_refuses_whatever_the_choice(choice: Any) -> None:
    """Whoever can fill it must not switch off the protection by doing so."""
    with running_redis("--maxmemory", "3mb", "--maxmemory-policy", "noeviction") as server:
        with redis.Redis.from_url(server.url) as client:
            cache = RedisReplayCache(client, when_down=choice)
            cache.check()
            with pytest.raises(ReplayCacheError, match="full"):
                for number in range(1000):
                    cache.add(f"a.{number}" + "x" * 10_000, time.time() + 90)


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl", "volatile-lru", "allkeys-random"])
def test_a_server_that_forgets_is_found_out(policy: str) -> None:
    """A policy other than noeviction would drop proofs that are still valid, and let them in again."""
    with running_redis("--maxmemory", "3mb", "--maxmemory-policy", policy) as server:
        with redis.Redis.from_url(server.url) as client, pytest.raises(ReplayCacheError, match="noeviction"):
            RedisReplayCache(client, when_down="accept").check()


def test_a_wrong_password_is_not_an_outage() -> None:
    """A fault of the configuration is told, and never reads as "down, so accept"; no password is in the text."""
    with running_redis("--requirepass", "right-password") as server:
        for password in ("wrong-password", None):
            with redis.Redis.from_url(server.url, password=password) as client:
                cache = RedisReplayCache(client, when_down="accept")
                with pytest.raises(ReplayCacheError, match="cannot serve") as caught:
                    cache.add("a.1", time.time() + 90)
                assert "right-" not in str(caught.value)
                assert "wrong-" not in str(caught.value)


@pytest.mark.parametrize("raising", [Stop, RuntimeError, TimeoutError])
@pytest.mark.parametrize("method", ["add", "add_unbound"])
def test_an_interrupted_command_does_not_answer_for_the_next(
    redis_url: str, method: str, raising: type[BaseException]
) -> None:
    """A proof passes once, and a new one is no replay, also after a signal handler that raises."""
    pool = redis.ConnectionPool.from_url(redis_url, connection_class=InterruptedOnce)
    with redis.Redis(connection_pool=pool) as client:
        cache = RedisReplayCache(client, when_down="refuse")
        add = getattr(cache, method)
        soon = time.time() + 90
        assert add("used", soon) is True
        InterruptedOnce.raising = raising
        with pytest.raises((raising, ReplayCacheError)):
            add("interrupted", soon)
        assert [add(key, soon) for key in ("used", "new", "used", "new")] == [False, True, False, False]


@pytest.mark.parametrize("choice", ["refuse", "accept"])
def test_a_client_of_another_event_loop_says_so(redis_url: str, choice: Any) -> None:
    """Such as one that was checked by asyncio.run before the server began its own loop: a 503, and no bare error."""
    client = redis.asyncio.Redis.from_url(redis_url)
    cache = AsyncRedisReplayCache(client, when_down=choice)
    soon = time.time() + 90
    with asyncio.Runner() as first:
        for ask in (cache.check, lambda: cache.add("a.1", soon), lambda: cache.add_unbound("a.2", soon)):
            first.run(cache.check())
            with pytest.raises(ReplayCacheError, match="belongs to one event loop"):
                asyncio.run(ask())
        first.run(client.aclose())


def test_a_value_that_is_no_text(client: redis.Redis, redis_url: str) -> None:
    """A stranger's, read by a client that decodes."""
    client.set("dpop:once:a.1", b"\xff")
    with redis.Redis.from_url(redis_url, decode_responses=True) as decoding:
        with pytest.raises(ReplayCacheError, match="not UTF-8 text; look who else"):
            RedisReplayCache(decoding, when_down="accept").add("a.1", time.time() + 90)


@pytest.mark.parametrize(
    ("pools", "more"), [(redis.ConnectionPool, {}), (redis.BlockingConnectionPool, {"timeout": 0.05})]
)
def test_a_pool_that_is_too_small_is_not_an_outage(
    redis_url: str, pools: type[redis.ConnectionPool], more: dict[str, Any]
) -> None:
    """A crowd of requests must not let replays in."""
    pool = pools.from_url(redis_url, max_connections=1, **more)
    taken = pool.get_connection()
    with redis.Redis(connection_pool=pool) as client:
        with pytest.raises(ReplayCacheError, match="max_connections"):
            RedisReplayCache(client, when_down="accept").add("a.1", time.time() + 90)
    pool.release(taken)
    pool.close()


@pytest.mark.parametrize(
    ("pools", "more"),
    [(redis.asyncio.ConnectionPool, {}), (redis.asyncio.BlockingConnectionPool, {"timeout": 0.05})],
)
def test_an_awaited_pool_that_is_too_small_is_none_either(
    redis_url: str, pools: type[redis.asyncio.ConnectionPool], more: dict[str, Any]
) -> None:
    """The same in an event loop."""

    async def run() -> None:
        pool = pools.from_url(redis_url, max_connections=1, **more)
        taken = await pool.get_connection()
        async with redis.asyncio.Redis(connection_pool=pool) as client:
            with pytest.raises(ReplayCacheError, match="max_connections"):
                await AsyncRedisReplayCache(client, when_down="accept").add("a.1", time.time() + 90)
        await pool.release(taken)
        await pool.aclose()

    asyncio.run(run())


@pytest.mark.parametrize("said", ["Too many connections", "No connection available."])
def test_every_word_of_redis_py_for_a_full_pool_is_known(said: str) -> None:
    """redis-py before 7.2.1 raises a plain ConnectionError for a full pool; those words tell it from an outage."""
    error = redis.ConnectionError(said)
    assert not is_down(error)
    assert "max_connections" in str(unusable(error))


def test_strangers_fill_no_more_than_their_share(client: redis.Redis, redis_url: str) -> None:
    """Token requests without a bound key are counted, and refused when they are too many; others are not."""
    clock = Clock(time.time())
    cache = RedisReplayCache(client, when_down="refuse", max_unbound=3, clock=clock)
    assert [cache.add_unbound(f"stranger-{number}.1", clock.now + 90) for number in (1, 2, 2)] == [True, True, False]
    with pytest.raises(ReplayCacheError, match="max_unbound"):
        cache.add_unbound("stranger-4.1", clock.now + 90)
    assert cache.add("client.1", clock.now + 90)
    assert not cache.add("stranger-1.1", clock.now + 90)

    async def use(client: redis.asyncio.Redis) -> bool:
        return await AsyncRedisReplayCache(client, when_down="refuse", max_unbound=3, clock=clock).add_unbound("a.1", 0)

    with pytest.raises(ReplayCacheError, match="max_unbound"):
        awaited(use, redis_url)
    clock.now += 240
    assert cache.add_unbound("stranger-5.1", clock.now + 90)
    assert all(0 < client.ttl(name) <= 240 for name in client.keys("dpop:once:unbound:*"))
    with pytest.raises(UsageError, match="max_unbound"):
        RedisReplayCache(client, when_down="refuse", max_unbound=0)


def test_strangers_while_it_is_down(own_server: RedisServer) -> None:
    """The other cache has a share of its own for them."""
    with impatient(own_server) as client:
        own_server.stop()
        cache = RedisReplayCache(client, when_down=MemoryReplayCache(max_entries=10))
        assert cache.add_unbound("stranger-1.1", time.time() + 90)
        with pytest.raises(ReplayCacheError, match="their share"):
            cache.add_unbound("stranger-2.1", time.time() + 90)
        assert RedisReplayCache(client, when_down="accept").add_unbound("a.1", time.time() + 90)
        with pytest.raises(ReplayCacheError, match="reached"):
            RedisReplayCache(client, when_down="refuse").add_unbound("a.1", time.time() + 90)


# --- settings


def test_settings_that_make_no_sense_are_refused(client: redis.Redis) -> None:
    """At the start: a client of the other kind, another word, a second cache of the other kind."""
    asynchronous = redis.asyncio.Redis()
    with pytest.raises(ArgumentTypeError, match=r"redis\.Redis"):
        RedisReplayCache(asynchronous, when_down="refuse")  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match=r"redis\.asyncio\.Redis"):
        AsyncRedisReplayCache(client, when_down="refuse")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="when_down"):
        RedisReplayCache(client, when_down="open")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="AsyncRedisReplayCache"):
        RedisReplayCache(client, when_down=AsyncRedisReplayCache(asynchronous, when_down="refuse"))  # type: ignore[arg-type]


def test_the_choice_has_no_default(client: redis.Redis) -> None:
    """It is the operator's."""
    with pytest.raises(TypeError, match="when_down"):
        RedisReplayCache(client)  # type: ignore[call-arg]


def test_a_repr_that_can_be_logged(client: redis.Redis) -> None:
    """It tells the choice and no address or password."""
    cache = RedisReplayCache(client, when_down=MemoryReplayCache())
    assert repr(cache) == "<RedisReplayCache dpop:once:*, when down: <MemoryReplayCache 0 of 100000 entries>>"
