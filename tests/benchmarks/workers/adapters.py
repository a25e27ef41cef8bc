# SPDX-License-Identifier: Apache-2.0
"""The libraries with and without their adapter: one call is a batch of requests by so many threads or tasks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import httpx2
import requests
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

import dpop
import dpop.httpx
import dpop.httpx2
from dpop.requests import DPoPAdapter

BATCH = 128
_TOKEN = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"


def prepare(*, library: str, way: str, key: str, url: str, origin: str, workers: int) -> Callable[[], object]:
    """A function that sends BATCH requests, over connections kept alive.

    :param way: ``plain``, ``adapted``, ``by hand`` with a proof made before, or ``signature`` with a bare one.
    """
    loaded = dpop.load_key(key.encode())
    adapted = way == "adapted"
    before = _before(way, key, url)
    if library == "requests":
        return _by_threads(workers, lambda: _session(loaded, url, origin, before, adapted=adapted))
    name, _, kind = library.partition(" ")
    module: Any = {"httpx": httpx, "httpx2": httpx2}[name]
    door: Any = {"httpx": dpop.httpx, "httpx2": dpop.httpx2}[name]
    prefix = "Async" if kind else ""
    limits = module.Limits(max_connections=200, max_keepalive_connections=200)
    transport = (
        getattr(door, f"{prefix}DPoPTransport")(loaded, origins=origin, access_token=_TOKEN, limits=limits)
        if adapted
        else getattr(module, f"{prefix}HTTPTransport")(limits=limits)
    )
    headers = {} if adapted else {"Authorization": f"Bearer {_TOKEN}"}
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
        octets, algorithm = bytes(450), ec.ECDSA(hashes.SHA256())
        return lambda: private.sign(octets, algorithm)
    return None


def _in_turn(before: Callable[[], object] | None, send: Callable[[], object]) -> Callable[[], object]:
    if before is None:
        return send

    def both() -> None:
        before()
        send()

    return both


def _session(
    key: Any, url: str, origin: str, before: Callable[[], object] | None, *, adapted: bool
) -> Callable[[], object]:
    session = requests.Session()
    session.trust_env = False
    if adapted:
        session.mount(origin, DPoPAdapter(key, origins=origin, access_token=_TOKEN))
    else:
        session.headers["Authorization"] = f"Bearer {_TOKEN}"
    return _in_turn(before, lambda: session.get(url))


def in_turn(*, library: str, key: str, url: str, origin: str) -> Callable[[], dict[str, float]]:
    """A function that sends a batch in each way, one after the other: seconds per request, and per mint in a loop.

    In one process, for the differences are a tenth of what one process differs from another.
    """
    facts: dict[str, Any] = {"library": library, "key": key, "url": url, "origin": origin, "workers": 1}
    ways = {way: prepare(way=way, **facts) for way in ("plain", "adapted", "by hand", "signature")}
    mint = _before("by hand", key, url)
    assert mint is not None

    def batches() -> dict[str, float]:
        seconds = {}
        for way, send in ways.items():
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
