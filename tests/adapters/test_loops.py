# SPDX-License-Identifier: Apache-2.0
"""Event loops that end, and keys that block: nothing of a loop is kept, and nobody waits for a device in vain."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.to_thread
import httpx
import httpx2
import pytest
from support.endpoints import open_sockets
from support.recorder import Recorder, Response, script

import dpop
import dpop.httpx
import dpop.httpx2
from dpop.tokens import ServerMetadata

KEY = dpop.generate_key()
LIBRARIES: list[tuple[Any, Any]] = [(httpx, dpop.httpx), (httpx2, dpop.httpx2)]
ACTIVE = Response(200, [], b'{"active":true}')

# Loops end here while connections are open, and asyncio warns when those are collected.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored .*<function _SelectorTransport:pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Collect what a test leaves behind at its own end, and not in a test of another module."""
    yield
    gc.collect()


@pytest.mark.parametrize("integration", [dpop.httpx, dpop.httpx2], ids=["httpx", "httpx2"])
@pytest.mark.parametrize("ends", ["asyncio.run", "closed at once"])
def test_the_client_of_a_loop_that_ended_is_closed(integration: Any, ends: str) -> None:
    """One endpoint for the program, a loop for each call: no socket, client or loop is left."""
    with Recorder(script(ACTIVE)) as server:
        metadata = ServerMetadata(token_endpoint=server.url("/t"), introspection_endpoint=server.url("/i"))
        endpoint = integration.AsyncTokenEndpoint(KEY, metadata, client_id="c")

        async def call() -> None:
            assert (await endpoint.introspect("token"))["active"]

        def once() -> None:
            if ends == "asyncio.run":
                asyncio.run(call())
                return
            loop = asyncio.new_event_loop()
            loop.run_until_complete(call())
            loop.close()

        once()
        before = open_sockets()
        for _ in range(20):
            once()
        assert open_sockets() <= before + 1
        assert len(endpoint._clients._by_loop) <= 1
        asyncio.run(call())


@pytest.mark.parametrize("integration", [dpop.httpx, dpop.httpx2], ids=["httpx", "httpx2"])
def test_a_loop_keeps_its_connection(integration: Any) -> None:
    """While it runs, its calls share one."""
    with Recorder(script(ACTIVE)) as server:
        metadata = ServerMetadata(token_endpoint=server.url("/t"), introspection_endpoint=server.url("/i"))

        async def calls() -> None:
            async with integration.AsyncTokenEndpoint(KEY, metadata, client_id="c") as endpoint:
                for _ in range(3):
                    await endpoint.introspect("token")

        asyncio.run(calls())
        assert {request.connection for request in server.requests} == {1}


class BlockingKey:
    """A device that does not answer before it is told to."""

    alg, public_jwk, thumbprint, blocking = "ES256", KEY.public_jwk, KEY.thumbprint, True

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.asked = 0
        self.answered = 0

    def sign(self, data: bytes, /) -> bytes:
        self.asked += 1
        self.answers.wait(30)
        self.answered += 1
        return KEY.sign(data)


@pytest.mark.parametrize(("library", "integration"), LIBRARIES, ids=["httpx", "httpx2"])
def test_a_blocking_key_is_abandoned_on_cancellation(library: Any, integration: Any) -> None:
    """Who is cancelled does not wait for the device, and the program's own worker threads are free all the while."""
    key = BlockingKey()

    async def run(url: str) -> int:
        transport = integration.AsyncDPoPTransport(key, origins=url)
        async with library.AsyncClient(transport=transport, timeout=30) as client:
            async with anyio.create_task_group() as tasks:
                for _ in range(8):
                    tasks.start_soon(client.get, url)
                while key.asked < 8:  # noqa: ASYNC110 - threads count
                    await anyio.sleep(0.01)
                borrowed = anyio.to_thread.current_default_thread_limiter().borrowed_tokens
                tasks.cancel_scope.cancel()
            assert key.answered == 0
            key.answers.set()
            return int(borrowed)

    with Recorder(script(Response(200))) as server:
        try:
            assert asyncio.run(run(server.origin)) == 0
        finally:
            key.answers.set()
        assert server.requests == []
