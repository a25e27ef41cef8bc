# SPDX-License-Identifier: Apache-2.0
"""The life of a login in the agent: handed in, refreshed ahead, kept over restarts, ended, revoked, or not taken."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.agents import Place, Running, rules_of

import dpop
from dpop.agent import AgentLogins, AgentTokens
from dpop.agent._peer import Peer
from dpop.errors import (
    AgentRefusedError,
    AgentUnavailableError,
    DPoPKeyError,
    ReauthorizationError,
    TokenEndpointUnavailableError,
    TokenError,
    TokenFormatError,
    TokenStoreError,
    UsageError,
)
from dpop.requests import TokenEndpoint
from dpop.testing import DPoPTestServer


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
