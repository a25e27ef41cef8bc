# SPDX-License-Identifier: Apache-2.0
"""Verify DPoP proofs at a resource or authorization server (RFC 9449 §4.3).

Order: header field, structure, JOSE header, key, signature, claims, nonce, time, binding, and last
the replay cache, so that a proof refused for any other reason can be corrected and keeps its ``jti``.
What is cheap comes before what is dear: to refuse should cost less than to accept. Claims are read, and a
nonce is challenged, only after the signature has been verified.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from dpop.errors import AlgorithmError, ArgumentTypeError, InvalidProof, UsageError
from dpop.keys._algorithms import ALGORITHMS
from dpop.keys._public import PublicKey
from dpop.server._checks import (
    ProofClaims,
    check_access_token,
    check_grant_binding,
    check_header,
    check_key,
    check_key_kind,
    check_method,
    check_signature,
    check_signature_form,
    check_target,
    check_token_binding,
    check_validity,
    read_claims,
)
from dpop.server._jws import Headers, parse_compact, proof_field
from dpop.server._nonces import NonceChecker
from dpop.server._reasons import Reason, refuse
from dpop.server._replay import AsyncReplayCache, ReplayCache, nonce_key, replay_key
from dpop.server._report import Expectations, ProofReport, report_on

__all__ = ["DEFAULT_ALGS", "CheckedProof", "Mark", "ProofVerifier", "VerifiedProof"]


class VerifiedProof:
    """A proof that passed every check. Immutable."""

    __slots__ = ("_alg", "_claims", "_htu", "_key", "_next_nonce", "_payload")

    def __init__(
        self,
        key: PublicKey,
        alg: str,
        claims: ProofClaims,
        payload: Mapping[str, Any],
        htu: str,
        *,
        next_nonce: str | None,
    ) -> None:
        """Not to be called: a verifier does."""
        self._key = key
        self._alg = alg
        self._claims = claims
        self._payload = payload
        self._htu = htu
        self._next_nonce = next_nonce

    @property
    def jkt(self) -> str:
        """RFC 7638 SHA-256 thumbprint of the proof's key, 43 characters."""
        return self._key.thumbprint

    @property
    def public_jwk(self) -> Mapping[str, str]:
        """The required members of the key, nothing else."""
        return self._key.jwk

    @property
    def alg(self) -> str:
        """The algorithm of the signature."""
        return self._alg

    @property
    def jti(self) -> str:
        """The identifier of the proof."""
        return self._claims.jti

    @property
    def iat(self) -> float:
        """When the client says it made the proof, Unix seconds."""
        return self._claims.iat

    @property
    def nonce(self) -> str | None:
        """The nonce it used, None without one."""
        return self._claims.nonce

    @property
    def htm(self) -> str:
        """The method of the request."""
        return self._claims.htm

    @property
    def htu(self) -> str:
        """Canonical form of the URL of the request, without query and fragment."""
        return self._htu

    @property
    def claims(self) -> Mapping[str, Any]:
        """All claims, the standard ones included."""
        return self._payload

    @property
    def next_nonce(self) -> str | None:
        """What to send as ``DPoP-Nonce`` with the answer, None if the client needs no new one."""
        return self._next_nonce

    def __repr__(self) -> str:
        # Neither jti nor nonce nor claims: together they are most of a proof.
        return f"<VerifiedProof {self.alg} key {self.jkt}, {self.htm} {self.htu}>"


class Mark(NamedTuple):
    """Something that may happen once: the last question, put to a cache that may have to be awaited."""

    cache: ReplayCache | AsyncReplayCache
    key: str
    expires_at: float
    refusal: Callable[[], InvalidProof]


class CheckedProof:
    """A proof that passed every check but its binding, and is not recorded as used yet.

    From ``check_resource`` or ``check_token_request`` of a verifier. Find out what its key must be bound to,
    then accept the proof.
    """

    __slots__ = ("_check_binding", "_is_async", "_marks", "_seen")

    def __init__(
        self,
        seen: VerifiedProof,
        marks: Sequence[Mark],
        check_binding: Callable[[str | None, str], None],
        *,
        is_async: bool,
    ) -> None:
        """Not to be called: a verifier does."""
        self._seen = seen
        self._marks = marks
        self._check_binding = check_binding
        self._is_async = is_async

    @property
    def jkt(self) -> str:
        """Thumbprint of the proof's key, as in :class:`VerifiedProof`."""
        return self._seen.jkt

    def __repr__(self) -> str:
        return f"<CheckedProof {self._seen.alg} key {self.jkt}, not accepted yet>"

    def accept(self, *, bound_jkt: str | None) -> VerifiedProof:
        """Check the binding, and record the proof as used, from now on.

        :param bound_jkt: of ``check_resource``, ``cnf.jkt`` of the access token, where None is refused. Of
            ``check_token_request``, the thumbprint that the refresh token or the authorization code
            (``dpop_jkt``) is bound to; None if it is not bound.
        :raises InvalidProof: ``invalid_token`` or ``invalid_grant`` for another key than ``bound_jkt``;
            ``invalid_dpop_proof`` or ``use_dpop_nonce`` for a proof or nonce that was used before.
        :raises ReplayCacheError: whether it is a replay cannot be told; answer 503.
        """
        if self._is_async:
            raise UsageError(
                "the replay cache or nonce store is async: use averify_resource, averify_token_request or aaccept"
            )
        self._check_binding(bound_jkt, self._seen.jkt)
        for mark in self._marks:
            if not _response(mark.cache.add(mark.key, mark.expires_at)):
                raise mark.refusal()
        return self._seen

    async def aaccept(self, *, bound_jkt: str | None) -> VerifiedProof:
        """As :meth:`accept`, with caches that are awaited."""
        self._check_binding(bound_jkt, self._seen.jkt)
        for mark in self._marks:
            added = mark.cache.add(mark.key, mark.expires_at)
            if not _response(await added if inspect.isawaitable(added) else added):
                raise mark.refusal()
        return self._seen


def _response(added: object) -> bool:
    """A cache's answer, which must be a bool: a forgotten await or a count would read as "new"."""
    if not isinstance(added, bool):
        raise UsageError(f"the replay cache's add() must answer True or False, not {type(added).__name__}")
    return added


DEFAULT_ALGS = ("ES256", "Ed25519", "EdDSA", "PS256", "RS256")

_MAX_LIFE = 300


class ProofVerifier:
    """Judges the DPoP proof of each request. Thread-safe if its caches are.

    :param replay: where proofs are remembered. May be None only if every nonce is good for one use, for
        then so is every proof.
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
    :raises UsageError: a time or limit that makes no sense; neither a replay cache nor single-use nonces.
    """

    def __init__(
        self,
        *,
        replay: ReplayCache | AsyncReplayCache | None,
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
        used = nonces.used if nonces is not None else None
        if replay is None and used is None:
            raise UsageError(
                "without a replay cache a proof could be used again for as long as it is valid; "
                "give replay=MemoryReplayCache(), or nonces that are good for one use"
            )
        self._replay = replay
        self._nonces = nonces
        self._max_age = max_age
        self._skew = skew
        self._clock = clock
        self._max_length = max_length
        self._max_jti = max_jti
        self._max_htu = max_htu
        self._max_depth = max_depth
        self._is_async = any(inspect.iscoroutinefunction(cache.add) for cache in (replay, used) if cache is not None)

    @property
    def algs(self) -> tuple[str, ...]:
        """The algorithms accepted, in the order given."""
        return self._algs

    @property
    def is_async(self) -> bool:
        """Whether a cache is async, so that only the async methods can be used."""
        return self._is_async

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
        return self.check_resource(headers, method, url, access_token=access_token).accept(bound_jkt=bound_jkt)

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
        return self._check_grant(headers, method, url, bound_jkt).accept(bound_jkt=bound_jkt)

    async def averify_resource(
        self, headers: Headers, method: str, url: str, *, access_token: str, bound_jkt: str | None
    ) -> VerifiedProof:
        """As :meth:`verify_resource`, with caches that are awaited.

        The signature is checked in the event loop: handing it to a thread would take longer.
        """
        checked = self.check_resource(headers, method, url, access_token=access_token)
        return await checked.aaccept(bound_jkt=bound_jkt)

    async def averify_token_request(
        self, headers: Headers, method: str, url: str, *, bound_jkt: str | None = None
    ) -> VerifiedProof:
        """As :meth:`verify_token_request`, with caches that are awaited."""
        return await self._check_grant(headers, method, url, bound_jkt).aaccept(bound_jkt=bound_jkt)

    def check_resource(self, headers: Headers, method: str, url: str, *, access_token: str) -> CheckedProof:
        """As :meth:`verify_resource`, but for the binding, and nothing is recorded yet.

        For an API that asks somebody else about each token: who has no good proof then costs no question.

        :raises InvalidProof: ``invalid_dpop_proof``, ``use_dpop_nonce`` or ``invalid_token``.
        """
        seen, claims, marks = self._judge(headers, method, url)
        check_access_token(access_token, claims)
        return CheckedProof(seen, marks, check_token_binding, is_async=self._is_async)

    def check_token_request(self, headers: Headers, method: str, url: str) -> CheckedProof:
        """As :meth:`verify_token_request`, but for the binding, and nothing is recorded yet.

        For an authorization server whose clients authenticate: check the proof first, so that a client that
        has to come again with a nonce has used up no assertion and no code; then authenticate the client
        and look up its grant; then accept the proof. Who is no client cannot fill the replay cache.

        :raises InvalidProof: ``invalid_dpop_proof`` or ``use_dpop_nonce``.
        """
        return self._check_grant(headers, method, url, None)

    def next_nonce(self, seen: VerifiedProof | None) -> str | None:
        """What to send as ``DPoP-Nonce`` with any answer that is no challenge for one (RFC 9449 §8.2, §9).

        :param seen: the proof of the request; None if it came without or with a bad one.
        :returns: None if the client needs no new one, or this server has none.
        """
        if seen is not None:
            return seen.next_nonce
        return None if self._nonces is None else self._nonces.next_for(None, None)

    def report(
        self,
        headers: Headers,
        method: str | None,
        url: str | None,
        *,
        access_token: str | None = None,
        bound_jkt: str | None = None,
        unbound: bool = False,
    ) -> ProofReport:
        """Every check's verdict on a proof, to show what is wrong with it; nothing is accepted or recorded.

        It cannot disagree with the verifier, whose checks it calls. Only whether the proof or its nonce was
        used before is not judged.

        :param headers: see :meth:`verify_resource`, as for ``method`` and ``url``; None for these two if
            they are not known, and then they are not judged.
        :param access_token: of a request for a protected resource; None for any other.
        :param bound_jkt: thumbprint that the token or grant is bound to, None if it is not known.
        :param unbound: the access token is known to be bound to no key.
        """
        check_binding: Callable[[str], None] | None = None
        if access_token is not None and (bound_jkt is not None or unbound):
            check_binding = partial(check_token_binding, bound_jkt)
        elif bound_jkt is not None:
            check_binding = partial(check_grant_binding, bound_jkt)
        return report_on(
            headers,
            Expectations(
                algs=self._algs,
                now=self._clock(),
                skew=self._skew,
                max_length=self._max_length,
                max_jti=self._max_jti,
                max_htu=self._max_htu,
                max_depth=self._max_depth,
                missing="invalid_dpop_proof" if bound_jkt is None or access_token is not None else "invalid_grant",
                check_age=self._check_age,
                check_nonce=None if self._nonces is None else self._nonce_spares_age,
                method=method,
                url=url,
                check_token=None if access_token is None else partial(check_access_token, access_token),
                check_binding=check_binding,
            ),
        )

    def _nonce_spares_age(self, claims: ProofClaims, jkt: str) -> bool:
        return self._check_nonce(claims, jkt)[0] is not None

    def _check_grant(self, headers: Headers, method: str, url: str, bound_jkt: str | None) -> CheckedProof:
        # ath is ignored here: RFC 9449 says nothing about it where no access token is.
        missing = "invalid_dpop_proof" if bound_jkt is None else "invalid_grant"
        seen, _, marks = self._judge(headers, method, url, missing=missing)
        return CheckedProof(seen, marks, check_grant_binding, is_async=self._is_async)

    def _judge(
        self, headers: Headers, method: str, url: str, *, missing: str = "invalid_dpop_proof"
    ) -> tuple[VerifiedProof, ProofClaims, list[Mark]]:
        """All checks but the binding and the last, which asks the caches."""
        now = self._clock()
        text = proof_field(headers)
        if text is None:
            raise refuse(Reason.PROOF_MISSING, error=missing)
        jws = parse_compact(text, max_length=self._max_length, max_depth=self._max_depth)
        alg = check_header(jws.header, self._algs)
        check_key_kind(jws.header, alg)
        if not jws.header.has_key:  # to load it would cost more
            check_signature_form(alg, jws)
        key = check_key(jws.header)
        check_signature(key, alg, jws)
        claims = read_claims(jws.payload, max_jti=self._max_jti, max_htu=self._max_htu)
        check_method(claims, method)
        htu = check_target(claims, url)
        check_validity(claims, now, self._skew)
        jkt = key.thumbprint
        good_until, marks = self._check_nonce(claims, jkt)
        if good_until is None:
            good_until = self._check_age(claims, now)
        if self._replay is not None:
            # Kept for the skew as well: processes that share the cache may differ by as much.
            memory = replay_key(jkt, htu, claims.jti)
            marks.append(Mark(self._replay, memory, good_until + self._skew, _replayed))
        next_nonce = None if self._nonces is None else self._nonces.next_for(claims.nonce, jkt)
        seen = VerifiedProof(key, alg, claims, jws.payload, htu, next_nonce=next_nonce)
        return seen, claims, marks

    def _check_nonce(self, claims: ProofClaims, jkt: str) -> tuple[float | None, list[Mark]]:
        """The nonce is one of ours and recent (RFC 9449 §4.3 (10), §8, §9).

        :returns: until when the nonce lets the proof pass, None if ``iat`` has to decide; and the
            nonce itself, if it may be used once only.
        """
        nonces = self._nonces
        if nonces is None:
            return None, []
        if claims.nonce is None:
            raise _challenge(nonces, jkt, Reason.NONCE_MISSING)
        verdict = nonces.check(claims.nonce, jkt)
        if verdict is None:
            raise _challenge(nonces, jkt, Reason.NONCE_UNKNOWN)
        marks = []
        if nonces.used is not None:
            # Burnt before the jti is, which a client may repeat with a new nonce.
            spent = partial(_challenge, nonces, jkt, Reason.NONCE_USED)
            marks.append(Mark(nonces.used, nonce_key(claims.nonce), verdict.expires_at + self._skew, spent))
        return (None if verdict.issued_at is None else verdict.expires_at), marks

    def _check_age(self, claims: ProofClaims, now: float) -> float:
        """The proof was made just now (RFC 9449 §4.3 (11), §11.1). Returns until when it would pass."""
        age = now - claims.iat
        if age > self._max_age:
            raise refuse(Reason.IAT_TOO_OLD, expected=f"at most {self._max_age:g} s", got=f"{age:.0f} s")
        if -age > self._skew:
            raise refuse(Reason.IAT_IN_FUTURE, expected=f"at most {self._skew:g} s ahead", got=f"{-age:.0f} s ahead")
        return claims.iat + self._max_age


def _known_algs(algs: Iterable[str] | str) -> tuple[str, ...]:
    if isinstance(algs, bytes) or not isinstance(algs, Iterable):
        raise ArgumentTypeError("algs", "names of algorithms", algs)
    chosen = tuple(algs.split() if isinstance(algs, str) else algs)
    unknown = [alg for alg in chosen if not isinstance(alg, str) or alg not in ALGORITHMS]
    if unknown or not chosen:
        what = f"got {unknown[0]!r:.40}" if unknown else "got none"
        raise AlgorithmError(f"algs must be some of {' '.join(ALGORITHMS)}; {what}")
    return chosen


def _challenge(nonces: NonceChecker, jkt: str, reason: Reason) -> InvalidProof:
    return refuse(reason, error="use_dpop_nonce", nonce=nonces.issue(jkt))


_replayed = partial(refuse, Reason.REPLAYED)
