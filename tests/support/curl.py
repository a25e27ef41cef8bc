# SPDX-License-Identifier: Apache-2.0
"""curl and ``dpop curl`` for their tests, and what curl sent."""

from __future__ import annotations

import os
import re
import subprocess

from click.testing import Result
from support.cli_process import invoke as invoke_bare
from support.cli_process import run
from support.recorder import Received, Response

TOKEN = "to-ken.4711"
AS_CHALLENGE = Response(400, [("DPoP-Nonce", "n1")], b'{"error": "use_dpop_nonce"}')


def invoke(*args: str, stdin: str | None = None, env: dict[str, str] | None = None) -> Result:
    """`dpop`, within this process."""
    return invoke_bare(*args, stdin=stdin, env={"DPOP_KEY": os.environ["DPOP_KEY"], **(env or {})})


def dpop_curl(*args: str, stdin: str = "", shell: str = "") -> subprocess.CompletedProcess[str]:
    """`dpop curl`, as a process."""
    return run("curl", *args, stdin=stdin, shell=shell, env={"DPOP_KEY": os.environ["DPOP_KEY"]})


def plain_curl(*args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """curl itself."""
    return subprocess.run(
        ["curl", "-q", "-H", "Expect:", *args], input=stdin, capture_output=True, text=True, timeout=60, check=False
    )


def on_the_wire(request: Received) -> tuple[str, list[tuple[str, str]], bytes]:
    """What curl sent, without what must differ."""
    ours = {"dpop", "authorization", "expect"}
    headers = [(name, value) for name, value in request.headers if name.lower() not in ours]
    body = request.body
    if boundary := re.search(rb"-{24}[0-9A-Za-z]+", body):
        body = body.replace(boundary[0].rstrip(b"-"), b"boundary")
        headers = [(n, v) for n, v in headers if n.lower() not in {"content-type", "content-length"}]
    return request.line, headers, body
