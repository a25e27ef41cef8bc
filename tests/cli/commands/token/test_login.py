# SPDX-License-Identifier: Apache-2.0
"""`dpop login`, `dpop tokens` and `dpop logout`: on another device, as a client; the accounts in the file."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import segno
from dpop_cli.commands.token.command import token
from dpop_cli.main import COMMANDS
from support.cli_process import AtTerminal, invoke, run
from support.recorder import Received, Recorder, Response
from support.token_commands import client_file, load

import dpop
from dpop.testing import DPoPTestServer


@pytest.fixture
def server() -> Iterator[DPoPTestServer]:
    """A server at which devices may ask at once."""
    with DPoPTestServer(device_interval=0) as running:
        yield running


def client_of(server: DPoPTestServer) -> dict[str, str]:
    """The environment that names client and key."""
    return {**client_file(server), "DPOP_KEY": "key.pem"}


# --- on another device


def test_a_device_login_at_a_terminal(server: DPoPTestServer) -> None:
    """The code, the address and a QR code of both; the command waits until the user has agreed there."""
    with AtTerminal("login", "--device", "--scope", "read", cwd=Path.cwd(), env=client_of(server)) as terminal:
        terminal.see("agree only if the page shows the same code")
        shown = re.search(r"enter the code\s+([A-Z]{4}-[A-Z]{4})\s", terminal.shown)
        assert shown is not None
        assert f"  {server.origin}/device\r\n" in terminal.shown
        terminal.see("Waiting for you to agree there; the code is good until ")
        page = f"{server.origin}/device?user_code={shown[1]}"
        assert requests.get(page, timeout=30).json() == {"agreed": True}
        assert terminal.end() == 0
    assert scanned(terminal.shown) == [list(row) for row in segno.make_qr(page, error="l").matrix_iter(border=4)]
    assert load().jkt == dpop.load_key("key.pem").thumbprint
    assert load().refresh_token is not None


def scanned(shown: str) -> list[list[int]]:
    """The modules of the QR code at a terminal, 1 for dark, as a scanner sees them."""
    rows = []
    for line in re.findall(r"\x1b\[97;40m([█▀▄ ]+)\x1b\[0m", shown):
        rows.append([0 if half in "█▀" else 1 for half in line])
        rows.append([0 if half in "█▄" else 1 for half in line])
    return rows[: len(rows[0])]  # the border's last row may be half a line


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"COLUMNS": "30"}, {"PYTHONIOENCODING": "ascii"}])
def test_a_terminal_that_shows_no_qr_code(server: DPoPTestServer, env: dict[str, str]) -> None:
    """Without colours, block characters or room there is the address with the code in it."""
    server.levers.device_user = "agrees"
    options = ["login", "--device"]
    with AtTerminal(*options, cwd=Path.cwd(), env={**client_of(server), **env}) as terminal:
        assert terminal.end() == 0
    assert "\x1b[97;40m" not in terminal.shown
    assert f"{server.origin}/device?user_code=" in terminal.shown


def test_an_address_that_no_qr_code_can_hold() -> None:
    """The login goes on without the code; the address is shown as it is."""
    page = "https://as.example/device?session=" + "x" * 3000
    codes = {"device_code": "d", "user_code": "ABCD", "interval": 0, "expires_in": 60}
    codes |= {"verification_uri": "https://as.example/device", "verification_uri_complete": page}
    tokens = {"access_token": "a1", "token_type": "DPoP", "refresh_token": "r1", "expires_in": 3600}
    with Recorder(
        lambda request: Response(200, [], json.dumps(codes if request.target == "/d" else tokens).encode())
    ) as server:
        client = {
            "client_id": "c",
            "token_endpoint": server.url("/t"),
            "device_authorization_endpoint": server.url("/d"),
        }
        Path("client.json").write_text(json.dumps(client), "ascii")
        options = ["login", "--device", "--key", "key.pem", "--client", "client.json"]
        with AtTerminal(*options, cwd=Path.cwd(), env={"COLUMNS": "400"}) as terminal:
            assert terminal.end() == 0, terminal.shown
    assert page in terminal.shown
    assert load().refresh_token == "r1"


def test_a_device_login_without_a_terminal(server: DPoPTestServer) -> None:
    """Into a file or a pipe goes text alone, and no secret."""
    server.levers.device_user = "agrees"
    done = run("login", "--device", "--param", "audience=x", env=client_of(server))
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stderr
    assert f"{server.origin}/device?user_code=" in done.stderr
    assert str(load().refresh_token) not in done.stderr + done.stdout
    asked = [request for request in server.requests if request.endpoint == "device_authorization"]
    assert [b"audience=x" in request.body for request in asked] == [True]


@pytest.mark.parametrize("way", ["code", "device"])
def test_the_id_token_is_verified(server: DPoPTestServer, way: str) -> None:
    """With the scope openid, and dpop token show says so."""
    server.levers.device_user = "agrees"
    env = client_of(server)
    Path("browser.py").write_text(
        "import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=30)", "ascii"
    )
    env["BROWSER"] = f"{sys.executable} browser.py %s"
    done = invoke("login", "--scope", "openid read", *["--device"] * (way == "device"), env=env)
    assert done.exit_code == 0, done.stderr
    claims = load().id_token_claims or {}
    assert (load().id_token_verified, claims["sub"], "nonce" in claims) == (True, "alice", way == "code")
    shown = invoke("token", "show").stdout
    assert "id token       verified at the login" in shown
    assert str(load().id_token) not in shown + done.stdout + done.stderr


def test_an_id_token_that_must_not_be_believed(server: DPoPTestServer) -> None:
    """The login fails, and nothing is stored: here the issuer of the client file is another than the server's."""
    server.levers.device_user = "agrees"
    env = client_of(server)
    client = {**json.loads(Path("client.json").read_text("ascii")), "issuer": server.issuer + "/other"}
    Path("client.json").write_text(json.dumps(client), "ascii")
    done = invoke("login", "--scope", "openid", "--device", env=env)
    assert done.exit_code == 1
    assert "the ID token must not be believed: its iss is" in " ".join(done.stderr.split())
    assert not Path("tokens.json").exists()


def test_an_id_token_whose_keys_cannot_be_had(server: DPoPTestServer) -> None:
    """The login succeeds with a warning."""
    server.levers.device_user = "agrees"
    env = client_of(server)
    client = {**json.loads(Path("client.json").read_text("ascii")), "jwks_uri": "http://127.0.0.1:1/jwks"}
    Path("client.json").write_text(json.dumps(client), "ascii")
    done = invoke("login", "--scope", "openid", "--device", env=env)
    assert done.exit_code == 0
    assert "Warning: the ID token is kept and marked as not verified" in " ".join(done.stderr.split())
    assert "id token       not verified" in done.stdout


def test_a_device_login_may_name_its_key(server: DPoPTestServer) -> None:
    """With --device-jkt, for servers that bind the code."""
    server.levers.device_user = "agrees"
    env = client_of(server)
    assert invoke("login", "--device", "--device-jkt", env=env).exit_code == 0
    assert invoke("login", "--device", env=env).exit_code == 0
    asked = [request.body for request in server.requests if request.endpoint == "device_authorization"]
    named = f"dpop_jkt={dpop.load_key('key.pem').thumbprint}".encode()
    assert [named in body for body in asked] == [True, False]


def test_a_user_who_refuses(server: DPoPTestServer) -> None:
    """The error names who refused, and nothing is stored."""
    server.levers.device_user = "refuses"
    done = invoke("login", "--device", env=client_of(server))
    assert done.exit_code == 1
    assert "the user has refused" in done.stderr
    assert not Path("tokens.json").exists()


@pytest.mark.parametrize("by_server", [True, False])
def test_a_code_that_expires(by_server: bool) -> None:
    """The error says that nobody agreed in time, and the hint what to do."""
    codes = {"device_code": "d", "user_code": "U", "verification_uri": "https://as.example/d", "interval": 0}

    def respond(request: Received) -> Response:
        if request.target == "/device":
            return Response(200, [], json.dumps({**codes, "expires_in": 60 if by_server else 0}).encode())
        return Response(400, [], b'{"error": "expired_token"}')

    with Recorder(respond) as recorder:
        client = {
            "client_id": "c",
            "token_endpoint": recorder.url("/token"),
            "device_authorization_endpoint": recorder.url("/device"),
        }
        Path("client.json").write_text(json.dumps(client), "ascii")
        done = invoke("login", "--device", "--key", "key.pem", "--client", "client.json")
    assert done.exit_code == 1
    assert "expired" in done.stderr
    assert "run the command again for a new code" in done.stderr


def test_a_server_without_a_device_endpoint() -> None:
    """The error names the endpoint that is missing."""
    done = invoke(
        "login", "--device", "-k", "key.pem", "--token-endpoint", "http://127.0.0.1:1/token", "--client-id", "c"
    )
    assert done.exit_code == 2
    assert "device_authorization_endpoint is not known" in done.stderr


# --- as a client


def test_client_credentials(server: DPoPTestServer) -> None:
    """The client gets a bound token for itself, and dpop curl uses it."""
    env = client_of(server)
    done = invoke("login", "--client-credentials", "--scope", "read", env=env)
    assert done.exit_code == 0, done.stderr
    assert load().is_bound
    assert load().refresh_token is None
    assert "log in again" in done.stderr
    called = run("curl", "--token-store", "tokens.json", "-s", server.resource)
    assert json.loads(called.stdout)["scheme"] == "DPoP"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--device", "--client-credentials"], "use one of them"),
        (["--device", "--no-browser"], "for a login in the browser"),
        (["--client-credentials", "--timeout", "5"], "for a login in the browser"),
        (["--device-jkt"], "belongs to --device"),
        (["--device", "--redirect-uri", "http://127.0.0.1/"], "for a login in the browser"),
    ],
)
def test_ways_to_log_in_that_exclude_each_other(server: DPoPTestServer, options: list[str], words: str) -> None:
    """Nothing is sent."""
    done = invoke("login", *options, env=client_of(server))
    assert done.exit_code == 2
    assert words in done.stderr
    assert server.requests == []


# --- what is in the file


def test_short_names() -> None:
    """dpop login, tokens and logout are dpop token login, list and revoke."""
    for short, name in (("login", "login"), ("tokens", "list"), ("logout", "revoke")):
        attribute = COMMANDS[short].target.partition(":")[2]
        assert (
            getattr(__import__("dpop_cli.commands.token.command", fromlist=[attribute]), attribute)
            is token.commands[name]
        )


def test_tokens_and_logout(server: DPoPTestServer) -> None:
    """All accounts are listed without secrets; logout takes one of them away here and at the server."""
    env = client_of(server)
    assert invoke("tokens", env=env).exit_code == 3
    server.levers.device_user = "agrees"
    assert invoke("login", "--device", env=env).exit_code == 0
    assert invoke("login", "--client-credentials", "--account", "robot", env=env).exit_code == 0
    listed = invoke("tokens")
    assert listed.exit_code == 0
    assert [line.split()[:2] for line in listed.stdout.splitlines()] == [["default", "DPoP,"], ["robot", "DPoP,"]]
    assert load().access_token not in listed.stdout
    facts = json.loads(invoke("tokens", "--json").stdout)
    assert [(each["account"], each["has_refresh_token"]) for each in facts] == [("default", True), ("robot", False)]
    assert load().access_token not in str(facts)
    tokens = load()
    done = invoke("logout", env=env)
    assert done.exit_code == 0, done.stderr
    assert [line.split()[0] for line in invoke("tokens").stdout.splitlines()] == ["robot"]
    assert requests.get(server.resource, headers={"Authorization": f"DPoP {tokens.access_token}"}).status_code == 401
    assert [request.endpoint for request in server.requests if request.endpoint == "revoke"] == ["revoke"]


def test_an_account_that_cannot_be_read_does_not_hide_the_others(server: DPoPTestServer) -> None:
    """It is the error in the end."""
    assert invoke("login", "--client-credentials", "--account", "robot", env=client_of(server)).exit_code == 0
    Path("tokens.json").write_text("{", "ascii")
    Path("tokens.json").chmod(0o600)
    done = invoke("tokens")
    assert done.exit_code == 3
    assert done.stdout.startswith("robot ")
    assert "tokens.json" in done.stderr
