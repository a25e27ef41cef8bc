# SPDX-License-Identifier: Apache-2.0
"""Sessions of aiohttp for tests, each on an event loop of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from support.clients import close_all
from support.recorder import Received, Recorder, Response, challenge
from yarl import URL

import dpop

KEY = dpop.generate_key()
TOKEN = "acc3ss-t0ken"
BODY = b"0123456789" * 1000
Use = Callable[[aiohttp.ClientSession], Awaitable[Any]]


def with_session(middlewares: Any, use: Use, **options: Any) -> Any:
    """Run a function with a session of its own, on an event loop of its own."""

    async def run() -> Any:
        options.setdefault("timeout", aiohttp.ClientTimeout(total=60))
        made = {name: value() if name in {"connector", "cookie_jar"} else value for name, value in options.items()}
        session = aiohttp.ClientSession(middlewares=middlewares, **made)
        try:
            return await use(session)
        finally:
            await close_all(session)

    return asyncio.run(run())


def status_of(method: str, url: str | URL, **options: Any) -> Use:
    """Send one request and read the whole response."""

    async def use(session: aiohttp.ClientSession) -> int:
        given = {name: value() if callable(value) else value for name, value in options.items()}
        async with session.request(method, url, **given) as response:
            await response.read()
            return response.status

    return use


def demanding(request: Received) -> Response:
    """A resource server that takes one nonce only."""
    return Response(200) if request.nonce == "n1" else challenge("n1", b"not yet")


def fresh(server: Recorder) -> None:
    """Each request has a proof of its own, for its own method."""
    assert len({request.claims["jti"] for request in server.requests}) == len(server.requests)
    assert [request.claims["htm"] for request in server.requests] == [request.method for request in server.requests]
