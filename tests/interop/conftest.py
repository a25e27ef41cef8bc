# SPDX-License-Identifier: Apache-2.0
"""Real peers: started for a test run, ended with it. Without Node.js they fail; they are never skipped."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import ECKey

HERE = Path(__file__).parent


def node(*arguments: str) -> subprocess.Popen[str]:
    """A Node.js program of this folder, with pipes."""
    program = shutil.which("node")
    if program is None or not (HERE / "node_modules" / "jose").is_dir():
        pytest.fail("the peers in tests/interop are not installed: run scripts/setup test (it needs Node.js 20)")
    return subprocess.Popen(
        [program, *arguments], cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )


def end(process: subprocess.Popen[str]) -> None:
    """Close its input, which ends it."""
    process.communicate(timeout=30)


@pytest.fixture(scope="session")
def assertion_key() -> ECKey:
    """The key of the client that authenticates by private_key_jwt."""
    return ECKey.generate_key("P-256", {"alg": "ES256", "use": "sig", "kid": "assertion"})


@pytest.fixture(scope="session")
def oidc_provider(assertion_key: ECKey) -> Iterator[dict[str, str]]:
    """The addresses of an oidc-provider that demands DPoP and nonces."""
    process = node("server.mjs", json.dumps({"keys": [assertion_key.as_dict(private=False)]}))
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "oidc-provider did not start"
        yield json.loads(line)
    finally:
        end(process)


class JoseVerifier:
    """npm jose as a judge."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __call__(self, proof: str, method: str, url: str, **facts: Any) -> dict[str, Any]:
        """Its verdict on one proof."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"proof": proof, "method": method, "url": url, **facts}) + "\n")
        self._process.stdin.flush()
        verdict: dict[str, Any] = json.loads(self._process.stdout.readline())
        return verdict


@pytest.fixture(scope="session")
def jose_verify() -> Iterator[JoseVerifier]:
    """Verifies proofs with npm jose."""
    process = node("verify.mjs")
    try:
        yield JoseVerifier(process)
    finally:
        end(process)
