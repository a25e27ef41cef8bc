# SPDX-License-Identifier: Apache-2.0
"""The peers: each in a pinned environment of its own and a process of its own, told what to do by the line."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
WORKERS = HERE / "workers"
ENVIRONMENTS = HERE / "environments"


class Peer(NamedTuple):
    """A library, or one way to use it."""

    name: str
    module: str
    environment: str

    @property
    def on_node(self) -> bool:
        """Whether it is a package of npm."""
        return self.environment == "package"


TOOLKIT = Peer("dpop-toolkit", "dpop_toolkit", "dpop-toolkit")
BARE = Peer("cryptography, signature only", "bare", "cryptography")
PYDPOP = Peer("pydpop", "peer_pydpop", "pydpop")
REQUESTS_OAUTH2CLIENT = Peer("requests_oauth2client", "peer_requests_oauth2client", "requests-oauth2client")
AUTH0 = Peer("auth0-server-python", "peer_auth0", "auth0-server-python")
PYJWT = Peer("PyJWT", "peer_pyjwt", "pyjwt")
JOSERFC = Peer("joserfc", "peer_joserfc", "joserfc")
NPM_DPOP = Peer("npm dpop", "npm_dpop", "package")
NPM_JOSE = Peer("npm jose", "npm_jose", "package")
OAUTH4WEBAPI = Peer("npm oauth4webapi", "npm_oauth4webapi", "package")
OPENID_CLIENT = Peer("npm openid-client", "npm_openid_client", "package")


class Environments:
    """Virtual environments and node_modules, made once from pinned lists.

    :param place: where they are kept.
    """

    def __init__(self, place: Path) -> None:
        self._place = place

    def command(self, peer: Peer) -> list[str]:
        """How to start a worker of this peer; its environment is made if need be."""
        if peer.on_node:
            return ["node", str(self._node() / "worker.mjs"), peer.module]
        return [str(self.python(peer.environment)), str(WORKERS / "worker.py"), peer.module]

    def make(self, *, without: Collection[str] = ()) -> None:
        """Make those that are not there."""
        for list_of_versions in sorted(ENVIRONMENTS.glob("*.txt")):
            if list_of_versions.stem not in without:
                self.python(list_of_versions.stem)
        self._node()

    def versions(self, peer: Peer) -> dict[str, str]:
        """What the pinned list says."""
        if peer.on_node:
            pinned: dict[str, str] = json.loads((ENVIRONMENTS / "package.json").read_text())["dependencies"]
            return pinned
        lines = (ENVIRONMENTS / f"{peer.environment}.txt").read_text().splitlines()
        return {name: version for name, _, version in (line.partition("==") for line in lines) if version}

    def python(self, name: str) -> Path:
        """The Python of an environment, which is made if need be."""
        place, wanted = self._place / name, ENVIRONMENTS / f"{name}.txt"
        python = place / ("Scripts" if os.name == "nt" else "bin") / "python"
        if not _made(place, [wanted]):
            print(f"making the environment of {name}", file=sys.stderr)
            base = getattr(sys, "_base_executable", sys.executable)
            subprocess.run([base, "-m", "venv", "--clear", str(place)], check=True)
            install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", str(wanted)]
            subprocess.run(install, check=True, cwd=ENVIRONMENTS)
            _note(place, [wanted])
        return python

    def _node(self) -> Path:
        """The workers beside the packages they import: Node.js looks for packages above a file, not above its user."""
        place = self._place / "node"
        wanted = [ENVIRONMENTS / "package.json", ENVIRONMENTS / "package-lock.json"]
        if not _made(place, wanted):
            print("making the environment of the npm peers", file=sys.stderr)
            place.mkdir(parents=True, exist_ok=True)
            for source in wanted:
                shutil.copy(source, place)
            subprocess.run(
                ["npm", "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"], check=True, cwd=place
            )
            _note(place, wanted)
        for source in WORKERS.glob("*.mjs"):
            shutil.copy(source, place)
        return place


def _hash(files: Iterable[Path]) -> str:
    return hashlib.sha256(b"".join(each.read_bytes() for each in files)).hexdigest()


def _made(place: Path, files: list[Path]) -> bool:
    stamp = place / ".made-of"
    return stamp.exists() and stamp.read_text() == _hash(files)


def _note(place: Path, files: list[Path]) -> None:
    (place / ".made-of").write_text(_hash(files))


class Worker:
    """A running peer."""

    def __init__(self, peer: Peer, process: subprocess.Popen[str]) -> None:
        self.peer = peer
        self._process = process

    def ask(self, do: str, **facts: Any) -> dict[str, Any]:
        """Have it do something, and wait for the answer."""
        self.tell(do, **facts)
        return self.response()

    def tell(self, do: str, **facts: Any) -> None:
        """Have it do something; others may be told meanwhile."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **facts}) + "\n")
        self._process.stdin.flush()

    def response(self) -> dict[str, Any]:
        """What came of it."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker of {self.peer.name} ended; what it said is above")
        response: dict[str, Any] = json.loads(line)
        return response


@contextmanager
def working(environments: Environments, peers: Iterable[Peer]) -> Iterator[list[Worker]]:
    """Workers of these peers, for as long as they are needed."""
    with ExitStack() as stack:
        workers = []
        for peer in peers:
            process = subprocess.Popen(
                environments.command(peer), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            stack.callback(_end, process)
            workers.append(Worker(peer, process))
        yield workers


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
