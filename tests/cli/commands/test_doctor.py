# SPDX-License-Identifier: Apache-2.0
"""``dpop doctor``: the report, its JSON, and what is sent."""

from __future__ import annotations

import json
import urllib.parse
from functools import partial
from pathlib import Path

import pytest
from support.cli_process import invoke
from support.recorder import Received, Recorder, Response

import dpop.tokens
from dpop.testing import DPoPTestServer

NOW = 1_800_000_000


@pytest.fixture(autouse=True)
def _a_clock_that_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command's clock, as that of the servers here, so that no load of the machine changes a result."""
    monkeypatch.setattr(dpop.tokens, "examine", partial(dpop.tokens.examine, clock=lambda: NOW))


def server_of(mode: str) -> DPoPTestServer:
    """A server whose clock stands still."""
    return DPoPTestServer(mode=mode, clock=lambda: NOW)


@pytest.mark.parametrize("mode", ["rfc9449", "okta", "keycloak", "mcp"])
def test_it_finds_the_profile(mode: str) -> None:
    """Three of these have the same metadata; the settings name the profile."""
    with server_of(mode) as server:
        done = invoke("doctor", server.issuer, "--client-id", server.public_client_id)
    assert done.exit_code == 0, done.output
    assert f"ok {mode} (" in done.stdout
    assert f'profile="{mode}"' in done.stdout
    assert f"--profile {mode} --issuer {server.issuer}" in done.stdout
    assert f"dpop serve --mode {mode}" in done.stdout
    assert "Odd" not in done.stdout


def test_json() -> None:
    """One object, with what was seen and why each profile fits."""
    with server_of("duende") as server:
        done = invoke("doctor", server.resource, "--client-id", server.public_client_id, "--json")
    told = json.loads(done.stdout)
    assert (told["issuer"], told["resource"], told["clock"]) == (server.issuer, server.resource, 0)
    assert (told["profiles"], told["odd"]) == (["duende"], [])
    assert told["fits"][0]["profile"] == "duende"
    assert (told["fits"][0]["differs"], "accepts the past" in told["fits"][0]["agrees"]) == ([], True)
    assert set(told["settings"]) == {"library", "command", "rehearse"}


def test_a_secret_is_sent_only_if_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --client FILE, and not with --client-id; a password in .netrc never."""
    (tmp_path / "netrc").write_text("default login someone password of-netrc\n", "ascii")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with server_of("google") as server:
        client = tmp_path / "client.json"
        client.write_text(json.dumps({"client_id": server.client_id, "client_secret": server.client_secret}), "ascii")
        assert "asks who the client is" in invoke("doctor", server.issuer).stdout
        assert "asks who" in invoke("doctor", server.issuer, "--client-id", server.client_id).stdout
        assert not any(server.client_secret.encode() in request.body for request in server.requests)
        done = invoke("doctor", server.issuer, "--client", str(client))
        assert ("ok google" in done.stdout, done.exit_code) == (True, 0)
        assert any(urllib.parse.quote(server.client_secret).encode() in request.body for request in server.requests)
        assert server.client_secret not in done.output
        assert not any(name == "Authorization" for request in server.requests for name, _ in request.headers)


def test_no_server() -> None:
    """Status 1, and no settings."""
    with Recorder(lambda _: Response(404)) as recorder:
        done = invoke("doctor", recorder.origin)
        told = json.loads(invoke("doctor", recorder.origin, "--json").stdout)
    assert (done.exit_code, "no metadata was found" in done.stdout, "Settings" in done.stdout) == (1, True, False)
    assert (told["profiles"], told["settings"], told["issuer"]) == ([], {}, None)
    gone = invoke("doctor", recorder.origin)
    assert (gone.exit_code, "does not respond (ConnectionError)" in gone.stdout) == (1, True)


def test_wrong_urls() -> None:
    """No request is made."""
    for url in ("http://as.example", "as.example"):
        assert invoke("doctor", url).exit_code == 2


def test_a_server_cannot_write_to_the_terminal() -> None:
    """Control characters of metadata are not printed, and a body without end is not read."""

    def respond(request: Received) -> Response:
        if request.target == "/.well-known/oauth-authorization-server":
            members = {"issuer": "https://x\x1b[2J", "token_endpoint": recorder.origin + "/token"}
            members |= {"dpop_signing_alg_values_supported": ["ES\x1b]0;x\x07"]}  # type: ignore[dict-item]
            return Response(body=json.dumps(members).encode())
        return Response(400, body=(b"x" * 65_536 for _ in range(64)))

    with Recorder(respond) as recorder:
        done = invoke("doctor", recorder.origin)
    assert done.exit_code == 0
    assert "\x1b" not in done.output
    assert "profiles fit equally" in done.output or "fit equally" in done.output or "fits best" in done.output
