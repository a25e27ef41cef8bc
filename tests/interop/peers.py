# SPDX-License-Identifier: Apache-2.0
"""The peers written in JavaScript: how they are started, spoken to and ended."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

__all__ = [
    "JoseVerifier",
    "OidcProvider",
    "Program",
    "Seen",
    "answers_to_vectors",
    "ask",
    "installed_version",
    "jose_verifier",
    "node",
    "running_oidc_provider",
]

HERE = Path(__file__).parent
PACKAGES = ("dpop", "jose", "oauth4webapi", "oidc-provider", "openid-client")
MAKE = "run `make test`, or `scripts/setup test` once before pytest"


@contextmanager
def node(*arguments: str, packages: Iterable[str] = PACKAGES) -> Iterator[subprocess.Popen[str]]:
    """A Node.js program of this folder, with pipes; it ends when its standard input does."""
    # Setup may have put Node.js beside this Python, which is not always on PATH.
    program = shutil.which("node") or shutil.which("node", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.fail(f"the tests against real peers need Node.js 20 or newer, and there is none: {MAKE}")
    for package in packages:
        if not (HERE / "node_modules" / package / "package.json").is_file():
            pytest.fail(f"{package} is missing in tests/interop/node_modules: {MAKE}")
    process = subprocess.Popen(
        [program, *arguments], cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    try:
        yield process
    finally:
        try:
            process.communicate(timeout=30)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def answer_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next JSON line of a peer."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        pytest.fail("a peer ended early; what it said is in the captured stderr")
    response: dict[str, Any] = json.loads(line)
    return response


def ask(method: str, url: str, **options: Any) -> requests.Response:
    """A request without any of this package's work, and with nothing from the environment."""
    with requests.Session() as session:
        session.trust_env = False
        return session.request(method, url, timeout=60, **options)


@dataclass(frozen=True)
class Seen:
    """One request of an application as oidc-provider saw it, and its answer."""

    method: str
    path: str
    status: int
    error: str | None
    proof: str | None
    nonce: str | None
    """The ``DPoP-Nonce`` of the answer."""


class OidcProvider:
    """An oidc-provider that demands a proof with a nonce; ``provider["token_endpoint"]`` and so on are its addresses.

    Its clients are named after how they authenticate: public, basic, post, assertion.
    """

    def __init__(self, facts: dict[str, Any]) -> None:
        self._facts = facts
        self.algs: list[str] = facts["dpop_signing_alg_values_supported"]
        self.secrets: dict[str, str | None] = facts["clients"]

    def __getitem__(self, name: str) -> str:
        return str(self._facts[name])

    def seen(self) -> list[Seen]:
        """What applications asked since the last look."""
        return [Seen(**entry) for entry in ask("GET", self["seen"]).json()]

    def statuses(self) -> list[tuple[str, int]]:
        """The same in short: an endpoint's name and the status of the answer."""
        names = {
            value.removeprefix(self["issuer"]): name.removesuffix("_endpoint")
            for name, value in self._facts.items()
            if name.endswith("_endpoint")
        }
        return [(names[entry.path], entry.status) for entry in self.seen()]


@contextmanager
def running_oidc_provider(jwks: dict[str, Any]) -> Iterator[OidcProvider]:
    """An oidc-provider on a port of its own; ``jwks`` are the public keys of its client ``assertion``."""
    with node("oidc-provider/server.mjs", json.dumps(jwks)) as process:
        yield OidcProvider(answer_of(process))


class Program:
    """A peer that answers one JSON line with another."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __call__(self, **question: Any) -> dict[str, Any]:
        """Its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return answer_of(self._process)


class JoseVerifier:
    """npm jose as a judge of proofs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._ask = Program(process)

    def __call__(
        self, proof: str, method: str, url: str, *, access_token: str | None = None, nonce: str | None = None
    ) -> dict[str, Any]:
        """Its verdict: ``ok``, and then ``claims`` and ``jkt``, or else ``error``."""
        return self._ask(proof=proof, method=method, url=url, access_token=access_token, nonce=nonce)


@contextmanager
def jose_verifier() -> Iterator[JoseVerifier]:
    """A process with npm jose that verifies proofs."""
    with node("verify.mjs") as process:
        yield JoseVerifier(process)


def answers_to_vectors(documents: dict[str, Any]) -> dict[str, dict[str, str]]:
    """What a program in JavaScript, with npm jose and oauth4webapi, answers to each case of each file of vectors."""
    with node("vectors.mjs") as process:
        program = Program(process)
        return {file: program(file=file, document=document) for file, document in documents.items()}


def installed_version(package: str) -> str:
    """The version of an npm package that is installed here."""
    facts = json.loads((HERE / "node_modules" / package / "package.json").read_text("utf-8"))
    return str(facts["version"])
