# SPDX-License-Identifier: Apache-2.0
"""The nonce cache: its disciplines, its cold start, its bounds, and what a fork does to it."""

from __future__ import annotations

import os
import pickle
import random
import threading
from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpop.client._nonces import ColdStart, Lease, NonceCache, NonceKey, Role
from dpop.errors import ArgumentTypeError, UsageError
from dpop.htu import Origin

API = Origin.parse("https://api.example")
KEY = NonceKey("jkt", API, Role.RS)


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def lease(cache: NonceCache, key: NonceKey = KEY, *, required: bool = False) -> Lease:
    """A lease that must not be a cold start to wait for."""
    leased = cache.lease(key, required=required)
    assert isinstance(leased, Lease)
    return leased


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
    again = cache.challenged(leased, fresh)
    good, fresh = server.response(again.nonce)
    assert good
    cache.answered(again, learnt=fresh, accepted=True)


def test_nothing_is_known_of_a_new_server() -> None:
    """The first proof to a server carries no nonce."""
    assert lease(NonceCache()).nonce is None


def test_the_last_nonce_received_is_sent() -> None:
    """Of several nonces the last received is the newest (RFC 9449 §8.2)."""
    cache = NonceCache()
    first, second = lease(cache), lease(cache)
    cache.answered(second, learnt="b")
    cache.answered(first, learnt="a")
    assert cache.newest(KEY) == "a"


def test_servers_roles_and_keys_do_not_mix() -> None:
    """A nonce goes to the origin and role that gave it, with the key that got it (RFC 9449 §9)."""
    cache = NonceCache()
    cache.learn(KEY, "a")
    for other in (
        NonceKey("jkt", API, Role.AS),
        NonceKey("other", API, Role.RS),
        NonceKey("jkt", Origin.parse("https://api.example:8443"), Role.RS),
        NonceKey("jkt", Origin.parse("http://api.example"), Role.RS),
    ):
        assert lease(cache, other).nonce is None


def test_a_shared_nonce_is_sent_with_every_request() -> None:
    """On a server that takes a nonce many times, all requests carry the newest and none is lost."""
    cache = NonceCache()
    cache.learn(KEY, "a")
    for _ in range(3):
        leases = [lease(cache) for _ in range(5)]
        assert {one.nonce for one in leases} == {"a"}
        for one in leases:
            cache.answered(one, learnt="a", accepted=True)


def test_a_single_use_server_refuses_each_worker_once() -> None:
    """N workers come to hold N nonces: each is refused at most once, at the cold start."""
    cache, server, workers = NonceCache(), SingleUseServer(), 8
    for _ in range(50):
        for one in [lease(cache) for _ in range(workers)]:
            exchange(cache, server, one)
    assert server.refusals <= workers


def test_a_shared_server_that_turns_single_use_is_found_out() -> None:
    """Two nonces refused within seconds of their own acceptance end the shared discipline."""
    cache, workers = NonceCache(), 6
    cache.learn(KEY, "shared")
    for _ in range(3):
        cache.answered(lease(cache), learnt="shared", accepted=True)
    server = SingleUseServer()
    server.valid.add("shared")
    for _ in range(40):
        for one in [lease(cache) for _ in range(workers)]:
            exchange(cache, server, one)
    assert server.refusals <= 4 * workers


def test_a_lapse_is_not_taken_for_single_use() -> None:
    """A nonce that lapses right after it was accepted leaves a shared server shared."""
    cache = NonceCache()
    cache.learn(KEY, "a")
    for _ in range(2):
        cache.answered(lease(cache), learnt=None, accepted=True)
    cache.challenged(lease(cache), "b")
    cache.learn(KEY, "late")
    cache.learn(KEY, "b")
    assert [lease(cache).nonce for _ in range(3)] == ["b", "b", "b"]


def test_an_expired_nonce_is_not_taken_for_single_use() -> None:
    """Nonces that are refused some time after they were last accepted have expired, however many there are."""
    clock = Clock()
    cache = NonceCache(clock=clock)
    cache.learn(KEY, "n0")
    for _ in range(2):
        cache.answered(lease(cache), learnt=None, accepted=True)
    for number in range(1, 4):
        clock.now += 60
        retry = cache.challenged(lease(cache), f"n{number}")
        assert not retry.reserved
        cache.answered(retry, learnt=None, accepted=True)
    for nonce in ("x", "y"):
        cache.learn(KEY, nonce)
    assert [lease(cache).nonce for _ in range(2)] == ["y", "y"]


def test_a_late_answer_does_not_bring_an_old_nonce_back() -> None:
    """After a lapse, an answer to a request sent before it does not undo what was learnt since."""
    cache = NonceCache()
    cache.learn(KEY, "old")
    early = lease(cache)
    cache.answered(lease(cache), learnt="new", refused=True)
    cache.answered(early, learnt="old", accepted=True)
    assert cache.newest(KEY) == "new"


def test_a_server_may_return_to_an_earlier_nonce() -> None:
    """A known nonce in the answer to a later request is the newest again."""
    cache = NonceCache()
    cache.learn(KEY, "a")
    cache.learn(KEY, "b")
    cache.answered(lease(cache), learnt="a", accepted=True)
    assert cache.newest(KEY) == "a"


def test_stale_nonces_in_the_pool_are_dropped_together() -> None:
    """After an idle hour one refusal is enough: what is older than the refused nonce is not tried."""
    cache = NonceCache()
    for number in range(10):
        cache.learn(KEY, f"stale{number}")
    cache.answered(lease(cache), learnt="fresh", refused=True)
    assert lease(cache).nonce == "fresh"
    assert lease(cache).nonce == "fresh"


def test_the_nonce_of_a_retry_is_not_given_to_others() -> None:
    """There is one retry only: until it is answered, its nonce is nobody else's."""
    cache = NonceCache()
    again = cache.challenged(lease(cache), "mine")
    assert again.nonce == "mine"
    assert [lease(cache).nonce for _ in range(3)] == [None, None, None]
    cache.answered(again, learnt=None, accepted=True)
    assert lease(cache).nonce == "mine"


def test_a_retry_on_a_shared_server_serves_everybody_at_once() -> None:
    """Where a nonce is known to be good for many, the first challenge after a lapse is enough."""
    cache = NonceCache()
    cache.learn(KEY, "a")
    for _ in range(2):
        cache.answered(lease(cache), learnt=None, accepted=True)
    cache.challenged(lease(cache), "b")
    assert lease(cache).nonce == "b"


def test_no_retry_is_refused_by_a_single_use_server() -> None:
    """Whatever the order in which many requests are answered, each has its nonce to itself on the retry."""
    for seed in range(50):
        order = random.Random(seed)
        cache, server = NonceCache(), SingleUseServer()
        first_tries, retries = [], []
        for _ in range(300):
            step = order.random()
            if step < 0.5:
                first_tries.append(lease(cache))
            elif retries and step < 0.75:
                again = retries.pop(order.randrange(len(retries)))
                good, fresh = server.response(again.nonce)
                assert good
                cache.answered(again, learnt=fresh, accepted=True)
            elif first_tries:
                one = first_tries.pop(order.randrange(len(first_tries)))
                good, fresh = server.response(one.nonce)
                if good:
                    cache.answered(one, learnt=fresh, accepted=True)
                else:
                    retries.append(cache.challenged(one, fresh))


def test_servers_are_forgotten_beyond_the_limit() -> None:
    """The cache is bounded; the least recently used server goes first."""
    cache = NonceCache(max_entries=3)
    keys = [NonceKey("jkt", Origin.parse(f"https://api{number}.example"), Role.RS) for number in range(5)]
    for key in keys:
        cache.learn(key, "n")
        lease(cache, keys[0])
    assert len(cache) == 3
    assert lease(cache, keys[0]).nonce == "n"


@given(st.lists(st.tuples(st.integers(0, 400), st.booleans(), st.booleans()), max_size=600))
def test_memory_is_bounded_whatever_comes(responses: list[tuple[int, bool, bool]]) -> None:
    """No sequence of answers makes an entry grow without bound or the cache raise."""
    cache = NonceCache()
    waiting: deque[Lease] = deque()
    for number, accepted, again in responses:
        waiting.append(lease(cache))
        if len(waiting) > 3 and again:
            waiting.append(cache.challenged(waiting.popleft(), f"n{number}"))
        elif len(waiting) > 3:
            cache.answered(waiting.popleft(), learnt=f"n{number}", accepted=accepted, refused=not accepted)
    entry = cache._entries.get(KEY)
    assert entry is None or size(entry) <= 512


def size(entry: Any) -> int:
    """Nonces in the largest of an entry's memories."""
    return max(len(entry.pool), len(entry.known), len(entry.accepted))


def test_memory_is_bounded_after_many_nonces() -> None:
    """A new nonce with each of a thousand answers: the oldest are forgotten, and the newest is there."""
    cache = NonceCache()
    for number in range(1000):
        cache.answered(lease(cache), learnt=f"n{number}", accepted=True)
    cache.learn(KEY, "unused")
    for number in range(1000):
        cache.learn(KEY, f"m{number}")
    assert size(cache._entries[KEY]) == 512
    assert len(cache._entries[KEY].pool) == 256
    assert lease(cache).nonce == "m999"


def test_cold_start_lets_one_go_first() -> None:
    """Where a nonce is required, the first request goes alone and its nonce serves the others."""
    cache = NonceCache()
    pilot = lease(cache, required=True)
    waiting = cache.lease(KEY, required=True)
    assert isinstance(waiting, ColdStart)
    again = cache.challenged(pilot, "a")
    assert not waiting.over
    cache.answered(again, learnt=None, accepted=True)
    assert waiting.over
    assert lease(cache, required=True).nonce == "a"


@pytest.mark.parametrize(
    "end", ["failed", "failed on its retry", "refused on its retry", "answered without a nonce", "forgotten"]
)
def test_cold_start_ends_however_it_ends(end: str) -> None:
    """An error, an answer without a nonce, or a forgotten entry lets everyone go who waits."""
    cache = NonceCache(max_entries=1)
    pilot = lease(cache, required=True)
    waiting = cache.lease(KEY, required=True)
    assert isinstance(waiting, ColdStart)
    if end == "failed":
        cache.release(pilot)
    elif end == "failed on its retry":
        cache.release(cache.challenged(pilot, "a"))
    elif end == "refused on its retry":
        cache.answered(cache.challenged(pilot, "a"), learnt=None, refused=True)
    elif end == "forgotten":
        cache.learn(NonceKey("jkt", Origin.parse("https://other.example"), Role.RS), "x")
    else:
        cache.answered(pilot, learnt=None)
    assert waiting.over


def test_who_would_have_no_nonce_waits_for_the_first_retry() -> None:
    """Once a server has asked for a nonce, to go without one is to be refused: the retry's answer is worth the wait."""
    cache = NonceCache()
    first, early = lease(cache), lease(cache)
    assert (first.nonce, early.nonce) == (None, None)  # nobody has been asked yet
    again = cache.challenged(first, "a")
    waiting = cache.lease(KEY, wait=True)
    assert isinstance(waiting, ColdStart)
    assert lease(cache).nonce is None  # who cannot wait goes without
    cache.challenged(early, "b")  # its own retry, which starts no second wait
    assert cache.lease(KEY, wait=True) is waiting
    cache.answered(again, learnt="c", accepted=True)
    assert waiting.over
    assert lease(cache).nonce == "c"


def test_threads_wait_for_the_cold_start() -> None:
    """Threads that wait go on with the nonce as soon as it is there."""
    cache = NonceCache()
    pilot = lease(cache, required=True)
    seen: list[str | None] = []
    waiting = threading.Barrier(5)

    def worker() -> None:
        cold_start = cache.lease(KEY, required=True)
        assert isinstance(cold_start, ColdStart)
        waiting.wait()
        cold_start.wait(30)
        seen.append(lease(cache, required=True).nonce)

    threads = [threading.Thread(target=worker) for _ in range(4)]
    for thread in threads:
        thread.start()
    waiting.wait()
    cache.answered(cache.challenged(pilot, "a"), learnt=None, accepted=True)
    for thread in threads:
        thread.join()
    assert seen == ["a"] * 4


def in_child(check: object) -> int:
    """Run a check in a forked child; its exit status."""
    pid = os.fork()
    if pid == 0:
        status = 1
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
    pilot = lease(cache, pilot_key, required=True)
    leased = lease(cache)

    def check() -> None:
        assert lease(cache).nonce is None
        assert isinstance(cache.lease(pilot_key, required=True), Lease)
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


def test_nothing_shows_a_nonce() -> None:
    """Neither the cache nor a lease has a nonce in its repr, and pickling is refused."""
    cache = NonceCache()
    cache.learn(KEY, "very-secret")
    assert "very-secret" not in repr(cache) + repr(lease(cache)) + str(cache)
    with pytest.raises(UsageError, match="one process"):
        pickle.dumps(cache)


def test_a_cache_of_nothing_is_refused() -> None:
    """A cache must hold at least one server."""
    with pytest.raises(UsageError, match="at least 1"):
        NonceCache(max_entries=0)


@pytest.mark.parametrize("limit", [None, "100", 1.5])
def test_a_limit_is_a_number(limit: Any) -> None:
    """Anything else is refused by name."""
    with pytest.raises(ArgumentTypeError, match="max_entries"):
        NonceCache(max_entries=limit)
