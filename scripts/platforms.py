#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Run the tests on one platform after another, and write what came of it into the table of docs/platforms.md.

    scripts/platforms.py [ROW...]    a row is named by the beginning of its first column; all of them by default

A row that fails is written down as failed, and the exit status is 1.
"""

from __future__ import annotations

import datetime as dt
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "platforms.md"

# With a compiler, for test dependencies that have no wheels for it yet.
_OTHER_PYTHON = (
    "apt-get update -qq"
    " && apt-get install -qq -y --no-install-recommends python{0}-venv python{0}-dev gcc g++ >/dev/null"
    ' && echo "tests: $(python{0} --version);"'
    " && VENV=.venv-{0} PYTHON=python{0} make test"
)

ROWS: dict[str, tuple[str, list[str]]] = {
    "Debian 12, root": ("make demo, make test", ["scripts/fresh", "bookworm"]),
    "Debian 12, a user without sudo": ("make demo, make test", ["scripts/fresh", "--user", "bookworm"]),
    "Debian 13, root": ("make demo, make test", ["scripts/fresh", "trixie"]),
    "Debian 13, a user without sudo": ("make demo, make test", ["scripts/fresh", "--user", "trixie"]),
    "Debian sid, root": ("make demo, make test", ["scripts/fresh", "sid"]),
    "Python 3.15, on Debian sid": ("make test", ["scripts/fresh", "sid", "sh", "-c", _OTHER_PYTHON.format("3.15")]),
    "Lowest versions that are allowed": ("make lowest", ["make", "lowest"]),
    "As people install it": ("make installs", ["make", "installs"]),
}


def run(command: list[str]) -> tuple[bool, str]:
    """Whether a command ended well, and what its tests said of themselves, if it ran any."""
    begun = time.monotonic()
    said = ""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        for line in running.stdout or ():
            print(line, end="", flush=True)
            said += line
    summaries = re.findall(r"^=* ?((?:\d+ (?:passed|failed|errors?|skipped)(?:, )?)+) in ", said, re.MULTILINE)
    pythons = re.findall(r": (Python 3[.\d]+);", said)
    counted = ", ".join([*pythons[-1:], *summaries[-1:]]) or f"{len(re.findall('^ok ', said, re.MULTILINE))} ways"
    return running.returncode == 0, f"{counted}, {time.monotonic() - begun:.0f} s"


def write(row: str, result: str) -> None:
    """Put a row's result and today's date into the table, in place of what stood there."""
    commands, day = ROWS[row][0].replace(", ", "`, `"), dt.datetime.now(dt.UTC).date()
    line = f"| {row} | `{commands}` | {result} | {day} |"
    page, found = re.subn(rf"^\| {re.escape(row)} \|.*$", line, PAGE.read_text("utf-8"), flags=re.MULTILINE)
    if found != 1:
        sys.exit(f"{PAGE} has no row {row!r}")
    PAGE.write_text(page, "utf-8")


def main(wanted: list[str]) -> int:
    """Run the rows; 0 if all of them passed."""
    for name in wanted:
        if not any(row.startswith(name) for row in ROWS):
            sys.exit(f"there is no row {name!r}; there are: {'; '.join(ROWS)}")
    passed = True
    for row, (_, command) in ROWS.items():
        if not wanted or any(row.startswith(name) for name in wanted):
            good, counted = run(command)
            write(row, f"passed: {counted}" if good else f"**failed**: {counted}")
            passed = passed and good
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
