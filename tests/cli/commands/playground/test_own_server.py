# SPDX-License-Identifier: Apache-2.0
"""`dpop playground` with the user's own server: its metadata cannot lead requests anywhere else, nor can redirects."""

from __future__ import annotations

import http.server
import json
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from dpop_cli.commands.playground.client import Wire
from dpop_cli.commands.playground.page import PlaygroundServer
from dpop_cli.commands.playground.session import Session
from support.authority import make_authority
from support.recorder import Recorder, Response

from dpop.errors import UsageError
from dpop.origin import Origin
from dpop.profiles import NAMES
from dpop.testing import DPoPTestServer


@pytest.fixture
def session() -> Iterator[Session]:
    """A playground that nobody has used yet."""
    with Session() as session:
        session.served_at("http://127.0.0.1:1")
        yield session


@contextmanager
def metadata_server(changes: Mapping[str, str]) -> Iterator[tuple[str, list[str]]]:
    """A server that has only metadata; its issuer, and the paths of all requests."""
    paths: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            members = {name: f"{issuer}/{name}" for name in ("authorization_endpoint", "token_endpoint")}
            body = json.dumps({"issuer": issuer, **members, **changes}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        issuer = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield issuer, paths
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def listener() -> Iterator[tuple[int, list[bytes]]]:
    """A service of this machine that notes each connection and what comes on it."""
    heard: list[bytes] = []
    is_over = threading.Event()

    def hear() -> None:
        while not is_over.is_set():
            try:
                connection, _ = listening.accept()
            except TimeoutError:
                continue
            with connection:
                connection.settimeout(10)
                heard.append(connection.recv(4096))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.02)
        thread = threading.Thread(target=hear)
        thread.start()
        try:
            yield listening.getsockname()[1], heard
        finally:
            is_over.set()
            thread.join()


def use(session: Session, issuer: str, **settings: str) -> Mapping[str, Any]:
    """Type a server into the form."""
    form = {"issuer": issuer, "client_id": "me", "client_secret": "", "api": "", "scope": "", "profile": "rfc9449"}
    return session.act("own", form | settings)


@pytest.mark.parametrize(
    "url",
    [
        "https://169.254.169.254/token",
        "https://[fe80::1]/token",
        "https://[::ffff:169.254.169.254]/token",
        "http://169.254.169.254/token",
        "http://as.example/token",
        "https://0.0.0.0/token",
    ],
)
@pytest.mark.parametrize("endpoint", ["token_endpoint", "revocation_endpoint"])
def test_metadata_cannot_point_to_private_addresses(session: Session, endpoint: str, url: str) -> None:
    """A link-local or insecure endpoint is refused, and the playground stays at its own server."""
    before = session.act("state", {})["state"]["issuer"]
    with metadata_server({endpoint: url}) as (issuer, paths):
        found = use(session, issuer)
    assert found["problem"]
    assert found["requests"] == []
    assert found["state"]["issuer"] == before
    assert paths == ["/.well-known/oauth-authorization-server"]


def test_a_missing_extra_is_named(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test server works without requests; one's own server says what to install."""
    monkeypatch.setitem(sys.modules, "dpop.requests", None)
    assert "pip install 'dpop-toolkit[requests]'" in use(session, "https://as.example")["problem"]
    assert session.act("login", {})["problem"] == ""


def test_metadata_of_another_issuer_is_refused(session: Session) -> None:
    """Its endpoints would be a stranger's."""
    with metadata_server({"issuer": "https://as.example"}) as (issuer, _):
        assert "names another issuer" in use(session, issuer)["problem"]


@pytest.mark.parametrize("issuer", ["http://as.example", "http://10.0.0.1", "file:///etc/passwd", "as.example", ""])
def test_an_issuer_is_https_or_of_this_machine(session: Session, issuer: str) -> None:
    """Anything else is refused before a request."""
    assert use(session, issuer)["problem"]
    assert use(session, "https://as.invalid", api="http://api.example/")["problem"].startswith("http://api.example")


def test_names_that_lead_to_this_machine_are_not_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a server elsewhere, a name that resolves to this machine gets not one byte."""
    with listener() as (port, heard):
        real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", lambda _host, *rest, **named: real("127.0.0.1", *rest, **named))
        wire = Wire({Origin.parse(f"https://as.example:{port}")}, lambda _exchange: None)
        with pytest.raises(UsageError, match=r"leads to 127\.0\.0\.1, an address of this machine"):
            wire.send("GET", f"https://as.example:{port}/", {})
        monkeypatch.undo()
    assert [data for data in heard if data] == []


def test_certificates_are_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over TLS a request goes to a server whose certificate the system trusts, and only there."""
    authority = make_authority(tmp_path)
    with Recorder(lambda _: Response(200), tls=authority.server_context()) as server:
        wire = Wire({Origin.of_url(server.url("/"))}, lambda _exchange: None)
        with pytest.raises(UsageError, match="certificate verify failed"):
            wire.send("GET", server.url("/"), {})
        assert server.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", authority.ca)
        assert wire.send("GET", server.url("/a?b=c"), {"X": "y"}).status == 200
        assert [request.target for request in server.requests] == ["/a?b=c"]


def test_nothing_goes_to_servers_that_nobody_named() -> None:
    """Only the user's servers, and those that their metadata names, get requests."""
    with listener() as (port, heard):
        wire = Wire({Origin.parse("http://127.0.0.1:1")}, lambda _exchange: None)
        with pytest.raises(UsageError, match="is not a server of this playground"):
            wire.send("GET", f"http://127.0.0.1:{port}/", {})
    assert heard == []


@pytest.mark.parametrize(("action", "path"), [("redeem", "/token"), ("call", "/resource"), ("revoke", "/revoke")])
def test_no_redirect_is_followed(session: Session, action: str, path: str) -> None:
    """A redirect to another service of this machine is shown, and nothing is sent there."""
    steps = ("login", "redeem", "call", "revoke")
    with listener() as (port, heard):
        for step in steps[: steps.index(action)]:
            session.act(step, {})
        target = f"http://127.0.0.1:{port}/"
        session.act("lever", {"name": "redirect_next", "value": {"location": target, "path": path}})
        found = session.act(action, {})
    assert found["requests"][-1]["status"] == 307
    assert heard == []


def test_the_discovery_follows_no_redirect(session: Session) -> None:
    """The issuer that the user typed is the one that counts."""
    with listener() as (port, heard), DPoPTestServer() as own:
        own.levers.redirect_next(f"http://127.0.0.1:{port}/", count=2)
        assert "is not followed" in use(session, own.issuer)["problem"]
    assert heard == []


def test_only_the_waiting_login_is_called_back() -> None:
    """The callback needs no cookie, because another site sends the browser; the login's state protects it, once."""
    with Session() as session, PlaygroundServer(session), DPoPTestServer() as own:
        use(session, own.issuer, client_id=own.public_client_id)
        assert not session.called_back("code=stolen&state=guess")
        visit = session.act("login", {})["state"]["visit"]
        assert visit.startswith(f"{own.issuer}/authorize?")
        for query in ("", "code=stolen", "code=stolen&state=guess", f"code=stolen&state={'x' * 40}&iss={own.issuer}"):
            assert not session.called_back(query)
        assert not session.act("state", {})["state"]["code"]


def test_a_login_at_google_asks_for_a_refresh_token() -> None:
    """Google gives one only then; its profile says so. Here a server without pushed requests shows the parameters."""
    with Session() as session, PlaygroundServer(session), DPoPTestServer(mode="google") as own:
        use(session, own.issuer, client_id=own.client_id, client_secret=own.client_secret, profile="google")
        query = parse_qs(urlsplit(session.act("login", {})["state"]["visit"]).query)
        assert (query["access_type"], query["prompt"]) == (["offline"], ["consent"])


@pytest.mark.parametrize("mode", NAMES)
def test_all_steps_and_attacks_in_each_mode(session: Session, mode: str) -> None:
    """Whatever the server is like: the steps are accepted, the attacks refused where tokens are bound to a key."""
    session.act("mode", {"mode": mode})
    outcomes = {}
    for name in ("login", "redeem", "call", "refresh", "call", "replay", "steal-token", "steal-with-key", "revoke"):
        found = session.act(name, {})
        assert found["problem"] == ""
        outcomes[name] = found["requests"][-1]["outcome"]
    bearer = mode == "google"
    assert outcomes["steal-token"] == ("attack-worked" if bearer else "as-it-should-be")
    assert outcomes["replay"] == ("attack-worked" if bearer else "as-it-should-be")
    assert outcomes["steal-with-key"] == "as-it-should-be"
    assert {outcomes[name] for name in ("login", "redeem", "call", "refresh", "revoke")} == {"accepted"}


def test_modes_and_levers_are_those_of_the_command_line(session: Session) -> None:
    """Names only: no path of a file from the page. A wrong lever is refused with the right ones."""
    assert session.act("mode", {"mode": "../server.toml"})["problem"] == "there is no such mode"
    assert "token_lifetime" in session.act("lever", {"name": "nonsense", "value": 1})["problem"]
    assert session.act("lever", {"name": "token_lifetime", "value": 5})["state"]["levers"]["token_lifetime"] == 5
    for name in session.act("state", {})["state"]["actions"]:
        value = "/resource/b" if name == "redirect_next" else True
        assert session.act("lever", {"name": name, "value": value})["problem"] == ""
    for wrong in ({"name": ["a"], "value": 1}, {"name": "token_lifetime"}, {"name": "x", "value": 1, "more": 2}):
        with pytest.raises(UsageError):
            session.act("lever", wrong)
