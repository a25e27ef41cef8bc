# SPDX-License-Identifier: Apache-2.0
"""This toolkit, as its README shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx2
import requests
from worker import at_once

import dpop
from dpop.httpx2 import AsyncDPoPTransport
from dpop.requests import DPoPAdapter, TokenEndpoint
from dpop.server import MemoryReplayCache, ProofVerifier
from dpop.tokens import FileTokenStore


def mint(*, key: str, alg: str, method: str, url: str, nonce: str | None, token: str | None) -> Callable[[], object]:
    """A proof."""
    loaded = dpop.load_key(key.encode())
    del alg
    return lambda: dpop.create_proof(loaded, method, url, nonce=nonce, access_token=token)


def verify(
    *, proofs: list[str], method: str, url: str, nonce: str, token: str, jkts: list[str]
) -> Callable[[], object]:
    """All checks of RFC 9449 §4.3, the replay cache included."""
    del nonce
    verifier = ProofVerifier(replay=MemoryReplayCache())
    authorization = ("Authorization", f"DPoP {token}")
    turns = iter(zip(proofs, jkts, strict=True))

    def one() -> object:
        proof, jkt = next(turns)
        return verifier.verify_resource(
            [authorization, ("DPoP", proof)], method, url, access_token=token, bound_jkt=jkt
        )

    return one


class Requests:
    """An adapter shared by sessions, a session per thread."""

    def __init__(self, adapter: DPoPAdapter, url: str) -> None:
        self.adapter = adapter
        self.url = url
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.mount("http://", adapter)

    def fresh(self) -> Requests:
        """A session with the same adapter."""
        return Requests(self.adapter, self.url)

    def send(self) -> int:
        """One request."""
        return self.session.get(self.url).status_code


class Httpx2:
    """An asynchronous client."""

    def __init__(self, prover: dpop.Prover, url: str, origin: str, token: str) -> None:
        self.arguments: tuple[Any, ...] = (prover, url, origin, token)
        self.url = url
        transport = AsyncDPoPTransport(
            prover, origins=origin, access_token=token, limits=httpx2.Limits(max_connections=200)
        )
        self.client = httpx2.AsyncClient(transport=transport, timeout=60)

    def fresh(self) -> Httpx2:
        """Another client of the same prover."""
        return Httpx2(*self.arguments)

    async def send(self) -> int:
        """One request."""
        return (await self.client.get(self.url)).status_code


def client(*, library: str, key: str, url: str, origin: str, token: str, workers: int) -> Any:
    """A client of one of the libraries."""
    prover = dpop.Prover(dpop.load_key(key.encode()))
    if library == "httpx2 async":
        return Httpx2(prover, url, origin, token)
    adapter = DPoPAdapter(prover, origins=origin, access_token=token, pool_maxsize=workers)
    return Requests(adapter, url)


def refresh(
    *,
    key: str,
    client_id: str,
    endpoint: str,
    access_token: str,
    refresh_token: str,
    url: str,
    origin: str,
    store: str,
    threads: int,
) -> Callable[[], dict[str, int]]:
    """One call of an API by each thread, with the token of a source whose store the processes share."""
    del access_token, refresh_token  # they are in the store
    loaded = dpop.load_key(key.encode())
    source = TokenEndpoint(loaded, endpoint, client_id=client_id).source(FileTokenStore(store))
    adapter = DPoPAdapter(loaded, origins=origin, access_token=source, pool_maxsize=threads)
    return at_once(threads, Requests(adapter, url).fresh)
