# SPDX-License-Identifier: Apache-2.0
"""Driving a flow: waiting for a nonce, asking for tokens, signing in the right thread."""

from __future__ import annotations

import asyncio
import itertools
import threading
import types
from collections.abc import Callable, Generator, Mapping
from typing import Any

import pytest

import dpop
from dpop.client import _driver
from dpop.client._driver import (
    ask_token,
    async_ask_token,
    async_refresh,
    async_report,
    async_sign,
    async_wait_for_nonce,
    refresh,
    report,
    sign_now,
    wait_for_nonce,
)
from dpop.client._flow import ProofFlow, Step
from dpop.client._nonces import NonceCache, Turn
from dpop.client._policy import Policy
from dpop.client._prover import Prover
from dpop.client._request import OutgoingRequest
from dpop.errors import ArgumentTypeError, UsageError

KEY = dpop.generate_key()
WIRE = ("https", "api.example", "/")


class BareTools:
    """What a loop of one line lends."""

    @types.coroutine
    def sleep(self, seconds: float) -> Generator[str, None, None]:
        yield "pause"

    async def to_thread(self, function: Callable[[], Any]) -> Any:
        return function()


class AsyncioTools:
    """What asyncio lends."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def to_thread(self, function: Callable[[], Any]) -> Any:
        return await asyncio.to_thread(function)


def flow(prover: Any = KEY, **options: Any) -> ProofFlow:
    """A flow for one GET."""
    opened = ProofFlow.open(
        Policy(prover, origins="https://api.example", **options), OutgoingRequest("GET", "https://api.example/")
    )
    assert opened is not None
    return opened


class SlowKey:
    """A key that says it blocks, and notes in which thread it signed."""

    alg = KEY.alg
    public_jwk: Mapping[str, str] = KEY.public_jwk
    thumbprint = KEY.thumbprint
    blocking = True
    thread: threading.Thread | None = None

    def sign(self, data: bytes) -> bytes:
        self.thread = threading.current_thread()
        return KEY.sign(data)


def test_a_blocking_key_does_not_stop_the_event_loop() -> None:
    """A key that waits for a touch signs in a worker thread; a software key in the loop's own."""
    key = SlowKey()
    asyncio.run(async_sign(flow(key), *WIRE, None, tools=AsyncioTools()))
    assert key.thread not in {None, threading.main_thread()}


def test_a_task_waits_for_its_turn() -> None:
    """It goes on as soon as another thread gives the turn back."""
    prover = Prover(KEY)
    first, second = flow(prover), flow(prover)
    assert first.ready() is None

    async def scene() -> None:
        waiting = asyncio.ensure_future(async_wait_for_nonce(second, AsyncioTools()))
        await asyncio.sleep(0)
        threading.Thread(target=first.failed).start()
        await waiting

    asyncio.run(scene())
    assert second.ready() is None


def test_a_task_of_another_event_loop_waits_for_its_turn() -> None:
    """Where asyncio does not run the task, it looks from time to time."""
    prover = Prover(KEY)
    first, second = flow(prover), flow(prover)
    assert first.ready() is None
    waiting = async_wait_for_nonce(second, BareTools())
    assert waiting.send(None) == "pause"
    assert waiting.send(None) == "pause"
    first.failed()
    with pytest.raises(StopIteration):
        waiting.send(None)
    assert second.ready() is None


def test_tasks_of_a_dead_loop_hold_nobody_up() -> None:
    """A request on its way and one that waits, of a loop that never runs again: after seconds the next may go."""
    prover = Prover(KEY, nonces=NonceCache(clock=itertools.count(0, 3).__next__))
    holder, waiter, one = (flow(prover, serial=True) for _ in range(3))
    assert holder.ready() is None
    waiting = async_wait_for_nonce(waiter, BareTools())
    assert waiting.send(None) == "pause"
    waiting.close()
    looks = 0
    while one.ready() is not None:
        looks += 1
        assert looks < 10


def test_a_token_is_asked_for_once_per_attempt() -> None:
    """A function's token feeds both the header and the hash."""
    tokens = iter(["one", "two"])
    one = flow(access_token=lambda: next(tokens))
    for expected in ("one", "two"):
        headers = dict(sign_now(one, *WIRE, ask_token(one)))
        assert headers["Authorization"] == f"DPoP {expected}"
        one.received(200, [])


def test_tokens_of_asynchronous_sources() -> None:
    """A coroutine function and atoken() are awaited; a plain function is just called."""

    async def coroutine() -> str:
        return "coroutine"

    class Source:
        def __call__(self) -> str:
            raise AssertionError("the asynchronous way is preferred")

        async def atoken(self) -> str:
            return "source"

        def refused(self, token: str, /) -> None: ...

    for source, expected in ((coroutine, "coroutine"), (Source(), "source"), (lambda: "plain", "plain")):
        assert asyncio.run(async_ask_token(flow(access_token=source))) == expected


def test_asynchronous_sources_in_synchronous_clients_are_refused() -> None:
    """A coroutine cannot be awaited here: the error says to use an asynchronous client."""

    async def token() -> str:
        return "token"

    with pytest.raises(UsageError, match="asynchronous client"):
        ask_token(flow(access_token=token))


@pytest.mark.parametrize("value", [None, b"token", 5])
def test_a_source_that_returns_no_text_is_refused(value: Any) -> None:
    """What is no str is no token; its type is named and nothing is sent."""
    with pytest.raises(ArgumentTypeError, match=type(value).__name__):
        ask_token(flow(access_token=lambda: value))


def test_refresh_tells_the_source() -> None:
    """refused() is called with the token that was sent, awaited where it can be."""
    told: list[str] = []

    class Source:
        def __call__(self) -> str:
            return "token"

        def refused(self, token: str, /) -> None:
            told.append(token)

    class AsyncSource(Source):
        async def refused(self, token: str, /) -> None:  # type: ignore[override]
            told.append(token)

    one = flow(access_token=Source())
    sign_now(one, *WIRE, ask_token(one))
    refresh(one)
    other = flow(access_token=AsyncSource())
    asyncio.run(async_sign(other, *WIRE, "token", tools=AsyncioTools()))
    asyncio.run(async_refresh(other))
    with pytest.raises(UsageError, match="asynchronous client"):
        refresh(other)
    assert told == ["token", "token"]


def pilot_and_second() -> tuple[ProofFlow, ProofFlow]:
    """The first request to a server that requires nonces, and one that waits for it."""
    prover = Prover(KEY)
    first, second = flow(prover, nonces="required"), flow(prover, nonces="required")
    assert first.ready() is None
    return first, second


def test_a_wait_for_a_nonce_ends_when_it_comes() -> None:
    """A waiting thread and a waiting task go on with the nonce the first request brings."""
    for wait in (wait_for_nonce, lambda second: asyncio.run(async_wait_for_nonce(second, AsyncioTools()))):
        first, second = pilot_and_second()
        waiter = threading.Thread(target=wait, args=(second,))
        waiter.start()
        sign_now(first, *WIRE, None)
        first.received(200, [("DPoP-Nonce", "n1")])
        waiter.join(30)
        assert not waiter.is_alive()
        assert second._lease is not None
        assert second._lease.nonce == "n1"


def test_a_wait_for_a_nonce_ends_anyway() -> None:
    """If the first request hangs the others go on without a nonce."""
    for wait in (wait_for_nonce, lambda second: asyncio.run(async_wait_for_nonce(second, AsyncioTools()))):
        _, second = pilot_and_second()
        wait(second)
        assert second._lease is not None
        assert second._lease.nonce is None


def test_a_wait_ends_although_the_turn_never_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue that does not move holds a thread or a task up for a minute at most."""
    prover = Prover(KEY, nonces=NonceCache(clock=lambda: 0.0))
    holder, of_thread, of_task = (flow(prover, serial=True) for _ in range(3))
    assert holder.ready() is None
    monkeypatch.setattr(_driver, "time", types.SimpleNamespace(monotonic=itertools.count(0, 61).__next__))
    thread = threading.Thread(target=wait_for_nonce, args=(of_thread,), daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    asyncio.run(asyncio.wait_for(async_wait_for_nonce(of_task, AsyncioTools()), 30))
    assert of_thread.ready() is of_task.ready() is None


def test_a_thread_with_an_event_loop_never_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A synchronous client used inside a coroutine does not stop the loop that must bring the nonce."""
    _, second = pilot_and_second()
    waits: list[float] = []
    monkeypatch.setattr(Turn, "wait", lambda _turn, seconds: waits.append(seconds))

    async def careless() -> None:
        wait_for_nonce(second)

    asyncio.run(careless())
    assert waits == []
    assert second._lease is not None


def test_a_response_is_closed_if_its_source_fails() -> None:
    """What the source raises is raised, and the connection is given back, in threads and in tasks."""

    class Failing:
        """A source that cannot be told."""

        def __call__(self) -> str:
            return "token"

        def refused(self, _token: str, /) -> None:
            raise RuntimeError("no")

    def refused_flow() -> ProofFlow:
        one = flow(access_token=Failing())
        sign_now(one, *WIRE, ask_token(one))
        step = one.received(401, [("WWW-Authenticate", 'DPoP error="invalid_token"')])
        assert step in {Step.REPORT, Step.REFRESH}
        return one

    closed: list[str] = []

    async def aclose() -> None:
        closed.append("task")

    with pytest.raises(RuntimeError, match="no"):
        report(refused_flow(), lambda: closed.append("thread"))
    with pytest.raises(RuntimeError, match="no"):
        asyncio.run(async_report(refused_flow(), aclose))
    assert closed == ["thread", "task"]
