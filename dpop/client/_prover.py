# SPDX-License-Identifier: Apache-2.0
"""A prover: one key, with the nonces that servers gave for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from dpop._event_hooks import checked_hook
from dpop._tracebacks import hide_frames
from dpop.client._nonces import NonceCache, NonceKey, Role
from dpop.encoding import sendable_token_hash
from dpop.errors import AlgorithmError, ArgumentTypeError, UsageError
from dpop.keys._algorithms import choose_alg
from dpop.origin import Origin
from dpop.proof import random_jti

if TYPE_CHECKING:
    from dpop.client._events import ClientEvent
    from dpop.keys import Key

__all__ = ["Prover"]


class Prover:
    """A key, the nonces that servers gave for it, and the sources of time and identifiers for its proofs.

    Share one prover among all adapters and threads that use the key: all of them use a nonce that one learns. It is
    safe to use from threads, several event loops, signal handlers, and in a process forked after its first use.

    :param key: from :func:`dpop.generate_key` or :func:`dpop.load_key`, or any other :class:`~dpop.keys.Key`.
    :param algs: the algorithms the server lists (``dpop_signing_alg_values_supported``, or the
        ``algs`` of a challenge). A key that can sign by another name (``EdDSA`` for ``Ed25519``,
        ``RS256`` for ``PS256``) is switched to one that is listed.
    :param nonces: a nonce cache to share; a new one by default.
    :param clock: seconds since the epoch.
    :param jti: a function that returns a fresh identifier.
    :param events: a function that gets a :class:`dpop.client.ClientEvent` for each proof, retry, refused token and
        refresh, from every adapter and endpoint with this prover. It must be quick and is called in any thread; what it
        raises is logged.
    :raises AlgorithmError: the key cannot sign with any of ``algs``; raised before anything is sent.
    """

    __slots__ = ("__weakref__", "_hashed", "clock", "events", "jti", "key", "nonces", "thumbprint")

    def __init__(
        self,
        key: Key,
        *,
        algs: Iterable[str] | str | None = None,
        nonces: NonceCache | None = None,
        clock: Callable[[], float] = time.time,
        jti: Callable[[], str] = random_jti,
        events: Callable[[ClientEvent], object] | None = None,
    ) -> None:
        for name in ("alg", "public_jwk", "thumbprint", "sign"):
            if not hasattr(key, name):
                raise ArgumentTypeError(
                    "key", "a key from generate_key or load_key, or an object with its protocol", key
                )
        for name, function in (("clock", clock), ("jti", jti)):
            if not callable(function):
                raise ArgumentTypeError(name, "a function", function)
        if nonces is not None and not isinstance(nonces, NonceCache):
            raise ArgumentTypeError("nonces", "a NonceCache", nonces)
        self.key: Key = key if algs is None else _with_listed_alg(key, algs)
        self.thumbprint: str = key.thumbprint
        self.nonces: NonceCache = _cache_for(key) if nonces is None else nonces
        self.clock: Callable[[], float] = clock
        self.jti: Callable[[], str] = jti
        self.events: Callable[[ClientEvent], object] | None = checked_hook(events)
        self._hashed: tuple[str | None, str] = (None, "")

    @classmethod
    def of(cls, key_or_prover: Key | Prover) -> Prover:
        """Return a prover unchanged, or a new prover for a bare key."""
        return key_or_prover if isinstance(key_or_prover, Prover) else cls(key_or_prover)

    def for_algs(self, algs: Iterable[str] | str) -> Prover:
        """Return a prover whose key signs with an algorithm that the server lists; it shares the nonces of this one.

        :raises AlgorithmError: the key cannot sign with any of ``algs``.
        """
        key = _with_listed_alg(self.key, algs)
        if key is self.key:
            return self
        return Prover(key, nonces=self.nonces, clock=self.clock, jti=self.jti, events=self.events)

    @hide_frames
    def ath(self, access_token: str) -> str:
        """Return the ``ath`` of an access token (RFC 9449 §4.2); it is hashed once while the token stays the same.

        :raises CredentialError: the token cannot stand in a header.
        """
        token, ath = self._hashed
        if token != access_token:
            ath = sendable_token_hash(access_token)
            self._hashed = (access_token, ath)
        return ath

    def __repr__(self) -> str:
        return f"<Prover {self.key.alg} {self.thumbprint}>"

    def __reduce__(self) -> tuple[object, ...]:
        raise UsageError(
            "a Prover cannot be pickled: its key must not travel. Store the key's path or URI and make a Prover there"
        )


def _cache_for(key: Key) -> NonceCache:
    """A new cache; with a key of the agent it begins with the nonces that are shared there, and shares its own."""
    cache = NonceCache()
    shared = getattr(key, "_shared_nonces", None)
    if shared is not None:
        for origin, role, nonce in shared.known:
            cache.learn(NonceKey(key.thumbprint, Origin.parse(origin), Role(role)), nonce)
        cache.share_with(shared.report)
    return cache


def _with_listed_alg(key: Key, algs: Iterable[str] | str) -> Key:
    """The key, switched to an algorithm name that the server lists."""
    switch = getattr(key, "with_alg", None)
    own = (key.alg, *(a for a in getattr(key, "algs", ()) if a != key.alg)) if switch is not None else (key.alg,)
    try:
        alg = choose_alg(algs, own)
    except AlgorithmError as error:
        raise AlgorithmError(f"{error}; generate a key with generate_key(algs=...)") from None
    if alg == key.alg or switch is None:
        return key
    switched: Key = switch(alg)
    return switched
