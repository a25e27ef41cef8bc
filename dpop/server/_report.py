# SPDX-License-Identifier: Apache-2.0
"""The verdict of every check on a proof, not only of the first that fails: for finding all its faults.

It calls the verifier's checks in the verifier's order. When a check refuses a part of the proof, a valid part takes its
place and the next checks go on, so the first refusal here is always the verifier's own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from dpop.encoding import b64url_decode, json_object
from dpop.errors import EncodingError, InvalidProof
from dpop.keys._algorithms import ALGORITHMS
from dpop.keys._public import PublicKey
from dpop.server._checks import (
    ProofClaims,
    check_header,
    check_key,
    check_key_is_public,
    check_key_kind,
    check_method,
    check_point,
    check_signature,
    check_signature_form,
    check_target,
    check_validity,
    read_claims,
)
from dpop.server._jws import CompactJWS, Headers, JoseHeader, parse_compact, proof_field
from dpop.server._reasons import Reason, refuse

__all__ = ["CheckVerdict", "Expectations", "ProofReport", "report_on"]

_RULES = {
    "header": "RFC 9449 §4.3 (1)",
    "jwt": "RFC 9449 §4.3 (2)",
    "typ": "RFC 9449 §4.3 (4)",
    "alg": "RFC 9449 §4.3 (5)",
    "jwk": "RFC 9449 §4.3 (7)",
    "signature": "RFC 9449 §4.3 (6)",
    "jti": "RFC 9449 §4.3 (3)",
    "htm": "RFC 9449 §4.3 (8)",
    "htu": "RFC 9449 §4.3 (9)",
    "iat": "RFC 9449 §4.3 (11)",
    "lifetime": "RFC 7519 §4.1.4, §4.1.5",
    "nonce": "RFC 9449 §4.3 (10)",
    "ath": "RFC 9449 §4.3 (12)",
    "binding": "RFC 9449 §6, §10",
    "replay": "RFC 9449 §11.1",
}

# The claim that a refusal by read_claims is about, and the value that takes its place.
_CLAIM_OF: Mapping[str, str] = {
    Reason.JTI_MISSING: "jti",
    Reason.JTI_TOO_LONG: "jti",
    Reason.HTM_MISSING: "htm",
    Reason.HTU_MISSING: "htu",
    Reason.HTU_INVALID: "htu",
    Reason.IAT_MISSING: "iat",
    Reason.IAT_OUT_OF_RANGE: "iat",
    Reason.NONCE_MALFORMED: "nonce",
    Reason.TIME_CLAIM_MALFORMED: "lifetime",
}
_STAND_INS: Mapping[str, Mapping[str, object]] = {
    "jti": {"jti": "-"},
    "htm": {"htm": "-"},
    "htu": {"htu": "-"},
    "iat": {"iat": 1},
    "nonce": {"nonce": ""},
    "lifetime": {},
}


@dataclass(frozen=True, slots=True)
class CheckVerdict:
    """The result of one check.

    :param name: ``header``, ``jwt``, ``typ``, ``alg``, ``jwk``, ``signature``, ``jti``, ``htm``, ``htu``,
        ``iat``, ``lifetime`` (``exp`` and ``nbf``), ``nonce``, ``ath``, ``binding`` or ``replay``.
    :param rule: the section of the RFC that requires it.
    :param verdict: ``not judged`` if the check lacks something: a part of the proof that cannot be read, or a fact
        about the request that was not given.
    :param refusal: the error, if it failed.
    """

    name: str
    rule: str
    verdict: Literal["passed", "failed", "not judged"]
    refusal: InvalidProof | None = None


@dataclass(frozen=True, slots=True, repr=False)
class ProofReport:
    """The verdicts on one proof.

    :param checks: the result of every check, in a fixed order.
    :param refusal: the error that a verifier raises, which is its first refusal; None if it accepts the proof.
    :param header: the decoded JOSE header; None if it cannot be decoded.
    :param claims: the decoded claims; None if they cannot be decoded.
    :param jkt: thumbprint of the key; None if the key is not valid.
    """

    checks: tuple[CheckVerdict, ...]
    refusal: InvalidProof | None
    header: Mapping[str, Any] | None
    claims: Mapping[str, Any] | None
    jkt: str | None

    def __repr__(self) -> str:
        return f"<ProofReport {'good' if self.refusal is None else self.refusal.reason}>"


class Expectations(NamedTuple):
    """The facts that a proof is checked against. None in the last five means unknown, and is not checked.

    :param check_token: checks ``ath`` against the token of the request.
    :param check_binding: checks the key's thumbprint against the one that the token or grant is bound to.
    :param check_nonce: raises unless the nonce is valid; returns whether the check of ``iat`` is not needed then.
    """

    algs: tuple[str, ...]
    now: float
    skew: float
    max_length: int
    max_jti: int
    max_htu: int
    max_depth: int
    missing: str
    check_age: Callable[[ProofClaims, float], object]
    check_nonce: Callable[[ProofClaims, str], bool] | None = None
    method: str | None = None
    url: str | None = None
    check_token: Callable[[ProofClaims], None] | None = None
    check_binding: Callable[[str], None] | None = None


class _Verdicts:
    """Collects the results of the checks, in their order."""

    def __init__(self) -> None:
        self.judged: set[str] = set()
        self.refusals: list[tuple[str, InvalidProof]] = []

    @contextmanager
    def on(self, name: str) -> Iterator[None]:
        """Run one check; an InvalidProof means that it failed."""
        self.judged.add(name)
        try:
            yield
        except InvalidProof as refusal:
            self.refusals.append((name, refusal))

    def good(self, name: str) -> bool:
        """Whether the check was run and passed."""
        return name in self.judged and all(name != refused for refused, _ in self.refusals)

    def as_checks(self) -> tuple[CheckVerdict, ...]:
        """All checks, each with the first refusal recorded for it."""
        first = dict(reversed(self.refusals))
        return tuple(
            CheckVerdict(
                name,
                rule,
                "failed" if name in first else "passed" if name in self.judged else "not judged",
                first.get(name),
            )
            for name, rule in _RULES.items()
        )


def report_on(headers: Headers, expected: Expectations) -> ProofReport:
    """Make every check that can be made on a proof.

    :raises ArgumentTypeError: ``headers`` is neither pairs nor a mapping.
    """
    verdicts = _Verdicts()
    text: str | None = None
    with verdicts.on("header"):
        text = proof_field(headers)
        if text is None:
            raise refuse(Reason.PROOF_MISSING, error=expected.missing)
    header, claims, jkt = None, None, None
    if text is not None:
        jws: CompactJWS | None = None
        with verdicts.on("jwt"):
            jws = parse_compact(text, max_length=expected.max_length, max_depth=expected.max_depth)
        header, claims = (jws.header.members, None) if jws else _readable(text, expected)
        key = _judge_header(verdicts, jws, header, expected)
        header = copy.deepcopy(header)  # the verifier keeps recent headers, and a caller could change them
        jkt = None if key is None else key.thumbprint
        if jws is not None:
            with verdicts.on("jwt"):
                claims = jws.payload
        if claims is not None:
            _judge_claims(verdicts, claims, jkt, expected)
    refusal = verdicts.refusals[0][1] if verdicts.refusals else None
    return ProofReport(verdicts.as_checks(), refusal, header, claims, jkt)


def _readable(text: str, expected: Expectations) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The header and claims of a malformed JWT, as far as each can be read."""
    if len(text) > expected.max_length:
        return None, None
    parts: list[dict[str, Any] | None] = []
    for part in (*text.split("."), "", "")[:2]:
        try:
            parts.append(json_object(b64url_decode(part), max_depth=expected.max_depth))
        except EncodingError:
            parts.append(None)
    return parts[0], parts[1]


def _judge_header(
    verdicts: _Verdicts, jws: CompactJWS | None, members: dict[str, Any] | None, expected: Expectations
) -> PublicKey | None:
    """Check the JOSE header, its key and the signature; return the key if it is valid."""
    if members is None:
        return None
    header = JoseHeader(members) if jws is None else jws.header
    verdicts.judged |= {"typ", "alg"}
    try:
        check_header(header, expected.algs)
    except InvalidProof as refusal:
        wrong = "typ" if refusal.reason == Reason.TYP_MISMATCH else "alg"
        verdicts.refusals.append((wrong, refusal))
        if wrong == "typ":
            with verdicts.on("alg"):
                check_header(JoseHeader({**members, "typ": "dpop+jwt"}), expected.algs)
    alg = members.get("alg")
    known = isinstance(alg, str) and alg in ALGORITHMS
    with verdicts.on("jwk"):
        # For an unknown alg no key can be right, so only the alg is reported.
        check_key_kind(header, str(alg)) if known else check_key_is_public(header)
    if known and jws is not None and verdicts.good("jwk"):
        with verdicts.on("signature"):
            check_signature_form(str(alg), jws)
    key: PublicKey | None = None
    if verdicts.good("jwk"):
        with verdicts.on("jwk"):
            key = check_key(header)
            check_point(key)
    if known and key is not None and verdicts.good("signature") and jws is not None:
        with verdicts.on("signature"):
            check_signature(key, str(alg), jws)
    return key if known else None


def _judge_claims(verdicts: _Verdicts, payload: Mapping[str, object], jkt: str | None, expected: Expectations) -> None:
    claims = _read(verdicts, payload, expected)
    _judge_target(verdicts, claims, expected)
    if verdicts.good("lifetime"):
        with verdicts.on("lifetime"):
            check_validity(claims, expected.now, expected.skew)
    spared = False
    if verdicts.good("nonce"):
        verdicts.judged.discard("nonce")
        if expected.check_nonce is not None and jkt is not None:
            with verdicts.on("nonce"):
                spared = expected.check_nonce(claims, jkt)
    if verdicts.good("iat") and not spared:
        with verdicts.on("iat"):
            expected.check_age(claims, expected.now)
    if expected.check_token is not None:
        with verdicts.on("ath"):
            expected.check_token(claims)
    if expected.check_binding is not None and jkt is not None:
        with verdicts.on("binding"):
            expected.check_binding(jkt)


def _judge_target(verdicts: _Verdicts, claims: ProofClaims, expected: Expectations) -> None:
    """Check method and URL. Without the request they are not judged, even if the claims are there."""
    if verdicts.good("htm"):
        verdicts.judged.discard("htm")
        if expected.method is not None:
            with verdicts.on("htm"):
                check_method(claims, expected.method)
    if verdicts.good("htu"):
        verdicts.judged.discard("htu")
        if expected.url is not None:
            with verdicts.on("htu"):
                check_target(claims, expected.url)


def _read(verdicts: _Verdicts, payload: Mapping[str, object], expected: Expectations) -> ProofClaims:
    """Read the claims, with a valid value in place of each refused one."""
    verdicts.judged |= {"jti", "htm", "htu", "iat", "nonce", "lifetime"}
    members = dict(payload)
    while True:
        try:
            return read_claims(members, max_jti=expected.max_jti, max_htu=expected.max_htu)
        except InvalidProof as refusal:
            name = _CLAIM_OF[refusal.reason]
            verdicts.refusals.append((name, refusal))
            for claim in ("exp", "nbf") if name == "lifetime" else (name,):
                members.pop(claim, None)
            members |= _STAND_INS[name]
