# SPDX-License-Identifier: Apache-2.0
"""100,000 requests through one adapter: memory must stay flat.

    python tests/benchmarks/soak.py [--requests N]

The server runs in a process of its own. Every request has its own proof; the nonce changes with each
answer, the origin of every hundredth request is new to the caches. Exit status 1 if memory grew.
"""

from __future__ import annotations

import argparse
import gc
import resource
import subprocess
import sys
import tracemalloc

import requests

import dpop
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
    total = parser.parse_args().requests
    server = subprocess.Popen([sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    origin = f"http://127.0.0.1:{int(server.stdout.readline())}"
    prover = Prover(dpop.generate_key())
    session = requests.Session()
    session.trust_env = False
    session.mount(origin + "/", DPoPAdapter(prover, origins=origin, access_token="token"))

    def run(count: int, first: int) -> None:
        for number in range(first, first + count):
            session.get(f"{origin}/{number % 1500}").close()
            if number % 100 == 0:
                other = Origin.parse(f"https://a{number}.example")
                prover.nonces.learn(NonceKey(prover.thumbprint, other, Role.RS), f"n{number}")

    warm = total // 5
    tracemalloc.start()
    run(warm, 0)
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    run(total - warm, warm)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    server.kill()
    server.wait()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{total} requests: {grown / 1000:.0f} kB more after the first {warm}, peak {peak} MB")
    return 0 if grown < _ALLOWED_BYTES else 1


if __name__ == "__main__":
    sys.exit(main())
