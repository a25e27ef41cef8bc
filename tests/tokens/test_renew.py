# SPDX-License-Identifier: Apache-2.0
"""``source.renew()``: new tokens at once, although the old ones have not expired."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.endpoints import ENDPOINTS, Endpoint
from support.recorder import Response
from support.rotating_server import RotatingServer

import dpop
from dpop.errors import ReauthorizationError, TokenEndpointUnavailableError
from dpop.requests import TokenEndpoint
from dpop.tokens import FileTokenStore, MemoryTokenStore, TokenSet

KEY = dpop.generate_key()


def good() -> TokenSet:
    """Tokens that are good for an hour."""
    now = time.time()
    return TokenSet(access_token="a0", issued_at=now, expires_at=now + 3600, refresh_token="r0", jkt=KEY.thumbprint)


def filled(store: Any = None) -> Any:
    """A store with good tokens."""
    store = store or MemoryTokenStore()
    store.save(good())
    return store


def source_of(server: RotatingServer, store: Any) -> Any:
    """A source of its own, as another process has it."""
    return TokenEndpoint(KEY, server.url, client_id="c", timeout=60).source(store)


@pytest.fixture(params=sorted(ENDPOINTS))
def ask(request: pytest.FixtureRequest) -> Iterator[Callable[[RotatingServer], tuple[Any, Callable[[Any], Any]]]]:
    """Makes a source of each kind of endpoint, and a function that awaits what it returns if need be."""
    endpoints: list[Endpoint] = []

    def make(server: RotatingServer) -> tuple[Any, Callable[[Any], Any]]:
        endpoint = Endpoint(request.param, KEY, server.url, client_id="c", timeout=60)
        endpoints.append(endpoint)
        source = endpoint.it.source(filled())
        return source, lambda result: endpoint.wait(result) if inspect.isawaitable(result) else result

    yield make
    for endpoint in endpoints:
        endpoint.close()


def test_good_tokens_are_renewed(ask: Any) -> None:
    """One request brings the new token, and from then on the source gives that one."""
    with RotatingServer() as server:
        source, got = ask(server)
        assert got(source()) == "a0"
        assert got(source.renew()) == "a1"
        assert got(source()) == "a1"
        assert got(source.arenew()) == "a2"
        assert got(source()) == "a2"
        assert source.store.load().refresh_token == "r2"
        assert server.sent == ["r0", "r1"]


def test_a_failure_costs_neither_tokens_nor_requests(ask: Any) -> None:
    """The error is raised, the old token stays, and a server that is busy is not asked before it wants to be."""
    with RotatingServer(lambda _: Response(503, [("Retry-After", "30")], b"{}")) as server:
        source, got = ask(server)
        for _ in range(2):
            with pytest.raises(TokenEndpointUnavailableError):
                got(source.renew())
        assert got(source()) == "a0"
        assert server.sent == ["r0"]


def test_a_refusal_for_good_is_said_and_not_repeated(ask: Any) -> None:
    """A revoked grant: each call says so, and one request was sent; the old access token is used to its end."""
    with RotatingServer(lambda _: Response(400, [], b'{"error":"invalid_grant"}')) as server:
        source, got = ask(server)
        for _ in range(2):
            with pytest.raises(ReauthorizationError, match="authorise"):
                got(source.renew())
        assert got(source()) == "a0"
        assert server.sent == ["r0"]


@pytest.mark.parametrize("kind", [dpop.requests.TokenEndpoint, dpop.httpx2.AsyncTokenEndpoint])
def test_callers_at_the_same_time_share_one_refresh(kind: Any) -> None:
    """Eight tasks ask while the first refresh is on its way, and one of them is cancelled."""
    all_asked = threading.Event()

    async def program(server: RotatingServer) -> list[str]:
        source = kind(KEY, server.url, client_id="c", timeout=60).source(filled())
        tasks = [asyncio.ensure_future(source.arenew()) for _ in range(8)]
        await asyncio.sleep(0)  # each of them asks now
        assert await source.atoken() == "a0"  # who does not need a new one does not wait
        tasks[0].cancel()
        all_asked.set()
        return await asyncio.gather(*tasks[1:])

    with RotatingServer(lambda _: (all_asked.wait(30), None)[1]) as server:
        assert asyncio.run(program(server)) == ["a1"] * 7
        assert server.sent == ["r0"]


class Watched(FileTokenStore):
    """A store that says when it has been read, and can have its next reader wait then."""

    def __init__(self, path: Any) -> None:
        super().__init__(path)
        self.was_read = threading.Event()
        self.hold: threading.Event | None = None

    def load(self, account: str = "default") -> TokenSet | None:
        """The tokens, once the reader may go on."""
        tokens = super().load(account)
        hold, self.hold = self.hold, None
        self.was_read.set()
        assert hold is None or hold.wait(30)
        return tokens


def test_processes_at_the_same_time_share_one_refresh(tmp_path: Any) -> None:
    """Another source wants new tokens while a refresh is on its way: it takes those that this one brings."""
    store, other = filled(FileTokenStore(tmp_path / "tokens.json")), Watched(tmp_path / "tokens.json")
    with ThreadPoolExecutor() as threads:
        begun: list[Any] = []

        def meddle(_: int) -> None:
            begun.append(threads.submit(source_of(server, other).renew))
            assert other.was_read.wait(30)

        with RotatingServer(meddle) as server:
            assert source_of(server, store).renew() == "a1"
            assert begun[0].result(30) == "a1"
            assert server.sent == ["r0"]


def test_tokens_that_were_found_before_do_not_replace_new_ones(tmp_path: Any) -> None:
    """A caller who has just read the old tokens gets the new ones, and so does everybody after it."""
    store = filled(Watched(tmp_path / "tokens.json"))
    with RotatingServer() as server, ThreadPoolExecutor() as threads:
        source = source_of(server, store)
        store.was_read.clear()
        store.hold = may_go_on = threading.Event()
        slow = threads.submit(source)
        assert store.was_read.wait(30)
        assert source.renew() == "a1"
        may_go_on.set()
        assert slow.result(30) == "a1"
        assert source() == "a1"
        assert server.sent == ["r0"]
