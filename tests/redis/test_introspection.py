# SPDX-License-Identifier: Apache-2.0
"""Introspection responses that processes share: one question for all, no longer than promised, and not forgeable."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import redis.asyncio
from support.interrupted_redis import InterruptedOnce, Stop
from support.introspection_endpoint import IntrospectionEndpoint
from support.jwt_issuer import Timer
from support.recorder import Response
from support.redis_server import RedisServer, running_redis

from dpop.errors import ArgumentTypeError, InvalidProof, LookupUnavailableError, UsageError
from dpop.redis import RedisIntrospectionCache
from dpop.server import Event, Introspection

SECRET = bytes(range(32))
TOKEN = "opaque-token-of-alice"


@pytest.fixture
def endpoint() -> Iterator[IntrospectionEndpoint]:
    """An introspection endpoint of this test."""
    with IntrospectionEndpoint() as running:
        yield running


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    """A client of the server of the tests, which is empty."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


def process(endpoint: IntrospectionEndpoint, cache: Any, **settings: Any) -> Introspection:
    """The look-up of one process of an API; what it remembers by itself is its own."""
    usual = {"client_id": "api", "client_secret": "s", "cache": cache, "cache_secret": SECRET, "timeout": 60}
    return Introspection(endpoint.url("/introspect"), **usual | settings)


def entry_of(client: redis.Redis) -> bytes:
    """The name of the only entry."""
    (name,) = client.keys("*")
    assert isinstance(name, bytes)
    return name


# --- one question for all


def test_one_process_asks_for_all(endpoint: IntrospectionEndpoint, client: redis.Redis) -> None:
    """Threads and tasks of others get its response, and may change what they got."""
    first, second, third = (process(endpoint, RedisIntrospectionCache(client)) for _ in range(3))
    claims = dict(first(TOKEN))
    second(TOKEN)["sub"] = "mallory"  # type: ignore[index]
    assert second(TOKEN) == asyncio.run(third.acall(TOKEN)) == claims
    assert claims["sub"] == "alice"
    assert endpoint.asked == [TOKEN]


def test_a_client_that_decodes(endpoint: IntrospectionEndpoint, redis_url: str) -> None:
    """Redis clients with ``decode_responses`` give text."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        for _ in range(2):
            assert process(endpoint, RedisIntrospectionCache(client))(TOKEN)["sub"] == "alice"
    assert endpoint.asked == [TOKEN]


def test_tokens_that_are_not_active_are_not_shared(endpoint: IntrospectionEndpoint, client: redis.Redis) -> None:
    """Strangers cannot fill the cache with tokens that nobody knows."""
    endpoint.says = {"active": False}
    for _ in range(2):
        with pytest.raises(InvalidProof):
            process(endpoint, RedisIntrospectionCache(client))(TOKEN)
    assert len(endpoint.asked) == 2
    assert client.dbsize() == 0


def test_what_was_said_to_another_is_not_shared(endpoint: IntrospectionEndpoint, client: redis.Redis) -> None:
    """A response may depend on the client that asks (RFC 7662 §2.2), so two APIs in one Redis are apart."""
    process(endpoint, RedisIntrospectionCache(client), client_id="api")(TOKEN)
    process(endpoint, RedisIntrospectionCache(client), client_id="other")(TOKEN)
    assert len(endpoint.asked) == 2


def test_the_audience_is_judged_by_each(endpoint: IntrospectionEndpoint, client: redis.Redis) -> None:
    """A shared response is judged like one that was just given."""
    endpoint.says["aud"] = "https://one.example"
    process(endpoint, RedisIntrospectionCache(client), audience="https://one.example")(TOKEN)
    with pytest.raises(InvalidProof, match="for another API"):
        process(endpoint, RedisIntrospectionCache(client), audience="https://two.example")(TOKEN)
    assert endpoint.asked == [TOKEN]


# --- no longer than promised


def test_a_response_counts_from_the_question(endpoint: IntrospectionEndpoint, client: redis.Redis) -> None:
    """A revoked token is accepted for ``remember_for`` at most, through however many processes its response went."""
    clock, monotonic = Timer(time.time()), Timer(100)
    settings: Any = {"clock": clock, "monotonic": monotonic, "remember_for": 30}
    first, second = (process(endpoint, RedisIntrospectionCache(client), **settings) for _ in range(2))
    first(TOKEN)
    for timer in (clock, monotonic):
        timer.now += 20
    second(TOKEN)
    endpoint.says = {"active": False}  # revoked
    for timer in (clock, monotonic):
        timer.now += 9.9
    assert second(TOKEN)
    for timer in (clock, monotonic):
        timer.now += 0.2
    for revoked in (second, first, process(endpoint, RedisIntrospectionCache(client), **settings)):
        with pytest.raises(InvalidProof):
            revoked(TOKEN)


def test_a_clock_that_is_behind(endpoint: IntrospectionEndpoint, client: redis.Redis) -> None:
    """A process whose clock is an hour behind the writer's remembers no longer than usual."""
    now, monotonic = time.time(), Timer(100)
    process(endpoint, RedisIntrospectionCache(client), clock=lambda: now)(TOKEN)
    late = process(endpoint, RedisIntrospectionCache(client), clock=lambda: now - 3600, monotonic=monotonic)
    late(TOKEN)
    assert endpoint.asked == [TOKEN]
    client.flushall()
    monotonic.now += 30
    late(TOKEN)
    assert len(endpoint.asked) == 2


class Kept(dict[str, str]):
    """A cache of one's own, which notes for how long it was to keep an entry."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def put(self, name: str, entry: str, seconds: float) -> None:
        self[name] = entry
        self.seconds.append(seconds)


@pytest.mark.parametrize(("exp", "seconds"), [(600, 30), (5, 5), (None, 30), (0, None)])
def test_an_entry_never_outlives_its_token(
    endpoint: IntrospectionEndpoint, exp: int | None, seconds: int | None
) -> None:
    """Nor the seconds for which responses are believed; one that expires now is not kept."""
    endpoint.says = {"active": True} | ({} if exp is None else {"exp": 1000 + exp})
    cache = Kept()
    process(endpoint, cache, clock=lambda: 1000)(TOKEN)
    assert cache.seconds == ([] if seconds is None else [seconds])
    again = process(endpoint, cache, clock=lambda: 1000)
    assert again(TOKEN)["active"] is True
    assert len(endpoint.asked) == (1 if cache else 2)


def test_redis_forgets_in_time(endpoint: IntrospectionEndpoint, client: redis.Redis) -> None:
    """The entry goes by itself."""
    process(endpoint, RedisIntrospectionCache(client))(TOKEN)
    assert 0 < client.pttl(entry_of(client)) <= 30_000


def test_a_token_that_expires_meanwhile(endpoint: IntrospectionEndpoint, client: redis.Redis) -> None:
    """Its time is judged at each use; one that has expired already is not kept."""
    clock = Timer(time.time())
    endpoint.says = {"active": True, "exp": clock.now + 5}
    first, second = (process(endpoint, RedisIntrospectionCache(client), clock=clock, skew=0) for _ in range(2))
    first(TOKEN)
    clock.now += 6
    with pytest.raises(InvalidProof, match="expired"):
        second(TOKEN)
    assert endpoint.asked == [TOKEN]
    with pytest.raises(InvalidProof):
        first("late")
    assert client.dbsize() == 1


# --- not readable, not forgeable


def test_redis_holds_neither_tokens_nor_claims(endpoint: IntrospectionEndpoint, client: redis.Redis) -> None:
    """Names are no plain hashes, by which a guessed token could be confirmed."""
    process(endpoint, RedisIntrospectionCache(client))(TOKEN)
    name = entry_of(client)
    everything = name + bytes(client.get(name) or b"")
    assert b"alice" not in everything
    assert TOKEN.encode() not in everything
    for digest in (hashlib.sha256(TOKEN.encode()).hexdigest(), "dpop"):
        assert digest.encode() not in name.removeprefix(b"dpop:token:")
    assert len(name.removeprefix(b"dpop:token:")) == 43


@pytest.mark.parametrize("forgery", ["moved", "bit", "short", "empty-nonce", "long", "binary", "plain"])
def test_an_entry_that_is_not_ours(
    endpoint: IntrospectionEndpoint, client: redis.Redis, forgery: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is ignored with one WARNING; who can write to Redis can neither forge a response nor move it to a token."""
    process(endpoint, RedisIntrospectionCache(client))(TOKEN)
    name = entry_of(client)
    good = bytes(client.get(name) or b"")
    if forgery == "moved":  # the response for a good token under the name of another one
        client.delete(name)
        endpoint.says = {"active": True, "sub": "mallory"}
        process(endpoint, RedisIntrospectionCache(client))("token of mallory")
        client.set(entry_of(client), good)
    else:
        flipped = good[:40] + (b"A" if good[40:41] != b"A" else b"B") + good[41:]
        client.set(
            name,
            {
                "bit": flipped,
                "short": good[:20],
                "empty-nonce": b"AAAA",
                "long": good * 2000,
                "binary": b"\xff" * 100,
                "plain": b'{"active":true,"sub":"mallory"}',
            }[forgery],
        )
    events: list[Event] = []
    victim = process(endpoint, RedisIntrospectionCache(client), events=events.append)
    before = len(endpoint.asked)
    with caplog.at_level(logging.WARNING, "dpop.server"):
        claims = victim("token of mallory" if forgery == "moved" else TOKEN)
    assert claims["sub"] == ("mallory" if forgery == "moved" else "alice")
    assert len(endpoint.asked) == before + 1
    assert [event.reason for event in events if event.kind == "shared"] == ["foreign"]
    assert caplog.text.count("not written with this secret") == 1


def test_another_secret(endpoint: IntrospectionEndpoint, client: redis.Redis) -> None:
    """Processes with another secret do not even find the entry; so a secret can be changed one process at a time."""
    events: list[Event] = []
    process(endpoint, RedisIntrospectionCache(client))(TOKEN)
    process(endpoint, RedisIntrospectionCache(client), cache_secret=b"x" * 16, events=events.append)(TOKEN)
    assert len(endpoint.asked) == 2
    assert [event.reason for event in events if event.kind == "shared"] == ["absent"]


# --- faults


def test_redis_down(endpoint: IntrospectionEndpoint, caplog: pytest.LogCaptureFixture) -> None:
    """Each process asks for itself, and says so once; it does not wait for Redis at each request."""
    with running_redis() as server:
        monotonic = Timer(100)
        events: list[Event] = []
        with impatient(server) as client, caplog.at_level(logging.WARNING, "dpop.server"):
            tokens = process(endpoint, RedisIntrospectionCache(client), monotonic=monotonic, events=events.append)
            with server.frozen():
                for number in range(3):
                    assert tokens(f"t{number}")
                assert [event.reason for event in events if event.kind == "shared"] == ["unavailable"]
            server.stop()
            monotonic.now += 1
            assert tokens("t3")
            assert caplog.text.count("each process asks for itself") == 1
            server.start()
            monotonic.now += 1
            assert tokens("t4")
            assert tokens("t4")
            assert client.dbsize() == 1
            assert caplog.text.count("cache works again") == 1
    assert endpoint.asked == ["t0", "t1", "t2", "t3", "t4"]


def impatient(server: RedisServer) -> redis.Redis:
    """A client that waits for two seconds, which is enough on a busy machine, and does not try again."""
    return redis.Redis.from_url(server.url, socket_timeout=2, socket_connect_timeout=2, retry=None)


def test_the_authorization_server_down(endpoint: IntrospectionEndpoint, client: redis.Redis) -> None:
    """What another process has learnt is served, also in the moment in which the endpoint is not asked."""
    process(endpoint, RedisIntrospectionCache(client))(TOKEN)
    endpoint.down = lambda _request: Response(503)
    fresh = process(endpoint, RedisIntrospectionCache(client))
    with pytest.raises(LookupUnavailableError):
        fresh("unknown")
    assert fresh(TOKEN)["sub"] == "alice"


def test_a_slow_cache_holds_up_no_event_loop(endpoint: IntrospectionEndpoint) -> None:
    """It is asked in a thread, and by one request for all that have the token."""
    asked: list[str] = []
    release = threading.Event()

    class Slow:
        """A cache that responds once the event loop has run on."""

        def get(self, name: str) -> str | None:
            asked.append(name)
            assert release.wait(30)
            return None

        def put(self, name: str, entry: str, seconds: float) -> None:
            """Keep nothing."""

    async def ask() -> Any:
        tokens = process(endpoint, Slow())
        asking = [asyncio.ensure_future(tokens.acall(TOKEN)) for _ in range(3)]
        await asyncio.sleep(0)
        release.set()
        return await asyncio.gather(*asking)

    assert [claims["sub"] for claims in asyncio.run(ask())] == ["alice"] * 3
    assert len(asked) == 1
    assert endpoint.asked == [TOKEN]


def test_a_request_that_resumes_late_asks_nothing(endpoint: IntrospectionEndpoint) -> None:
    """While it waited for the cache, another request has asked about the token."""

    class Empty:
        """A cache without entries."""

        def get(self, name: str) -> str | None:
            return None

        def put(self, name: str, entry: str, seconds: float) -> None:
            """Keep nothing."""

    tokens = process(endpoint, Empty())
    late = tokens._ask(TOKEN)
    next(late)
    assert tokens(TOKEN)["sub"] == "alice"
    with pytest.raises(StopIteration) as ended:
        late.send(None)
    assert ended.value.value.claims["sub"] == "alice"
    assert endpoint.asked == [TOKEN]


def test_a_cache_that_never_responds(endpoint: IntrospectionEndpoint) -> None:
    """After the time for one question the endpoint is asked without it, and few threads are lost."""
    release = threading.Event()

    class Stuck:
        """A cache without a timeout."""

        def get(self, _name: str) -> str | None:
            release.wait(30)
            return None

        def put(self, name: str, entry: str, seconds: float) -> None:
            """Keep nothing."""

    tokens = process(endpoint, Stuck(), timeout=2, max_pending=1)
    try:
        for number in range(5):
            assert tokens(f"t{number}")["sub"] == "alice"
        assert len(tokens._reading) == 1
    finally:
        release.set()


# --- settings


@pytest.mark.parametrize(
    "settings",
    [{"cache": None}, {"cache_secret": None}, {"cache_secret": b"short"}, {"cache_secret": "text of 16 chars"}],
)
def test_settings_that_make_no_sense(
    endpoint: IntrospectionEndpoint, client: redis.Redis, settings: dict[str, Any]
) -> None:
    """A cache needs a secret, and a secret a cache."""
    with pytest.raises(UsageError):
        process(endpoint, **{"cache": RedisIntrospectionCache(client)} | settings)


def test_clients_that_cannot_be(redis_url: str) -> None:
    """The cache is used in threads, also by async code, so an async client is a mistake."""
    with pytest.raises(ArgumentTypeError, match=r"redis\.Redis"):
        RedisIntrospectionCache(redis.asyncio.Redis.from_url(redis_url))  # type: ignore[arg-type]
    with redis.Redis.from_url(redis_url) as client:
        with pytest.raises(UsageError, match="prefix"):
            RedisIntrospectionCache(client, prefix="")
        assert repr(RedisIntrospectionCache(client)) == "<RedisIntrospectionCache dpop:token:*>"


def test_an_interrupted_command_does_not_answer_for_the_next(redis_url: str) -> None:
    """After a signal handler that raises, the entry of one token is not returned for another."""
    pool = redis.ConnectionPool.from_url(redis_url, connection_class=InterruptedOnce)
    with redis.Redis(connection_pool=pool) as client:
        cache = RedisIntrospectionCache(client)
        cache.put("a", "the entry of a", 60)
        InterruptedOnce.raising = Stop
        with pytest.raises(Stop):
            cache.get("a")
        assert cache.get("b") is None
        InterruptedOnce.raising = Stop
        with pytest.raises(Stop):
            cache.put("b", "the entry of b", 60)
        assert cache.get("a") == "the entry of a"
