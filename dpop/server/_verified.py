# SPDX-License-Identifier: Apache-2.0
"""What a verifier hands over: a proof that was checked, and one that was accepted, which happens once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from dpop.errors import InvalidProof, UsageError
from dpop.keys._public import PublicKey
from dpop.server._claims import ProofClaims
from dpop.server._replay import AsyncReplayCache, ReplayCache

__all__ = ["CheckedProof", "Mark", "VerifiedProof"]


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

    __slots__ = ("_check_binding", "_marks", "_must_await", "_seen")

    def __init__(
        self,
        seen: VerifiedProof,
        marks: Sequence[Mark],
        check_binding: Callable[[str | None, str], None],
        *,
        must_await: bool,
    ) -> None:
        """Not to be called: a verifier does."""
        self._seen = seen
        self._marks = marks
        self._check_binding = check_binding
        self._must_await = must_await

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
        if self._must_await:
            raise UsageError(
                "the replay cache or nonce store is async: use averify_resource, averify_token_request or aaccept"
            )
        self._check_binding(bound_jkt, self._seen.jkt)
        for mark in self._marks:
            if not _answer(mark.cache.add(mark.key, mark.expires_at)):
                raise mark.refusal()
        return self._seen

    async def aaccept(self, *, bound_jkt: str | None) -> VerifiedProof:
        """As :meth:`accept`, with caches that are awaited."""
        self._check_binding(bound_jkt, self._seen.jkt)
        for mark in self._marks:
            added = mark.cache.add(mark.key, mark.expires_at)
            if not _answer(await added if inspect.isawaitable(added) else added):
                raise mark.refusal()
        return self._seen


def _answer(added: object) -> bool:
    """A cache's answer, which must be a bool: a forgotten await or a count would read as "new"."""
    if not isinstance(added, bool):
        raise UsageError(f"the replay cache's add() must answer True or False, not {type(added).__name__}")
    return added
