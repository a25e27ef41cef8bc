# SPDX-License-Identifier: Apache-2.0
"""A token source and its callers: threads, tasks and processes that ask at once get one refresh."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.recorder import Received, Recorder, Response
from support.sources import KEY, Sources

from dpop.errors import ReauthorizationError, TokenLockError
from dpop.testing import DPoPTestServer
from dpop.tokens import (
    FileTokenStore,
    HTTPRequest,
    HTTPResponse,
    MemoryTokenStore,
    NoResponse,
    Steps,
    TokenSet,
    _async_source,
)
from dpop.tokens._async_source import sent_on_callers_loop


def test_threads(requests_at: Sources) -> None:
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
def test_tasks_and_cancellation(at: Sources) -> None:
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
def test_all_callers_may_go(at: Sources) -> None:
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
def test_more_sources_than_worker_threads(at: Sources) -> None:
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
    at = Sources("httpx-async", server, MemoryTokenStore())
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


def test_processes(requests_at: Sources, tmp_path: Path) -> None:
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


def test_a_fork_in_the_middle(requests_at: Sources) -> None:
    """A child forked while a refresh is under way waits for the store, not for a thread it does not have."""
    at = requests_at
    source = at.source()
    lock = at.store.lock("default")
    assert lock.acquire(0)
    asking = threading.Thread(target=source)
    asking.start()
    while source._refresh is None:
        pass
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


def test_a_process_without_a_thread_to_spare(requests_at: Sources) -> None:
    """Without another thread the caller does the work itself, as at the end of the interpreter."""
    requests_at.store.save(requests_at.old.replace(expires_at=requests_at.clock.now + 3600))
    source = requests_at.source()
    before = threading.stack_size(1 << 50)  # more than any machine has: no thread starts
    try:
        assert source() == "old"
        assert source.ensure(lambda _: True).access_token == "old"
    finally:
        threading.stack_size(before)


def test_a_lock_is_not_waited_for_in_a_thread_that_its_holder_may_need(at: Sources) -> None:
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


def test_errors_are_each_callers_own(requests_at: Sources) -> None:
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
