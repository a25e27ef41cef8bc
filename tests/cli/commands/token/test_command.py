# SPDX-License-Identifier: Apache-2.0
"""`dpop token`: redeem a code, refresh and revoke tokens, and use those of a store in other commands."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import click
import pytest
import requests
from dpop_cli.commands.token.command import token
from dpop_cli.tokens.client import ENDPOINTS as CLIENT_ENDPOINTS
from support.cli_process import DPOP, AtTerminal, environment, examples, run, run_script
from support.recorder import Recorder, Response
from support.token_commands import browser, client_file, load, secrets_in, stored

import dpop
from dpop.encoding import b64url_encode
from dpop.testing import DPoPTestServer
from dpop.tokens import FileTokenStore, ServerMetadata, TokenSet

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


@pytest.mark.parametrize("right", [True, False])
def test_redeem_with_the_nonce_of_the_request(plain: DPoPTestServer, right: bool) -> None:
    """With it the ID token is verified; that of another login is an error, and no token is stored."""
    env, redirect_uri, verifier = client_file(plain), "http://127.0.0.1/callback", "v" * 43
    asked = {
        "response_type": "code",
        "client_id": plain.client_id,
        "redirect_uri": redirect_uri,
        "scope": "openid",
        "nonce": "n0nce",
        "code_challenge": b64url_encode(hashlib.sha256(verifier.encode()).digest()),
        "code_challenge_method": "S256",
    }
    url = json.loads(Path("client.json").read_text("ascii"))["authorization_endpoint"]
    found = requests.get(url, asked, allow_redirects=False, timeout=30).headers["Location"]
    (code,) = parse_qs(urlsplit(found).query)["code"]
    texts = {"code": code, "code-verifier": verifier, "id-token-nonce": "n0nce" if right else "another"}
    for name, text in texts.items():
        Path(name).write_text(text, "ascii")
    files = [part for name in texts for part in (f"--{name}-file", name)]
    done = run("token", "redeem", "--key", "key.pem", "--redirect-uri", redirect_uri, *files, env=env)
    assert (done.returncode == 0, Path("tokens.json").exists()) == (right, right), done.stderr
    if right:
        assert load().id_token_verified
    else:
        assert "nonce is that of another login" in " ".join(done.stderr.split())


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


def store_expired(server: Recorder) -> None:
    """Store tokens of this server that have to be refreshed."""
    FileTokenStore("tokens.json").save(
        TokenSet(
            access_token="a0",
            refresh_token="r0",
            jkt=dpop.load_key("key.pem").thumbprint,
            key_reference="key.pem",
            token_endpoint=server.url("/t"),
            client_id="c",
            issued_at=1.0,
            expires_at=2.0,
        )
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(
    "words",
    [
        ["refresh"],
        ["refresher"],
        ["refresh", "--refresh-token-env", "R", "--key", "key.pem"],
        ["import", "old.json", "--key", "key.pem"],
    ],
)
def test_a_signal_loses_no_tokens(words: list[str], number: signal.Signals) -> None:
    """The server has replaced the refresh token when the command is to end: the new one is stored before that."""
    answer = {"access_token": "a1", "token_type": "DPoP", "refresh_token": "r1", "expires_in": 3600}
    asked, signalled = threading.Event(), threading.Event()

    def respond(_: object) -> Response:
        asked.set()
        signalled.wait(30)
        time.sleep(0.3)  # until the command has heard of it
        return Response(200, [], json.dumps(answer).encode())

    with Recorder(respond) as server:
        store_expired(server)
        old = {"refresh_token": "r0", "client_id": "c", "token_uri": server.url("/t")}
        Path("old.json").write_text(json.dumps(old), "ascii")
        command = [*DPOP, "token", *words, "--token-endpoint", server.url("/t"), "--client-id", "c"]
        process = subprocess.Popen(command, env=environment(R="r0"), stdin=subprocess.DEVNULL)
        try:
            assert asked.wait(60)
            process.send_signal(number)
            signalled.set()
            assert process.wait(60) == (0 if words == ["refresher"] else 128 + number)
        finally:
            process.kill()
            process.wait()
        assert len(server.requests) == 1
    assert (load().refresh_token, load().refresh_sent_at) == ("r1", None)


@pytest.mark.parametrize(
    "words",
    [
        ["token", "refresh"],
        ["--verbose", "token", "refresh"],
        ["token", "refresher", "--once"],
        ["curl", "--token-store", "tokens.json", "http://127.0.0.1:9/"],
    ],
)
def test_no_token_is_lost_where_nothing_can_be_printed(words: list[str]) -> None:
    """Standard error is a closed pipe, and there is a warning about the response: the new tokens are stored."""
    answer = {"access_token": "a1", "token_type": "DPoP", "refresh_token": "r1", "expires_in": "soon"}
    with Recorder(lambda _: Response(200, [], json.dumps(answer).encode())) as server:
        store_expired(server)
        reader, writer = os.pipe()
        os.close(reader)
        try:
            command = [*DPOP, *words]
            subprocess.run(command, env=environment(), stderr=writer, stdin=subprocess.DEVNULL, timeout=60, check=False)
        finally:
            os.close(writer)
        assert [parse_qs(request.body.decode("ascii"))["refresh_token"] for request in server.requests] == [["r0"]]
    assert (load().refresh_token, load().refresh_sent_at) == ("r1", None)


def test_a_name_that_a_terminal_would_obey_is_shown_as_escapes(plain: DPoPTestServer) -> None:
    """A store and a key whose names move the cursor."""
    stored(plain)
    named = "to\x1b[2Jkens.json"
    Path("tokens.json").rename(named)
    done = run("token", "refresh", "--store", named, env=client_file(plain))
    assert (done.returncode, "'to\\x1b[2Jkens.json'" in done.stderr) == (0, True)
    made = run("key", "generate", "--out", "k\x1b[2J.pem")
    assert made.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr + made.stdout + made.stderr


def test_what_a_server_chose_does_not_reach_a_terminal_as_it_is() -> None:
    """A scope and tokens that would move the cursor, or be lines of their own."""
    evil = "\x1b[2J\x07\nrefresh token  none"
    FileTokenStore("tokens.json").save(
        TokenSet(access_token=f"a{evil}", refresh_token=f"r{evil}", scope=f"read{evil}", client_id=f"c{evil}")
    )
    for words in (["tokens"], ["token", "show"], ["token", "show", "--secrets"], ["token", "show", "--json"]):
        shown = run(*words).stdout
        assert not {"\x1b", "\x07"} & set(shown)
        assert not re.search(r"^refresh token +none", shown, re.MULTILINE)
        assert "read\\" in shown


def test_a_narrow_terminal_shows_tokens_in_columns() -> None:
    """What does not fit goes on in its column; a secret is one line, to be copied. A pipe gets one line for each."""
    key = dpop.load_key("key.pem")
    secret = "access" * 12
    FileTokenStore("tokens.json").save(
        TokenSet(access_token=secret, refresh_token="r0", scope="read", jkt=key.thumbprint)
    )
    for words in (["tokens"], ["token", "show"], ["token", "show", "--secrets"]):
        with AtTerminal(*words, "--store", "tokens.json", cwd=Path.cwd(), env={"COLUMNS": "40"}) as terminal:
            assert terminal.end() == 0
        lines = terminal.shown.splitlines()
        assert [line for line in lines if len(line) > 40 and secret not in line] == []
        assert key.thumbprint in "".join(line[15:].removeprefix("key ") for line in lines)
        assert (secret in terminal.shown) is ("--secrets" in words)
    assert len(run("tokens", "--store", "tokens.json").stdout.splitlines()) == 1


def test_scope_and_resource_of_a_refresh() -> None:
    """Both go to the server, however the refresh begins; the next one asks for the resources again, not the scope."""
    answer = {"access_token": "a1", "token_type": "DPoP", "expires_in": 3600, "scope": "read"}
    key = dpop.load_key("key.pem")
    FileTokenStore("tokens.json").save(
        TokenSet(access_token="a0", refresh_token="r0", scope="read write", jkt=key.thumbprint, key_reference="key.pem")
    )
    with Recorder(lambda _: Response(200, [], json.dumps(answer).encode())) as server:
        Path("client.json").write_text(json.dumps({"client_id": "c", "token_endpoint": server.url("/t")}), "ascii")
        env = {"DPOP_CLIENT": "client.json", "R": "r0"}
        options = ["--scope", "read", "--scope", "list", "--resource", "https://api.example/"]
        for more in ([], ["--key", "key.pem", "--refresh-token-env", "R", "--store", "other.json"]):
            done = run("token", "refresh", *options, *more, env=env)
            assert done.returncode == 0, done.stderr
            asked = parse_qs(server.requests[-1].body.decode("ascii"))
            assert (asked["scope"], asked["resource"]) == (["read list"], ["https://api.example/"])
            assert "list" in done.stderr  # it was not granted, and that is said
        assert run("token", "refresh", env=env).returncode == 0
        asked = parse_qs(server.requests[-1].body.decode("ascii"))
        assert "scope" not in asked
        assert asked["resource"] == ["https://api.example/"]


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


def test_a_client_without_its_secret_is_told_what_to_name(plain: DPoPTestServer) -> None:
    """The server wants the client's secret: the option is named, and the refresh token counts as not used."""
    stored(plain)
    for command in ("refresh", "revoke"):
        done = run("token", command)
        assert (done.returncode, "invalid_client" in done.stderr) == (1, True), done.stderr
        assert "--client client.json" in done.stderr
    assert "its outcome is not known" not in run("token", "show").stdout
    assert run("token", "refresh", env=client_file(plain)).returncode == 0


def test_tokens_that_cannot_be_refreshed(plain: DPoPTestServer) -> None:
    """Those of a client itself, for one: there is no user who could agree again, but a command."""
    stored(plain, refresh_token=None)
    plain.reset()
    done = run("token", "refresh", env=client_file(plain))
    assert (done.returncode, plain.requests) == (1, [])
    assert "no refresh token for 'default' in " in done.stderr
    assert "tokens.json: log in again (dpop login)" in done.stderr
    assert run("token", "refresh", "--if-needed", env=client_file(plain)).returncode == 0


def test_revoke(server: DPoPTestServer) -> None:
    """At the server, and then here; with --forget only here."""
    stored(server)
    done = run("token", "revoke", env=client_file(server))
    assert done.returncode == 0, done.stderr
    assert server.requests[-1].endpoint == "revoke"
    assert not Path("tokens.json").exists()
    stored(server)
    refused = run("token", "revoke")  # the metadata say where, and the client has no secret there
    assert (refused.returncode, Path("tokens.json").exists()) == (1, True), refused.stderr
    sent = len(server.requests)
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


@pytest.mark.parametrize("how", [["tokens.json"], ["--refresh-token-file", "refresh.txt", "--key", "key.pem"]])
def test_tokens_in_a_response_that_must_not_be_used_are_put_elsewhere(
    plain: DPoPTestServer, tmp_path: Path, how: list[str]
) -> None:
    """The server has replaced the refresh token: the new one is in no store, and this process is about to end."""
    tokens = stored(plain)
    Path("refresh.txt").write_text(f"{tokens.refresh_token}\n")
    Path("refresh.txt").chmod(0o600)
    (tmp_path / "spare").mkdir()
    body = b'{"access_token":"n3w-access-t0ken","token_type":"mac","refresh_token":"n3w-refresh-t0ken"}'
    with Recorder(lambda _: Response(200, [], body)) as server:
        FileTokenStore("tokens.json").save(tokens.replace(token_endpoint=server.url("/token")))
        env = {**client_file(plain), "TMPDIR": str(tmp_path / "spare")}
        client = json.loads(Path(env["DPOP_CLIENT"]).read_text())
        Path("client.json").write_text(json.dumps({**client, "token_endpoint": server.url("/token")}))
        env["DPOP_CLIENT"] = "client.json"
        done = run("token", "refresh", *how, env=env)
    assert done.returncode not in {0, 2, 70}, done.stderr
    (rescued,) = (tmp_path / "spare").glob("dpop-tokens-*/tokens.json")
    kept = FileTokenStore(rescued).load()
    assert kept is not None
    assert kept.refresh_token == "n3w-refresh-t0ken"
    assert "t0ken" not in done.stderr


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


def test_the_store_has_one_name_in_all_commands(plain: DPoPTestServer) -> None:
    """--token-store, --store and DPOP_TOKEN_STORE mean the same in each command."""
    stored(plain)
    Path("tokens.json").rename("mine.json")
    for options, env in (
        (["--token-store", "mine.json"], {}),
        (["--store", "mine.json"], {}),
        ([], {"DPOP_TOKEN_STORE": "mine.json"}),
    ):
        assert run("token", "show", *options, env=env).returncode == 0
        called = run("curl", *options, "-s", plain.resource, env={**client_file(plain), **env})
        assert json.loads(called.stdout)["scheme"] == "DPoP", called.stderr


def test_a_store_in_the_environment_is_used_with_care(plain: DPoPTestServer) -> None:
    """Not for the token endpoint, not beside other credentials or a token, not where it is empty or unbound."""
    env = {**client_file(plain), "DPOP_TOKEN_STORE": "tokens.json", "DPOP_KEY": "key.pem"}
    done = run("curl", "-s", "-o", "out", "-w", "%{http_code}", plain.resource, env=env)  # no tokens yet
    assert done.stdout == "401"
    assert "tokens.json, the token store that DPOP_TOKEN_STORE or a context names, has no tokens" in done.stderr
    tokens = stored(plain)
    data = ["-d", "grant_type=client_credentials", "-d", f"client_id={plain.client_id}"]
    for args in (
        [*data, plain.token_endpoint],
        ["-u", "a:b", plain.resource],
    ):
        run("curl", "-s", *args, env=env)
        assert all(tokens.access_token not in value for _, value in plain.requests[-1].headers)
    Path("token.txt").write_text("another")
    run("curl", "-s", "--token-file", "token.txt", plain.resource, env=env)
    assert ("Authorization", "DPoP another") in plain.requests[-1].headers
    unbound = stored(plain, token_type="Bearer", access_token=plain.issue_access_token())
    assert not unbound.is_bound
    done = run("curl", "-s", plain.resource, env=env)
    assert "bound to no key" in done.stderr
    assert all(unbound.access_token not in value for _, value in plain.requests[-1].headers)
    named = run("curl", "-s", "--token-store", "tokens.json", plain.resource, env=env)
    assert named.returncode == 0
    assert ("Authorization", f"Bearer {unbound.access_token}") in plain.requests[-1].headers


def test_revoke_finds_where_tokens_are_taken_back(plain: DPoPTestServer) -> None:
    """A file in the form of Google's names no revocation endpoint: the metadata of the tokens' server do."""
    stored(plain)
    secrets_file = {
        "client_id": plain.client_id,
        "client_secret": plain.client_secret,
        "token_uri": plain.token_endpoint,
    }
    Path("client_secret.json").write_text(json.dumps({"installed": secrets_file}))
    done = run("token", "revoke", env={"DPOP_CLIENT": "client_secret.json"})
    assert done.returncode == 0, done.stderr
    assert plain.requests[-1].endpoint == "revoke"
    assert not Path("tokens.json").exists()


def test_revoke_at_a_server_that_wants_a_proof(plain: DPoPTestServer) -> None:
    """The scope says that the tokens are of the AT Protocol, whose server reports success without a proof."""
    for scope, signed in (("atproto transition:generic", True), ("read", False)):
        stored(plain, scope=scope)
        assert run("token", "revoke", env=client_file(plain)).returncode == 0
        assert bool(plain.requests[-1].proof) is signed


def test_the_refresher_takes_a_client_by_options(plain: DPoPTestServer) -> None:
    """As every other command that talks to the server: --issuer and --client-id instead of a file."""
    stored(plain, expires_at=1.0)
    options = ["--issuer", plain.issuer, "--client-id", plain.client_id, "--client-secret-env", "S"]
    done = run("token", "refresher", "--once", *options, env={"S": plain.client_secret})
    assert done.returncode == 0, done.stderr


def test_a_client_file_may_name_every_endpoint() -> None:
    """Each endpoint that server metadata can have, by the same name."""
    known = {each.name for each in dataclasses.fields(ServerMetadata) if each.name.endswith("_endpoint")}
    assert known == CLIENT_ENDPOINTS


def test_a_key_is_no_token_store() -> None:
    """The message says what the file is, and not that it is damaged."""
    done = run("token", "show", "--token-store", "key.pem")
    assert (done.returncode, "contains a key" in done.stderr, "authorise" in done.stderr) == (3, True, False)


def test_a_token_for_a_resource(plain: DPoPTestServer) -> None:
    """--resource goes with the authorization, the code and each refresh; the store remembers it."""
    env = {**client_file(plain), **browser()}
    apis = ["https://api.example/a", "https://api.example/b"]
    options = [word for api in apis for word in ("--resource", api)]
    done = run("token", "login", "--key", "key.pem", *options, env=env)
    assert done.returncode == 0, done.stderr
    assert load().resource == tuple(apis)
    assert f"resource       {' '.join(apis)}" in done.stdout

    def asked() -> list[str]:
        return parse_qs(plain.requests[-1].body.decode()).get("resource", [])

    assert asked() == apis
    assert run("token", "refresh", env=env).returncode == 0
    assert asked() == apis
    assert run("token", "refresh", "--resource", apis[1], env=env).returncode == 0
    assert asked() == apis[1:]
