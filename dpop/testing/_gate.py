# SPDX-License-Identifier: Apache-2.0
"""The gate: verifies the proofs for one role, with the nonce discipline of the levers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypedDict

from dpop.client import Role
from dpop.errors import InvalidProof
from dpop.profiles import Behaviour
from dpop.server import MemoryReplayCache, ProofVerifier, ReplayCache, VerifiedProof
from dpop.server._jws import parse_compact, proof_field
from dpop.testing._levers import NoncePolicy, ServerLevers
from dpop.testing._messages import Request
from dpop.testing._nonces import NonceBook

__all__ = ["Gate", "SteeredReplayCache"]

_MAX_PROOFS = 1_000_000
_MAX_LENGTH = 8192
_MAX_DEPTH = 8


class SteeredReplayCache:
    """The replay cache of a server whose clock may jump.

    Entries expire by the real time. With a clock that is set back and forth, proofs would be forgotten too early, or
    new ones would be refused because they could be forgotten ones.
    """

    def __init__(self, levers: ServerLevers, clock: Callable[[], float]) -> None:
        self._levers = levers
        self._inner = MemoryReplayCache(max_entries=_MAX_PROOFS, max_per_key=_MAX_PROOFS, clock=clock)

    def add(self, key: str, expires_at: float) -> bool:
        """Remember ``key``; return whether it is new."""
        return self._inner.add(key, expires_at - self._levers.clock_offset)


class _Limits(TypedDict):
    """The limits of a verifier that differ between servers."""

    max_age: float
    skew: float
    max_length: int


class _Guard(NamedTuple):
    """The verifier of one nonce policy; a new policy gets a new verifier."""

    policy: NoncePolicy
    book: NonceBook | None
    verifier: ProofVerifier


class Gate:
    """Verifies a request; raises :class:`InvalidProof` if it is refused.

    :param role: the role whose levers the gate follows.
    :param name: the name of its nonces; two gates of one role do not accept each other's nonces.
    :param clock: Unix seconds, the server's: with its offset.
    :param behaviour: the times that it accepts, and the length of proofs.
    """

    def __init__(
        self,
        role: Role,
        *,
        name: str | None = None,
        levers: ServerLevers,
        algs: Sequence[str],
        clock: Callable[[], float],
        replay: ReplayCache,
        behaviour: Behaviour | None = None,
    ) -> None:
        behaviour = behaviour or Behaviour()
        api = role is Role.RS
        self._limits: _Limits = {
            "max_age": behaviour.api_max_age if api and behaviour.api_max_age is not None else behaviour.max_age,
            "skew": behaviour.api_skew if api and behaviour.api_skew is not None else behaviour.skew,
            "max_length": behaviour.max_proof,
        }
        self._role: Role = role
        self._name = name or role
        self._levers = levers
        self._algs = tuple(algs)
        self._clock = clock
        self._replay = replay
        self._lock = threading.Lock()
        self._lapses = levers.lapses(role)
        self._without_nonces = ProofVerifier(replay=replay, algs=self._algs, clock=clock, **self._limits)
        self._guard = self._new_guard(levers.nonce_policy(role))

    @property
    def algs(self) -> tuple[str, ...]:
        """The accepted algorithms."""
        return self._algs

    def verify_resource(self, request: Request, url: str, *, access_token: str, bound_jkt: str | None) -> VerifiedProof:
        """Verify the proof next to an access token (RFC 9449 §7.1)."""
        verifier = self._current().verifier
        return verifier.verify_resource(
            request.headers, request.method, url, access_token=access_token, bound_jkt=bound_jkt
        )

    def verify_token_request(
        self, request: Request, url: str, *, bound_jkt: str | None = None, nonce_optional: bool = False
    ) -> VerifiedProof:
        """Verify the proof of a request to the authorization server (RFC 9449 §5).

        :param nonce_optional: accept a proof without a nonce, but not one with a bad nonce.
        """
        verifier = self._current().verifier
        if nonce_optional and not _has_nonce(request):
            verifier = self._without_nonces
        return verifier.verify_token_request(request.headers, request.method, url, bound_jkt=bound_jkt)

    def nonce_after(self, seen: VerifiedProof | None) -> list[tuple[str, str]]:
        """Return the ``DPoP-Nonce`` field for the response to an accepted proof (RFC 9449 §8.2), if there is one."""
        book = self._current().book
        if book is None or seen is None:
            return []
        book.accepted()
        when = self._levers.nonce_on_success
        nonce = book.issue() if when == "always" else book.next_for(seen.nonce, seen.jkt)
        return [] if nonce is None or when == "never" else [("DPoP-Nonce", nonce)]

    def fresh_nonce(self) -> str | None:
        """Return a nonce to send with any response; None if this server uses no nonces."""
        book = self._current().book
        return None if book is None else book.issue()

    def _current(self) -> _Guard:
        """Return the guard for the current policy of the levers."""
        policy = self._levers.nonce_policy(self._role)
        lapses = self._levers.lapses(self._role)
        guard = self._guard
        if policy == guard.policy and lapses == self._lapses:
            return guard
        with self._lock:
            policy = self._levers.nonce_policy(self._role)
            lapses = self._levers.lapses(self._role)
            if policy != self._guard.policy:
                self._guard = self._new_guard(policy)
            elif lapses != self._lapses and self._guard.book is not None:
                self._guard.book.lapse()
            self._lapses = lapses
            return self._guard

    def _new_guard(self, policy: NoncePolicy) -> _Guard:
        if policy.discipline == "none":
            return _Guard(policy, None, self._without_nonces)
        book = NonceBook(self._name, policy)
        verifier = ProofVerifier(replay=self._replay, nonces=book, algs=self._algs, clock=self._clock, **self._limits)
        return _Guard(policy, book, verifier)


def _has_nonce(request: Request) -> bool:
    """Whether the unverified proof has a nonce; False if it is unreadable, which the verifier reports."""
    try:
        proof = proof_field(request.headers)
        if proof is None:
            return False
        return bool(parse_compact(proof, max_length=_MAX_LENGTH, max_depth=_MAX_DEPTH).payload.get("nonce"))
    except InvalidProof:
        return False
