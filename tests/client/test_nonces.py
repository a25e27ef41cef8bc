# SPDX-License-Identifier: Apache-2.0
"""The nonce cache: its disciplines, its cold start, its bounds, and what a fork does to it."""

from __future__ import annotations

import os
import pickle
import random
import signal
import threading
from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpop.client._nonces import Lease, NonceCache, NonceKey, Role, Turn
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


# -- one at a time -----------------------------------------------------------------------------


class NewestOnlyServer(SingleUseServer):
    """Takes only the newest nonce it gave, and gives one with every response."""

    def response(self, nonce: str | None) -> tuple[bool, str]:
        good, fresh = super().response(nonce)
        self.valid = {fresh}
        return good, fresh


class WindowServer(SingleUseServer):
    """Takes every nonce it ever gave, and gives a new one with every response."""

    def response(self, nonce: str | None) -> tuple[bool, str]:
        good, fresh = super().response(nonce)
        if nonce is not None:
            self.valid.add(nonce)
        return good, fresh


def test_the_first_request_to_a_server_goes_alone() -> None:
    """Its nonce serves the others, which come in the order in which they asked."""
    cache = NonceCache()
    pilot = lease(cache, wait=True)
    first, second = turn(cache), turn(cache)
    again = retry(cache, pilot, "a")
    assert not first.granted
    cache.answered(again, learnt=None, accepted=True)
    assert (first.granted, second.granted) == (True, False)
    one = after(cache, first)
    assert one.nonce == "a"
    cache.answered(one, learnt=None, accepted=True)
    assert second.granted


@pytest.mark.parametrize("end", ["failed", "failed on its retry", "without a nonce", "forgotten", "gone", "slow"])
def test_a_turn_ends_however_it_ends(end: str) -> None:
    """An error, a response without a nonce, a forgotten entry, a request that takes long: the next may go."""
    clock = Clock()
    cache = NonceCache(max_entries=1, clock=clock)
    pilot = lease(cache, wait=True)
    waiting = turn(cache)
    if end == "failed":
        cache.release(pilot)
    elif end == "failed on its retry":
        cache.release(retry(cache, pilot, "a"))
    elif end == "forgotten":
        cache.learn(NonceKey("jkt", Origin.parse("https://other.example"), Role.RS), "x")
    elif end == "gone":
        cache.leave(KEY, waiting)
        cache.release(pilot)
        lease(cache, wait=True)
        return
    elif end == "slow":
        for _ in range(4):
            assert not waiting.granted
            clock.now += 0.3
            cache.lease(KEY, wait=True, turn=waiting)
    else:
        cache.answered(pilot, learnt=None)
    assert waiting.granted


def test_a_server_without_nonces_is_open_after_one_response() -> None:
    """The first request goes alone; then nobody waits."""
    cache = NonceCache()
    pilot = lease(cache, wait=True)
    waiting = [turn(cache) for _ in range(3)]
    cache.answered(pilot, learnt=None, accepted=True)
    assert all(one.granted for one in waiting)
    assert [lease(cache, wait=True).nonce for _ in range(5)] == [None] * 5


def run(cache: NonceCache, server: SingleUseServer, workers: int, rounds: int, *, lost: int = 0) -> int:
    """So many requests at a time, each with its retries, as the flow does them; the most that were on their way.

    :param lost: how many may fail, refused three times.
    """
    queue: deque[tuple[Turn | None, str | None, int]] = deque([(None, None, 0)] * workers * rounds)
    waiting: deque[tuple[Turn, int]] = deque()
    flying: deque[tuple[Lease, int]] = deque()
    most = 0
    while queue or waiting or flying:
        while queue and len(waiting) + len(flying) < workers:
            queue.popleft()
            leased = cache.lease(KEY, wait=True, may_try=True)
            (waiting.append((leased, 0)) if isinstance(leased, Turn) else flying.append((leased, 0)))
        for one, retries in list(waiting):
            if one.granted:
                waiting.remove((one, retries))
                leased = cache.lease(KEY, wait=True, turn=one, may_try=not retries)
                assert isinstance(leased, Lease)
                flying.append((leased, retries))
        most = max(most, len(flying))
        leased, retries = flying.popleft()
        good, fresh = server.response(leased.nonce)
        if good:
            cache.answered(leased, learnt=fresh, accepted=True)
            continue
        if retries == 2:
            lost -= 1
            assert lost >= 0, "a request was refused three times"
            cache.answered(leased, learnt=fresh, refused=True)
            continue
        again = cache.challenged(leased, fresh, wait=True)
        if again is None:
            leased_again = cache.lease(KEY, wait=True)
            assert isinstance(leased_again, Turn)
            waiting.append((leased_again, retries + 1))
        else:
            flying.append((again, retries + 1))
    return most


def test_a_server_that_takes_only_its_newest_nonce_is_found_out() -> None:
    """Three refusals: without a nonce, with one that was accepted, with one that was not the newest. Then none."""
    cache, server = NonceCache(), NewestOnlyServer()
    assert run(cache, server, workers=16, rounds=40) == 1
    assert server.refusals == 3


def test_nonces_that_are_overtaken_make_a_server_be_tried_again() -> None:
    """Three on their way were refused because newer ones came: one such refusal may be chance, three are not."""
    cache = NonceCache()
    for nonce in ("old", "old"):
        cache.learn(KEY, nonce)
        cache.answered(lease(cache), learnt=nonce, accepted=True)
    cache.learn(KEY, "0")
    for number in range(1, 4):
        first, second = lease(cache, wait=True), lease(cache, wait=True)  # all at once
        cache.release(first)
        cache.learn(KEY, str(number))
        cache.answered(second, learnt=None, refused=True)
    lease(cache, wait=True)
    turn(cache)


class OneAtATimeServer(NewestOnlyServer):
    """Takes only its newest nonce, which changes when a request was accepted."""

    def response(self, nonce: str | None) -> tuple[bool, str]:
        if nonce in self.valid or not self.valid:
            return super().response(nonce)
        self.refusals += 1
        return False, next(iter(self.valid))


def test_a_server_that_has_one_nonce_at_a_time_is_found_out() -> None:
    """Two refusals: without a nonce, and with one that was accepted, for which there is none but the newest."""
    cache, server = NonceCache(), OneAtATimeServer()
    assert run(cache, server, workers=16, rounds=40) == 1
    assert server.refusals == 2


def test_a_server_that_begins_to_take_only_its_newest_nonce_is_found_out() -> None:
    """Some of the requests on their way are lost, for the server did not take them; the next go one at a time."""
    cache, server = NonceCache(), NewestOnlyServer()
    cache.learn(KEY, "old")
    for _ in range(2):
        cache.answered(lease(cache), learnt="old", accepted=True)
    run(cache, server, workers=16, rounds=40, lost=16)
    refusals = server.refusals
    assert run(cache, server, workers=16, rounds=40) == 1
    assert server.refusals == refusals


def test_parallel_requests_soon_go_at_once_where_older_nonces_are_taken() -> None:
    """A server that takes nonces for a while is found out without another refusal, a single-use server with one."""
    for server, refusals in ((WindowServer(), 1), (SingleUseServer(), 16)):
        cache = NonceCache()
        assert run(cache, server, workers=16, rounds=40) == 16
        assert server.refusals <= refusals


def test_one_request_after_the_other_tries_nothing() -> None:
    """Whatever the server, a caller without company always sends the newest nonce."""
    for server in (NewestOnlyServer(), SingleUseServer(), WindowServer()):
        run(NonceCache(), server, workers=1, rounds=50)
        assert server.refusals == 1


def test_a_request_that_cannot_be_sent_again_tries_nothing() -> None:
    """It carries the newest nonce, for a refusal would be the caller's."""
    cache = NonceCache()
    cache.learn(KEY, "a")
    pilot = lease(cache, wait=True)
    waiting = turn(cache)
    cache.answered(pilot, learnt="b", accepted=True)
    assert after(cache, waiting, may_try=False).nonce == "b"


def test_a_slow_server_that_takes_only_its_newest_nonce_is_found_out() -> None:
    """A response that takes longer than a trial waits for opens the entry; nonces that are overtaken close it again."""
    clock = Clock()
    cache, server = NonceCache(clock=clock), NewestOnlyServer()
    pilot, waiting = lease(cache, wait=True), turn(cache)
    for _ in range(4):
        clock.now += 0.3
        cache.lease(KEY, wait=True, turn=waiting)
    exchange(cache, server, pilot)
    run(cache, server, workers=16, rounds=10, lost=16)
    refusals = server.refusals
    assert run(cache, server, workers=16, rounds=10) == 1
    assert server.refusals == refusals


class FewUsesServer(SingleUseServer):
    """Takes each nonce three times, and gives a new one when one is used up."""

    def __init__(self) -> None:
        super().__init__()
        self.newest, self.left = "n0", {"n0": 3}

    def response(self, nonce: str | None) -> tuple[bool, str]:
        left = self.left.get(nonce or "", 0)
        if left:
            self.left[nonce or ""] = left - 1
        else:
            self.refusals += 1
        if not self.left[self.newest]:
            self.given += 1
            self.newest = f"n{self.given}"
            self.left[self.newest] = 3
        return left > 0, self.newest


def test_a_server_whose_nonces_are_good_for_a_few_uses_is_found_out() -> None:
    """Where others use up the nonce of a retry, requests go one at a time, until a nonce was taken five times."""
    clock = Clock()
    cache, server = NonceCache(clock=clock), FewUsesServer()
    run(cache, server, workers=6, rounds=10, lost=5)
    refusals = server.refusals
    assert run(cache, server, workers=6, rounds=40) == 1
    assert server.refusals == refusals
    server.left[server.newest] = 1000
    assert run(cache, server, workers=6, rounds=10) == 6


def serial(clock: Clock) -> NonceCache:
    """A cache that has found out that a server takes only its newest nonce."""
    cache = NonceCache(clock=clock)
    run(cache, NewestOnlyServer(), workers=4, rounds=4)
    return cache


def test_an_older_nonce_that_is_accepted_ends_it() -> None:
    """What was sent without waiting shows that the server has changed: requests go at once again."""
    cache = serial(Clock())
    cache.learn(KEY, "older")
    cache.learn(KEY, "newest")
    on_its_way = lease(cache, wait=True)
    assert on_its_way.nonce == "newest"
    waiting = turn(cache)
    beside = lease(cache)
    assert beside.nonce == "older"
    cache.answered(beside, learnt=None, accepted=True)
    assert waiting.granted
    cache.release(on_its_way)


def test_a_slow_response_passes_its_turn_on() -> None:
    """Where requests go one at a time, one that is not answered within five seconds is not waited for."""
    clock = Clock()
    cache = serial(clock)
    slow = lease(cache, wait=True)
    first, second = turn(cache), turn(cache)
    clock.now += 4
    assert cache.lease(KEY, wait=True, turn=first) is first
    clock.now += 2
    assert isinstance(cache.lease(KEY, wait=True, turn=first), Lease)
    assert not second.granted
    cache.answered(slow, learnt="late", accepted=True)
    assert not second.granted  # it was not the slow one's turn any more


def test_a_request_that_stops_waiting_holds_nobody_up() -> None:
    """It leaves the queue, so the next turn is that of the request behind it."""
    cache = serial(Clock())
    on_its_way = lease(cache, wait=True)
    impatient, patient = turn(cache), turn(cache)
    assert isinstance(cache.lease(KEY, turn=impatient), Lease)
    cache.answered(on_its_way, learnt="next", accepted=True)
    assert (impatient.granted, patient.granted) == (False, True)


def test_serial_can_be_turned_off_and_on() -> None:
    """False: nobody waits once there is a nonce. True: one at a time from the start."""
    cache = NonceCache()
    cache.learn(KEY, "a")
    assert all(isinstance(cache.lease(KEY, wait=True, serial=False), Lease) for _ in range(3))
    assert isinstance(cache.lease(KEY, wait=True, serial=True), Lease)
    assert isinstance(cache.lease(KEY, wait=True, serial=True), Turn)


def test_after_ten_minutes_it_is_tried_again() -> None:
    """A server that was restarted, or that changed, is not taken for what it was for ever."""
    clock = Clock()
    cache = serial(clock)
    clock.now += 601
    assert run(cache, WindowServer("m"), workers=4, rounds=40) == 4


def test_where_a_nonce_is_required_only_one_goes_without() -> None:
    """Also after a response that brought none."""
    cache = NonceCache()
    cache.answered(lease(cache, wait=True), learnt=None)
    assert isinstance(cache.lease(KEY, wait=True, required=True), Lease)
    assert isinstance(cache.lease(KEY, wait=True, required=True), Turn)


def test_threads_wait_for_their_turn() -> None:
    """Threads that wait go on as soon as a nonce is there."""
    cache = NonceCache()
    pilot = lease(cache, wait=True)
    seen: list[str | None] = []
    waiting = threading.Barrier(5)

    def worker() -> None:
        mine = turn(cache)
        waiting.wait()
        mine.wait(30)
        one = after(cache, mine)
        seen.append(one.nonce)
        cache.answered(one, learnt=None, accepted=True)

    threads = [threading.Thread(target=worker) for _ in range(4)]
    for thread in threads:
        thread.start()
    waiting.wait()
    cache.answered(retry(cache, pilot, "a"), learnt=None, accepted=True)
    for thread in threads:
        thread.join()
    assert seen == ["a"] * 4


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


def test_one_request_behind_another_finds_out_what_the_server_accepts() -> None:
    """It tries a nonce that was accepted before, although no further request waits behind it."""
    cache = NonceCache()
    cache.learn(KEY, "a")
    pilot = lease(cache, wait=True)
    waiting = turn(cache)
    cache.answered(pilot, learnt="b", accepted=True)
    assert after(cache, waiting).nonce == "a"


def test_nonces_that_expire_before_they_are_sent_make_no_request_wait() -> None:
    """Each refused nonce was the newest when its response came: time has outdated it, not another response."""
    cache = NonceCache()
    for nonce in ("old", "old"):
        cache.learn(KEY, nonce)
        cache.answered(lease(cache), learnt=nonce, accepted=True)
    for number in range(4):
        cache.learn(KEY, f"expired{number}")
        cache.answered(lease(cache, wait=True), learnt=None, refused=True)
    cache.learn(KEY, "new")
    assert [lease(cache, wait=True).nonce for _ in range(3)] == ["new"] * 3
