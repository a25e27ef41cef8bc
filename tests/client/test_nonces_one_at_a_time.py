# SPDX-License-Identifier: Apache-2.0
"""The nonce cache at servers that take only their newest nonce: how it finds out, whose turn it is, when it ends."""

from __future__ import annotations

import threading
from collections import deque

import pytest
from support.nonce_cache import KEY, Clock, SingleUseServer, after, exchange, lease, retry, turn

from dpop.client._nonces import Lease, NonceCache, NonceKey, Role, Turn
from dpop.htu import Origin


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
