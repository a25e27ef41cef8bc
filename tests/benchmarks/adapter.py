# SPDX-License-Identifier: Apache-2.0
"""What the adapters add to a request."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from measure import Figure, Section, at_most, interleaved, middle, spread
from mint import pem
from peers import WORKERS, Environments, Peer, Worker, working

import dpop

_BATCH = 128
_SYNC, _ASYNC = ["requests", "httpx", "httpx2"], ["httpx async", "httpx2 async"]
_TOOLKIT = Peer("dpop-toolkit", "adapters", "dpop-toolkit")
_MINTING = Peer("dpop-toolkit", "dpop_toolkit", "dpop-toolkit")
# What a worker does with each request, apart from sending it.
_WAYS = ["plain", "adapted", "by hand", "signature"]


def measure(environments: Environments, *, short: bool) -> Section:
    """Time per request, plain and adapted, on a kept-alive loopback connection, by threads or tasks."""
    section = Section(
        "adapter",
        "What an adapter adds to a request",
        "GET requests over kept-alive connections to a server on this machine that answers without a thought, with a"
        " Bearer token and with DPoP. Threads share one interpreter, so with many of them the time per request is what"
        " the interpreter needs for each. By hand: a plain request with `create_proof` before it, and no nonce, retry"
        " or redirect looked after. Signature: a plain request and one bare signature. Between two requests all of it"
        " costs two to three times what it does in a loop of its own, for the processor slept meanwhile and its"
        " caches hold other things.",
        ["library", "workers", "plain, us", "with DPoP, us", "added, us", "by hand adds, us", "a signature adds, us"],
    )
    key = dpop.generate_key()
    with _server() as origin:
        for library in [*_SYNC, *_ASYNC]:
            for workers in (1, 8, 64):
                # Sending alone tells what a place costs; in a crowd that is hidden by the waiting.
                ways = _WAYS if workers == 1 and library in _SYNC else _WAYS[:2]
                with working(environments, [*[_TOOLKIT] * len(ways), _MINTING]) as running:
                    facts = {"library": library, "key": pem(key), "url": f"{origin}/v1/accounts/42", "origin": origin}
                    for worker, way in zip(running, ways, strict=False):
                        worker.ask("prepare", task="prepare", way=way, workers=workers, **facts)
                    mint = running[-1]
                    request = {"method": "GET", "url": f"{origin}/v1/accounts/42", "nonce": None, "token": "t" * 43}
                    mint.ask("prepare", task="mint", key=pem(key), alg="ES256", **request)

                    def ready(worker: Worker, count: int, minter: Worker = mint) -> int:
                        return count if worker is minter else max(1, count // _BATCH)

                    samples = interleaved(running, 3 if short else 15, ready, turn=0.1)
                section.raw[f"{library}, {workers}"] = samples
                _tell(section, library, workers, samples)
    return section


def _tell(section: Section, library: str, workers: int, samples: list[list[float]]) -> None:
    plain, *others = ([batch / _BATCH * 1e6 for batch in taken] for taken in samples[:-1])
    added = [[one - without for without, one in zip(plain, taken, strict=True)] for taken in others]
    cells = [spread(plain, 0), spread(others[0], 0), *[spread(taken, 0) for taken in added]]
    section.lines.append([library, str(workers), *cells, *["-"] * (5 - len(cells))])
    if len(added) == 3:
        section.figures += _figures(library, middle(added[0]), middle(added[1]), middle(samples[-1]) * 1e6)


def _figures(library: str, added: float, by_hand: float, mint: float) -> list[Figure]:
    """The goal of 1.5 mints and 10 us, by both readings of a mint."""
    name = f"{library} adapter, added to a request, a mint being"
    return [
        at_most(f"{name} one made by hand between two requests", round(added, 1), round(1.5 * by_hand + 10, 1), "us"),
        at_most(f"{name} one in a loop of its own", round(added, 1), round(1.5 * mint + 10, 1), "us"),
    ]


@contextmanager
def _server() -> Iterator[str]:
    """The server's origin, for as long as it is needed."""
    process = subprocess.Popen([sys.executable, str(WORKERS / "plain_server.py")], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.communicate()
