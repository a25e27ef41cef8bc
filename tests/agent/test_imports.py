# SPDX-License-Identifier: Apache-2.0
"""A program whose key is in the agent loads no cryptography: the agent signs, and the key's public half is JSON."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.agents import API, Running, agent_running, rules_of
from support.recorder import Recorder, Response

HEAVY = (
    "cryptography",
    "joserfc",
    "dpop.server",
    "dpop.keys._software",
    "logging",
    "platformdirs",
    "tempfile",
    "locale",
)
PROOF = "import dpop; key = dpop.load_key({uri!r}); dpop.create_proof(key, 'GET', 'https://api.example/me')"


def loaded(running: Running, code: str, folder: Path) -> str:
    """Which of the heavy modules a program has loaded when it ends."""
    code = f"import sys\n{code}\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    env = {**os.environ, "DPOP_AGENT_SOCK": str(running.path), "XDG_STATE_HOME": str(folder / "state")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def command(*words: str) -> str:
    """A program that runs ``dpop`` with these arguments."""
    return (
        f"from dpop_cli.main import main\ntry:\n    main({list(words)!r})\n"
        "except SystemExit as end:\n    assert end.code == 0, end.code"
    )


@pytest.mark.parametrize("alg", ["ES256", "Ed25519"])
def test_a_proof_by_the_agent_loads_no_cryptography(folder: Path, alg: str) -> None:
    """The header and the thumbprint of each kind of key are made of the JSON that the agent gave."""
    with agent_running(folder, rules_of(folder, alg=alg)) as running:
        assert loaded(running, PROOF.format(uri="agent:work"), folder) == "[]"


def test_a_program_that_verifies_loads_it(running: Running, folder: Path) -> None:
    """``verify=yes`` asks this process to check what the agent signed."""
    assert loaded(running, PROOF.format(uri="agent:work?verify=yes"), folder) == "['cryptography']"


@pytest.mark.parametrize("name", ["headers", "proof"])
def test_a_command_with_a_key_of_the_agent_loads_no_cryptography(running: Running, folder: Path, name: str) -> None:
    """``dpop headers`` in a loop waits for no library that only the agent needs."""
    assert loaded(running, command(name, "GET", f"{API}/me", "--key", "agent:work"), folder) == "[]"


def test_headers_without_a_token_of_the_agent_load_nothing_of_requests(running: Running, folder: Path) -> None:
    """Only ``dpop headers --agent`` needs to know what a token is."""
    code = (
        command("headers", "GET", f"{API}/me", "--key", "agent:work")
        + "\nassert 'dpop.client._request' not in sys.modules"
    )
    assert loaded(running, code, folder) == "[]"


def test_dpop_curl_with_a_key_of_the_agent_loads_no_cryptography(folder: Path) -> None:
    """``dpop curl`` reads a response besides, and stores its nonce."""
    with (
        Recorder(lambda _: Response(200, [("DPoP-Nonce", "n-1")])) as server,
        agent_running(folder, rules_of(folder, origins=[server.origin])) as running,
    ):
        code = command("curl", "--key", "agent:work", "-s", f"{server.origin}/me")
        assert "cryptography" not in loaded(running, code, folder)
        assert len(running.audited) == 1
