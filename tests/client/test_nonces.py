# SPDX-License-Identifier: Apache-2.0
"""The nonce cache: its disciplines, its cold start and its bounds."""

from __future__ import annotations

import pickle
import random
from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.nonce_cache import API, KEY, Clock, SingleUseServer, exchange, lease, retry

from dpop.client._nonces import Lease, NonceCache, NonceKey, Role
from dpop.errors import ArgumentTypeError, UsageError
from dpop.htu import Origin


def test_a_client_of_a_thousand_servers_keeps_the_nonce_of_each() -> None:
    """A key that is used at many servers in turn costs none of them a refusal once their nonces are known."""
    cache = NonceCache()
    keys = [NonceKey("jkt", Origin.parse(f"https://server-{number}.example"), Role.RS) for number in range(1000)]
    for key in keys:
        cache.answered(lease(cache, key), learnt=f"of {key.origin}", accepted=True)
    assert [lease(cache, key).nonce for key in keys] == [f"of {key.origin}" for key in keys]


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


def test_a_nonce_that_is_accepted_twice_ends_the_waiting() -> None:
    """The server takes a nonce more than once, so all requests go at the same time."""
    cache = NonceCache()
    cache.learn(KEY, "a")
    for _ in range(2):
        cache.answered(lease(cache, wait=True), learnt="a", accepted=True)
    assert [lease(cache, wait=True).nonce for _ in range(2)] == ["a", "a"]


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
        again = retry(cache, lease(cache), f"n{number}")
        assert not again.reserved
        cache.answered(again, learnt=None, accepted=True)
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
    """Until the retry has its response, no other request gets its nonce."""
    cache = NonceCache()
    again = retry(cache, lease(cache), "mine")
    assert again.nonce == "mine"
    assert [lease(cache).nonce for _ in range(3)] == [None, None, None]
    cache.answered(again, learnt=None, accepted=True)
    assert lease(cache).nonce == "mine"


def test_a_nonce_of_a_retry_without_a_response_is_not_fresh() -> None:
    """The server may have seen it, so it is not taken for one that no proof has carried."""
    cache = NonceCache()
    cache.release(retry(cache, lease(cache), "perhaps used"))
    cache.learn(KEY, "fresh")
    assert [lease(cache).nonce for _ in range(2)] == ["fresh", "fresh"]


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
                    retries.append(retry(cache, one, fresh))


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
            waiting.append(retry(cache, waiting.popleft(), f"n{number}"))
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
