# SPDX-License-Identifier: Apache-2.0
"""Verify DPoP proofs at a resource or authorization server (RFC 9449 §4.3).

The order of the checks: header field, structure, JOSE header, key, signature, claims, nonce, time, binding,
and last the replay cache, so that a client that was refused for another reason may use its ``jti`` again.
Cheap checks come before expensive ones: a refusal must cost less than an acceptance. The verifier reads claims
and asks for a nonce only after it has verified the signature.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from dpop._arguments import refuse_class
from dpop._tracebacks import hide_frames
from dpop.errors import AlgorithmError, ArgumentTypeError, InvalidProof, UsageError
from dpop.htu import canonical_request
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
    check_target,
    check_token_binding,
    check_validity,
    read_claims,
)
from dpop.server._jws import CompactJWS, Headers, PassedHeader, parse_compact, proof_field
from dpop.server._nonces import NonceChecker
from dpop.server._reasons import Reason, refuse
from dpop.server._replay import AsyncReplayCache, ReplayCache, nonce_key, replay_key
from dpop.server._report import Expectations, ProofReport, report_on

__all__ = ["DEFAULT_ALGS", "CheckedProof", "Mark", "ProofVerifier", "VerifiedProof", "known_algs"]


class VerifiedProof:
    """A proof that passed every check. Immutable."""

    __slots__ = ("_alg", "_claims", "_key", "_next_nonce", "_payload", "_url")

    def __init__(
        self,
        key: PublicKey,
        alg: str,
        claims: ProofClaims,
        payload: Mapping[str, Any],
        url: str,
        *,
        next_nonce: str | None,
    ) -> None:
        """Do not call: only the verifier makes these objects."""
        self._key = key
        self._alg = alg
        self._claims = claims
        self._payload = payload
        self._url = url
        self._next_nonce = next_nonce

    @property
    def jkt(self) -> str:
        """RFC 7638 SHA-256 thumbprint of the proof's key, 43 characters."""
        return self._key.thumbprint

    @property
    def public_jwk(self) -> Mapping[str, str]:
        """The required members of the public key, and no others."""
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
        """The time at which the client says it made the proof, in Unix seconds."""
        return self._claims.iat

    @property
    def nonce(self) -> str | None:
        """The nonce in the proof; None if it has none."""
        return self._claims.nonce

    @property
    def htm(self) -> str:
        """The HTTP method of the request."""
        return self._claims.htm

    @property
    def htu(self) -> str:
        """The canonical form of the request's URL, without query and fragment."""
        return canonical_request(self._url)

    @property
    def claims(self) -> Mapping[str, Any]:
        """All claims of the proof, including the standard ones."""
        return self._payload

    @property
    def next_nonce(self) -> str | None:
        """The value to send as ``DPoP-Nonce`` with the response; None if the client needs no new nonce."""
        return self._next_nonce

    def __repr__(self) -> str:
        # Neither jti nor nonce nor claims: together they are most of a proof.
        return f"<VerifiedProof {self.alg} key {self.jkt}, {self.htm} {self.htu}>"


class Mark(NamedTuple):
    """A proof or a nonce that may be used once: an entry that the cache must not have yet."""

    cache: ReplayCache | AsyncReplayCache
    key: str
    expires_at: float
    refusal: Callable[[], InvalidProof]


class Life(NamedTuple):
    """The time until which a proof may be recorded, and the refusal to raise after it."""

    clock: Callable[[], float]
    ends_at: float
    refusal: Callable[[], InvalidProof]


class CheckedProof:
    """A proof that passed every check except the binding, and that is not recorded as used yet.

    ``check_resource`` and ``check_token_request`` of a verifier return it. Find out which key the token or grant
    is bound to, then accept the proof.
    """

    __slots__ = ("_check_binding", "_is_async", "_life", "_marks", "_seen", "_unbound")

    def __init__(
        self,
        seen: VerifiedProof,
        marks: Sequence[Mark],
        check_binding: Callable[[str | None, str], None],
        life: Life,
        *,
        is_async: bool,
        unbound: bool,
    ) -> None:
        """Do not call: only the verifier makes these objects."""
        self._seen = seen
        self._marks = marks
        self._check_binding = check_binding
        self._life = life
        self._is_async = is_async
        self._unbound = unbound

    @property
    def jkt(self) -> str:
        """RFC 7638 SHA-256 thumbprint of the proof's key, as in :class:`VerifiedProof`."""
        return self._seen.jkt

    def __repr__(self) -> str:
        return f"<CheckedProof {self._seen.alg} key {self.jkt}, not accepted yet>"

    @hide_frames
    def accept(self, *, bound_jkt: str | None) -> VerifiedProof:
        """Check the binding, and record the proof as used.

        :param bound_jkt: after ``check_resource``, the ``cnf.jkt`` of the access token; None is refused. After
            ``check_token_request``, the thumbprint that the refresh token or the authorization code
            (``dpop_jkt``) is bound to; None if it is bound to no key.
        :raises InvalidProof: ``invalid_token`` or ``invalid_grant`` for another key than ``bound_jkt``;
            ``invalid_dpop_proof`` or ``use_dpop_nonce`` for a proof or nonce that was used before.
        :raises ReplayCacheError: the cache cannot tell whether the proof is a replay; respond with 503.
        """
        return self._accept(bound_jkt)

    def _accept(self, bound_jkt: str | None) -> VerifiedProof:
        # Without hide_frames, which each public method has once.
        if self._is_async:
            raise UsageError(
                "the replay cache or nonce store is async: use averify_resource, averify_token_request or aaccept"
            )
        self._check_binding(bound_jkt, self._seen.jkt)
        for mark in self._marks:
            # Time has passed since the proof was checked, perhaps in a slow look-up. A proof that has expired would be
            # forgotten at once, and could be used again.
            if self._life.clock() > self._life.ends_at:
                raise self._life.refusal()
            if not _is_new(self._add(mark)):
                raise mark.refusal()
        return self._seen

    @hide_frames
    async def aaccept(self, *, bound_jkt: str | None) -> VerifiedProof:
        """Async form of :meth:`accept`; a cache may be sync or async."""
        return await self._aaccept(bound_jkt)

    async def _aaccept(self, bound_jkt: str | None) -> VerifiedProof:
        self._check_binding(bound_jkt, self._seen.jkt)
        for mark in self._marks:
            if self._life.clock() > self._life.ends_at:  # see accept
                raise self._life.refusal()
            added = self._add(mark)
            if not isinstance(added, bool) and inspect.isawaitable(added):
                added = await added
            if not _is_new(added):
                raise mark.refusal()
        return self._seen

    def _add(self, mark: Mark) -> bool | Awaitable[bool]:
        """Record the proof, under the limit for unbound requests if the cache has one."""
        if not self._unbound:
            return mark.cache.add(mark.key, mark.expires_at)
        add: Callable[[str, float], bool | Awaitable[bool]] = getattr(mark.cache, "add_unbound", mark.cache.add)
        return add(mark.key, mark.expires_at)


def _is_new(added: object) -> bool:
    """Check that a cache returned a bool: a coroutine or a number would count as true, and so as "new"."""
    if not isinstance(added, bool):
        raise UsageError(f"the replay cache's add() must return True or False, not {type(added).__name__}")
    return added


DEFAULT_ALGS = ("ES256", "Ed25519", "EdDSA", "PS256", "RS256")

_MAX_LIFE = 300


class ProofVerifier:
    """Verifies the DPoP proof of each request. Thread-safe if its caches are.

    :param replay: the cache that remembers proofs. It may be None only with single-use nonces, which make every
        proof single-use too.
    :param nonces: issues nonces and recognises them. With it, every proof must have a nonce: if a proof without
        one were accepted, an attacker could just leave the nonce out (RFC 9449 §11.3).
    :param algs: algorithms accepted in proofs. The challenges must list the same ones.
    :param max_age: seconds between ``iat`` and now, at most 300 (RFC 9449 §11.1).
    :param skew: seconds by which a client's clock may be ahead, at most 300.
    :param clock: returns Unix seconds; give the replay cache and the nonce issuer the same one.
    :param max_length: characters in the whole proof, at most.
    :param max_jti: characters in ``jti``, at most.
    :param max_htu: characters in ``htu``, at most.
    :param max_depth: levels of JSON nesting, at most.
    :raises AlgorithmError: an algorithm that this package does not know, such as ``none`` or ``HS256``.
    :raises UsageError: a time or limit out of range; neither a replay cache nor single-use nonces.
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
        self._algs = known_algs(algs)
        if not 0 < max_age <= _MAX_LIFE or not 0 <= skew <= _MAX_LIFE:
            raise UsageError(
                f"max_age must be more than 0 and at most {_MAX_LIFE} seconds, skew 0 to {_MAX_LIFE}: "
                f"a proof lives seconds to minutes (RFC 9449 §11.1); got max_age={max_age}, skew={skew}"
            )
        if min(max_length, max_jti, max_htu, max_depth) < 1:
            raise UsageError("max_length, max_jti, max_htu and max_depth must be 1 or more")
        refuse_class("replay", replay)
        refuse_class("nonces", nonces)
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
        """Whether a cache is async; only the async methods work then."""
        return self._is_async

    @hide_frames
    def verify_resource(
        self, headers: Headers, method: str, url: str, *, access_token: str, bound_jkt: str | None
    ) -> VerifiedProof:
        """Verify the proof of a request for a protected resource (RFC 9449 §4.3, §7.1).

        :param headers: all header fields of the request, as pairs or a mapping, str or bytes.
        :param method: the method of the request, as received.
        :param url: the URL of the request as the client knows it: the public origin from your configuration, and
            the raw path. Never build it from headers, which anybody can send.
        :param access_token: the token after ``Authorization: DPoP``. Check yourself that it is active and what
            it allows.
        :param bound_jkt: ``cnf.jkt`` of that token, from its claims or its introspection response. None means an
            unbound token and is always refused.
        :raises InvalidProof: ``invalid_dpop_proof``, ``use_dpop_nonce`` or ``invalid_token``.
        :raises ReplayCacheError: the cache cannot tell whether the proof is a replay; respond with 503.
        """
        return self._check_resource(headers, method, url, access_token)._accept(bound_jkt)  # noqa: SLF001

    @hide_frames
    def verify_token_request(
        self, headers: Headers, method: str, url: str, *, bound_jkt: str | None = None
    ) -> VerifiedProof:
        """Verify the proof of a request to the token, PAR, device or another endpoint of an AS (RFC 9449 §5).

        Without a ``bound_jkt``, anybody passes this check with a newly made key. Such proofs are remembered in a
        share of the replay cache of their own, if the cache has one: a full share refuses such requests only.

        :param headers: see :meth:`verify_resource`; the same is true of ``method`` and ``url``.
        :param bound_jkt: thumbprint that the refresh token or the authorization code (``dpop_jkt``) is
            bound to; None if it is bound to no key. At the PAR endpoint, compare ``dpop_jkt`` with ``.jkt``
            yourself and respond with ``invalid_dpop_proof`` if they differ (RFC 9449 §10.1).
        :raises InvalidProof: ``invalid_dpop_proof``, ``use_dpop_nonce``, or ``invalid_grant``: for another key
            than ``bound_jkt``, and for a missing proof if there is a ``bound_jkt``. Do not consume a code or
            refresh token before this returns.
        :raises ReplayCacheError: the cache cannot tell whether the proof is a replay; respond with 503.
        """
        checked = self._check_grant(headers, method, url, bound_jkt, unbound=bound_jkt is None)
        return checked._accept(bound_jkt)  # noqa: SLF001

    @hide_frames
    async def averify_resource(
        self, headers: Headers, method: str, url: str, *, access_token: str, bound_jkt: str | None
    ) -> VerifiedProof:
        """Async form of :meth:`verify_resource`; a cache may be sync or async.

        The signature is checked in the event loop: a thread would take longer to start than to check it.
        """
        checked = self._check_resource(headers, method, url, access_token)
        return await checked._aaccept(bound_jkt)  # noqa: SLF001

    @hide_frames
    async def averify_token_request(
        self, headers: Headers, method: str, url: str, *, bound_jkt: str | None = None
    ) -> VerifiedProof:
        """Async form of :meth:`verify_token_request`; a cache may be sync or async."""
        checked = self._check_grant(headers, method, url, bound_jkt, unbound=bound_jkt is None)
        return await checked._aaccept(bound_jkt)  # noqa: SLF001

    @hide_frames
    def check_resource(self, headers: Headers, method: str, url: str, *, access_token: str) -> CheckedProof:
        """Make every check of :meth:`verify_resource` except the binding, and record nothing yet.

        For an API that asks another server about each token: a request without a valid proof then costs no
        such call.

        :raises InvalidProof: ``invalid_dpop_proof``, ``use_dpop_nonce`` or ``invalid_token``.
        """
        return self._check_resource(headers, method, url, access_token)

    def _check_resource(self, headers: Headers, method: str, url: str, access_token: str) -> CheckedProof:
        seen, claims, marks, life = self._judge(headers, method, url)
        check_access_token(access_token, claims)
        return CheckedProof(seen, marks, check_token_binding, life, is_async=self._is_async, unbound=False)

    @hide_frames
    def check_token_request(self, headers: Headers, method: str, url: str) -> CheckedProof:
        """Make every check of :meth:`verify_token_request` except the binding, and record nothing yet.

        For an authorization server that authenticates its clients. Check the proof first: a client that must
        send the request again with a nonce has then used up neither its assertion nor its code. Then
        authenticate the client and look up its grant. Then accept the proof. A sender that is not a client
        cannot fill the replay cache this way.

        :raises InvalidProof: ``invalid_dpop_proof`` or ``use_dpop_nonce``.
        """
        return self._check_grant(headers, method, url, None)

    def next_nonce(self, seen: VerifiedProof | None) -> str | None:
        """The value to send as ``DPoP-Nonce`` with a response other than a nonce challenge (RFC 9449 §8.2, §9).

        :param seen: the proof of the request; None if it had none or an invalid one.
        :returns: None if the client needs no new nonce, or if this server uses none.
        """
        if seen is not None:
            return seen.next_nonce
        return None if self._nonces is None else self._nonces.next_for(None, None)

    @hide_frames
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
        """The verdict of every check on a proof, to show people what is wrong; it accepts and records nothing.

        It calls the verifier's own checks, so the two cannot disagree. It does not judge whether the proof or
        its nonce was used before.

        :param headers: see :meth:`verify_resource`; the same is true of ``method`` and ``url``. A method or URL
            of None is not known, and not judged.
        :param access_token: the token of a request for a protected resource; None for any other request.
        :param bound_jkt: thumbprint that the token or grant is bound to; None if it is not known.
        :param unbound: True if the access token is known to be bound to no key.
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

    def _check_grant(
        self, headers: Headers, method: str, url: str, bound_jkt: str | None, *, unbound: bool = False
    ) -> CheckedProof:
        # ath is ignored here: RFC 9449 gives it no meaning in a request without an access token.
        missing = "invalid_dpop_proof" if bound_jkt is None else "invalid_grant"
        seen, _, marks, life = self._judge(headers, method, url, missing=missing)
        return CheckedProof(seen, marks, check_grant_binding, life, is_async=self._is_async, unbound=unbound)

    def _judge(
        self, headers: Headers, method: str, url: str, *, missing: str = "invalid_dpop_proof"
    ) -> tuple[VerifiedProof, ProofClaims, list[Mark], Life]:
        """Make all checks except the binding and the replay, for which the caches are asked."""
        now = self._clock()
        text = proof_field(headers)
        if text is None:
            raise refuse(Reason.PROOF_MISSING, error=missing)
        jws = parse_compact(text, max_length=self._max_length, max_depth=self._max_depth)
        alg, key = self._check_header(jws)
        check_signature(key, alg, jws)
        claims = read_claims(jws.payload, max_jti=self._max_jti, max_htu=self._max_htu)
        check_method(claims, method)
        compared = check_target(claims, url)
        check_validity(claims, now, self._skew)
        jkt = key.thumbprint
        good_until, marks = self._check_nonce(claims, jkt)
        by_nonce = good_until is not None
        if good_until is None:
            good_until = self._check_age(claims, now)
        if self._replay is not None:
            # Remembered for the skew as well: the clocks of processes that share the cache may differ by that much.
            memory = replay_key(jkt, compared, claims.jti)
            marks.append(Mark(self._replay, memory, good_until + self._skew, _replayed))
        next_nonce = None if self._nonces is None else self._nonces.next_for(claims.nonce, jkt)
        seen = VerifiedProof(key, alg, claims, jws.payload, url, next_nonce=next_nonce)
        refusal: Callable[[], InvalidProof] = _too_old
        if by_nonce and self._nonces is not None:
            refusal = partial(_challenge, self._nonces, jkt, Reason.NONCE_UNKNOWN)
        if claims.exp is not None and claims.exp + self._skew < good_until:
            good_until, refusal = claims.exp + self._skew, _expired
        return seen, claims, marks, Life(self._clock, good_until, refusal)

    def _check_header(self, jws: CompactJWS) -> tuple[str, PublicKey]:
        """Check the JOSE header and its key.

        A client sends the same bytes each time, so the verdict is kept with them.
        """
        header = jws.header
        passed = header.passed
        if passed is not None and passed.algs is self._algs:
            return passed.alg, passed.key
        alg = check_header(header, self._algs)
        check_key_kind(header, alg)
        key = check_key(header)
        header.passed = PassedHeader(self._algs, alg, key)
        return alg, key

    def _check_nonce(self, claims: ProofClaims, jkt: str) -> tuple[float | None, list[Mark]]:
        """Check that the nonce is a recent one of this server (RFC 9449 §4.3 (10), §8, §9).

        :returns: the time until which the nonce keeps the proof valid, None if ``iat`` has to decide; and an
            entry for the nonce, if it may be used only once.
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
            # Recorded before the jti, which a client may use again with a new nonce.
            spent = partial(_challenge, nonces, jkt, Reason.NONCE_USED)
            marks.append(Mark(nonces.used, nonce_key(claims.nonce), verdict.expires_at + self._skew, spent))
        return (None if verdict.issued_at is None else verdict.expires_at), marks

    def _check_age(self, claims: ProofClaims, now: float) -> float:
        """Check that the proof is recent (RFC 9449 §4.3 (11), §11.1), and return the time until which it stays so."""
        age = now - claims.iat
        if age > self._max_age:
            raise refuse(Reason.IAT_TOO_OLD, expected=f"at most {self._max_age:g} s", got=f"{age:.0f} s")
        if -age > self._skew:
            raise refuse(Reason.IAT_IN_FUTURE, expected=f"at most {self._skew:g} s ahead", got=f"{-age:.0f} s ahead")
        return claims.iat + self._max_age


def known_algs(algs: Iterable[str] | str) -> tuple[str, ...]:
    """Check a setting that lists algorithms.

    :raises AlgorithmError: none, or one that this package does not know.
    """
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
_too_old = partial(refuse, Reason.IAT_TOO_OLD)
_expired = partial(refuse, Reason.EXPIRED)
