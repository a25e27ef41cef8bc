# SPDX-License-Identifier: Apache-2.0
"""Stores that cannot be written or locked: nothing is sent without the note, and new tokens are not lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
from support.recorder import Recorder, Response
from support.sources import KEY, Fragile, Sources

from dpop.errors import TokenLockError, TokensNotSavedError, TokenStoreError
from dpop.tokens import FileTokenStore, MemoryTokenStore, TokenSet


def test_a_refresh_writes_twice(at: Sources) -> None:
    """That it begins, and what came of it; the next one as well."""
    assert isinstance(at.store, FileTokenStore)
    store = Fragile(at.store.path)
    source = at.source(store)
    for number in (1, 2, 3):
        assert source.ask() != "old"
        assert store.writes == 2 * number
        at.clock.now += 4000


def test_the_fence_of_the_lock_guards_the_beginning(at: Sources) -> None:
    """A lock that has passed to another host meanwhile lets nobody spend the refresh token twice."""

    class Fenced(MemoryTokenStore):
        fences: ClassVar[list[int | None]] = []

        def lock(self, account: str) -> Any:
            lock = super().lock(account)
            lock.fence = 7
            return lock

        def replace(
            self, old: TokenSet | None, new: TokenSet, account: str = "default", *, fence: int | None = None
        ) -> bool:
            self.fences.append(fence)
            return super().replace(old, new, account, fence=fence)

    store = Fenced()
    store.save(at.old)
    Fenced.fences.clear()
    assert at.source(store).ask() != "old"
    assert Fenced.fences == [7, None]  # what came is kept, whoever has the lock by then


def test_a_store_that_cannot_be_written_spends_nothing(at: Sources) -> None:
    """The note that a refresh begins fails first, and the refresh token does not leave."""
    assert isinstance(at.store, FileTokenStore)
    store = Fragile(at.store.path)
    store.fail_at = 1
    source = at.source(store)
    with pytest.raises(TokenStoreError, match="no space"):
        source.ask()
    assert at.server.requests == []
    assert source.ask() != "old"


def test_new_tokens_that_cannot_be_written(at: Sources) -> None:
    """They are in the error and nobody gets a token; the next call writes them, and asks for no others."""
    assert isinstance(at.store, FileTokenStore)
    store = Fragile(at.store.path)
    store.fail_at = 2
    source = at.source(store)
    with pytest.raises(TokensNotSavedError) as caught:
        source.ask()
    assert isinstance(caught.value.tokens, TokenSet)
    assert caught.value.tokens.refresh_token is not None
    assert caught.value.tokens.refresh_token not in str(caught.value) + repr(caught.value)
    assert source.ask() == caught.value.tokens.access_token
    assert at.store.load() == caught.value.tokens
    assert at.refreshes == [200]


def test_a_store_of_others_may_raise_anything(at: Sources) -> None:
    """Whatever it raises when new tokens are written, they are in the error, and written by the next call."""
    assert isinstance(at.store, FileTokenStore)

    class Strange(Fragile):
        def _write(self, tokens: TokenSet, account: str) -> None:
            try:
                super()._write(tokens, account)
            except TokenStoreError:
                raise OSError(28, "no space left") from None

    store = Strange(at.store.path)
    store.fail_at = 2
    source = at.source(store)
    with pytest.raises(TokensNotSavedError) as caught:
        source.ask()
    assert source.ask() == caught.value.tokens.access_token


FULL_DISK = """
import json, os, resource, sys
import dpop
from dpop.errors import *
from dpop.requests import TokenEndpoint
from dpop.tokens import FileTokenStore

facts = json.loads(sys.stdin.readline())
store = FileTokenStore(facts["path"])
source = TokenEndpoint(dpop.load_key(facts["key"]), facts["url"], client_id="c").source(store)
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (facts["limit"], unlimited[1]))
try:
    source()
except TokenStoreError as error:
    print(error.code, store.load().access_token, store.load().refresh_sent_at is not None)
resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
print(source() == store.load().access_token, len(store.load().access_token))
"""


@pytest.mark.parametrize(
    ("limit", "said"),
    [(10, "token_store old False"), (400, "tokens_not_saved old True")],
    ids=["when it begins", "when the answer is written"],
)
def test_a_disk_that_fills_up(tmp_path: Path, limit: int, said: str) -> None:
    """A real limit on what can be written, met at each of the two writes; once there is room, nothing was lost."""
    key, path = tmp_path / "key.pem", tmp_path / "tokens.json"
    KEY.save(key)
    FileTokenStore(path).save(TokenSet(access_token="old", expires_at=1, refresh_token="r0", jkt=KEY.thumbprint))
    body = {"access_token": "x" * 500, "token_type": "DPoP", "expires_in": 3600, "refresh_token": "r1"}
    with Recorder(lambda _: Response(200, [], json.dumps(body).encode())) as recorder:
        facts = {"key": str(key), "path": str(path), "url": recorder.url("/token"), "limit": limit}
        done = subprocess.run(
            [sys.executable, "-c", FULL_DISK],
            input=json.dumps(facts),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.stdout == f"{said}\nTrue 500\n", done.stderr
        assert len(recorder.requests) == 1


def test_a_lock_that_is_not_let_go(at: Sources) -> None:
    """Nothing is sent without the lock."""
    lock = at.store.lock("default")
    assert lock.acquire(0)
    with pytest.raises(TokenLockError):
        at.source(source={"lock_seconds": 0.05}).ask()
    lock.release()
    assert at.server.requests == []
