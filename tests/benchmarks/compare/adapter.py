# SPDX-License-Identifier: Apache-2.0
"""What the adapters add to a request."""

from __future__ import annotations

import subprocess
import sys

from measure import Figure, Section, interleaved, middle, spread
from mint import pem
from peers import WORKERS, Environments, Peer, Worker, working

import dpop

_BATCH = 128
_LIBRARIES = ["requests", "httpx", "httpx2", "httpx async", "httpx2 async"]


def measure(environments: Environments, *, short: bool) -> Section:
    """Time per request, plain and adapted, on a kept-alive loopback connection, by threads or tasks."""
    section = Section(
        "adapter",
        "What an adapter adds to a request",
        "GET requests over kept-alive connections to a server on this machine that answers without a thought, with a"
        " Bearer token and with DPoP. Threads share one interpreter, so with many of them the time per request is what"
        " the interpreter needs for each. A mint is one proof in a loop of its own, measured in the same round.",
        ["library", "workers", "plain, us", "with DPoP, us", "added, us", "added, in mints"],
    )
    key = dpop.generate_key()
    toolkit = Peer("dpop-toolkit", "adapters", "dpop-toolkit")
    minting = Peer("dpop-toolkit", "dpop_toolkit", "dpop-toolkit")
    server = subprocess.Popen([sys.executable, str(WORKERS / "plain_server.py")], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        origin = f"http://127.0.0.1:{int(server.stdout.readline())}"
        for library in _LIBRARIES:
            for workers in (1, 8, 64):
                with working(environments, [toolkit, toolkit, minting]) as (plain, adapted, mint):
                    facts = {"library": library, "key": pem(key), "url": f"{origin}/v1/accounts/42", "origin": origin}
                    for worker, with_dpop in ((plain, False), (adapted, True)):
                        worker.ask("prepare", task="prepare", adapted=with_dpop, workers=workers, **facts)
                    request = {"method": "GET", "url": f"{origin}/v1/accounts/42", "nonce": "n" * 24, "token": "t" * 43}
                    mint.ask("prepare", task="mint", key=pem(key), alg="ES256", **request)

                    def ready(worker: Worker, count: int, minter: Worker = mint) -> int:
                        return count if worker is minter else max(1, count // _BATCH)

                    samples = interleaved([plain, adapted, mint], 3 if short else 15, ready, seconds=0.1)
                section.raw[f"{library}, {workers}"] = samples
                _tell(section, library, workers, samples)
    finally:
        server.kill()
        server.wait()
        assert server.stdout is not None
        server.stdout.close()
    return section


def _tell(section: Section, library: str, workers: int, samples: list[list[float]]) -> None:
    plain, adapted = ([batch / _BATCH * 1e6 for batch in taken] for taken in samples[:2])
    mint = middle(samples[2]) * 1e6
    added = [with_dpop - without for without, with_dpop in zip(plain, adapted, strict=True)]
    cells = [spread(plain, 0), spread(adapted, 0), spread(added, 0), f"{middle(added) / mint:.1f}"]
    section.lines.append([library, str(workers), *cells])
    if workers == 1 and "async" not in library:
        goal = 1.5 * mint + 10
        figure = Figure(
            f"{library} adapter, us added to a request",
            round(middle(added), 1),
            f"<= {goal:.1f}",
            middle(added) <= goal,
        )
        section.figures.append(figure)
