# SPDX-License-Identifier: Apache-2.0
"""Every snippet of the README is run: each recipe as it stands after its diff, against a real server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from frameworks.in_process import ask_asgi
from support.paths import ROOT

import dpop
from dpop.testing import DPoPTestServer

README = (ROOT / "README.md").read_text("utf-8")


@dataclass
class User:
    """A user of the recipe for many."""

    prover: dpop.Prover
    token: str


def blocks(language: str) -> list[tuple[str, str]]:
    """(nearest heading, text) of each block in a language."""
    found = []
    for match in re.finditer(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE):
        headings = re.findall(r"^#+ (.*)$", README[: match.start()], re.MULTILINE)
        found.append((headings[-1], match.group(1)))
    return found


def after(diff: str) -> str:
    """A diff's text after the change."""
    return "".join(line[1:] if line[:1] in "+ " else "\n" for line in diff.splitlines(keepends=True) if line[:1] != "-")


def before(diff: str) -> str:
    """A diff's text before the change."""
    return "".join(line[1:] if line[:1] in "- " else "\n" for line in diff.splitlines(keepends=True) if line[:1] != "+")


DIFFS = [(heading, diff) for heading, diff in blocks("diff") if heading != "curl"]


@pytest.mark.parametrize(("heading", "diff"), DIFFS, ids=[heading for heading, _ in DIFFS])
def test_a_recipe(heading: str, diff: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe runs as printed and its requests are accepted; its Bearer version is valid Python."""
    compile(before(diff), heading, "exec")
    monkeypatch.chdir(tmp_path)
    key = dpop.generate_key()
    key.save("key.pem")
    mode = "google" if heading.startswith("Google") else "rfc9449"
    with DPoPTestServer(nonces="rotating", mode=mode) as server:
        users = []
        for number in range(3):
            prover = dpop.Prover(dpop.generate_key())
            users.append(User(prover, server.issue_access_token(jkt=prover.thumbprint, sub=f"user-{number}")))
        names = {
            "api": server.origin,
            "issuer": server.origin,
            "token_endpoint": server.token_endpoint,
            "token": server.issue_access_token(jkt=key.thumbprint),
            "refresh_token": server.issue_refresh_token(jkt=key.thumbprint, client_id=server.client_id),
            "client_id": server.client_id,
            "client_secret": server.client_secret,
            "users": users,
        }
        exec(compile(after(diff), heading, "exec"), names)
        statuses = [request.status for request in server.requests]
        assert statuses.count(200) >= 1
        assert statuses[-1] == 200
        assert set(statuses) <= {200, 400, 401}
        assert {refusal.error for refusal in server.refusals} <= {"use_dpop_nonce"}


@pytest.mark.parametrize(("heading", "code"), blocks("python"), ids=[heading for heading, _ in blocks("python")])
def test_a_snippet(heading: str, code: str) -> None:
    """Each Python snippet runs as printed, and the functions it defines do what they say."""
    names: dict[str, object] = {}
    exec(compile(code, heading, "exec"), names)
    if "protected" in names:
        protected = names["protected"]
        assert callable(protected)
        key = dpop.generate_key()
        _, headers, _ = ask_asgi(protected(None), "GET", "/things", [])
        proof = dpop.create_proof(
            key, "GET", "https://api.example/things", access_token="token", nonce=dict(headers)["dpop-nonce"]
        )
        fields = [("Authorization", "DPoP token"), ("DPoP", proof)]
        status, headers, _ = ask_asgi(protected(None), "GET", "/things", fields)
        # The proof is good; the look-up, which is to be written, knows no token.
        assert (status, 'error="invalid_token"' in dict(headers)["www-authenticate"]) == (401, True)
    else:
        test = names["test_my_client"]
        assert callable(test)
        test()


def test_the_curl_recipe(tmp_path: Path) -> None:
    """The shell lines run as printed, with a nonce challenge in between; the Bearer line runs too, and is refused."""
    (recipe,) = [text for heading, text in blocks("diff") if heading == "curl"]
    key = tmp_path / "key.pem"
    generate, call = after(recipe).split("\n\n")
    bearer = before(recipe).strip()
    with DPoPTestServer(nonces="rotating") as server:
        environment = {
            **os.environ,
            "API": server.origin,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        subprocess.run(["bash", "-ec", generate], cwd=tmp_path, env=environment, check=True, capture_output=True)
        token = server.issue_access_token(jkt=dpop.load_key(str(key)).thumbprint)
        (tmp_path / "token.txt").write_text(token, "utf-8")
        ran = subprocess.run(
            ["bash", "-ec", f"set -o pipefail; {call}"], cwd=tmp_path, env=environment, check=True, capture_output=True
        )
        assert b"alice" in ran.stdout
        assert [request.status for request in server.requests] == [401, 200]
        server.reset()
        subprocess.run(
            ["bash", "-ec", bearer], cwd=tmp_path, env={**environment, "TOKEN": token}, check=True, capture_output=True
        )
        assert [request.status for request in server.requests] == [401]
