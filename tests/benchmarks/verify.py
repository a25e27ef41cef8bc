# SPDX-License-Identifier: Apache-2.0
"""The other side: what it costs to verify a proof, and to refuse one, and that none is accepted twice."""

from __future__ import annotations

import json
import multiprocessing
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import redis
from measure import Figure, Section, at_least, at_most, interleaved, middle, openssl_speed, seconds, spread, told
from mint import METHOD, NONCE, TOKEN, URL
from peers import (
    BARE,
    JOSERFC,
    NPM_JOSE,
    PYDPOP,
    PYJWT,
    REQUESTS_OAUTH2CLIENT,
    TOOLKIT,
    Environments,
    Worker,
    working,
)

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.redis_server import running_redis

import dpop
from dpop.keys import Key
from dpop.redis import RedisReplayCache
from dpop.server import InvalidProof, MemoryReplayCache, ProofVerifier, Reason, ReplayCache
from dpop.server._jws import _kept_header

_PEERS = [BARE, TOOLKIT, PYDPOP, REQUESTS_OAUTH2CLIENT, PYJWT, JOSERFC, NPM_JOSE]
_WARM_UP = 10


def measure(environments: Environments, *, short: bool) -> Section:
    """Verifications per second of each peer, against bare checks of the same signatures."""
    section = Section(
        "verify",
        "Verifying a proof",
        "ES256 proofs that are all good, each offered once; beside the check of the same signatures by the cryptography"
        " package with the key at hand. Known: all proofs are of one key. Unknown: each is of a key not seen before."
        " Peers without a verifier of their own are used as a careful user would, with a set for the identifiers."
        " OpenSSL by itself is what `openssl speed` says of the check alone, without the hash.",
        ["key", "by", "one proof, us", "rate against the bare check"],
    )
    openssl = openssl_speed(short=short)
    for known, goal in ((True, 0.80), (False, 0.60)):
        name = "known" if known else "unknown"
        with working(environments, _PEERS) as workers:
            samples = interleaved(workers, 3 if short else 21, partial(_ready, known=known), turn=0.05)
        section.raw[name] = {peer.name: taken for peer, taken in zip(_PEERS, samples, strict=True)}
        for peer, taken in zip(_PEERS, samples, strict=True):
            rates = [bare / one for bare, one in zip(samples[0], taken, strict=True)]
            section.lines.append([name, peer.name, spread([s * 1e6 for s in taken], 1), spread(rates)])
        by, alone = f"{openssl.version} by itself", openssl.verify
        section.lines.append([name, by, f"{alone * 1e6:.1f}", f"{middle(samples[0]) / alone:.2f}"])
        ours = middle([bare / one for bare, one in zip(samples[0], samples[1], strict=True)])
        section.figures.append(
            at_least(f"verifying ES256, key {name}, rate against a bare check", round(ours, 3), goal)
        )
    section.figures += [*refusing(short=short), *once()]
    return section


def _ready(worker: Worker, count: int, *, known: bool) -> int:
    """Fresh proofs for one turn; the first few are verified before the clock runs."""
    keys = (
        [dpop.generate_key()] * (count + _WARM_UP) if known else [dpop.generate_key() for _ in range(count + _WARM_UP)]
    )
    proofs = [dpop.create_proof(key, METHOD, URL, nonce=NONCE, access_token=TOKEN) for key in keys]
    jkts = [key.thumbprint for key in keys]
    worker.ask("prepare", task="verify", proofs=proofs, jkts=jkts, method=METHOD, url=URL, nonce=NONCE, token=TOKEN)
    worker.ask("run", count=_WARM_UP)
    return count


# --- refusing

_BEFORE_THE_SIGNATURE = set(list(Reason)[: list(Reason).index(Reason.SIGNATURE_INVALID)])


def refusing(*, short: bool) -> list[Figure]:
    """Each refused vector that fails before its signature is checked, against an accepted proof."""
    document = json.loads((Path(__file__).parents[2] / "vectors" / "proofs.json").read_text("ascii"))
    cases = [case for case in document["cases"] if case.get("reason") in _BEFORE_THE_SIGNATURE]
    verifier = ProofVerifier(replay=MemoryReplayCache(), clock=lambda: document["now"])
    # Whoever is refused has a key that was not seen before, and so has this.
    full = middle([_accepting(100) for _ in range(9 if short else 21)])
    rounds, repeats = (5, 5) if short else (20, 9)
    costs = {}
    for case in cases:
        headers = [(name, _text(value)) for name, value in case["headers"]]
        refuse = _refuse(verifier, headers, case["request"])
        costs[case["id"]] = middle([seconds(refuse, rounds) for _ in range(repeats)]) / full
    worst = max(costs, key=lambda name: costs[name])
    title = f"refusing before the signature, dearest of {len(costs)} ({worst}), against accepting"
    return [
        at_most(title, round(costs[worst], 3), 0.25),
        told("refusing before the signature, median, against accepting", round(middle(list(costs.values())), 3), "x"),
    ]


def _accepting(rounds: int) -> float:
    """Seconds to accept one proof with a new key."""
    proofs = iter([_signed(dpop.generate_key()) for _ in range(rounds)])
    verifier = ProofVerifier(replay=MemoryReplayCache())

    def accept() -> None:
        headers, jkt = next(proofs)
        verifier.verify_resource(headers, METHOD, URL, access_token=TOKEN, bound_jkt=jkt)

    return seconds(accept, rounds)


def _signed(key: Key) -> tuple[list[tuple[str, str]], str]:
    """The headers of a request with a fresh proof, and its key's thumbprint."""
    proof = dpop.create_proof(key, METHOD, URL, access_token=TOKEN)
    headers = [("Host", "api.example"), ("User-Agent", "a client"), ("Accept", "*/*")]
    headers += [("Authorization", f"DPoP {TOKEN}"), ("DPoP", proof), ("Accept-Encoding", "gzip")]
    return headers, key.thumbprint


def _refuse(
    verifier: ProofVerifier, headers: list[tuple[str, str]], request: Mapping[str, Any]
) -> Callable[[], object]:
    def refuse() -> None:
        _kept_header.cache_clear()  # whoever sends such proofs sends a new one each time
        try:
            verifier.verify_resource(headers, request["method"], request["url"], access_token="x", bound_jkt=None)
        except InvalidProof:
            return
        raise AssertionError("accepted")

    return refuse


def _text(value: str | list[Any]) -> str:
    if isinstance(value, str):
        return value
    return "".join(piece if isinstance(piece, str) else piece["repeat"] * piece["times"] for piece in value)


# --- once


def once() -> list[Figure]:
    """One proof offered to 100 verifiers at once: how many accept."""
    key = dpop.generate_key()
    in_one = sum(_offer(*_signed(key), MemoryReplayCache(), 100))
    with running_redis() as server, multiprocessing.get_context("spawn").Pool(4) as pool:
        pool.map(_warm, range(4))
        among = sum(pool.starmap(_offer_in_a_process, [(server.url, *_signed(key))] * 4, chunksize=1))
    return [
        Figure("100 verifiers in one process, memory, accepted", in_one, "", "1", in_one == 1, timed=False),
        Figure("100 verifiers in 4 processes, Redis, accepted", among, "", "1", among == 1, timed=False),
    ]


def _warm(_number: int) -> None:
    """Have the process started."""


def _offer_in_a_process(url: str, headers: list[tuple[str, str]], jkt: str) -> int:
    with redis.Redis.from_url(url) as client:
        return sum(_offer(headers, jkt, RedisReplayCache(client, when_down="refuse"), 25))


def _offer(headers: list[tuple[str, str]], jkt: str, cache: ReplayCache, threads: int) -> list[bool]:
    verifier = ProofVerifier(replay=cache)

    def accepted(_number: int) -> bool:
        try:
            verifier.verify_resource(headers, METHOD, URL, access_token=TOKEN, bound_jkt=jkt)
        except InvalidProof:
            return False
        return True

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(accepted, range(threads)))
