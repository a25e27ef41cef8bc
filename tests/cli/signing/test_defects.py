# SPDX-License-Identifier: Apache-2.0
"""`--defect` of `dpop proof` and `dpop headers`: wrong in one way, at a server as at the terminal."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from support.cli_process import DPOP, environment, invoke

import dpop
from dpop.testing import DPoPTestServer
from dpop.testing.defects import DEFECTS

URL = "https://api.example/me"


@pytest.mark.parametrize("command", ["proof", "headers"])
def test_the_list_asks_for_nothing_else(command: str) -> None:
    """--defect list needs no key, method or URL, and has every defect with the reason to expect."""
    for spelling in (["--defect", "list"], ["--defect=list"]):
        result = invoke(command, *spelling)
        assert result.exit_code == 0, result.stderr
        lines = {line.split()[0]: line for line in result.stdout.splitlines() if line.startswith("  ")}
        assert list(lines) == list(DEFECTS)
        assert all(str(DEFECTS[name].reason or "accepted") in line for name, line in lines.items())


def test_the_list_as_json() -> None:
    """A script reads names, verdicts and reasons."""
    listed = json.loads(invoke("proof", "--defect", "list", "--json").stdout)
    assert {entry["name"]: entry["reason"] for entry in listed} == {
        name: defect.reason for name, defect in DEFECTS.items()
    }


def test_a_server_answers_as_told(key_file: str, tmp_path: Path) -> None:
    """Sent by curl, a defective proof meets the reason that stderr named."""
    with DPoPTestServer(nonces="none") as server:
        token = tmp_path / "token.txt"
        token.write_text(server.issue_access_token(jkt=dpop.load_key(key_file).thumbprint))
        for name in ["sig-der", "two-headers-same", "htu-other-path", "ath-hex", "jwk-private-d", "ok-htu-case-port"]:
            made = subprocess.run(
                [*DPOP, "headers", "GET", server.resource, "--key", key_file, "--token-file", token, "--defect", name],
                capture_output=True,
                check=True,
                env=environment(),
            )
            curl = ["curl", "-s", "-o", tmp_path / "body", "-w", "%{http_code}", "-H", "@-", server.resource]
            sent = subprocess.run(curl, input=made.stdout, capture_output=True, check=True)
            reason = DEFECTS[name].reason
            assert sent.stdout == (b"200" if reason is None else b"401"), name
            assert (server.refusals[-1].reason if reason else None) == reason
            assert (str(reason) if reason else "must accept").encode() in made.stderr
            server.reset()


def test_bytes_come_out_as_they_are(key_file: str) -> None:
    """One byte per character, also of those that no honest proof holds."""
    for name, octet in {"non-ascii-octet": b"\xe9", "nul-octet": b"\0", "newline-in-segment": b"\n"}.items():
        made = subprocess.run(
            [*DPOP, "proof", "GET", URL, "--key", key_file, "--defect", name],
            capture_output=True,
            check=True,
            env=environment(PYTHONIOENCODING="ascii"),
        )
        assert made.stdout.rstrip(b"\n").count(octet) == 1


def test_json_has_the_fields_and_what_to_expect(key_file: str) -> None:
    """Fields are a list, as two may have one name; a proof's own JSON would have no place for them."""
    result = invoke("proof", "GET", URL, "--key", key_file, "--defect", "two-headers-same", "--json")
    made = json.loads(result.stdout)
    assert [name for name, _ in made["fields"]] == ["DPoP", "DPoP"]
    assert (made["defect"]["verdict"], made["defect"]["reason"]) == ("invalid_dpop_proof", "proof_repeated")
    result = invoke(
        "headers", "GET", URL, "--key", key_file, "--defect", "sig-der", "--token-file", "-", "--json", stdin="tok"
    )
    assert [name for name, _ in json.loads(result.stdout)["fields"]] == ["DPoP", "Authorization"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--defect", "sig-derr"], "did you mean sig-der"),
        (["--defect", "ath-hex"], "access token"),
        (["--defect", "htu-reserved-decoded"], "%2F"),
        (["--defect", "sig-der", "--unsigned"], "not both"),
    ],
)
def test_what_cannot_be_made_is_status_2(key_file: str, args: list[str], words: str) -> None:
    """The message says what is missing."""
    result = invoke("proof", "GET", URL, "--key", key_file, *args)
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stdout == ""
