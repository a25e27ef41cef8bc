# SPDX-License-Identifier: Apache-2.0
"""Mutation testing: change one thing in the code at a time and see whether a test fails.

    python tests/mutation/mutate.py [--mutants 800] [--seed 1] [--jobs 2] [--only dpop/htu.py] [--out FILE]

Each mutant changes one comparison, operator, constant, condition, returned value or call. A first run with coverage
tells which tests reach which line; a mutant is tried on those, the quickest first. Its score is the share that some
test notices. A mutant that no test notices is printed with its place, for a person to judge: it may be equivalent.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import coverage

ROOT = Path(__file__).resolve().parents[2]
MUTATED = ["dpop/client", "dpop/server", "dpop/tokens", "dpop/signature.py", "dpop/htu.py"]
TESTS = [
    "tests/client",
    "tests/server",
    "tests/tokens",
    "tests/vectors",
    "tests/frameworks/test_asgi.py",
    "tests/frameworks/test_wsgi.py",
]
TESTS += [
    "tests/test_signature.py",
    "tests/test_htu.py",
    "tests/test_htu_properties.py",
    "tests/adapters/test_behaviours.py",
]
MOST_TESTS = 40
SECONDS = 90.0

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}


@dataclass(frozen=True)
class Mutant:
    """One change to one file."""

    path: str
    line: int
    start: int
    end: int
    text: str
    what: str


def mutants_of(path: Path) -> Iterator[Mutant]:
    """Every mutant of a file, in the order of the source."""
    source = path.read_text("utf-8")
    tree = ast.parse(source)
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    left_out = set(_left_out(tree))
    name = str(path.relative_to(ROOT))
    for node in ast.walk(tree):
        if node in left_out or not hasattr(node, "end_lineno"):
            continue
        for changed, what in _changes(node):
            start = starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
            end = starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
            text = ast.unparse(changed)
            if isinstance(node, ast.expr):
                text = f"({text})"
            yield Mutant(name, node.lineno, start, end, text, what)  # type: ignore[attr-defined]


def _left_out(tree: ast.Module) -> Iterator[ast.AST]:
    """What says nothing at run time, or only to people: annotations, docstrings, messages of errors."""
    for node in ast.walk(tree):
        for part in _silent_parts(node):
            if part is not None:
                yield from ast.walk(part)


def _silent_parts(node: ast.AST) -> list[ast.AST | None]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return [node.returns, *(argument.annotation for argument in [*node.args.args, *node.args.kwonlyargs])]
        case ast.AnnAssign():
            return [node.annotation]
        case ast.Raise():
            return [node.exc]
        case ast.JoinedStr() | ast.Assert() | ast.If(test=ast.Name("TYPE_CHECKING")):
            return [node]
        case ast.Assign(targets=[ast.Name("__all__")]):
            return [node]
    return []


def _changes(node: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    new = copy.deepcopy(node)
    if isinstance(new, ast.Compare) and type(new.ops[0]) in COMPARISONS:
        before = ast.unparse(node)
        new.ops[0] = COMPARISONS[type(new.ops[0])]()
        yield new, f"{before} -> {ast.unparse(new)}"
    elif isinstance(new, ast.BoolOp):
        new.op = ast.Or() if isinstance(new.op, ast.And) else ast.And()
        yield new, f"{ast.unparse(node)} -> {ast.unparse(new)}"
    elif isinstance(new, ast.UnaryOp) and isinstance(new.op, ast.Not):
        yield new.operand, f"{ast.unparse(node)} -> without not"
    elif isinstance(new, ast.BinOp) and type(new.op) in OPERATORS:
        new.op = OPERATORS[type(new.op)]()
        yield new, f"{ast.unparse(node)} -> {ast.unparse(new)}"
    elif isinstance(new, ast.Constant) and isinstance(new.value, bool):
        yield ast.Constant(not new.value), f"{new.value} -> {not new.value}"
    elif isinstance(new, ast.Constant) and isinstance(new.value, int | float):
        yield ast.Constant(new.value + 1), f"{new.value} -> {new.value + 1}"
    elif isinstance(new, ast.IfExp):
        new.body, new.orelse = new.orelse, new.body
        yield new, f"{ast.unparse(node)} -> the other way round"
    elif isinstance(new, ast.Return) and new.value is not None and not _is_none(new.value):
        yield ast.Return(ast.Constant(None)), f"{ast.unparse(node)} -> return None"
    elif isinstance(new, ast.Expr) and isinstance(new.value, ast.Call | ast.Await):
        yield ast.Pass(), f"{ast.unparse(node)} -> pass"


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


class Bench:
    """A copy of the sources that mutants are put into, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("dpop", "cli"):
            shutil.copytree(ROOT / name, folder / name)

    def outcome(self, mutant: Mutant, tests: list[str]) -> str:
        """``noticed``, ``survived``, or ``timeout`` for one that never ended."""
        place = self.folder / mutant.path
        source = place.read_bytes()
        place.write_bytes(source[: mutant.start] + mutant.text.encode() + source[mutant.end :])
        try:
            return self._run(tests)
        finally:
            place.write_bytes(source)

    def _run(self, tests: list[str]) -> str:
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", "-n0", *tests],
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": f"{self.folder}{os.pathsep}{self.folder / 'cli'}",
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            return "survived" if process.wait(SECONDS) == 0 else "noticed"
        except subprocess.TimeoutExpired:
            return "timeout"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def tests_by_line(scratch: Path) -> dict[str, dict[int, list[str]]]:
    """Which tests reach each line, the quickest tests first."""
    data, durations = scratch / "coverage", scratch / "durations.json"
    (scratch / "timing.py").write_text(
        "import json, os\nspent = {}\n"
        "def pytest_runtest_logreport(report):\n"
        "    spent[report.nodeid] = spent.get(report.nodeid, 0) + report.duration\n"
        f"def pytest_sessionfinish():\n    json.dump(spent, open({str(durations)!r}, 'w'))\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "timing", "-p", "no:cacheprovider"]
    command += ["--cov=dpop", "--cov-context=test", "--cov-report=", *TESTS]
    environment = {
        **os.environ,
        "COVERAGE_FILE": str(data),
        "PYTHONPATH": f"{scratch}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    spent = json.loads(durations.read_text("utf-8"))
    found = coverage.CoverageData(str(data))
    found.read()
    lines: dict[str, dict[int, list[str]]] = {}
    for file in found.measured_files():
        contexts = found.contexts_by_lineno(file)
        lines[str(Path(file).relative_to(ROOT))] = {
            line: sorted({name.partition("|")[0] for name in names if name}, key=lambda name: spent.get(name, 99.0))
            for line, names in contexts.items()
        }
    return lines


def main() -> int:
    """Run it; status 1 if fewer were noticed than ``--floor``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=800)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", action="append", help="a file or folder, instead of all of them")
    parser.add_argument("--floor", type=float, default=0.0, help="the least share that must be noticed")
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    options = parser.parse_args()
    files = [
        path
        for name in options.only or MUTATED
        for path in ([ROOT / name] if name.endswith(".py") else sorted((ROOT / name).rglob("*.py")))
    ]
    everything = [mutant for path in files for mutant in mutants_of(path)]
    sample = random.Random(options.seed).sample(everything, min(options.mutants, len(everything)))
    print(f"{len(sample)} of {len(everything)} mutants, seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        lines = tests_by_line(scratch)
        benches: SimpleQueue[Bench] = SimpleQueue()
        for number in range(options.jobs):
            benches.put(Bench(scratch / f"bench-{number}"))

        def judge(mutant: Mutant) -> tuple[Mutant, str]:
            tests = lines.get(mutant.path, {}).get(mutant.line, [])[:MOST_TESTS]
            if not tests:
                return mutant, "survived"
            bench = benches.get()
            try:
                return mutant, bench.outcome(mutant, tests)
            finally:
                benches.put(bench)

        with ThreadPoolExecutor(options.jobs) as pool:
            results = []
            for mutant, outcome in pool.map(judge, sample):
                results.append((mutant, outcome))
                if outcome == "survived":
                    print(f"survived: {mutant.path}:{mutant.line}: {mutant.what[:160]}", flush=True)
    noticed = sum(outcome != "survived" for _, outcome in results)
    print(f"{noticed} of {len(results)} noticed: {noticed / len(results):.1%}")
    if options.out is not None:
        survivors = [vars(mutant) for mutant, outcome in results if outcome == "survived"]
        facts = {"seed": options.seed, "mutants": len(results), "noticed": noticed, "survivors": survivors}
        options.out.write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    return int(noticed / len(results) < options.floor)


if __name__ == "__main__":
    sys.exit(main())
