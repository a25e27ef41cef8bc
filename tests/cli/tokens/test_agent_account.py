# SPDX-License-Identifier: Apache-2.0
"""``dpop login --agent`` and ``dpop logout --agent``: the agent keeps the login, and programs hold no secret."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from dpop_cli.commands.serve import first_line
from support.agents import API, agent_running, socket_folder
from support.cli_process import DPOP, environment, invoke
from support.token_commands import client_file

import dpop
from dpop.agent import AgentLogins, AgentTokens, KeyRules
from dpop.errors import AgentUnavailableError, ReauthorizationError
from dpop.requests import TokenEndpoint
from dpop.testing import DPoPTestServer
from dpop.tokens import FileTokenStore


@pytest.fixture
def server() -> Iterator[DPoPTestServer]:
    """A server at which devices may ask at once, and whose refresh tokens are good for one use."""
    with DPoPTestServer(device_interval=0, rotate_refresh_tokens=True) as running:
        running.levers.device_user = "agrees"
        yield running


@pytest.fixture
def folder(server: DPoPTestServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a user, who has a key and the description of a client."""
    with socket_folder() as path:
        monkeypatch.chdir(path)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
        monkeypatch.setenv("DPOP_STATE_DIR", str(path / "state"))
        monkeypatch.setattr(tempfile, "tempdir", str(path))
        dpop.generate_key().save("key.pem")
        client_file(server)
        yield path


@contextlib.contextmanager
def agent(*words: str) -> Iterator[subprocess.Popen[str]]:
    """An agent in the foreground, once it listens."""
    process = subprocess.Popen([*DPOP, "agent", *words], env=environment(), stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert "listens at" in process.stderr.readline()
        yield process
        assert invoke("agent", "stop").exit_code == 0
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def agent_here(folder: Path, *origins: str) -> Iterator[None]:
    """An agent in a thread of this process, where commands find it."""
    rules = KeyRules("work", str(folder / "key.pem"), origins)
    logins = AgentLogins(folder / "logins", TokenEndpoint)
    with agent_running(folder, rules, logins=logins) as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DPOP_AGENT_SOCK", str(running.path))
        yield


def arguments(server: DPoPTestServer) -> list[str]:
    """What an agent needs to be told."""
    return ["--key", "work=key.pem", "--origin", f"work={server.origin}", "--audit", "log"]


LOGIN = ("login", "--agent", "--key", "agent:work", "--client", "client.json")


def test_a_login_in_the_browser(server: DPoPTestServer, folder: Path) -> None:
    """Into the agent, which has it when it is started again; no file of the user's has the tokens; then logged out."""
    (folder / "browser.py").write_text("import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=30)")
    browser = {"BROWSER": f"{sys.executable} browser.py %s"}
    with agent(*arguments(server)):
        done = invoke(*LOGIN, "--scope", "read", env=browser)
        assert done.exit_code == 0, done.stderr
        assert 'AgentTokens("work")' in done.stderr
        assert "agent:work" in done.stdout
        assert "account work  fresh, DPoP until" in invoke("agent", "list").stdout
        tokens = AgentTokens("work")
        first = tokens()
        assert not (folder / "tokens.json").exists()
        shown = invoke("token", "show", "--agent", "--json")
        assert (json.loads(shown.stdout)["has_refresh_token"], first in shown.stdout) == (False, False), shown.stderr
        assert invoke("curl", "--agent", "-sfo", "me.json", server.resource).exit_code == 0
    with pytest.raises(AgentUnavailableError):
        tokens()
    with agent(*arguments(server), "--logins", str(folder / "state" / "agent")):
        assert tokens() == first
        assert tokens.renew() != first
        assert tokens.tokens().load_key().thumbprint == dpop.load_key("key.pem").thumbprint
        stored = FileTokenStore(folder / "state" / "agent" / "tokens.json").load("work")
        assert stored is not None
        out = invoke("logout", "--agent", "--key", "agent:work")
        assert (out.exit_code, "revoked and removed" in out.stderr) == (0, True), out.stderr
        with pytest.raises(ReauthorizationError):
            tokens()
        nothing = invoke("curl", "--agent", "-s", server.resource)
        assert (nothing.exit_code, "dpop login --agent adds one" in nothing.stderr) == (2, True), nothing.stderr
        assert "account" not in invoke("agent", "status").stdout
    log = (folder / "log").read_text()
    assert [text for text in (stored.access_token, str(stored.refresh_token), first) if text in log] == []
    assert {json.loads(line)["event"] for line in log.splitlines()} >= {"login", "logout", "token", "signed"}
    assert "revoke" in {request.endpoint for request in server.requests}


def test_several_accounts(server: DPoPTestServer, folder: Path) -> None:
    """A device login, and a client by itself, each under its name; ``--forget`` tells no server."""
    with agent_here(folder, server.origin):
        for account, way in (("phone", "--device"), ("robot", "--client-credentials")):
            done = invoke(*LOGIN, way, "--account", account, "--scope", "read")
            assert done.exit_code == 0, done.stderr
        assert AgentTokens("phone")() != AgentTokens("robot").renew()
        which = invoke("curl", "--agent", "-s", server.resource)
        assert (which.exit_code, "phone, robot; use --account" in which.stderr) == (2, True), which.stderr
        for words in (("--account", "phone"), ("--account", "robot", "--key", "agent:work")):
            called = invoke("curl", "--agent", *words, "-so", "me.json", server.resource, env={"DPOP_KEY": "other.pem"})
            assert (called.exit_code, json.loads(Path("me.json").read_text())["scheme"]) == (0, "DPoP"), called.stderr
        shown = invoke("token", "show", "--agent", "--account", "robot", "--access-token")
        assert shown.stdout == AgentTokens("robot")() + "\n"
        lines = invoke("headers", "GET", server.resource, "--agent", "--account", "phone", "--no-nonce").stdout
        assert "Authorization: DPoP " + AgentTokens("phone")() in lines.splitlines()
        assert [line.partition(":")[0] for line in lines.splitlines()] == ["DPoP", "Authorization"]
        unknown = invoke("curl", "--agent", "--account", "nobody", "-s", server.resource)
        assert (unknown.exit_code, "no account nobody" in unknown.stderr) == (1, True), unknown.stderr
        assert sorted(path.name for path in (folder / "logins").glob("tokens*")) == [
            "tokens.phone.json",
            "tokens.robot.json",
        ]
        out = invoke("logout", "--agent", "--forget", "--account", "phone", "--key", "agent:work")
        assert (out.exit_code, "no server was told" in out.stderr) == (0, True), out.stderr
    assert (folder / "logins").stat().st_mode & 0o777 == 0o700


def test_words_that_contradict_each_other(server: DPoPTestServer, folder: Path) -> None:
    """The message says what is missing, or one too many."""
    (folder / "token.txt").write_text("a-token")
    with agent_here(folder, server.origin):
        for words, why in (
            ((*LOGIN[:2], "--key", "key.pem", *LOGIN[4:]), "--key agent:NAME"),
            ((*LOGIN, "--token-store", "tokens.json"), "leave the token store out"),
            ((*LOGIN, "--account", "a/b", "--device"), "1 to 64 letters"),
            (("logout", "--agent", "--key", "agent:work"), "no login of the account work"),
            (("curl", "--agent", "--token-store", "t.json", "https://api.example/"), "leave the token store out"),
            (("curl", "--agent", "--token-file", "token.txt", "https://api.example/"), "or --agent, not both"),
            (("headers", "--agent", "--token-file", "token.txt", "GET", API), "or --agent, not both"),
            (("headers", "--account", "work", "GET", API), "belongs to --agent"),
        ):
            done = invoke(*words)
            assert (done.exit_code, why in " ".join(done.stderr.split())) == (2, True), done.stderr


def test_what_the_agent_cannot_keep_is_found_out_before_the_user_is_asked(server: DPoPTestServer, folder: Path) -> None:
    """A key that is not for the server, and a client that authenticates by a key of its own."""
    dpop.generate_key().save("client.pem")
    with agent_here(folder, "https://api.example"):
        done = invoke(*LOGIN, "--device")
        assert (done.exit_code, f"--origin work={server.origin}" in done.stderr) == (2, True), done.stderr
    facts = {**first_line(server), "client_key": "client.pem"}
    del facts["client_secret"]
    (folder / "client.json").write_text(json.dumps(facts), "ascii")
    with agent_here(folder, server.origin):
        done = invoke(*LOGIN, "--device")
        assert (done.exit_code, "dpop token refresher" in done.stderr) == (2, True), done.stderr
    assert "device_authorization" not in {request.endpoint for request in server.requests}


def test_tokens_that_the_agent_does_not_take_are_not_lost(server: DPoPTestServer, folder: Path) -> None:
    """When its disk fails between the check and the login, the tokens are in a file, and the message says where."""
    with agent_here(folder, server.origin):
        (folder / "logins").write_text("")
        done = invoke(*LOGIN, "--device")
    assert done.exit_code != 0
    (kept,) = folder.glob("dpop-tokens-*/tokens.work.json")
    tokens = FileTokenStore(kept.with_name("tokens.json")).load("work")
    assert tokens is not None
    assert tokens.refresh_token is not None
    assert f"--token-store {kept.with_name('tokens.json')} --account work" in " ".join(done.stderr.split())
    assert tokens.refresh_token not in done.stderr
