# SPDX-License-Identifier: Apache-2.0
"""The toolkit beside what a user would pick instead, and beside the physical limit.

    python tests/benchmarks/compare [--short] [--only mint --only verify] [--out docs/benchmarks]

Writes a report in Markdown, every sample in JSON, and plots. Peers run in pinned environments of their own,
made at the first run, and in processes of their own, taking turns.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import adapter
import command
import growth
import mint
import peers
import verify
import wasted
from cryptography.hazmat.backends.openssl import backend
from measure import Section

_SECTIONS: dict[str, Callable[..., Section]] = {
    "mint": mint.measure,
    "verify": verify.measure,
    "adapter": adapter.measure,
    "wasted": wasted.measure,
    "command": command.measure,
    "growth": growth.measure,
}


def report(sections: list[Section], machine: dict[str, str]) -> str:
    """All of it in Markdown."""
    lines = [
        "# Benchmarks",
        "",
        "Made by `make compare`; every sample is in `figures.json`. Figures are medians, in brackets",
    ]
    lines += ["the middle half. Ratios are of runs in the same round.", ""]
    lines += [f"- {name}: {value}" for name, value in machine.items()]
    lines += ["", "## Figures to reach", "", "| figure | measured | goal | reached |", "|---|---|---|---|"]
    for section in sections:
        lines += [f"| {f.name} | {f.value} | {f.goal} | {'yes' if f.reached else '**no**'} |" for f in section.figures]
    for section in sections:
        lines += ["", f"## {section.title}", "", section.text, ""]
        picture = {"wasted": "wasted.svg", "mint": "mint.svg", "verify": "verify.svg"}.get(section.name)
        if picture:
            lines += [f"![{section.title}]({picture})", ""]
        lines += ["| " + " | ".join(section.header) + " |", "|---" * len(section.header) + "|"]
        lines += ["| " + " | ".join(cells) + " |" for cells in section.lines]
        if section.note:
            lines += ["", section.note]
    return "\n".join(lines) + "\n"


def machine() -> dict[str, str]:
    """Where and with what."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in _read("/proc/cpuinfo").splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    everyone = [value for name, value in vars(peers).items() if isinstance(value, peers.Peer) and name.isupper()]
    pinned = peers.Environments(Path()).versions
    names = {
        "pydpop", "requests_oauth2client", "auth0-server-python", "PyJWT", "joserfc", "cryptography", "requests",
        "httpx", "dpop", "jose", "oauth4webapi", "openid-client",
    }  # fmt: skip
    versions = {name: version for peer in everyone for name, version in pinned(peer).items() if name in names}
    return {
        "machine": f"{model}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "Python": f"{platform.python_version()}, {backend.openssl_version_text()}",
        "peers": ", ".join(
            f"{name} {version}" for name, version in sorted(versions.items(), key=lambda v: v[0].lower())
        ),
        "taken on": time.strftime("%Y-%m-%d"),
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="few rounds: shows that it runs, and little else")
    parser.add_argument("--only", action="append", choices=sorted(_SECTIONS), help="a part; may be repeated")
    parser.add_argument("--out", type=Path, help="the folder to write to; without it the report is printed")
    parser.add_argument("--environments", type=Path, default=Path(".bench"), help="where the peers are installed")
    arguments = parser.parse_args()
    environments = peers.Environments(arguments.environments.resolve())
    sections = []
    for name, measure in _SECTIONS.items():
        if arguments.only is None or name in arguments.only:
            print(f"{name} ...", file=sys.stderr)
            sections.append(measure(environments, short=arguments.short))
    facts = machine()
    text = report(sections, facts)
    if arguments.out is None:
        print(text)
        return 0
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "README.md").write_text(text)
    figures = {"machine": facts, "sections": {section.name: asdict(section) for section in sections}}
    (arguments.out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    import plots

    plots.draw(sections, arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
