# SPDX-License-Identifier: Apache-2.0
"""The command line: a whole process from its start to its proof."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from agent import URL as AGENT_URL
from agent import running_agent
from measure import Section, at_most, middle, spread
from peers import Environments

from dpop import generate_key

_URL = "https://api.example.com/v1/accounts/42"
_IMPORTS = (
    "import click\n"
    "from cryptography.hazmat.primitives import hashes, serialization\n"
    "from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils\n"
)
_PARTS = (
    "from cryptography.hazmat.primitives import hashes, serialization\n"
    "from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils\n"
    "import base64, binascii, collections.abc, enum, functools, hashlib,"
    " ipaddress, json, logging, os, pathlib, re, tempfile, threading, time, typing, urllib.parse, weakref\n"
)
# What a person would write: RFC 9449's header and payload, signed by openssl, its DER taken apart with xxd.
_BY_HAND = r"""
set -euo pipefail
b64() { openssl base64 -A | tr '+/' '-_' | tr -d '='; }
point=$(openssl ec -in "$KEY" -pubout -outform DER 2>/dev/null | tail -c 64 | xxd -p -c 64)
x=$(printf %s "${point:0:64}" | xxd -r -p | b64); y=$(printf %s "${point:64}" | xxd -r -p | b64)
header=$(printf '{"typ":"dpop+jwt","alg":"ES256","jwk":{"kty":"EC","crv":"P-256","x":"%s","y":"%s"}}' "$x" "$y" | b64)
jti=$(openssl rand -hex 16)
payload=$(printf '{"jti":"%s","htm":"GET","htu":"%s","iat":%s}' "$jti" "$URL" "$(date +%s)" | b64)
der=$(printf %s "$header.$payload" | openssl dgst -sha256 -sign "$KEY" | xxd -p -c 80)
take() { local n=$((16#${der:$1:2} * 2)); local v=${der:$(($1 + 2)):$n}; v=${v#00}; printf '%064s' "$v" | tr ' ' 0; }
r=$(take 6); s=$(take $((8 + 16#${der:6:2} * 2 + 2)))
printf '%s.%s.%s\n' "$header" "$payload" "$(printf %s "$r$s" | xxd -r -p | b64)"
"""


def measure(_environments: Environments, *, short: bool) -> Section:
    """Whole processes in turn: the command, Pythons that only import the same, openssl and a shell."""
    section = Section(
        "command",
        "The command line",
        "Whole processes, started in turn. Imports: a Python that imports click and the same parts of cryptography."
        " The parts of dpop: one that imports what `import dpop` needs of cryptography and the standard library."
        " By hand: a shell script with openssl and xxd that makes the same proof.",
        ["what", "ms", "against the imports"],
    )
    with (
        tempfile.TemporaryDirectory(prefix="dpop-") as folder,
        running_agent(_saved_key(folder), Path(folder)) as agent,
        _server() as url,
    ):
        key = Path(folder) / "key.pem"
        environment = {**os.environ, "DPOP_KEY": str(key), "KEY": str(key), "URL": _URL, "PYTHONPYCACHEPREFIX": folder}
        environment |= {"DPOP_AGENT_SOCK": str(agent.path), "DPOP_STATE_DIR": folder}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        dpop = str(Path(sys.executable).with_name("dpop"))
        commands = {
            "imports": [sys.executable, "-c", _IMPORTS],
            "the parts of dpop": [sys.executable, "-c", _PARTS],
            "import dpop": [sys.executable, "-c", "from dpop import *; from dpop.keys import SoftwareKey"],
            "dpop proof": [dpop, "proof", "GET", _URL],
            "dpop headers, by the agent": [dpop, "headers", "GET", AGENT_URL, "--key", "agent:work"],
            "curl": ["curl", "-q", "-s", url],
            "dpop curl": [dpop, "curl", "-s", url],
            "dpop --help": [dpop, "--help"],
            "by hand": ["bash", "-c", _BY_HAND],
        }
        runs = {name: _run(command, environment) for name, command in commands.items()}
        for run in runs.values():
            run()
        samples: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(7 if short else 31):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                samples[name].append(time.perf_counter() - start)
    parts, ours = samples["the parts of dpop"], samples["import dpop"]
    imported = [one / other for one, other in zip(ours, parts, strict=True)]
    ratios = {name: [s / b for s, b in zip(taken, samples["imports"], strict=True)] for name, taken in samples.items()}
    for name, taken in samples.items():
        section.lines.append([name, spread([s * 1e3 for s in taken], 0), spread(ratios[name])])
    section.raw = dict(samples)
    proofs, by_agent = samples["dpop proof"], samples["dpop headers, by the agent"]
    each = zip(samples["dpop curl"], proofs, samples["curl"], strict=True)
    more = [whole - proof - curl for whole, proof, curl in each]
    section.figures = [
        at_most("dpop proof against its imports, whole process", round(middle(ratios["dpop proof"]), 2), 1.3),
        at_most("import dpop against its parts, whole process", round(middle(imported), 2), 1.15),
        at_most(
            "dpop headers with a key of the agent against dpop proof, whole process",
            round(middle([one / other for one, other in zip(by_agent, proofs, strict=True)]), 2),
            0.85,
        ),
        at_most("dpop curl, more than dpop proof and curl", round(middle(more) * 1e3, 1), 12, "ms"),
    ]
    return section


def _saved_key(folder: str) -> str:
    path = Path(folder) / "key.pem"
    generate_key().save(path)
    return str(path)


class _Ok(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_arguments: object) -> None:
        pass


@contextlib.contextmanager
def _server() -> Iterator[str]:
    """A server on this machine that says ok; its URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Ok) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def _run(command: list[str], environment: dict[str, str]) -> Callable[[], object]:
    return lambda: subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
