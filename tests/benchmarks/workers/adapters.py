# SPDX-License-Identifier: Apache-2.0
"""The libraries with and without their adapter: one call is a batch of requests by so many threads or tasks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
import httpx
import httpx2
import requests
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from requests.adapters import HTTPAdapter

import dpop
import dpop.httpx
import dpop.httpx2
from dpop.aiohttp import DPoPClientMiddleware
from dpop.requests import DPoPAdapter

BATCH = 128
_SIGNING = frozenset({"adapted", "least"})
_TOKEN = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"


def prepare(*, library: str, way: str, key: str, url: str, origin: str, workers: int) -> Callable[[], object]:
    """A function that sends BATCH requests, over connections kept alive.

    :param way: ``plain``, ``adapted``, ``least`` with an adapter that does nothing but sign, ``by hand`` with a proof
        made before, or ``signature`` with a bare one.
    """
    loaded = dpop.load_key(key.encode())
    before = _before(way, key, url)
    if library == "requests":
        return _by_threads(workers, lambda: _session(loaded, url, origin, before, way=way))
    if library == "aiohttp":
        return _by_tasks(workers, _aiohttp(loaded, url, origin, way=way))
    name, _, kind = library.partition(" ")
    module: Any = {"httpx": httpx, "httpx2": httpx2}[name]
    door: Any = {"httpx": dpop.httpx, "httpx2": dpop.httpx2}[name]
    prefix = "Async" if kind else ""
    limits = module.Limits(max_connections=200, max_keepalive_connections=200)
    if way == "adapted":
        transport = getattr(door, f"{prefix}DPoPTransport")(loaded, origins=origin, access_token=_TOKEN, limits=limits)
    elif way == "least":
        transport = (_least_async_transport if kind else _least_transport)(module, loaded, limits)
    else:
        transport = getattr(module, f"{prefix}HTTPTransport")(limits=limits)
    headers = {} if way in _SIGNING else {"Authorization": f"Bearer {_TOKEN}"}
    client = getattr(module, f"{prefix}Client")(transport=transport, headers=headers, timeout=60)
    if kind:
        return _by_tasks(workers, lambda: client.get(url))
    return _by_threads(workers, lambda: _in_turn(before, lambda: client.get(url)))


def _before(way: str, key: str, url: str) -> Callable[[], object] | None:
    """What is done before each request."""
    if way == "by hand":
        loaded = dpop.load_key(key.encode())
        return lambda: dpop.create_proof(loaded, "GET", url, access_token=_TOKEN)
    if way == "signature":
        private: Any = load_pem_private_key(key.encode(), None)
        data, algorithm = bytes(450), ec.ECDSA(hashes.SHA256())
        return lambda: private.sign(data, algorithm)
    return None


def _in_turn(before: Callable[[], object] | None, send: Callable[[], object]) -> Callable[[], object]:
    if before is None:
        return send

    def both() -> None:
        before()
        send()

    return both


def _session(key: Any, url: str, origin: str, before: Callable[[], object] | None, *, way: str) -> Callable[[], object]:
    session = requests.Session()
    session.trust_env = False
    if way == "adapted":
        session.mount(origin, DPoPAdapter(key, origins=origin, access_token=_TOKEN))
    elif way == "least":
        session.mount(origin, _LeastAdapter(key))
    else:
        session.headers["Authorization"] = f"Bearer {_TOKEN}"
    return _in_turn(before, lambda: session.get(url))


def _aiohttp(key: Any, url: str, origin: str, *, way: str) -> Callable[[], Any]:
    sessions: list[aiohttp.ClientSession] = []

    async def send() -> None:
        if not sessions:  # it belongs to the event loop, which does not run before
            signing: list[aiohttp.ClientMiddlewareType] = []
            if way == "adapted":
                signing.append(DPoPClientMiddleware(key, origins=origin, access_token=_TOKEN))
            elif way == "least":
                signing.append(_least_middleware(key))
            headers = {} if signing else {"Authorization": f"Bearer {_TOKEN}"}
            sessions.append(aiohttp.ClientSession(middlewares=signing, headers=headers))
        async with sessions[0].get(url) as response:
            await response.read()

    return send


class _LeastAdapter(HTTPAdapter):
    """The least an adapter can do: it looks after no nonce, retry or redirect, nor after whose request it is."""

    def __init__(self, key: Any) -> None:
        super().__init__()
        self._key = key

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        request.headers.update(_fields(self._key, request.method or "", request.url or ""))
        return super().send(request, *args, **options)


def _least_transport(module: Any, key: Any, limits: Any) -> Any:
    """The same for httpx or httpx2."""

    class Least(module.HTTPTransport):
        def handle_request(self, request: Any) -> Any:
            request.headers.update(_fields(key, request.method, str(request.url)))
            return super().handle_request(request)

    return Least(limits=limits)


def _least_async_transport(module: Any, key: Any, limits: Any) -> Any:
    """The same for their asynchronous clients."""

    class Least(module.AsyncHTTPTransport):
        async def handle_async_request(self, request: Any) -> Any:
            request.headers.update(_fields(key, request.method, str(request.url)))
            return await super().handle_async_request(request)

    return Least(limits=limits)


def _least_middleware(key: Any) -> Any:
    """The same for aiohttp."""

    async def least(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        request.headers.update(_fields(key, request.method, str(request.url)))
        return await send(request)

    return least


def _fields(key: Any, method: str, url: str) -> dict[str, str]:
    proof = dpop.create_proof(key, method, url, access_token=_TOKEN)
    return {"DPoP": proof, "Authorization": f"DPoP {_TOKEN}"}


def in_turn(
    *, library: str, key: str, url: str, origin: str, workers: int, ways: list[str]
) -> Callable[[], dict[str, float]]:
    """A function that sends a batch in each way, one after the other: seconds per request, and per mint in a loop.

    In one process, for the differences are a tenth of what one process differs from another.
    """
    sending = {way: prepare(way=way, library=library, key=key, url=url, origin=origin, workers=workers) for way in ways}
    mint = _before("by hand", key, url)
    assert mint is not None
    number = 0

    def batches() -> dict[str, float]:
        nonlocal number
        number += 1
        seconds = {}
        for way, send in list(sending.items())[:: 1 if number % 2 else -1]:  # nobody always comes first
            start = time.perf_counter()
            send()
            seconds[way] = (time.perf_counter() - start) / BATCH
        start = time.perf_counter()
        for _ in range(BATCH):
            mint()
        return {**seconds, "mint": (time.perf_counter() - start) / BATCH}

    return batches


def _by_threads(workers: int, make: Callable[[], Callable[[], object]]) -> Callable[[], object]:
    local = threading.local()

    def several(count: int) -> None:
        if not hasattr(local, "send"):
            local.send = make()
        for _ in range(count):
            local.send()

    if workers == 1:
        return lambda: several(BATCH)
    pool = ThreadPoolExecutor(workers)
    return lambda: list(pool.map(several, [BATCH // workers] * workers))


def _by_tasks(workers: int, send: Callable[[], Any]) -> Callable[[], object]:
    runner = asyncio.Runner()

    async def several() -> None:
        for _ in range(BATCH // workers):
            await send()

    async def all_of_them() -> None:
        await asyncio.gather(*(several() for _ in range(workers)))

    return lambda: runner.run(all_of_them())
