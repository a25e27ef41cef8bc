# SPDX-License-Identifier: Apache-2.0
"""`dpop token login` with a browser: the loopback, its start page, held ports, and what a login asks for."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from http.client import HTTPConnection
from pathlib import Path
from typing import Self
from urllib.parse import parse_qsl, urlsplit

import pytest
import requests
from dpop_cli.login.browser import Loopback
from support.cli_process import DPOP, environment, invoke, run
from support.token_commands import browser, client_file, load, secrets_in

import dpop
from dpop.testing import DPoPTestServer
from dpop.tokens import AuthorizationRequest, ServerMetadata

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

    def __init__(self, env: Mapping[str, str], *options: str, no_browser: bool = True) -> None:
        self.process = subprocess.Popen(
            [*DPOP, "token", "login", "--key", "key.pem", *["--no-browser"] * no_browser, *options],
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


@pytest.mark.parametrize(
    ("profile", "more", "expected"),
    [
        ("google", (), {"access_type": "offline", "prompt": "consent"}),
        ("google", ("--param", "prompt=select_account"), {"access_type": "offline", "prompt": "select_account"}),
        ("own.toml", (), {"kc_idp_hint": "a=b"}),
        ("rfc9449", (), {}),
    ],
)
def test_a_profile_says_what_a_login_asks_for(
    plain: DPoPTestServer, profile: str, more: tuple[str, ...], expected: dict[str, str]
) -> None:
    """Without it Google gives no refresh token; what the user says comes first."""
    own = 'name = "own"\n[client]\nlogin_parameters = ["kc_idp_hint=a=b"]\n'
    Path("own.toml").write_text(own, "ascii")
    env = client_file(plain)
    facts = json.loads(Path("client.json").read_text("ascii"))
    del facts["pushed_authorization_request_endpoint"]
    Path("client.json").write_text(json.dumps(facts), "ascii")
    with Login(env, "--profile", profile, *more) as login:
        query = dict(parse_qsl(urlsplit(login.url()).query))
    names = {"access_type", "prompt", "kc_idp_hint"}
    assert {name: value for name, value in query.items() if name in names} == expected


# --- the browser's command line, and other users of the machine


def opened_by(env: Mapping[str, str], *options: str) -> tuple[Login, str]:
    """A login whose browser only notes its command line; and what that says."""
    script = "import os, sys; open('argv.new', 'w').write(sys.argv[1]); os.rename('argv.new', 'argv')"
    Path("browser.py").write_text(script, "ascii")
    login = Login({**env, "BROWSER": f"{sys.executable} browser.py %s"}, *options, no_browser=False)
    login.url()
    while not Path("argv").exists():
        assert login.process.poll() is None, login.end()
        time.sleep(0.02)
    return login, Path("argv").read_text("ascii")


@pytest.mark.parametrize("pushed", [False, True])
def test_the_logins_url_is_in_no_command_line(plain: DPoPTestServer, pushed: bool) -> None:
    """The browser gets a page of this machine that sends it on; every user can read its command line."""
    env = client_file(plain)
    if not pushed:
        facts = json.loads(Path("client.json").read_text("ascii"))
        del facts["pushed_authorization_request_endpoint"]
        Path("client.json").write_text(json.dumps(facts), "ascii")
    login, given = opened_by(env)
    with login:
        assert re.fullmatch(r"http://127\.0\.0\.1:[0-9]+/[A-Za-z0-9_-]{43}", given)
        moved = requests.get(given, allow_redirects=False, timeout=30)
        assert moved.status_code == 303
        assert ("request_uri=" in moved.headers["Location"]) == pushed
        assert requests.get(moved.headers["Location"], timeout=30).status_code == 200
        assert login.end() == 0, login.said


def test_the_start_page_may_be_loaded_again_by_its_browser(plain: DPoPTestServer) -> None:
    """A cookie tells the browser that opened the page from another visitor."""
    login, given = opened_by(client_file(plain))
    with login, requests.Session() as browser_:
        for _ in range(3):
            assert browser_.get(given, allow_redirects=False, timeout=30).status_code == 303
        assert "logged in" in browser_.get(given, timeout=30).text
        assert login.end() == 0, login.said


def test_a_second_visitor_of_the_start_page_ends_the_login(plain: DPoPTestServer) -> None:
    """One of the two may be somebody else who read the command line; no code is redeemed then."""
    login, given = opened_by(client_file(plain))
    with login:
        first = requests.get(given, allow_redirects=False, timeout=30)
        second = requests.get(given, allow_redirects=False, timeout=30)
        assert (first.status_code, second.status_code, "Location" in second.headers) == (303, 400, False)
        assert login.end() == 1
    assert "opened a second time" in login.said
    assert [request.endpoint for request in plain.requests if request.endpoint == "token"] == []


def test_another_user_gets_nothing_from_the_start_page() -> None:
    """On Linux, which tells whose a connection is, the page opens for its own user only, and others end nothing."""
    request = AuthorizationRequest("https://as.example/authorize?state=s", "http://127.0.0.1/", "s", "v")
    server = ServerMetadata(token_endpoint="https://as.example/token")
    seen = []
    for user in (os.getuid() + 1, os.getuid()):
        with Loopback("http://127.0.0.1/", user=user) as loopback:
            page = loopback.start_page(request.url)
            visits = threading.Thread(
                target=lambda page=page, uri=loopback.redirect_uri: (
                    seen.append(requests.get(page, allow_redirects=False, timeout=30).status_code),
                    requests.get(f"{uri}?code=c&state=s", timeout=30),
                )
            )
            visits.start()
            assert loopback.wait(request, server, lambda query: query, timeout=30) == "code=c&state=s"
            visits.join()
    assert seen == [404 if sys.platform == "linux" else 303, 303]


def test_an_address_with_letters_that_no_field_can_have() -> None:
    """The browser is sent to its percent-encoded form; what is encoded already stays."""
    request = AuthorizationRequest("https://as.example/\u767b\u5f55?a=%20&state=s", "http://127.0.0.1/", "s", "v")
    server = ServerMetadata(token_endpoint="https://as.example/token")
    found = []
    with Loopback("http://127.0.0.1/") as loopback:
        page, uri = loopback.start_page(request.url), loopback.redirect_uri

        def visit() -> None:
            found.append(requests.get(page, allow_redirects=False, timeout=30).headers["Location"])
            requests.get(f"{uri}?code=c&state=s", timeout=30)

        visits = threading.Thread(target=visit)
        visits.start()
        assert loopback.wait(request, server, lambda query: query, timeout=30) == "code=c&state=s"
        visits.join()
    assert found == ["https://as.example/%E7%99%BB%E5%BD%95?a=%20&state=s"]


# --- a port that somebody holds


def test_a_port_that_is_held_does_not_hold_up_the_login(plain: DPoPTestServer) -> None:
    """A hundred connections that send a byte now and then: the browser comes through."""
    with Login(client_file(plain)) as login:
        callback = requests.get(login.url(), allow_redirects=False, timeout=30).headers["Location"]
        place = (str(urlsplit(callback).hostname), urlsplit(callback).port or 0)
        held = [socket.create_connection(place) for _ in range(100)]
        for connection in held:
            with contextlib.suppress(OSError):  # the oldest are closed to make room
                connection.sendall(b"G")
        assert "logged in" in requests.get(callback, timeout=30).text
        assert login.end() == 0, login.said
        for connection in held:
            connection.close()


def test_a_port_that_is_held_does_not_outlast_the_timeout(plain: DPoPTestServer) -> None:
    """The wait ends when it should, while bytes of a request without an end still come."""
    with Login(client_file(plain), "--timeout", "2") as login:
        callback = requests.get(login.url(), allow_redirects=False, timeout=30).headers["Location"]
        place = (str(urlsplit(callback).hostname), urlsplit(callback).port or 0)
        until = time.monotonic() + 30
        while login.process.poll() is None and time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection(place) as connection:
                connection.sendall(b"GET / HTTP/1.1\r\nX: ")
                while login.process.poll() is None and time.monotonic() < until:
                    connection.sendall(b"x")
                    time.sleep(0.1)
        assert login.process.poll() == 1
        login.end()
    assert "within 2 s" in login.said


def test_localhost_is_both_of_its_addresses(plain: DPoPTestServer) -> None:
    """A browser may look for it at [::1]: it is listened on, and another program that has it is named."""
    taken = socket.socket(socket.AF_INET6)
    try:
        taken.bind(("::1", 0))
        taken.listen()
    except OSError:  # a machine without IPv6, whose browser has only one address to try
        taken.close()
        with Login(client_file(plain), "--redirect-uri", "http://localhost/") as login:
            assert requests.get(login.url(), timeout=30).status_code == 200
            assert login.end() == 0
        return
    with taken:
        uri = f"http://localhost:{taken.getsockname()[1]}/"
        refused = run("token", "login", "--key", "key.pem", "--redirect-uri", uri, env=client_file(plain))
    assert (refused.returncode, "[::1]" in refused.stderr) == (2, True)
    with Login(client_file(plain), "--redirect-uri", "http://localhost/") as login:
        callback = requests.get(login.url(), allow_redirects=False, timeout=30).headers["Location"]
        port = urlsplit(callback).port
        there = HTTPConnection("::1", port or 0, timeout=30)
        there.request("GET", callback.partition(str(port))[2], headers={"Host": f"localhost:{port}"})
        assert there.getresponse().status == 200
        there.close()
        assert login.end() == 0, login.said


def test_a_response_to_another_login_is_mentioned(plain: DPoPTestServer) -> None:
    """An error without the state of this login: the wait goes on, and the terminal says why."""
    with Login(client_file(plain)) as login:
        callback = requests.get(login.url(), allow_redirects=False, timeout=30).headers["Location"]
        stray = f"{callback.partition('?')[0]}?error=server_error"
        assert requests.get(stray, timeout=30).status_code == 400
        assert requests.get(callback, timeout=30).status_code == 200
        assert login.end() == 0
    assert "Hint: a response that does not belong to this login" in login.said


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
    """The browser does not say that all succeeded."""
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
