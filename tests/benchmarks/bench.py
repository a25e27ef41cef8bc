# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: each figure is a median, and a ratio or difference against a baseline of the same run.

    python tests/benchmarks/bench.py [--short] [--json]

Machines drift, so a thing and its baseline are timed in turn, pair by pair, and the ratio is taken per
pair. The figures to reach stand beside what was measured; nothing here is a test.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import requests
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from figures import Figure, pairs, seconds
from verifying import live_entries, once, refusing, verifying

import dpop
from dpop.client.prover import Prover
from dpop.proof import signing_input
from dpop.requests import DPoPAdapter, TokenEndpoint
from dpop.testing import DPoPTestServer
from dpop.tokens import MemoryTokenStore, TokenSet


def minting(*, short: bool) -> list[Figure]:
    """A whole ES256 proof against a bare signature of the same octets."""
    key = dpop.generate_key()
    private = ec.generate_private_key(ec.SECP256R1())
    url = "https://server.example.com/token"
    octets = signing_input(key, "POST", url, jti="x" * 22, iat=1_800_000_000)
    algorithm = ec.ECDSA(hashes.SHA256())
    timed = pairs(
        lambda: private.sign(octets, algorithm),
        lambda: dpop.create_proof(key, "POST", url),
        rounds=300 if short else 2000,
        repeats=11 if short else 41,
    )
    rate = statistics.median(bare / proof for bare, proof in timed)
    micros = statistics.median(proof for _, proof in timed) * 1e6
    return [
        Figure("minting ES256, rate against a bare signature", round(rate, 3), "x", ">= 0.80", rate >= 0.80),
        Figure("minting ES256, one proof", round(micros, 1), "us", "-", reached=True),
    ]


# In a process of its own, and without a thought, so that its work is not counted as ours.
_SERVER = """
import socket
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
import threading
import time
def serve(connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while octets := connection.recv(65536):
        if octets.endswith(b"\\r\\n\\r\\n"):
            connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
while True:
    threading.Thread(target=serve, args=server.accept()[:1], daemon=True).start()
"""


def overhead(*, short: bool) -> list[Figure]:
    """requests with the adapter against plain requests, on a kept-alive loopback connection."""
    server = subprocess.Popen([sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    origin = f"http://127.0.0.1:{int(server.stdout.readline())}"
    key = dpop.generate_key()
    plain, signed = requests.Session(), requests.Session()
    for session in (plain, signed):
        session.trust_env = False
    plain.headers["Authorization"] = "Bearer token"
    signed.mount(origin + "/", DPoPAdapter(key, origins=origin, access_token="token"))
    url = origin + "/resource"

    private, algorithm, octets = ec.generate_private_key(ec.SECP256R1()), ec.ECDSA(hashes.SHA256()), bytes(400)

    # Between two requests all costs more than in a loop of its own: the caches hold other things.
    def unsigned_and_a_signature() -> None:
        plain.get(url)
        private.sign(octets, algorithm)

    def unsigned_and_a_mint() -> None:
        plain.get(url)
        dpop.create_proof(key, "GET", url, access_token="token")

    rounds = 50 if short else 200
    samples = [
        (
            seconds(lambda: plain.get(url), rounds),
            seconds(unsigned_and_a_signature, rounds),
            seconds(unsigned_and_a_mint, rounds),
            seconds(lambda: signed.get(url), rounds),
        )
        for _ in range(11 if short else 41)
    ]
    server.kill()
    server.wait()
    in_a_loop = statistics.median(
        seconds(lambda: dpop.create_proof(key, "GET", url, access_token="token"), 300) for _ in range(11)
    )
    floor, between, extra = (
        statistics.median(sample[i] - sample[0] for sample in samples) for i in range(1, len(samples[0]))
    )
    goal = 2 * in_a_loop + 20e-6
    return [
        Figure(
            "requests with the adapter minus plain requests",
            round(extra * 1e6, 1),
            "us",
            f"<= 2 mints + 20 us = {goal * 1e6:.1f} us",
            extra <= goal,
        ),
        Figure("a bare signature between two requests", round(floor * 1e6, 1), "us", "-", reached=True),
        Figure("one mint between two requests", round(between * 1e6, 1), "us", "-", reached=True),
    ]


_SAME_PARTS = (
    "from cryptography.hazmat.primitives import hashes, serialization\n"
    "from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils\n"
    "import base64, binascii, collections.abc, enum, functools, hashlib,"
    " ipaddress, json, logging, os, pathlib, re, tempfile, threading, time, typing, urllib.parse, weakref\n"
)


def importing(*, short: bool) -> list[Figure]:
    """``import dpop`` with all it hands out, and ``dpop proof``, against importing the same parts of other people."""
    with tempfile.TemporaryDirectory() as cache:
        # With byte code, as an installed package has it; the first run of each, not counted, makes it.
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        environment |= {"PYTHONPYCACHEPREFIX": cache, "DPOP_STATE_DIR": cache}
        key = str(Path(cache, "key.pem"))
        dpop.generate_key().save(key)

        def run(*arguments: str) -> Callable[[], object]:
            return lambda: subprocess.run(
                [sys.executable, *arguments], check=True, env=environment, stdout=subprocess.DEVNULL
            )

        def ratio(ours: Callable[[], object], baseline: Callable[[], object]) -> float:
            timed = pairs(ours, baseline, rounds=1, repeats=11 if short else 31)
            return round(statistics.median(one / other for one, other in timed), 3)

        imported = ratio(run("-c", "from dpop import *"), run("-c", _SAME_PARTS))
        proof = run("-m", "dpop_cli", "proof", "GET", "https://api.example/", "--key", key)
        same = f"{_SAME_PARTS}import click, platformdirs"
        made = ratio(proof, run("-c", same))
    return [
        Figure("import dpop against its parts, whole process", imported, "x", "<= 1.15", imported <= 1.15),
        Figure("dpop proof against importing its parts, whole process", made, "x", "<= 1.3", made <= 1.3),
    ]


def fresh_token(*, short: bool) -> list[Figure]:
    """A fresh token from a source, which is asked for every request, against a call of an empty function."""
    key = dpop.generate_key()
    store = MemoryTokenStore()
    now = time.time()
    store.save(TokenSet(access_token="a", issued_at=now, expires_at=now + 3600, refresh_token="r", jkt=key.thumbprint))
    source = TokenEndpoint(key, "https://as.example/token", client_id="c").source(store)
    assert source() == "a"

    def empty() -> None:
        pass

    timed = pairs(empty, source, rounds=2_000, repeats=101 if short else 1001)
    ratio = statistics.median(asked / nothing for nothing, asked in timed)
    return [Figure("a fresh token from a source, against an empty call", round(ratio, 1), "x", "<= 10", ratio <= 10)]


def wasted_round_trips(*, short: bool) -> list[Figure]:
    """Refused requests among 1,000 by 32 threads, for each way a server may treat nonces."""
    del short
    return [_shared(grace=True), _shared(grace=False), _single_use()]


WORKERS, REQUESTS, LAPSES = 32, 1000, 4


def _run(server: DPoPTestServer, *, lapses: int) -> int:
    """1,000 requests by 32 threads, the nonce lapsing now and then; how many were refused."""
    key = dpop.generate_key()
    token = server.issue_access_token(jkt=key.thumbprint)
    adapter = DPoPAdapter(
        Prover(key), origins=server.origin, access_token=token, nonces="required", pool_maxsize=WORKERS
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
        answer = local.session.get(server.resource)
        if answer.status_code != 200:
            raise RuntimeError(f"a request was refused for good: {answer.status_code}")
        with lock:
            done += 1
            if lapses and done % (REQUESTS // (lapses + 1)) == 0:
                server.levers.lapse()

    before = server.stats.challenges
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(one, range(REQUESTS)))
    return int(server.stats.challenges - before)


def _shared(*, grace: bool) -> Figure:
    with DPoPTestServer(nonces="rotating", nonce_grace=int(grace)) as server:
        wasted = _run(server, lapses=LAPSES)
    start = 1
    if grace:
        goal, reached = f"<= {start} at the start, 0 per lapse", wasted <= start
    else:
        most = start + WORKERS * LAPSES
        goal, reached = f"<= {start} + requests in flight at {LAPSES} lapses = {most}", wasted <= most
    name = f"wasted round trips per 1,000, {'with' if grace else 'without'} grace, {LAPSES} lapses"
    return Figure(name, wasted, "", goal, reached)


def _single_use() -> Figure:
    with DPoPTestServer(nonces="single-use") as server:
        wasted = _run(server, lapses=0)
    return Figure(
        "wasted round trips per 1,000, single-use", wasted, "", f"<= {WORKERS}, one per worker", wasted <= WORKERS
    )


BENCHMARKS = (minting, overhead, importing, fresh_token, wasted_round_trips, verifying, refusing, once, live_entries)


def main() -> int:
    """Run all benchmarks and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer repeats, for CI")
    parser.add_argument("--json", action="store_true", help="one JSON array")
    arguments = parser.parse_args()
    figures: list[Figure] = []
    for benchmark in BENCHMARKS:
        for figure in benchmark(short=arguments.short):
            figures.append(figure)
            if not arguments.json:
                mark = "ok  " if figure.reached else "MISS"
                print(f"{mark} {figure.name}: {figure.value} {figure.unit}  (goal {figure.goal})", flush=True)
    if arguments.json:
        print(json.dumps([asdict(figure) for figure in figures], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
