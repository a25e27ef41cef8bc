# SPDX-License-Identifier: Apache-2.0
"""Paste the README's commands and its main script on a fresh copy of this checkout, and report the seconds.

From nothing to the first request that a server accepts, by the README alone: a copy of the files that git knows, no
virtual environment, a port that is free in place of the README's. It fails if a command fails or the request is not
accepted. Run it from any folder: python scripts/first_hour.py
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PORT = "8910"


def main() -> int:
    """Paste everything; return the exit status."""
    readme = (ROOT / "README.md").read_text("utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    pasted = [line.replace(PORT, port) for line in _commands(readme)]
    script = _main_script(readme).replace(PORT, port)
    print(f"pasted: {'; '.join(pasted)}; the main script", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "--null", "-cf", "copy.tar", "-C", ROOT, "-T", "-"], cwd=copy, check=True, input=files)
        subprocess.run(["tar", "-xf", "copy.tar"], cwd=copy, check=True)
        (copy / "main.py").write_text(script, "utf-8")
        since = time.monotonic()
        done = subprocess.run(["bash", "-c", _as_bash(pasted, port)], cwd=copy, stdout=subprocess.PIPE, check=False)
        seconds = time.monotonic() - since
    *_, last = done.stdout.decode().splitlines() or [""]
    if done.returncode != 0 or last != "200":
        sys.stderr.write(done.stdout.decode())
        print(
            f"the README does not work as pasted: status {done.returncode}, expected 200 as the last line, got {last!r}"
        )
        return 1
    print(f"from nothing to the first accepted request: {seconds:.0f} s")
    return 0


def _commands(readme: str) -> list[str]:
    """The lines for the shell up to the main script, to the letter."""
    beginning = readme.partition("```python")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```$", beginning, re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines()]


def _main_script(readme: str) -> str:
    found = re.search(r"^```python\n(.*?)^```$", readme, re.DOTALL | re.MULTILINE)
    if found is None:
        sys.exit("the README has no script")
    return found[1]


def _as_bash(pasted: list[str], port: str) -> str:
    """The lines as a person pastes them: one after the other, the script when the server has said that it is there."""
    ready = f"until (: </dev/tcp/127.0.0.1/{port}) 2>/dev/null; do jobs %1 >/dev/null; sleep 0.05; done"
    lines = ["unset VENV VIRTUAL_ENV PYTHONPATH", "set -e", "trap 'kill $(jobs -p)' EXIT", *pasted, ready]
    return "\n".join([*lines, "python main.py"])


if __name__ == "__main__":
    sys.exit(main())
