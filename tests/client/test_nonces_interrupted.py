# SPDX-License-Identifier: Apache-2.0
"""The nonce cache in a forked child and in a signal handler."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from support.nonce_cache import API, KEY, Clock, lease, retry, turn

from dpop.client._nonces import Lease, NonceCache, NonceKey, Role, Turn


class Interrupted(Clock):
    """A clock in whose reading a signal arrives."""

    handler: Any = None

    def __call__(self) -> float:
        handler, self.handler = self.handler, None
        if handler is not None:
            handler()
        return super().__call__()


def test_a_signal_handler_passes_the_cache_over() -> None:
    """A request made while the same thread is inside the cache goes without it, and hangs nowhere."""
    clock = Interrupted()
    cache = NonceCache(clock=clock)
    cache.learn(KEY, "a")
    answers: list[Any] = []

    def request() -> None:
        leased = cache.lease(KEY, wait=True)
        assert isinstance(leased, Lease)
        again = retry(cache, leased, "b")
        cache.answered(again, learnt="c", accepted=True)
        cache.release(cache.lease(KEY))  # type: ignore[arg-type]
        cache.leave(KEY, Turn(0))
        cache.learn(KEY, "d")
        answers.append((leased.nonce, again.nonce, cache.newest(KEY)))

    clock.handler = request
    assert lease(cache).nonce == "a"
    assert answers == [(None, "b", "a")]


@pytest.mark.parametrize("step", ["challenged", "answered", "release", "leave"])
def test_a_signal_handler_passes_it_over_in_each_step(step: str) -> None:
    """Also where the cache learns from a response, or takes a turn back."""
    clock = Interrupted()
    cache = NonceCache(clock=clock)
    cache.learn(KEY, "a")
    one, waiting = lease(cache, wait=True), turn(cache)
    nonces: list[str | None] = []
    clock.handler = lambda: nonces.append(lease(cache).nonce)
    match step:
        case "challenged":
            cache.challenged(one, "b")
        case "answered":
            cache.answered(one, learnt="b", accepted=True)
        case "release":
            cache.release(one)
        case "leave":
            cache.leave(KEY, waiting)
    assert nonces == [None]
    assert lease(cache).nonce is not None


def in_child(check: object) -> int:
    """Run a check in a forked child; its exit status."""
    pid = os.fork()
    if pid == 0:
        status = 1
        signal.alarm(60)
        try:
            assert callable(check)
            check()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_child_does_not_use_what_its_parent_leased() -> None:
    """After a fork the child starts without the parent's unshared nonces, locks and waits."""
    cache = NonceCache()
    cache.learn(KEY, "a")
    pilot_key = NonceKey("jkt", API, Role.AS)
    pilot = lease(cache, pilot_key, wait=True)
    turn(cache, pilot_key)
    leased = lease(cache)

    def check() -> None:
        assert lease(cache).nonce is None
        assert isinstance(cache.lease(pilot_key, wait=True), Lease)
        cache.answered(leased, learnt=None, accepted=True)

    with cache._lock:
        assert in_child(check) == 0
    cache.release(pilot)


def test_a_child_keeps_a_shared_nonce() -> None:
    """A nonce known to be good for many requests is good in the child too."""
    cache = NonceCache()
    cache.learn(KEY, "a")
    for _ in range(2):
        cache.answered(lease(cache), learnt=None, accepted=True)

    def check() -> None:
        assert lease(cache).nonce == "a"

    assert in_child(check) == 0


def test_a_child_learns_nothing_from_what_its_parent_leased() -> None:
    """Answers to proofs of before the fork say nothing of how the server will treat the child's."""
    cache = NonceCache()
    cache.learn(KEY, "a")
    before = [lease(cache), lease(cache)]

    def check() -> None:
        for one in before:
            cache.answered(one, learnt=None, accepted=True)
        for nonce in ("b", "c"):
            cache.learn(KEY, nonce)
        assert [lease(cache).nonce for _ in range(2)] == ["c", "b"]

    assert in_child(check) == 0
