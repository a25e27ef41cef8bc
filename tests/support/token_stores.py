# SPDX-License-Identifier: Apache-2.0
"""Tests that every token store must pass: inherit them, and give a fixture that makes a store.

class TestMyStore(StoreContract):
    @pytest.fixture
    def make(self):
        return lambda: MyStore(...)      # each one sees what the others have written
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from dpop.errors import UsageError
from dpop.tokens import TokenSet, TokenStore

__all__ = ["FULL", "StoreContract", "numbered"]

Make = Callable[[], TokenStore]

FULL = TokenSet(
    access_token="access-secret",
    issued_at=1000,
    expires_at=4600.5,
    refresh_token="refresh-secret",
    scope="read write",
    jkt="j" * 43,
    key_reference="/keys/ключ.pem",
    token_endpoint="https://as.example/token",
    client_id="client",
    refresh_sent_at=1001,
    extra={"n": [1, {"a": None}]},
)


def numbered(number: int) -> TokenSet:
    """Make a token set that is different for each number."""
    return TokenSet(access_token=f"access-{number}", refresh_token=f"refresh-{number}")


class StoreContract:
    """The tests; a subclass gives the fixture ``make``."""

    workers, rounds = 8, 5

    def test_what_is_saved_is_there(self, make: Make) -> None:
        """Saved tokens are loaded completely, by another store object too, and are gone after a delete."""
        store = make()
        assert store.load() is None
        assert store.accounts() == []
        store.save(FULL)
        assert make().load() == FULL
        assert store.accounts() == ["default"]
        store.save(numbered(2))
        assert make().load() == numbered(2)
        store.delete()
        store.delete()
        assert make().load() is None
        assert make().accounts() == []

    def test_accounts_are_apart(self, make: Make) -> None:
        """Account names of any kind, similar ones too, have separate tokens."""
        names = [
            "default",
            "alice",
            "Alice",
            "alice@example.com",
            "a/b",
            "..",
            ".",
            "a b",
            "%41",
            "ключ",
            "json",
            "x" * 500,
        ]
        names += ["*", "[a]", "a:b", "CON", "x" * 499 + "y"]
        store = make()
        for number, name in enumerate(names):
            store.save(numbered(number), name)
        assert store.accounts() == sorted(names)
        assert [make().load(name) for name in names] == [numbered(number) for number in range(len(names))]
        store.delete("alice")
        assert make().load("alice") is None
        assert make().load("Alice") == numbered(2)

    @pytest.mark.parametrize("account", ["", "a\n", "a\0", "x" * 513, None, 7])
    def test_what_is_no_account(self, make: Make, account: object) -> None:
        """An empty name, a control character and another type are refused as account names."""
        store = make()
        for call in (store.load, store.delete, store.lock):
            with pytest.raises(UsageError):
                call(account)  # type: ignore[arg-type]

    def test_replacing_compares(self, make: Make) -> None:
        """Only the tokens that the caller saw are replaced; they stay the same with a note about a started refresh."""
        store = make()
        assert not store.replace(numbered(1), numbered(2), "default")
        assert store.replace(None, numbered(1), "default")
        assert not store.replace(None, numbered(2), "default")
        assert not store.replace(numbered(3), numbered(2), "default")
        assert make().load() == numbered(1)
        begun = numbered(1).replace(refresh_sent_at=5)
        assert store.replace(numbered(1), begun, "default")
        assert make().load() == begun
        assert store.replace(numbered(1), numbered(2), "default")
        assert make().load() == numbered(2)

    def test_the_lock_has_one_holder(self, make: Make) -> None:
        """A second caller waits for the lock or gives up; each account has its own lock."""
        first, second, other = make().lock("a"), make().lock("a"), make().lock("b")
        assert first.acquire(0)
        assert not second.acquire(0)
        assert not second.acquire(0.05)
        assert other.acquire(0)
        other.release()
        first.release()
        third = make().lock("a")
        assert third.acquire(60)
        third.release()
        third.release()

    def test_a_wait_can_be_given_up(self, make: Make) -> None:
        """Releasing a waiting handle ends its wait, and it does not take the lock afterwards."""
        first, waiting = make().lock("a"), make().lock("a")
        assert first.acquire(0)
        with ThreadPoolExecutor(1) as pool:
            taken = pool.submit(waiting.acquire, 60)
            waiting.release()
            assert taken.result(30) is False
        first.release()
        after = make().lock("a")
        assert after.acquire(60)
        after.release()

    def test_many_at_once(self, make: Make) -> None:
        """A counter in the store, increased under the lock by many threads, loses no step."""
        make().save(numbered(0))

        def raise_it(_: int) -> None:
            store = make()
            for _ in range(self.rounds):
                lock = store.lock("default")
                assert lock.acquire(60)
                there = store.load()
                assert there is not None
                number = int(there.access_token.removeprefix("access-"))
                assert store.replace(there, numbered(number + 1), "default", fence=lock.fence)
                lock.release()

        with ThreadPoolExecutor(self.workers) as pool:
            list(pool.map(raise_it, range(self.workers)))
        assert make().load() == numbered(self.workers * self.rounds)

    def test_saving_waits_for_a_refresh(self, make: Make) -> None:
        """A login during a refresh is written after it, and stays."""
        store = make()
        store.save(numbered(1))
        lock = store.lock("default")
        assert lock.acquire(0)
        login = threading.Thread(target=make().save, args=(numbered(9),))
        login.start()
        assert store.replace(numbered(1), numbered(2), "default", fence=lock.fence)
        lock.release()
        login.join(30)
        assert make().load() == numbered(9)

    def test_nothing_secret_is_shown(self, make: Make) -> None:
        """The repr of a store has no token in it."""
        store = make()
        store.save(FULL)
        assert FULL.access_token not in repr(store)
        assert str(FULL.refresh_token) not in repr(store)
