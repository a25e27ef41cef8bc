# SPDX-License-Identifier: Apache-2.0
"""`dpop headers`: lines that curl sends as they are, with nothing secret in its arguments."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from dpop_cli.commands.headers import headers
from dpop_cli.wire.exchange import parts
from support.cli_process import examples, invoke, run_script, with_url

import dpop
from dpop.testing import DPoPTestServer

DPOP_FUNCTION = 'dpop() { "$PYTHON" -m dpop_cli "$@"; }\n'


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """A key on disk."""
    path = tmp_path / "key.pem"
    dpop.generate_key().save(path)
    return path


def test_without_a_token_it_is_one_line(key_file: Path) -> None:
    """A token endpoint wants a proof only."""
    result = invoke("headers", "POST", "https://as.example/token", "--key", str(key_file))
    assert result.exit_code == 0
    name, _, proof = result.stdout.removesuffix("\n").partition(": ")
    assert name == "DPoP"
    assert "ath" not in parts(proof)[1]


def test_with_a_token_it_is_two_lines(key_file: Path) -> None:
    """An API wants the token too, as DPoP, and its hash in the proof."""
    args = ("headers", "GET", "https://api.example/", "--key", str(key_file), "--token-file", "-")
    lines = dict(line.split(": ") for line in invoke(*args, stdin="t0ken\n").stdout.splitlines())
    assert list(lines) == ["DPoP", "Authorization"]
    assert lines["Authorization"] == "DPoP t0ken"
    assert parts(lines["DPoP"])[1]["ath"] == dpop.access_token_hash("t0ken")
    as_json = json.loads(invoke(*args, "--json", stdin="t0ken\n").stdout)
    assert list(as_json) == ["DPoP", "Authorization"]


def test_curl_sends_them_as_they_are(key_file: Path, tmp_path: Path) -> None:
    """`dpop headers ... | curl -H @-` reaches the API: 200, one DPoP header, one Authorization header."""
    with DPoPTestServer(nonces="none") as server:
        token = server.issue_access_token(jkt=dpop.load_key(key_file).thumbprint)
        (tmp_path / "token.txt").write_text(token)
        script = f"{DPOP_FUNCTION}dpop headers GET URL --key key.pem --token-file token.txt | curl -s -H @- URL"
        done = run_script(with_url(script, server.resource), tmp_path)
        assert json.loads(done.stdout)["scheme"] == "DPoP", done.stderr
        (request,) = server.requests
        assert request.status == 200
        assert len(request.fields("DPoP")) == 1
        assert request.fields("Authorization") == [f"DPoP {token}"]


def test_curls_arguments_hold_no_secret(key_file: Path, tmp_path: Path) -> None:
    """What every user of the machine can see of curl's command line: neither proof nor token."""
    with DPoPTestServer(nonces="none") as server:
        token = server.issue_access_token(jkt=dpop.load_key(key_file).thumbprint)
        (tmp_path / "token.txt").write_text(token)
        # A curl that notes its own command line, as the kernel shows it, and goes on as curl.
        note = 'sh -c \'tr "\\0" " " </proc/$$/cmdline >seen; exec curl "$@"\' sh'
        script = f"{DPOP_FUNCTION}dpop headers GET URL --key key.pem --token-file token.txt | {note} -s -H @- URL"
        done = run_script(with_url(script, server.resource), tmp_path)
        (request,) = server.requests
    assert request.status == 200, done.stderr
    seen = (tmp_path / "seen").read_text()
    assert "-H @-" in seen
    assert token not in seen
    assert "eyJ" not in seen


def test_a_form_is_posted_with_its_proof(key_file: Path, tmp_path: Path) -> None:
    """A token request from a shell: the answer can be a token file as it is, and the token works."""
    with DPoPTestServer(nonces="none") as server:
        form = f"grant_type=client_credentials&client_id={server.client_id}&client_secret={server.client_secret}"
        (tmp_path / "form.txt").write_text(form)
        script = f"""{DPOP_FUNCTION}export DPOP_KEY={shlex.quote(str(key_file))}
dpop headers POST {server.token_endpoint} | curl -s -H @- -d @form.txt {server.token_endpoint} >token.json
dpop headers GET {server.resource} --token-file token.json | curl -s -H @- {server.resource}
"""
        done = run_script(script, tmp_path)
        assert json.loads(done.stdout)["sub"] == server.client_id, done.stderr


def test_the_examples_work(key_file: Path, tmp_path: Path) -> None:
    """What the help shows can be typed as it stands: a challenge, its nonce from the saved headers, and 200."""
    with DPoPTestServer() as server:
        token = server.issue_access_token(jkt=dpop.load_key(key_file).thumbprint)
        (tmp_path / "token.txt").write_text(token)
        script = with_url(examples(headers), server.resource)
        done = run_script(script, tmp_path, DPOP_KEY=str(key_file))
        assert done.returncode == 0, done.stderr
        # The bare pipe without a token, then the example without and with the nonce.
        assert [request.status for request in server.requests] == [401, 401, 200]
        assert json.loads(done.stdout.splitlines()[-1])["scheme"] == "DPoP"


def test_help_warns_of_what_curl_would_do() -> None:
    """The help tells of -L and --retry, and fits 80 columns."""
    text = invoke("headers", "--help-all").stdout
    assert "-L" in text
    assert "--retry" in text
    assert max(map(len, text.splitlines())) <= 80
