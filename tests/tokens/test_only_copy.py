# SPDX-License-Identifier: Apache-2.0
"""Who holds the only copy of new tokens, and who may still send: asked again at each send and at each save."""

from __future__ import annotations

import gc
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
import redis
from support.endpoints import Endpoint
from support.forking import in_child
from support.recorder import Recorder, Response, script
from support.redis_server import RedisServer
from support.rotating_server import RotatingServer

import dpop
from dpop.errors import ReauthorizationError, TokenLockError, TokensNotSavedError, TokenStoreError
from dpop.keys import ExternalKey
from dpop.redis import RedisTokenStore
from dpop.requests import TokenEndpoint
from dpop.tokens import FileTokenStore, MemoryTokenStore, TokenSet

KEY = dpop.generate_key()
OLD = TokenSet(access_token="a0", issued_at=0, expires_at=1, refresh_token="r0", jkt=KEY.thumbprint)
CHALLENGE = Response(400, [("DPoP-Nonce", "n")], b'{"error":"use_dpop_nonce"}')


def source_of(server: RotatingServer, store: Any, key: Any = KEY, **options: Any) -> Any:
    """A source of its own, as another process has it."""
    return TokenEndpoint(key, server.url, client_id="c", timeout=60).source(store, **options)


class Backend:
    """A store that several processes share; and the end of a lock whose holder still works."""

    def __init__(self, store: Callable[..., Any], lose_lock: Callable[[], object], wipe: Callable[[], object]) -> None:
        self.store, self.lose_lock, self.wipe = store, lose_lock, wipe
        store().save(OLD)


@pytest.fixture(params=["file", "redis"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    """A file whose lock file is deleted, and a Redis that loses the lease."""
    if request.param == "file":
        path = tmp_path / "tokens.json"
        lock = path.with_name(".tokens.json.lock")
        yield Backend(lambda lease=0: FileTokenStore(path), lambda: lock.unlink(missing_ok=True), path.unlink)
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    with redis.Redis.from_url(server.url) as client:
        client.flushdb()
        yield Backend(
            lambda lease=0.3: RedisTokenStore(client, lease_seconds=lease),
            lambda: client.delete("dpop:tokens:{default}:lease"),
            client.flushdb,
        )
        client.flushdb()


# A file's lock that is lost overtakes nobody: see test_lock_deleted.py.
with_redis = pytest.mark.parametrize("backend", ["redis"], indirect=True)


def overtake(server: RotatingServer, backend: Backend) -> None:
    """Another host takes the lock and refreshes, as it may once the lock has ended."""
    backend.lose_lock()
    assert source_of(server, backend.store())() == "a1"


# -- who may still send


@with_redis
def test_a_lock_lost_while_no_response_comes(backend: Backend) -> None:
    """The refresh token is not sent again after another host has used it: the server would end the grant."""

    def meddle(number: int) -> Response | None:
        if number == 0:
            overtake(server, backend)
            return Response(drop=True)
        return None

    with RotatingServer(meddle) as server:
        assert source_of(server, backend.store())() == "a1"
        assert server.sent == ["r0", "r0"]  # the first was dropped unseen, the second is the other host's
        assert server.reused == []


@with_redis
def test_a_lock_lost_before_a_nonce_retry(backend: Backend) -> None:
    """A challenge is a response too: the retry asks again whether it may be sent."""

    def meddle(number: int) -> Response | None:
        if number == 0:
            overtake(server, backend)
            time.sleep(0.4)  # so long that a lease is over by every clock
            return CHALLENGE
        return None

    with RotatingServer(meddle) as server:
        assert source_of(server, backend.store())() == "a1"
        assert server.sent == ["r0", "r0"]
        assert server.reused == []


def test_a_lock_lost_between_the_note_and_the_send(backend: Backend) -> None:
    """A key that takes long to sign, or a machine that sleeps: the question comes after the signature."""
    begun = threading.Event()

    def sign(data: bytes) -> bytes:
        if not begun.is_set():
            begun.set()
            overtake(server, backend)
            time.sleep(0.4)
        return KEY.sign(data)

    with RotatingServer() as server:
        slow = ExternalKey(KEY.public_jwk, sign, signature_format="raw")
        assert source_of(server, backend.store(), slow)() == "a1"
        assert server.sent == ["r0"]
        assert server.reused == []


# -- the store changes while the response is under way


def test_a_store_that_was_emptied_takes_the_new_tokens(backend: Backend) -> None:
    """A deleted file, a FLUSHALL: what came is the only copy of the grant, and is stored."""
    with RotatingServer(lambda _: backend.wipe() and None) as server:
        assert source_of(server, backend.store())() == "a1"
        stored = backend.store().load()
        assert stored is not None
        assert (stored.access_token, stored.refresh_token) == ("a1", "r1")
        assert server.sent == ["r0"]


def test_an_older_snapshot_costs_no_tokens(backend: Backend) -> None:
    """A restored backup is no successor: the error carries what came, and nothing old is sent."""
    snapshot = OLD.replace(access_token="older", refresh_token="older", issued_at=-10)

    def meddle(_: int) -> None:
        backend.wipe()
        assert backend.store().replace(None, snapshot, "default")

    with RotatingServer(meddle) as server:
        source = source_of(server, backend.store())
        for _ in range(2):
            with pytest.raises(TokensNotSavedError) as caught:
                source()
            assert caught.value.tokens.refresh_token == "r1"
        assert server.sent == ["r0"]
        source.store.save(caught.value.tokens)
        assert source() == "a1"
        assert server.sent == ["r0"]


def test_later_tokens_are_kept_in_place_of_those_that_came(backend: Backend) -> None:
    """A login while the response was under way: its tokens stay, and are handed out."""
    login = OLD.replace(access_token="login", refresh_token="other", issued_at=2e9, expires_at=None)

    def meddle(_: int) -> None:
        backend.wipe()
        assert backend.store().replace(None, login, "default")

    with RotatingServer(meddle) as server:
        assert source_of(server, backend.store())() == "login"
        assert backend.store().load() == login


# -- tokens that could not be stored


class Full(FileTokenStore):
    """A disk that is full from the response on."""

    full = False

    def _write(self, tokens: TokenSet, account: str) -> None:
        if self.full:
            raise TokenStoreError("no space left on device")
        super()._write(tokens, account)


@pytest.fixture
def full(tmp_path: Path) -> Full:
    """Such a disk with old tokens."""
    store = Full(tmp_path / "t" / "tokens.json")
    store.path.parent.mkdir()
    store.save(OLD)
    return store


def fill(store: Full) -> Callable[[int], None]:
    """What a server does that makes the disk full when a refresh is there."""

    def meddle(_: int) -> None:
        store.full = True

    return meddle


def test_no_other_process_sends_while_this_one_has_the_only_copy(full: Full) -> None:
    """The lock is kept, so that the old refresh token is not used again; until the tokens are stored."""
    with RotatingServer(fill(full)) as server:
        source = source_of(server, full)
        with pytest.raises(TokensNotSavedError):
            source()
        other = source_of(server, FileTokenStore(full.path), lock_seconds=0.1)
        with pytest.raises(TokenLockError):
            other()
        assert server.sent == ["r0"]
        full.full = False
        assert source() == other() == "a1"
        assert server.sent == ["r0"]


def test_the_user_saves_the_tokens_of_the_error(full: Full) -> None:
    """With the same store or another one over the file, and the lock is free afterwards."""
    with RotatingServer(fill(full)) as server:
        source = source_of(server, full)
        with pytest.raises(TokensNotSavedError) as caught:
            source()
        with pytest.raises(TokenStoreError):
            full.save(caught.value.tokens)  # still full: the lock is kept
        with pytest.raises(TokenLockError):
            source_of(server, FileTokenStore(full.path), lock_seconds=0.1)()
        FileTokenStore(full.path).save(caught.value.tokens)
        assert source_of(server, FileTokenStore(full.path))() == "a1"
        assert source() == "a1"
        assert server.sent == ["r0"]


def test_a_source_that_is_dropped_frees_the_lock(full: Full) -> None:
    """With it goes the only copy; the store still says that a refresh was sent."""
    with RotatingServer(fill(full)) as server:
        source = source_of(server, full)
        with pytest.raises(TokensNotSavedError) as caught:
            source()
        del source, caught
        gc.collect()
        lock = full.lock("default")
        assert lock.acquire(60)
        lock.release()


@pytest.mark.parametrize("trouble", ["the directory is gone", "another holds the lock", "it cannot be read"])
def test_whatever_fails_later_the_error_carries_the_tokens(full: Full, trouble: str) -> None:
    """As long as they are not stored, each error of store or lock is one with the tokens in it."""
    with RotatingServer(fill(full)) as server:
        source = source_of(server, full, lock_seconds=0.1)
        with pytest.raises(TokensNotSavedError):
            source()
        if trouble == "the directory is gone":
            shutil.rmtree(full.path.parent)
        elif trouble == "another holds the lock":
            full.path.with_name(".tokens.json.lock").unlink()
            other = full.lock("default")
            assert other.acquire(0)
        else:
            full.full = False
            full.path.write_bytes(b"{")
        for _ in range(2):
            with pytest.raises(TokensNotSavedError) as caught:
                source()
            assert caught.value.tokens.refresh_token == "r1"
        assert server.sent == ["r0"]


def test_a_renewal_ahead_of_time_that_could_not_be_stored(full: Full) -> None:
    """It costs the callers nothing while the old token is good; after that each error carries the new tokens."""
    now = [1000.0]
    full.save(OLD.replace(issued_at=0, expires_at=1200))
    with RotatingServer(fill(full)) as server:
        endpoint = TokenEndpoint(KEY, server.url, client_id="c", timeout=60, clock=lambda: now[0])
        source = endpoint.source(full, ahead=300)
        deadline = time.monotonic() + 30
        while not server.sent or source._refresh is not None:
            assert source() == "a0"
            assert time.monotonic() < deadline
        now[0] = 1300.0
        shutil.rmtree(full.path.parent)
        with pytest.raises(TokensNotSavedError) as caught:
            source()
        assert caught.value.tokens.refresh_token == "r1"
        assert server.sent == ["r0"]


class Broken(MemoryTokenStore):
    """A store of others that raises an error of its own when a refusal is noted."""

    def replace(self, old: TokenSet | None, new: TokenSet, account: str, *, fence: int | None = None) -> bool:
        """Replace, but for a refusal."""
        if new.refusal:
            raise OSError("the database is read-only")
        return super().replace(old, new, account, fence=fence)


def test_the_error_of_a_store_hides_no_refusal(caplog: pytest.LogCaptureFixture) -> None:
    """The user reads that the grant is over, and the log that this could not be noted."""
    store = Broken()
    store.save(OLD)
    with Recorder(script(Response(400, [], b'{"error":"invalid_grant"}'))) as server:
        source = TokenEndpoint(KEY, server.url("/token"), client_id="c").source(store)
        for _ in range(2):
            with pytest.raises(ReauthorizationError, match="invalid_grant"):
                source()
    assert len(server.requests) == 1
    assert "could not be stored with the tokens: the database is read-only" in caplog.text


def test_in_memory_too() -> None:
    """The lock of a store in memory is asked as any other."""
    store = MemoryTokenStore()
    store.save(OLD)
    with RotatingServer() as server:
        assert source_of(server, store)() == "a1"
        lock = store.lock("default")
        assert lock.acquire(0)
        assert lock.is_held()
        lock.release()
        assert not lock.is_held()


@with_redis
@pytest.mark.parametrize("kind", ["httpx", "httpx2", "httpx-async", "httpx2-async"])
@pytest.mark.parametrize("given", [False, True], ids=["own client", "given client"])
def test_every_endpoint_asks_before_each_send(backend: Backend, kind: str, given: bool) -> None:
    """Whatever carries the requests, and on whichever event loop: a nonce retry after the lock was lost is not sent."""

    def meddle(number: int) -> Response | None:
        if number == 0:
            overtake(server, backend)
            time.sleep(0.4)
            return CHALLENGE
        return None

    library = httpx if kind.startswith("httpx-") or kind == "httpx" else httpx2
    with RotatingServer(meddle) as server:
        client = {"http": (library.AsyncClient if kind.endswith("async") else library.Client)()} if given else {}
        with Endpoint(kind, KEY, server.url, client_id="c", timeout=60, **client) as endpoint:
            asked = endpoint.it.source(backend.store())()
            assert (endpoint.wait(asked) if kind.endswith("async") else asked) == "a1"
            for each in client.values():
                endpoint.wait(each.aclose()) if kind.endswith("async") else each.close()
        assert server.sent == ["r0", "r0"]
        assert server.reused == []


def test_a_forked_child_leaves_the_lock_that_its_parent_keeps(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have the tokens that could not be stored; the child's attempt does not free the parent's lock."""
    store = backend.store(lease=60)

    def fill(_: int) -> None:
        monkeypatch.setattr(store, "replace", lambda *_, **__: 1 / 0)

    with RotatingServer(fill) as server:
        source = source_of(server, store, lock_seconds=0.1)
        with pytest.raises(TokensNotSavedError):
            source()

        def ask() -> bytes:
            with pytest.raises(TokensNotSavedError) as caught:
                source()
            return str(caught.value.tokens.refresh_token).encode()

        assert in_child(ask) == b"r1"
        with pytest.raises(TokenLockError):
            source_of(server, backend.store(), lock_seconds=0.1)()
        monkeypatch.undo()
        assert source() == "a1"
        assert server.sent == ["r0"]
