# SPDX-License-Identifier: Apache-2.0
"""Wasted round trips: how many requests a server refuses for their nonce, and how long the good ones take."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import requests
from measure import Figure, Section, at_most
from mint import pem
from peers import (
    AUTH0,
    OAUTH4WEBAPI,
    OPENID_CLIENT,
    PYDPOP,
    REQUESTS_OAUTH2CLIENT,
    TOOLKIT,
    Environments,
    Peer,
    working,
)

import dpop
from dpop.client._prover import Prover
from dpop.requests import DPoPAdapter
from dpop.testing import DPoPTestServer

REQUESTS = 1000


class Client(NamedTuple):
    """A peer with one of its HTTP libraries."""

    peer: Peer
    library: str

    @property
    def name(self) -> str:
        """For the table."""
        return f"{self.peer.name}, {self.library}" if self.library else self.peer.name


CLIENTS = [
    Client(TOOLKIT, "requests"),
    Client(TOOLKIT, "httpx2 async"),
    Client(PYDPOP, "requests"),
    Client(PYDPOP, "httpx async"),
    Client(REQUESTS_OAUTH2CLIENT, "requests"),
    Client(AUTH0, "httpx async"),
    Client(OAUTH4WEBAPI, ""),
    Client(OPENID_CLIENT, ""),
]
_IN_SHORT = [*CLIENTS[:2], Client(PYDPOP, "requests"), Client(OAUTH4WEBAPI, "")]  # ours, and one of each language

DISCIPLINES: dict[str, dict[str, Any]] = {
    "none": {"rs_nonces": "none"},
    "rotating, with grace": {"rs_nonces": "rotating", "nonce_seconds": 0.1, "nonce_grace": 1},
    "rotating, no grace": {"rs_nonces": "rotating", "nonce_seconds": 0.1, "nonce_grace": 0},
    "new per answer": {"rs_nonces": "per-answer", "nonce_grace": 0},
    "single use": {"rs_nonces": "single-use"},
}


class Cell(NamedTuple):
    """One setting of the server, and how hard it is used."""

    discipline: str
    workers: int
    latency: float

    @property
    def rate(self) -> float:
        """Requests per second: what every client can do with so many workers, so that all are asked the same."""
        return min(250.0, self.workers / (3 * self.latency)) if self.latency else min(250.0, 100.0 * self.workers)


def cells(*, short: bool) -> Iterator[Cell]:
    """All that are measured."""
    if short:
        yield from (Cell(discipline, 8, 0.0) for discipline in DISCIPLINES)
        return
    for discipline in DISCIPLINES:
        for latency in (0.0, 0.02):
            for workers in (1, 8, 32, 128):
                yield Cell(discipline, workers, latency)


def measure(environments: Environments, *, short: bool) -> Section:
    """Each client on each cell, against a server of its own process that verifies every proof."""
    section = Section(
        "wasted",
        "Wasted round trips",
        "Requests refused for their nonce among 1,000 to a resource server that verifies every proof, at the same rate"
        " for every client; and how long a request took from the moment it was due to its answer. Rotating: the nonce"
        " is replaced every 100 ms; with grace the one before is good too. New per answer: only the newest is good, so"
        " that parallel requests refuse each other; one at a time, none is refused, and each waits longer."
        " Failed: what the user saw that was no 200. The"
        " picture counts a failed request as one more that was wasted: somebody has to send it again.",
        ["nonces", "workers", "added latency, ms", "client", "wasted per 1,000", "failed", "p50, ms", "p99, ms"],
    )
    results: dict[Cell, dict[str, dict[str, Any]]] = {}
    key = dpop.generate_key()
    with _server() as server:
        token = _token(server, key)
        for cell in cells(short=short):
            count = 100 if short else int(min(REQUESTS, max(100, 8 * cell.rate)))
            results[cell] = {}
            for client in _IN_SHORT if short else CLIENTS:
                with working(environments, [client.peer]) as (worker,):
                    facts = {"library": client.library, "key": pem(key), "token": token, "workers": cell.workers}
                    worker.ask("prepare", task="client", url=server["resource"], origin=server["issuer"], **facts)
                    # Code and connections are warm, so that a cold start is one of nonces and nothing else.
                    _steer(server, {**DISCIPLINES["none"], "latency": 0})
                    worker.ask("storm", count=4 * cell.workers, workers=cell.workers, rate=1000)
                    _steer(server, {**DISCIPLINES[cell.discipline], "latency": cell.latency, "lapse": True})
                    before = _challenges(server)
                    storm = worker.ask("storm", count=count, workers=cell.workers, rate=cell.rate)
                    wasted = (_challenges(server) - before) * 1000 / count
                percentiles = [round(s * 1e3, 2) for s in statistics.quantiles(storm.pop("latencies"), n=100)]
                results[cell][client.name] = {"wasted": wasted, "count": count, "percentiles_ms": percentiles, **storm}
                print(f"  {cell} {client.name}: {wasted:.0f} {storm['failed'] or ''}", file=sys.stderr)
    for cell, by_client in results.items():
        for name, result in by_client.items():
            percentiles = result["percentiles_ms"]
            failed = ", ".join(f"{count} x {what}" for what, count in sorted(result["failed"].items()))
            section.lines.append(
                [
                    cell.discipline,
                    str(cell.workers),
                    f"{cell.latency * 1e3:.0f}",
                    name,
                    f"{result['wasted']:.0f}",
                    failed or "0",
                    f"{percentiles[49]:.1f}",
                    f"{percentiles[98]:.1f}",
                ]
            )
    section.raw = {
        f"{cell.discipline}, {cell.workers} workers, {cell.latency * 1e3:.0f} ms": by_client
        for cell, by_client in results.items()
    }
    section.figures = [*_figures(results), *as_quick_as_they_can()]
    return section


def _figures(results: dict[Cell, dict[str, dict[str, Any]]]) -> list[Figure]:
    """The goals: what each discipline may cost, and nobody better in any cell."""
    figures = []
    for discipline in DISCIPLINES:
        found: list[tuple[float, float]] = []
        for cell, by_client in results.items():
            if cell.discipline == discipline:
                for client in CLIENTS[:2]:
                    result = by_client[client.name]
                    found.append((result["wasted"], _allowed(cell, result["count"]) * 1000 / result["count"]))
        worst, most = max(found, key=lambda pair: pair[0] - pair[1])
        name = f"wasted per 1,000, {discipline}, the worst cell"
        figures.append(at_most(name, round(worst, 1), round(most, 1), ""))
    behind = [cell for cell, by_client in results.items() if _is_behind(by_client)]
    name = "wasted, cells that any client can serve in which another costs its user clearly less"
    figures.append(at_most(name, len(behind), 0, ""))
    # Where a nonce may lapse between a challenge and its retry, no client with one retry can promise anything.
    sure = [by_client for cell, by_client in results.items() if cell.discipline not in _A_RETRY_MAY_BE_REFUSED]
    failed = sum(sum(by_client[client.name]["failed"].values()) for by_client in sure for client in CLIENTS[:2])
    figures.append(at_most("wasted, requests that failed with this toolkit, where a retry is good", failed, 0, ""))
    return figures


_A_RETRY_MAY_BE_REFUSED = {"rotating, no grace"}


def _is_behind(by_client: dict[str, dict[str, Any]]) -> bool:
    """Whether another client costs clearly less than ours on requests: a tenth and two requests per 1,000.

    Where each fails most requests, who gives up without a second try wastes least: there is nothing to compare.
    """
    if all(result["failed"] for result in by_client.values()):
        return False
    costs = {name: cost(result) for name, result in by_client.items()}
    ours = costs.pop(CLIENTS[0].name)
    return ours > min(costs.values()) * 1.1 + 2


def cost(result: dict[str, Any]) -> float:
    """Requests that were wasted, or failed and must be made again, per 1,000."""
    return float(result["wasted"] + sum(result["failed"].values()) * 1000 / result["count"])


def _allowed(cell: Cell, count: int) -> float:
    """Refusals that no client can avoid: at a cold start, and of what is on its way when a nonce lapses."""
    lapses = count / cell.rate / 0.1
    in_flight = max(1.0, cell.rate * (cell.latency + 0.004))
    return {
        "none": 0.0,
        "rotating, with grace": min(cell.workers, in_flight + 1),
        "rotating, no grace": min(cell.workers, in_flight + 1) + lapses * min(cell.workers, in_flight + 1),
        # Until it is found out that only the newest is good; then one request at a time, and none is refused.
        "new per answer": 5.0 if cell.workers > 1 else in_flight,
        "single use": float(cell.workers),
    }[cell.discipline]


@contextmanager
def _server() -> Iterator[dict[str, str]]:
    command = [sys.executable, "-m", "dpop_cli", "serve", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _token(server: dict[str, str], key: Any) -> str:
    with requests.Session() as session:
        session.mount(server["issuer"], DPoPAdapter(key, origins=server["issuer"]))
        response = session.post(
            server["token_endpoint"],
            data={"grant_type": "client_credentials"},
            auth=(server["client_id"], server["client_secret"]),
        )
        token: str = response.json()["access_token"]
        return token


def _steer(server: dict[str, str], changes: dict[str, Any]) -> None:
    content = json.dumps({"nonce_seconds": None, "nonce_grace": 0, **changes}).encode()
    with urllib.request.urlopen(urllib.request.Request(server["levers"], content)) as response:
        response.read()


def _challenges(server: dict[str, str]) -> int:
    with urllib.request.urlopen(server["stats"]) as response:
        challenges: int = json.load(response)["challenges"]
        return challenges


# --- as quick as they can

_WORKERS, _LAPSES = 32, 4


def _run(server: DPoPTestServer, *, lapses: int) -> int:
    """1,000 requests by 32 threads, the nonce lapsing now and then; how many were refused."""
    key = dpop.generate_key()
    token = server.issue_access_token(jkt=key.thumbprint)
    adapter = DPoPAdapter(
        Prover(key), origins=server.origin, access_token=token, nonces="required", pool_maxsize=_WORKERS
    )
    done = 0
    lock = threading.Lock()
    local = threading.local()

    def one(_number: int) -> None:
        nonlocal done
        if not hasattr(local, "session"):
            local.session = requests.Session()
            local.session.trust_env = False
            local.session.mount(server.origin, adapter)
        response = local.session.get(server.resource)
        if response.status_code != 200:
            raise RuntimeError(f"a request was refused for good: {response.status_code}")
        with lock:
            done += 1
            if lapses and done % (REQUESTS // (lapses + 1)) == 0:
                server.levers.lapse()

    before = server.stats.challenges
    with ThreadPoolExecutor(_WORKERS) as pool:
        list(pool.map(one, range(REQUESTS)))
    return int(server.stats.challenges - before)


def as_quick_as_they_can() -> list[Figure]:
    """Refused requests among 1,000 by 32 threads that never pause, for each way a server may treat nonces."""
    figures = []
    for grace in (True, False):
        with DPoPTestServer(nonces="rotating", nonce_grace=int(grace)) as server:
            wasted = _run(server, lapses=_LAPSES)
        name = f"32 threads without pause, {'with' if grace else 'without'} grace, {_LAPSES} lapses, wasted per 1,000"
        # One at the start; then none, or what was on its way at each lapse.
        figures.append(at_most(name, wasted, 1 if grace else 1 + _WORKERS * _LAPSES, "", timed=False))
    with DPoPTestServer(nonces="single-use") as server:
        wasted = _run(server, lapses=0)
    name = "32 threads without pause, single-use, wasted per 1,000"
    figures.append(at_most(name, wasted, _WORKERS, "", timed=False))
    with DPoPTestServer(nonces="per-answer", nonce_grace=0) as server:
        wasted = _run(server, lapses=0)
    name = "32 threads without pause, only the newest, wasted per 1,000"
    return [*figures, at_most(name, wasted, 5, "", timed=False)]
