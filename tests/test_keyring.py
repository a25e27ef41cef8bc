# SPDX-License-Identifier: Apache-2.0
"""Tokens in the operating system's keyring: a real Secret Service, and keyrings that fail in every way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keyring.backend
import keyring.errors
import pytest
from keyring.backends import SecretService, fail
from support.secret_service import secret_service
from support.token_stores import FULL, StoreContract, numbered

from dpop.errors import TokenFormatError, TokenStoreError, UsageError
from dpop.keyring import KeyringTokenStore
from dpop.tokens import TokenStore


class Memory(keyring.backend.KeyringBackend):
    """A keyring like that of Windows: 2,560 bytes for an entry; its n-th change fails."""

    priority = 0  # type: ignore[assignment] - chosen by nobody

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[tuple[str, str], str] = {}
        self.changes, self.fail_at = 0, 0

    def get_password(self, service: str, username: str) -> str | None:
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self._change()
        assert len(password.encode("utf-16-le")) <= 2560
        self.entries[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        self._change()
        if self.entries.pop((service, username), None) is None:
            raise keyring.errors.PasswordDeleteError("not there")

    def _change(self) -> None:
        self.changes += 1
        if self.changes == self.fail_at:
            raise keyring.errors.KeyringLocked("secret things")


@pytest.fixture(scope="module")
def bus() -> Iterator[str]:
    """A message bus with a Secret Service."""
    with secret_service() as address:
        yield address


class TestSecretService(StoreContract):
    """What every store does, behind D-Bus."""

    workers, rounds = 3, 2  # each entry is some requests over the bus

    @pytest.fixture
    def make(
        self, bus: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest
    ) -> Callable[[], TokenStore]:
        """Stores over one keyring, under a name of this test's own."""
        monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", bus)
        service = f"dpop {request.node.name}"
        return lambda: KeyringTokenStore(service, backend=SecretService.Keyring(), lock_directory=tmp_path)


class TestSmallEntries(StoreContract):
    """What every store does, in a keyring with little room for each entry."""

    @pytest.fixture
    def make(self, tmp_path: Path) -> Callable[[], TokenStore]:
        """Stores over one keyring."""
        backend = Memory()
        return lambda: KeyringTokenStore(backend=backend, lock_directory=tmp_path)


LONG = FULL.replace(access_token="a" * 5000)


@pytest.fixture
def backend() -> Memory:
    """A keyring."""
    return Memory()


@pytest.fixture
def store(backend: Memory, tmp_path: Path) -> KeyringTokenStore:
    """A store over it."""
    return KeyringTokenStore(backend=backend, lock_directory=tmp_path)


def test_long_tokens_leave_nothing_behind(store: KeyringTokenStore, backend: Memory) -> None:
    """They are spread over entries, which go when other tokens or none take their place."""
    store.save(LONG)
    assert store.load() == LONG
    assert len(backend.entries) > 5
    store.save(numbered(1))
    assert len(backend.entries) == 3
    store.delete()
    assert list(backend.entries.values()) == ["[]"]


def test_a_write_that_fails_anywhere(tmp_path: Path) -> None:
    """Whichever change of the keyring fails: what can be loaded afterwards is the old tokens or the new ones."""
    fail_at = 0
    while True:
        fail_at += 1
        backend = Memory()
        store = KeyringTokenStore(backend=backend, lock_directory=tmp_path)
        store.save(FULL)
        backend.changes, backend.fail_at = 0, fail_at
        said = failure(store)
        if said is None:
            assert store.load() == LONG
            break
        assert "secret" not in said
        assert store.load() in (FULL, LONG)
    assert fail_at > 6


def failure(store: KeyringTokenStore) -> str | None:
    """What the store says when it cannot write."""
    try:
        store.save(LONG)
    except TokenStoreError as error:
        return str(error)
    return None


def test_what_is_no_entry_of_ours(store: KeyringTokenStore, backend: Memory) -> None:
    """A stranger's entry, one that is damaged, one with a part missing."""
    for entry in ("password", '{"a":1}', '["x"]', "[" * 100_000):
        backend.entries["dpop-toolkit", "default"] = entry
        with pytest.raises(TokenFormatError, match="left unchanged"):
            store.load()
    store.save(LONG)
    part = next(name for name in backend.entries if name[1].startswith("\tpart"))
    text = backend.entries.pop(part)
    with pytest.raises(TokenFormatError, match="missing or changed"):
        store.load()
    backend.entries[part] = text[:-1]
    with pytest.raises(TokenFormatError, match="missing or changed"):
        store.load()


@pytest.mark.parametrize("entry", ["{", "5", "null", '{"a":1}', "[" * 100_000])
def test_a_damaged_list_of_accounts_costs_no_tokens(
    store: KeyringTokenStore, backend: Memory, caplog: pytest.LogCaptureFixture, entry: str
) -> None:
    """It says so, tokens of a new account are saved all the same, and the list begins anew."""
    store.save(numbered(1), "old")
    backend.entries["dpop-toolkit", "\taccounts"] = entry
    with pytest.raises(TokenFormatError, match="list of accounts"):
        store.accounts()
    assert store.load("old") == numbered(1)
    store.save(FULL)
    assert (store.load(), store.accounts()) == (FULL, ["default"])
    assert "begins a new list" in caplog.text
    backend.entries["dpop-toolkit", "\taccounts"] = entry
    store.delete("old")
    assert store.accounts() == []


def test_a_machine_without_a_keyring(tmp_path: Path) -> None:
    """Most servers: every use says what to do instead."""
    store = KeyringTokenStore(backend=fail.Keyring(), lock_directory=tmp_path)
    for call in (store.load, lambda: store.save(FULL), store.delete, store.accounts):
        with pytest.raises(TokenStoreError, match="FileTokenStore"):
            call()


def test_locks_need_a_directory(backend: Memory, tmp_path: Path) -> None:
    """Where locks cannot be kept, nothing is refreshed."""
    (tmp_path / "file").write_text("")
    store = KeyringTokenStore(backend=backend, lock_directory=tmp_path / "file" / "locks")
    with pytest.raises(TokenStoreError, match="directory for locks"):
        store.save(FULL)


@pytest.mark.parametrize("service", ["", "a\n", None])
def test_what_cannot_be_used(service: Any) -> None:
    """A service that is none; tokens that are none."""
    with pytest.raises(UsageError):
        KeyringTokenStore(service)
    with pytest.raises(UsageError):
        KeyringTokenStore().save("token")  # type: ignore[arg-type]


class Overtaken(Memory):
    """A keyring in which another process writes between two reads."""

    def __init__(self) -> None:
        super().__init__()
        self.between: list[Callable[[], None]] = []

    def get_password(self, service: str, username: str) -> str | None:
        if username.startswith("\tpart") and self.between:
            self.between.pop()()
        return super().get_password(service, username)


@pytest.mark.parametrize("writes", [1, 2, 3])
def test_a_reader_never_sees_half_a_write(tmp_path: Path, writes: int) -> None:
    """Whole writes of another process between two reads: the reader starts again with what is there now."""
    backend = Overtaken()
    store = KeyringTokenStore(backend=backend, lock_directory=tmp_path)
    store.save(LONG)
    other = [LONG.replace(access_token=letter * 4000) for letter in "bcd"[:writes]]
    backend.between = [lambda: [store.save(each) for each in other][:0] and None]
    assert store.load() == other[-1]
    assert backend.between == []


def test_what_a_killed_process_left_goes_with_the_account(tmp_path: Path) -> None:
    """Stopped at any change: no part of any tokens outlives ``delete()``, nor the next write."""
    for finish in ("delete", "write"):
        fail_at = 0
        while True:
            fail_at += 1
            backend = Memory()
            store = KeyringTokenStore(backend=backend, lock_directory=tmp_path)
            store.save(LONG.replace(access_token="b" * 5000))
            backend.changes, backend.fail_at = 0, fail_at
            if failure(store) is None:
                break
            backend.fail_at = 0
            if finish == "write":
                store.save(numbered(1))
                assert len(backend.entries) == 3
            else:
                store.delete()
                assert list(backend.entries.values()) == ["[]"]
        assert fail_at > 10


def test_tokens_that_are_too_long_are_not_begun(store: KeyringTokenStore, backend: Memory) -> None:
    """The size is looked at before anything is written."""
    store.save(LONG)
    before = dict(backend.entries)
    with pytest.raises(TokenStoreError, match="too long"):
        store.save(FULL.replace(access_token="a" * 100_000))
    assert backend.entries == before
