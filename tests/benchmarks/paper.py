# SPDX-License-Identifier: Apache-2.0
"""On paper: what an API of 100,000 requests a second needs, from units that other rows have measured."""

from __future__ import annotations

import math
from collections.abc import Mapping

from measure import Section, middle

import dpop

_RATE = 100_000
# Seconds for which a proof is remembered: max_age, and skew, of ProofVerifier; max_clock_step of RedisReplayCache.
_MAX_AGE, _SKEW, _STEP = 60, 30, 60
_NONCE = 180  # the longest life of a nonce of NonceIssuer
_TOKEN = 750  # characters of an access token that is a JWT signed with RS256
_TEXT = """
## On paper: an API of 100,000 requests a second

Nothing here was run: each unit is from a row above, times 100,000. The API is FastAPI on uvicorn with ES256 proofs, JWT
access tokens, and proofs remembered in Redis. A command is `SET` with `NX`, `GET` and `PX`, sent alone: where many
arrive at once, Redis needs less processor time for each.

| what | unit | for 100,000 a second |
|---|---|---|
{table}

Redis remembers a proof for {life} s: {lives}. With nonces a proof lives as long as its nonce,
{nonce} by default: then {more}. `NonceIssuer` itself stores nothing. Nonces
for one use cost a second command and a second entry for each request; `acknowledged_by` costs a `WAIT` in the same
round trip.

Where sharding by `jkt` goes:

- Between the workers and Redis. The name of an entry is `jkt.hash`, and no command touches two entries. A Redis Cluster
  needs nothing more: give `RedisReplayCache` a `RedisCluster`. It hashes the whole name, so that one busy key is
  spread, too. For servers without a cluster, write a `ReplayCache` that chooses one by the part of the name before the
  dot.
- Not in a load balancer that hashes header fields. A thief can write the same token in another way, such as `dpop` in
  lower case; that request would go to another worker, which has not seen the proof. A proxy that reads the proof and
  hashes the thumbprint of its key is safe against that. Then each worker can remember the proofs of its own keys in a
  `MemoryReplayCache`, and Redis is not needed. But each time that the set of workers changes, a proof of the last
  minutes can be accepted once more, by the worker that is new for its key.
"""


def text(rows: Mapping[str, Section]) -> list[str]:
    """Lines of Markdown, if the rows that they need are there."""
    if not {"served", "scale"} <= rows.keys() or "proofs in Redis" not in rows["scale"].raw:
        return []
    served, redis = rows["served"].raw, rows["scale"].raw["proofs in Redis"][-1]
    most = max((name for name in served if name.startswith("Redis, ")), key=lambda name: int(name.split()[1]))
    whole, alone, new, known = (
        middle([processor for _, processor in served[name]])
        for name in (most, "known, no protection", "new, dpop-toolkit", "known, dpop-toolkit")
    )
    command, sent, kept = redis["micros"]["Redis's processor"], redis["bytes sent"], redis["octets"]
    life = _MAX_AGE + _SKEW + _STEP
    proof = len(dpop.create_proof(dpop.generate_key(), "GET", "https://api.example/v1/accounts/42", access_token="a"))
    busy = _RATE * command / 1e6
    table = [
        ("cores of the API, all in all", f"{whole:.0f} us a request", f"{_RATE * whole / 1e6:.0f}"),
        ("of these for FastAPI and uvicorn", f"{alone:.0f} us", f"{_RATE * alone / 1e6:.0f}"),
        ("of these for proof, token and Redis", f"{whole - alone:.0f} us", f"{_RATE * (whole - alone) / 1e6:.0f}"),
        ("further cores, if each token is new", f"{new - known:.0f} us", f"{_RATE * (new - known) / 1e6:.0f}"),
        ("commands of Redis", "1 a request", f"{_RATE:,} a second"),
        ("cores of Redis", f"{command:.1f} us a command", f"{busy:.1f}: {math.ceil(2 * busy)} servers, half idle"),
        ("proofs that Redis remembers", f"{life} s each", f"{_RATE * life / 1e6:.0f} million"),
        ("memory of Redis", f"{kept:.0f} bytes a proof", f"{_RATE * life * kept / 1e9:.1f} GB"),
        ("network to Redis, both ways", f"{sent:.0f} bytes a command", f"{_RATE * sent * 8 / 1e6:.0f} Mbit/s"),
        (
            "network to the API, proof and token",
            f"{proof} + {_TOKEN} bytes",
            f"{_RATE * (proof + _TOKEN) * 8 / 1e9:.2f} Gbit/s",
        ),
    ]
    nonces = _NONCE + _SKEW + _STEP
    facts = {
        "table": "\n".join(f"| {' | '.join(row)} |" for row in table),
        "lives": f"`max_age` {_MAX_AGE} s, `skew` {_SKEW} s, `max_clock_step` {_STEP} s",
        "life": life,
        "nonce": f"up to {_NONCE} s",
        "more": f"{_RATE * nonces / 1e6:.0f} million proofs, {_RATE * nonces * kept / 1e9:.1f} GB",
    }
    return _TEXT.format(**facts).rstrip("\n").split("\n")
