# SPDX-License-Identifier: Apache-2.0
"""100,000 requests through the adapter of requests and the middleware of aiohttp: memory must stay flat.

    python tests/benchmarks/soak.py [--requests N]

The server runs in a process of its own. Every request has its own proof; the nonce changes with each
answer, the origin of every hundredth request is new to the caches. Exit status 1 if memory grew.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import resource
import subprocess
import sys
import tracemalloc
from collections.abc import Callable

import aiohttp
import requests

import dpop
from dpop.aiohttp import DPoPClientMiddleware
from dpop.client._nonces import NonceKey, Role
from dpop.client._prover import Prover
from dpop.origin import Origin
from dpop.requests import DPoPAdapter

_SERVER = """
import itertools, socket, threading
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
count = itertools.count()
def serve(connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while octets := connection.recv(65536):
        if octets.endswith(b"\\r\\n\\r\\n"):
            head = b"HTTP/1.1 200 OK\\r\\nDPoP-Nonce: n%d\\r\\nContent-Length: 2\\r\\n\\r\\n" % next(count)
            connection.sendall(head + b"ok")
while True:
    threading.Thread(target=serve, args=server.accept()[:1], daemon=True).start()
"""
_ALLOWED_BYTES = 500_000


def main() -> int:
    """Run the soak and say what memory did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    total = parser.parse_args().requests // 2
    paths = min(1500, total // 5)  # known after the first fifth
    server = subprocess.Popen([sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    origin = f"http://127.0.0.1:{int(server.stdout.readline())}"
    prover = Prover(dpop.generate_key())

    def note(number: int) -> None:
        if number % 100 == 0:
            other = Origin.parse(f"https://a{number}.example")
            prover.nonces.learn(NonceKey(prover.thumbprint, other, Role.RS), f"n{number}")

    session = requests.Session()
    session.trust_env = False
    session.mount(origin + "/", DPoPAdapter(prover, origins=origin, access_token="token"))

    def by_requests(numbers: range) -> None:
        for number in numbers:
            session.get(f"{origin}/{number % paths}").close()
            note(number)

    middleware = DPoPClientMiddleware(prover, origins=origin, access_token="token")

    async def by_aiohttp(numbers: range) -> None:
        async with aiohttp.ClientSession(middlewares=[middleware]) as client:
            for number in numbers:
                async with client.get(f"{origin}/{number % paths}"):
                    note(number)

    grown = [
        _grown("requests", total, by_requests),
        _grown("aiohttp", total, lambda numbers: asyncio.run(by_aiohttp(numbers))),
    ]
    server.kill()
    server.wait()
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB")
    return 0 if max(grown) < _ALLOWED_BYTES else 1


def _grown(library: str, total: int, run: Callable[[range], None]) -> int:
    """By how many bytes memory grows in so many requests, after a fifth of them."""
    warm = total // 5
    tracemalloc.start()
    run(range(warm))
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    run(range(warm, total))
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    print(f"{total} requests by {library}: {grown / 1000:.0f} kB more after the first {warm}")
    return grown


if __name__ == "__main__":
    sys.exit(main())
