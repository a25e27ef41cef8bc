# SPDX-License-Identifier: Apache-2.0
"""Minting a proof: for a token endpoint, and for an API, with a nonce and the hash of a token."""

from __future__ import annotations

import binascii
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from measure import Figure, Section, at_least, interleaved, middle, openssl_speed, seconds, spread
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
    Peer,
    Worker,
    working,
)

import dpop
from dpop import proof as parts
from dpop.encoding import access_token_hash, check_nonce
from dpop.keys._software import SoftwareKey

METHOD, URL = "GET", "https://api.example.com/v1/accounts/42"
NONCE, TOKEN = "eyJ7S_zG.eyJH0-Z.HX4w-7v", "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"

_UNCHECKED = Peer("a loop without any check", "unchecked", "cryptography")


class Kind(NamedTuple):
    """A kind of proof, and who makes it."""

    alg: str
    facts: Mapping[str, str | None]
    what: str
    peers: list[Peer]


_TOKEN_REQUEST = {"method": "POST", "url": "https://server.example.com/token", "nonce": None, "token": None}
_API_REQUEST = {"method": METHOD, "url": URL, "nonce": NONCE, "token": TOKEN}
_MOST_OTHERS = [REQUESTS_OAUTH2CLIENT, PYJWT, JOSERFC, NPM_DPOP, NPM_JOSE]

_KINDS = [
    Kind("ES256", _TOKEN_REQUEST, "token request", [BARE, TOOLKIT, _UNCHECKED, PYDPOP, *_MOST_OTHERS]),
    Kind("ES256", _API_REQUEST, "API request", [BARE, TOOLKIT, _UNCHECKED, PYDPOP, AUTH0, *_MOST_OTHERS]),
    Kind("Ed25519", _API_REQUEST, "API request", [BARE, TOOLKIT, *_MOST_OTHERS]),
    Kind("PS256", _API_REQUEST, "API request", [BARE, TOOLKIT, *_MOST_OTHERS]),
]


def pem(key: object) -> str:
    """A software key as the PEM that every peer reads."""
    private = getattr(key, "_private")  # noqa: B009 - a key shows nobody its private part
    data: bytes = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return data.decode()


def measure(environments: Environments, *, short: bool) -> Section:
    """Proofs per second of each peer, against bare signatures per second of the same key."""
    section = Section(
        "mint",
        "Minting a proof",
        "Proofs made one after the other with the same key; beside a bare signature of as many octets by the"
        " cryptography package. That of a token request has neither `ath` nor `nonce`, that of an API request has"
        " both. Python peers run on the same Python and the same cryptography. Node.js signs with its own OpenSSL and"
        " has no bare row of its own: its ratio is for orientation. The loop without any check is the same proof by"
        " f-strings and the standard library, nothing of it looked at: what is left to gain. OpenSSL by itself is what"
        " `openssl speed` says of the signature alone, without the hash.",
        ["algorithm", "for", "by", "one proof, us", "rate against the bare signature"],
    )
    openssl = openssl_speed(short=short)
    for kind in _KINDS:
        samples = _timed(environments, kind, short=short)
        section.raw[f"{kind.alg}, {kind.what}"] = {
            peer.name: taken for peer, taken in zip(kind.peers, samples, strict=True)
        }
        for peer, taken in zip(kind.peers, samples, strict=True):
            rates = [bare / one for bare, one in zip(samples[0], taken, strict=True)]
            section.lines.append(
                [kind.alg, kind.what, peer.name, spread([s * 1e6 for s in taken], 1), spread(rates, 3)]
            )
        if kind.alg == "ES256":
            section.figures += _figures(kind, samples)
            by, one = f"{openssl.version} by itself", openssl.sign
            section.lines.append([kind.alg, kind.what, by, f"{one * 1e6:.1f}", f"{middle(samples[0]) / one:.3f}"])
    section.note = _profile(short=short)
    return section


def _timed(environments: Environments, kind: Kind, *, short: bool) -> list[list[float]]:
    with working(environments, kind.peers) as workers:
        key = pem(dpop.generate_key(kind.alg))
        for worker in workers:
            worker.ask("prepare", task="mint", key=key, alg=kind.alg, **kind.facts)

        def ready(_worker: Worker, count: int) -> int:
            return count

        return interleaved(workers, 5 if short else 21, ready, turn=0.03 if short else 0.1)


def _figures(kind: Kind, samples: list[list[float]]) -> list[Figure]:
    article = "an" if kind.what[0] == "A" else "a"
    ours = round(middle([bare / one for bare, one in zip(samples[0], samples[1], strict=True)]), 3)
    others = [middle(taken) for peer, taken in zip(kind.peers[3:], samples[3:], strict=True) if not peer.on_node]
    ahead = round(min(others) / middle(samples[1]), 2)
    first = at_least(f"minting ES256 for {article} {kind.what}, rate against a bare signature", ours, 0.85)
    if kind.what != "token request":  # its nonce and its hash are work that the goal does not count
        first = Figure(first.name, ours, "x", "-", reached=True)
    return [
        first,
        at_least(f"minting ES256 for {article} {kind.what}, times as fast as the fastest Python peer", ahead, 1.0),
    ]


def _profile(*, short: bool) -> str:
    """What a proof costs beyond its signature, part by part."""
    key = dpop.generate_key()
    assert isinstance(key, SoftwareKey)
    private = ec.generate_private_key(ec.SECP256R1())
    algorithm = ec.ECDSA(hashes.SHA256())
    data = parts.signing_input(key, METHOD, URL, jti="x" * 32, iat=1_800_000_000, nonce=NONCE, ath="x" * 43)
    der, raw = private.sign(data, algorithm), key.sign(data)
    target = parts._target_of_url(METHOD, URL)
    looked_at: dict[str, Callable[[], Any]] = {
        "the signature from DER to R and S": lambda: dpop.der_to_raw(der),
        "the header, looked up": lambda: parts._header_of(key),
        "method and URL, looked up": lambda: parts._target_of_url(METHOD, URL),
        "jti: 128 random bits in hexadecimal": parts.random_jti,
        "iat: the clock": lambda: int(time.time()),
        "ath: token looked at and hashed": lambda: access_token_hash(TOKEN),
        "nonce: looked at": lambda: check_nonce(NONCE),
        "the payload, put together and encoded": lambda: parts._payload(
            target, json.dumps("x" * 32), 1_800_000_000, NONCE, "x" * 43, None
        ),
        "the whole, put together": lambda: parts.compact(data, raw),
        "(to compare: one call of base64)": lambda: binascii.b2a_base64(raw, newline=False),
    }
    rounds, repeats = (2_000, 5) if short else (20_000, 15)
    lines = [
        "What a proof costs beyond its signature, each part in a loop of its own:",
        "",
        "| part | us |",
        "|---|---|",
    ]
    lines += [
        f"| {name} | {min(seconds(part, rounds) for _ in range(repeats)) * 1e6:.2f} |"
        for name, part in looked_at.items()
    ]
    return "\n".join(lines)
