# SPDX-License-Identifier: Apache-2.0
"""Growth: what an entry of each cache costs as the cache fills, in time and memory."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from measure import Figure, Section
from peers import WORKERS, Environments

_SIZES = (10_000, 100_000, 1_000_000)


def measure(_environments: Environments, *, short: bool) -> Section:
    """Each cache at each size in a process of its own."""
    section = Section(
        "growth",
        "Growth of the caches",
        "One process per line, filled to the size; memory is what the process grew by, divided by the entries; an"
        " insertion is timed over the last tenth. The nonce cache is bounded to 100 servers unless told otherwise.",
        ["cache", "entries", "octets per entry", "one insertion, us"],
    )
    goals = {"replay cache, 1,000 keys": 250, "replay cache, a key each": 400}
    for cache in ("replay cache, 1,000 keys", "replay cache, a key each", "nonce cache"):
        taken: list[dict[str, Any]] = []
        for size in _SIZES[:1] if short else _SIZES:
            command = [sys.executable, str(WORKERS / "filling.py"), cache, str(size)]
            taken.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
            section.lines.append([cache, f"{size:,}", f"{taken[-1]['octets']:.0f}", f"{taken[-1]['micros']:.2f}"])
        section.raw[cache] = taken
        if cache in goals:
            octets = taken[-1]["octets"]
            figure = Figure(f"{cache}, octets per entry", round(octets), f"<= {goals[cache]}", octets <= goals[cache])
            section.figures.append(figure)
    return section
