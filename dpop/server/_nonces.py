# SPDX-License-Identifier: Apache-2.0
"""Nonces a server hands out and recognises later, without storing them (RFC 9449 §8, §9).

Time is cut into slots. A nonce is the MAC of its slot, so any process with the secret recognises it,
knows when it was issued, and a restart forgets nothing. A single-use nonce has random octets as well; one
that is bound to a key has the key's thumbprint under the MAC.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Never, Protocol

from dpop.encoding import b64url_decode, b64url_encode
from dpop.errors import ArgumentTypeError, EncodingError, UsageError
from dpop.server._replay import AsyncReplayCache, ReplayCache

__all__ = ["NonceChecker", "NonceIssuer", "NonceVerdict"]

_MAC_SIZE = 24
_SALT_SIZE = 12
_MIN_SECRET = 16
_MAX_LIFE = 300


@dataclass(frozen=True, slots=True)
class NonceVerdict:
    """A nonce that is good now.

    :param issued_at: Unix seconds, the earliest time it can have been issued; None if the nonce
        carries no time, for then a verifier checks ``iat`` as well (RFC 9449 §4.3 (11)).
    :param expires_at: Unix seconds after which it will be refused.
    """

    issued_at: float | None
    expires_at: float


class NonceChecker(Protocol):
    """What a verifier needs of whoever issues its nonces."""

    @property
    def used(self) -> ReplayCache | AsyncReplayCache | None:
        """Where used nonces are remembered, if each is good for one request only."""
        ...

    def issue(self, jkt: str | None = None) -> str:
        """The nonce to hand out now, 1*NQCHAR (RFC 9449 §8.1), to the key with this thumbprint."""
        ...

    def check(self, nonce: str, jkt: str) -> NonceVerdict | None:
        """The verdict on a nonce that came in a proof by this key, or None if it is unknown or stale."""
        ...

    def next_for(self, nonce: str | None, jkt: str | None) -> str | None:
        """The nonce to send along with the answer to a request of this key that used ``nonce``, if any.

        :param jkt: None, as ``nonce`` is, for a request without a good proof.
        """
        ...


class NonceIssuer:
    """Issues nonces and recognises them, without storing any. Thread-safe, as it keeps no state.

    :param secret: 16 octets or more, the same in all processes of one server; they then accept each
        other's nonces. Default: random, good for one process.
    :param other_secrets: nonces made with these are accepted too. To change the secret of a fleet without
        refusing anybody: give every process the new one here, then exchange the two, then drop the old.
    :param role: which server this is, ``"AS"`` or ``"RS"``, or any other label. Nonces of one role are unknown
        to another (RFC 9449 §9), so an authorization and a resource server can share a secret.
    :param slot: seconds for which the same nonce is handed out.
    :param window: slots in which a nonce is accepted, its own included: with 3 slots of 60 s it
        lives two to three minutes. The slot to come is accepted as well, for clocks differ. A proof lives as
        long as its nonce; if that is more than five minutes, its ``iat`` is checked as well.
    :param grace: seconds for which a nonce is accepted beyond that.
    :param bind_key: make the nonces of each proof key its own. A request without a proof then gets none.
    :param single_use: a cache for used nonces. Each nonce is then different and good for one request.
        RFC 9449 §11.1 does not ask for this as long as each ``jti`` is checked. For several processes,
        see :class:`dpop.redis.RedisReplayCache`.
    :param clock: Unix seconds.
    :param random: a source of that many unpredictable octets.
    :raises UsageError: a secret that is too short, or slots that make no sense.
    """

    def __init__(
        self,
        secret: bytes | None = None,
        *,
        other_secrets: Iterable[bytes] = (),
        role: str = "RS",
        slot: float = 60,
        window: int = 3,
        grace: float = 0,
        bind_key: bool = False,
        single_use: ReplayCache | AsyncReplayCache | None = None,
        clock: Callable[[], float] = time.time,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        secrets_known = [random(32) if secret is None else secret, *other_secrets]
        for known in secrets_known:
            _check_secret(known)
        if not (math.isfinite(slot) and slot > 0 and window >= 1 and math.isfinite(grace) and grace >= 0):
            raise UsageError(
                f"slot must be more than 0 seconds, window 1 or more, grace 0 or more; "
                f"got slot={slot}, window={window}, grace={grace}"
            )
        label = b"dpop nonce\0" + role.encode()
        self._keys = tuple(hmac.digest(known, label, hashlib.sha256) for known in secrets_known)
        self._bind_key = bind_key
        self._role = role
        self._slot = slot
        self._window = window
        self._grace = grace
        self._used = single_use
        self._clock = clock
        self._random = random

    def __repr__(self) -> str:
        use = "" if self._used is None else ", single use"
        bound = ", bound to keys" if self._bind_key else ""
        return f"<NonceIssuer {self._role}, {self._window} slots of {self._slot} s{use}{bound}>"

    def __reduce__(self) -> Never:
        raise UsageError(
            "a NonceIssuer holds a secret and is not pickled or copied; make one in each process with the same secret="
        )

    @property
    def used(self) -> ReplayCache | AsyncReplayCache | None:
        """The cache given as ``single_use``."""
        return self._used

    def issue(self, jkt: str | None = None) -> str:
        """The nonce to hand out now: 32 base64url characters, or 48 if it is for a single use."""
        salt = b"" if self._used is None else self._random(_SALT_SIZE)
        return b64url_encode(salt + self._mac(self._keys[0], math.floor(self._clock() / self._slot), salt, jkt))

    def check(self, nonce: str, jkt: str) -> NonceVerdict | None:
        """The verdict on a nonce from a proof, or None if it is unknown, stale, another server's or key's.

        Whether a single-use nonce was used before is not asked here: the verifier burns it, after all
        other checks passed, in the cache :attr:`used`.
        """
        try:
            data = b64url_decode(nonce)
        except EncodingError:
            return None
        salt, mac = data[:-_MAC_SIZE], data[-_MAC_SIZE:]
        if len(salt) != (0 if self._used is None else _SALT_SIZE):
            return None
        now = self._clock()
        oldest = math.floor((now - self._grace) / self._slot) - self._window + 1
        # The slot to come is accepted too: the clock of the process that issued it may be ahead.
        newest = math.floor(now / self._slot) + 1
        found = None
        for key in self._keys:
            for slot in range(oldest, newest + 1):
                # No early exit, so that the time taken does not tell the age.
                if hmac.compare_digest(mac, self._mac(key, slot, salt, jkt)):
                    found = slot
        if found is None:
            return None
        begun, expires_at = found * self._slot, (found + self._window) * self._slot + self._grace
        # A proof lives seconds to minutes (RFC 9449 §11.1), however long its nonce does.
        return NonceVerdict(begun if expires_at - begun <= _MAX_LIFE else None, expires_at)

    def next_for(self, nonce: str | None, jkt: str | None) -> str | None:
        """The nonce to send on the answer to a request that used ``nonce`` (RFC 9449 §8.2).

        None while the one used is still the newest: the client can go on with it. None also where nonces
        are bound to keys and the key is not known.
        """
        if jkt is None and self._bind_key:
            return None
        fresh = self.issue(jkt)
        if nonce is not None and hmac.compare_digest(nonce.encode("utf-8", "surrogatepass"), fresh.encode()):
            return None
        return fresh

    def _mac(self, key: bytes, slot: int, salt: bytes, jkt: str | None) -> bytes:
        """Slot and salt have one length each, so no two readings of the octets are possible."""
        owner = (jkt or "").encode() if self._bind_key else b""
        return hmac.digest(key, slot.to_bytes(8, "big", signed=True) + salt + owner, hashlib.sha256)[:_MAC_SIZE]


def _check_secret(secret: object) -> None:
    if not isinstance(secret, bytes):
        raise ArgumentTypeError("secret", "bytes", secret)
    if len(secret) < _MIN_SECRET:
        raise UsageError(
            f"the secret has {len(secret)} octets; {_MIN_SECRET} or more are needed, "
            "such as secrets.token_bytes(32) kept in the server's configuration"
        )
