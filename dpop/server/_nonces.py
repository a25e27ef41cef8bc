# SPDX-License-Identifier: Apache-2.0
"""Nonces that a server issues and recognises later, without storing them (RFC 9449 §8, §9).

Time is divided into slots, and a nonce is the MAC of its slot. Every process with the secret recognises it and
knows when it was issued, also after a restart. A single-use nonce has random bytes as well. The MAC of a nonce
that is bound to a key covers the thumbprint of the key too.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Never, Protocol

from dpop._arguments import refuse_class
from dpop._tracebacks import hide_frames
from dpop.encoding import b64url_decode, b64url_encode
from dpop.errors import ArgumentTypeError, EncodingError, UsageError
from dpop.server._replay import AsyncReplayCache, ReplayCache

__all__ = ["NonceChecker", "NonceIssuer", "NonceVerdict", "check_secret"]

_MAC_SIZE = 24
_SALT_SIZE = 12
_MIN_SECRET = 16
_MAX_LIFE = 300


@dataclass(frozen=True, slots=True)
class NonceVerdict:
    """A nonce that is valid now.

    :param issued_at: the earliest time at which it can have been issued, in Unix seconds. None if the nonce tells
        no time; the verifier then checks ``iat`` as well (RFC 9449 §4.3 (11)).
    :param expires_at: the time after which it is refused, in Unix seconds.
    """

    issued_at: float | None
    expires_at: float


class NonceChecker(Protocol):
    """Issues and checks the nonces of a verifier."""

    @property
    def used(self) -> ReplayCache | AsyncReplayCache | None:
        """The cache of used nonces if each nonce is for one request, otherwise None."""
        ...

    def issue(self, jkt: str | None = None) -> str:
        """The nonce to hand out now to the key with this thumbprint: 1*NQCHAR (RFC 9449 §8.1)."""
        ...

    def check(self, nonce: str, jkt: str) -> NonceVerdict | None:
        """The verdict on a nonce in a proof by this key; None if the nonce is unknown or too old."""
        ...

    def next_for(self, nonce: str | None, jkt: str | None) -> str | None:
        """The nonce to send with the response to a request by this key that used ``nonce``; None to send no nonce.

        :param jkt: None, like ``nonce``, for a request without a valid proof.
        """
        ...


class NonceIssuer:
    """Issues nonces and recognises them, without storing any. Thread-safe, because it keeps no state.

    :param secret: 16 bytes or more, the same in all processes of one server, which then accept each other's
        nonces. Default: random, so that only this process accepts them.
    :param other_secrets: secrets whose nonces are accepted too. To change the secret of many processes without a
        refusal: give each process the new secret here, then swap the two, then remove the old one.
    :param role: the kind of this server, ``"AS"`` or ``"RS"``, or any other label. A nonce of one role is unknown
        to another (RFC 9449 §9), so an authorization server and a resource server can share a secret.
    :param slot: seconds for which the same nonce is handed out.
    :param window: slots in which a nonce is accepted, including its own: with 3 slots of 60 s a nonce lives two
        to three minutes. A nonce of the next slot is accepted too, because clocks differ. A proof lives as long
        as its nonce; if that is more than five minutes, its ``iat`` is checked as well.
    :param grace: seconds for which a nonce is accepted beyond that.
    :param bind_key: bind each nonce to a proof key. A request without a proof then gets no nonce.
    :param single_use: a cache for used nonces. Each nonce is then different and valid for one request.
        RFC 9449 §11.1 does not require this if each ``jti`` is checked. For several processes, see
        :class:`dpop.redis.RedisReplayCache`.
    :param clock: returns Unix seconds.
    :param random: returns that many unpredictable bytes.
    :raises UsageError: a secret that is too short; a slot, window or grace out of range.
    """

    @hide_frames
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
        refuse_class("single_use", single_use)
        secrets_known = [random(32) if secret is None else secret, *other_secrets]
        for known in secrets_known:
            check_secret(known)
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
        # A request is compared with the nonces of all slots, which are the same for everybody.
        self._slot_mac = lru_cache(maxsize=64)(_mac)

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
        """The cache that was given as ``single_use``."""
        return self._used

    def issue(self, jkt: str | None = None) -> str:
        """The nonce to hand out now: 32 base64url characters, or 48 for a single-use nonce."""
        salt = b"" if self._used is None else self._random(_SALT_SIZE)
        return b64url_encode(salt + self._mac(self._keys[0], math.floor(self._clock() / self._slot), salt, jkt))

    def check(self, nonce: str, jkt: str) -> NonceVerdict | None:
        """The verdict on a nonce from a proof; None if it is unknown, too old, or of another server or key.

        It does not tell whether a single-use nonce was used before: the verifier records it in the cache
        :attr:`used` after all other checks.
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
        # The next slot is accepted too: the clock of the process that issued the nonce may be ahead.
        newest = math.floor(now / self._slot) + 1
        found = None
        for key in self._keys:
            for slot in range(oldest, newest + 1):
                # No early exit, so that the duration does not reveal the age.
                if hmac.compare_digest(mac, self._mac(key, slot, salt, jkt)):
                    found = slot
        if found is None:
            return None
        begun, expires_at = found * self._slot, (found + self._window) * self._slot + self._grace
        # A proof lives seconds to minutes (RFC 9449 §11.1), however long its nonce does.
        return NonceVerdict(begun if expires_at - begun <= _MAX_LIFE else None, expires_at)

    def next_for(self, nonce: str | None, jkt: str | None) -> str | None:
        """The nonce to send with the response to a request that used ``nonce`` (RFC 9449 §8.2).

        None while that nonce is still the newest: the client can go on with it. None also if nonces are bound to
        keys and the key is not known.
        """
        if jkt is None and self._bind_key:
            return None
        fresh = self.issue(jkt)
        if nonce is not None and hmac.compare_digest(nonce.encode("utf-8", "surrogatepass"), fresh.encode()):
            return None
        return fresh

    def _mac(self, key: bytes, slot: int, salt: bytes, jkt: str | None) -> bytes:
        """The MAC over slot, salt and key; slot and salt have fixed lengths, so the input is unambiguous."""
        owner = (jkt or "").encode() if self._bind_key else b""
        return _mac(key, slot, salt + owner) if salt or owner else self._slot_mac(key, slot, b"")


def _mac(key: bytes, slot: int, more: bytes) -> bytes:
    return hmac.digest(key, slot.to_bytes(8, "big", signed=True) + more, hashlib.sha256)[:_MAC_SIZE]


def check_secret(secret: object) -> None:
    """Check a secret that several processes share.

    :raises UsageError: fewer than 16 bytes, or not bytes.
    """
    if not isinstance(secret, bytes):
        raise ArgumentTypeError("secret", "bytes", secret)
    if len(secret) < _MIN_SECRET:
        raise UsageError(
            f"the secret has {len(secret)} bytes; {_MIN_SECRET} or more are needed, "
            "such as secrets.token_bytes(32) kept in the server's configuration"
        )
