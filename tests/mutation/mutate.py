# SPDX-License-Identifier: Apache-2.0
"""Mutation testing: change one thing in the code at a time and see whether a test fails.

    python tests/mutation/mutate.py [--mutants 800] [--seed 1] [--jobs 2] [--minutes 60] [--only dpop/htu.py]

Each mutant changes one comparison, operator, constant, condition, returned value or call. A first run with coverage
tells which tests reach which line; its result is kept in .ci/venvs until a source or a test changes. A mutant is tried
on tests that reach its statement, the quickest of each test function first. One that runs at import, such as a
module's constant, is tried on tests that reach any line of its file. The score is the share that some test notices.
A mutant that no test notices is printed with its place, for a person to judge: it may be equivalent, or a test that
was not selected may notice it.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import copy
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import coverage
import pytest

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
MOST_TESTS = 150
MOST_SECONDS = 20.0  # of the selected tests, as long as they took in the first run
TIMEOUT = 60.0  # and as long as they took; a mutant that loops for ever has no end
# What tests import beside the package and themselves. A process for a mutant begins with it, and saves seconds.
PRELOADED = (
    "pytest", "xdist", "pytest_cov", "hypothesis", "hypothesis.strategies",
    "asyncio", "concurrent.futures", "http.server", "sqlite3", "ssl", "unittest.mock", "xml.etree.ElementTree",
    "cryptography.hazmat.primitives.asymmetric.ec", "cryptography.hazmat.primitives.asymmetric.rsa",
    "cryptography.hazmat.primitives.serialization", "cryptography.x509", "joserfc.jwk", "joserfc.jws", "click",
    "httpx", "httpx2", "requests", "redis", "redis.asyncio", "h2.connection", "jsonschema", "idna", "platformdirs",
)  # fmt: skip

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
    lines: range  # of its statement, without the statements inside
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
    statements = dict(_lines_of_statements(tree))
    for node in ast.walk(tree):
        if node in left_out or not hasattr(node, "end_lineno"):
            continue
        for changed, what in _changes(node):
            start = starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
            end = starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
            text = ast.unparse(changed)
            if isinstance(node, ast.expr):
                text = f"({text})"
            yield Mutant(name, node.lineno, statements[node], start, end, text, what)  # type: ignore[attr-defined]


def _lines_of_statements(node: ast.AST, lines: range = range(0)) -> Iterator[tuple[ast.AST, range]]:
    """Each node with the lines of the innermost statement that holds it."""
    if isinstance(node, ast.stmt):
        inner = getattr(node, "body", None) or getattr(node, "cases", None)
        first = node.lineno
        last = (inner[0].pattern if hasattr(inner[0], "pattern") else inner[0]).lineno - 1 if inner else node.end_lineno
        lines = range(first, max(first, last or first) + 1)
    elif isinstance(node, ast.match_case):
        lines = range(node.pattern.lineno, max(node.pattern.lineno, node.body[0].lineno - 1) + 1)
    yield node, lines
    for child in ast.iter_child_nodes(node):
        yield from _lines_of_statements(child, lines)


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
    """A copy of the sources that mutants are put into, one after the other, each with a process that tries it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("dpop", "cli"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        compileall.compile_dir(folder, quiet=1)
        self.mutant: Mutant | None = None

    def begin(self, mutant: Mutant, tests: list[str], seconds: float) -> None:
        """Change the source, and fork a process that runs the tests."""
        self.mutant, self._place = mutant, self.folder / mutant.path
        self._source, self._stat = self._place.read_bytes(), self._place.stat()
        self._place.write_bytes(self._source[: mutant.start] + mutant.text.encode() + self._source[mutant.end :])
        self._deadline = time.monotonic() + seconds
        self._process = os.fork()
        if not self._process:
            self._run(tests)

    def _run(self, tests: list[str]) -> None:
        status = 3
        try:
            os.setsid()
            nothing = os.open(os.devnull, os.O_RDWR)
            for descriptor in range(3):
                os.dup2(nothing, descriptor)
            os.chdir(ROOT)
            own = [str(self.folder), str(self.folder / "cli")]
            sys.path[:0] = own
            os.environ.update(PYTHONPATH=os.pathsep.join(own), PYTHONDONTWRITEBYTECODE="1")
            sys.dont_write_bytecode = True
            options = ["-x", "-q", "-n0", "--assert=plain", *(f"-p{name}" for name in ("no:cacheprovider", "no:faker"))]
            status = pytest.main([*options, *tests])
        finally:
            os._exit(status)

    def outcome(self) -> str | None:
        """``noticed``, ``survived``, ``timeout``, or ``none`` where no test ran; None while it runs."""
        process, status = os.waitpid(self._process, os.WNOHANG)
        late = time.monotonic() > self._deadline
        if not process and not late:
            return None
        if not process:
            self.stop()
        self._place.write_bytes(self._source)
        os.utime(self._place, ns=(self._stat.st_atime_ns, self._stat.st_mtime_ns))  # so that its .pyc is right again
        self.mutant = None
        if not process:
            return "timeout"
        return {0: "survived", 5: "none"}.get(  # 4: it cannot even be imported
            os.waitstatus_to_exitcode(status), "noticed"
        )

    def stop(self) -> None:
        """End the process, and what it started."""
        if self.mutant is not None:
            os.killpg(self._process, signal.SIGKILL)
            os.waitpid(self._process, 0)


class Reached:
    """Which tests reach each line of each file."""

    def __init__(self, tests: list[tuple[str, float]], lines: dict[str, dict[str, list[int]]]) -> None:
        self._tests, self._lines = tests, lines

    @classmethod
    def found(cls, jobs: int) -> Reached:
        """Run the tests with coverage, or read what the last such run found."""
        kept = ROOT / ".ci/venvs/mutation.json"
        digest = hashlib.sha256()
        for path in sorted(path for name in ("dpop", "cli", "tests") for path in (ROOT / name).rglob("*.py")):
            digest.update(path.read_bytes())
        if kept.exists() and (facts := json.loads(kept.read_text("utf-8")))["of"] == digest.hexdigest():
            return cls(facts["tests"], facts["lines"])
        with tempfile.TemporaryDirectory() as scratch:
            tests, lines = _run_with_coverage(Path(scratch), jobs)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps({"of": digest.hexdigest(), "tests": tests, "lines": lines}), "utf-8")
        return cls(tests, lines)

    def selection(self, mutant: Mutant) -> tuple[list[str], float]:
        """Tests for a mutant, and the seconds they take."""
        file = self._lines.get(mutant.path, {})
        numbers = {number for line in mutant.lines for number in file.get(str(line), ())}
        if not numbers:
            numbers = {number for tests in file.values() for number in tests}
        chosen: list[str] = []
        seconds = 0.0
        for name, spent in _varied(self._tests[number] for number in sorted(numbers)):
            if chosen and (len(chosen) == MOST_TESTS or seconds + spent > MOST_SECONDS):
                continue
            chosen.append(name)
            seconds += spent
        return chosen, seconds


def _varied(tests: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    """First the quickest of each test function, the quickest first, then each function's second, and so on."""
    seen: Counter[str] = Counter()
    ranked = []
    for name, spent in sorted(tests, key=lambda test: test[1]):
        function = name.partition("[")[0]
        ranked.append((seen[function], spent, name))
        seen[function] += 1
    return [(name, spent) for _, spent, name in sorted(ranked)]


TIMING = """
import json, os, pathlib
spent = {{}}
def pytest_runtest_logreport(report):
    spent[report.nodeid] = spent.get(report.nodeid, 0) + report.duration
def pytest_sessionfinish(session):
    if not hasattr(session.config, "workerinput"):
        pathlib.Path({durations!r}).write_text(json.dumps(spent), "utf-8")
"""


def _run_with_coverage(scratch: Path, jobs: int) -> tuple[list[tuple[str, float]], dict[str, dict[str, list[int]]]]:
    data, durations = scratch / "coverage", scratch / "durations.json"
    (scratch / "timing.py").write_text(TIMING.format(durations=str(durations)), "utf-8")
    (scratch / "coveragerc").write_text("", "utf-8")  # lines only, and in these processes only
    command = [sys.executable, "-m", "pytest", "-q", f"-n{jobs}", "-p", "timing", "-p", "no:cacheprovider"]
    command += ["--cov=dpop", f"--cov-config={scratch / 'coveragerc'}", "--cov-context=test", "--cov-report=", *TESTS]
    environment = {
        **os.environ,
        "COVERAGE_FILE": str(data),
        "PYTHONPATH": os.pathsep.join([str(scratch), str(ROOT), str(ROOT / "cli")]),
    }
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    spent: dict[str, float] = json.loads(durations.read_text("utf-8"))
    tests = sorted(spent.items(), key=lambda test: test[1])
    numbers = {name: number for number, (name, _) in enumerate(tests)}
    found = coverage.CoverageData(str(data))
    found.read()
    lines = {
        str(Path(file).relative_to(ROOT)): {
            str(line): sorted({numbers[name.rpartition("|")[0]] for name in names if name})
            for line, names in found.contexts_by_lineno(file).items()
        }
        for file in found.measured_files()
    }
    return tests, lines


def judged(sample: list[Mutant], reached: Reached, jobs: int, until: float) -> Iterator[tuple[Mutant, str]]:
    """Each mutant with its outcome, ``jobs`` at a time; none is begun after ``until`` of the monotonic clock."""
    for name in PRELOADED:
        importlib.import_module(name)
    waiting = list(reversed(sample))
    with tempfile.TemporaryDirectory() as folder:
        benches = [Bench(Path(folder) / str(number)) for number in range(jobs)]
        try:
            while waiting or any(bench.mutant for bench in benches):
                for bench in benches:
                    if (mutant := bench.mutant) is not None:
                        if (outcome := bench.outcome()) is not None:
                            yield mutant, outcome
                    elif waiting and time.monotonic() > until:
                        waiting.clear()
                    elif waiting:
                        mutant = waiting.pop()
                        tests, seconds = reached.selection(mutant)
                        if tests:
                            bench.begin(mutant, tests, TIMEOUT + seconds)
                        else:
                            yield mutant, "none"
                time.sleep(0.01)
        finally:
            for bench in benches:
                bench.stop()


def main() -> int:
    """Run it; status 1 if fewer were noticed than ``--floor``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=800)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop then, with those that were tried")
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
    began = time.monotonic()
    reached = Reached.found(options.jobs)
    print(f"the tests of each line are known after {time.monotonic() - began:.0f} s", flush=True)
    results = []
    for mutant, outcome in judged(sample, reached, options.jobs, began + options.minutes * 60):
        results.append((mutant, outcome))
        if not len(results) % 50:
            print(f"{len(results)} tried after {time.monotonic() - began:.0f} s", flush=True)
        if outcome != "noticed":
            print(f"{outcome}: {mutant.path}:{mutant.line}: {mutant.what[:160]}", flush=True)
    noticed = sum(outcome in {"noticed", "timeout"} for _, outcome in results)
    ended = Counter(outcome for _, outcome in results)
    print(
        f"{noticed} of {len(results)} noticed: {noticed / len(results):.1%} "
        f"in {time.monotonic() - began:.0f} s; {dict(ended)}"
    )
    if options.out is not None:
        survivors = [
            {"path": mutant.path, "line": mutant.line, "what": mutant.what, "outcome": outcome}
            for mutant, outcome in results
            if outcome not in {"noticed", "timeout"}
        ]
        facts = {"seed": options.seed, "mutants": len(results), "noticed": noticed, "survivors": survivors}
        options.out.write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    return int(noticed / len(results) < options.floor)


if __name__ == "__main__":
    sys.exit(main())
