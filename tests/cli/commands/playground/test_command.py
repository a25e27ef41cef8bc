# SPDX-License-Identifier: Apache-2.0
"""`dpop playground`: each attack is refused for its reason, and no stranger can use the page."""

from __future__ import annotations

import http.client
import json
import os
import socket
import stat
import struct
import time
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

import pytest
from dpop_cli.commands.playground.command import opening_file
from dpop_cli.commands.playground.page import OWN_HEADER, PlaygroundServer
from dpop_cli.commands.playground.session import Session

import dpop
from dpop.encoding import b64url_decode, b64url_encode
from dpop.errors import UsageError

STEPS = ("login", "redeem", "call")


class Browser:
    """Sends raw requests to the page; it keeps the cookie, as a browser does."""

    def __init__(self, server: PlaygroundServer) -> None:
        self.host = server.origin.removeprefix("http://")
        self.start = server.start_url.removeprefix(server.origin)
        self.cookie = ""

    def send(
        self, method: str, path: str, body: str | None = None, **fields: str | None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Send one request; a field that is None is left out."""
        headers = {"Host": self.host, "Cookie": self.cookie, OWN_HEADER: "1", "Sec-Fetch-Site": "same-origin"}
        changed = {name.replace("_", "-"): value for name, value in fields.items()}
        connection = http.client.HTTPConnection(self.host, timeout=30)
        try:
            sent = {name: value for name, value in {**headers, **changed}.items() if value is not None}
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def open(self) -> None:
        """Open the page by the one-time code."""
        status, headers, _ = self.send("GET", self.start, Sec_Fetch_Site="cross-site")
        assert status == 200
        self.cookie = headers["Set-Cookie"].partition(";")[0]

    def act(self, name: str, **fields: str | None) -> int:
        """Ask for an action; return the status."""
        return self.send("POST", f"/do/{name}", "{}", **fields)[0]


@pytest.fixture
def browser() -> Iterator[Browser]:
    """A page with a real session behind it, not opened yet."""
    with Session() as session, PlaygroundServer(session) as server:
        yield Browser(server)


def act(session: Session, *names: str) -> list[dict[str, Any]]:
    """Do actions; return the requests of the last one."""
    found: list[dict[str, Any]] = []
    for name in names:
        found = session.act(name, {})["requests"]
    return found


def test_a_browser_that_goes_away_is_no_fault(browser: Browser, capfd: pytest.CaptureFixture[str]) -> None:
    """A tab that is closed during an action leaves nothing at the terminal, and the next action works."""
    browser.open()
    fields = f"Host: {browser.host}\r\nCookie: {browser.cookie}\r\n{OWN_HEADER}: 1\r\nContent-Length: 2\r\n"
    host, port = browser.host.split(":")
    for _ in range(10):
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(f"POST /do/login HTTP/1.1\r\n{fields}\r\n{{}}".encode())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closed by a reset
    assert browser.act("login") == 200
    time.sleep(0.3)
    assert capfd.readouterr().err == ""


# --- what it shows


@pytest.mark.parametrize(
    ("attack", "reason", "check"),
    [
        ("steal-token", "proof_missing", "header"),
        ("steal-with-key", "key_mismatch", "binding"),
        ("replay", "replayed", "replay"),
        ("change-url", "htu_mismatch", "htu"),
        ("drift", "iat_too_old", "iat"),
    ],
)
def test_each_attack_is_refused_by_its_check(attack: str, reason: str, check: str) -> None:
    """The server's reason, and exactly the check that the attack is about."""
    with Session() as session:
        act(session, *STEPS)
        [request] = act(session, attack)
    assert (request["status"], request["refusal"]["reason"]) == (401, reason)
    assert [each["name"] for each in request["checks"] if each["verdict"] == "failed"] == [check]


def test_the_way_of_a_nonce() -> None:
    """After all nonces lapsed, the first try is refused; the second has the nonce that the refusal brought."""
    with Session() as session:
        first, second = act(session, *STEPS, "lapse", "refresh")
    assert [first["status"], second["status"]] == [400, 200]
    assert first["nonce"]["received"] == second["nonce"]["sent"] != first["nonce"]["sent"]


def test_a_revoked_grant_is_useless() -> None:
    """The API refuses the access token after the refresh token was revoked."""
    with Session() as session:
        [request] = act(session, *STEPS, "revoke", "call")
    assert (request["status"], request["refusal"]["reason"]) == (401, "token_inactive")


def test_a_failure_is_no_refusal() -> None:
    """A 503 has not the reason of an earlier refusal, also after a new start, and does not count as a caught attack."""
    with Session() as session:
        act(session, *STEPS, "steal-token", "restart")
        for steps, name in (([], "login"), (STEPS, "steal-token"), ([], "call")):
            act(session, *steps)
            session.act("lever", {"name": "fail_next", "value": 1})
            [request] = act(session, name)
            assert (request["status"], request["outcome"]) == (503, "refused")
            assert request["refusal"]["reason"] == "no reason given"


def test_nothing_shown_holds_a_secret() -> None:
    """All that reaches the page, against all secrets that were on the wire."""
    with Session() as session:
        shown = [session.act(name, {}) for name in (*STEPS, "refresh", "call", "steal-with-key", "replay", "revoke")]
        server = session._test_server
        secrets = {server.client_secret}
        for request in server.requests:
            secrets |= {
                value.rpartition(" ")[2] for name in ("DPoP", "Authorization") for value in request.fields(name)
            }
            secrets |= {pair.partition("=")[2] for pair in request.body.decode().split("&")} - {""}
    text = json.dumps(shown)
    long = {secret for secret in secrets if len(secret) > 30 and "%" not in secret}
    assert len(long) > 8
    assert [secret for secret in long if secret in text] == []


# --- a key that only the page has


def signing(session: Session, key: dpop.Key, name: str) -> Mapping[str, Any]:
    """Do an action as the page does, and sign whatever it asks for."""
    found = session.act(name, {})
    while "sign" in found:
        signature = key.sign(b64url_decode(found["sign"]))
        found = session.act("signed", {"signature": b64url_encode(signature)})
    return found


def test_proofs_by_a_key_of_the_page() -> None:
    """The server accepts proofs that the page signed. No code is offered, because no program has the key."""
    key = dpop.generate_key()
    with Session() as session:
        session.act("restart", {"jwk": key.public_jwk})
        found = [signing(session, key, name) for name in (*STEPS, "refresh")]
        assert [each["requests"][-1]["outcome"] for each in found] == ["accepted"] * 4
        assert found[-1]["requests"][-1]["code"] == {}
        assert {each.proof is not None for each in session._test_server.requests if each.endpoint == "token"} == {True}


@pytest.mark.parametrize("signature", ["", "!", "AAAA", None, 7])
def test_a_page_that_cannot_sign(signature: object) -> None:
    """A wrong signature ends the action, and reaches no server; the next action works."""
    key = dpop.generate_key()
    with Session() as session:
        session.act("restart", {"jwk": key.public_jwk})
        session.act("login", {})
        assert "sign" in session.act("redeem", {})
        found = session.act("signed", {"signature": signature})
        assert found["problem"]
        assert found["requests"] == []
        session.act("login", {})
        assert signing(session, key, "redeem")["requests"][-1]["status"] == 200


def test_an_action_that_waits_for_a_signature_gives_way() -> None:
    """The page was reloaded meanwhile: the next action comes first, and nobody waits for another signature."""
    with Session() as session:
        session.act("restart", {"jwk": dpop.generate_key().public_jwk})
        session.act("login", {})
        assert "sign" in session.act("redeem", {})
        assert session.act("login", {})["requests"][-1]["status"] == 302
        with pytest.raises(UsageError, match="no action waits"):
            session.act("signed", {"signature": "AAAA"})


# --- who may use it


def test_the_page_opens_once_through_a_private_file(browser: Browser) -> None:
    """The file is 0600 and goes away; its code works once and becomes a strict cookie that no script can read."""
    with opening_file("http://127.0.0.1:1/start?code=x") as file:
        assert "code=x" in file.read_text()
        if os.name == "posix":
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert not file.parent.exists()
    assert browser.send("GET", "/start?code=guess")[0] == 403
    status, headers, _ = browser.send("GET", browser.start, Sec_Fetch_Site="cross-site")
    assert status == 200
    assert {"HttpOnly", "SameSite=Strict"} <= set(headers["Set-Cookie"].split("; "))
    assert browser.send("GET", browser.start)[0] == 403


def test_without_the_cookie_there_is_nothing(browser: Browser) -> None:
    """Neither a page nor an action, also with another cookie."""
    assert browser.send("GET", "/")[0] == 403
    assert browser.act("login") == 403
    assert browser.act("login", Cookie="dpop_playground=guess") == 403


@pytest.mark.parametrize(
    "fields",
    [
        {"Host": "evil.example"},
        {"Host": "localhost"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "none"},
        {"X_DPoP_Playground": None},
        {"X_DPoP_Playground": "2"},
    ],
    ids=str,
)
def test_other_pages_may_not_act(browser: Browser, fields: dict[str, str | None]) -> None:
    """DNS rebinding, other origins and forms are refused, although the browser has the cookie."""
    browser.open()
    assert browser.act("login", **fields) == 403
    assert browser.act("login") == 200


def test_a_get_changes_nothing(browser: Browser) -> None:
    """Actions are POST only; large, nameless and unknown ones are refused."""
    browser.open()
    assert browser.send("GET", "/do/login")[0] == 404
    assert browser.send("POST", "/do/login", "x" * 5000)[0] == 413
    assert browser.act("nonsense") == 400
    assert browser.send("POST", "/do/login", '{"url": "http://evil.example"}')[0] == 400
    assert browser.send("POST", "/do/login", "[]")[0] == 400


def test_no_frame_no_inline_script_no_cors(browser: Browser) -> None:
    """Each file comes with a strict policy, holds nothing inline, and gives nothing to other origins."""
    browser.open()
    for path in ("/", "/page.css", "/page.js"):
        status, headers, _ = browser.send("GET", path, Origin=f"http://{browser.host}")
        policy = headers["Content-Security-Policy"]
        assert status == 200
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert not [name for name in headers if name.lower().startswith("access-control")]
    assert browser.send("OPTIONS", "/do/login")[0] == 501


def test_the_package_has_the_files() -> None:
    """The page is in the installed package, not only in the sources."""
    found = {each.name for each in (files("dpop_cli.commands.playground") / "files").iterdir()}
    assert {"index.html", "page.css", "page.js"} <= found
