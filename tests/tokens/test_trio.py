# SPDX-License-Identifier: Apache-2.0
"""Sources, endpoints and transports on trio's event loop, and what becomes of a refresh when that loop ends."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import httpx2
import pytest
import trio
import trio.testing
from support.recorder import Recorder, Response
from support.rotating_server import RotatingServer

import dpop
import dpop.aiohttp
import dpop.httpx
import dpop.httpx2
from dpop.errors import TokenRequestError, UsageError
from dpop.keys import ExternalKey
from dpop.requests import TokenEndpoint
from dpop.testing import DPoPTestServer
from dpop.tokens import MemoryTokenStore, TokenSet

KEY = dpop.generate_key()
OLD = TokenSet(access_token="a0", issued_at=0, expires_at=1, refresh_token="r0", jkt=KEY.thumbprint)
DEADLINE = 60.0
ASYNC = {"httpx": dpop.httpx.AsyncTokenEndpoint, "httpx2": dpop.httpx2.AsyncTokenEndpoint}
SOURCES = {**ASYNC, "requests": TokenEndpoint, "aiohttp": dpop.aiohttp.AsyncTokenEndpoint}
LIBRARIES: dict[str, tuple[Any, Any]] = {"httpx": (dpop.httpx, httpx), "httpx2": (dpop.httpx2, httpx2)}


def store() -> MemoryTokenStore:
    """A store with tokens that have expired."""
    made = MemoryTokenStore()
    made.save(OLD)
    return made


def on_trio(program: Callable[..., Any], *arguments: Any) -> Any:
    """Run a function on an event loop of its own, which may not take for ever."""

    async def bounded() -> Any:
        with trio.fail_after(DEADLINE):
            return await program(*arguments)

    return trio.run(bounded)


def source_of(kind: str, server: RotatingServer, kept: Any, **options: Any) -> Any:
    """A source of an asynchronous endpoint, or of the one for threads."""
    return SOURCES[kind](KEY, server.url, client_id="c", timeout=60, **options).source(kept)


@pytest.mark.parametrize("kind", SOURCES)
def test_tasks_share_one_refresh_and_one_of_them_is_cancelled(kind: str) -> None:
    """The one that stops waiting stops nobody else, and renew() is shared in the same way."""
    asked, got = threading.Event(), []

    async def program(server: RotatingServer) -> None:
        source = source_of(kind, server, store())

        async def ask(wanted: Callable[[], Any]) -> None:
            got.append(await wanted())

        for wanted in (source.atoken, source.arenew):
            async with trio.open_nursery() as nursery:
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await ask(wanted)
                assert scope.cancelled_caught
                for _ in range(10):
                    nursery.start_soon(ask, wanted)
                await trio.testing.wait_all_tasks_blocked(0.01)
                asked.set()
            asked.clear()

    with RotatingServer(lambda _: (asked.wait(DEADLINE), None)[1]) as server:
        on_trio(program, server)
        assert got == ["a1"] * 10 + ["a2"] * 10
        assert server.sent == ["r0", "r1"]


@pytest.mark.parametrize("after", ["trio", "asyncio"])
@pytest.mark.parametrize("kind", SOURCES)
def test_a_loop_that_ends_before_the_response_costs_no_grant(kind: str, after: str) -> None:
    """The refresh goes on without it, and the next loop, of either kind, finds what it brought."""
    arrived, go_on = threading.Event(), threading.Event()

    def meddle(_: int) -> None:
        arrived.set()
        assert go_on.wait(DEADLINE)

    async def hasty(source: Any) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(source.atoken)
            await trio.to_thread.run_sync(arrived.wait, DEADLINE)
            nursery.cancel_scope.cancel()

    kept = store()
    with RotatingServer(meddle) as server:
        source = source_of(kind, server, kept)
        on_trio(hasty, source)
        go_on.set()
        assert (on_trio(source.atoken) if after == "trio" else asyncio.run(source.atoken())) == "a1"
        assert server.sent == ["r0"]
        assert kept.load().refresh_token == "r1"  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ASYNC)
def test_a_given_client_works_on_its_loop_and_may_end_with_it(kind: str) -> None:
    """Requests go out by the client; where its loop ends before the response, that is said, and nobody waits."""
    arrived, hold = threading.Event(), threading.Event()
    kept, client = store(), LIBRARIES[kind][1].AsyncClient

    async def whole(server: RotatingServer) -> None:
        async with client() as http:
            assert await source_of(kind, server, kept, http=http).atoken() == "a1"

    async def half(server: RotatingServer, sources: list[Any]) -> None:
        sources.append(source_of(kind, server, kept, http=client()))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sources[0].arenew)
            await trio.to_thread.run_sync(arrived.wait, DEADLINE)
            nursery.cancel_scope.cancel()

    def meddle(number: int) -> Response | None:
        if number == 0:
            return None
        arrived.set()
        hold.wait(DEADLINE)
        return Response(drop=True)

    sources: list[Any] = []
    with RotatingServer(meddle) as server:
        on_trio(whole, server)
        on_trio(half, server, sources)
        lock = kept.lock("default")
        assert lock.acquire(DEADLINE)  # the refresh is over
        lock.release()
        assert kept.load().refresh_sent_at is not None  # type: ignore[union-attr]
        with pytest.raises(TokenRequestError):
            on_trio(sources[0].renew)
        hold.set()
        assert source_of("requests", server, kept)() == "a1"


@pytest.mark.parametrize("kind", LIBRARIES)
def test_many_tasks_at_a_server_with_nonces(kind: str) -> None:
    """A transport with a source: all succeed, those behind a task that is cancelled too."""
    ours, theirs = LIBRARIES[kind]
    with DPoPTestServer(nonces="per-answer") as server:
        kept = MemoryTokenStore()
        kept.save(OLD.replace(refresh_token=server.issue_refresh_token(jkt=KEY.thumbprint)))
        statuses: list[int] = []

        async def program() -> None:
            endpoint = ours.AsyncTokenEndpoint(
                KEY, server.token_endpoint, client_id=server.client_id, client_secret=server.client_secret
            )
            source = endpoint.source(kept)
            transport = ours.AsyncDPoPTransport(KEY, origins=server.issuer, access_token=source)
            async with theirs.AsyncClient(transport=transport, timeout=60) as http:

                async def get() -> None:
                    statuses.append((await http.get(server.resource)).status_code)

                with trio.move_on_after(0.001):
                    await get()
                async with trio.open_nursery() as nursery:
                    for _ in range(30):
                        nursery.start_soon(get)

        on_trio(program)
        assert statuses[-30:] == [200] * 30


@pytest.mark.parametrize("kind", LIBRARIES)
def test_a_key_that_blocks_leaves_the_loop_alone(kind: str) -> None:
    """A task that has no time for a slow signature goes on, and so do its neighbours; nothing is sent."""
    signing, go_on = threading.Event(), threading.Event()

    def sign(data: bytes) -> bytes:
        signing.set()
        assert go_on.wait(DEADLINE)
        return KEY.sign(data)

    ours, theirs = LIBRARIES[kind]
    key = ExternalKey(KEY.public_jwk, sign, signature_format="raw")

    async def program(url: str) -> None:
        async with theirs.AsyncClient(transport=ours.AsyncDPoPTransport(key, origins=url), timeout=60) as http:
            began = time.monotonic()
            async with trio.open_nursery() as tasks:
                tasks.start_soon(http.get, url)
                while not signing.is_set():  # noqa: ASYNC110 - a thread sets it
                    await trio.sleep(0.01)
                tasks.cancel_scope.cancel()
            assert time.monotonic() - began < DEADLINE / 2
        go_on.set()

    with Recorder(lambda _: Response(200)) as server:
        on_trio(program, server.url("/"))
        assert server.requests == []


def test_aiohttp_itself_does_not_run_there() -> None:
    """A direct call is refused with what to take instead, and nothing is sent; its sources have a loop of their own."""
    with RotatingServer() as server:
        endpoint = dpop.aiohttp.AsyncTokenEndpoint(KEY, server.url, client_id="c")
        with pytest.raises(UsageError, match=r"take the endpoint of dpop\.httpx"):
            on_trio(endpoint.refresh, OLD)
        assert server.sent == []
