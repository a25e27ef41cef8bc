# SPDX-License-Identifier: Apache-2.0
"""Verifying a proof: every check of RFC 9449 §4.3, the binding to the token and the replay cache included."""

from __future__ import annotations

from functools import partial

from measure import Figure, Section, interleaved, middle, spread
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

import dpop

_PEERS = [BARE, TOOLKIT, PYDPOP, REQUESTS_OAUTH2CLIENT, PYJWT, JOSERFC, NPM_JOSE]
_WARM_UP = 10


def measure(environments: Environments, *, short: bool) -> Section:
    """Verifications per second of each peer, against bare checks of the same signatures."""
    section = Section(
        "verify",
        "Verifying a proof",
        "ES256 proofs that are all good, each offered once; beside the check of the same signatures by the cryptography"
        " package with the key at hand. Known: all proofs are of one key. Unknown: each is of a key not seen before."
        " Peers without a verifier of their own are used as a careful user would, with a set for the identifiers.",
        ["key", "by", "one proof, us", "rate against the bare check"],
    )
    for known, goal in ((True, 0.80), (False, 0.60)):
        name = "known" if known else "unknown"
        with working(environments, _PEERS) as workers:
            samples = interleaved(workers, 3 if short else 21, partial(_ready, known=known), seconds=0.05)
        section.raw[name] = {peer.name: taken for peer, taken in zip(_PEERS, samples, strict=True)}
        for peer, taken in zip(_PEERS, samples, strict=True):
            rates = [bare / one for bare, one in zip(samples[0], taken, strict=True)]
            section.lines.append([name, peer.name, spread([s * 1e6 for s in taken], 1), spread(rates)])
        ours = middle([bare / one for bare, one in zip(samples[0], samples[1], strict=True)])
        section.figures.append(
            Figure(f"verifying, key {name}, rate against a bare check", round(ours, 3), f">= {goal}", ours >= goal)
        )
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
