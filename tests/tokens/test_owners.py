# SPDX-License-Identifier: Apache-2.0
"""Work that belongs to nobody who can end: event loops, tasks, threads and programs end at each moment."""

from __future__ import annotations

import asyncio
import gc
import json
import linecache
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import requests
from support.endpoints import ENDPOINTS, Endpoint, open_sockets
from support.recorder import Received, Recorder, Response
from support.rotating_server import RotatingServer

import dpop
import dpop.aiohttp
import dpop.httpx
import dpop.httpx2
from dpop.errors import ReauthorizationError, TokenLockError, TokenRequestError, UsageError
from dpop.keys import ExternalKey
from dpop.requests import DPoPAdapter, TokenEndpoint
from dpop.tokens import FileTokenStore, MemoryTokenStore, TokenSet

KEY = dpop.generate_key()
OLD = TokenSet(access_token="a0", issued_at=0, expires_at=1, refresh_token="r0", jkt=KEY.thumbprint)
DEADLINE = 30.0


@pytest.fixture(params=[dpop.aiohttp, dpop.httpx, dpop.httpx2], ids=["aiohttp", "httpx", "httpx2"])
def kind(request: pytest.FixtureRequest) -> Any:
    """The asynchronous endpoints."""
    return request.param.AsyncTokenEndpoint


def store() -> MemoryTokenStore:
    """A store with tokens that have expired."""
    made = MemoryTokenStore()
    made.save(OLD)
    return made


def within_deadline(ask: Callable[[], object]) -> Any:
    """What a thread of its own gets, which may not wait for ever."""
    got: list[Any] = []

    def run() -> None:
        try:
            got.append(ask())
        except BaseException as error:  # noqa: BLE001 - it is what the test looks at
            got.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(DEADLINE)
    assert got, "somebody waits for ever"
    return got[0]


async def a_moment(source: Any) -> None:
    """A view that has no time for the token."""
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(source.atoken(), 0.02)


@pytest.mark.parametrize("moment", ["while the lock is held", "before it is sent", "before the response", "after it"])
def test_an_event_loop_that_ends_costs_no_grant(kind: Any, moment: str) -> None:
    """At whatever moment the loop of the first caller ends, the refresh ends in the store."""
    go_on = threading.Event()

    def meddle(_: int) -> None:
        if moment == "before the response":
            assert go_on.wait(DEADLINE)

    kept = store()
    lock = kept.lock("default")
    if moment in {"while the lock is held", "before it is sent"}:
        assert lock.acquire(0)
    with RotatingServer(meddle) as server:
        source = kind(KEY, server.url, client_id="c", timeout=20).source(kept)
        asyncio.run(a_moment(source) if moment != "after it" else source.atoken())
        lock.release()
        if moment == "before it is sent":
            within_deadline(lambda: asyncio.run(source.atoken()))
        go_on.set()
        assert within_deadline(lambda: asyncio.run(source.atoken())) == "a1"
        assert server.sent == ["r0"]
        assert kept.load() is not None
        assert kept.load().refresh_token == "r1"  # type: ignore[union-attr]


def test_a_thousand_short_event_loops(kind: Any) -> None:
    """One endpoint and one source, a loop for each call: no socket, no thread and no grant is left behind."""
    now = [1000.0]
    with RotatingServer(expires_in=100) as server:
        endpoint = kind(KEY, server.url, client_id="c", clock=lambda: now[0])
        source = endpoint.source(store())
        got = set()
        for number in range(1000):
            if number % 20 == 0:
                now[0] += 1000
            got.add(asyncio.run(source.atoken()))
            if number == 20:
                gc.collect()
                sockets, threads = open_sockets(), threading.active_count()
        assert len(got) == 50
        assert server.reused == []
        deadline = time.monotonic() + DEADLINE
        while open_sockets() > sockets or threading.active_count() > threads:
            gc.collect()
            assert time.monotonic() < deadline, (open_sockets(), sockets, threading.enumerate())


class Given:
    """An endpoint with a client that was given, so that requests go out on its event loop."""

    def __init__(self, server: RotatingServer) -> None:
        self.client = httpx2.AsyncClient()
        self.store = store()
        endpoint = dpop.httpx2.AsyncTokenEndpoint(KEY, server.url, client_id="c", http=self.client, timeout=10)
        self.source = endpoint.source(self.store)


@pytest.mark.parametrize("end", ["closed", "kept and not running"])
def test_the_loop_of_a_given_client_may_end_too(end: str) -> None:
    """Nobody waits for it for ever, the lock is free, and the store says that a refresh was sent."""
    hold, arrived = threading.Event(), threading.Event()

    def meddle(number: int) -> Response | None:
        arrived.set()
        assert hold.wait(DEADLINE)
        return None if number else Response(drop=True)

    with RotatingServer(meddle) as server:
        given = Given(server)
        loop = asyncio.new_event_loop()

        async def begin() -> None:
            task = asyncio.create_task(given.source.atoken())
            await asyncio.to_thread(arrived.wait, DEADLINE)
            task.cancel()

        loop.run_until_complete(begin())
        if end == "closed":
            loop.close()
        error = within_deadline(lambda: asyncio.run(given.source.atoken()))
        assert isinstance(error, TokenRequestError)
        hold.set()
        lock = given.store.lock("default")
        assert lock.acquire(DEADLINE)
        lock.release()
        assert given.store.load().refresh_sent_at is not None  # type: ignore[union-attr]
        if end != "closed":
            loop.run_until_complete(ended(loop))
            loop.close()


async def ended(loop: asyncio.AbstractEventLoop) -> None:
    """Let the tasks of a loop that was left standing end."""
    tasks = asyncio.all_tasks(loop) - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def test_a_given_client_works_on_its_loop() -> None:
    """With the loop alive all is as ever, from several tasks."""
    with RotatingServer() as server:
        given = Given(server)

        async def ask() -> list[str]:
            got = await asyncio.gather(*(given.source.atoken() for _ in range(20)))
            await given.client.aclose()
            return got

        assert set(asyncio.run(ask())) == {"a1"}
        assert server.sent == ["r0"]


# -- interrupts


def test_an_interrupt_at_any_line_leaves_no_one_waiting() -> None:
    """An exception in the caller between making a shared refresh and starting it: the next call begins another."""
    steps = 0
    while True:
        left = [steps]

        def trace(frame: Any, event: str, _: Any, left: list[int] = left) -> Any:
            if "/dpop/tokens/_source.py" not in frame.f_code.co_filename:
                return trace
            # Not at the end of a with block, where Python itself lets no signal in before the lock is released.
            if event == "line" and "with self._lock" not in linecache.getline(frame.f_code.co_filename, frame.f_lineno):
                left[0] -= 1
                if left[0] < 0:
                    sys.settrace(None)
                    raise KeyboardInterrupt
            return trace

        with RotatingServer() as server:
            source = TokenEndpoint(KEY, server.url, client_id="c").source(store())
            before = sys.gettrace()
            sys.settrace(trace)
            try:
                token = source()
            except KeyboardInterrupt:
                token = ""
            finally:
                sys.settrace(before)
            assert within_deadline(source) == "a1"
            assert server.sent == ["r0"]
        if token:
            break
        steps += 1
    assert steps > 20


class Stop(BaseException):
    """An interrupt, such as KeyboardInterrupt or a cancellation."""


@pytest.mark.parametrize("name", sorted(ENDPOINTS))
@pytest.mark.parametrize("stop_at", [1, 2])
def test_an_interrupt_takes_the_note_back_if_nothing_was_sent(name: str, stop_at: int) -> None:
    """At the first signature nothing was; at the second, for a nonce retry, a request was, and the store says so."""
    signatures: list[bytes] = []

    def sign(data: bytes) -> bytes:
        signatures.append(data)
        if len(signatures) == stop_at:
            raise Stop
        return KEY.sign(data)

    def challenge(number: int) -> Response | None:
        return None if number else Response(400, [("DPoP-Nonce", "n")], b'{"error":"use_dpop_nonce"}')

    kept = store()
    key = ExternalKey(KEY.public_jwk, sign, signature_format="raw")
    with RotatingServer(challenge) as server, Endpoint(name, key, server.url, client_id="c", timeout=5) as endpoint:
        source = endpoint.it.source(kept)
        with pytest.raises(Stop):
            endpoint.wait(source.atoken())
        assert server.sent == ["r0"] * (stop_at - 1)
        stored = kept.load()
        assert stored is not None
        assert (stored.refresh_sent_at is None) == (stop_at == 1)
        assert endpoint.wait(source.atoken()) == "a1"


def test_a_signal_handler_that_asks_never_waits_for_its_own_thread() -> None:
    """It may run in the thread that is in the source: then it gets the token at hand, or an error at once."""
    got: list[str] = []

    def ask(*_: object) -> None:
        try:
            got.append(source())
        except TokenLockError:
            got.append("refused")

    with RotatingServer() as server:
        source = TokenEndpoint(KEY, server.url, client_id="c").source(store())
        before = signal.signal(signal.SIGUSR1, ask)
        try:
            with source._lock:
                signal.raise_signal(signal.SIGUSR1)
            signal.raise_signal(signal.SIGUSR1)
            with source._lock:
                source._until = 0.0
                signal.raise_signal(signal.SIGUSR1)
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert got == ["refused", "a1", "a1"]


# -- other event loops


def test_neither_asyncio_nor_trio_is_said_before_anything_begins() -> None:
    """A coroutine that another library drives: a UsageError, and no refresh that others would wait for."""
    with RotatingServer() as server:
        for source in (
            dpop.httpx2.AsyncTokenEndpoint(KEY, server.url, client_id="c").source(store()),
            TokenEndpoint(KEY, server.url, client_id="c").source(store()),
        ):
            with pytest.raises(UsageError, match="asyncio or trio"):
                source.atoken().send(None)
            assert source._refresh is None
            assert within_deadline(lambda source=source: asyncio.run(source.atoken())) == f"a{server.newest}"
            server.newest = 0


# -- the end of a program

PROGRAM = """
import json, sys, threading, time
import dpop
from dpop.requests import DPoPAdapter, TokenEndpoint
from dpop.tokens import FileTokenStore

facts = json.loads(sys.stdin.readline())
now = [1000.0]
endpoint = TokenEndpoint(dpop.load_key(facts["key"]), facts["url"], client_id="c", timeout=200, clock=lambda: now[0])
source = endpoint.source(FileTokenStore(facts["path"]), ahead=1000)
source()
now[0] += 2900
print(source(), flush=True)
sys.stdin.readline()
if facts["how"] == "interrupted":
    raise KeyboardInterrupt


def work():
    while (token := source()) == "a0":
        time.sleep(0.1)
    print(token, flush=True)


if facts["how"] == "with a thread":
    threading.Thread(target=work).start()
"""


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[[str, str], subprocess.Popen[str]]]:
    """A program with a token that is still good and is renewed ahead of time."""
    key, path = tmp_path / "key.pem", tmp_path / "tokens.json"
    KEY.save(key)
    FileTokenStore(path).save(OLD.replace(issued_at=1000, expires_at=4600))
    started: list[subprocess.Popen[str]] = []

    def start(url: str, how: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdin is not None
        process.stdin.write(json.dumps({"key": str(key), "path": str(path), "url": url, "how": how}) + "\n")
        process.stdin.flush()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("how", ["ended", "interrupted"])
def test_a_program_ends_in_bounded_time(
    program: Callable[[str, str], subprocess.Popen[str]], how: str, tmp_path: Path
) -> None:
    """It has a usable token and waits a few seconds for the renewal; then the store says that it was sent."""
    arrived, hold = threading.Event(), threading.Event()

    def meddle(_: int) -> None:
        arrived.set()
        hold.wait(240)

    with RotatingServer(meddle) as server:
        process = program(server.url, how)
        assert process.stdout is not None
        assert process.stdout.readline() == "a0\n"
        assert arrived.wait(DEADLINE)
        begun = time.monotonic()
        _, said = process.communicate("\n", timeout=200)
        assert time.monotonic() - begun < 100
        assert "no response came" in said
        hold.set()
    stored = FileTokenStore(tmp_path / "tokens.json").load()
    assert stored is not None
    assert stored.refresh_sent_at is not None


def test_a_program_whose_threads_go_on_loses_nothing(
    program: Callable[[str, str], subprocess.Popen[str]], tmp_path: Path
) -> None:
    """The main thread has ended and another one works on: that is no end of the program."""
    arrived, hold = threading.Event(), threading.Event()

    def meddle(_: int) -> None:
        arrived.set()
        hold.wait(240)

    with RotatingServer(meddle) as server:
        process = program(server.url, "with a thread")
        assert process.stdout is not None
        assert process.stdout.readline() == "a0\n"
        assert arrived.wait(DEADLINE)
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.close()
        process.stdin = None
        time.sleep(6)
        hold.set()
        out, said = process.communicate(timeout=200)
        assert said == ""
        assert out == "a1\n"
    stored = FileTokenStore(tmp_path / "tokens.json").load()
    assert stored is not None
    assert stored.refresh_token == "r1"


# -- clocks and refusals


def test_a_clock_that_was_ahead_when_the_tokens_were_issued() -> None:
    """They seem good for a day more; their end is unknown, so they are renewed once, and used if that fails."""
    now = 1_000_000.0
    ahead = TokenSet(
        access_token="a0",
        issued_at=now + 90_000,
        expires_at=now + 93_600,
        refresh_token="r0",
        jkt=KEY.thumbprint,
    )
    kept = MemoryTokenStore()
    kept.save(ahead)
    down = [True]
    with RotatingServer(lambda _: Response(503) if down[0] else None) as server:
        source = TokenEndpoint(KEY, server.url, client_id="c", clock=lambda: now).source(kept)
        assert source() == "a0"
        assert server.sent == ["r0"]
        down[0] = False
        source._next_try = 0.0
        assert source() == "a1"
        assert source() == "a1"
        assert server.sent == ["r0", "r0"]


def test_a_clock_that_is_set_back_in_a_running_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens of an hour that came while the clock was a day ahead end an hour later, by the monotonic clock."""
    now, later = [1_000_000.0 + 86_400], [0.0]
    monotonic = time.monotonic
    monkeypatch.setattr("dpop.tokens._source.time.monotonic", lambda: monotonic() + later[0])
    with RotatingServer() as server:
        source = TokenEndpoint(KEY, server.url, client_id="c", clock=lambda: now[0]).source(store())
        assert source() == "a1"
        now[0] -= 86_400 - 30
        later[0] += 3600
        assert source() == "a2"
        assert server.sent == ["r0", "r1"]


def test_tokens_that_are_half_over_when_they_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The monotonic clock counts what is left of them, not their whole life, when the clock is set back later."""
    now, later = [1_000_000.0], [0.0]
    monotonic = time.monotonic
    monkeypatch.setattr("dpop.tokens._source.time.monotonic", lambda: monotonic() + later[0])
    kept = store()
    kept.save(TokenSet(access_token="a0", issued_at=now[0] - 3000, expires_at=now[0] + 600, jkt=KEY.thumbprint))
    with RotatingServer() as server:
        source = TokenEndpoint(KEY, server.url, client_id="c", clock=lambda: now[0]).source(kept)
        assert source() == "a0"
        now[0] -= 2000
        later[0] += 700
        with pytest.raises(ReauthorizationError):
            source()
        assert server.sent == []


def test_tokens_of_doubtful_lifetime_are_not_used_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock was set back by days, and the grant is lost: after the hour of the tokens, that is said."""
    now, later = [1_000_000.0], [0.0]
    monotonic = time.monotonic
    monkeypatch.setattr("dpop.tokens._source.time.monotonic", lambda: monotonic() + later[0])
    kept = store()
    with RotatingServer() as server:
        source = TokenEndpoint(KEY, server.url, client_id="c", clock=lambda: now[0]).source(kept)
        assert source() == "a1"
        now[0] -= 500_000
        kept.delete()
        later[0] += 3000
        assert source() == "a1"
        later[0] += 700
        with pytest.raises(ReauthorizationError):
            source()


def test_a_server_that_refuses_every_token_costs_no_other_server_its_renewal() -> None:
    """The limit of five refused tokens a minute is each server's own."""
    dead = {"DPoP a6"}

    def api(request: Received) -> Response:
        bad = request.target == "/bad" or request.one("Authorization") in dead
        return Response(401, [("WWW-Authenticate", 'DPoP error="invalid_token"')]) if bad else Response(200)

    with RotatingServer() as server, Recorder(api) as one, Recorder(api) as other, requests.Session() as session:
        source = TokenEndpoint(KEY, server.url, client_id="c").source(store())
        session.mount("http://", DPoPAdapter(KEY, origins=[one.origin, other.origin], access_token=source))
        for _ in range(8):
            assert session.get(one.url("/bad")).status_code == 401
        assert source() == "a6"
        assert session.get(other.url("/good")).status_code == 200
        assert source() == "a7"


def test_many_threads_refused_with_one_token_count_once() -> None:
    """Eight threads, each refused with the same token: after six such tokens, not after one, the source stops."""
    with RotatingServer() as server:
        source = TokenEndpoint(KEY, server.url, client_id="c").source(store())
        for number in range(1, 6):
            token = source()
            assert token == f"a{number}"
            for _ in range(8):
                source.refused(token)
        assert source() == "a6"
