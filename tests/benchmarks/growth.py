# SPDX-License-Identifier: Apache-2.0
"""Growth: what an entry of each cache costs as the cache fills, in time and memory."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from measure import Section, at_most
from peers import WORKERS, Environments

_SIZES = (10_000, 100_000, 1_000_000)
_GOALS = {"replay cache, 1,000 keys": 250, "replay cache, a key each": 400, "nonce cache": None}


def measure(_environments: Environments, *, short: bool) -> Section:
    """Each cache at each size in a process of its own."""
    section = Section(
        "growth",
        "Growth of the caches",
        "One process per line, filled to the size; memory is what the process grew by, divided by the entries. Late"
        " against early: an insertion when the cache is nearly full against one when it is nearly empty. The nonce"
        " cache is bounded to 1,000 servers unless told otherwise.",
        ["cache", "entries", "octets per entry", "one insertion, us", "late against early"],
    )
    for cache, goal in _GOALS.items():
        taken: list[dict[str, Any]] = []
        for size in _SIZES[1:2] if short else _SIZES:
            command = [sys.executable, str(WORKERS / "filling.py"), cache, str(size)]
            taken.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
            cells = [f"{taken[-1]['octets']:.0f}", f"{taken[-1]['micros']:.2f}", f"{taken[-1]['late']:.2f}"]
            section.lines.append([cache, f"{size:,}", *cells])
        section.raw[cache] = taken
        if goal is not None:
            data, late = round(taken[-1]["octets"]), round(taken[-1]["late"], 2)
            section.figures += [
                at_most(f"{cache}, for each entry", data, goal, "octets"),
                at_most(f"{cache}, adding one late against early", late, 2),
            ]
    return section
