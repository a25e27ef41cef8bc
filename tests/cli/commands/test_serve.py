# SPDX-License-Identifier: Apache-2.0
"""``dpop serve``, as a process that a person or a script starts."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.cli_process import DPOP, environment, invoke, run, run_script
from support.ports import reserved_port
from support.testing_client import KEY, send

import dpop
from dpop.testing import DPoPTestServer


@contextmanager
def serving(*args: str, stderr: int = subprocess.PIPE) -> Iterator[subprocess.Popen[str]]:
    """A running ``dpop serve``."""
    process = subprocess.Popen(
        [*DPOP, "serve", *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env=environment(),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def first_line(process: subprocess.Popen[str]) -> dict[str, str]:
    """The JSON of the first line."""
    assert process.stdout is not None
    return dict(json.loads(process.stdout.readline()))


def end(process: subprocess.Popen[str], number: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
    """Stop it by a signal: status, the rest of stdout, stderr."""
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout, stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_json_comes_first_and_a_signal_ends_it(number: signal.Signals) -> None:
    """The first line has what the contract promises; Ctrl-C, SIGTERM and a closed terminal are a clean end."""
    with serving("--json") as process:
        told = first_line(process)
        assert {"issuer", "token_endpoint", "resource", "client_id", "client_secret"} <= set(told)
        metadata = send("GET", told["issuer"] + "/.well-known/oauth-authorization-server").json
        for name in set(metadata) & set(told):
            assert told[name] == metadata[name]
        assert send("GET", told["resource"]).status == 401
        status, stdout, stderr = end(process, number)
        assert (status, stdout) == (0, "")
        assert "Stopped after 2 requests, 1 refused, 0 of them for a nonce." in stderr


def test_where_refusals_cannot_be_told_clients_still_get_them() -> None:
    """Standard error is a closed pipe: each request has its response."""
    reader, writer = os.pipe()
    os.close(reader)
    with serving("--json", stderr=writer) as process:
        os.close(writer)
        told = first_line(process)
        assert [send("GET", told["resource"]).status for _ in range(3)] == [401] * 3


def test_refusals_are_told_as_they_happen_without_secrets() -> None:
    """The reason is on stderr, with what was expected; token, proof and nonce are not."""
    with serving("--json", "--nonces", "none") as process:
        told = first_line(process)
        proof = dpop.create_proof(KEY, "POST", told["resource"])
        body = f"grant_type=client_credentials&client_id={told['client_id']}"
        body += f"&client_secret={told['client_secret']}"
        headers = [("Content-Type", "application/x-www-form-urlencoded"), ("DPoP", proof)]
        assert send("POST", told["token_endpoint"], headers, body.encode()).status == 400
        assert process.stderr is not None
        line = process.stderr.readline()
        assert re.match(r"\d\d:\d\d:\d\d POST /token refused: invalid_dpop_proof \(htu_mismatch\)", line)
        assert told["token_endpoint"] in line
        assert proof not in line
        assert told["client_secret"] not in line
        assert end(process)[0] == 0


def test_levers_are_moved_by_option_and_by_request() -> None:
    """--set takes any setting, as JSON or as text; POST /levers moves them later."""
    settings = ["--set", "token_lifetime=5", "--set", "rs_nonces=single-use", "--set", "required_scope=a b"]
    with serving("--json", *settings) as process:
        levers = first_line(process)["levers"]
        told = send("GET", levers).json
        assert (told["token_lifetime"], told["rs_nonces"], told["required_scope"]) == (5, "single-use", "a b")
        assert send("POST", levers, body=b'{"clock_offset": -90}').json["clock_offset"] == -90


def test_the_mode_and_the_port_are_options(tmp_path: Path) -> None:
    """--mode google has the mode's defaults, --port a port of one's own."""
    port = reserved_port()
    with serving("--json", "--mode", "google", "--port", str(port)) as process:
        told = first_line(process)
        assert (told["mode"], urlsplit(told["issuer"]).port) == ("google", port)
        assert send("GET", told["levers"]).json["as_nonces"] == "single-use"


@pytest.mark.parametrize("nonces", ["rotating", "none", "per-answer", "single-use"])
def test_what_it_says_to_try_works(tmp_path: Path, nonces: str) -> None:
    """The commands of the welcome run as they stand and end with the resource served."""
    with serving("--nonces", nonces) as process:
        assert process.stdout is not None
        shown = ""
        while "Refusals appear below" not in shown:
            shown += process.stdout.readline()
        commands = [line[2:] for line in shown.splitlines() if re.match(r"  (curl|dpop|  -d) ", line)]
        script = 'dpop() { "$PYTHON" -m dpop_cli "$@"; }\n' + "\n".join(commands)
        done = run_script(script.replace("curl ", "curl -sS "), tmp_path)
        assert done.returncode == 0, done.stderr
        stats = json.loads(done.stdout.splitlines()[-1][done.stdout.splitlines()[-1].rindex('{"requests"') :])
        assert stats["statuses"]["200"] == 2
        assert '"scheme": "DPoP"' in done.stdout
        assert stats["challenges"] == (0 if nonces == "none" else 2)


def test_the_welcome_to_googles_kind_works(tmp_path: Path) -> None:
    """There the first steps are a challenge and a consent."""
    with serving("--mode", "google") as process:
        assert process.stdout is not None
        shown = ""
        while "Refusals appear below" not in shown:
            shown += process.stdout.readline()
        commands = [line[2:] for line in shown.splitlines() if line.startswith("  curl")]
        done = run_script("\n".join(commands), tmp_path)
        assert done.returncode == 0, done.stderr
        assert "Location: http://127.0.0.1/?code=4%2F" in done.stdout
        assert "public" not in shown


def test_a_port_in_use_is_a_usage_error() -> None:
    """Status 2, and what to do."""
    with DPoPTestServer() as server:
        port = urlsplit(server.issuer).port
        result = invoke("serve", "--port", str(port))
    assert result.exit_code == 2
    assert f"cannot listen on port {port} of 127.0.0.1" in result.stderr
    assert "choose another port, or 0 for a free one" in result.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--set", "token_lifetime"], "--set takes NAME=VALUE"),
        (["--set", "no_such=1"], "there is no lever 'no_such'"),
        (["--set", "token_lifetime=soon"], "token_lifetime must be a whole number"),
        (["--set", "nonces=none"], "use --nonces"),
        (["--nonces", "some"], "'some' is not one of"),
        (["--port", "65536"], "65536 is not in the range"),
        (["--host", "192.0.2.1"], "192.0.2.1"),
    ],
)
def test_options_of_no_sense_are_usage_errors(args: list[str], message: str) -> None:
    """Status 2, in words."""
    result = invoke("serve", *args)
    assert result.exit_code == 2
    assert message in result.stderr


def test_to_listen_to_the_world_is_warned_of() -> None:
    """Another host than this machine's own addresses gets a hint."""
    name = "http://192.0.2.7:8080"
    with serving("--json", "--host", "0.0.0.0", "--public-origin", name) as process:
        assert first_line(process)["issuer"] == name
        assert process.stderr is not None
        assert "Hint: 0.0.0.0 is more than this machine" in process.stderr.readline()


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_every_address_needs_a_name(host: str) -> None:
    """An issuer http://0.0.0.0 is of no use to a client: the option that names the server is asked for."""
    result = invoke("serve", "--host", host)
    assert (result.exit_code, "--public-origin" in result.stderr) == (2, True)


def test_a_server_of_googles_kind_names_no_public_client() -> None:
    """It has none, and would refuse it."""
    with serving("--json", "--mode", "google") as process:
        assert "public_client_id" not in first_line(process)


def test_help_fits_80_columns() -> None:
    """And its examples are of options that are there."""
    text = invoke("serve", "--help").stdout
    assert max(map(len, text.splitlines())) <= 80
    for option in re.findall(r"--[a-z-]+", text):
        assert option in {
            "--json",
            "--host",
            "--port",
            "--mode",
            "--client-key",
            "--nonces",
            "--set",
            "--tokens",
            "--public-origin",
            "--help",
            "--help-all",
        }


def test_a_shell_prompt_stands_on_a_line_of_its_own() -> None:
    """JSON ends with a line break, and the log of a request without credentials says what was missing."""
    with serving("--json") as process:
        told = first_line(process)
        assert send("GET", told["issuer"] + "/stats").body.endswith(b"}\n")
        assert send("GET", told["resource"]).status == 401
        _, _, errors = end(process)
    assert "GET /resource refused: the request has no credentials (no_credentials)" in errors


@pytest.mark.parametrize("alg", ["ES384", "ES512", "EdDSA", "PS256"])
def test_it_takes_every_key_that_dpop_makes(alg: str, tmp_path: Path) -> None:
    """``dpop key generate --alg ES384`` makes a key that ``dpop serve`` accepts."""
    made = run("key", "generate", "--alg", alg, "--out", "key.pem", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    with serving("--json") as process:
        told = first_line(process)
        form = ["-d", "grant_type=client_credentials", "-u", f"{told['client_id']}:{told['client_secret']}"]
        done = run("curl", "--key", "key.pem", "--alg", alg, "-sS", *form, told["token_endpoint"], cwd=tmp_path)
    assert json.loads(done.stdout)["token_type"] == "DPoP", done


@pytest.mark.parametrize("half", ["private", "public"])
def test_a_client_with_a_key(half: str, tmp_path: Path) -> None:
    """Its public key, or the file that has both, is enough for private_key_jwt."""
    key = dpop.generate_key()
    key.save(tmp_path / "key.pem")
    if half == "public":
        (tmp_path / "key.pem").write_text(json.dumps(dict(key.public_jwk)), "ascii")
    with serving("--json", "--mode", "helseid", "--client-key", str(tmp_path / "key.pem")) as process:
        told = first_line(process)
        metadata = send("GET", f"{told['issuer']}/.well-known/oauth-authorization-server").json
        assert "private_key_jwt" in metadata["token_endpoint_auth_methods_supported"]
        assert told["mode"] == "helseid"


def test_a_mode_that_is_none() -> None:
    """The nearest name is told, and a file may be one."""
    result = invoke("serve", "--mode", "okat")
    assert (result.exit_code, "did you mean okta?" in result.stderr) == (2, True)
