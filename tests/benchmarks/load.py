# SPDX-License-Identifier: Apache-2.0
"""The whole chain under load: client processes, an API of several workers, Redis, and tokens that expire all the time.

    python tests/benchmarks/load.py [--minutes 15] [--clients 4] [--workers 4] [--lifetime 10] [--store file|redis]

Each client process calls the API in threads (requests) and in tasks (httpx), and all share one token store. The
authorization server replaces the refresh token each time, and revokes everything when an old one is used again. In
each client a thief sends proofs twice at once. Nonces change every two seconds. Exit status 1 if a request failed, a
proof was accepted twice, or an expiry had more or less than one refresh.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import httpx
import redis
import requests
from support.redis_server import running_redis

import dpop
from dpop.client import ClientEvent
from dpop.httpx import AsyncDPoPTransport, AsyncTokenEndpoint
from dpop.redis import RedisTokenStore
from dpop.requests import DPoPAdapter, TokenEndpoint
from dpop.testing import DPoPTestServer
from dpop.tokens import FileTokenStore, TokenSet, TokenStore

_WORKERS = Path(__file__).parent / "workers"
_PATIENCE = 120.0
"""Seconds for a token request: a busy machine must not look like a failure."""
_EARLIEST = 0.3
"""A token is renewed in the last three tenths of its life, at the earliest: a fifth, and up to half of that more."""


# --- one client process


class _Watched:
    """A token store that notes each time that new tokens replace old ones: how many seconds the old ones still had."""

    def __init__(self, store: TokenStore, replaced: list[float]) -> None:
        self._store = store
        self._replaced = replaced

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def replace(self, old: TokenSet | None, new: TokenSet, account: str, *, fence: int | None = None) -> bool:
        left = 0.0 if old is None or old.expires_at is None else old.expires_at - time.time()
        done = self._store.replace(old, new, account, fence=fence)
        if done and old is not None and new.access_token != old.access_token:
            self._replaced.append(left)
        return done


class _Client:
    """Callers in threads and tasks of one process, and a thief."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self._facts = facts
        self._ends_at = 0.0
        self._replaced: list[float] = []
        store: TokenStore = FileTokenStore(facts["tokens"])
        if facts["store"] == "redis":
            store = RedisTokenStore(redis.Redis.from_url(facts["redis"]))
        self._store: Any = _Watched(store, self._replaced)
        self._events: Counter[str] = Counter()
        self._prover = dpop.Prover(dpop.load_key(facts["key"]), events=self._count)
        self._latencies: dict[str, list[float]] = {"threads": [], "tasks": []}
        self._failures: list[str] = []
        self._stolen: Counter[str] = Counter()

    def _count(self, event: ClientEvent) -> None:
        self._events[f"{event.kind} {event.role}"] += 1

    def run(self) -> dict[str, Any]:
        """Call until the time is over; what came of it."""
        facts = self._facts
        self._ends_at = time.monotonic() + facts["seconds"]
        options: dict[str, Any] = {"client_id": facts["client_id"], "timeout": _PATIENCE}
        endpoint = TokenEndpoint(self._prover, facts["token_endpoint"], **options)
        source = endpoint.source(self._store)
        count = facts["callers"]
        with ThreadPoolExecutor(count + 2) as pool:
            work = [pool.submit(self._guarded, self._threads, source) for _ in range(count)]
            work.append(pool.submit(self._guarded, self._thief, source))
            work.append(pool.submit(self._guarded, lambda _: asyncio.run(self._tasks(count, options)), source))
            for each in work:
                each.result()
        endpoint.close()
        return {
            "latencies": self._latencies,
            "failures": self._failures,
            "stolen": self._stolen,
            "events": self._events,
            "replaced": self._replaced,
        }

    def _guarded(self, caller: Callable[[Any], object], source: Any) -> None:
        try:
            caller(source)
        except Exception as error:  # noqa: BLE001 - whatever ends a caller is a failure of the run
            self._failures.append(f"{type(error).__name__}: {error}"[:300])

    def _judge(self, kind: str, began: float, status: int, text: str) -> None:
        self._latencies[kind].append(time.perf_counter() - began)
        if status != 200:
            self._failures.append(f"{kind}: {status} {text[:200]}")

    def _threads(self, source: Any) -> None:
        session = requests.Session()
        session.trust_env = False
        session.mount(self._facts["url"], DPoPAdapter(self._prover, origins=self._facts["url"], access_token=source))
        while True:
            began = time.perf_counter()
            try:
                response = session.get(f"{self._facts['url']}/items")
                self._judge("threads", began, response.status_code, response.headers.get("WWW-Authenticate", ""))
            except Exception as error:  # noqa: BLE001 - as above
                self._judge("threads", began, 0, repr(error))
            if time.monotonic() >= self._ends_at:
                return
            time.sleep(self._facts["pause"])

    async def _tasks(self, count: int, options: dict[str, Any]) -> None:
        async with AsyncTokenEndpoint(self._prover, self._facts["token_endpoint"], **options) as endpoint:
            source = endpoint.source(self._store)
            transport = AsyncDPoPTransport(self._prover, origins=self._facts["url"], access_token=source)
            async with httpx.AsyncClient(transport=transport, timeout=None) as client:
                await asyncio.gather(*(self._task(client) for _ in range(count)))

    async def _task(self, client: httpx.AsyncClient) -> None:
        while True:
            began = time.perf_counter()
            try:
                response = await client.get(f"{self._facts['url']}/items")
                self._judge("tasks", began, response.status_code, response.headers.get("WWW-Authenticate", ""))
            except Exception as error:  # noqa: BLE001 - as above
                self._judge("tasks", began, 0, repr(error))
            if time.monotonic() >= self._ends_at:
                return
            await asyncio.sleep(self._facts["pause"])

    def _thief(self, source: Any) -> None:
        """Send each proof twice at once: the API must take one of the two."""
        nonce: str | None = None
        barrier = threading.Barrier(2)
        with ThreadPoolExecutor(2) as both:
            while True:
                token = source()
                proof = dpop.create_proof(
                    self._prover.key, "GET", f"{self._facts['url']}/items", access_token=token, nonce=nonce
                )
                sent = [both.submit(self._send, barrier, token, proof) for _ in range(2)]
                answers = [each.result() for each in sent]
                self._stolen[" and ".join(sorted(str(status) for status, _ in answers))] += 1
                nonce = answers[0][1] or answers[1][1] or nonce
                if time.monotonic() >= self._ends_at and any(seen.startswith("200") for seen in self._stolen):
                    return
                time.sleep(self._facts["pause"])

    def _send(self, barrier: threading.Barrier, token: str, proof: str) -> tuple[int, str | None]:
        host = self._facts["url"].removeprefix("http://")
        connection = http.client.HTTPConnection(host)
        connection.connect()
        barrier.wait()
        connection.request("GET", "/items", headers={"Authorization": f"DPoP {token}", "DPoP": proof})
        with connection.getresponse() as response:
            response.read()
        connection.close()
        return response.status, response.headers["DPoP-Nonce"]


# --- the servers


def _authorize(jkt: str, lifetime: int) -> None:
    """The authorization server: prints its facts, and at each line on standard input what it has counted."""
    with DPoPTestServer(
        tokens="jwt", token_lifetime=lifetime, as_nonces="rotating", nonce_seconds=60, kept=10
    ) as server:
        client = server.public_client_id
        facts = {
            "issuer": server.issuer,
            "token_endpoint": server.token_endpoint,
            "client_id": client,
            "refresh_token": server.issue_refresh_token(jkt=jkt, client_id=client),
        }
        print(json.dumps(facts), flush=True)
        for _ in sys.stdin:
            print(json.dumps(server.stats.as_dict()), flush=True)


@contextmanager
def _process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """This file in a process of its own."""
    command = [sys.executable, __file__, *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _ask(process: subprocess.Popen[str], line: str = "") -> Any:
    """Send a line if there is one, and return what the process says next."""
    assert process.stdin is not None
    assert process.stdout is not None
    if line:
        process.stdin.write(line)
        process.stdin.flush()
    said = process.stdout.readline()
    if not said:
        raise RuntimeError("a process ended early; what it said is above")
    return json.loads(said)


@contextmanager
def _api(facts: dict[str, Any], workers: int) -> Iterator[str]:
    """The API on uvicorn, in so many processes."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        command = [sys.executable, "-m", "uvicorn", "--app-dir", str(_WORKERS), "--log-level", "warning"]
        command += ["--no-access-log", "--timeout-keep-alive", "600", "--fd", str(listener.fileno())]
        command += ["--workers", str(workers), "recording_api:app"]
        environment = {**os.environ, "FACTS": json.dumps({**facts, "url": url})}
        process = subprocess.Popen(command, env=environment, pass_fds=[listener.fileno()], start_new_session=True)
        try:
            yield url
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


# --- the run


@dataclass
class Outcome:
    """What came of a run.

    :param early: refreshes of a token that was not due: a second one for the same expiry.
    :param unsaved: successful refreshes of the server that no store has, or the other way round.
    :param twice: proofs that the API accepted more than once.
    :param stolen: statuses of proofs that were sent twice at once, and how often.
    """

    latencies: dict[str, list[float]] = field(default_factory=lambda: {"threads": [], "tasks": []})
    failures: list[str] = field(default_factory=list)
    stolen: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    accepted: int = 0
    twice: int = 0
    tokens: int = 0
    refreshes: int = 0
    early: int = 0
    unsaved: int = 0

    @property
    def requests(self) -> int:
        """Requests of the callers, without those of the thieves."""
        return sum(map(len, self.latencies.values()))

    @property
    def violations(self) -> list[str]:
        """What must not be."""
        wrong = {
            "failed requests": len(self.failures),
            "proofs accepted twice": self.twice,
            "refreshes of a token that was not due": self.early,
            "refreshes that are not in the store exactly once": self.unsaved,
        }
        return [f"{count} {what}" for what, count in wrong.items() if count]


def run(
    *,
    seconds: float,
    clients: int = 4,
    callers: int = 4,
    workers: int = 4,
    lifetime: int = 10,
    store: str = "file",
    pause: float = 0.05,
) -> Outcome:
    """Run the whole chain for so long.

    :param callers: threads, and as many tasks, of each client process.
    :param lifetime: of an access token, in seconds.
    :param pause: seconds that a caller waits between a response and its next request.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dpop-")))
        server = stack.enter_context(running_redis())
        key = dpop.generate_key()
        key.save(folder / "key.pem")
        authorization = stack.enter_context(_process(f"--authorize={key.thumbprint}", "--lifetime", str(lifetime)))
        facts = {**_ask(authorization), "folder": str(folder), "redis": server.url}
        old = TokenSet(
            access_token="old",
            refresh_token=facts.pop("refresh_token"),
            expires_at=1,
            jkt=key.thumbprint,
            client_id=facts["client_id"],
        )
        tokens: TokenStore = FileTokenStore(folder / "tokens.json")
        if store == "redis":
            tokens = RedisTokenStore(redis.Redis.from_url(server.url))
        tokens.save(old)
        url = stack.enter_context(_api({**facts, "nonce_secret": secrets.token_hex(32)}, workers))
        facts |= {"url": url, "store": store, "tokens": str(folder / "tokens.json"), "key": str(folder / "key.pem")}
        facts |= {"seconds": seconds, "callers": callers, "pause": pause}
        processes = [stack.enter_context(_process("--client")) for _ in range(clients)]
        for process in processes:
            _ask(process, json.dumps(facts) + "\n")
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        outcome = Outcome()
        replaced: list[float] = []
        for process in processes:
            said = _ask(process)
            replaced += said["replaced"]
            outcome.failures += said["failures"]
            outcome.stolen.update(said["stolen"])
            outcome.events.update(said["events"])
            for kind, taken in said["latencies"].items():
                outcome.latencies[kind] += taken
        seen = _ask(authorization, "count\n")
        notes = [line.split() for path in folder.glob("api-*") for line in path.read_text().splitlines()]
    outcome.accepted, outcome.tokens = len(notes), len({token for _, token in notes})
    outcome.twice = sum(times > 1 for times in Counter(proof for proof, _ in notes).values())
    outcome.refreshes = seen["requests_by_endpoint"]["token"] - seen["refusals"]
    outcome.early = sum(left > _EARLIEST * lifetime + 0.001 for left in replaced)
    outcome.unsaved = abs(outcome.refreshes - len(replaced)) + seen["refusals"] - seen["challenges"]
    return outcome


def _table(outcome: Outcome, seconds: float) -> Iterator[str]:
    yield f"{'calls by':10}{'requests':>10}{'p50, ms':>10}{'p99, ms':>10}{'max, ms':>10}"
    for kind, taken in outcome.latencies.items():
        cuts = statistics.quantiles(taken, n=100, method="inclusive") if len(taken) > 1 else [*taken] * 99
        cells = [f"{1000 * value:10.1f}" for value in (cuts[49], cuts[98], max(taken))]
        yield f"{kind:10}{len(taken):10}" + "".join(cells)
    retried = outcome.events["retried RS"]
    stolen = ", ".join(f"{count} x {statuses}" for statuses, count in sorted(outcome.stolen.items()))
    yield ""
    yield f"requests per second    {outcome.requests / seconds:.0f}"
    yield f"failed requests        {len(outcome.failures)}"
    yield f"sent again for a nonce {retried}, {1000 * retried / outcome.requests:.2f} per 1,000"
    yield f"proofs accepted        {outcome.accepted}, twice: {outcome.twice}"
    yield f"proofs sent twice      {stolen}"
    yield f"tokens that were used  {outcome.tokens}"
    yield f"refreshes              {outcome.refreshes}, of a token not due: {outcome.early}, unsaved: {outcome.unsaved}"


def main() -> int:
    """Run it and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--clients", type=int, default=4, help="client processes")
    parser.add_argument("--callers", type=int, default=4, help="threads in each, and as many tasks")
    parser.add_argument("--workers", type=int, default=4, help="processes of the API")
    parser.add_argument("--lifetime", type=int, default=10, help="of an access token, in seconds")
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between the calls of one caller")
    parser.add_argument("--store", choices=["file", "redis"], default="file", help="where the tokens are")
    parser.add_argument("--authorize", help=argparse.SUPPRESS)
    parser.add_argument("--client", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.authorize:
        _authorize(options.authorize, options.lifetime)
        return 0
    if options.client:
        client = _Client(json.loads(sys.stdin.readline()))
        print('"ready"', flush=True)
        sys.stdin.readline()
        print(json.dumps(client.run()), flush=True)
        return 0
    seconds = 60 * options.minutes
    outcome = run(
        seconds=seconds,
        clients=options.clients,
        callers=options.callers,
        workers=options.workers,
        lifetime=options.lifetime,
        store=options.store,
        pause=options.pause,
    )
    print("\n".join(_table(outcome, seconds)))
    for what in outcome.violations:
        print(f"VIOLATION: {what}")
    for failure in outcome.failures[:10]:
        print(f"  {failure}")
    return int(bool(outcome.violations))


if __name__ == "__main__":
    sys.exit(main())
