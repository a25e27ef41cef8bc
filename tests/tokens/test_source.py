# SPDX-License-Identifier: Apache-2.0
"""Token sources: one refresh for all who ask, and no refresh token lost, whatever goes wrong."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import httpx2
import pytest
import requests
from support.endpoints import ENDPOINTS, Endpoint
from support.recorder import Received, Recorder, Response, script

import dpop
from dpop.client._request import BearerToken
from dpop.errors import (
    ArgumentTypeError,
    InvalidTokenResponseError,
    KeyMismatchError,
    OutcomeUnknownError,
    ReauthorizationError,
    TokenEndpointUnavailableError,
    TokenLockError,
    TokenRefusedError,
    TokensNotSavedError,
    TokenStoreError,
    UsageError,
)
from dpop.requests import DPoPAdapter, TokenEndpoint
from dpop.testing import DPoPTestServer
from dpop.tokens import (
    FileTokenStore,
    HTTPRequest,
    HTTPResponse,
    MemoryTokenStore,
    NoResponse,
    Steps,
    TokenSet,
    TokenStore,
    _async_source,
    _source,
)
from dpop.tokens._async_source import sent_on_callers_loop
from dpop.tokens._source import RefreshInProgress

KEY = dpop.generate_key()


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Fixture:
    """A server, a store with tokens of it, and sources over both."""

    def __init__(self, name: str, server: DPoPTestServer, store: TokenStore) -> None:
        self.name, self.server, self.store, self.clock = name, server, store, Clock()
        self.store.save(self.old)
        self._endpoints: list[Endpoint] = []

    @property
    def old(self) -> TokenSet:
        """Tokens that have expired, with a good refresh token."""
        return TokenSet(
            access_token="old",
            issued_at=self.clock.now - 3600,
            expires_at=self.clock.now,
            refresh_token=self.server.issue_refresh_token(jkt=KEY.thumbprint),
            jkt=KEY.thumbprint,
        )

    def endpoint(self, **options: Any) -> Endpoint:
        """Another endpoint, as another process has it."""
        known = {"client_id": self.server.client_id, "client_secret": self.server.client_secret, "clock": self.clock}
        server = options.pop("server", self.server.token_endpoint)
        made = Endpoint(self.name, options.pop("key", KEY), server, **{**known, "timeout": 5, **options})
        self._endpoints.append(made)
        return made

    def source(self, store: Any = None, *, source: dict[str, Any] | None = None, **options: Any) -> Any:
        """A source, and a function that asks it."""
        endpoint = self.endpoint(**options)
        made = endpoint.it.source(store or self.store, **(source or {}))
        made.ask = lambda: endpoint.wait(asked) if inspect.isawaitable(asked := made()) else asked
        return made

    @property
    def refreshes(self) -> list[int]:
        """The status of each refresh; nonce challenges are not counted."""
        statuses = [entry.status for entry in self.server.requests if entry.path == "/token"]
        challenged = sum(refusal.error == "use_dpop_nonce" for refusal in self.server.refusals)
        return statuses[challenged:] if challenged else statuses

    def close(self) -> None:
        for endpoint in self._endpoints:
            endpoint.close()


@pytest.fixture(params=["requests", "httpx2-async"])
def name(request: pytest.FixtureRequest) -> str:
    """An integration for threads and one for tasks: a source knows no more of them."""
    return str(request.param)


@pytest.fixture
def server() -> Iterator[DPoPTestServer]:
    """A server that rotates refresh tokens and revokes all when an old one is used again."""
    with DPoPTestServer(nonces="none", rotate_refresh_tokens=True) as running:
        yield running


@pytest.fixture
def at(name: str, server: DPoPTestServer, tmp_path: Path) -> Iterator[Fixture]:
    """The server with tokens in a file."""
    made = Fixture(name, server, FileTokenStore(tmp_path / "tokens.json"))
    yield made
    made.close()


@pytest.fixture
def requests_at(server: DPoPTestServer, tmp_path: Path) -> Iterator[Fixture]:
    """The server with tokens in a file, for requests."""
    made = Fixture("requests", server, FileTokenStore(tmp_path / "tokens.json"))
    yield made
    made.close()


# -- the common case


@pytest.mark.parametrize("name", sorted(ENDPOINTS), indirect=True)
def test_refreshed_once_and_then_fresh(at: Fixture) -> None:
    """An expired token is refreshed by the first call; later ones send nothing, and the store has it all."""
    source = at.source()
    first = source.ask()
    assert first not in {"", "old"}
    assert [source.ask() for _ in range(10)] == [first] * 10
    assert at.refreshes == [200]
    stored = at.store.load()
    assert stored is not None
    assert (stored.access_token, stored.jkt, stored.refresh_sent_at) == (first, KEY.thumbprint, None)
    assert at.source().ask() == first
    assert at.refreshes == [200]


def test_each_expiry_costs_one_refresh(at: Fixture) -> None:
    """Ten expiries, ten refreshes, each with the refresh token of the one before."""
    source = at.source()
    seen = set()
    for _ in range(10):
        seen.add(source.ask())
        at.clock.now += 3600
    assert len(seen) == 10
    assert at.refreshes == [200] * 10


def test_without_an_expiry_it_is_good_until_refused(at: Fixture) -> None:
    """A server that does not say how long a token lives is not asked again for that."""
    at.store.save(at.old.replace(expires_at=None))
    source = at.source()
    assert source.ask() == "old"
    at.clock.now += 1e6
    assert source.ask() == "old"
    source.refused("old")
    assert source.ask() != "old"
    assert at.refreshes == [200]


def test_accounts_have_sources_of_their_own(at: Fixture) -> None:
    """Each account's tokens are refreshed with its own refresh token."""
    at.store.save(at.old, "alice")
    at.store.save(at.old, "bob")
    endpoint = at.endpoint()
    tokens = set()
    for account in ("default", "alice", "bob"):
        source = endpoint.it.source(at.store, account=account)
        asked = source()
        tokens.add(endpoint.wait(asked) if inspect.isawaitable(asked) else asked)
        assert account in repr(source)
    assert len(tokens) == 3
    assert at.refreshes == [200] * 3


def test_a_grant_that_needs_no_user(at: Fixture) -> None:
    """client_credentials: the first token and each after it come of the same grant."""
    source = at.source(MemoryTokenStore(), source={"grant": "client_credentials", "scope": "read"})
    first = source.ask()
    at.clock.now += 3600
    assert source.ask() != first
    assert [entry.body.decode().count("client_credentials") for entry in at.server.requests] == [1, 1]


def test_a_grant_that_needs_no_user_replaces_a_dead_refresh_token(at: Fixture) -> None:
    """Where the client can ask anew, invalid_grant is the end of one refresh token and of nothing else."""
    at.store.save(at.old.replace(refresh_token="dead"))
    source = at.source(source={"grant": "client_credentials"})
    assert source.ask() != "old"
    assert at.refreshes == [400, 200]


# -- threads, tasks, processes


def test_threads(requests_at: Fixture) -> None:
    """64 threads on an expired token: one refresh, one token for all."""
    source = requests_at.source()
    barrier = threading.Barrier(64)

    def ask(_: int) -> str:
        barrier.wait()
        return str(source())

    with ThreadPoolExecutor(64) as pool:
        for _ in range(3):
            assert len(set(pool.map(ask, range(64)))) == 1
            requests_at.clock.now += 3600
    assert requests_at.refreshes == [200] * 3


@pytest.mark.parametrize("name", ["httpx-async", "httpx2-async", "requests"], indirect=True)
def test_tasks_and_cancellation(at: Fixture) -> None:
    """Of 50 tasks the one that began the refresh and ten others are cancelled: the rest get the token."""
    endpoint = at.endpoint()
    source = endpoint.it.source(at.store)

    async def storm() -> set[str]:
        tasks = [asyncio.create_task(source.atoken()) for _ in range(50)]
        await asyncio.sleep(0)
        for task in tasks[:11]:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in done[:11])
        return set(map(str, done[11:]))

    assert len(endpoint.wait(storm())) == 1
    assert at.refreshes == [200]


@pytest.mark.parametrize("name", ["httpx-async", "httpx2-async"], indirect=True)
def test_all_callers_may_go(at: Fixture) -> None:
    """When everybody is cancelled the refresh still ends in the store."""
    endpoint = at.endpoint()
    source = endpoint.it.source(at.store)

    async def nobody_waits() -> None:
        task = asyncio.create_task(source.atoken())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while source._refresh is not None:  # noqa: ASYNC110 - nothing says when it is over, for nobody waits
            await asyncio.sleep(0.001)

    endpoint.wait(nobody_waits())
    stored = at.store.load()
    assert stored is not None
    assert stored.access_token != "old"
    assert endpoint.wait(source.atoken()) == stored.access_token
    assert at.refreshes == [200]


@pytest.mark.parametrize("name", ["httpx-async", "httpx2-async"], indirect=True)
def test_more_sources_than_worker_threads(at: Fixture) -> None:
    """A source for each task is one too many, but they do not wait in threads that the one at work needs."""
    endpoint = at.endpoint()

    async def storm() -> set[str]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
        sources = [endpoint.it.source(at.store) for _ in range(20)]
        return set(await asyncio.gather(*(source() for source in sources)))

    assert len(endpoint.wait(storm())) == 1
    assert at.refreshes == [200]


INTERRUPTED = """
import json, os, signal, sys, threading
import dpop
from dpop.requests import TokenEndpoint
from dpop.tokens import FileTokenStore

facts = json.loads(sys.stdin.readline())
endpoint = TokenEndpoint(dpop.load_key(facts["key"]), facts["url"], client_id="c")
source = endpoint.source(FileTokenStore(facts["path"]))
threading.Thread(target=lambda: (sys.stdin.readline(), os.kill(os.getpid(), signal.SIGINT)), daemon=True).start()
try:
    source()
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_ctrl_c_loses_nothing(tmp_path: Path) -> None:
    """An interrupt while the answer is on its way ends the caller's wait; the answer still gets into the store."""
    key, path = tmp_path / "key.pem", tmp_path / "tokens.json"
    KEY.save(key)
    FileTokenStore(path).save(TokenSet(access_token="old", expires_at=1, refresh_token="r0", jkt=KEY.thumbprint))
    interrupted = threading.Event()
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def response(_request: Received) -> Response:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
            assert interrupted.wait(60)
            return Response(200, [], b'{"access_token":"new","token_type":"DPoP","refresh_token":"r1"}')

        with Recorder(response) as recorder:
            facts = {"key": str(key), "path": str(path), "url": recorder.url("/token")}
            process.stdin.write(json.dumps(facts) + "\n")
            process.stdin.flush()
            assert process.stdout.readline() == "interrupted\n"
            interrupted.set()
            assert process.wait(60) == 0
    stored = FileTokenStore(path).load()
    assert stored is not None
    assert (stored.access_token, stored.refresh_token, stored.refresh_sent_at) == ("new", "r1", None)


def test_a_loop_that_ends_strands_nobody(server: DPoPTestServer) -> None:
    """A refresh begun on a loop that is closed meanwhile is begun anew by the next who asks."""
    at = Fixture("httpx-async", server, MemoryTokenStore())
    held = at.store.lock("default")
    assert held.acquire(0)
    endpoint = at.endpoint()
    source = endpoint.it.source(at.store)

    async def begin() -> None:
        task = asyncio.create_task(source.atoken())
        await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(begin())
    held.release()
    assert endpoint.wait(source.atoken()) != "old"
    assert at.refreshes == [200]
    at.close()


def test_a_request_on_a_loop_that_stopped_is_not_continued_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its caller has given up, and a response would be lost if the loop ran again."""
    monkeypatch.setattr(_async_source, "_LOOK_SECONDS", 0.01)
    sent, cancelled = asyncio.Event(), asyncio.Event()

    async def exchange(_: HTTPRequest) -> HTTPResponse:
        sent.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    def steps() -> Steps[None]:
        yield HTTPRequest("GET", "https://as.example/", (), None, signed=False)

    with ThreadPoolExecutor(1) as pool, asyncio.Runner() as runner:

        async def begin() -> Future[None]:
            begun = pool.submit(sent_on_callers_loop(exchange), steps())
            await asyncio.wait_for(sent.wait(), 30)
            return begun

        begun = runner.run(begin())
        with pytest.raises(NoResponse, match="the event loop of its client ended"):
            begun.result(30)
        runner.run(asyncio.wait_for(cancelled.wait(), 30))


WORKER = """
import json, sys, threading
import dpop
from dpop.requests import TokenEndpoint
from dpop.tokens import FileTokenStore

facts = json.loads(sys.stdin.readline())
client = {"client_id": facts["id"], "client_secret": facts["secret"]}
endpoint = TokenEndpoint(dpop.load_key(facts["key"]), facts["url"], **client)
source = endpoint.source(FileTokenStore(facts["path"]))
got = []
threads = [threading.Thread(target=lambda: got.append(source())) for _ in range(16)]
print("ready", flush=True)
sys.stdin.readline()
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(json.dumps(got))
"""


def test_processes(requests_at: Fixture, tmp_path: Path) -> None:
    """4 processes of 16 threads on an expired token: one refresh, and 64 times the same token."""
    at = requests_at
    key = tmp_path / "key.pem"
    KEY.save(key)
    facts = {
        "key": str(key),
        "url": at.server.token_endpoint,
        "id": at.server.client_id,
        "secret": at.server.client_secret,
        "path": str(tmp_path / "tokens.json"),
    }
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for worker in workers:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(json.dumps(facts) + "\n")
        worker.stdin.flush()
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    got: list[str] = []
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.close()
    for worker in workers:
        assert worker.stdout is not None
        got += json.loads(worker.stdout.read())
        worker.stdout.close()
        assert worker.wait(60) == 0
    assert len(got) == 64
    assert len(set(got)) == 1
    assert at.refreshes == [200]


def test_a_fork_in_the_middle(requests_at: Fixture) -> None:
    """A child forked while a refresh is under way waits for the store, not for a thread it does not have."""
    at = requests_at
    source = at.source()
    lock = at.store.lock("default")
    assert lock.acquire(0)
    asking = threading.Thread(target=source)
    asking.start()
    while source._refresh is None:
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on: a fork with threads may deadlock
        child = os.fork()
    if child == 0:
        status = 1
        signal.alarm(60)
        try:
            status = 0 if source() not in {"", "old"} else 2
        finally:
            os._exit(status)
    lock.release()
    asking.join(30)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert at.refreshes == [200]


# -- ahead of time


def test_refreshed_ahead_without_making_anybody_wait(requests_at: Fixture) -> None:
    """In the last fifth of its life a token is renewed once; meanwhile it is handed out."""
    at = requests_at
    source = at.source(source={"ahead": 300.0})
    first = source()
    at.clock.now += 3600 - 250
    lock = at.store.lock("default")
    assert lock.acquire(0)
    assert [source() for _ in range(5)] == [first] * 5
    lock.release()
    at.clock.now += 240
    source()
    wait_for(lambda: source() != first)
    assert at.refreshes == [200, 200]


def test_a_server_that_is_down_is_not_noticed_ahead_of_time(
    requests_at: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the token is good, failures to renew it are nobody's problem; after that they are."""
    at, now = requests_at, time.monotonic()
    monkeypatch.setattr(_source, "time", types.SimpleNamespace(monotonic=lambda: now))
    source = at.source(source={"ahead": 300.0})
    first = source()
    at.clock.now += 3600 - 250
    at.server.levers.fail_next(100, status=503, path="/token")
    for _ in range(50):
        assert source() == first
    wait_for(lambda: source._refresh is None)
    at.clock.now += 250
    for _ in range(20):
        with pytest.raises(TokenEndpointUnavailableError):
            source()
    assert len(at.server.requests) < 8


def test_a_server_that_is_down_is_not_asked_by_each_caller(at: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a second failure the callers of the next seconds get its error, and the server no request."""
    now = time.monotonic()
    monkeypatch.setattr(_source, "time", types.SimpleNamespace(monotonic=lambda: now))
    at.server.levers.fail_next(100, status=503, path="/token")
    source = at.source()
    for _ in range(10):
        with pytest.raises(TokenEndpointUnavailableError):
            source.ask()
    assert at.refreshes == [503, 503]
    monkeypatch.setattr(_source, "time", types.SimpleNamespace(monotonic=lambda: now + 60))
    with pytest.raises(TokenEndpointUnavailableError):
        source.ask()
    assert at.refreshes == [503, 503, 503]


def test_fresh_tokens_that_are_refused_again_and_again(at: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five a minute are replaced; then it is not the tokens, and the current one is kept."""
    now = time.monotonic()
    monkeypatch.setattr(_source, "time", types.SimpleNamespace(monotonic=lambda: now))
    source = at.source()
    for _ in range(8):
        source.refused(source.ask())
    assert len({source.ask() for _ in range(3)}) == 1
    assert at.refreshes == [200] * 6
    monkeypatch.setattr(_source, "time", types.SimpleNamespace(monotonic=lambda: now + 61))
    source.refused(token := source.ask())
    assert source.ask() != token


def test_a_refresh_has_a_second_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that finds one which another has just made does not take it for abandoned."""
    now = time.monotonic()
    monkeypatch.setattr(_source, "time", types.SimpleNamespace(monotonic=lambda: now))
    assert not RefreshInProgress().is_stuck


def test_a_process_that_starts_while_the_server_is_down(at: Fixture) -> None:
    """Stored tokens that should be renewed but have not expired will do, in a process that has just started too."""
    at.store.save(at.old.replace(expires_at=at.clock.now + 100))
    at.server.levers.fail_next(100, status=503, path="/token")
    source = at.source()
    assert [source.ask() for _ in range(5)] == ["old"] * 5
    assert at.refreshes == [503]
    at.clock.now += 100
    with pytest.raises(TokenEndpointUnavailableError):
        at.source().ask()


def test_hosts_do_not_renew_in_step(requests_at: Fixture) -> None:
    """Each source begins at a time of its own, up to half the margin earlier."""
    early = requests_at.source(source={"ahead": 100.0})
    early._early = 1.5
    tokens = TokenSet(access_token="a", issued_at=0, expires_at=1000)
    assert early._stale_at(tokens) == 850
    assert len({requests_at.source()._early for _ in range(20)}) > 10


def test_a_margin_longer_than_a_life(requests_at: Fixture) -> None:
    """Tokens are not renewed before half their life is over, nor within a second, whatever is asked for."""
    at = requests_at
    source = at.source(source={"ahead": 1e6})
    first = source()
    at.clock.now += 800
    assert source() == first
    at.server.levers.token_lifetime = 0
    hasty = at.source(MemoryTokenStore(), source={"grant": "client_credentials"})
    assert len({hasty() for _ in range(10)}) == 1
    assert at.refreshes == [200, 200]


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something has come about in another thread."""
    ticks = threading.Event()
    for _ in range(3000):
        if condition():
            return
        ticks.wait(0.01)
    raise AssertionError


# -- what can go wrong


def test_a_process_without_a_thread_to_spare(requests_at: Fixture) -> None:
    """Without another thread the caller does the work itself, as at the end of the interpreter."""
    requests_at.store.save(requests_at.old.replace(expires_at=requests_at.clock.now + 3600))
    source = requests_at.source()
    before = threading.stack_size(1 << 50)  # more than any machine has: no thread starts
    try:
        assert source() == "old"
        assert source.ensure(lambda _: True).access_token == "old"
    finally:
        threading.stack_size(before)


def test_a_lock_is_not_waited_for_in_a_thread_that_its_holder_may_need(at: Fixture) -> None:
    """A source asks again and again, and pauses without a thread in between."""
    asked = []

    class Asked(MemoryTokenStore):
        def lock(self, account: str) -> Any:
            lock = super().lock(account)
            acquire = lock.acquire
            lock.acquire = lambda timeout: (asked.append(timeout), acquire(timeout))[1]  # type: ignore[method-assign]
            return lock

    store = Asked()
    store.save(at.old)
    holder = MemoryTokenStore.lock(store, "default")
    assert holder.acquire(0)
    asked.clear()
    with pytest.raises(TokenLockError):
        at.source(store, source={"lock_seconds": 0.1}).ask()
    assert set(asked) == {0}
    holder.release()


def test_a_foreign_key_sends_nothing(at: Fixture) -> None:
    """The jkt in the store is compared before the refresh token leaves."""
    with pytest.raises(KeyMismatchError):
        at.source(key=dpop.generate_key()).ask()
    assert at.server.requests == []


def test_no_tokens(at: Fixture) -> None:
    """An empty store, or one without a refresh token, says that the user has to authorise."""
    with pytest.raises(ReauthorizationError, match="no tokens"):
        at.source(MemoryTokenStore()).ask()
    at.store.save(at.old.replace(refresh_token=None))
    with pytest.raises(ReauthorizationError, match="no refresh token"):
        at.source().ask()
    assert at.server.requests == []


def test_a_dead_refresh_token_is_sent_once(at: Fixture) -> None:
    """invalid_grant is final: no further call sends it, until other tokens are in the store."""
    at.store.save(at.old.replace(refresh_token="dead"))
    source = at.source()
    for _ in range(5):
        with pytest.raises(ReauthorizationError):
            source.ask()
    assert at.refreshes == [400]
    at.store.save(at.old)
    assert source.ask() != "old"


def test_invalid_grant_when_another_was_faster(at: Fixture) -> None:
    """Before giving up the store is read once more: another program may have put new tokens there."""

    class Overtaken(FileTokenStore):
        """A store that another program, which knows no locks, writes to at the worst moment."""

        loads = 0

        def load(self, account: str = "default") -> TokenSet | None:
            self.loads += 1
            if self.loads == 4:  # after the note that a refresh begins: two reads, one to compare, and now
                FileTokenStore.replace(self, super().load(account), newer, account)
            return super().load(account)

    assert isinstance(at.store, FileTokenStore)
    newer = at.old.replace(access_token="newer", expires_at=at.clock.now + 3600)
    at.store.save(at.old.replace(refresh_token="dead"))
    assert at.source(Overtaken(at.store.path)).ask() == "newer"
    assert at.refreshes == [400]


def test_a_dead_refresh_token_that_cannot_be_noted_is_sent_once(at: Fixture) -> None:
    """The store takes no note of the refusal, so this process remembers it."""
    assert isinstance(at.store, FileTokenStore)
    at.store.save(at.old.replace(refresh_token="dead"))
    store = Fragile(at.store.path)
    store.fail_at = 2
    source = at.source(store)
    for _ in range(3):
        with pytest.raises(ReauthorizationError):
            source.ask()
    assert at.refreshes == [400]


@pytest.mark.parametrize(
    ("status", "sent_before", "noted"),
    [(429, False, False), (429, True, True), (503, False, True)],
    ids=["not looked at", "one before was lost", "perhaps used"],
)
def test_what_is_known_of_the_refresh_token_after_a_failure(
    at: Fixture, status: int, sent_before: bool, noted: bool
) -> None:
    """The note that it was sent goes only where the server has surely not used it, now or before."""
    before = at.old.replace(refresh_sent_at=at.clock.now - 60) if sent_before else at.old
    at.store.save(before)
    at.server.levers.fail_next(10, status=status, path="/token")
    with pytest.raises(TokenEndpointUnavailableError):
        at.source().ask()
    stored = at.store.load()
    assert stored is not None
    assert (stored.refresh_sent_at is not None) is noted
    assert stored.refresh_token == before.refresh_token


@pytest.mark.parametrize("sent_before", [False, True], ids=["not looked at", "one before was lost"])
def test_a_refused_client_used_no_refresh_token(at: Fixture, sent_before: bool) -> None:
    """The server authenticates the client first (RFC 6749 §6), so nothing is unknown about the refresh token."""
    before = at.old.replace(refresh_sent_at=at.clock.now - 60) if sent_before else at.old
    at.store.save(before)
    with pytest.raises(TokenRefusedError, match="invalid_client"):
        at.source(client_id="nobody-knows-it").ask()
    stored = at.store.load()
    assert stored is not None
    assert (stored.refresh_sent_at is not None) is sent_before
    assert stored.refresh_token == before.refresh_token


def test_a_failure_after_a_lost_answer_leaves_its_note(at: Fixture) -> None:
    """The first answer never came and the second says later: the server may have used the token at the first."""
    at.server.levers.drop_next(1, path="/token")
    at.server.levers.fail_next(10, status=429, path="/token")
    with pytest.raises(TokenEndpointUnavailableError):
        at.source().ask()
    stored = at.store.load()
    assert stored is not None
    assert stored.refresh_sent_at is not None
    assert [entry.status for entry in at.server.requests] == [0, 429]


def test_a_refresh_writes_twice(at: Fixture) -> None:
    """That it begins, and what came of it; the next one as well."""
    assert isinstance(at.store, FileTokenStore)
    store = Fragile(at.store.path)
    source = at.source(store)
    for number in (1, 2, 3):
        assert source.ask() != "old"
        assert store.writes == 2 * number
        at.clock.now += 4000


def test_the_fence_of_the_lock_guards_the_beginning(at: Fixture) -> None:
    """A lock that has passed to another host meanwhile lets nobody spend the refresh token twice."""

    class Fenced(MemoryTokenStore):
        fences: ClassVar[list[int | None]] = []

        def lock(self, account: str) -> Any:
            lock = super().lock(account)
            lock.fence = 7
            return lock

        def replace(
            self, old: TokenSet | None, new: TokenSet, account: str = "default", *, fence: int | None = None
        ) -> bool:
            self.fences.append(fence)
            return super().replace(old, new, account, fence=fence)

    store = Fenced()
    store.save(at.old)
    Fenced.fences.clear()
    assert at.source(store).ask() != "old"
    assert Fenced.fences == [7, None]  # what came is kept, whoever has the lock by then


def test_a_refusal_that_comes_while_the_store_is_read(requests_at: Fixture) -> None:
    """The token that was found there meanwhile is the refused one, so it is renewed all the same."""
    first = requests_at.source().ask()
    source = requests_at.source()
    succeeded, told = source._succeeded, []

    def after_a_refusal(refresh: Any, tokens: TokenSet) -> None:
        if not told:
            told.append(source.refused(tokens.access_token))
        succeeded(refresh, tokens)

    source._succeeded = after_a_refusal
    assert source.ask() != first
    assert requests_at.refreshes == [200, 200]


def test_a_refresher_forgets_no_refusal(requests_at: Fixture) -> None:
    """It finds the refused token in the store, where it looks fresh; the next caller has it renewed."""
    source = requests_at.source()
    first = source.ask()
    source.refused(first)
    assert source.ensure(lambda _: True).access_token == first
    assert source.ask() != first
    assert requests_at.refreshes == [200, 200]


def test_the_same_token_again_is_taken(at: Fixture) -> None:
    """A server that gives out the refused token once more must know: it is not asked at each call."""
    body = {"access_token": "same", "token_type": "DPoP", "expires_in": 3600, "refresh_token": "r"}
    responses = [Response(200, [], json.dumps(body).encode())] * 2
    with Recorder(lambda _: responses.pop() if responses else Response(503)) as recorder:
        endpoint = Endpoint(at.name, KEY, recorder.url("/token"), client_id="c", clock=at.clock)
        source = endpoint.it.source(at.store)

        def ask() -> Any:
            return endpoint.wait(asked) if inspect.isawaitable(asked := source()) else asked

        assert ask() == "same"
        source.refused("same")
        assert [ask() for _ in range(5)] == ["same"] * 5
        assert len(recorder.requests) == 2
        # Nor is it worse than another when it should be renewed and the server is down.
        at.clock.now += 3600 - 200
        assert ask() == "same"
        endpoint.close()


def test_a_token_of_a_day_is_renewed_in_its_last_minutes(requests_at: Fixture) -> None:
    """A fifth of its life would be hours; five minutes, and half of that again at most, are enough."""
    at = requests_at
    at.server.levers.token_lifetime = 86_400
    source = at.source()
    first = source()
    at.clock.now += 86_400 - 600
    assert [source() for _ in range(3)] == [first] * 3
    assert source._refresh is None
    assert at.refreshes == [200]


def test_an_answer_that_is_lost_once(at: Fixture) -> None:
    """Without rotation the same refresh token is sent again, with a new proof, and nobody notices."""
    at.server.levers.rotate_refresh_tokens = False
    at.server.levers.drop_next(1, after=True)
    assert at.source().ask() != "old"
    proofs = [entry.proof for entry in at.server.requests]
    assert len(set(proofs)) == len(proofs) == 2


def test_an_answer_that_is_lost_for_good(at: Fixture) -> None:
    """With rotation it was the only copy of the new token: the error says that this is what happened."""
    at.server.levers.drop_next(1, after=True)
    with pytest.raises(ReauthorizationError, match="its response never arrived") as caught:
        at.source().ask()
    assert caught.value.error == "invalid_grant"
    assert len(at.server.requests) == 2


def test_no_answer_at_all(at: Fixture) -> None:
    """Twice no answer: the outcome is unknown, it stays noted in the store, and a later call may yet succeed."""
    at.server.levers.drop_next(2)
    source = at.source()
    with pytest.raises(OutcomeUnknownError, match="refresh once more"):
        source.ask()
    stored = at.store.load()
    assert stored is not None
    assert stored.refresh_sent_at == at.clock.now
    source._next_try = 0
    assert source.ask() != "old"
    stored = at.store.load()
    assert stored is not None
    assert stored.refresh_sent_at is None


def test_a_process_that_died_in_between(at: Fixture) -> None:
    """Its note in the store explains the refusal that follows."""
    at.store.save(at.old.replace(refresh_token="spent", refresh_sent_at=at.clock.now - 60))
    with pytest.raises(ReauthorizationError, match="its response never arrived"):
        at.source().ask()
    assert at.refreshes == [400]


def test_three_refusals_in_a_row_are_counted_across_processes(at: Fixture) -> None:
    """Each process is refused once, under a name that may pass: the third one says that the user has to authorise."""
    refused = Response(400, [], b'{"error":"invalid_request"}')
    tokens = Response(200, [], b'{"access_token":"a","token_type":"DPoP","expires_in":0}')
    with Recorder(script(refused, refused, tokens, refused, refused, refused)) as recorder:

        def another_process() -> Any:
            at.clock.now += 10
            return at.source(server=recorder.url("/token"))

        for expected in (TokenRefusedError, TokenRefusedError, None, TokenRefusedError, TokenRefusedError):
            source = another_process()
            if expected is None:
                assert source.ask() == "a"
            else:
                with pytest.raises(expected) as caught:
                    source.ask()
                assert type(caught.value) is expected
        for _ in range(2):
            with pytest.raises(ReauthorizationError, match="3 times in a row"):
                another_process().ask()
        assert len(recorder.requests) == 6


def test_a_refusal_of_the_proof_leaves_no_note(at: Fixture) -> None:
    """invalid_dpop_proof: the refresh token was not looked at, and is as good as it was."""
    at.server.levers.refuse_next(error="invalid_dpop_proof", path="/token")
    before = at.store.load()
    source = at.source()
    with pytest.raises(TokenEndpointUnavailableError):
        source.ask()
    assert at.store.load() == before
    assert source.ask() != "old"


class Fragile(FileTokenStore):
    """A store whose n-th write fails."""

    fail_at = 0
    writes = 0

    def _write(self, tokens: TokenSet, account: str) -> None:
        self.writes += 1
        if self.writes == self.fail_at:
            raise TokenStoreError("no space left on device")
        super()._write(tokens, account)


def test_a_store_that_cannot_be_written_spends_nothing(at: Fixture) -> None:
    """The note that a refresh begins fails first, and the refresh token does not leave."""
    assert isinstance(at.store, FileTokenStore)
    store = Fragile(at.store.path)
    store.fail_at = 1
    source = at.source(store)
    with pytest.raises(TokenStoreError, match="no space"):
        source.ask()
    assert at.server.requests == []
    assert source.ask() != "old"


def test_new_tokens_that_cannot_be_written(at: Fixture) -> None:
    """They are in the error and nobody gets a token; the next call writes them, and asks for no others."""
    assert isinstance(at.store, FileTokenStore)
    store = Fragile(at.store.path)
    store.fail_at = 2
    source = at.source(store)
    with pytest.raises(TokensNotSavedError) as caught:
        source.ask()
    assert isinstance(caught.value.tokens, TokenSet)
    assert caught.value.tokens.refresh_token is not None
    assert caught.value.tokens.refresh_token not in str(caught.value) + repr(caught.value)
    assert source.ask() == caught.value.tokens.access_token
    assert at.store.load() == caught.value.tokens
    assert at.refreshes == [200]


def test_a_store_of_others_may_raise_anything(at: Fixture) -> None:
    """Whatever it raises when new tokens are written, they are in the error, and written by the next call."""
    assert isinstance(at.store, FileTokenStore)

    class Strange(Fragile):
        def _write(self, tokens: TokenSet, account: str) -> None:
            try:
                super()._write(tokens, account)
            except TokenStoreError:
                raise OSError(28, "no space left") from None

    store = Strange(at.store.path)
    store.fail_at = 2
    source = at.source(store)
    with pytest.raises(TokensNotSavedError) as caught:
        source.ask()
    assert source.ask() == caught.value.tokens.access_token


FULL_DISK = """
import json, os, resource, sys
import dpop
from dpop.errors import *
from dpop.requests import TokenEndpoint
from dpop.tokens import FileTokenStore

facts = json.loads(sys.stdin.readline())
store = FileTokenStore(facts["path"])
source = TokenEndpoint(dpop.load_key(facts["key"]), facts["url"], client_id="c").source(store)
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (facts["limit"], unlimited[1]))
try:
    source()
except TokenStoreError as error:
    print(error.code, store.load().access_token, store.load().refresh_sent_at is not None)
resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
print(source() == store.load().access_token, len(store.load().access_token))
"""


@pytest.mark.parametrize(
    ("limit", "said"),
    [(10, "token_store old False"), (400, "tokens_not_saved old True")],
    ids=["when it begins", "when the answer is written"],
)
def test_a_disk_that_fills_up(tmp_path: Path, limit: int, said: str) -> None:
    """A real limit on what can be written, met at each of the two writes; once there is room, nothing was lost."""
    key, path = tmp_path / "key.pem", tmp_path / "tokens.json"
    KEY.save(key)
    FileTokenStore(path).save(TokenSet(access_token="old", expires_at=1, refresh_token="r0", jkt=KEY.thumbprint))
    body = {"access_token": "x" * 500, "token_type": "DPoP", "expires_in": 3600, "refresh_token": "r1"}
    with Recorder(lambda _: Response(200, [], json.dumps(body).encode())) as recorder:
        facts = {"key": str(key), "path": str(path), "url": recorder.url("/token"), "limit": limit}
        done = subprocess.run(
            [sys.executable, "-c", FULL_DISK],
            input=json.dumps(facts),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.stdout == f"{said}\nTrue 500\n", done.stderr
        assert len(recorder.requests) == 1


def test_a_lock_that_is_not_let_go(at: Fixture) -> None:
    """Nothing is sent without the lock."""
    lock = at.store.lock("default")
    assert lock.acquire(0)
    with pytest.raises(TokenLockError):
        at.source(source={"lock_seconds": 0.05}).ask()
    lock.release()
    assert at.server.requests == []


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"",
        b'{"access_token":"a"}',
        b"x" * 2_000_000,
    ],
    ids=["html", "empty", "no type", "large"],
)
def test_bad_answers_leave_the_old_tokens(name: str, body: bytes, tmp_path: Path) -> None:
    """Whatever the server says instead of tokens, what is in the store is still there."""

    def response(_request: Received) -> Response:
        return Response(200, [], body)

    store = FileTokenStore(tmp_path / "tokens.json")
    old = TokenSet(access_token="old", expires_at=1, refresh_token="r", jkt=KEY.thumbprint)
    store.save(old)
    with Recorder(response) as recorder, Endpoint(name, KEY, recorder.url("/token"), client_id="c") as endpoint:
        source = endpoint.it.source(store)
        with pytest.raises(InvalidTokenResponseError):
            endpoint.wait(asked) if inspect.isawaitable(asked := source()) else asked
    stored = store.load()
    assert stored is not None
    assert stored.replace(refresh_sent_at=None) == old


def test_no_log_holds_a_secret(at: Fixture, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever goes well or wrong, our loggers name no token, secret or proof."""
    caplog.set_level(logging.DEBUG)
    at.server.levers.fail_next(1, status=503, path="/token")
    at.server.levers.drop_next(1, path="/token")
    source = at.source()
    with pytest.raises(TokenEndpointUnavailableError):
        source.ask()
    token = source.ask()
    stored = at.store.load()
    assert stored is not None
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("dpop"))
    assert ours
    proofs = [entry.proof for entry in at.server.requests]
    for secret in (token, stored.refresh_token, at.server.client_secret, *proofs):
        assert str(secret) not in ours


def test_errors_are_each_callers_own(requests_at: Fixture) -> None:
    """Threads that wait for one failure each raise an error object of their own."""
    at = requests_at
    at.store.save(at.old.replace(refresh_token="dead"))
    source = at.source()

    def ask(_: int) -> BaseException:
        with pytest.raises(ReauthorizationError) as caught:
            source()
        return caught.value

    with ThreadPoolExecutor(8) as pool:
        errors = list(pool.map(ask, range(8)))
    assert len(set(map(id, errors))) == 8
    assert {error.subtype for error in errors if isinstance(error, ReauthorizationError)} == {None}


def test_a_source_does_not_travel_and_takes_no_nonsense(at: Fixture) -> None:
    """It holds a key; its settings must make sense."""
    with pytest.raises(UsageError):
        pickle.dumps(at.source())
    with pytest.raises(ArgumentTypeError):
        at.source("tokens.json")
    for options in ({"ahead": -1}, {"ahead": float("inf")}, {"account": ""}, {"audience": "x"}):
        with pytest.raises(UsageError):
            at.source(source=options)


# -- with an adapter


def test_an_invalid_token_is_renewed_and_the_request_sent_again(requests_at: Fixture) -> None:
    """A revoked token: one refresh, one repetition, and the caller sees 200."""
    at = requests_at
    source = at.source()
    with requests.Session() as session:
        session.mount(at.server.origin, DPoPAdapter(KEY, origins=at.server.origin, access_token=source))
        assert session.get(at.server.resource, timeout=60).status_code == 200
        at.server.revoke_access_tokens()
        assert session.get(at.server.resource, timeout=60).status_code == 200
    assert [(entry.path, entry.status) for entry in at.server.requests] == [
        ("/token", 200),
        ("/resource", 200),
        ("/resource", 401),
        ("/token", 200),
        ("/resource", 200),
    ]


def test_a_resource_that_refuses_every_token(requests_at: Fixture) -> None:
    """A server that will have none of them does not make us refresh for ever."""
    at = requests_at
    source = at.source()
    with requests.Session() as session:
        session.mount(at.server.origin, DPoPAdapter(KEY, origins=at.server.origin, access_token=source))
        at.server.levers.refuse_next(1000, error="invalid_token", path="/resource")
        for _ in range(30):
            assert session.get(at.server.resource, timeout=60).status_code == 401
    assert len(at.refreshes) <= 7


def test_an_old_token_that_is_refused_late(requests_at: Fixture) -> None:
    """Many requests with the old token fail at once: one refresh, not one for each."""
    source = requests_at.source()
    first = source()
    for _ in range(10):
        source.refused(first)
        second = source()
    for _ in range(10):
        source.refused(first)
    assert source() == second != first
    assert requests_at.refreshes == [200, 200]
    # Nor do they count when the new one is refused in earnest.
    source.refused(second)
    assert source() not in {first, second}
    assert requests_at.refreshes == [200, 200, 200]


def test_tokens_bound_to_no_key_go_out_as_bearer() -> None:
    """Google's kind: API calls carry Bearer and no proof, and the token is renewed as any other."""
    with DPoPTestServer(mode="google") as server:
        store = MemoryTokenStore()
        store.save(
            TokenSet(access_token="old", expires_at=0, refresh_token=server.issue_refresh_token(jkt=KEY.thumbprint))
        )
        endpoint = TokenEndpoint(
            KEY,
            server.token_endpoint,
            client_id=server.client_id,
            client_secret=server.client_secret,
            profile=dpop.profiles.GOOGLE,
        )
        source = endpoint.source(store)
        with endpoint, requests.Session() as session:
            session.mount(server.origin, DPoPAdapter(KEY, origins=server.origin, access_token=source))
            assert session.get(server.resource, timeout=60).status_code == 200
            assert isinstance(source(), BearerToken)
            server.revoke_access_tokens()
            assert session.get(server.resource, timeout=60).status_code == 200
        calls = [entry for entry in server.requests if entry.path == "/resource"]
        assert [entry.status for entry in calls] == [200, 401, 200]
        for call in calls:
            assert call.fields("DPoP") == []
            assert call.fields("Authorization")[0].startswith("Bearer ")


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_httpx_clients_use_a_source(server: DPoPTestServer, kind: str) -> None:
    """One source serves synchronous and asynchronous clients."""
    at = Fixture("httpx2" if kind == "sync" else "httpx2-async", server, MemoryTokenStore())
    source = at.source()

    async def call() -> list[int]:
        transport = dpop.httpx2.AsyncDPoPTransport(KEY, origins=server.origin, access_token=source)
        async with httpx2.AsyncClient(transport=transport, timeout=60) as client:
            responses = await asyncio.gather(*(client.get(server.resource) for _ in range(10)))
            server.revoke_access_tokens()
            responses += await asyncio.gather(*(client.get(server.resource) for _ in range(10)))
            return [response.status_code for response in responses]

    assert set(at._endpoints[0].wait(call())) == {200}
    assert at.refreshes == [200, 200]
    at.close()


def test_threads_need_no_asyncio() -> None:
    """Importing the integration for requests, or the tokens, does not load what only tasks need."""
    code = "import sys, dpop.requests, dpop.tokens; print('asyncio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"
