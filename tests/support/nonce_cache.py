# SPDX-License-Identifier: Apache-2.0
"""A nonce cache in tests: its clock, its leases, and a server that takes each nonce once."""

from __future__ import annotations

from dpop.client._nonces import Lease, NonceCache, NonceKey, Role, Turn
from dpop.htu import Origin

API = Origin.parse("https://api.example")
KEY = NonceKey("jkt", API, Role.RS)


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def lease(cache: NonceCache, key: NonceKey = KEY, *, wait: bool = False) -> Lease:
    """A lease that must not be a turn to wait for."""
    leased = cache.lease(key, wait=wait)
    assert isinstance(leased, Lease)
    return leased


def turn(cache: NonceCache, key: NonceKey = KEY) -> Turn:
    """A turn that has not come."""
    waiting = cache.lease(key, wait=True)
    assert isinstance(waiting, Turn)
    assert not waiting.granted
    return waiting


def after(cache: NonceCache, waiting: Turn, *, may_try: bool = True) -> Lease:
    """The lease of a turn that has come."""
    assert waiting.granted
    leased = cache.lease(KEY, wait=True, turn=waiting, may_try=may_try)
    assert isinstance(leased, Lease)
    return leased


def retry(cache: NonceCache, leased: Lease, nonce: str) -> Lease:
    """The lease of a retry, for a caller that cannot wait."""
    again = cache.challenged(leased, nonce)
    assert again is not None
    return again


class SingleUseServer:
    """Takes each nonce once, and gives one with every answer."""

    def __init__(self, name: str = "n") -> None:
        self.valid: set[str] = set()
        self.given = 0
        self.refusals = 0
        self.name = name

    def response(self, nonce: str | None) -> tuple[bool, str]:
        """Whether the nonce was good, and the next one."""
        good = nonce in self.valid
        if nonce is not None:
            self.valid.discard(nonce)
        self.refusals += not good
        self.given += 1
        fresh = f"{self.name}{self.given}"
        self.valid.add(fresh)
        return good, fresh


def exchange(cache: NonceCache, server: SingleUseServer, leased: Lease) -> None:
    """One request with its one retry, as the flow does them."""
    good, fresh = server.response(leased.nonce)
    if good:
        cache.answered(leased, learnt=fresh, accepted=True)
        return
    again = retry(cache, leased, fresh)
    good, fresh = server.response(again.nonce)
    assert good
    cache.answered(again, learnt=fresh, accepted=True)
