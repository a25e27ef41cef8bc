# SPDX-License-Identifier: Apache-2.0
"""The code that the playground gives to copy: pasted as it is, it sends the request that it stands for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dpop_cli.commands.playground.session import Session

PROGRAMS = {
    "curl": ["bash", "-euo", "pipefail", "-s"],
    "Python": [sys.executable, "-"],
    "JavaScript": ["node", "--input-type=module", "-"],
}


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    """A playground in which a visitor has done all steps and an attack; the tests only paste code."""
    with Session() as session:
        yield session


@pytest.fixture(scope="module")
def requests(session: Session) -> dict[str, dict[str, Any]]:
    """The last request of each action."""
    actions = ("login", "redeem", "call", "steal-token", "refresh")
    return {name: session.act(name, {})["requests"][-1] for name in actions}


def pasted(code: dict[str, str]) -> dict[str, str]:
    """Run the code in all languages at once; what each prints."""
    running = {
        language: subprocess.Popen(
            PROGRAMS[language], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for language in PROGRAMS
    }
    printed = {}
    for language, process in running.items():
        printed[language], _ = process.communicate(code[language], timeout=60)
        assert process.returncode == 0, printed[language]
    return printed


@pytest.mark.parametrize(
    ("action", "status", "part"),
    [
        ("call", "200", '"scheme": "DPoP"'),
        ("refresh", "200", '"token_type": "DPoP"'),
        ("steal-token", "401", "the request has no DPoP header"),
    ],
)
def test_code_runs_as_pasted(requests: dict[str, dict[str, Any]], action: str, status: str, part: str) -> None:
    """curl, Python and JavaScript get the same status and the same response, also where the server wants a nonce."""
    for language, printed in pasted(requests[action]["code"]).items():
        assert status in printed, (language, printed)
        assert part.replace(" ", "") in printed.replace(" ", ""), (language, printed)


def test_the_code_of_the_login_works_once(requests: dict[str, dict[str, Any]]) -> None:
    """The playground has used up its own code, so the pasted request has another one, which is good for one use."""
    code = requests["redeem"]["code"]
    first, second = (
        subprocess.run(PROGRAMS["curl"], input=code["curl"], capture_output=True, text=True, timeout=60, check=True)
        for _ in range(2)
    )
    assert '"refresh_token"' in first.stdout
    assert "invalid_grant" in second.stdout


def test_the_code_holds_no_secret_and_its_files_are_private(requests: dict[str, dict[str, Any]]) -> None:
    """Secrets are in files with mode 0600 in a folder of the user's, which goes when the playground stops."""
    with Session() as session:
        for name in ("login", "redeem", "call", "steal-token"):
            session.act(name, {})
        folder = session._code._folder
        files = {each.name: each for each in folder.iterdir()}
        assert {"key.pem", "token.json", "form-1", "headers-3"} <= files.keys()
        if os.name == "posix":
            assert {each.stat().st_mode & 0o777 for each in files.values()} == {0o600}
            assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()
    token = Path(requests["call"]["code"]["curl"].split("--token-file ")[1].split()[0]).read_text().split('"')[3]
    assert not [code for each in requests.values() for code in each["code"].values() if token in code]
