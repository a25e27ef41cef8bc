# SPDX-License-Identifier: Apache-2.0
"""The toolkit beside what a user would pick instead, and beside the physical limit.

    python tests/benchmarks [--short] [--only mint --only verify] [--out docs/benchmarks]
    python tests/benchmarks --prepare [--short]

Writes a report in Markdown, every sample in JSON, and plots. Peers run in pinned environments of their own,
made at the first run, and in processes of their own, taking turns. Exit status 1 if a figure is missed that is no
matter of a machine's speed, such as a proof that was accepted twice.
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
import agent
import api
import command
import growth
import hardware
import mint
import paper
import peers
import quoted
import refresh
import scale
import served
import verify
import wasted
from cryptography.hazmat.backends.openssl import backend
from measure import Section

_SECTIONS: dict[str, Callable[..., Section]] = {
    "mint": mint.measure,
    "verify": verify.measure,
    "api": api.measure,
    "served": served.measure,
    "adapter": adapter.measure,
    "wasted": wasted.measure,
    "refresh": refresh.measure,
    "hardware": hardware.measure,
    "agent": agent.measure,
    "command": command.measure,
    "growth": growth.measure,
    "scale": scale.measure,
}
_FIRST = ("mint", "verify")  # what most readers come for
_PICTURES = {"wasted", "refresh", "hardware", "scale"}


def report(sections: list[Section], machine: dict[str, str]) -> str:
    """All of it in Markdown."""
    drawn = [section for section in sections if section.name in _FIRST]
    lines = ["# Benchmarks", ""]
    lines += [f"![{section.title}]({section.name}.svg)\n" for section in drawn]
    lines += _summary(sections)
    lines += [
        'Made by `make bench`; every sample is in `figures.json`. One row alone: `make bench ARGS="--only mint"`.',
        "Figures are medians, in brackets the middle half. Ratios are of runs in the same round. Each row says when it",
        "was taken, and on which processor; machine and versions are those of the rows taken last. What is compared",
        "in a row was measured on one machine; rows are not to be compared with each other.",
        "",
    ]
    lines += [f"- {name}: {value}" for name, value in machine.items()]
    lines += ["", "## Figures to reach", "", "| figure | measured | goal | reached |", "|---|---|---|---|"]
    for section in sections:
        for figure in section.figures:
            value = f"{figure.value:g} {figure.unit}".strip()
            reached = "" if figure.goal == "-" else "yes" if figure.reached else "**no**"
            lines.append(f"| {figure.name} | {value} | {figure.goal} | {reached} |")
    for section in sections:
        lines += ["", f"## {section.title}", "", f"{section.text} Taken on {section.taken_on}.", ""]
        if section.name in _PICTURES:
            lines += [f"![{section.title}]({section.name}.svg)", ""]
        lines += ["| " + " | ".join(section.header) + " |", "|---" * len(section.header) + "|"]
        lines += ["| " + " | ".join(cells) + " |" for cells in section.lines]
        if section.note:
            lines += ["", section.note]
    lines += paper.text({section.name: section for section in sections})
    return "\n".join(lines) + "\n"


def _summary(sections: list[Section]) -> list[str]:
    """How many of the figures are reached, and each that is missed."""
    wanted = [figure for section in sections for figure in section.figures if figure.goal != "-"]
    missed = [figure for figure in wanted if not figure.reached]
    lines = [f"Of {len(wanted)} figures to reach, {len(wanted) - len(missed)} are reached. Missed:", ""]
    lines += [f"- {figure.name}: {figure.value:g}, wanted {figure.goal}" for figure in missed] or ["- none"]
    return [*lines, ""]


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
    everyone += served.PEERS.values()
    pinned = peers.Environments(Path()).versions
    names = {
        "pydpop", "requests_oauth2client", "auth0-server-python", "PyJWT", "joserfc", "cryptography", "requests",
        "httpx", "httpx2", "aiohttp", "dpop", "jose", "oauth4webapi", "openid-client", "fastapi", "uvicorn",
        "auth0-fastapi-api",
    }  # fmt: skip
    versions = {name: version for peer in everyone for name, version in pinned(peer).items() if name in names}
    return {
        "machine": f"{model}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "Python": f"{platform.python_version()}, {backend.openssl_version_text()}",
        "with": ", ".join(
            f"{'npm ' if name in {'dpop', 'jose', 'oauth4webapi', 'openid-client'} else ''}{name} {version}"
            for name, version in sorted(versions.items(), key=lambda v: v[0].lower())
        ),
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _told(section: Section) -> None:
    """A section's figures, as soon as they are there."""
    for figure in section.figures:
        mark = "" if figure.goal == "-" else "ok" if figure.reached else "MISS"
        print(f"{mark:4} {figure.name}: {figure.value:g} {figure.unit}  (goal {figure.goal})", flush=True)


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="few rounds: shows that it runs, and little else")
    parser.add_argument(
        "--prepare", action="store_true", help="install the peers (of the short run), and measure nothing"
    )
    parser.add_argument("--only", action="append", choices=sorted(_SECTIONS), help="a row; may be repeated")
    parser.add_argument("--out", type=Path, help="the folder to write the report to; without it only figures are shown")
    parser.add_argument("--environments", type=Path, default=Path(".bench"), help="where the peers are installed")
    arguments = parser.parse_args()
    environments = peers.Environments(arguments.environments.resolve())
    if arguments.prepare:
        environments.make(without=served.LONG_ONLY if arguments.short else ())
        return 0
    if arguments.out is not None:
        import plots  # its library is installed for reports only: better missed now than after half an hour

        del plots
    sections = []
    for name, measure in _SECTIONS.items():
        if arguments.only is None or name in arguments.only:
            start = time.perf_counter()
            sections.append(measure(environments, short=arguments.short))
            print(f"--- {name}, {time.perf_counter() - start:.0f} s")
            _told(sections[-1])
    if arguments.out is not None:
        _write(sections, arguments.out)
    failed = [figure.name for section in sections for figure in section.figures if not (figure.timed or figure.reached)]
    for name in failed:
        print(f"wrong, on any machine: {name}", file=sys.stderr)
    return int(bool(failed))


def _write(sections: list[Section], out: Path) -> None:
    """Write the report; rows that were not measured now stay in it as they were."""
    import plots

    out.mkdir(parents=True, exist_ok=True)
    kept = out / "figures.json"
    known = json.loads(kept.read_text())["sections"] if kept.exists() else {}
    rows = {name: Section.from_json(row) for name, row in known.items() if name in _SECTIONS}
    facts = machine()
    for section in sections:
        section.taken_on += f" ({facts['machine'].partition(',')[0]})"
    rows |= {section.name: section for section in sections}
    ordered = [rows[name] for name in _SECTIONS if name in rows]
    (out / "README.md").write_text(report(ordered, facts))
    figures = {"machine": facts, "sections": {section.name: asdict(section) for section in ordered}}
    kept.write_text(json.dumps(figures) + "\n")
    plots.draw(ordered, out)
    if out.resolve() == quoted.ROOT / "docs" / "benchmarks":
        quoted.renew(ordered)


if __name__ == "__main__":
    sys.exit(main())
