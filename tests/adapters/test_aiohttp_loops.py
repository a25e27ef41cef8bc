# SPDX-License-Identifier: Apache-2.0
"""aiohttp on several event loops and in worker threads: keys that block, sessions that end, token endpoints."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.aiohttp_sessions import KEY, TOKEN, demanding, fresh, status_of, with_session
from support.forking import in_child
from support.recorder import Recorder, Response, script

from dpop.aiohttp import AsyncTokenEndpoint, DPoPClientMiddleware
from dpop.aiohttp._threads import asyncio_tools
from dpop.errors import KeyAccessDeniedError, UsageError
from dpop.testing import DPoPTestServer
from dpop.tokens import MemoryTokenStore

# -- loops, threads, keys ----------------------------------------------------------------------------


def test_a_key_that_fails_gives_the_connection_back() -> None:
    """Nothing is sent, and a pool of one goes on."""

    class Locked:
        alg, public_jwk, thumbprint, blocking = "ES256", KEY.public_jwk, KEY.thumbprint, False
        fails = True

        def sign(self, data: bytes, /) -> bytes:
            if self.fails:
                raise KeyAccessDeniedError("the device is locked")
            return KEY.sign(data)

    key = Locked()
    with Recorder(script(Response(200))) as server:
        middleware = DPoPClientMiddleware(key, origins=server.origin, access_token=TOKEN)

        async def use(session: aiohttp.ClientSession) -> int:
            with pytest.raises(KeyAccessDeniedError):
                await status_of("GET", server.url("/r"))(session)
            key.fails = False
            return int(await status_of("GET", server.url("/r"))(session))

        assert with_session([middleware], use, connector=lambda: aiohttp.TCPConnector(limit=1)) == 200
        assert len(server.requests) == 1


def test_no_event_loop_is_kept_for_the_threads_of_its_keys() -> None:
    """More signatures at once than there are threads for, in one event loop after another."""
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def many() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await asyncio.gather(*(asyncio_tools.to_thread(bytes) for _ in range(80)))

    for _ in range(5):
        asyncio.run(many())
    deadline = time.monotonic() + 60  # the last threads may still have to end
    while sum(loop() is not None for loop in loops) > 1:
        assert time.monotonic() < deadline
        gc.collect()


def test_a_blocking_key_is_abandoned_on_cancellation() -> None:
    """A task that is cancelled does not wait for the device, and the program's own worker threads are free."""

    class BlockingKey:
        alg, public_jwk, thumbprint, blocking = "ES256", KEY.public_jwk, KEY.thumbprint, True

        def __init__(self) -> None:
            self.answers = threading.Event()
            self.asked = threading.Semaphore(0)

        def sign(self, data: bytes, /) -> bytes:
            self.asked.release()
            self.answers.wait(30)
            return KEY.sign(data)

    key = BlockingKey()
    with Recorder(script(Response(200))) as server:
        middleware = DPoPClientMiddleware(key, origins=server.origin)

        async def use(session: aiohttp.ClientSession) -> int:
            key.answers.set()  # the first request goes alone
            await status_of("GET", server.url("/r"))(session)
            key.asked.acquire()
            key.answers.clear()
            tasks = [asyncio.ensure_future(status_of("GET", server.url("/r"))(session)) for _ in range(8)]
            for _ in tasks:
                await asyncio.to_thread(key.asked.acquire)
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(each, asyncio.CancelledError) for each in ended)
            assert len(server.requests) == 1
            key.answers.set()
            return int(await status_of("GET", server.url("/r"))(session))

        try:
            assert with_session([middleware], use) == 200
        finally:
            key.answers.set()


def test_one_middleware_in_many_event_loops() -> None:
    """A session for each thread, one middleware for all; it can be hashed, and does not travel."""
    with Recorder(demanding) as server:
        middleware = DPoPClientMiddleware(KEY, origins=server.origin, access_token=TOKEN, nonces="required")
        statuses: list[int] = []

        def work() -> None:
            statuses.extend(with_session([middleware], status_of("GET", server.url("/r"))) for _ in range(5))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses == [200] * 20
        fresh(server)
    assert hash(middleware) == hash(middleware)
    for travelling in (middleware, middleware.with_credentials(KEY, TOKEN)):
        with pytest.raises(UsageError, match="must not travel"):
            pickle.dumps(travelling)
        assert TOKEN not in repr(travelling) + repr(vars(travelling))


def test_a_session_that_was_closed_says_so() -> None:
    """By aiohttp's own error."""
    middleware = DPoPClientMiddleware(KEY, origins="http://127.0.0.1:1", access_token=TOKEN)

    async def use(session: aiohttp.ClientSession) -> None:
        await session.close()
        with pytest.raises(RuntimeError, match="closed"):
            await session.get("http://127.0.0.1:1/")

    with_session([middleware], use)


# -- the token endpoint --------------------------------------------------------------------------------


def test_what_of_a_session_goes_to_the_token_endpoint() -> None:
    """Its headers and cookies; neither its Authorization nor its middlewares, and it stays open. Its jar is filled."""
    nonce = Response(400, [("DPoP-Nonce", "n1"), ("Set-Cookie", "a=1; Path=/")], b'{"error":"use_dpop_nonce"}')
    tokens = Response(200, [("Set-Cookie", "b=2; Path=/")], b'{"access_token":"new","token_type":"DPoP"}')
    called: list[int] = []

    async def own(request: Any, handler: Any) -> Any:
        called.append(1)
        return await handler(request)

    with Recorder(script(nonce, tokens)) as server:

        async def use(session: aiohttp.ClientSession) -> list[str]:
            url = server.url("/token?tenant=1")
            async with AsyncTokenEndpoint(KEY, url, client_id="c", client_secret="s", http=session) as endpoint:
                for _ in range(2):
                    await endpoint.grant("client_credentials")
            assert not session.closed
            return sorted(cookie.key for cookie in session.cookie_jar)

        headers = {"X-Own": "1", "Authorization": "Basic own"}
        jar = lambda: aiohttp.CookieJar(unsafe=True)  # noqa: E731 - it is made on the event loop
        options = {"headers": headers, "raise_for_status": True, "cookie_jar": jar}
        assert with_session([own], use, **options) == ["a", "b"]
        assert called == []
        assert {request.target for request in server.requests} == {"/token?tenant=1"}
        assert {request.one("X-Own") for request in server.requests} == {"1"}
        assert {request.one("Authorization") for request in server.requests} == {"Basic Yzpz"}
        fresh(server)


def test_a_session_that_was_given_is_refused_in_a_child() -> None:
    """Nothing is sent, and the error says what to do."""
    with Recorder(script(Response(200, [], b'{"access_token":"new","token_type":"DPoP"}'))) as server:

        async def use(session: aiohttp.ClientSession) -> bytes:
            endpoint = AsyncTokenEndpoint(KEY, server.url("/token"), client_id="c", http=session)
            await endpoint.grant("client_credentials")

            async def refused() -> None:
                with pytest.raises(UsageError, match=r"http=lambda: ClientSession\(\.\.\.\)"):
                    await endpoint.grant("client_credentials")

            def in_a_child() -> bytes:
                thread = threading.Thread(target=asyncio.run, args=(refused(),))
                thread.start()
                thread.join()
                return b"refused"

            return in_child(in_a_child)

        assert with_session([], use) == b"refused"
        assert len(server.requests) == 1


LOOPS = """
import asyncio, sys
import dpop
from dpop.aiohttp import AsyncTokenEndpoint
from support.endpoints import open_sockets

endpoint = AsyncTokenEndpoint(dpop.generate_key(), sys.argv[1], client_id="c")

async def call():
    await endpoint.grant("client_credentials")

def once(ends):
    if ends == "asyncio.run":
        asyncio.run(call())
        return
    loop = asyncio.new_event_loop()
    loop.run_until_complete(call())
    loop.close()

for ends in ("asyncio.run", "closed at once"):
    once(ends)
    before = open_sockets()
    for _ in range(10):
        once(ends)
    assert open_sockets() <= before + 1, ends
    assert len(endpoint._sessions._by_loop) <= 1, ends
asyncio.run(call())
"""


def test_the_session_of_a_loop_that_ended_is_closed() -> None:
    """One endpoint for the program, a loop for each call: no socket, session or loop is left."""
    with Recorder(script(Response(200, [], b'{"access_token":"new","token_type":"DPoP"}'))) as server:
        path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        shown = subprocess.run(  # asyncio warns of what is left on the loops that are closed at once
            [sys.executable, "-W", "ignore", "-c", LOOPS, server.url("/token")],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert shown.returncode == 0, shown.stderr
        assert len(server.requests) == 23


def test_a_source_of_an_endpoint_feeds_the_middleware() -> None:
    """One refresh for many requests, each with a proof for its own server."""
    with DPoPTestServer() as server:

        async def use(session: aiohttp.ClientSession) -> set[int]:
            store = MemoryTokenStore()
            async with AsyncTokenEndpoint(
                KEY, server.token_endpoint, client_id=server.client_id, client_secret=server.client_secret, http=session
            ) as endpoint:
                source = endpoint.source(store, grant="client_credentials")
                middleware = DPoPClientMiddleware(KEY, origins=server.origin, access_token=source)
                calls = [session.get(server.resource, middlewares=[middleware]) for _ in range(10)]
                statuses = set()
                for response in await asyncio.gather(*calls):
                    statuses.add(response.status)
                    response.release()
                return statuses

        assert with_session([], use) == {200}
        assert len([request for request in server.requests if request.path == "/token" and request.status == 200]) == 1
