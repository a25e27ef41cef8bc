# SPDX-License-Identifier: Apache-2.0
"""When a token source renews: before the token expires, and not at each call of a server that is down."""

from __future__ import annotations

import logging
import threading
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.sources import Sources

from dpop.errors import TokenEndpointUnavailableError
from dpop.tokens import MemoryTokenStore, TokenSet, _source
from dpop.tokens._source import RefreshInProgress


def test_refreshed_ahead_without_making_anybody_wait(requests_at: Sources) -> None:
    """In the last fifth of its life a token is renewed once; meanwhile it is handed out."""
    at = requests_at
    source = at.source(source={"ahead": 300.0})
    first = source()
    at.clock.now += 3600 - 250
    lock = at.store.lock("default")
    assert lock.acquire(0)
    assert [source() for _ in range(5)] == [first] * 5
    lock.release()
    at.clock.now += 240
    source()
    wait_for(lambda: source() != first)
    assert at.refreshes == [200, 200]


def test_a_server_that_is_down_is_not_noticed_ahead_of_time(
    requests_at: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the token is good, failures to renew it are nobody's problem; after that they are."""
    at, now = requests_at, time.monotonic()
    monkeypatch.setattr(_source, "time", types.SimpleNamespace(monotonic=lambda: now))
    source = at.source(source={"ahead": 300.0})
    first = source()
    at.clock.now += 3600 - 250
    at.server.levers.fail_next(100, status=503, path="/token")
    for _ in range(50):
        assert source() == first
    wait_for(lambda: source._refresh is None)
    at.clock.now += 250
    for _ in range(20):
        with pytest.raises(TokenEndpointUnavailableError):
            source()
    assert len(at.server.requests) < 8


def test_a_server_that_is_down_is_not_asked_by_each_caller(at: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a second failure the callers of the next seconds get its error, and the server no request."""
    now = time.monotonic()
    monkeypatch.setattr(_source, "time", types.SimpleNamespace(monotonic=lambda: now))
    at.server.levers.fail_next(100, status=503, path="/token")
    source = at.source()
    for _ in range(10):
        with pytest.raises(TokenEndpointUnavailableError):
            source.ask()
    assert at.refreshes == [503, 503]
    monkeypatch.setattr(_source, "time", types.SimpleNamespace(monotonic=lambda: now + 60))
    with pytest.raises(TokenEndpointUnavailableError):
        source.ask()
    assert at.refreshes == [503, 503, 503]


def test_fresh_tokens_that_are_refused_again_and_again(at: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five a minute are replaced; then it is not the tokens, and the current one is kept."""
    now = time.monotonic()
    monkeypatch.setattr(_source, "time", types.SimpleNamespace(monotonic=lambda: now))
    source = at.source()
    for _ in range(8):
        source.refused(source.ask())
    assert len({source.ask() for _ in range(3)}) == 1
    assert at.refreshes == [200] * 6
    monkeypatch.setattr(_source, "time", types.SimpleNamespace(monotonic=lambda: now + 61))
    source.refused(token := source.ask())
    assert source.ask() != token


def test_a_refresh_has_a_second_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that finds one which another has just made does not take it for abandoned."""
    now = time.monotonic()
    monkeypatch.setattr(_source, "time", types.SimpleNamespace(monotonic=lambda: now))
    assert not RefreshInProgress().is_stuck


def test_a_process_that_starts_while_the_server_is_down(at: Sources) -> None:
    """Stored tokens that should be renewed but have not expired will do, in a process that has just started too."""
    at.store.save(at.old.replace(expires_at=at.clock.now + 100))
    at.server.levers.fail_next(100, status=503, path="/token")
    source = at.source()
    assert [source.ask() for _ in range(5)] == ["old"] * 5
    assert at.refreshes == [503]
    at.clock.now += 100
    with pytest.raises(TokenEndpointUnavailableError):
        at.source().ask()


def test_hosts_do_not_renew_in_step(requests_at: Sources) -> None:
    """Each source begins at a time of its own, up to half the margin earlier."""
    early = requests_at.source(source={"ahead": 100.0})
    early._early = 1.5
    tokens = TokenSet(access_token="a", issued_at=0, expires_at=1000)
    assert early._stale_at(tokens) == 850
    assert len({requests_at.source()._early for _ in range(20)}) > 10


def test_a_margin_longer_than_a_life(requests_at: Sources) -> None:
    """Tokens are not renewed before half their life is over, nor within a second, whatever is asked for."""
    at = requests_at
    source = at.source(source={"ahead": 1e6})
    first = source()
    at.clock.now += 800
    assert source() == first
    at.server.levers.token_lifetime = 0
    hasty = at.source(MemoryTokenStore(), source={"grant": "client_credentials"})
    assert len({hasty() for _ in range(10)}) == 1
    assert at.refreshes == [200, 200]


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something has come about in another thread."""
    ticks = threading.Event()
    for _ in range(3000):
        if condition():
            return
        ticks.wait(0.01)
    raise AssertionError


def test_a_token_of_a_day_is_renewed_in_its_last_minutes(requests_at: Sources) -> None:
    """A fifth of its life would be hours; five minutes, and half of that again at most, are enough."""
    at = requests_at
    at.server.levers.token_lifetime = 86_400
    source = at.source()
    first = source()
    at.clock.now += 86_400 - 600
    assert [source() for _ in range(3)] == [first] * 3
    assert source._refresh is None
    assert at.refreshes == [200]


class _Shipper(logging.Handler):
    """Sends each record with a token of the source, in a thread of its own, and waits until it is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.source: Any = None
        self.sent: list[bool] = []

    def emit(self, record: logging.LogRecord) -> None:
        sending = threading.Thread(target=self.source, daemon=True)
        sending.start()
        sending.join(5)
        self.sent.append(not sending.is_alive())


@pytest.fixture
def shipper() -> Iterator[_Shipper]:
    """A log handler that needs tokens."""
    logger, made = logging.getLogger("dpop.tokens"), _Shipper()
    logger.addHandler(made)
    yield made
    logger.removeHandler(made)


def test_a_log_handler_that_needs_a_token_of_the_source(requests_at: Sources, shipper: _Shipper) -> None:
    """No warning is given while the source is locked: handlers have a lock, too, and one would wait for the other."""
    at = requests_at
    source = shipper.source = at.source(source={"ahead": 300.0})
    for _ in range(6):
        source.refused(source())
    assert shipper.sent == [True]
    at.clock.now += 3600 - 250
    at.server.levers.fail_next(100, status=503, path="/token")
    source()
    wait_for(lambda: len(shipper.sent) == 2)
    assert shipper.sent == [True, True]
