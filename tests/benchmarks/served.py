# SPDX-License-Identifier: Apache-2.0
"""An API as it is served: FastAPI on uvicorn without protection, with this toolkit, and with what others would take."""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn

from measure import Figure, Section, at_least, at_most, middle, spread, told
from peers import WORKERS, Environments, Peer

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.jwt_issuer import JWTIssuer, forged
from support.redis_server import running_redis

import dpop
from dpop.keys import Key

_URL = "http://localhost:8000"
_CONNECTIONS = 16
_PLAIN, _TOOLKIT, _AUTH0, _PYJWT = "no protection", "dpop-toolkit", "auth0-fastapi-api", "PyJWT, by hand"
PEERS = {
    _PLAIN: Peer(_PLAIN, "served_plain", "served-dpop-toolkit"),
    _TOOLKIT: Peer(_TOOLKIT, "served_dpop_toolkit", "served-dpop-toolkit"),
    _AUTH0: Peer(_AUTH0, "served_auth0", "served-auth0"),
    _PYJWT: Peer(_PYJWT, "served_pyjwt", "served-pyjwt"),
}
"""The servers, each with an environment of its own."""
LONG_ONLY = {"served-auth0", "served-pyjwt"}
"""Environments that a short run does without."""


class Load(NamedTuple):
    """What came of a number of requests.

    :param rate: responses in a second.
    :param processor: microseconds of all processes of the server for one of them.
    """

    rate: float
    processor: float


class Api(NamedTuple):
    """A running server."""

    name: str
    port: int
    pid: int


def measure(environments: Environments, *, short: bool) -> Section:
    """Requests in a second and processor time for each, the servers taking turns."""
    section = Section(
        "served",
        "An API as it is served",
        "FastAPI on uvicorn with uvloop and httptools, asked over 16 kept-alive connections by one client process on"
        " the same machine, each request with a fresh ES256 proof and an RS256 token. Rate: responses in a second."
        " Processor: time of the server's processes for one response. Known: one token for all requests; new: another"
        " token in each. The issuer's keys are at hand. By hand: the checks of RFC 9449 §4.3 around `jwt.decode`. With"
        " Redis, all workers share the proofs that were used; client, workers and Redis share the processors. Health"
        " checks: one connection asks a public path while another one's owner sends as quickly as it is answered.",
        ["tokens", "server", "workers", "rate", "processor, us", "rate against no protection"],
    )
    issuer, key = dpop.generate_key("RS256"), dpop.generate_key()
    keys = {"keys": [{**JWTIssuer.jwk(issuer, "k1"), "alg": "RS256"}]}
    everyone = [_PLAIN, _TOOLKIT] if short else [_PLAIN, _TOOLKIT, _AUTH0, _PYJWT]
    rounds, count = (2, 100) if short else (7, 500)
    with ExitStack() as stack:
        apis = [stack.enter_context(_serving(environments, name, keys)) for name in everyone]
        for tokens in ("known", "new"):
            batches = (_requests(issuer, key, count, tokens=tokens) for _ in range(rounds + 1))
            _compare(section, tokens, apis, batches)
    with _serving(environments, _TOOLKIT, keys) as api, _serving(environments, _PLAIN, keys) as plain:
        section.figures += _beside_strangers(section, api, plain, 3 if short else 15, 100 if short else 500)
    with running_redis() as redis:
        for workers in (2,) if short else (1, 2, 4):
            with _serving(environments, _TOOLKIT, keys, workers=workers, redis_url=redis.url) as api:
                loads = [_load(api, batch) for batch in _batches(issuer, key, count, rounds)][1:]
                section.raw[f"Redis, {workers} workers"] = loads
                section.lines.append(["known", f"{_TOOLKIT}, Redis", str(workers), *_cells(loads), "-"])
    return section


def _batches(issuer: Key, key: Key, count: int, rounds: int) -> Iterator[list[bytes]]:
    for _ in range(rounds + 1):
        yield _requests(issuer, key, count, tokens="known")


def _compare(section: Section, tokens: str, apis: list[Api], batches: Iterator[list[bytes]]) -> None:
    taken: dict[str, list[Load]] = {api.name: [] for api in apis}
    for number, batch in enumerate(batches):
        for api in apis if number % 2 else reversed(apis):
            taken[api.name].append(_load(api, batch))
    for name, loads in taken.items():
        del loads[0]  # a server's first requests
        section.raw[f"{tokens}, {name}"] = loads
        ratios = [own.rate / free.rate for own, free in zip(loads, taken[_PLAIN], strict=True)]
        section.lines.append([tokens, name, "1", *_cells(loads), spread(ratios)])
    for name in taken.keys() - {_PLAIN, _TOOLKIT}:
        ratios = [own.rate / other.rate for own, other in zip(taken[_TOOLKIT], taken[name], strict=True)]
        section.figures.append(at_least(f"{tokens} tokens, rate against {name}", round(middle(ratios), 2), 1))
    added = [own.processor - free.processor for own, free in zip(taken[_TOOLKIT], taken[_PLAIN], strict=True)]
    section.figures.append(told(f"{tokens} tokens, processor time that the toolkit adds", round(middle(added)), "us"))


def _cells(loads: list[Load]) -> list[str]:
    return [spread([load.rate for load in loads], 0), spread([load.processor for load in loads], 0)]


def _requests(issuer: Key, key: Key, count: int, *, tokens: str) -> list[bytes]:
    """Requests that each have a proof of their own."""
    now = int(time.time())
    claims = {
        "iss": "https://tenant.example/",
        "aud": _URL,
        "sub": "alice",
        "client_id": "c",
        "iat": now,
        "exp": now + 600,
        "scope": "read",
        "cnf": {"jkt": key.thumbprint},
    }
    header = {"alg": "RS256", "typ": "at+jwt", "kid": "k1"}
    made = [forged(header, {**claims, "jti": f"{now}-{n}"}, issuer) for n in range(1 if tokens == "known" else count)]
    requests = []
    for number in range(count):
        token = made[number % len(made)]
        proof = dpop.create_proof(key, "GET", f"{_URL}/me", access_token=token)
        fields = f"Host: localhost:8000\r\nAuthorization: DPoP {token}\r\nDPoP: {proof}\r\n"
        requests.append(f"GET /me HTTP/1.1\r\n{fields}\r\n".encode())
    return requests


def _load(api: Api, requests: list[bytes]) -> Load:
    """Send each request once, as quickly as the server takes them."""
    turns = iter(requests)
    processor, start = _processor_time(api.pid), time.perf_counter()
    with selectors.DefaultSelector() as waiting, ExitStack() as stack:
        for _ in range(_CONNECTIONS):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", api.port)))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            waiting.register(connection, selectors.EVENT_READ, bytearray())
            connection.sendall(next(turns))
        while waiting.get_map():
            for ready, _ in waiting.select(timeout=60) or _nothing_from(api):
                connection, received = ready.fileobj, ready.data
                assert isinstance(connection, socket.socket)
                more = connection.recv(65536)
                assert more, f"{api.name} closed a connection"
                received += more
                if not received.endswith(b'{"sub":"alice"}'):
                    assert b"\r\n\r\n" not in received or received.startswith(b"HTTP/1.1 200 "), (api.name, received)
                    continue
                received.clear()
                another = next(turns, None)
                if another is None:
                    waiting.unregister(connection)
                else:
                    connection.sendall(another)
    elapsed = time.perf_counter() - start
    return Load(len(requests) / elapsed, (_processor_time(api.pid) - processor) / len(requests) * 1e6)


def _beside_strangers(section: Section, api: Api, plain: Api, rounds: int, count: int) -> Iterator[Figure]:
    """What becomes of health checks while a stranger sends one long query after the other, and then short ones."""
    sent = {
        kind: f"GET /me?{query} HTTP/1.1\r\nHost: localhost:8000\r\n\r\n".encode()
        for kind, query in (("queries of 60 kB", "a%61=b&" * 8_571), ("short queries", "a=b"))
    }
    slowest: dict[str, dict[str, list[float]]] = {
        server.name: {kind: [] for kind in ("nothing else", *sent)} for server in (api, plain)
    }
    for _ in range(rounds):
        for server in (api, plain):
            # Without protection each of a stranger's long queries is parsed, in 50 ms: a fifth of the checks will do.
            checks = count if server is api else count // 5
            # A new one each time: uvicorn closes what was idle for five seconds.
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                _health_checks(connection, count)
                taken = slowest[server.name]
                taken["nothing else"].append(_health_checks(connection, checks))
                for kind, request in sent.items():
                    with _stranger(server.port, request):
                        taken[kind].append(_health_checks(connection, checks))
    section.raw["health checks, p99"] = slowest
    for kind in sent:
        title = f"a health check beside a stranger's {kind}, p99 against"
        long, own = kind != "short queries", slowest[api.name]
        ratio = _middle_ratio(own[kind], own["nothing else"])
        yield at_most(f"{title} nothing else", ratio, 2) if long else told(f"{title} nothing else", ratio, "x")
        yield told(f"{title} the same without protection", _middle_ratio(own[kind], slowest[plain.name][kind]), "x")


def _middle_ratio(times: list[float], others: list[float]) -> float:
    return round(middle([one / other for one, other in zip(times, others, strict=True)]), 2)


def _health_checks(connection: socket.socket, count: int) -> float:
    """Seconds that a hundredth of so many took longer than."""
    taken = []
    for _ in range(count):
        start = time.perf_counter()
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost:8000\r\n\r\n")
        received = b""
        while not received.endswith(b"\r\n\r\n{}"):
            more = connection.recv(65536)
            assert more, "the server closed the connection"
            received += more
        taken.append(time.perf_counter() - start)
    return sorted(taken)[-1 - count // 100]


_STRANGER = """
import socket, sys
request = sys.stdin.buffer.read()
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
    for number in range(10**9):
        connection.sendall(request)
        head = body = b""
        while not head or len(body) < int(head.partition(b"content-length: ")[2].split()[0]):
            body += connection.recv(65536)
            if not head and b"\\r\\n\\r\\n" in body:
                head, _, body = body.partition(b"\\r\\n\\r\\n")
        assert head.startswith((b"HTTP/1.1 401 ", b"HTTP/1.1 200 ")), head[:100]
        if not number:
            print(flush=True)
"""


@contextmanager
def _stranger(port: int, request: bytes) -> Iterator[None]:
    """A process that sends a request again and again, and has got the first response."""
    command = [sys.executable, "-c", _STRANGER, str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(request)
            process.stdin.close()
            assert process.stdout.readline() == b"\n", "the stranger got no response"
            yield
            assert process.poll() is None, "the stranger gave up"
        finally:
            process.kill()


def _nothing_from(api: Api) -> NoReturn:
    raise RuntimeError(f"{api.name} sent nothing for a minute; what it said is above")


def _processor_time(group: int) -> float:
    """Seconds that a group of processes has computed."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile
        if int(fields[2]) == group:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def _serving(
    environments: Environments, name: str, keys: object, *, workers: int = 1, redis_url: str | None = None
) -> Iterator[Api]:
    settings = {**os.environ, "KEYS": json.dumps(keys)} | ({} if redis_url is None else {"REDIS_URL": redis_url})
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        # Accepted connections inherit it; uvicorn sets it itself only for listeners of its own.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        command = [
            str(environments.python(PEERS[name].environment)),
            "-m",
            "uvicorn",
            "--app-dir",
            str(WORKERS / "served"),
        ]
        command += ["--log-level", "warning", "--no-access-log", "--fd", str(listener.fileno())]
        command += ["--workers", str(workers), f"{PEERS[name].module}:app"]
        process = subprocess.Popen(command, env=settings, pass_fds=[listener.fileno()], start_new_session=True)
        try:
            yield Api(name, listener.getsockname()[1], process.pid)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
