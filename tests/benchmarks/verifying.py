# SPDX-License-Identifier: Apache-2.0
"""The other side: what it costs to verify a proof, to refuse one, and to remember a million."""

from __future__ import annotations

import json
import multiprocessing
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import redis
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from figures import Figure, seconds

import dpop
from dpop.encoding import b64url_decode
from dpop.keys.public import PublicKey
from dpop.keys.software import SoftwareKey
from dpop.redis import RedisReplayCache
from dpop.server import InvalidProof, MemoryReplayCache, ProofVerifier, Reason, ReplayCache
from dpop.server.jws import _recent

ROOT = Path(__file__).parents[2]
URL = "https://api.example/items"
TOKEN = "an-access.token~1" * 10
MANY = 10_000_000


class Signed(NamedTuple):
    """A proof, and the parts of it that a bare verification of the same signature takes."""

    jkt: str
    headers: list[tuple[str, str]]
    key: Any
    signature: bytes
    octets: bytes


def signed(key: SoftwareKey) -> Signed:
    """A fresh proof of this key, among the other headers of a request."""
    proof = dpop.create_proof(key, "GET", URL, access_token=TOKEN)
    octets, _, signature = proof.rpartition(".")
    headers = [("Host", "api.example"), ("User-Agent", "a client"), ("Accept", "*/*")]
    headers += [("Authorization", f"DPoP {TOKEN}"), ("DPoP", proof), ("Accept-Encoding", "gzip")]
    public = PublicKey.from_jwk(key.public_jwk).to_cryptography()
    return Signed(key.thumbprint, headers, public, dpop.raw_to_der(b64url_decode(signature)), octets.encode())


def drain(proofs: Iterator[Signed], use: Callable[[Signed], object]) -> Callable[[], object]:
    """A function that uses one proof at each call: a proof is good once."""
    return lambda: use(next(proofs))


def verify_with(verifier: ProofVerifier) -> Callable[[Signed], object]:
    """All of it: parse, key, signature, claims, binding, replay."""
    return lambda proof: verifier.verify_resource(proof.headers, "GET", URL, access_token=TOKEN, bound_jkt=proof.jkt)


def bare(proof: Signed) -> object:
    """Of the same signature, by a key that is loaded already."""
    return proof.key.verify(proof.signature, proof.octets, ec.ECDSA(hashes.SHA256()))


def rates(new_key: Callable[[], SoftwareKey], *, rounds: int, repeats: int) -> list[tuple[float, float]]:
    """Times of a bare and of a full verification, in turn."""
    timed = []
    for _ in range(repeats + 1):
        proofs = [signed(new_key()) for _ in range(rounds)]
        verifier = ProofVerifier(replay=MemoryReplayCache(max_entries=MANY, max_per_key=MANY))
        one = seconds(drain(iter(proofs), bare), rounds)
        timed.append((one, seconds(drain(iter(proofs), verify_with(verifier)), rounds)))
    return timed[1:]


def verifying(*, short: bool) -> list[Figure]:
    """A whole ES256 proof against a bare verification of the same signature."""
    rounds, repeats = (150, 11) if short else (400, 41)
    key = dpop.generate_key()
    known = rates(lambda: key, rounds=rounds, repeats=repeats)
    unknown = rates(dpop.generate_key, rounds=rounds, repeats=repeats)
    figures = []
    for name, timed, goal in (("seen before", known, 0.80), ("not seen before", unknown, 0.60)):
        rate = statistics.median(one / full for one, full in timed)
        title = f"verifying ES256, key {name}, rate against a bare verification"
        figures.append(Figure(title, round(rate, 3), "x", f">= {goal:.2f}", rate >= goal))
    micros = statistics.median(full for _, full in known) * 1e6
    return [*figures, Figure("verifying ES256, one proof", round(micros, 1), "us", "-", reached=True)]


# --- refusing

_BEFORE_THE_SIGNATURE = set(list(Reason)[: list(Reason).index(Reason.SIGNATURE_INVALID)])


def refusing(*, short: bool) -> list[Figure]:
    """Each refused vector that fails before its signature is checked, against an accepted proof."""
    document = json.loads((ROOT / "vectors" / "proofs.json").read_text("ascii"))
    cases = [case for case in document["cases"] if case.get("reason") in _BEFORE_THE_SIGNATURE]
    verifier = ProofVerifier(replay=MemoryReplayCache(), clock=lambda: document["now"])
    # Whoever is refused has a key that was not seen before, and so has this.
    full = statistics.median(full for _, full in rates(dpop.generate_key, rounds=100, repeats=9 if short else 21))
    rounds, repeats = (5, 5) if short else (20, 9)
    costs = {}
    for case in cases:
        headers = [(name, _text(value)) for name, value in case["headers"]]
        refuse = _refuse(verifier, headers, case["request"])
        costs[case["id"]] = statistics.median(seconds(refuse, rounds) for _ in range(repeats)) / full
    worst = max(costs, key=lambda name: costs[name])
    return [
        Figure(
            f"refusing before the signature, dearest of {len(costs)} ({worst}), against accepting",
            round(costs[worst], 3),
            "x",
            "< 0.25",
            costs[worst] < 0.25,
        ),
        Figure(
            "refusing before the signature, median", round(statistics.median(costs.values()), 3), "x", "-", reached=True
        ),
    ]


def _refuse(
    verifier: ProofVerifier, headers: list[tuple[str, str]], request: Mapping[str, Any]
) -> Callable[[], object]:
    def refuse() -> None:
        _recent.clear()  # whoever sends such proofs sends a new one each time
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


def once(*, short: bool) -> list[Figure]:
    """One proof offered to 100 verifiers at once: how many accept."""
    del short
    key = dpop.generate_key()
    proof = signed(key)
    in_one = sum(_offer(proof.headers, proof.jkt, MemoryReplayCache(), 100))
    sys.path.insert(0, str(ROOT / "tests"))
    from redis_server import running_redis

    with running_redis() as server, multiprocessing.get_context("spawn").Pool(4) as pool:
        pool.map(_warm, range(4))
        proof = signed(key)
        among = sum(pool.starmap(_offer_in_a_process, [(server.url, proof.headers, proof.jkt)] * 4, chunksize=1))
    return [
        Figure("100 verifiers in one process, memory, accepted", in_one, "", "1", in_one == 1),
        Figure("100 verifiers in 4 processes, Redis, accepted", among, "", "1", among == 1),
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
            verifier.verify_resource(headers, "GET", URL, access_token=TOKEN, bound_jkt=jkt)
        except InvalidProof:
            return False
        return True

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(accepted, range(threads)))


# --- a million


# In a process of its own, for memory is measured as the system sees it.
_FILL = """
import secrets, statistics, sys, time
from pathlib import Path
from dpop.server import MemoryReplayCache

def resident():
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096

entries, owners = int(sys.argv[1]), int(sys.argv[2])
cache = MemoryReplayCache(max_entries=entries, max_per_key=entries)
names = [secrets.token_urlsafe(32) for _ in range(min(owners, 1000))]
block = entries // 100
before, times = resident(), []
for part in range(100):
    keys = []
    for number in range(block):
        owner = names[number % len(names)] if owners == len(names) else secrets.token_urlsafe(32)
        keys.append(owner + "." + secrets.token_urlsafe(32))
    until = time.time() + 600 + part % 60
    start = time.perf_counter()
    for key in keys:
        cache.add(key, until)
    times.append((time.perf_counter() - start) / block)
    del keys, key
assert len(cache) == block * 100
early, late = statistics.median(times[5:25]), statistics.median(times[75:95])
print((resident() - before) / entries, late / early, statistics.median(times) * 1e6)
"""


def live_entries(*, short: bool) -> list[Figure]:
    """A million entries in the replay cache in memory: octets for each, and whether adding stays as quick."""
    entries = 200_000 if short else 1_000_000
    figures = []
    for owners, goal in ((1000, 250), (entries, 400)):
        command = [sys.executable, "-c", _FILL, str(entries), str(owners)]
        shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        size, growth, micros = (float(value) for value in shown)
        whose = "1,000 keys" if owners == 1000 else "a key each"
        name = f"{entries:,} entries, {whose}"
        figures += [
            Figure(f"{name}, octets for each", round(size), "", f"<= {goal}", size <= goal),
            # A table that no longer fits into the processor's caches answers later; one that is searched, far later.
            Figure(f"{name}, adding late against early", round(growth, 2), "x", "<= 2", growth <= 2),
            Figure(f"{name}, adding one", round(micros, 2), "us", "-", reached=True),
        ]
    return figures
