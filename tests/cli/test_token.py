# SPDX-License-Identifier: Apache-2.0
"""`dpop token`: log in with a browser, keep tokens in the library's store, renew them, give them back."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import click
import pytest
import requests
from dpop_cli.serve import first_line
from dpop_cli.token import token
from support.cli_process import DPOP, environment, examples, invoke, run, run_script

import dpop
from dpop.requests import TokenEndpoint
from dpop.testing import DPoPTestServer
from dpop.tokens import FileTokenStore, ServerMetadata, TokenSet

# A browser: its user agrees at once. webbrowser runs it as a command of BROWSER.
_BROWSER = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=30)"


@pytest.fixture(params=["rfc9449", "google"])
def server(request: pytest.FixtureRequest) -> Iterator[DPoPTestServer]:
    """A server of each kind."""
    with DPoPTestServer(mode=request.param) as running:
        yield running


@pytest.fixture
def plain() -> Iterator[DPoPTestServer]:
    """A server by the book, whose refresh tokens change with each use."""
    with DPoPTestServer(rotate_refresh_tokens=True) as running:
        yield running


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory with a key."""
    monkeypatch.chdir(tmp_path)
    dpop.generate_key().save("key.pem")


def client_file(server: DPoPTestServer) -> dict[str, str]:
    """The first line of dpop serve --json describes the client; DPOP_CLIENT names it."""
    Path("client.json").write_text(json.dumps(first_line(server)), "ascii")
    return {"DPOP_CLIENT": "client.json"}


def browser() -> dict[str, str]:
    """The environment in which there is a browser."""
    Path("browser.py").write_text(_BROWSER, "ascii")
    return {"BROWSER": f"{sys.executable} browser.py %s"}


def stored(server: DPoPTestServer, account: str = "default", **changes: Any) -> TokenSet:
    """Tokens in tokens.json, as a program that uses the library would have stored them."""
    metadata = ServerMetadata(token_endpoint=server.token_endpoint)
    key = dpop.load_key("key.pem")
    with TokenEndpoint(
        key,
        metadata,
        client_id=server.client_id,
        client_secret=server.client_secret,
        profile=dpop.profiles.GOOGLE if server.mode == "google" else dpop.profiles.RFC9449,
    ) as endpoint:
        tokens = endpoint.refresh(server.issue_refresh_token(jkt=key.thumbprint, client_id=server.client_id))
    tokens = tokens.replace(**changes)
    FileTokenStore("tokens.json").save(tokens, account)
    return tokens


def load(account: str = "default") -> TokenSet:
    """What is in tokens.json."""
    tokens = FileTokenStore("tokens.json").load(account)
    assert tokens is not None
    return tokens


def secrets_in(text: str, tokens: TokenSet) -> list[str]:
    """The tokens that a text shows."""
    return [each for each in (tokens.access_token, tokens.refresh_token) if each and each in text]


# --- login


def test_a_login(server: DPoPTestServer) -> None:
    """Browser, loopback, PKCE, state; the store is the library's, private, and shown without secrets."""
    env = {**client_file(server), **browser()}
    done = run("token", "login", "--key", "key.pem", "--scope", "read write", env=env)
    assert done.returncode == 0, done.stderr
    tokens = load()
    key = dpop.load_key("key.pem")
    assert (tokens.jkt, tokens.key_reference) == (key.thumbprint, str(Path("key.pem").absolute()))
    assert tokens.scopes == {"read", "write"}
    assert tokens.is_bound == (server.mode == "rfc9449")
    assert Path("tokens.json").stat().st_mode & 0o777 == 0o600
    assert secrets_in(done.stdout + done.stderr, tokens) == []
    assert "key.pem" in done.stdout
    shown = run("token", "show", "--json")
    assert json.loads(shown.stdout)["jkt"] == key.thumbprint
    assert secrets_in(shown.stdout + run("token", "show").stdout, tokens) == []
    assert run("token", "show", "--access-token").stdout == f"{tokens.access_token}\n"
    assert len(secrets_in(run("token", "show", "--secrets").stdout, tokens)) == 2
    # And it is used: a Bearer token as such, a bound one with a proof, without naming key or client.
    called = run("curl", "--token-store", "tokens.json", "-s", server.resource)
    assert json.loads(called.stdout)["scheme"] == ("DPoP" if tokens.is_bound else "Bearer")


class Login:
    """A login that waits for a browser, which is the test."""

    def __init__(self, env: Mapping[str, str], *options: str) -> None:
        self.process = subprocess.Popen(
            [*DPOP, "token", "login", "--key", "key.pem", "--no-browser", *options],
            env=environment(**env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said = ""

    def url(self) -> str:
        """What it tells the user to open."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said += line
            if line.startswith("  http"):
                return line.strip()
        raise AssertionError(self.said)

    def end(self) -> int:
        """Its exit status, when all is said."""
        out, error = self.process.communicate(timeout=60)
        self.said += out + error
        return self.process.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def test_strangers_at_the_loopback_are_sent_away(plain: DPoPTestServer) -> None:
    """Wrong state, no state, another path, another Host, a POST: the login goes on waiting, and then works."""
    with Login(client_file(plain)) as login:
        callback = requests.get(login.url(), allow_redirects=False, timeout=30).headers["Location"]
        origin = callback.partition("?")[0]
        wrong = re.sub("state=[^&]*", "state=wrong", callback)
        assert requests.get(wrong, timeout=30).status_code == 400
        assert requests.get(f"{origin}?code=mine", timeout=30).status_code == 400
        assert requests.get(f"{origin}favicon.ico", timeout=30).status_code == 404
        assert requests.get(callback, headers={"Host": "evil.example"}, timeout=30).status_code == 400
        assert requests.post(callback, timeout=30).status_code == 501
        parts = urlsplit(callback)
        silent = socket.create_connection((str(parts.hostname), parts.port or 0))
        hung_up = HTTPConnection(str(parts.hostname), parts.port or 0)
        hung_up.request("GET", f"/?{'x' * 100}")
        hung_up.close()
        silent.close()
        response = requests.get(callback, timeout=30)
        assert (response.status_code, "logged in" in response.text) == (200, True)
        assert response.headers["Cache-Control"] == "no-store"
        assert login.end() == 0, login.said
    assert load().refresh_token


def test_a_user_who_says_no(plain: DPoPTestServer) -> None:
    """The terminal says so, with status 1; nothing is stored."""
    with Login(client_file(plain)) as login:
        location = requests.get(login.url(), allow_redirects=False, timeout=30).headers["Location"]
        state = re.search("state=[^&]*", location)
        assert state
        query = f"error=access_denied&{state[0]}&iss={plain.issuer}"
        response = requests.get(f"{location.partition('?')[0]}?{query}", timeout=30)
        assert "refused" in response.text
        assert login.end() == 1
    assert "access_denied" in login.said
    assert not Path("tokens.json").exists()


def test_an_exchange_that_fails(plain: DPoPTestServer) -> None:
    """The browser does not say that all went well."""
    with Login(client_file(plain)) as login:
        location = requests.get(login.url(), allow_redirects=False, timeout=30).headers["Location"]
        plain.levers.refuse_next(error="invalid_grant", path="/token")
        assert "refused" in requests.get(location, timeout=30).text
        assert login.end() == 1
    assert "invalid_grant" in login.said


def test_a_store_that_cannot_be_written_is_noticed_before_the_user_is_asked(plain: DPoPTestServer) -> None:
    """Status 3, and no request."""
    done = run("token", "login", "--key", "key.pem", "--store", "none/tokens.json", env=client_file(plain))
    assert (done.returncode, plain.requests) == (3, [])


def test_nobody_comes(plain: DPoPTestServer) -> None:
    """The wait has an end."""
    done = run("token", "login", "--key", "key.pem", "--no-browser", "--timeout", "1", env=client_file(plain))
    assert done.returncode == 1
    assert "within 1 s" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--redirect-uri", "https://app.example/"], "127.0.0.1"),
        (["--client-id", "app"], "which server"),
        (["--issuer", "https://as.example"], "which client"),
        (["--client", "client.json"], "client_id"),
        (["--param", "prompt", "--client-id", "app", "--profile", "google"], "NAME=VALUE"),
        (["--token-endpoint", "http://as.example/token", "--client-id", "app"], "unencrypted"),
    ],
)
def test_what_cannot_be(options: list[str], words: str) -> None:
    """Each is refused before anything is sent, with what was expected."""
    Path("client.json").write_text("{}", "ascii")
    done = invoke("token", "login", "--key", "key.pem", *options)
    assert done.exit_code == 2
    assert words in done.stderr


def test_discovery(plain: DPoPTestServer) -> None:
    """With --issuer and a public client; pushed, as the metadata say."""
    options = ["--issuer", plain.issuer, "--client-id", plain.public_client_id, "--key", "key.pem"]
    done = run("token", "login", *options, env=browser())
    assert done.returncode == 0, done.stderr
    done = run("token", "refresh")
    assert done.returncode == 0, done.stderr
    done = run("token", "revoke", "--issuer", plain.issuer)
    assert done.returncode == 0, done.stderr


# --- redeem, refresh, revoke


def test_redeem(server: DPoPTestServer) -> None:
    """A code from elsewhere, from a file; at a server of Google's kind with the jti that it wants."""
    redirect_uri = "http://127.0.0.1/callback"
    Path("code.txt").write_text(f"{server.issue_code(redirect_uri=redirect_uri)}\n", "ascii")
    options = ["--key", "key.pem", "--code-file", "code.txt", "--redirect-uri", redirect_uri]
    done = run("token", "redeem", *options, env=client_file(server))
    assert done.returncode == 0, done.stderr
    assert load().refresh_token
    assert run("token", "redeem", "--key", "key.pem", env=client_file(server)).returncode == 2


def test_refresh(server: DPoPTestServer) -> None:
    """Without naming the key: the store knows it. The nonce is kept for the next command, so nothing is wasted."""
    before = stored(server)
    env = client_file(server)
    for _ in range(2):
        done = run("token", "refresh", env=env)
        assert done.returncode == 0, done.stderr
    assert load().access_token != before.access_token
    assert server.stats.challenges <= 2
    now = load()
    assert run("token", "refresh", "--if-needed", env=env).returncode == 0
    assert load() == now


def test_a_refresh_token_from_elsewhere(plain: DPoPTestServer) -> None:
    """It begins a store."""
    jkt = dpop.load_key("key.pem").thumbprint
    env = {**client_file(plain), "R": plain.issue_refresh_token(jkt=jkt, client_id=plain.client_id)}
    done = run("token", "refresh", "--key", "key.pem", "--refresh-token-env", "R", env=env)
    assert done.returncode == 0, done.stderr
    assert load().jkt == jkt


def test_another_key_is_refused_before_anything_is_sent(plain: DPoPTestServer) -> None:
    """By its thumbprint, with status 3."""
    stored(plain)
    sent = len(plain.requests)
    dpop.generate_key().save("other.pem")
    done = run("token", "refresh", "--key", "other.pem", env=client_file(plain))
    assert (done.returncode, len(plain.requests)) == (3, sent)
    # DPOP_KEY is for commands that have no other way to know.
    done = run("token", "refresh", env={**client_file(plain), "DPOP_KEY": "other.pem"})
    assert done.returncode == 0, done.stderr


def test_a_dead_refresh_token(plain: DPoPTestServer) -> None:
    """Status 1; the refusal is noted, shown, and not asked for again."""
    stored(plain)
    plain.levers.refuse_next(error="invalid_grant", path="/token")
    env = client_file(plain)
    assert run("token", "refresh", env=env).returncode == 1
    sent = len(plain.requests)
    done = run("token", "refresh", env=env)
    assert (done.returncode, len(plain.requests)) == (1, sent)
    assert "dpop token login" in run("token", "show").stdout


def test_revoke(server: DPoPTestServer) -> None:
    """At the server, and then here; with --forget only here."""
    stored(server)
    done = run("token", "revoke", env=client_file(server))
    assert done.returncode == 0, done.stderr
    assert server.requests[-1].endpoint == "revoke"
    assert not Path("tokens.json").exists()
    stored(server)
    sent = len(server.requests)
    assert run("token", "revoke").returncode == 2
    assert Path("tokens.json").exists()
    assert run("token", "revoke", "--forget").returncode == 0
    assert (Path("tokens.json").exists(), len(server.requests)) == (False, sent)


def test_nothing_is_stored() -> None:
    """Each command says so, with status 3; another account's name is a hint."""
    for command in ("show", "refresh", "revoke", "refresher"):
        done = run("token", command)
        assert (done.returncode, "login" in done.stderr) == (3, True), done.stderr


def test_accounts_and_a_password(plain: DPoPTestServer) -> None:
    """Tokens of several users, encrypted; without the password nothing is shown."""
    tokens = stored(plain)
    Path("tokens.json").unlink()
    FileTokenStore("tokens.json", password="correct horse").save(tokens, "alice")
    env = {"P": "correct horse"}
    done = run("token", "show", "--account", "alice", "--store-password-env", "P", env=env)
    assert (done.returncode, "alice" in done.stdout) == (0, True)
    assert run("token", "show", "--account", "alice").returncode == 3
    assert "'alice'" in run("token", "show", "--store-password-env", "P", env=env).stderr


def test_tokens_that_cannot_be_stored_are_put_elsewhere(plain: DPoPTestServer, tmp_path: Path) -> None:
    """The disk of the store is full when the answer comes: this process has the only copy, and is about to end."""
    stored(plain)
    script = (
        "import dpop.tokens._file_store as f, runpy, sys\n"
        "write, count = f.FileTokenStore._write, []\n"
        "def full(self, tokens, account):\n"
        "    count.append(1)\n"
        "    if str(self.path).endswith('work/tokens.json') and len(count) > 1:\n"
        "        raise f.TokenStoreError('no space left')\n"
        "    write(self, tokens, account)\n"
        "f.FileTokenStore._write = full\n"
        "sys.argv[0] = 'dpop'; runpy.run_module('dpop_cli', run_name='__main__')\n"
    )
    Path("work").mkdir()
    Path("tokens.json").rename("work/tokens.json")
    (tmp_path / "spare").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", script, "token", "refresh", "--store", "work/tokens.json"],
        env=environment(**client_file(plain), TMPDIR=str(tmp_path / "spare")),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    (rescued,) = (tmp_path / "spare").glob("dpop-tokens-*/tokens.json")
    tokens = FileTokenStore(rescued).load()
    assert tokens is not None
    assert str(rescued) in done.stderr.replace("\n", "")
    assert secrets_in(done.stderr, tokens) == []


# --- use


def test_curl_refreshes_by_itself(server: DPoPTestServer) -> None:
    """An expired token before the request; a refused one and the request again."""
    before = stored(server, issued_at=0.0, expires_at=1.0)
    env = client_file(server)
    called = run("curl", "--token-store", "tokens.json", "-s", server.resource, env=env)
    assert json.loads(called.stdout)["sub"] == "alice", called.stderr
    fresh = load()
    assert fresh.access_token != before.access_token
    server.levers.refuse_next(path="/resource")
    called = run("curl", "--token-store", "tokens.json", "-s", server.resource, env=env)
    assert json.loads(called.stdout)["sub"] == "alice", called.stderr
    assert load().access_token != fresh.access_token
    assert secrets_in(called.stderr, load()) == []


def test_curl_with_a_store_and_a_token(plain: DPoPTestServer) -> None:
    """Two tokens are one too many; a store without tokens is said."""
    stored(plain)
    Path("token.txt").write_text("token", "ascii")
    both = ["--token-store", "tokens.json", "--token-file", "token.txt"]
    assert run("curl", *both, plain.resource).returncode == 2
    assert run("curl", "--token-store", "none.json", plain.resource).returncode == 3
    assert run("curl", "--account", "alice", "--key", "key.pem", plain.resource).returncode == 2


def test_the_refresher(plain: DPoPTestServer) -> None:
    """Two accounts: it renews what is due, tells systemd, and ends cleanly on SIGTERM."""
    stored(plain)
    expired = stored(plain, "alice", issued_at=0.0, expires_at=1.0)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("notify")
        systemd.settimeout(60)
        refresher = subprocess.Popen(
            [*DPOP, "token", "refresher"],
            env=environment(**client_file(plain), NOTIFY_SOCKET="notify"),
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert systemd.recv(1000) == b"READY=1"
            while not systemd.recv(1000).startswith(b"STATUS=2 of 2 accounts fresh"):
                pass
            refresher.send_signal(signal.SIGTERM)
            assert systemd.recv(1000) == b"STOPPING=1"
            _, said = refresher.communicate(timeout=60)
        finally:
            refresher.kill()
            refresher.communicate()
    assert refresher.returncode == 0
    assert re.search(r"alice: fresh, good until .*; next look", said)
    assert load("alice").access_token != expired.access_token
    assert secrets_in(said, load("alice")) == []


def test_the_refresher_once(plain: DPoPTestServer) -> None:
    """For cron: 0 if all is fresh, 1 if an account is not."""
    stored(plain)
    env = client_file(plain)
    assert run("token", "refresher", "--once", env=env).returncode == 0
    stored(plain, issued_at=0.0, expires_at=1.0)
    plain.levers.refuse_next(error="invalid_grant", path="/token")
    done = run("token", "refresher", "--once", env=env)
    assert (done.returncode, "dead" in done.stderr) == (1, True)


def test_an_account_that_cannot_be_refreshed(plain: DPoPTestServer) -> None:
    """It is left out, and said; the others are kept fresh. Alone, it is an error."""
    stored(plain)
    stored(plain, "alice", key_reference=str(Path("gone.pem").absolute()))
    done = run("token", "refresher", "--once", env=client_file(plain))
    assert done.returncode == 1
    assert "alice is left out" in done.stderr
    assert "default: fresh" in done.stderr
    assert run("token", "refresher", "--once", "--account", "alice", env=client_file(plain)).returncode == 3


def test_commands_at_once(plain: DPoPTestServer) -> None:
    """Eight processes on an expired token whose refresh token rotates: one refresh, and nobody fails."""
    stored(plain, issued_at=0.0, expires_at=1.0)
    env = client_file(plain)
    before = sum(request.endpoint == "token" and request.status == 200 for request in plain.requests)
    done: list[int] = []

    def call() -> None:
        done.append(run("curl", "--token-store", "tokens.json", "-sf", plain.resource, env=env).returncode)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [0] * 8
    after = sum(request.endpoint == "token" and request.status == 200 for request in plain.requests)
    assert after == before + 1


# --- the examples


@pytest.mark.parametrize("name", ["refresh", "show"])
def test_the_examples_of_the_help(name: str, plain: DPoPTestServer) -> None:
    """They run as printed."""
    assert isinstance(token, click.Group)
    tokens = stored(plain)
    jkt = tokens.jkt or ""
    Path("refresh.txt").write_text(plain.issue_refresh_token(jkt=jkt, client_id=plain.client_id), "ascii")
    env = client_file(plain)
    done = run_script(examples(token.commands[name]), Path.cwd(), **env)
    assert done.returncode == 0, done.stderr
    assert Path("tokens.json").exists()
