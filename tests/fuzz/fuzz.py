# SPDX-License-Identifier: Apache-2.0
"""Fuzz, guided by coverage: ``python tests/fuzz/fuzz.py [--seconds 60] [--keep] [TARGET...]``.

Each target runs in a process of its own, as many at once as there are processors, from its seeds and from what is kept
in ``corpus/``: inputs, one a line in base64, that once reached code which nothing before them had. ``--keep`` adds what
this run finds. An input that breaks a promise is printed and kept in ``broken/``; add it to the corpus together with
the fix.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).parents[1]))  # for what the targets take from tests/support

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
BROKEN = HERE / "broken"
# Past every cap: the longest proof is 8192 bytes, the longest challenge 16384.
MAX_LENGTH = 20_000
# An input may take this long; a run must not hang.
INPUT_SECONDS = 20


def kept(name: str) -> list[bytes]:
    """The kept corpus of a target."""
    path = CORPUS / f"{name}.txt"
    return [base64.b64decode(line) for line in path.read_text("ascii").split()] if path.exists() else []


def keep(name: str, inputs: Iterable[bytes]) -> None:
    """Write the corpus of a target: the inputs, smallest first, that go where neither seeds nor smaller ones do."""
    from targets import TARGETS

    target = TARGETS[name]
    seen: set[tuple[str, int, int]] = set()
    for data in target.seeds():
        seen |= steps(target.run, data)
    lines: list[str] = []
    for data in sorted(set(inputs), key=lambda each: (len(each), each)):
        new = steps(target.run, data) - seen
        if new:
            seen |= new
            lines.append(base64.b64encode(data).decode() + "\n")
    CORPUS.mkdir(exist_ok=True)
    (CORPUS / f"{name}.txt").write_text("".join(lines), "ascii")


def steps(run: Callable[[bytes], object], data: bytes) -> set[tuple[str, int, int]]:
    """From which line to which the package goes on an input."""
    taken: set[tuple[str, int, int]] = set()

    def enter(frame: FrameType, _event: str, _argument: object) -> Callable[..., object] | None:
        name, last = frame.f_code.co_filename, frame.f_lineno
        if f"{os.sep}dpop" not in name:
            return None

        def step(frame: FrameType, event: str, _argument: object) -> Callable[..., object]:
            nonlocal last
            if event == "line":
                taken.add((name, last, frame.f_lineno))
                last = frame.f_lineno
            return step

        return step

    sys.settrace(enter)
    try:
        run(data)
    finally:
        sys.settrace(None)
    return taken


def run_one(name: str, arguments: list[str]) -> None:
    """Hand this process over to libFuzzer."""
    import atheris

    with atheris.instrument_imports(include=["dpop", "dpop_cli"]):
        from targets import TARGETS

    atheris.Setup([name, *arguments], TARGETS[name].run)
    atheris.Fuzz()


def fuzz(name: str, seconds: int, *, keeping: bool) -> bool:
    """Fuzz one target for some time; return whether all inputs passed."""
    from targets import TARGETS

    with tempfile.TemporaryDirectory() as directory:
        seeds, found = Path(directory, "seeds"), Path(directory, "found")
        seeds.mkdir()
        found.mkdir()
        for data in [*TARGETS[name].seeds(), *kept(name)]:
            (seeds / hashlib.sha256(data).hexdigest()).write_bytes(data)
        BROKEN.mkdir(exist_ok=True)
        done = subprocess.run(
            [
                *(sys.executable, __file__, "--one", name, "--"),
                *(found, seeds, f"-max_total_time={seconds}", f"-max_len={MAX_LENGTH}", f"-dict={HERE / 'words.txt'}"),
                *(f"-timeout={INPUT_SECONDS}", "-rss_limit_mb=2048", f"-artifact_prefix={BROKEN}/{name}-"),
                *("-print_final_stats=1", "-verbosity=0"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            env={**os.environ, "PYTHONPATH": str(HERE)},
        )
        if keeping:
            keep(name, [*kept(name), *(path.read_bytes() for path in found.iterdir())])
    executed = next((line.split()[-1] for line in done.stdout.splitlines() if "number_of_executed_units" in line), "?")
    print(f"{name}: {executed} inputs, {'no promise broken' if done.returncode == 0 else 'BROKEN'}", flush=True)
    if done.returncode != 0:
        print(done.stdout[-6_000:], flush=True)
    return done.returncode == 0


def main() -> int:
    """Run what the command line says."""
    from targets import TARGETS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all by default")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--keep", action="store_true", help="add what is found to the corpus")
    options = parser.parse_args()
    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    # All of them, also where one breaks.
    with ThreadPoolExecutor(os.cpu_count()) as at_once:
        well = list(
            at_once.map(lambda name: fuzz(name, options.seconds, keeping=options.keep), options.targets or TARGETS)
        )
    if BROKEN.exists() and not any(BROKEN.iterdir()):
        shutil.rmtree(BROKEN)
    return 0 if all(well) else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        run_one(sys.argv[2], sys.argv[4:])
    else:
        sys.exit(main())
