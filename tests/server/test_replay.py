# SPDX-License-Identifier: Apache-2.0
"""The replay cache: each key once, bounded, and never silently open."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpop.errors import ReplayCacheError, UsageError
from dpop.server._replay import MemoryReplayCache, nonce_key, replay_key

JKT = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
OTHER_JKT = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
HTU = "https://api.example/items"


class Clock:
    """A clock that a test sets."""

    def __init__(self, now: float = 1_700_000_000) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


def test_a_key_is_new_once(clock: Clock) -> None:
    """The second add of a key is refused, that of another key is not."""
    cache = MemoryReplayCache(clock=clock)
    assert cache.add("a.1", clock.now + 90)
    assert not cache.add("a.1", clock.now + 90)
    assert cache.add("a.2", clock.now + 90)


def test_a_key_stays_until_it_expires(clock: Clock) -> None:
    """Up to its last second a key is known, and after it its room is free again."""
    cache = MemoryReplayCache(clock=clock)
    cache.add("a.1", clock.now + 90)
    clock.now += 90
    assert not cache.add("a.1", clock.now + 90)
    clock.now += 1.5
    assert cache.add("a.2", clock.now + 90)
    assert len(cache) == 1


def test_a_key_with_a_fraction_is_not_forgotten_early(clock: Clock) -> None:
    """Expiry is rounded up, never down."""
    cache = MemoryReplayCache(clock=clock)
    cache.add("a.1", clock.now + 0.9)
    clock.now += 0.8
    assert not cache.add("a.1", clock.now + 0.1)


def test_a_clock_set_back_does_not_open_the_cache(clock: Clock) -> None:
    """A key that was forgotten cannot be judged again when the clock returns to its time."""
    cache = MemoryReplayCache(clock=clock)
    start = clock.now
    cache.add("a.1", start + 90)
    clock.now = start + 1000
    cache.add("a.2", clock.now + 90)
    clock.now = start
    assert not cache.add("a.1", start + 90)


def test_a_full_cache_raises(clock: Clock) -> None:
    """At the bound the cache says so, keeps what it has, and takes new keys when old ones expire."""
    cache = MemoryReplayCache(max_entries=3, clock=clock)
    for i in range(3):
        assert cache.add(f"key{i}.1", clock.now + 90)
    with pytest.raises(ReplayCacheError, match="3 entries"):
        cache.add("key9.1", clock.now + 90)
    assert not cache.add("key0.1", clock.now + 90)
    clock.now += 92
    assert cache.add("key9.1", clock.now + 90)


def test_one_owner_cannot_fill_the_cache(clock: Clock) -> None:
    """The bound per key stops one client and leaves the others alone; expiry lifts it."""
    cache = MemoryReplayCache(max_per_key=2, clock=clock)
    assert cache.add("a.1", clock.now + 90)
    assert cache.add("a.2", clock.now + 90)
    with pytest.raises(ReplayCacheError, match="max_per_key"):
        cache.add("a.3", clock.now + 90)
    assert cache.add("b.3", clock.now + 90)
    clock.now += 92
    assert cache.add("a.3", clock.now + 90)


def test_a_thousand_seconds_of_traffic_keep_the_cache_flat(clock: Clock) -> None:
    """With constant traffic the number of entries is that of one lifetime."""
    cache = MemoryReplayCache(clock=clock)
    largest = 0
    for i in range(20_000):
        clock.now += 0.05
        assert cache.add(f"key{i % 7}.{i}", clock.now + 90)
        largest = max(largest, len(cache))
    assert largest <= 20 * 92


def test_one_of_a_hundred_threads_wins(clock: Clock) -> None:
    """The same key at a hundred threads at once is new to exactly one of them."""
    cache = MemoryReplayCache(clock=clock)
    start = threading.Barrier(100)

    def add(_: int) -> bool:
        start.wait()
        return cache.add("a.1", clock.now + 90)

    with ThreadPoolExecutor(100) as pool:
        assert sum(pool.map(add, range(100))) == 1


def test_a_burst_is_forgotten_little_by_little(clock: Clock) -> None:
    """No request pays for the thousands that came in one second before; soon they are gone all the same."""
    cache = MemoryReplayCache(clock=clock)
    for number in range(5000):
        cache.add(f"key{number % 7}.{number}", clock.now + 90)
    clock.now += 92
    sizes = []
    for number in range(500):
        assert cache.add(f"key.{number}", clock.now + 90)
        sizes.append(len(cache))
    assert sizes[0] > 4900
    assert sizes[-1] == 500


def test_what_is_due_makes_room_at_once(clock: Clock) -> None:
    """Neither bound counts entries that expired, however many are still to be forgotten."""
    whole = MemoryReplayCache(max_entries=1000, clock=clock)
    one_key = MemoryReplayCache(max_per_key=1000, clock=clock)
    for cache in (whole, one_key):
        for number in range(1000):
            cache.add(f"a.{number}", clock.now + 90)
        with pytest.raises(ReplayCacheError):
            cache.add("a.more", clock.now + 90)
    clock.now += 92
    for number in range(1000):
        assert whole.add(f"a.again{number}", clock.now + 90)
        assert one_key.add(f"a.again{number}", clock.now + 90)


class SlowKey(str):
    """A key whose look-up takes until another thread looks it up too, or until that is sure not to happen."""

    __slots__ = ()
    meeting = threading.Barrier(2)

    def __hash__(self) -> int:
        with contextlib.suppress(threading.BrokenBarrierError):
            self.meeting.wait(0.5)
        return super().__hash__()


def test_a_key_whose_entries_are_all_due_starts_from_nothing(clock: Clock) -> None:
    """Its limit counts no entry that has expired, although others' expired entries are forgotten before it."""
    cache = MemoryReplayCache(max_per_key=1, clock=clock)
    for number in range(100):
        assert cache.add(f"other{number}.x", clock.now + 1)
    assert cache.add("mine.1", clock.now + 2)
    clock.now += 4
    assert cache.add("mine.2", clock.now + 1)


def test_nobody_comes_between_the_question_and_the_answer(clock: Clock) -> None:
    """Two threads that would look at the same moment do so one after the other."""
    cache = MemoryReplayCache(clock=clock)
    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(lambda _: cache.add(SlowKey("a.1"), clock.now + 90), range(2))) == 1


@pytest.mark.parametrize("when", [float("nan"), float("inf"), float("-inf")])
def test_no_time_is_refused(clock: Clock, when: float) -> None:
    """An expiry that is no time would stay for ever or never."""
    with pytest.raises(UsageError):
        MemoryReplayCache(clock=clock).add("a.1", when)


@pytest.mark.parametrize("bounds", [{"max_entries": 0}, {"max_per_key": 0}])
def test_bounds_of_zero_are_refused(bounds: dict[str, Any]) -> None:
    """A cache without room would refuse every request; say so at the start."""
    with pytest.raises(UsageError):
        MemoryReplayCache(**bounds)


def test_a_cache_of_one_entry_works(clock: Clock) -> None:
    """The smallest bounds that are accepted: the next proof has room when the first has expired."""
    cache = MemoryReplayCache(max_entries=1, max_per_key=1, unbound_share=1, clock=clock)
    assert cache.add_unbound("a.1", clock.now + 90)
    with pytest.raises(ReplayCacheError):
        cache.add("b.1", clock.now + 90)
    clock.now += 92
    assert cache.add("b.1", clock.now + 90)


def test_repr_tells_the_size_and_no_key(clock: Clock) -> None:
    """The repr can be logged."""
    cache = MemoryReplayCache(clock=clock)
    cache.add("secret.1", clock.now + 90)
    assert repr(cache) == "<MemoryReplayCache 1 of 100000 entries>"


@pytest.fixture
def held_cache(clock: Clock) -> Iterator[MemoryReplayCache]:
    """A cache that another thread is inside of: its clock blocks until the test ends."""
    inside, leave = threading.Event(), threading.Event()

    def slow_clock() -> float:
        if threading.current_thread() is holder:
            inside.set()
            leave.wait(30)
        return clock.now

    cache = MemoryReplayCache(clock=slow_clock)
    holder = threading.Thread(target=cache.add, args=("a.1", clock.now + 90))
    holder.start()
    inside.wait(30)
    yield cache
    leave.set()
    holder.join()


def test_a_fork_during_an_add_leaves_the_child_a_usable_cache(held_cache: MemoryReplayCache, clock: Clock) -> None:
    """A lock that another thread held at the fork does not block the child."""
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # instead of waiting for ever
        os._exit(0 if held_cache.add("a.2", clock.now + 90) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_signal_handler_that_asks_the_cache_is_refused_and_hangs_nowhere() -> None:
    """Its thread may be inside the cache; to let the proof pass unseen would let it pass twice."""

    class Interrupted(Clock):
        """A clock in whose reading a signal arrives."""

        handler: Any = None

        def __call__(self) -> float:
            handler, self.handler = self.handler, None
            if handler is not None:
                handler()
            return super().__call__()

    clock = Interrupted()
    cache = MemoryReplayCache(clock=clock)
    told: list[ReplayCacheError] = []

    def verify() -> None:
        with pytest.raises(ReplayCacheError, match="signal handler") as caught:
            cache.add("a.2", clock.now + 90)
        told.append(caught.value)

    clock.handler = verify
    assert cache.add("a.1", clock.now + 90)
    assert [error.retry_after for error in told] == [0]
    assert cache.add("a.2", clock.now + 90)
    assert not cache.add("a.1", clock.now + 90)


def test_a_cache_nobody_holds_is_freed(clock: Clock) -> None:
    """The register of caches for forks does not keep them alive."""
    cache = MemoryReplayCache(clock=clock)
    watched = weakref.ref(cache)
    del cache
    gc.collect()
    assert watched() is None


def test_replay_keys_have_one_length_and_differ_by_each_part() -> None:
    """Key, URL and jti each make another entry, and the key's part names its owner."""
    keys = {
        replay_key(JKT, HTU.encode(), "1"),
        replay_key(OTHER_JKT, HTU.encode(), "1"),
        replay_key(JKT, HTU.encode() + b"/", "1"),
        replay_key(JKT, HTU.encode(), "2"),
        replay_key(JKT, HTU.encode(), "j" * 256),
    }
    assert len(keys) == 5
    assert {len(key) for key in keys} == {87}
    assert replay_key(JKT, HTU.encode(), "1").partition(".")[0] == JKT


@given(st.text(), st.text())
def test_two_nonces_never_share_a_key(one: str, other: str) -> None:
    """Any text has a key of its own, of fixed length."""
    assert (nonce_key(one) == nonce_key(other)) == (one == other)
    assert len(nonce_key(one)) == 49


def test_keys_that_are_gone_leave_nothing_behind(clock: Clock) -> None:
    """A million clients that come once do not fill the memory with their names."""
    cache = MemoryReplayCache(clock=clock)
    for number in range(500):
        assert cache.add(f"key-{number}.1", clock.now + 10)
    clock.now += 100
    for number in range(100):
        assert cache.add(f"late.{number}", clock.now + 10)
    assert len(cache) == 100
    assert set(cache._per_owner) == {"late"}


def test_strangers_fill_no_more_than_their_share(clock: Clock) -> None:
    """Token requests without a bound key have a tenth of the cache; a full share refuses these only."""
    cache = MemoryReplayCache(max_entries=100, clock=clock)
    assert all(cache.add_unbound(f"stranger-{number}.1", clock.now + 90) for number in range(10))
    with pytest.raises(ReplayCacheError, match="their share"):
        cache.add_unbound("stranger-10.1", clock.now + 90)
    assert not cache.add_unbound("stranger-3.1", clock.now + 90)
    assert not cache.add("stranger-3.1", clock.now + 90)
    assert all(cache.add(f"client-{number}.1", clock.now + 90) for number in range(90))
    clock.now += 100
    assert cache.add_unbound("stranger-11.1", clock.now + 90)
    for share in (0, -1, 1.5):
        with pytest.raises(UsageError, match="unbound_share"):
            MemoryReplayCache(unbound_share=share)
