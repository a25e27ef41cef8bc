# SPDX-License-Identifier: Apache-2.0
"""The refresher: early, once, for every account, and quiet about the dead."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import dpop
from dpop.errors import UsageError
from dpop.requests import TokenEndpoint
from dpop.testing import DPoPTestServer
from dpop.tokens import AccountStatus, FileTokenStore, Refresher, RefreshingSource, TokenSet

KEY = dpop.generate_key()
NOW = 1_000_000.0


class Fixture:
    """A server and a store with two accounts' expired tokens; time that a test moves."""

    def __init__(self, server: DPoPTestServer, path: Path) -> None:
        self.server = server
        self.now = NOW
        self.store = FileTokenStore(path)
        self.endpoint = TokenEndpoint(
            KEY,
            server.token_endpoint,
            client_id=server.client_id,
            client_secret=server.client_secret,
            clock=lambda: self.now,
        )
        self.told: list[AccountStatus] = []
        for account in ("alice", "bob"):
            self.login(account)

    def login(self, account: str) -> None:
        """New tokens of an account, which have expired."""
        refresh_token = self.server.issue_refresh_token(jkt=KEY.thumbprint)
        old = TokenSet(access_token="old", issued_at=0, expires_at=1, refresh_token=refresh_token, jkt=KEY.thumbprint)
        self.store.save(old, account)

    def source(self, account: str) -> RefreshingSource:
        """A source such as a reader has."""
        return self.endpoint.source(self.store, account=account)

    def refresher(self) -> Refresher:
        """A refresher of both accounts."""
        sources = [self.source("alice"), self.source("bob")]
        return Refresher(sources, clock=lambda: self.now, tell=self.told.append)


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Fixture]:
    """A server that rotates refresh tokens."""
    with DPoPTestServer(nonces="none", rotate_refresh_tokens=True) as server:
        made = Fixture(server, tmp_path / "tokens.json")
        with made.endpoint:
            yield made


def test_readers_find_fresh_tokens(at: Fixture) -> None:
    """Ten hours with a refresher that looks when it says: readers send nothing, and never have a stale token."""
    refresher = at.refresher()
    readers = [at.source("alice"), at.source("bob")]
    for _ in range(40):
        wait = refresher.step()
        before = len(at.server.requests)
        for reader in readers:
            reader()
            assert reader.tokens().seconds_left(at.now) > 450  # type: ignore[operator]
        assert len(at.server.requests) == before
        assert 890 <= wait <= 900
        at.now += wait
    assert {status.state for status in at.told} == {"fresh"}
    assert {entry.status for entry in at.server.requests} == {200}


def test_readers_do_without_it(at: Fixture) -> None:
    """When the refresher is down, readers renew the tokens themselves."""
    at.refresher().step()
    reader = at.source("alice")
    reader()
    at.now += 3600
    assert reader.tokens().seconds_left(at.now) == 3600


def test_two_of_them_do_not_compete(at: Fixture) -> None:
    """A second refresher finds the work done."""
    first, second = at.refresher(), at.refresher()
    first.step()
    second.step()
    assert len(at.server.requests) == 2


def test_tokens_that_tell_no_time_are_left_alone_at_first(at: Fixture) -> None:
    """Neither when they were issued nor when they expire: nothing is sent for them at once."""
    refresh_token = at.server.issue_refresh_token(jkt=KEY.thumbprint)
    at.store.save(TokenSet(access_token="old", refresh_token=refresh_token, jkt=KEY.thumbprint), "alice")
    refresher = Refresher([at.source("alice")], clock=lambda: at.now, tell=at.told.append)
    assert refresher.step() > 60
    assert at.told[-1].state == "fresh"
    assert at.server.requests == []


def test_a_dead_account_does_not_stop_the_others(at: Fixture) -> None:
    """It is sent once, reported, and alive again after a new login; the others go on."""
    stored = at.store.load("alice")
    assert stored is not None
    at.store.save(stored.replace(refresh_token="dead"), "alice")
    refresher = at.refresher()
    for _ in range(20):
        at.now += refresher.step()
    states = {status.account: status for status in at.told}
    assert states["alice"].state == "dead"
    assert "authorise" in str(states["alice"].error)
    assert states["bob"].state == "fresh"
    assert [entry.status for entry in at.server.requests].count(400) == 1
    at.login("alice")
    at.now += 60
    refresher.step()
    assert AccountStatus("alice", "fresh", at.now + 3600, at.now + 900) in at.told


def test_a_server_that_is_down_is_asked_ever_less_often(at: Fixture) -> None:
    """Failures double the pause up to five minutes; a Retry-After is heeded within limits; success ends it."""
    refresher = Refresher([at.source("alice")], clock=lambda: at.now, tell=at.told.append)
    at.server.levers.fail_next(6, status=503, path="/token")
    waits = []
    for _ in range(6):
        waits.append(refresher.step())
        at.now += waits[-1]
    assert waits == [15, 30, 60, 120, 240, 300]
    at.server.levers.fail_next(1, status=429, retry_after=1000, path="/token")
    assert refresher.step() == 300  # the server asks for more; one minute of that is the most
    at.now += 1000
    assert refresher.step() == 900
    assert [status.state for status in at.told] == ["failing"] * 7 + ["fresh"]


def test_a_token_that_is_stale_when_it_is_issued(at: Fixture) -> None:
    """A server whose tokens live for no time is asked once a second, not without pause."""
    at.server.levers.token_lifetime = 0
    refresher = Refresher([at.source("alice")], clock=lambda: at.now)
    assert [refresher.step() for _ in range(3)] == [1, 1, 1]
    assert len(at.server.requests) == 1


def test_it_runs_until_it_is_stopped(at: Fixture) -> None:
    """A refresh that is under way is finished, then it ends."""
    stop = threading.Event()
    refresher = Refresher([at.source("alice")], clock=lambda: at.now, tell=lambda _: stop.set())
    thread = threading.Thread(target=refresher.run, args=(stop,))
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    stored = at.store.load("alice")
    assert stored is not None
    assert stored.access_token != "old"


def test_what_cannot_be_used(at: Fixture) -> None:
    """No sources, no source, a share that is none."""
    source = at.source("alice")
    for make in (
        lambda: Refresher([]),
        lambda: Refresher([lambda: "token"]),  # type: ignore[list-item]
        lambda: Refresher([source], share=1),
        lambda: Refresher([source], every=0),
    ):
        with pytest.raises(UsageError):
            make()


def test_a_server_that_asks_for_a_pause_of_days(at: Fixture) -> None:
    """Retry-After is followed for a minute, as a source does, and not past the end of the token."""
    at.server.levers.fail_next(100, status=503, path="/token", retry_after=999_999)
    at.store.save(TokenSet(access_token="a", issued_at=NOW - 3580, expires_at=NOW + 20, refresh_token="r"), "bob")
    at.refresher().step()
    due = {status.account: status.next_at - NOW for status in at.told}
    assert due == {"alice": 60.0, "bob": 20.0}


def test_a_clock_that_was_ahead(at: Fixture) -> None:
    """Tokens of tomorrow have an unknown end and are renewed at once; their successors are not."""
    stored = at.store.load("alice")
    assert stored is not None
    at.store.save(stored.replace(issued_at=NOW + 90_000, expires_at=NOW + 93_600), "alice")
    refresher = at.refresher()
    refresher.step()
    assert len(at.server.requests) == 2
    assert refresher.step() > 0
    assert len(at.server.requests) == 2


def test_a_clock_that_is_set_back(at: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it runs: the next look is no later than it would have been."""
    later = [0.0]
    monotonic = time.monotonic
    monkeypatch.setattr("dpop.tokens._refresher.time.monotonic", lambda: monotonic() + later[0])
    refresher = at.refresher()
    left = refresher.step()
    at.now -= 90_000
    assert refresher.step() <= left
    later[0] += left + 1
    refresher.step()
    assert len(at.server.requests) == 4
