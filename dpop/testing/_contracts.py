# SPDX-License-Identifier: Apache-2.0
"""Check that a replay cache follows the rules on which a verifier relies."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

from dpop.encoding import b64url_encode
from dpop.server import ReplayCache

__all__ = ["check_replay_cache"]


def check_replay_cache(make: Callable[[], ReplayCache], *, threads: int = 16, rounds: int = 20) -> None:
    """Check a replay cache: it accepts each new key once, from one caller, even if several call at the same moment.

    ::

        def test_our_cache():
            check_replay_cache(lambda: OurCache(connect()))

    It adds some hundred entries, which live for a minute. It cannot check that the cache raises
    :class:`dpop.errors.ReplayCacheError` when it is full or cannot be reached, instead of returning True.

    :param make: a function that makes a cache. All its caches must share their entries, like
        those of several processes.
    :param threads: the number of simultaneous callers.
    :param rounds: how often they all call at once.
    :raises AssertionError: the cache breaks a rule; the message says which.
    """
    first, second = make(), make()
    owner, later = _name(), time.time() + 60
    _expect(first.add(f"{owner}.{_name()}", later), True, "a new key was refused")
    key = f"{owner}.{_name()}"
    _expect(first.add(key, later), True, "a second key of one owner was refused")
    _expect(first.add(key, later), False, "the same key was taken a second time")
    _expect(second.add(key, later), False, "a key was taken again by another cache that shares the entries")
    _expect(first.add(key, later + 60), False, "the same key was taken again with a later expiry")
    _expect(
        first.add(f"{_name()}.{key.partition('.')[2]}", later), True, "the same end under another owner was refused"
    )
    nearly = key[:-1] + ("A" if key[-1] != "A" else "B")
    _expect(first.add(nearly, later), True, "keys that differ in the last character were taken for one")
    _expect(first.add(key.swapcase(), later), True, "keys that differ in case were taken for one")
    _expect(second.add(f"{_name()}.nonce", later), True, "a key for a nonce was refused")
    for _ in range(rounds):
        raced = f"{owner}.{_name()}"
        taken = _at_once(make, raced, later, threads)
        _expect(
            taken.count(True) == 1, True, f"of {threads} callers at once, this many got one key: {taken.count(True)}"
        )
    add_unbound = getattr(first, "add_unbound", None)
    if add_unbound is not None:
        _expect(add_unbound(key, later), False, "add_unbound does not know a key that add has taken")
        unbound = f"{owner}.{_name()}"
        _expect(add_unbound(unbound, later), True, "add_unbound refused a new key")
        _expect(second.add(unbound, later), False, "add does not know a key that add_unbound has taken")
    expiring = f"{owner}.{_name()}"
    _expect(first.add(expiring, time.time() + 5), True, "a key that expires soon was refused")
    _expect(second.add(expiring, time.time() + 5), False, "a key was forgotten before it expired")


def _at_once(make: Callable[[], ReplayCache], key: str, expires_at: float, threads: int) -> list[Any]:
    caches = [make() for _ in range(threads)]
    ready, taken = threading.Barrier(threads), list[Any]()

    def ask(cache: ReplayCache) -> None:
        ready.wait(30)
        try:
            taken.append(cache.add(key, expires_at))
        except Exception as error:  # noqa: BLE001 - reported below
            taken.append(error)

    asking = [threading.Thread(target=ask, args=(cache,)) for cache in caches]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    failed = [error for error in taken if isinstance(error, Exception)]
    if failed:
        raise AssertionError(f"of {threads} callers at once, one got {failed[0]!r}")
    return taken


def _name() -> str:
    return b64url_encode(secrets.token_bytes(32))


def _expect(found: object, wanted: object, problem: str) -> None:
    if found is not wanted:  # 1 and None are wrong, too: add must return a bool
        raise AssertionError(f"{problem} (expected {wanted!r}, got {found!r})")
