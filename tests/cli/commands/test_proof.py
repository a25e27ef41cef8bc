# SPDX-License-Identifier: Apache-2.0
"""`dpop proof`: the proof alone, where its nonce and token come from, and what leaks nowhere."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from dpop_cli.commands.proof import proof
from dpop_cli.wire.exchange import parts
from dpop_cli.wire.header_dump import last_nonce
from hypothesis import given
from hypothesis import strategies as st
from support.cli_process import DPOP, AtTerminal, environment, examples, invoke, run, run_script, with_url

import dpop
from dpop.errors import CredentialError
from dpop.server import MemoryReplayCache, ProofVerifier
from dpop.testing import DPoPTestServer

URL = "https://api.example/me"
TOKEN = "to-ken.4711"
HEADERS = "HTTP/1.1 401 Unauthorized\r\nDPoP-Nonce: fresh-nonce\r\nContent-Length: 0\r\n\r\n"


def claims_of(*args: str, stdin: str | bytes | None = None, env: dict[str, str] | None = None) -> dict[str, Any]:
    """The claims of the proof a command line makes."""
    result = invoke("proof", *args, stdin=stdin, env=env)
    assert result.exit_code == 0, result.stderr
    return parts(result.stdout.strip())[1]


# --- the proof


def test_a_verifier_accepts_it(key_file: str) -> None:
    """The output is one line: a proof for that request, by that key, with the token's hash."""
    result = invoke("proof", "POST", f"{URL}?q=1", "--key", key_file, "--token-file", "-", stdin=TOKEN)
    assert result.stdout.count("\n") == 1
    key = dpop.load_key(key_file)
    seen = ProofVerifier(replay=MemoryReplayCache()).verify_resource(
        [("DPoP", result.stdout.strip())], "POST", URL, access_token=TOKEN, bound_jkt=key.thumbprint
    )
    assert seen.jkt == key.thumbprint


def test_each_is_another(key_file: str) -> None:
    """Two proofs for one request have two identifiers."""
    assert claims_of("GET", URL, "--key", key_file)["jti"] != claims_of("GET", URL, "--key", key_file)["jti"]


def test_claims_can_be_given(key_file: str) -> None:
    """--jti, --iat and --nonce stand in the proof as they were typed."""
    claims = claims_of("GET", URL, "--key", key_file, "--jti", "my-id", "--iat", "1700000000", "--nonce", "n0")
    assert claims == {"jti": "my-id", "htm": "GET", "htu": URL, "iat": 1700000000, "nonce": "n0"}


def test_json_shows_what_is_inside(key_file: str) -> None:
    """--json decodes the proof beside it."""
    result = invoke("proof", "GET", URL, "--key", key_file, "--json")
    made = json.loads(result.stdout)
    assert (made["header"], made["claims"]) == parts(made["proof"])
    assert made["header"]["typ"] == "dpop+jwt"


def test_a_lower_case_method_is_kept_with_a_hint(key_file: str) -> None:
    """Methods are case-sensitive: what was typed is signed, and stderr says so once."""
    result = invoke("proof", "get", URL, "--key", key_file)
    assert parts(result.stdout.strip())[1]["htm"] == "get"
    assert result.stderr.count("Hint: ") == 1
    assert "GET" in result.stderr
    assert invoke("proof", "GET", URL, "--key", key_file).stderr == ""


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["G ET", URL], "method"),
        (["GET", "api.example/me"], "absolute"),
        (["GET", "https://user:pa55word@api.example/me"], "user"),
        (["GET", "http://api.example/me"], "https"),
        (["GET", URL, "--nonce", "pa55 word"], "nonce"),
        (["GET", URL, "--iat", "-1"], "iat"),
        (["GET", URL, "--jti", ""], "jti"),
        (["GET", URL, "--nonce", "a", "--nonce-from", "b"], "not several"),
        (["GET", URL, "--token-file", "-", "--nonce-from", "-"], "both name standard input"),
        (["GET", URL, "--token-file", "pa55word"], "cannot be read"),
        (["GET", URL, "--token-env", "pa55word"], "environment variable"),
        (["GET", URL, "pa55word"], "1 more argument than expected"),
        (["GET", URL, "--token", "pa55word"], "No such option"),
        (["GET"], "URL"),
    ],
)
def test_what_cannot_be_used_is_status_2(key_file: str, args: list[str], words: str) -> None:
    """The message says what was expected, and repeats nothing that may be a secret."""
    result = invoke("proof", *args, "--key", key_file, stdin=HEADERS)
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert "pa55" not in result.output


def test_plain_http_is_for_this_machine_or_on_demand(key_file: str) -> None:
    """Loopback may be http; another machine only with --allow-http."""
    assert claims_of("GET", "http://127.0.0.1:8080/x", "--key", key_file)["htu"] == "http://127.0.0.1:8080/x"
    assert claims_of("GET", "http://api.example/x", "--allow-http", "--key", key_file)["htu"] == "http://api.example/x"


# --- the token


@pytest.mark.parametrize(
    "text",
    [
        TOKEN,
        f"{TOKEN}\n",
        f"{TOKEN}\r\n".encode("utf-16"),
        f"\ufeff{TOKEN}",
        json.dumps({"access_token": TOKEN, "token_type": "DPoP"}),
    ],
    ids=["bare", "line", "PowerShell", "byte order mark", "token response"],
)
def test_a_token_from_a_file(key_file: str, tmp_path: Path, text: str | bytes) -> None:
    """A token file may be what an editor, a shell or curl wrote."""
    path = tmp_path / "token.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    claims = claims_of("GET", URL, "--key", key_file, "--token-file", str(path))
    assert claims["ath"] == dpop.access_token_hash(TOKEN)


def test_a_token_from_the_environment(key_file: str) -> None:
    """--token-env names a variable."""
    claims = claims_of("GET", URL, "--key", key_file, "--token-env", "MY_TOKEN", env={"MY_TOKEN": TOKEN})
    assert claims["ath"] == dpop.access_token_hash(TOKEN)


def test_a_token_from_the_terminal(key_file: str, tmp_path: Path) -> None:
    """--token-prompt asks without showing the answer."""
    with AtTerminal("proof", "GET", URL, "--key", key_file, "--token-prompt", "--json", cwd=tmp_path) as terminal:
        terminal.see("Access token")
        terminal.type(f"{TOKEN}\n")
        assert terminal.end() == 0
    assert dpop.access_token_hash(TOKEN) in terminal.shown
    assert TOKEN not in terminal.shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "two words",
        '{"error": "pa55"}',
        '{"access_token": 5}',
        '{"access_token": "pa55',
        "pa55,",
        b"\xff\xfe\xff",
    ],
)
def test_a_token_that_is_none(key_file: str, text: str | bytes) -> None:
    """Empty, more than a token, an error answer, broken JSON: status 2, and none of it repeated."""
    result = invoke("proof", "GET", URL, "--key", key_file, "--token-file", "-", stdin=text)
    assert result.exit_code == 2
    assert result.stderr.count("Error: ") == 1
    assert "pa55" not in result.output


def test_standard_input_that_is_closed(key_file: str) -> None:
    """`-` with nothing behind it is status 2, and says so."""
    done = run("proof", "GET", URL, "--key", key_file, "--token-file", "-", shell="<&-")
    assert done.returncode == 2
    assert "is closed" in done.stderr


def opened_for_writing(pipe: Path, reader: subprocess.Popen[str]) -> int:
    """The pipe, as soon as the reader has opened it; an error if the reader has ended instead."""
    while True:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            assert reader.poll() is None
            time.sleep(0.01)


def test_no_secret_in_the_list_of_processes(key_file: str, tmp_path: Path) -> None:
    """While it runs with a token, its command line and its children's hold neither token nor key."""
    # The password file is a pipe, opened last: until we open it too, the command waits with its token read.
    pipe = tmp_path / "password"
    os.mkfifo(pipe)
    locked = tmp_path / "locked.pem"
    dpop.generate_key().save(locked, password="pa55word")
    process = subprocess.Popen(
        [*DPOP, "proof", "GET", URL, "--key", str(locked), "--token-file", "-", "--password-file", str(pipe)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(TOKEN)
    process.stdin.close()
    process.stdin = None
    password = opened_for_writing(pipe, process)
    arguments = Path(f"/proc/{process.pid}/cmdline").read_text()
    os.write(password, b"pa55word\n")
    os.close(password)
    made, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert parts(made.strip())[1]["ath"] == dpop.access_token_hash(TOKEN)
    assert "--token-file" in arguments
    assert TOKEN not in arguments
    assert "pa55word" not in arguments


# --- the nonce


def test_a_nonce_from_saved_headers(key_file: str, tmp_path: Path) -> None:
    """--nonce-from reads what curl -D wrote, from a file or standard input."""
    path = tmp_path / "headers.txt"
    path.write_bytes(HEADERS.encode())
    assert claims_of("GET", URL, "--key", key_file, "--nonce-from", str(path))["nonce"] == "fresh-nonce"
    assert claims_of("GET", URL, "--key", key_file, "--nonce-from", "-", stdin=HEADERS)["nonce"] == "fresh-nonce"


@pytest.mark.parametrize(
    ("text", "nonce"),
    [
        (HEADERS, "fresh-nonce"),
        ("HTTP/2 401 \ndpop-nonce: n2\n\n", "n2"),
        ("HTTP/1.1 302 Found\r\nDPoP-Nonce: old\r\n\r\nHTTP/1.1 200 OK\r\nDPOP-NONCE:\tnew \r\n\r\n", "new"),
        ("HTTP/1.1 401 No\r\nDPoP-Nonce: n\r\n\r\nHTTP/1.1 200 OK\r\nDate: x\r\n\r\n", "n"),
        ("HTTP/1.1 200 OK\nDPoP-Nonce: real\n\nDPoP-Nonce: from-the-body\n", "real"),
        ("\n\nDPoP-Nonce: pasted\n", "pasted"),
        ("written-by-curl-w\n", "written-by-curl-w"),
    ],
    ids=["plain", "http2", "last", "earlier", "body", "pasted", "bare"],
)
def test_the_last_nonce_counts(text: str, nonce: str) -> None:
    """The last response that has a nonce, in any case of the name; a body is no header."""
    assert last_nonce(text) == nonce


@pytest.mark.parametrize(
    "text",
    [
        "",
        "HTTP/1.1 200 OK\r\nDate: x\r\n\r\n",
        "HTTP/1.1 200 OK",
        "HTTP/1.1 200 OK\n\nDPoP-Nonce: body\n",
        "DPoP-Nonce: \n",
        "DPoP-Nonce: a\nDPoP-Nonce: b\n",
        'DPoP-Nonce: a"b\n',
        "DPoP-Nonce: a, b\n",
        "two words",
        "X-DPoP-Nonce: a\n",
    ],
)
def test_no_nonce_where_there_is_none(text: str) -> None:
    """None, an empty one, two, or one with a foreign character: an error, not a guess."""
    with pytest.raises(CredentialError):
        last_nonce(text)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    """Whatever the file holds, there is a usable nonce or a CredentialError."""
    try:
        nonce = last_nonce(text)
    except CredentialError:
        return
    assert nonce.isascii()
    assert nonce.isprintable()
    assert nonce in text


@given(
    st.lists(st.tuples(st.sampled_from(["Date", "Server", "X-DPoP-Nonce"]), st.text("abc \t:", max_size=9))),
    st.text([chr(c) for c in range(0x21, 0x7F) if chr(c) not in '"\\'], min_size=1),
    st.sampled_from(["\r\n", "\n"]),
)
def test_a_nonce_is_found_among_any_headers(fields: list[tuple[str, str]], nonce: str, end: str) -> None:
    """Every nonce the RFC allows comes back as it was sent."""
    lines = ["HTTP/1.1 200 OK", *(f"{name}: {value}" for name, value in fields), f"dpop-nonce: {nonce}", "", "body"]
    assert last_nonce(end.join(lines)) == nonce


# --- help


def test_help_warns_of_what_curl_would_do() -> None:
    """The help tells of -L and --retry, and to prefer headers."""
    text = " ".join(invoke("proof", "--help-all").stdout.split())
    assert "-L" in text
    assert "--retry" in text
    assert "dpop headers" in text


def test_the_examples_work(key_file: str, tmp_path: Path) -> None:
    """What the help shows can be typed as it stands, here against a server of ours."""
    with DPoPTestServer() as server:
        key = dpop.load_key(key_file)
        (tmp_path / "token.txt").write_text(server.issue_access_token(jkt=key.thumbprint))
        (tmp_path / "headers.txt").write_text(HEADERS)
        script = with_url(examples(proof), server.resource, token_url=server.token_endpoint)
        done = run_script(script, tmp_path, DPOP_KEY=key_file)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("eyJ") >= 3
    assert server.stats.proofs == 1  # the example with curl's -H
