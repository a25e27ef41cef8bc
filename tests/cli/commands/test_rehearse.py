# SPDX-License-Identifier: Apache-2.0
"""``dpop rehearse``: what a good server and a bad one look like, and a transcript that holds no secret."""

from __future__ import annotations

import json
import sys
import threading
import urllib.request
import webbrowser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from dpop_cli.commands.rehearse.transcript import Step, Transcript
from dpop_cli.commands.serve import first_line
from dpop_cli.wire.exchange import Exchange
from support.cli_process import invoke, run
from support.rehearsal import replayed

import dpop
from dpop.profiles import NAMES
from dpop.testing import DPoPTestServer

_BROWSER = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1]).read()"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key and a browser in the working directory."""
    monkeypatch.chdir(tmp_path)
    dpop.generate_key().save("key.pem")
    Path("browser.py").write_text(_BROWSER, "ascii")


def rehearsed(server: DPoPTestServer, *options: str, public: bool = False) -> tuple[int, str, dict[str, Any]]:
    """Rehearse with a server; return status, output and transcript."""
    client = first_line(server)
    if public:
        client = {name: value for name, value in client.items() if name != "client_secret"}
        client["client_id"] = server.public_client_id
    Path("client.json").write_text(json.dumps(client))
    env = {"BROWSER": f"{sys.executable} browser.py %s"}
    done = run("rehearse", "-k", "key.pem", "--client", "client.json", "--scope", "read", *options, env=env)
    assert Path("rehearsal.json").exists(), done.stderr
    return done.returncode, done.stdout, json.loads(Path("rehearsal.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "public", "options"),
    [
        ({"nonces": "none"}, True, ()),
        ({"nonces": "single-use"}, True, ()),
        ({"nonces": "rotating"}, False, ()),
        ({"nonces": "per-answer", "tokens": "jwt"}, True, ()),
        ({"mode": "google"}, False, ()),
        ({"device_user": "agrees", "device_interval": 1}, False, ("--device",)),
    ],
    ids=["without nonces", "single-use nonces", "with a secret", "jwt", "google", "device"],
)
def test_the_test_server_does_what_it_must(arguments: dict[str, Any], public: bool, options: tuple[str, ...]) -> None:
    """With nonces of each kind; the transcript is private, holds no secret, and becomes a test that passes."""
    with DPoPTestServer(**arguments) as server:
        status, shown, transcript = rehearsed(server, *options, public=public)
        assert status == 0, shown
        assert "FAILED" not in shown
        names = [step["name"] for step in transcript["steps"] if step["name"] != "metadata"]
        assert names == ["login", "refresh", "nonce", "wrong key", "revoke", "revoked"]
        text = Path("rehearsal.json").read_text()
        secrets = [server.client_secret, *_secrets(server)]
    assert Path("rehearsal.json").stat().st_mode & 0o777 == 0o600
    assert len(secrets) > 10
    assert [secret for secret in secrets if secret in text] == []
    assert replayed(Path("rehearsal.json")) == []


def browse(url: str) -> bool:
    """A browser whose user agrees at once; it is not seen as a request of the command."""
    threading.Thread(target=lambda: urllib.request.urlopen(url).close()).start()
    return True


@pytest.mark.parametrize("mode", NAMES)
def test_a_server_that_acts_as_its_profile_says_breaks_no_rule(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each mode of ``dpop serve``, with a public client where it has some: no rule is broken, and a test replays it."""
    monkeypatch.setattr(webbrowser, "open", browse)
    with DPoPTestServer(mode=mode) as server:
        client = first_line(server)
        if server.profile.server.public_clients:
            client = {**client, "client_id": server.public_client_id}
            del client["client_secret"]
        Path("client.json").write_text(json.dumps(client))
        done = invoke("rehearse", "-k", "key.pem", "--client", "client.json", "--scope", "read")
    assert (done.exit_code, "FAILED" in done.stdout) == (0, False), done.output
    assert replayed(Path("rehearsal.json")) == []


def _secrets(server: DPoPTestServer) -> set[str]:
    """Every token, code, nonce and proof that the server was sent."""
    found = set()
    for request in server.requests:
        form = parse_qsl(request.body.decode("latin-1"))
        found |= {value for name, value in form if name not in _PLAIN}
        if request.proof:
            found.add(request.proof)
            found |= {value for value in map(str, _claims(request.proof)) if len(value) > 8}
    return found


_PLAIN = {"grant_type", "redirect_uri", "scope", "response_type", "code_challenge_method", "token_type_hint"}


def _claims(proof: str) -> list[Any]:
    claims = json.loads(dpop.encoding.b64url_decode(proof.split(".")[1]))
    return [claims.get(name) for name in ("jti", "nonce", "ath")]


def test_a_server_that_binds_no_token_is_found_out() -> None:
    """The status is 1; the check that failed and the error of the library are both told."""
    with DPoPTestServer(bound_tokens=False) as server:
        status, shown, transcript = rehearsed(server)
    assert status == 1
    failed = [each["what"] for step in transcript["steps"] for each in step["verdicts"] if not each["good"]]
    assert failed == ["token_type is DPoP"]
    assert "FAILED token_type is DPoP" in shown


def response(status: int, members: dict[str, Any], *headers: tuple[str, str]) -> Step:
    """A step with one response."""
    exchange = Exchange("POST", "https://as.example/token", status=status, content=json.dumps(members).encode())
    exchange.received = list(headers)
    return Step("refresh", [exchange])


TOKENS = {"access_token": "a", "token_type": "DPoP"}
NO_STORE = ("Cache-Control", "no-store")


@pytest.mark.parametrize(
    ("step", "failed"),
    [
        (response(200, TOKENS, NO_STORE), []),
        (response(200, {**TOKENS, "token_type": "Bearer"}, NO_STORE), ["token_type is DPoP"]),
        (response(200, TOKENS), ["no cache may store it"]),
        (response(200, {"token_type": "DPoP"}, NO_STORE), ["there is an access token"]),
        (response(200, TOKENS, NO_STORE, ("DPoP-Nonce", "a b")), ["its nonce is valid"]),
        (
            response(401, {"error": "use_dpop_nonce"}),
            [
                "use_dpop_nonce comes with a nonce",
                "use_dpop_nonce has status 400",
                "tokens come with status 200",
            ],
        ),
    ],
)
def test_what_fails(step: Step, failed: list[str]) -> None:
    """Each thing that a server does wrong is one check that fails, and no other."""
    step.judge_nonces(dpop.profiles.RFC9449)
    step.judge_tokens(dpop.profiles.RFC9449)
    assert [each.what for each in step.verdicts if not each.good] == failed


@pytest.mark.parametrize(
    ("status", "error", "good"), [(400, "invalid_grant", True), (200, None, False), (400, "x", False)]
)
def test_a_refusal_that_must_come(status: int, error: str | None, good: bool) -> None:
    """Another key must be refused, and with an error that says so."""
    step = response(status, {"error": error} if error else TOKENS)
    step.judge_refusal("it is refused", "RFC 9449 §5", ("invalid_grant",))
    assert [each.good for each in step.verdicts] == [good]


def test_a_secret_where_none_belongs_is_replaced_too() -> None:
    """A server may repeat a token in error_description."""
    secret = "a-refresh-token-of-somebody"
    step = response(400, {"error": "invalid_grant", "error_description": f"{secret} is unknown"})
    step.last.sent = [("Content-Type", "application/x-www-form-urlencoded")]
    step.last.body = f"grant_type=refresh_token&refresh_token={secret}".encode()
    transcript = Transcript({"server": {}}, [step])
    assert secret not in transcript.to_json()
    assert "refresh_token-1 is unknown" in transcript.to_json()


def test_another_client_is_noticed_by_a_transcript() -> None:
    """A transcript in which another request was recorded differs from what the library sends."""
    with DPoPTestServer(nonces="single-use") as server:
        _, _, transcript = rehearsed(server, public=True)
    for step in transcript["steps"]:
        for exchange in step["exchanges"]:
            form = exchange["request"].get("form", [])
            exchange["request"]["form"] = [[name, "other" if name == "grant_type" else value] for name, value in form]
    Path("rehearsal.json").write_text(json.dumps(transcript))
    assert any("other" in each for each in replayed(Path("rehearsal.json")))
