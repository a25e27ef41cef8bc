# SPDX-License-Identifier: Apache-2.0
"""Tokens in Redis, a real one: the contract, leases that end with their holder, and fences."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from support.interrupted_redis import InterruptedOnce, Stop
from support.recorder import Received, Recorder, Response
from support.redis_server import RedisServer, running_cluster, running_redis
from support.rotating_server import RotatingServer
from support.token_stores import FULL, StoreContract, numbered

import dpop
from dpop.errors import ArgumentTypeError, ReplayCacheError, TokenFormatError, TokenStoreError, UsageError
from dpop.httpx2 import AsyncTokenEndpoint
from dpop.redis import RedisIntrospectionCache, RedisReplayCache, RedisTokenStore
from dpop.requests import TokenEndpoint
from dpop.tokens import TokenSet, TokenStore

KEY = dpop.generate_key()


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    """A connection to an empty Redis."""
    with redis.Redis.from_url(redis_url, socket_timeout=60) as connected:
        yield connected


class TestRedisTokenStore(StoreContract):
    """What every store does."""

    @pytest.fixture
    def make(self, client: redis.Redis) -> Callable[[], TokenStore]:
        """Stores over one Redis."""
        return lambda: RedisTokenStore(client)


class TestEncryptedRedisTokenStore(StoreContract):
    """The same with encryption, and a client that decodes what it reads."""

    @pytest.fixture
    def make(self, redis_url: str) -> Iterator[Callable[[], TokenStore]]:
        """Stores over one Redis, with the same key."""
        with redis.Redis.from_url(redis_url, decode_responses=True) as client:
            yield lambda: RedisTokenStore(client, key=bytes(32), prefix="a*[b]:")


def test_what_is_there_is_named_and_sealed(client: redis.Redis) -> None:
    """Names hold the account, values of an encrypted store nothing readable; another key does not open them."""
    RedisTokenStore(client, password="correct horse").save(FULL, "alice")
    assert client.hget("dpop:tokens:{alice}", "fingerprint") == FULL.fingerprint.encode()
    record = client.hget("dpop:tokens:{alice}", "record")
    assert isinstance(record, bytes)
    assert b"secret" not in record
    with pytest.raises(TokenFormatError):
        RedisTokenStore(client, key=bytes(32)).load("alice")
    client.hset("dpop:tokens:{bob}", "record", b"{")
    with pytest.raises(TokenFormatError, match="cut off"):
        RedisTokenStore(client).load("bob")


def test_many_accounts_are_listed_in_few_round_trips(client: redis.Redis) -> None:
    """Redis reads one request for many accounts, not one for each."""
    store = RedisTokenStore(client)
    with client.pipeline(transaction=False) as pipeline:
        for number in range(2000):
            pipeline.hset(f"dpop:tokens:{{user-{number}}}", "record", b"{}")
            pipeline.hset(f"dpop:tokens:{{fence-{number}}}", "fence", 1)
        pipeline.execute()
    before = client.info("stats")["total_reads_processed"]
    accounts = store.accounts()
    reads = client.info("stats")["total_reads_processed"] - before
    assert accounts == sorted(f"user-{number}" for number in range(2000))
    assert reads < 100


def test_values_of_strangers_are_no_accounts(client: redis.Redis, redis_url: str) -> None:
    """They hide none that is one; an error that says more than that is told."""
    store = RedisTokenStore(client)
    store.save(FULL, "a")
    client.set("dpop:tokens:{text}", "x")
    client.rpush("dpop:tokens:{list}", "x")
    assert store.accounts() == ["a"]
    client.acl_setuser("reader", enabled=True, passwords=["+p"], keys=["*"], commands=["+scan"])
    try:
        with redis.Redis.from_url(redis_url, username="reader", password="p") as reader:
            with pytest.raises(TokenStoreError, match="hexists"):
                RedisTokenStore(reader).accounts()
    finally:
        client.acl_deluser("reader")


def test_a_lease_ends_with_its_holder_and_not_before(client: redis.Redis) -> None:
    """It is renewed for as long as it is held; when nobody renews it, the next one gets it, with a higher fence."""
    store = RedisTokenStore(client, lease_seconds=6)  # is renewed every two seconds
    first, second = store.lock("a"), store.lock("a")
    assert first.acquire(0)
    assert not second.acquire(0)
    left = client.pttl("dpop:tokens:{a}:lease")
    while (later := client.pttl("dpop:tokens:{a}:lease")) <= left:  # it grows only when it is renewed
        left = later
    first._released.set()  # type: ignore[attr-defined] - as if its process had been killed
    client.pexpire("dpop:tokens:{a}:lease", 1)
    assert second.acquire(60)
    assert second.fence > first.fence
    first.release()
    assert not store.lock("a").acquire(0)
    second.release()


class ClosedOnce(redis.UnixDomainSocketConnection):
    """A connection that another thread closes while a response is read."""

    closing = threading.Event()

    def read_response(self, *arguments: Any, **options: Any) -> Any:
        """Read a response, from a connection that is no longer there."""
        if self.closing.is_set():
            self.closing.clear()
            self.disconnect()
        return super().read_response(*arguments, **options)


@pytest.mark.parametrize("raising", [Stop, RuntimeError])
def test_an_interrupted_command_does_not_answer_for_the_next(redis_url: str, raising: type[BaseException]) -> None:
    """After a signal handler that raises, nobody has a lease that another one holds, or another's tokens."""
    pool = redis.ConnectionPool.from_url(redis_url, connection_class=InterruptedOnce)
    with redis.Redis(connection_pool=pool) as client:
        store = RedisTokenStore(client)
        store.save(FULL, "a")
        lease = store.lock("a")
        assert lease.acquire(0)
        InterruptedOnce.raising = raising
        with pytest.raises((raising, TokenStoreError)):
            store.load("a")
        assert store.load("nobody") is None
        assert not store.lock("a").acquire(0)
        InterruptedOnce.raising = raising
        with pytest.raises((raising, TokenStoreError)):
            store.accounts()
        assert store.load("nobody") is None
        lease.release()


def test_a_client_that_another_thread_closes(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Commands fail as for a Redis that cannot be used, and the lease is renewed at the next opportunity."""
    pool = redis.ConnectionPool.from_url(redis_url, connection_class=ClosedOnce)
    with redis.Redis(connection_pool=pool) as client:
        store = RedisTokenStore(client, lease_seconds=6)
        ClosedOnce.closing.set()
        with pytest.raises(TokenStoreError, match="closed while it was in use"):
            store.load()
        ClosedOnce.closing.set()
        with pytest.raises(ReplayCacheError, match="closed while it was in use"):
            RedisReplayCache(client, when_down="accept").add("key", time.time() + 60)
        lease = store.lock("a")
        assert lease.acquire(0)
        ClosedOnce.closing.set()
        due = time.monotonic() + 30
        while not caplog.records and time.monotonic() < due:
            time.sleep(0.01)
        assert "could not be renewed" in caplog.text
        until = lease._until  # type: ignore[attr-defined]
        while lease._until == until and time.monotonic() < due:  # type: ignore[attr-defined]
            time.sleep(0.01)
        assert lease._until > until  # type: ignore[attr-defined]
        lease.release()


def test_who_slept_through_the_end_of_a_lease_begins_nothing(client: redis.Redis) -> None:
    """Its fence is too low to note that a refresh begins; an answer it has received is stored all the same."""
    store = RedisTokenStore(client, lease_seconds=0.2)
    store.save(numbered(1))
    sleeper, awake = store.lock("default"), store.lock("default")
    assert sleeper.acquire(0)
    sleeper._released.set()  # type: ignore[attr-defined]
    assert awake.acquire(60)
    assert store.replace(numbered(1), numbered(1).replace(refresh_sent_at=1), "default", fence=awake.fence)
    assert not store.replace(numbered(1), numbered(1).replace(refresh_sent_at=2), "default", fence=sleeper.fence)
    assert store.replace(numbered(1), numbered(2), "default")
    assert not store.replace(numbered(1), numbered(3), "default")
    awake.release()


def test_a_command_that_is_sent_twice(client: redis.Redis) -> None:
    """A client that repeats what got no answer finds its own work, and takes it for its own."""
    store = RedisTokenStore(client)
    assert store.replace(None, numbered(1), "default")
    assert store.replace(None, numbered(1), "default")
    lock = store.lock("default")
    assert lock.acquire(0)
    fence, lock.fence = lock.fence, -1  # type: ignore[misc]
    assert lock.acquire(0)
    assert lock.fence == fence
    lock.release()


def test_redis_out_of_reach(redis_server: RedisServer, tmp_path: Path) -> None:
    """An error of the store, without a word of what was to be stored."""
    nowhere = redis.Redis(unix_socket_path=str(tmp_path / "none.sock"), retry=None)
    store = RedisTokenStore(nowhere)
    for call in (
        store.load,
        store.accounts,
        store.delete,
        lambda: store.save(FULL),
        lambda: store.replace(None, FULL, "default"),
        lambda: store.lock("default").acquire(0),
    ):
        with pytest.raises(TokenStoreError) as caught:
            call()
        assert FULL.access_token not in str(caught.value)
    store.lock("default").release()


@pytest.mark.parametrize("lease", [0, -1, 1e9, float("nan")])
def test_what_cannot_be_used(client: redis.Redis, lease: float) -> None:
    """A lease that cannot be renewed in time, or never ends; another client; no token set."""
    with pytest.raises(UsageError):
        RedisTokenStore(client, lease_seconds=lease)
    with pytest.raises(ArgumentTypeError):
        RedisTokenStore("redis://")  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        RedisTokenStore(client).save("token")  # type: ignore[arg-type]


# -- three hosts, one of which dies

HOST = """
import json, sys
import dpop, redis
from dpop.errors import TokenError
from dpop.redis import RedisIntrospectionCache, RedisTokenStore
from dpop.requests import TokenEndpoint

facts = json.loads(sys.stdin.readline())
endpoint = TokenEndpoint(dpop.load_key(facts["key"]), facts["url"], client_id="c")
store = RedisTokenStore(redis.Redis.from_url(facts["redis"], socket_timeout=60), lease_seconds=1)
source = endpoint.source(store)
print("ready", flush=True)
sys.stdin.readline()
try:
    print(json.dumps({"token": source()}))
except TokenError as error:
    print(json.dumps({"error": error.code, "said": str(error)}))
"""


class Server:
    """A token endpoint that rotates, detects the second use of a refresh token, and hangs at the first request."""

    def __init__(self, *, acts_first: bool) -> None:
        self.asked, self.goes_on = threading.Event(), threading.Event()
        self._acts_first = acts_first
        self._lock = threading.Lock()
        self._good = "r0"
        self.count = 0

    def __call__(self, request: Received) -> Response:
        with self._lock:
            self.count += 1
            first = self.count == 1
            response = self._act(request) if self._acts_first or not first else None
        if first:
            self.asked.set()
            self.goes_on.wait(60)
        return response or Response(drop=True)

    def _act(self, request: Received) -> Response:
        if f"refresh_token={self._good}".encode() not in request.body:
            return Response(400, [], b'{"error":"invalid_grant"}')
        self._good = f"r{self.count}"
        body = {"access_token": f"a{self.count}", "token_type": "DPoP", "expires_in": 3600, "refresh_token": self._good}
        return Response(200, [], json.dumps(body).encode())


@contextmanager
def hosts(server: Server, redis_url: str, tmp_path: Path) -> Iterator[tuple[list[subprocess.Popen[str]], Recorder]]:
    """Three processes that are about to ask for a token, and the server they will ask."""
    key = tmp_path / "key.pem"
    KEY.save(key)
    with Recorder(server) as recorder:
        facts = {"key": str(key), "url": recorder.url("/token"), "redis": redis_url}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        running = [subprocess.Popen([sys.executable, "-c", HOST], **pipes) for _ in range(3)]
        try:
            for host in running:
                assert host.stdin is not None
                assert host.stdout is not None
                host.stdin.write(json.dumps(facts) + "\n")
                host.stdin.flush()
            for host in running:
                assert host.stdout is not None
                assert host.stdout.readline() == "ready\n"
            yield running, recorder
        finally:
            server.goes_on.set()
            for host in running:
                host.kill()
                host.communicate()


def outcome(host: subprocess.Popen[str]) -> dict[str, str]:
    """What a host came to."""
    assert host.stdout is not None
    said: dict[str, str] = json.loads(host.stdout.readline())
    return said


@pytest.mark.parametrize("acts_first", [False, True])
def test_a_host_that_dies_in_the_middle(client: redis.Redis, redis_url: str, tmp_path: Path, acts_first: bool) -> None:
    """One more request, whatever comes of it; if the new token was lost with the host, that is what all are told."""
    store = RedisTokenStore(client, lease_seconds=1)
    store.save(TokenSet(access_token="a0", expires_at=1, refresh_token="r0", jkt=KEY.thumbprint))
    server = Server(acts_first=acts_first)
    with hosts(server, redis_url, tmp_path) as (running, _recorder):
        first, *others = running
        go(first)
        assert server.asked.wait(60)
        for host in others:
            go(host)
        first.kill()
        server.goes_on.set()
        outcomes = [outcome(host) for host in others]
    assert server.count == 2
    stored = store.load()
    assert stored is not None
    if acts_first:
        assert {said.get("error") for said in outcomes} == {"reauthorization"}
        assert all("its response never arrived" in said["said"] for said in outcomes)
        assert stored.refusal["error"] == "invalid_grant"
    else:
        assert outcomes == [{"token": "a2"}] * 2
        assert (stored.access_token, stored.refresh_token, stored.refresh_sent_at) == ("a2", "r2", None)


def go(host: subprocess.Popen[str]) -> None:
    """Let a host begin."""
    assert host.stdin is not None
    host.stdin.write("\n")
    host.stdin.flush()


def test_keys_that_are_evicted_or_deleted_cost_no_refresh(client: redis.Redis) -> None:
    """The fence counts in the record, so nothing but the record itself can be lost apart from it."""
    key = dpop.generate_key()
    old = TokenSet(access_token="a0", issued_at=0, expires_at=1, refresh_token="r0", jkt=key.thumbprint)
    RedisTokenStore(client).save(old)
    now = [1000.0]
    with RotatingServer() as server:
        endpoint = TokenEndpoint(key, server.url, client_id="c", clock=lambda: now[0])
        for number in range(1, 6):
            assert endpoint.source(RedisTokenStore(client))() == f"a{number}"
            for name in client.scan_iter():
                if name != b"dpop:tokens:{default}":
                    client.delete(name)
            if number == 3:
                client.hdel("dpop:tokens:{default}", "fence")
            now[0] += 4000
    assert client.keys() == [b"dpop:tokens:{default}"]


def test_a_lease_without_tokens_is_no_account(client: redis.Redis) -> None:
    """Neither while it is held nor afterwards."""
    store = RedisTokenStore(client)
    lock = store.lock("a")
    assert lock.acquire(0)
    assert store.accounts() == []
    lock.release()
    assert client.keys() == []


def test_a_cluster() -> None:
    """A RedisCluster keeps record and lease of an account on one node, and is a store as any other; and so a cache."""
    with running_cluster() as port:
        cluster = redis.RedisCluster(host="127.0.0.1", port=port)
        store = RedisTokenStore(cluster)
        for account in ("alice", "bob"):
            store.save(FULL, account)
            assert store.load(account) == FULL
            first, second = store.lock(account), store.lock(account)
            assert first.acquire(0)
            assert not second.acquire(0)
            assert store.replace(FULL, numbered(1), account, fence=first.fence)
            first.release()
            assert second.acquire(0)
            assert second.fence > first.fence
            second.release()
        assert store.accounts() == ["alice", "bob"]
        store.delete("alice")
        assert store.accounts() == ["bob"]
        responses = RedisIntrospectionCache(cluster)
        responses.put("name", "entry", 10)
        assert (responses.get("name"), responses.get("other")) == ("entry", None)
        cluster.close()


def test_a_cluster_that_is_gone() -> None:
    """The store raises an error of this package, and a replay cache does what the operator has chosen."""
    with running_cluster() as port:
        cluster = redis.RedisCluster(host="127.0.0.1", port=port)
        store = RedisTokenStore(cluster)
        store.save(FULL)
    calls: list[Callable[[], object]] = [store.load, lambda: store.save(FULL), store.accounts]
    for call in calls:
        with pytest.raises(TokenStoreError, match="cannot be reached"):
            call()
    refusing = RedisReplayCache(cluster, when_down="refuse")
    for ask in (refusing.add, refusing.add_unbound):
        with pytest.raises(ReplayCacheError, match="cannot be reached"):
            ask("a.1", time.time() + 60)
    with pytest.raises(ReplayCacheError, match="cannot be reached"):
        refusing.check()
    accepting = RedisReplayCache(cluster, when_down="accept")
    assert accepting.add("a.1", time.time() + 60)
    assert accepting.add_unbound("a.2", time.time() + 60)
    cluster.close()


def test_an_event_loop_runs_on_while_redis_stands_still() -> None:
    """Redis does not respond from the token response on: other tasks run, one of which wakes Redis up again."""
    arrived = threading.Event()
    with running_redis() as server, redis.Redis.from_url(server.url, socket_timeout=30) as client:
        key = dpop.generate_key()
        store = RedisTokenStore(client)
        store.save(TokenSet(access_token="a0", expires_at=1, refresh_token="r0", jkt=key.thumbprint))
        assert server.process is not None

        def meddle(_: int) -> None:
            assert server.process is not None
            server.process.send_signal(signal.SIGSTOP)
            arrived.set()

        async def program() -> str:
            assert server.process is not None
            asking = asyncio.create_task(source.atoken())
            await asyncio.to_thread(arrived.wait, 30)
            await asyncio.sleep(0.3)
            assert not asking.done()
            server.process.send_signal(signal.SIGCONT)
            return await asking

        with RotatingServer(meddle) as tokens:
            source = AsyncTokenEndpoint(key, tokens.url, client_id="c").source(store)
            begun = time.monotonic()
            assert asyncio.run(program()) == "a1"
            assert time.monotonic() - begun < 20
