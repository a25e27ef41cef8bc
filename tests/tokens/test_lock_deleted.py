# SPDX-License-Identifier: Apache-2.0
"""Somebody deletes the lock file of a refresh whose response is under way: no other refresh sends the same token.

A clean-up of dot files does that, for example. The next process would take a new lock file for its own, and the server
would take the second use of the refresh token for a theft.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.recorder import Response
from support.rotating_server import RotatingServer

import dpop
from dpop.errors import OutcomeUnknownError, TokenLockError, TokensNotSavedError, TokenStoreError
from dpop.requests import TokenEndpoint
from dpop.tokens import FileTokenStore, RefreshingSource, TokenSet
from dpop.tokens._owner import RefreshOwner, is_at_work

KEY = dpop.generate_key()
OLD = TokenSet(access_token="a0", refresh_token="r0", expires_at=1, issued_at=0, jkt=KEY.thumbprint, client_id="c")

PROGRAM = """
import json, sys
import dpop
from dpop.errors import DPoPError
from dpop.requests import TokenEndpoint
from dpop.tokens import FileTokenStore

facts = json.loads(sys.stdin.readline())
with TokenEndpoint(dpop.load_key(facts["key"]), facts["url"], client_id="c") as endpoint:
    try:
        print(endpoint.source(FileTokenStore(facts["path"]), lock_seconds=0.3)())
    except DPoPError as error:
        print(type(error).__name__)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of a store with an expired token."""
    path = tmp_path / "tokens.json"
    FileTokenStore(path).save(OLD)
    return path


def delete_lock(path: Path) -> None:
    """What somebody does."""
    (path.parent / f".{path.name}.lock").unlink()


@pytest.fixture
def endpoints() -> Iterator[list[TokenEndpoint]]:
    """Endpoints to close."""
    made: list[TokenEndpoint] = []
    yield made
    for each in made:
        each.close()


def source_of(url: str, store: FileTokenStore, endpoints: list[TokenEndpoint]) -> RefreshingSource:
    """A source that waits a moment for the lock."""
    endpoints.append(TokenEndpoint(KEY, url, client_id="c"))
    return endpoints[-1].source(store, lock_seconds=0.3)


def test_another_process_waits_for_the_response_as_if_the_lock_were_there(
    path: Path, tmp_path: Path, endpoints: list[TokenEndpoint]
) -> None:
    """It sees in the store which process has sent the refresh token, and that this process lives."""
    key = tmp_path / "key.pem"
    KEY.save(key)
    said = []

    def other() -> str:
        facts = json.dumps({"key": str(key), "path": str(path), "url": server.url})
        return subprocess.run(
            [sys.executable, "-c", PROGRAM], input=facts, stdout=subprocess.PIPE, text=True, check=True, timeout=60
        ).stdout.strip()

    def meddle(number: int) -> None:
        if number == 0:
            delete_lock(path)
            said.append(other())

    with RotatingServer(meddle) as server:
        assert source_of(server.url, FileTokenStore(path), endpoints)() == "a1"
        said.append(other())
    assert said == ["TokenLockError", "a1"]
    assert server.sent == ["r0"]


def test_another_source_of_the_same_process_waits_as_well(path: Path, endpoints: list[TokenEndpoint]) -> None:
    """With a store object of its own."""
    said: list[object] = []

    def meddle(number: int) -> None:
        if number == 0:
            delete_lock(path)
            with pytest.raises(TokenLockError, match="nothing was sent"):
                source_of(server.url, FileTokenStore(path), endpoints)()
            said.append("waited")

    with RotatingServer(meddle) as server:
        assert source_of(server.url, FileTokenStore(path), endpoints)() == "a1"
        assert source_of(server.url, FileTokenStore(path), endpoints)() == "a1"
    assert said == ["waited"]
    assert server.sent == ["r0"]


class Full(FileTokenStore):
    """A store that takes no new tokens while it is full."""

    full = True

    def _write(self, tokens: TokenSet, account: str) -> None:
        if self.full and tokens.access_token != "a0":
            raise TokenStoreError("no space left on device")
        super()._write(tokens, account)


def test_tokens_that_are_not_stored_yet_are_waited_for(path: Path, endpoints: list[TokenEndpoint]) -> None:
    """This process has the only copy; once that is stored, all others use it."""
    store = Full(path)
    with RotatingServer() as server:
        source = source_of(server.url, store, endpoints)
        with pytest.raises(TokensNotSavedError):
            source()
        delete_lock(path)
        other = source_of(server.url, FileTokenStore(path), endpoints)
        with pytest.raises(TokenLockError):
            other()
        store.full = False
        assert source() == "a1"
        assert other() == "a1"
    assert server.sent == ["r0"]


def test_a_refresh_that_is_over_without_a_response_is_not_waited_for(
    path: Path, endpoints: list[TokenEndpoint]
) -> None:
    """The store says that it was sent, and no longer by which process."""
    with RotatingServer(lambda number: Response(drop=True) if number < 2 else None) as server:
        with pytest.raises(OutcomeUnknownError):
            source_of(server.url, FileTokenStore(path), endpoints)()
        stored = FileTokenStore(path).load()
        assert stored is not None
        assert stored.refresh_sent_at is not None
        assert stored.refresh_owner is None
        assert source_of(server.url, FileTokenStore(path), endpoints)() == "a1"


def test_only_a_living_process_of_this_machine_is_at_work() -> None:
    """A dead one, another one with its number, one of another machine, and one long ago are not waited for."""
    owner = RefreshOwner()
    machine, number, began, sent, rest = owner.name.split(" ")
    assert not is_at_work(owner.name)  # it has sent nothing
    owner.begin()
    assert is_at_work(owner.name)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        begins = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]
        other = f"{machine} {process.pid} {begins} {sent} {rest}"
        assert is_at_work(other)
        assert not is_at_work(f"another-{other}")
        assert not is_at_work(f"{machine} {process.pid} {int(begins) - 1} {sent} {rest}")
        assert not is_at_work(f"{machine} {process.pid} {begins} {int(sent) - 901} {rest}")
        process.kill()
    assert not is_at_work(other)
    owner.end()
    assert not is_at_work(owner.name)
    for odd in (None, "", "x", " ", f"{machine} x {began} {sent} {rest}", f"{machine} {number} {began} x {rest}"):
        assert not is_at_work(odd)


def test_a_refresh_nobody_holds_any_more_is_over() -> None:
    """A source that is garbage collected with tokens it could not store leaves nobody waiting."""
    owner = RefreshOwner()
    owner.begin()
    name = owner.name
    del owner
    assert not is_at_work(name)


def test_a_fork_has_no_part_in_the_refresh_of_its_parent() -> None:
    """The child waits for its parent, which lives."""
    owner = RefreshOwner()
    owner.begin()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        os._exit(0 if is_at_work(owner.name) else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("number", ["9" * 400, "9" * 5000, "99999999999", "\u0664"])
@pytest.mark.parametrize("place", [1, 3])
def test_a_damaged_note_of_an_owner_stops_nobody(place: int, number: str) -> None:
    """A number of any length, or of the future, is no refresh that is under way, and no crash either."""
    parts = RefreshOwner().name.split(" ")
    parts[place] = number
    assert not is_at_work(" ".join(parts))
