# SPDX-License-Identifier: Apache-2.0
"""Access tokens from the agent: one login for many programs, none of which has a secret."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trio
from support.agents import Place, Running

import dpop
from dpop.agent import AccountRules, AgentClient, AgentKey, AgentLogins, AgentRules, AgentTokens
from dpop.agent._peer import Peer
from dpop.agent._protocol import Refusal, read_request
from dpop.errors import AgentLockedError, DPoPKeyError, ReauthorizationError, TokenError, UsageError
from dpop.requests import TokenEndpoint
from dpop.tokens import HTTPRequest, HTTPResponse, locked
from dpop.tokens import _file_store as file_store

# --- one refresh for all


# A program of four processes of eight threads: each says which token it got.
_READERS = """
import os, sys, threading
from dpop.agent import AgentTokens
tokens, refused = AgentTokens("work"), sys.argv[1]
children = []
for _ in range(4):
    read, write = os.pipe()
    if os.fork() == 0:
        def work():
            if refused:
                tokens.refused(refused)
            os.write(write, tokens().encode() + b"\\n")
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        os._exit(0)
    os.close(write)
    children.append(read)
for read in children:
    with os.fdopen(read) as lines:
        print(lines.read(), end="")
    os.wait()
"""


def read_by_all(refused: str = "") -> list[str]:
    """The tokens that 32 readers in four processes get."""
    shown = subprocess.run(
        [sys.executable, "-c", _READERS, refused], capture_output=True, text=True, check=True, timeout=120
    )
    return shown.stdout.split()


def test_one_refresh_for_32_readers(place: Place, found: Running) -> None:
    """Four processes of eight threads cause one refresh; when a server refuses that token, one more."""
    tokens = read_by_all()
    assert (len(tokens), len(set(tokens)), place.refreshes) == (32, 1, 1)
    again = read_by_all(tokens[0])
    assert (len(again), len(set(again) - {tokens[0]}), place.refreshes) == (32, 1, 2)
    assert tokens[0] not in again
    given = [event for event in found.audited if event["event"] == "token"]
    assert [(event["account"], event["key"], event["uid"]) for event in given] == [("work", "work", os.getuid())] * 64
    assert {event["jkt"] for event in given} == {found.key().thumbprint}


def test_an_adapter_has_a_refused_token_renewed(place: Place, found: Running) -> None:
    """A token that the API refuses is renewed by the agent, and the request is sent again; the agent's key signs."""
    key, tokens = found.key(), AgentTokens("work")
    first = tokens()
    place.server.revoke(first)
    assert place.sub(tokens, key) == "alice"
    assert tokens() != first
    assert place.refreshes == 2


def test_renewing_at_will(place: Place, found: Running) -> None:
    """``renew`` brings another token at once; more than five a minute are not renewed."""
    tokens = AgentTokens("work")
    seen = {tokens()} | {tokens.renew() for _ in range(10)}
    assert (len(seen), place.refreshes) == (6, 6)


def test_a_token_that_is_not_the_current_one_is_not_renewed(place: Place, found: Running) -> None:
    """A program that was refused an old token gets the newer one, without a refresh."""
    tokens = AgentTokens("work")
    first = tokens()
    tokens.refused("another-token")
    assert (tokens(), place.refreshes) == (first, 1)


# --- what crosses the socket


class Relay:
    """Stands between readers and the agent, and records each byte."""

    def __init__(self, path: Path, agent: Path) -> None:
        self.seen = b""
        self._agent = os.fspath(agent)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(os.fspath(path))
        path.chmod(0o600)
        self._listener.listen()
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        copies = []
        while True:
            try:
                reader, _ = self._listener.accept()
            except OSError:
                break
            agent = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            agent.connect(self._agent)
            copies += [threading.Thread(target=self._copy, args=pair) for pair in ((reader, agent), (agent, reader))]
            for copy in copies[-2:]:
                copy.start()
        for copy in copies:
            copy.join()

    def _copy(self, one: socket.socket, other: socket.socket) -> None:
        with one:
            while data := one.recv(65536):
                self.seen += data
                other.sendall(data)
            with contextlib.suppress(OSError):
                other.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Wait until the readers have gone, and end."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()


def test_no_secret_reaches_a_reader(place: Place, folder: Path) -> None:
    """All that a reader gets is an access token: no refresh token, client secret or key crosses its socket."""
    with place.running() as running:
        first = place.log_in(running, client_id=place.server.client_id, client_secret=place.server.client_secret)
        relay = Relay(folder / "relay.sock", running.path)
        with AgentClient(folder / "relay.sock") as client:
            tokens = AgentTokens("work", client=client)
            key = AgentKey.open("work", client=client)
            place.server.revoke(tokens())
            assert place.sub(tokens, key) == "alice"
            client.request("list")
            assert tokens().encode() in relay.seen
            assert tokens.tokens().refresh_token is None
        relay.close()
        second = place.store().load("work")
        private = dpop.load_key(place.rules.uri)
        audited = json.dumps(running.audited)
    assert second is not None
    secret = [first, str(second.refresh_token), place.server.client_secret]
    secret.append(str(private.to_jwk(private=True)["d"]))
    assert [text for text in secret if text.encode() in relay.seen] == []
    assert [text for text in (*secret, second.access_token) if text in audited] == []


# --- several accounts, and whose they are


def test_several_accounts(place: Place) -> None:
    """Each has its own tokens; one that is unknown and one of another user's are told alike."""
    rules = AgentRules((place.rules,), accounts=(AccountRules("closed", uids=[os.getuid() + 1]),))
    with place.running(rules=rules) as running:
        for account, sub in (("work", "alice"), ("bob", "bob"), ("closed", "carol")):
            place.log_in(running, account, sub=sub)
        key, client = running.key(), running.client()
        for account, sub in (("work", "alice"), ("bob", "bob")):
            assert place.sub(AgentTokens(account, client=client), key) == sub
        told = []
        for account in ("closed", "nowhere"):
            with pytest.raises(ReauthorizationError, match="dpop login --agent") as unknown:
                AgentTokens(account, client=client)()
            told.append(str(unknown.value).replace(account, "it"))
        assert told[0] == told[1]
        assert [each["account"] for each in client.request("list")["accounts"]] == ["bob", "work"]
        assert [each["account"] for each in client.request("status")["accounts"]] == ["bob", "closed", "work"]
        reasons = [event["reason"] for event in running.audited if event["event"] == "refused"]
    assert reasons == ["unknown_account"] * 2


def test_a_user_whom_the_rules_of_an_account_name(place: Place) -> None:
    """May have its tokens, without the right to its key; nobody but the agent's user hands a login in."""
    rules = AgentRules((place.rules,), accounts=(AccountRules("open", uids=[4242]), AccountRules("work")))
    with place.running(rules=rules) as running:
        for account in ("open", "work"):
            place.log_in(running, account)
        service = running.agent._service  # another user cannot be had everywhere
        peer = Peer(None, 4242, frozenset({4242}))
        assert service.admits(peer)
        assert not service.admits(Peer(None, 4243, frozenset()))
        seen = [answer(running, peer, op="token", account=account) for account in ("open", "work")]
        assert [("access_token" in each, each.get("error")) for each in seen] == [
            (True, None),
            (False, "unknown_account"),
        ]
        assert answer(running, peer, op="sign", key="work", input="e30.e30")["error"] == "unknown_key"
        login = {"account": "x", "key": "work", "token_endpoint": "https://as.example/token", "client_id": "c"}
        login |= {"access_token": "t", "token_type": "DPoP", "refresh_token": "r"}
        assert answer(running, peer, op="login", **login)["error"] == "denied"
        assert answer(running, peer, op="logout", account="open")["error"] == "denied"


def answer(running: Running, peer: Peer, **members: Any) -> dict[str, Any]:
    """What the agent responds to this peer."""
    try:
        request = read_request(json.dumps({"v": 1, **members}).encode())
        return dict(running.agent._service.respond(request, peer, "test"))
    except Refusal as refusal:
        return refusal.response()


def test_rules_of_accounts_in_a_file(place: Place) -> None:
    """Tables [accounts.NAME] say who may have the tokens; anything else there is a mistake."""
    path = place.folder / "agent.toml"
    start = f"[keys.work]\nuri='work.pem'\norigins=['{place.server.origin}']\n"
    path.write_text(f"{start}[accounts.work]\nuids=[1]\ngids=[2]")
    path.chmod(0o600)
    assert dpop.agent.read_rules(path).accounts == (AccountRules("work", [1], [2]),)
    for text, why in (
        (f"{start}[accounts.work]\nkey='work'", "expected a table of uids and gids"),
        (f"{start}[accounts.work]\nuids=['root']", "are numbers"),
        (f"{start}[accounts.'a b']\nuids=[1]", "the name of an account"),
        (f"accounts=1\n{start}", "something else is there"),
    ):
        path.write_text(text)
        with pytest.raises(UsageError, match=why):
            dpop.agent.read_rules(path)


# --- lock, and what goes on meanwhile


def test_a_locked_agent_gives_no_token_out(found: Running) -> None:
    """Not even one that is fresh; unlocked it goes on."""
    tokens = AgentTokens("work")
    first = tokens()
    found.agent.lock()
    with pytest.raises(AgentLockedError, match="dpop agent unlock"):
        tokens()
    found.agent.unlock()
    assert tokens() == first


class SlowEndpoint(TokenEndpoint):
    """A token endpoint whose responses come when the test wants them."""

    waits = threading.Event()
    go_on = threading.Event()

    def exchange(self, request: HTTPRequest) -> HTTPResponse:
        """Send it, and wait with the response."""
        response = super().exchange(request)
        if response.status == 200:
            self.waits.set()
            assert self.go_on.wait(60)
        return response


@pytest.fixture
def slow() -> Iterator[type[SlowEndpoint]]:
    """An endpoint that waits."""
    SlowEndpoint.waits.clear()
    SlowEndpoint.go_on.clear()
    yield SlowEndpoint
    SlowEndpoint.go_on.set()


def test_signatures_go_on_while_a_refresh_waits(place: Place, slow: type[SlowEndpoint]) -> None:
    """So do status, lock and unlock; a token that comes while the agent is locked is kept, and not given out."""
    with (
        place.running(logins=AgentLogins(place.folder / "logins", slow)) as running,
        ThreadPoolExecutor(1) as pool,
    ):
        before = place.log_in(running)
        waiting = pool.submit(AgentTokens("work", client=running.client()))
        assert slow.waits.wait(30)
        dpop.create_proof(running.key(), "GET", place.server.resource)
        running.client().request("status")
        running.client().request("lock")
        assert not waiting.done()
        slow.go_on.set()
        with pytest.raises(AgentLockedError):
            waiting.result(30)
        running.client().request("unlock")
        stored = place.store().load("work")
        assert stored is not None
        assert stored.refresh_token not in {None, before}
        assert AgentTokens("work", client=running.client())() == stored.access_token
    assert place.refreshes == 1


def test_a_token_that_cannot_be_noted_is_kept(place: Place) -> None:
    """The refreshed grant is stored before the record fails, so it is not lost; the token is not given out."""
    disk_full = [True]

    def audit(event: Mapping[str, Any]) -> None:
        if event["event"] == "token" and disk_full:
            raise OSError("No space left on device")

    with place.running(audit=audit) as running:
        before = place.log_in(running)
        tokens = AgentTokens("work", client=running.client())
        with pytest.raises(DPoPKeyError, match="so the token was not given out"):
            tokens()
        stored = place.store().load("work")
        assert stored is not None
        assert stored.refresh_token not in {None, before}
        disk_full.clear()
        assert tokens() == stored.access_token
    assert place.refreshes == 1


def test_a_logout_revokes_what_a_refresh_brings(place: Place, found: Running) -> None:
    """It waits for a refresh that is under way: otherwise the new refresh token would stay good, and nobody has it."""
    place.log_in(found, revocation_endpoint=place.server.revocation_endpoint)
    AgentTokens("work")()
    newer = place.server.issue_refresh_token(jkt=found.key().thumbprint, client_id=place.server.public_client_id)
    store, client = place.store(), found.client()
    logout = threading.Thread(target=lambda: client.request("logout", account="work", seconds=60))

    def revoked() -> list[bytes]:
        return [request.body for request in place.server.requests if request.endpoint == "revoke"]

    with locked(store.lock("work"), "work"):
        logout.start()
        before = store.load("work")
        assert before is not None
        look = time.monotonic() + 0.5
        while time.monotonic() < look and not revoked():
            time.sleep(0.01)
        assert store.replace(before, before.replace(refresh_token=newer), "work")
    logout.join(60)
    assert any(newer.encode() in body for body in revoked())
    assert store.load("work") is None


@pytest.mark.parametrize("failures", [1, 1000])
def test_tokens_that_could_not_be_saved(
    place: Place, found: Running, failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The status tells why until they are, and they are saved as soon as possible, also if no program asks again."""
    tokens, client = AgentTokens("work"), found.client()
    left, noted = [failures], list[bool]()
    write = file_store.write_private_file

    def full(*arguments: Any, **options: Any) -> None:
        if noted and left[0]:
            left[0] -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        noted.append(True)  # that a refresh is sent; what it brings finds the disk full
        write(*arguments, **options)

    old = tokens()
    monkeypatch.setattr(file_store, "write_private_file", full)
    tokens.refused(old)
    with pytest.raises(TokenError, match="No space left"):
        tokens()
    if failures > 1:
        (account,) = client.request("status")["accounts"]
        assert (account["state"], "No space left" in account["problem"]) == ("failing", True)
        left[0] = 0
        tokens()
    limit = time.monotonic() + 60
    while client.request("status")["accounts"][0]["problem"] is not None and time.monotonic() < limit:
        time.sleep(0.05)
    (account,) = client.request("status")["accounts"]
    assert (account["state"], account["problem"]) == ("fresh", None)
    stored = place.store().load("work")
    assert stored is not None
    assert stored.access_token != old


# --- tasks


async def _on_asyncio(work: Callable[[], Any], count: int) -> list[str]:
    return list(await asyncio.gather(*(work() for _ in range(count))))


async def _on_trio(work: Callable[[], Any], count: int) -> list[str]:
    seen: list[str] = []

    async def one() -> None:
        seen.append(await work())

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one)
    return seen


@pytest.mark.parametrize("library", ["asyncio", "trio"])
def test_tasks(place: Place, found: Running, library: str) -> None:
    """Hundreds of tasks wait on one connection, and get one token; a refused one is renewed once."""
    tokens = AgentTokens("work")

    def run(work: Callable[[], Any], count: int) -> list[str]:
        return asyncio.run(_on_asyncio(work, count)) if library == "asyncio" else trio.run(_on_trio, work, count)

    first = run(tokens.atoken, 300)
    assert (len(first), len(set(first)), place.refreshes) == (300, 1, 1)
    assert found.client().request("status")["connections"] < 10
    tokens.refused(first[0])
    second = run(tokens.atoken, 300)
    assert (len(set(second)), place.refreshes) == (1, 2)
    assert run(tokens.arenew, 1)[0] not in {first[0], second[0]}
    found.agent.lock()
    with pytest.raises((AgentLockedError, ExceptionGroup)):
        run(tokens.atoken, 2)
