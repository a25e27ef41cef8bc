# SPDX-License-Identifier: Apache-2.0
"""Verify DPoP proofs at a resource or authorization server (RFC 9449 §4.3).

Order: header field, structure, JOSE header, key, signature, claims, nonce, time, binding, and last
the replay cache, so that a proof refused for any other reason can be corrected and keeps its ``jti``.
A nonce is challenged only after the signature has been verified.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from dpop.errors import AlgorithmError, InvalidProof, UsageError
from dpop.keys.algorithms import ALGORITHMS
from dpop.server.checks import (
    check_grant_binding,
    check_header,
    check_key,
    check_method,
    check_signature,
    check_target,
    check_token_binding,
    check_validity,
)
from dpop.server.claims import ProofClaims, read_claims
from dpop.server.jws import Headers, parse_compact, proof_field
from dpop.server.nonce_issuer import NonceChecker
from dpop.server.reasons import Reason, refuse
from dpop.server.replay import AsyncReplayCache, ReplayCache, nonce_key, replay_key

__all__ = ["DEFAULT_ALGS", "ProofVerifier", "VerifiedProof"]

DEFAULT_ALGS = ("ES256", "Ed25519", "EdDSA", "PS256", "RS256")

_MAX_LIFE = 300

_Cache = ReplayCache | AsyncReplayCache
_Binding = Callable[[ProofClaims, str], None]


@dataclass(frozen=True, slots=True, repr=False)
class VerifiedProof:
    """A proof that passed every check.

    :param jkt: RFC 7638 SHA-256 thumbprint of the proof's key, 43 characters.
    :param iat: when the client says it made the proof, Unix seconds.
    :param nonce: the nonce it used, None without one.
    :param claims: all claims, the standard ones included.
    :param public_jwk: the required members of the key, nothing else.
    :param htu: canonical form of the URL of the request.
    :param next_nonce: what to send as ``DPoP-Nonce`` with the answer, None if the client needs no new one.
    """

    jkt: str
    jti: str
    iat: float
    nonce: str | None
    claims: Mapping[str, Any]
    public_jwk: Mapping[str, str]
    alg: str
    htm: str
    htu: str
    next_nonce: str | None

    def __repr__(self) -> str:
        # Neither jti nor nonce nor claims: together they are most of a proof.
        return f"<VerifiedProof {self.alg} key {self.jkt}, {self.htm} {self.htu}>"


@dataclass(frozen=True, slots=True)
class _Once:
    """Something that may happen once: the last question, put to a cache that may have to be awaited."""

    cache: _Cache
    key: str
    expires_at: float
    refusal: Callable[[], InvalidProof]


class ProofVerifier:
    """Judges the DPoP proof of each request. Thread-safe if its caches are.

    :param replay: where proofs are remembered. None accepts a proof more than once, which RFC 9449
        §11.1 allows and nobody should want.
    :param nonces: issues nonces and recognises them. If given, every proof must have one: a server
        that took proofs without could be talked out of nonces (RFC 9449 §11.3).
    :param algs: algorithms accepted; put them into the challenge too.
    :param max_age: seconds between ``iat`` and now, at most 300 (RFC 9449 §11.1).
    :param skew: seconds by which a client's clock may be ahead, at most 300.
    :param clock: Unix seconds; give the replay cache and the nonce issuer the same one.
    :param max_length: characters of the whole proof.
    :param max_jti: characters of ``jti``.
    :param max_htu: characters of ``htu``.
    :param max_depth: levels of JSON nesting.
    :raises AlgorithmError: an algorithm this package does not know, such as ``none`` or ``HS256``.
    :raises UsageError: a time or limit that makes no sense.
    """

    def __init__(
        self,
        *,
        replay: _Cache | None,
        nonces: NonceChecker | None = None,
        algs: Iterable[str] | str = DEFAULT_ALGS,
        max_age: float = 60,
        skew: float = 30,
        clock: Callable[[], float] = time.time,
        max_length: int = 8192,
        max_jti: int = 256,
        max_htu: int = 4096,
        max_depth: int = 8,
    ) -> None:
        self._algs = _known_algs(algs)
        if not 0 < max_age <= _MAX_LIFE or not 0 <= skew <= _MAX_LIFE:
            raise UsageError(
                f"max_age must be more than 0 and at most {_MAX_LIFE} seconds, skew 0 to {_MAX_LIFE}: "
                f"a proof lives seconds to minutes (RFC 9449 §11.1); got max_age={max_age}, skew={skew}"
            )
        if min(max_length, max_jti, max_htu, max_depth) < 1:
            raise UsageError("max_length, max_jti, max_htu and max_depth must be 1 or more")
        self._replay = replay
        self._nonces = nonces
        self._max_age = max_age
        self._skew = skew
        self._clock = clock
        self._max_length = max_length
        self._max_jti = max_jti
        self._max_htu = max_htu
        self._max_depth = max_depth
        used = nonces.used if nonces is not None else None
        self._must_await = any(inspect.iscoroutinefunction(cache.add) for cache in (replay, used) if cache is not None)

    @property
    def algs(self) -> tuple[str, ...]:
        """The algorithms accepted, in the order given."""
        return self._algs

    def verify_resource(
        self, headers: Headers, method: str, url: str, *, access_token: str, bound_jkt: str | None
    ) -> VerifiedProof:
        """Verify the proof of a request for a protected resource (RFC 9449 §4.3, §7.1).

        :param headers: all header fields of the request, as pairs or a mapping, str or bytes.
        :param method: the method of the request, as it came.
        :param url: the URL of the request as the client knows it: the public origin from your
            configuration and the raw path. Never built from headers anyone may send.
        :param access_token: the token behind ``Authorization: DPoP``. Whether it is active, and what
            it allows, is for you to check.
        :param bound_jkt: ``cnf.jkt`` of that token, from its claims or its introspection. None, an
            unbound token, is always refused.
        :raises InvalidProof: ``invalid_dpop_proof``, ``use_dpop_nonce`` or ``invalid_token``.
        :raises ReplayCacheError: whether it is a replay cannot be told; answer 503.
        """
        self._refuse_unawaited()
        return self._settle(*self._judge(headers, method, url, partial(check_token_binding, access_token, bound_jkt)))

    def verify_token_request(
        self, headers: Headers, method: str, url: str, *, bound_jkt: str | None = None
    ) -> VerifiedProof:
        """Verify the proof of a request to the token, PAR, device or another endpoint of an AS (RFC 9449 §5).

        :param headers: see :meth:`verify_resource`, as for ``method`` and ``url``.
        :param bound_jkt: thumbprint that the refresh token or the authorization code (``dpop_jkt``) is
            bound to; None if it is not bound. At the PAR endpoint compare ``dpop_jkt`` with ``.jkt``
            yourself and answer ``invalid_dpop_proof`` (RFC 9449 §10.1).
        :raises InvalidProof: ``invalid_dpop_proof``, ``use_dpop_nonce``, or ``invalid_grant`` for another
            key than ``bound_jkt`` and for no proof at all where one is bound. Do not consume a code or
            refresh token before this returns.
        :raises ReplayCacheError: whether it is a replay cannot be told; answer 503.
        """
        self._refuse_unawaited()
        return self._settle(*self._judge_token_request(headers, method, url, bound_jkt))

    async def averify_resource(
        self, headers: Headers, method: str, url: str, *, access_token: str, bound_jkt: str | None
    ) -> VerifiedProof:
        """As :meth:`verify_resource`, with caches that are awaited.

        The signature is checked in the event loop: handing it to a thread would take longer.
        """
        judged = self._judge(headers, method, url, partial(check_token_binding, access_token, bound_jkt))
        return await self._asettle(*judged)

    async def averify_token_request(
        self, headers: Headers, method: str, url: str, *, bound_jkt: str | None = None
    ) -> VerifiedProof:
        """As :meth:`verify_token_request`, with caches that are awaited."""
        return await self._asettle(*self._judge_token_request(headers, method, url, bound_jkt))

    def _judge_token_request(
        self, headers: Headers, method: str, url: str, bound_jkt: str | None
    ) -> tuple[VerifiedProof, list[_Once]]:
        # ath is ignored here: RFC 9449 says nothing about it where no access token is.
        missing = "invalid_dpop_proof" if bound_jkt is None else "invalid_grant"
        return self._judge(headers, method, url, partial(check_grant_binding, bound_jkt), missing=missing)

    def _judge(
        self,
        headers: Headers,
        method: str,
        url: str,
        binding: _Binding,
        *,
        missing: str = "invalid_dpop_proof",
    ) -> tuple[VerifiedProof, list[_Once]]:
        """All checks but the last, which asks the caches."""
        now = self._clock()
        text = proof_field(headers)
        if text is None:
            raise refuse(Reason.PROOF_MISSING, error=missing)
        jws = parse_compact(text, max_length=self._max_length, max_depth=self._max_depth)
        alg = check_header(jws.header, self._algs)
        key = check_key(jws.header, alg)
        check_signature(key, alg, jws)
        claims = read_claims(jws.payload, max_jti=self._max_jti, max_htu=self._max_htu)
        check_method(claims, method)
        htu = check_target(claims, url)
        check_validity(claims, now, self._skew)
        good_until, once = self._check_nonce(claims)
        if good_until is None:
            good_until = self._check_age(claims, now)
        jkt = key.thumbprint
        binding(claims, jkt)
        if self._replay is not None:
            # Kept for the skew as well: processes that share the cache may differ by as much.
            memory = replay_key(jkt, htu, claims.jti)
            once.append(_Once(self._replay, memory, good_until + self._skew, partial(refuse, Reason.REPLAYED)))
        seen = VerifiedProof(
            jkt=jkt,
            jti=claims.jti,
            iat=claims.iat,
            nonce=claims.nonce,
            claims=jws.payload,
            public_jwk=key.jwk,
            alg=alg,
            htm=claims.htm,
            htu=htu,
            next_nonce=None if self._nonces is None else self._nonces.next_for(claims.nonce),
        )
        return seen, once

    def _check_nonce(self, claims: ProofClaims) -> tuple[float | None, list[_Once]]:
        """The nonce is one of ours and recent (RFC 9449 §4.3 (10), §8, §9).

        :returns: until when the nonce lets the proof pass, None if ``iat`` has to decide; and the
            nonce itself, if it may be used once only.
        """
        nonces = self._nonces
        if nonces is None:
            return None, []
        if claims.nonce is None:
            raise _challenge(nonces, Reason.NONCE_MISSING)
        verdict = nonces.check(claims.nonce)
        if verdict is None:
            raise _challenge(nonces, Reason.NONCE_UNKNOWN)
        once = []
        if nonces.used is not None:
            # Burnt before the jti is, which a client may repeat with a new nonce.
            spent = partial(_challenge, nonces, Reason.NONCE_USED)
            once.append(_Once(nonces.used, nonce_key(claims.nonce), verdict.expires_at + self._skew, spent))
        return (None if verdict.issued_at is None else verdict.expires_at), once

    def _check_age(self, claims: ProofClaims, now: float) -> float:
        """The proof was made just now (RFC 9449 §4.3 (11), §11.1). Returns until when it would pass."""
        age = now - claims.iat
        if age > self._max_age:
            raise refuse(Reason.IAT_TOO_OLD, expected=f"at most {self._max_age:g} s", got=f"{age:.0f} s")
        if -age > self._skew:
            raise refuse(Reason.IAT_IN_FUTURE, expected=f"at most {self._skew:g} s ahead", got=f"{-age:.0f} s ahead")
        return claims.iat + self._max_age

    def _refuse_unawaited(self) -> None:
        if self._must_await:
            raise UsageError("the replay cache or nonce store is async: use averify_resource or averify_token_request")

    def _settle(self, seen: VerifiedProof, once: list[_Once]) -> VerifiedProof:
        """The proof and its nonce were not used before; from now on they were (RFC 9449 §11.1)."""
        for mark in once:
            if not _answer(mark.cache.add(mark.key, mark.expires_at)):
                raise mark.refusal()
        return seen

    async def _asettle(self, seen: VerifiedProof, once: list[_Once]) -> VerifiedProof:
        for mark in once:
            added = mark.cache.add(mark.key, mark.expires_at)
            if not _answer(await added if inspect.isawaitable(added) else added):
                raise mark.refusal()
        return seen


def _known_algs(algs: Iterable[str] | str) -> tuple[str, ...]:
    chosen = tuple(algs.split() if isinstance(algs, str) else algs)
    unknown = [alg for alg in chosen if alg not in ALGORITHMS]
    if unknown or not chosen:
        what = f"got {', '.join(map(repr, unknown))}" if unknown else "got none"
        raise AlgorithmError(f"algs must be some of {' '.join(ALGORITHMS)}; {what}")
    return chosen


def _challenge(nonces: NonceChecker, reason: Reason) -> InvalidProof:
    return refuse(reason, error="use_dpop_nonce", nonce=nonces.issue())


def _answer(added: object) -> bool:
    """A cache's answer, which must be a bool: a forgotten await or a count would read as "new"."""
    if not isinstance(added, bool):
        raise UsageError(f"the replay cache's add() must answer True or False, not {type(added).__name__}")
    return added
