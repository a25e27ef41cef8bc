# SPDX-License-Identifier: Apache-2.0
"""Minting a proof: for a resource server, with a nonce and the hash of a token."""

from __future__ import annotations

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from measure import Figure, Section, interleaved, middle, spread
from peers import (
    AUTH0,
    BARE,
    JOSERFC,
    NPM_DPOP,
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

METHOD, URL = "GET", "https://api.example.com/v1/accounts/42"
NONCE, TOKEN = "eyJ7S_zG.eyJH0-Z.HX4w-7v", "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"

_TURNS = {
    "ES256": [BARE, TOOLKIT, PYDPOP, REQUESTS_OAUTH2CLIENT, AUTH0, PYJWT, JOSERFC, NPM_DPOP, NPM_JOSE],
    "Ed25519": [BARE, TOOLKIT, REQUESTS_OAUTH2CLIENT, PYJWT, JOSERFC, NPM_DPOP, NPM_JOSE],
    "PS256": [BARE, TOOLKIT, REQUESTS_OAUTH2CLIENT, PYJWT, JOSERFC, NPM_DPOP, NPM_JOSE],
}


def pem(key: object) -> str:
    """A software key as the PEM that every peer reads."""
    private = getattr(key, "_private")  # noqa: B009 - a key shows nobody its private part
    octets: bytes = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return octets.decode()


def measure(environments: Environments, *, short: bool) -> Section:
    """Proofs per second of each peer, against bare signatures per second of the same key."""
    section = Section(
        "mint",
        "Minting a proof",
        "One proof for a resource server, with `ath` and `nonce`, made one after the other with the same key; beside a"
        " bare signature of as many octets by the cryptography package. Python peers run on the same Python and the"
        " same cryptography. Node.js signs with its own OpenSSL and has no bare row of its own: its ratio"
        " is for orientation.",
        ["algorithm", "by", "one proof, us", "rate against the bare signature"],
    )
    for alg, peers in _TURNS.items():
        facts = {"key": pem(dpop.generate_key(alg)), "alg": alg, "method": METHOD, "url": URL}
        with working(environments, peers) as workers:
            for worker in workers:
                worker.ask("prepare", task="mint", **facts, nonce=NONCE, token=TOKEN)

            def ready(_worker: Worker, count: int) -> int:
                return count

            samples = interleaved(workers, 3 if short else 21, ready, seconds=0.02 if short else 0.1)
        section.raw[alg] = {peer.name: taken for peer, taken in zip(peers, samples, strict=True)}
        for peer, taken in zip(peers, samples, strict=True):
            rates = [bare / one for bare, one in zip(samples[0], taken, strict=True)]
            section.lines.append([alg, peer.name, spread([s * 1e6 for s in taken], 1), spread(rates)])
        ours = middle([bare / one for bare, one in zip(samples[0], samples[1], strict=True)])
        if alg == "ES256":
            section.figures.append(
                Figure("minting ES256, rate against a bare signature", round(ours, 3), ">= 0.85", ours >= 0.85)
            )
            others = [middle(taken) for peer, taken in zip(peers[2:], samples[2:], strict=True) if not peer.on_node]
            ahead = min(others) / middle(samples[1])
            section.figures.append(
                Figure("minting ES256, times as fast as the fastest Python peer", round(ahead, 2), "> 1", ahead > 1)
            )
    return section
