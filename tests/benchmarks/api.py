# SPDX-License-Identifier: Apache-2.0
"""An API behind each integration: what an honest request costs it, and what strangers can make it spend."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from measure import Figure, Section, at_most, middle, told
from peers import Environments

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.jwt_issuer import JWTIssuer
from support.strangers import (
    API_URL,
    INTEGRATIONS,
    NOW,
    SIGNED,
    THUMBPRINT,
    UNSIGNED,
    Forgetful,
    Once,
    by_asgi,
    honest,
    large_rsa_key,
    signed_by_a_stranger,
    times_in_turn,
    undisturbed,
)

import dpop
from dpop.server import JWTAccessTokens, NonceIssuer, ProofVerifier, ProtectedResource
from dpop.server._jws import parse_compact
from dpop.signature import raw_to_der

_FIRST_SIGHT = {"RS256": 2.4, "ES256": 2.9, "Ed25519": 3.4}


def measure(_environments: Environments, *, short: bool) -> Section:
    """Honest requests against a bare check of the proof's signature, those of strangers against honest ones."""
    section = Section(
        "api",
        "An API behind an integration",
        "Time of the thread for one request without network, of single ones in turn with what it is compared to; the"
        " time that a tenth of them undercut. Honest: of a known key, against a bare check of its signature. Strangers:"
        " what anybody can send, against an honest request through the same integration, the five dearest of each kind."
        " Unsigned is refused before a signature is checked; signed is well signed by a key of its own, and names"
        " another URL.",
        ["request", "integration", "one, us", "ratio"],
    )
    section.figures += [*_honest(section, 100 if short else 1000), *_strangers(section, 12 if short else 300)]
    return section


def _times(call: Once, other: Once, times: int) -> tuple[float, float]:
    """Microseconds of both."""
    ours, theirs = times_in_turn(call, other, times)
    return undisturbed(ours) / 1000, undisturbed(theirs) / 1000


# --- honest


def _honest(section: Section, times: int) -> Iterator[Figure]:
    nonces = NonceIssuer(clock=lambda: NOW)
    with_nonces = ProtectedResource(
        ProofVerifier(replay=Forgetful(), nonces=nonces, clock=lambda: NOW), url=API_URL, token=_known_token
    )
    bare = _bare_check()
    for name, call, goal in (
        ("known key and token", by_asgi("GET", "/x", honest()), 1.40),
        ("with nonces", by_asgi("GET", "/x", honest(nonce=nonces.issue()), with_nonces), 1.48),
    ):
        yield _compared(section, name, _times(call, bare, times), goal)
    with JWTIssuer() as issuer:
        for alg, goal in _FIRST_SIGHT.items():
            sights = iter(_first_sights(issuer, alg, times))
            yield _compared(section, f"first sight of a token, {alg}", _times(_each(sights), bare, times), goal)


def _compared(section: Section, name: str, times: tuple[float, float], goal: float) -> Figure:
    ours, theirs = times
    section.lines.append([name, "asgi", f"{ours:.1f}", f"{ours / theirs:.2f}"])
    return at_most(f"dpop.asgi, {name}, against a bare check", round(ours / theirs, 2), goal)


def _each(calls: Iterator[Once]) -> Once:
    """Another one at each call."""

    def call() -> None:
        next(calls)()

    return call


def _known_token(_token: str) -> dict[str, object]:
    return {"cnf": {"jkt": THUMBPRINT}}


def _bare_check() -> Once:
    """The check of the same signature by the cryptography package, with the key at hand."""
    jws = parse_compact(dict(honest())["DPoP"], max_length=8192, max_depth=8)
    key, signature, algorithm = jws.header.key.to_cryptography(), raw_to_der(jws.signature), ec.ECDSA(hashes.SHA256())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return lambda: key.verify(signature, jws.signing_input, algorithm)


def _first_sights(issuer: JWTIssuer, alg: str, times: int) -> list[Once]:
    """Requests with a token each that the API has not seen."""
    key = dpop.generate_key(alg)
    issuer.published = [issuer.jwk(key, "k1")]
    tokens = JWTAccessTokens(issuer=issuer.url, audience=API_URL)
    api = ProtectedResource(ProofVerifier(replay=Forgetful(), clock=lambda: NOW), url=API_URL, token=tokens)
    bound = {"jkt": THUMBPRINT}
    made = [issuer.token(key=key, jti=str(number), aud=API_URL, cnf=bound) for number in range(times + 1)]
    assert tokens(made.pop())["cnf"]  # which fetches the keys
    return [by_asgi("GET", "/x", honest(token=token), api) for token in made]


# --- strangers


def _strangers(section: Section, times: int) -> Iterator[Figure]:
    for name, ask in INTEGRATIONS.items():
        accepted = ask("GET", "/x", honest())
        unsigned = {
            f"{what}, {method}": ask(method, target, fields)
            for what, (target, fields) in UNSIGNED.items()
            for method in ("GET", "OPTIONS")
        } | {
            f"an RSA key of {size} bits": ask("GET", "/x", large_rsa_key(size, 2**32 - 1))
            for size in (4096, 8192, 16384)
        }
        signed = {what: ask("GET", *signed_by_a_stranger(what)) for what in SIGNED}
        for kind, calls, goal in (("unsigned", unsigned, 0.25), ("signed", signed, 1.6)):
            costs = {what: _times(call, accepted, times) for what, call in calls.items()}
            ratios = {what: own / honest for what, (own, honest) in costs.items()}
            section.raw[f"{kind}, {name}"] = {what: round(ratio, 3) for what, ratio in ratios.items()}
            dearest = max(ratios, key=lambda what: ratios[what])
            for what in sorted(ratios, key=lambda what: -ratios[what])[:5]:
                section.lines.append([f"{kind}: {what}", name, f"{costs[what][0]:.1f}", f"{ratios[what]:.2f}"])
            title = f"what strangers send {kind}, {name}"
            yield at_most(f"{title}, dearest of {len(calls)} ({dearest})", round(ratios[dearest], 2), goal)
            yield told(f"{title}, median", round(middle(list(ratios.values())), 2), "x")
