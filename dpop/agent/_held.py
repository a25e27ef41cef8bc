# SPDX-License-Identifier: Apache-2.0
"""The keys that the agent holds: opened, forgotten and opened again, each with its rules."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from dpop.agent._assertions import AssertionToSign
from dpop.agent._peer import Peer
from dpop.agent._proofs import ProofToSign, check_time
from dpop.agent._protocol import Refusal, refused
from dpop.agent._rules import KeyRules
from dpop.errors import DPoPKeyError, KeyMismatchError, KeyPasswordError, UsageError
from dpop.keys._algorithms import Key
from dpop.keys._files import shown
from dpop.keys._sources import load_key
from dpop.origin import Origin

__all__ = ["Ask", "HeldKey"]

Ask = Callable[[KeyRules], str]
"""Asks for the password or PIN of a key."""

# How long a client waits for a signature: a software key takes none of it, a device may wait for a touch.
_SOFTWARE_SECONDS: Final = 10.0
_DEVICE_SECONDS: Final = 90.0
_CONFIRM_SECONDS: Final = 35.0


class HeldKey:
    """One key of the agent. Its public half stays known while the key itself is forgotten.

    :param rules: where it is, and what it may be used for.
    :param own: the agent's own user.
    :param ask: asks for its password, if it has one and no file holds it.
    :raises DPoPKeyError: it cannot be opened.
    """

    def __init__(self, rules: KeyRules, own: int, ask: Ask | None = None) -> None:
        self.rules = rules
        self._own = own
        self._lock = threading.Lock()
        self._spent = 0.0
        self._spent_at = time.monotonic()
        self._origins = {str(origin): origin for origin in rules.origins}
        self._key: Key | None = None
        key = self._opened(ask)
        self.alg: str = key.alg
        self.jwk: Mapping[str, str] = dict(key.public_jwk)
        self.jkt: str = key.thumbprint
        self._key = key
        self._blocking = key.blocking

    # --- opened and forgotten

    @property
    def is_open(self) -> bool:
        """Whether the key can sign."""
        return self._key is not None

    def forget(self) -> None:
        """Drop the key itself."""
        self._key = None

    def open(self, ask: Ask | None = None) -> None:
        """Open the key again, if it was forgotten.

        :raises DPoPKeyError: it cannot be opened.
        :raises KeyMismatchError: another key is in its place.
        """
        if self._key is not None:
            return
        key = self._opened(ask)
        if key.thumbprint != self.jkt:
            raise KeyMismatchError(
                f"another key is now where the key {self.rules.name} was; start the agent anew if that is meant",
                expected=self.jkt,
                got=key.thumbprint,
            )
        self._key = key

    def with_rules(self, rules: KeyRules) -> HeldKey | None:
        """This key under other rules, without opening it again; None if they name another place."""
        if rules.uri != self.rules.uri or rules.name != self.rules.name:
            return None
        made = HeldKey.__new__(HeldKey)
        made.__dict__.update(self.__dict__)
        made.rules = rules
        made._lock = threading.Lock()  # noqa: SLF001 - of this class
        made._origins = {str(origin): origin for origin in rules.origins}  # noqa: SLF001 - the same
        return made

    def _opened(self, ask: Ask | None) -> Key:
        rules = self.rules
        try:
            if rules.password_file is not None:
                return load_key(rules.uri, password=_password_in(rules))
            return load_key(rules.uri, password=(lambda: ask(rules)) if ask is not None else None)
        except UsageError as error:
            raise DPoPKeyError(f"the key {rules.name}: {error}") from None

    # --- what its rules say

    @property
    def wait(self) -> float:
        """Seconds that a client should wait for a signature."""
        seconds = _DEVICE_SECONDS if self._blocking else _SOFTWARE_SECONDS
        return seconds + _CONFIRM_SECONDS * self.rules.confirm

    def serves(self, peer: Peer) -> bool:
        """Whether the peer may use this key."""
        uids, gids = set(self.rules.uids), set(self.rules.gids)
        if not uids and not gids:
            return peer.uid == self._own
        return peer.uid in uids or not gids.isdisjoint(peer.gids)

    def check(self, proof: ProofToSign, now: float) -> None:
        """Check a proof against the rules, all but the rate.

        :raises Refusal: a rule does not allow it.
        """
        self._check_origin(proof.origin)
        if self.rules.methods and proof.method not in self.rules.methods:
            allowed = ", ".join(sorted(self.rules.methods))
            raise refused("method", f"the rules of the key {self.rules.name} allow {allowed} only")
        check_time(proof.iat, now, self._offset(proof.origin))

    def check_assertion(self, assertion: AssertionToSign, now: float) -> None:
        """Check a client assertion against all rules except the rate.

        :raises Refusal: a rule does not allow it.
        """
        for origin in assertion.origins:
            self._check_origin(origin)
        check_time(assertion.iat, now, self._offset(assertion.origins[0]))

    def spend(self, now: float) -> None:
        """Count one signature against the rate.

        :param now: seconds of a clock that never goes back.
        :raises Refusal: there were too many in the last minute.
        """
        rate = self.rules.rate
        if rate is None:
            return
        with self._lock:
            self._spent = max(0.0, self._spent - (now - self._spent_at) * rate / 60)
            self._spent_at = now
            if self._spent + 1 > rate:
                wait = (self._spent + 1 - rate) * 60 / rate
                raise Refusal(
                    "throttled",
                    f"the key {self.rules.name} may sign {rate} times a minute; try again in {wait:.1f} s",
                    retry_after=round(wait, 3),
                )
            self._spent += 1

    def sign(self, data: bytes) -> bytes:
        """Sign.

        :raises Refusal: the key is forgotten.
        :raises DPoPKeyError: it did not sign.
        """
        key = self._key
        if key is None:
            raise Refusal("locked", "its keys are forgotten; unlock it with: dpop agent unlock")
        return key.sign(data)

    def offset_of(self, url: str) -> float:
        """Seconds to add to this machine's clock for the server of a URL."""
        return self._offset(Origin.of_url(url))

    def _check_origin(self, origin: Origin) -> None:
        if origin not in self.rules.origins:
            raise refused(
                "origin",
                f"the rules of the key {self.rules.name} do not name {origin}; add it to its origins if the key is"
                " meant for it",
            )

    def _offset(self, origin: Origin) -> float:
        offsets: Mapping[Any, float] = self.rules.clock_offset
        return offsets.get(origin, 0.0)

    def facts(self) -> dict[str, Any]:
        """What a client may know of the key: no place, and no rule about others."""
        return {
            "key": self.rules.name,
            "alg": self.alg,
            "jkt": self.jkt,
            "jwk": dict(self.jwk),
            "wait": self.wait,
            "origins": sorted(self._origins),
            "methods": sorted(self.rules.methods),
            "confirm": self.rules.confirm,
            **({} if self.rules.client_id is None else {"client_id": self.rules.client_id}),
            "locked": not self.is_open,
        }

    def __repr__(self) -> str:
        return f"<HeldKey {self.rules.name} {self.jkt}>"


def _password_in(rules: KeyRules) -> str:
    path = rules.password_file
    assert path is not None  # noqa: S101 - its caller asked
    try:
        text = path.read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError):
        raise KeyPasswordError(f"the password file {shown(path)} of the key {rules.name} cannot be read") from None
    if not text:
        raise KeyPasswordError(f"the password file {shown(path)} of the key {rules.name} is empty")
    return text
