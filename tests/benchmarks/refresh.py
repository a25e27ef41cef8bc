# SPDX-License-Identifier: Apache-2.0
"""Refresh storm: how often a token endpoint is asked when a token that many use expires."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from measure import Figure, Section, at_most, middle, pairs
from mint import pem
from peers import REQUESTS_OAUTH2CLIENT, TOOLKIT, Environments, Peer, Worker, working

import dpop
from dpop.keys import Key
from dpop.requests import TokenEndpoint
from dpop.testing import DPoPTestServer
from dpop.tokens import FileTokenStore, MemoryTokenStore, TokenSet

# One process or several, and the threads of each.
_CELLS = [(1, 1), (1, 4), (1, 16), (1, 64), (2, 16), (4, 1), (4, 16)]
_CLIENTS = [TOOLKIT, REQUESTS_OAUTH2CLIENT]


def measure(environments: Environments, *, short: bool) -> Section:
    """Each client in so many processes and threads, whose shared token has expired at once."""
    section = Section(
        "refresh",
        "Refresh storm",
        "Threads and processes that call an API with one access token, each once, at the moment it has expired."
        " Refreshes: successful ones that the token endpoint was asked for, per expiry; it keeps the refresh token, or"
        " those who refresh twice would lose it. The toolkit's processes share a token file; requests_oauth2client has"
        " no store, so each of its processes has its own copy of the token. The other peers leave refreshing to their"
        " user. Failed: calls that did not get a 200.",
        ["processes", "threads in each", "client", "refreshes per expiry", "most", "failed"],
    )
    expiries = 3 if short else 20
    for processes, threads in _CELLS:
        for client in _CLIENTS:
            counted, failed = _storm(environments, client, processes, threads, expiries)
            section.raw[f"{processes} x {threads}, {client.name}"] = {"refreshes": counted, "failed": failed}
            mean = sum(counted) / len(counted)
            cells = [str(processes), str(threads), client.name, f"{mean:.1f}", str(max(counted)), str(failed)]
            section.lines.append(cells)
            if client is TOOLKIT:
                name = f"{processes} x {threads} callers: expiries without exactly one refresh, or with a failure"
                wrong = sum(count != 1 for count in counted) + failed
                section.figures.append(Figure(name, wrong, "", "0", not wrong, timed=False))
    section.figures.append(_fresh_token(short=short))
    return section


def _storm(
    environments: Environments, client: Peer, processes: int, threads: int, expiries: int
) -> tuple[list[int], int]:
    """Refreshes at each expiry, and calls that failed."""
    counted, failed = [], 0
    key = dpop.generate_key()
    with DPoPTestServer(nonces="none") as server, working(environments, [client] * processes) as workers:
        for _ in range(expiries):
            with tempfile.TemporaryDirectory() as folder:
                _prepare(server, key, workers, threads, Path(folder, "tokens.json"))
                server.reset()
                for worker in workers:
                    worker.tell("call")
                outcomes = sum((Counter(worker.response()) for worker in workers), Counter[str]())
            failed += processes * threads - outcomes["200"]
            counted.append(
                sum(
                    request.status == 200 and parse_qs(request.body.decode())["grant_type"] == ["refresh_token"]
                    for request in server.requests
                    if request.endpoint == "token"
                )
            )
    return counted, failed


def _prepare(server: DPoPTestServer, key: Key, workers: list[Worker], threads: int, path: Path) -> None:
    """Everybody has a token that has just expired, and a refresh token."""
    client_id = server.public_client_id
    tokens = {
        "access_token": server.issue_access_token(jkt=key.thumbprint, lifetime=-1),
        "refresh_token": server.issue_refresh_token(jkt=key.thumbprint, client_id=client_id),
    }
    facts: dict[str, Any] = {"key": pem(key), "client_id": client_id, "endpoint": server.token_endpoint, **tokens}
    FileTokenStore(path).save(_expired(key, server.token_endpoint, client_id, tokens))
    for worker in workers:
        worker.ask(
            "prepare",
            task="refresh",
            url=server.resource,
            origin=server.origin,
            store=str(path),
            threads=threads,
            **facts,
        )


def _expired(key: Key, endpoint: str, client_id: str, tokens: dict[str, str]) -> TokenSet:
    return TokenSet(
        issued_at=1_000_000_000,
        expires_at=1_000_000_001,
        jkt=key.thumbprint,
        token_endpoint=endpoint,
        client_id=client_id,
        **tokens,
    )


def _fresh_token(*, short: bool) -> Figure:
    """A fresh token from a source, which is asked for every request, against a call of an empty function."""
    key = dpop.generate_key()
    store = MemoryTokenStore()
    store.save(TokenSet(access_token="a", refresh_token="r", expires_at=4e9, jkt=key.thumbprint))
    source = TokenEndpoint(key, "https://as.example/token", client_id="c").source(store)
    assert source() == "a"

    def empty() -> None:
        pass

    timed = pairs(empty, source, rounds=2_000, repeats=101 if short else 1001)
    ratio = middle([asked / nothing for nothing, asked in timed])
    return at_most("a token that is fresh, from a source, against an empty call", round(ratio, 1), 10)
