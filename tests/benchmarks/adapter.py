# SPDX-License-Identifier: Apache-2.0
"""What the adapters add to a request."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import httpx2
from measure import Figure, Section, at_most, middle, seconds, spread
from mint import pem
from peers import WORKERS, Environments, Peer, working

import dpop
from dpop._httpx.transport import fields_of
from dpop.client._flow import ProofFlow
from dpop.httpx2 import DPoPTransport

_BY_HAND = ["requests", "httpx", "httpx2"]  # what a user would write for these is measured as well
_LIBRARIES = [*_BY_HAND, "httpx async", "httpx2 async", "aiohttp"]
_TOOLKIT = Peer("dpop-toolkit", "adapters", "dpop-toolkit")


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
        " caches hold other things. Least: an adapter that calls `create_proof` for every request and sets the two"
        " headers, and does nothing else.",
        [
            "library",
            "workers",
            "plain, us",
            "with DPoP, us",
            "added, us",
            "the least adds, us",
            "by hand adds, us",
            "a signature adds, us",
        ],
    )
    with _server() as origin:
        facts = {"key": pem(dpop.generate_key()), "url": f"{origin}/v1/accounts/42", "origin": origin}
        added = {}
        for library in _LIBRARIES:
            for workers in (1, 8) if short else (1, 8, 64):
                rounds = (5 if short else 81) if workers == 1 else 3 if short else 41
                added[library, workers] = _in_turn(section, environments, library, workers, facts, rounds=rounds)
        ratio = added["aiohttp", 8] / added["httpx2 async", 8]
        section.figures.append(
            at_most(
                "aiohttp, added to a request by 8 tasks, against httpx2's asynchronous transport", round(ratio, 2), 1
            )
        )
    section.note = _profile(short=short)
    return section


def _in_turn(
    section: Section,
    environments: Environments,
    library: str,
    workers: int,
    facts: Mapping[str, str],
    *,
    rounds: int,
) -> float:
    """So many threads or tasks of one process, which send in each way in turn.

    Returns what DPoP adds, in microseconds.
    """
    alone = workers == 1 and library in _BY_HAND
    ways = ["plain", "adapted", "least", *(["by hand", "signature"] if alone else [])]
    with working(environments, [_TOOLKIT]) as (worker,):
        worker.ask("prepare", task="in_turn", library=library, workers=workers, ways=ways, **facts)
        taken = [worker.ask("call") for _ in range(rounds + 1)][1:]
    samples = {way: [one[way] * 1e6 for one in taken] for way in taken[0]}
    plain = samples["plain"]
    added = {
        way: [one - without for without, one in zip(plain, samples[way], strict=True)] for way in ways if way != "plain"
    }
    section.raw[f"{library}, {workers}"] = samples
    cells = [spread(plain, 0), spread(samples["adapted"], 0), *[spread(more, 0) for more in added.values()]]
    section.lines.append([library, str(workers), *cells, *(["-"] * (len(section.header) - 2 - len(cells)))])
    whole = [one / least for one, least in zip(samples["adapted"], samples["least"], strict=True)]
    section.figures.append(
        at_most(
            f"{library}, {workers} at once, a request against one by the least adapter",
            round(middle(whole), 2),
            1.2 if workers == 64 else 1.1,
        )
    )
    if alone:
        section.figures += _figures(
            library, middle(added["adapted"]), middle(added["by hand"]), middle(samples["mint"])
        )
    return middle(added["adapted"])


def _figures(library: str, added: float, by_hand: float, mint: float) -> list[Figure]:
    """What may be added, by both readings of a mint."""
    name, added = f"{library} adapter, added to a request, against", round(added, 1)
    figures = [
        at_most(
            f"{name} 1.5 mints made by hand between two requests, and 10 us", added, round(1.5 * by_hand + 10, 1), "us"
        ),
        at_most(f"{name} 1.5 mints in a loop of their own, and 10 us", added, round(1.5 * mint + 10, 1), "us"),
    ]
    if library == "requests":
        figures.append(
            at_most(f"{name} 2 mints in a loop of their own, and 20 us", added, round(2 * mint + 20, 1), "us")
        )
    return figures


def _profile(*, short: bool) -> str:
    """What an adapter does besides the proof, part by part."""
    key = dpop.generate_key()
    transport = DPoPTransport(key, origins="https://api.example", access_token="t" * 43)
    headers = {"Accept": "*/*", "Accept-Encoding": "gzip", "Connection": "keep-alive", "User-Agent": "a client"}
    request = httpx2.Request("GET", "https://api.example/v1/accounts/42", headers=headers)
    proof = [("DPoP", "x" * 500), ("Authorization", "DPoP " + "t" * 43)]
    response = httpx2.Response(200, headers={"Date": "x", "Content-Type": "application/json", "Content-Length": "2"})

    def opened() -> ProofFlow:
        flow, _wire = transport._open(request, b"", repeatable=True)
        assert flow is not None
        return flow

    def attempted() -> None:
        opened().attempt("https", "api.example", "/v1/accounts/42", "t" * 43)

    def answered() -> None:
        flow = opened()
        flow.ready()
        flow.received(200, fields_of(response))

    class AtHand(httpx2.BaseTransport):
        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            return response

    whole = DPoPTransport(key, origins="https://api.example", access_token="t" * 43, transport=AtHand())
    rounds, repeats = (300, 5) if short else (3_000, 15)

    def micros(part: Callable[[], object]) -> float:
        return min(seconds(part, rounds) for _ in range(repeats)) * 1e6

    opening = micros(opened)
    parts = {
        "the facts of a request, and its flow": opening,
        "the octets to sign": micros(attempted) - opening,
        "a nonce leased, and an answer taken in": micros(answered) - opening,
        "with httpx2, the copy of the request with two more fields": micros(
            lambda: transport._signed(request, proof, None)
        ),
        "all that httpx2's transport does, the signature too, the answer being at hand": micros(
            lambda: whole.handle_request(request)
        ),
        "a mint, to compare": micros(lambda: dpop.create_proof(key, "GET", str(request.url), access_token="t" * 43)),
    }
    text = (
        "What the toolkit does for a request, each part in a loop of its own. Between two requests on a connection all"
        " of it, the signature too, takes two to three times as long; with httpx the library's `trace` comes on top,"
        " which tells when a request's headers are about to be written."
    )
    rows = [f"| {name} | {taken:.1f} |" for name, taken in parts.items()]
    return "\n".join([text, "", "| part | us |", "|---|---|", *rows])


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
