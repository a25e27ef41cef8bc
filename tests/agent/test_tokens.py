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
import requests
import trio
from support.agents import Running, agent_running, rules_of

import dpop
from dpop.agent import AccountRules, AgentClient, AgentKey, AgentLogins, AgentRules, AgentTokens, KeyRules
from dpop.agent._peer import Peer
from dpop.agent._protocol import Refusal, read_request
from dpop.errors import (
    AgentLockedError,
    AgentRefusedError,
    AgentUnavailableError,
    ArgumentTypeError,
    DPoPKeyError,
    ReauthorizationError,
    TokenEndpointUnavailableError,
    TokenError,
    TokenFormatError,
    TokenStoreError,
    UsageError,
)
from dpop.requests import DPoPAdapter, TokenEndpoint
from dpop.testing import DPoPTestServer
from dpop.tokens import FileTokenStore, HTTPRequest, HTTPResponse, MemoryTokenStore, TokenSet, locked
from dpop.tokens import _file_store as file_store


class Place:
    """A server, a folder, and the rules and logins of an agent."""

    def __init__(self, folder: Path, server: DPoPTestServer) -> None:
        self.folder = folder
        self.server = server
        self.rules = rules_of(folder, origins=[server.origin])

    @property
    def logins(self) -> AgentLogins:
        """The logins, as a new agent reads them."""
        return AgentLogins(self.folder / "logins", TokenEndpoint)

    def store(self) -> FileTokenStore:
        """What the agent keeps."""
        return FileTokenStore(self.folder / "logins" / "tokens.json")

    def running(self, *rules: KeyRules, **more: Any) -> Any:
        """The agent."""
        return agent_running(self.folder, *rules or (self.rules,), **{"logins": self.logins, **more})

    def log_in(self, running: Running, account: str = "work", *, sub: str = "alice", **more: Any) -> str:
        """Hand a login to the agent, whose access token has expired; return its refresh token."""
        client = more.get("client_id", self.server.public_client_id)
        refresh_token = self.server.issue_refresh_token(jkt=running.key().thumbprint, sub=sub, client_id=client)
        members = {
            "account": account,
            "key": "work",
            "token_endpoint": self.server.token_endpoint,
            "client_id": client,
            "access_token": "expired",
            "token_type": "DPoP",
            "issued_at": 0,
            "expires_at": 1,
            "refresh_token": refresh_token,
        }
        given = {name: value for name, value in (members | more).items() if value is not None}
        with running.client() as agent:
            agent.request("login", **given)
        return refresh_token

    @property
    def refreshes(self) -> int:
        """How many refreshes the server served."""
        return sum(
            request.endpoint == "token" and request.status == 200 and b"grant_type=refresh_token" in request.body
            for request in self.server.requests
        )

    def sub(self, tokens: AgentTokens, key: AgentKey) -> str:
        """Whose token it is, as the API sees it."""
        with requests.Session() as session:
            session.mount(
                self.server.origin,
                DPoPAdapter(key, origins=self.server.origin, access_token=tokens, renew_refused=True),
            )
            return str(session.get(self.server.resource, timeout=30).json()["sub"])


@pytest.fixture
def place(folder: Path) -> Iterator[Place]:
    """A server, and where an agent runs."""
    with DPoPTestServer(rotate_refresh_tokens=True) as server:
        yield Place(folder, server)


@pytest.fixture
def found(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """An agent with the account ``work``, where programs find it."""
    with place.running() as running:
        monkeypatch.setenv("DPOP_AGENT_SOCK", os.fspath(running.path))
        place.log_in(running)
        yield running


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


# --- the life of a login


def test_a_restarted_agent_keeps_the_login(place: Place) -> None:
    """Its programs go on: with the same token, and with a new one when it is refused."""
    with place.running() as running:
        place.log_in(running)
        tokens = AgentTokens("work", client=running.client())
        first = tokens()
    with pytest.raises(AgentUnavailableError, match="dpop agent start"):
        tokens()
    with place.running():
        assert tokens() == first
        tokens.refused(first)
        assert tokens() != first
    assert place.refreshes == 2
    assert [path.stat().st_mode & 0o777 for path in (place.folder / "logins").iterdir()] == [0o600] * 4


def test_an_agent_without_the_key_has_no_such_account(place: Place) -> None:
    """A login is of use to the agent only that has its key."""
    with place.running() as running:
        place.log_in(running)
    with place.running(rules_of(place.folder, "other", origins=[place.server.origin])) as running:
        assert running.client().request("status")["accounts"] == []
        with pytest.raises(ReauthorizationError):
            AgentTokens("work", client=running.client())()


def test_tokens_are_renewed_before_they_are_needed(place: Place) -> None:
    """Without anybody who asks: when two thirds of their life are over."""
    now = time.time()
    with place.running() as running:
        place.log_in(running, issued_at=now - 3000, expires_at=now + 600)
        due = time.monotonic() + 30
        while place.refreshes == 0 and time.monotonic() < due:
            time.sleep(0.01)
        assert place.refreshes == 1
        assert [event["event"] for event in running.audited] == ["login", *["signed"] * (len(running.audited) - 1)]


@pytest.mark.parametrize("step", [-7200.0, 7200.0])
def test_a_clock_that_is_set_while_a_login_is_kept(place: Place, step: float) -> None:
    """While it is wrong, the server refuses what the agent signs; when it is right again, a refresh goes through.

    The agent signs for its own clock in both, learns no other time from the server, and loses no refresh token.
    """
    offset = 0.0

    def clock() -> float:
        return time.time() + offset

    with place.running(clock=clock) as running:
        place.log_in(running, access_token="first", issued_at=clock(), expires_at=clock() + 3600)
        tokens = AgentTokens("work", client=running.client())
        assert tokens() == "first"
        offset = step
        for _ in range(2):
            with pytest.raises(TokenEndpointUnavailableError, match="check the clock; the tokens are unchanged"):
                tokens.renew()
        offset = 0.0
        due = time.monotonic() + 60
        renewed = None
        while renewed is None and time.monotonic() < due:  # a failed refresh is not repeated for a second or so
            with contextlib.suppress(TokenEndpointUnavailableError):
                renewed = tokens.renew()
            time.sleep(0.05)
        assert renewed not in {None, "first"}
        assert tokens() == renewed
        assert {event["reason"] for event in running.audited if event["event"] == "refused"} == {
            TokenEndpointUnavailableError.code
        }  # and not by the agent's own rule about time


def test_a_login_that_has_ended(place: Place, found: Running) -> None:
    """The reader is told to log in again, the status says so, and a new login ends that. ``logout`` removes it."""
    stored = place.store().load("work")
    tokens, client = AgentTokens("work"), found.client()
    tokens()
    stored = place.store().load("work")
    assert stored is not None
    place.server.revoke(str(stored.refresh_token))
    tokens.refused(stored.access_token)
    with pytest.raises(ReauthorizationError, match="invalid_grant"):
        tokens()
    assert client.request("list")["accounts"][0]["state"] == "dead"
    place.log_in(found)
    assert tokens()
    client.request("logout", account="work")
    assert place.store().accounts() == []
    with pytest.raises(UsageError, match="no login"):
        client.request("logout", account="work")
    with pytest.raises(ReauthorizationError):
        tokens()
    assert [event["event"] for event in found.audited if event["event"].startswith("log")] == [
        "login",
        "login",
        "logout",
    ]


def test_a_logout_revokes_the_tokens(place: Place, found: Running) -> None:
    """Where the server has an endpoint for that; if it fails, the login stays, and ``forget`` only removes it."""
    client = found.client()
    place.log_in(found, revocation_endpoint=place.server.revocation_endpoint)
    token = AgentTokens("work")()
    place.server.levers.fail_next(10, status=503, path="/revoke")
    with pytest.raises(TokenError, match="503"):
        client.request("logout", account="work")
    assert AgentTokens("work")() == token
    place.server.levers.clear()
    assert client.request("logout", account="work")["revoked"] is True
    revoked = [request for request in place.server.requests if request.endpoint == "revoke" and request.status == 200]
    assert len(revoked) >= 1
    place.log_in(found, revocation_endpoint=place.server.revocation_endpoint)
    assert client.request("logout", account="work", forget=True)["revoked"] is False


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


def test_a_server_that_is_down(place: Place, found: Running) -> None:
    """The error that the agent met reaches the reader, with its kind and its wait; a good token is given on."""
    place.server.levers.fail_next(100, status=503, retry_after=7)
    with pytest.raises(TokenEndpointUnavailableError) as failed:
        AgentTokens("work")()
    assert failed.value.retry_after == 7


def test_a_store_that_fails(place: Place) -> None:
    """The agent's own user sees why in the status; another user gets no path of the agent's."""
    rules = rules_of(place.folder, origins=[place.server.origin], confirm=True)  # so that nothing is renewed meanwhile
    with place.running(rules) as running:
        place.log_in(running)
        (place.folder / "logins" / "tokens.work.json").write_text("{")
        with pytest.raises(TokenFormatError, match=r"tokens\.work\.json"):
            AgentTokens("work", client=running.client())()
        (account,) = running.client().request("status")["accounts"]
        assert (account["state"], "tokens.work.json" in account["problem"]) == ("unreadable", True)
        assert "tokens.work.json" not in json.dumps(running.client().request("list"))
        answered = running.agent._service._token_failed(TokenFormatError("in /srv/x"), Peer(None, 4242, frozenset()))
        assert "/srv" not in answered.message


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


def test_a_login_that_cannot_be_noted_is_not_kept(place: Place) -> None:
    """For its client is told of a failure, and then keeps the tokens itself."""

    def audit(event: Mapping[str, Any]) -> None:
        raise OSError("No space left on device")

    with place.running(audit=audit) as running:
        with pytest.raises(DPoPKeyError, match="audit log cannot be written"):
            place.log_in(running)
        assert running.client().request("list")["accounts"] == []


@pytest.mark.parametrize(
    ("change", "error", "why"),
    [
        ({"token_endpoint": "https://evil.example/token"}, AgentRefusedError, "do not name https://evil.example"),
        ({"revocation_endpoint": "https://evil.example/"}, AgentRefusedError, "do not name https://evil.example"),
        ({"refresh_token": None}, UsageError, "needs a refresh token"),
        ({"client_auth": "client_secret_basic"}, UsageError, "client_secret is missing"),
        ({"client_auth": "private_key_jwt"}, UsageError, "needs client_key"),
        ({"client_auth": "tls_client_auth"}, UsageError, "client_auth must be"),
        ({"profile": "no-such"}, UsageError, "profile"),
        ({"key": "other"}, DPoPKeyError, "no key other"),
        ({"account": "../x"}, UsageError, "account"),
        ({"expires_at": -1}, UsageError, "expires_at"),
        ({"access_token": "a b"}, UsageError, "access_token"),
        ({"refresh_token": "r" * 13_000}, UsageError, "too long"),
        ({"more": 1}, UsageError, "not known"),
    ],
)
def test_a_login_that_is_not_taken(place: Place, change: dict[str, Any], error: type[Exception], why: str) -> None:
    """Nothing of it is kept, and the error says why."""
    with place.running() as running:
        with pytest.raises(error, match=why):
            place.log_in(running, **change)
        assert running.client().request("list")["accounts"] == []
    assert not (place.folder / "logins").exists()


def test_an_agent_that_keeps_no_logins(place: Place) -> None:
    """It says so."""
    with place.running(logins=None) as running, pytest.raises(UsageError, match="--logins"):
        place.log_in(running)


def test_a_client_that_gets_tokens_for_itself(place: Place) -> None:
    """Without a refresh token: the agent asks for new ones by the grant of the login."""
    own = {"client_id": place.server.client_id, "client_secret": place.server.client_secret, "scope": "read"}
    with place.running() as running:
        place.log_in(running, refresh_token=None, grant="client_credentials", **own)
        first = AgentTokens("work", client=running.client())
        assert first.tokens().scope == "read"
        assert first.renew() != first.tokens().refresh_token


def test_tokens_that_are_bound_to_no_key(folder: Path) -> None:
    """Where only the refresh token is bound, as at Google, the reader sends the access token as Bearer."""
    with DPoPTestServer(bound_tokens=False) as server:
        place = Place(folder, server)
        with place.running() as running:
            place.log_in(running, token_type="Bearer")
            token = AgentTokens("work", client=running.client())
            assert isinstance(token(), dpop.BearerToken)
            assert token.tokens().key_reference is None
            assert place.sub(token, running.key()) == "alice"


@pytest.mark.parametrize("damage", ["open", "text", "members", "file"])
def test_logins_that_others_could_change_or_that_are_damaged(place: Place, damage: str) -> None:
    """The agent does not start with them, and says what to do."""
    with place.running() as running:
        place.log_in(running)
    folder = place.folder / "logins"
    error: type[Exception] = TokenFormatError
    if damage == "open":
        folder.chmod(0o755)
        error = TokenStoreError
    elif damage == "file":
        (folder / "clients.json").unlink()
        (folder / "clients.json").mkdir()
        error = TokenStoreError
    else:
        (folder / "clients.json").write_text("{" if damage == "text" else '{"work":1}')
    with pytest.raises(error, match=r"chmod 700|damaged|cannot be read"), place.running():
        pass


def test_logins_elsewhere(tmp_path: Path) -> None:
    """Their folder is named by an absolute path."""
    with pytest.raises(UsageError, match="absolute"):
        AgentLogins("logins", TokenEndpoint)
    assert AgentLogins(tmp_path, TokenEndpoint).folder == tmp_path
    assert repr(AgentLogins(tmp_path, TokenEndpoint)) == f"<AgentLogins in {tmp_path}>"


# --- while the agent is away


def test_no_agent_and_no_fallback(folder: Path) -> None:
    """The reader is told where the agent was looked for, and how to start it."""
    tokens = AgentTokens("work", client=AgentClient(folder / "none.sock"))
    with pytest.raises(AgentUnavailableError, match=r"none\.sock; start it with: dpop agent start"):
        tokens()
    assert repr(tokens) == "<AgentTokens of 'work'>"
    assert tokens.account == "work"
    with pytest.raises(UsageError, match="name of an account"):
        AgentTokens("a/b")
    with pytest.raises(ArgumentTypeError, match="fallback"):
        AgentTokens("work", fallback="tokens.json")  # type: ignore[arg-type]


def test_the_fallback_is_a_store(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """While the agent is away its token is used, once with a warning; when the agent is back, it counts again."""
    store, now = MemoryTokenStore(), time.time()
    with place.running() as running:
        place.log_in(running)
        tokens = AgentTokens("work", client=running.client(), fallback=store)
        of_agent = tokens()
    with pytest.raises(AgentUnavailableError, match="The fallback has no token that can be used either"):
        tokens()
    store.save(TokenSet(access_token="stored", refresh_token="r", expires_at=now + 600), "work")
    assert (tokens(), tokens()) == ("stored", "stored")
    assert tokens.tokens().refresh_token is None
    assert [record.getMessage().count("those of its fallback") for record in caplog.records] == [1]
    tokens.refused("stored")
    with pytest.raises(AgentUnavailableError, match="no token that can be used"):
        tokens()
    store.save(TokenSet(access_token="old", expires_at=now + 1), "work")
    with pytest.raises(AgentUnavailableError, match=r"dpop agent start.*no token that can be used"):
        tokens()
    with place.running():
        assert tokens() == of_agent


def test_a_fallback_that_cannot_be_read(folder: Path) -> None:
    """The error says both: that the agent is away, and what is wrong with the fallback."""
    (folder / "tokens.work.json").write_text("{")
    store = FileTokenStore(folder / "tokens.json")
    tokens = AgentTokens("work", client=AgentClient(folder / "none.sock"), fallback=store)
    with pytest.raises(AgentUnavailableError, match=r"none\.sock.*The fallback has no token either: the token file"):
        tokens()


def test_the_fallback_is_a_source(folder: Path) -> None:
    """It is asked, and told when its token was refused."""

    class Source:
        """A token source."""

        token = dpop.BearerToken("one")

        def __call__(self) -> str:
            return self.token

        def refused(self, token: str, /) -> None:
            assert token == "one"
            self.token = dpop.BearerToken("two")

    tokens = AgentTokens("work", client=AgentClient(folder / "none.sock"), fallback=Source())
    assert (tokens(), type(tokens())) == ("one", dpop.BearerToken)
    tokens.refused("one")
    assert (tokens(), tokens()) == ("two", "two")
    wrong = AgentTokens("work", client=AgentClient(folder / "none.sock"), fallback=lambda: 1)  # type: ignore[arg-type, return-value]
    with pytest.raises(AgentUnavailableError, match="must be str"):
        wrong()


def test_a_locked_agent_is_not_away(found: Running) -> None:
    """Somebody locked it on purpose, so no fallback is used."""
    found.agent.lock()
    with pytest.raises(AgentLockedError):
        AgentTokens("work", fallback=lambda: "stored")()


def test_what_is_no_agent(folder: Path) -> None:
    """Something else that listens there is named as such."""
    place = folder / "other.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(os.fspath(place))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                text = b'{"v":1,"access_token":5}'
                connection.sendall(len(text).to_bytes(4, "big") + text)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(AgentUnavailableError, match="is it the agent"):
            AgentTokens("work", client=AgentClient(place))()
        thread.join(30)


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
