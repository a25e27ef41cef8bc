# SPDX-License-Identifier: Apache-2.0
"""Mutation testing: change one thing in the code at a time and see whether a test fails.

    python tests/mutation/mutate.py [--mutants 800] [--seed 1] [--jobs 2] [--minutes 60] [--only dpop/htu.py]

Each mutant changes one comparison, operator, constant, condition, returned value or call. A first run with coverage
tells which tests reach which line; its result is kept in .ci/venvs until a source or a test changes. A mutant is tried
on tests that reach its statement, the quickest of each test function first, until one fails or MOST_SECONDS are spent.
One that runs at import, such as a module's constant, is tried on tests that reach any line of its file. The score is
the share that some test notices. A mutant that no test notices is printed with its place, for a person to judge: it
may be equivalent, or a test that was not selected may notice it.

Most mutants change the body of a function. A process that has collected all tests once forks for each of them, puts
the changed code into the functions and runs the tests, so nothing is imported or collected again. A mutant of what
runs at import gets a process that imports everything anew.

How busy the machine is decides nothing. Tests are chosen and stopped by the processor time that they take; only a
test that waits for ever is stopped by the clock. A test that fails or does not end is tried again alone: without the
mutant, where it must pass, and then with the mutant, for many times as long as that took. Only then the mutant counts
as noticed.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import contextlib
import copy
import gc
import hashlib
import importlib
import json
import mmap
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import CodeType, FunctionType
from typing import cast

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
    "tests/frameworks/test_refusals.py",
    "tests/redis/test_introspection.py",
]
TESTS += [
    "tests/adapters/test_sent_or_not.py",
    "tests/test_signature.py",
    "tests/test_htu.py",
    "tests/test_htu_properties.py",
    "tests/adapters/behaviours",
]
MOST_SECONDS = 45.0  # of processor time, for the tests of one mutant, as much as they took in the first run
# A test that takes more than these seconds and ten times what it took without a mutant is looked at again.
PATIENCE = 8.0  # of processor time
LONG_PATIENCE = 30.0  # by the clock, for a test that waits for ever
NOTICED = {"noticed", "endless"}
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
    at_import: bool  # it runs when its file is imported, not when a function is called


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
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inner = {part for function in functions for statement in function.body for part in ast.walk(statement)}
    for node in ast.walk(tree):
        if node in left_out or not hasattr(node, "end_lineno"):
            continue
        for changed, what in _changes(node):
            start = starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
            end = starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
            text = ast.unparse(changed)
            if isinstance(node, ast.expr):
                text = f"({text})"
            at_import = node not in inner
            yield Mutant(name, node.lineno, statements[node], start, end, text, what, at_import)  # type: ignore[attr-defined]


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
    """What no test can notice: annotations, docstrings, messages of errors, debug logs, the code of other systems."""
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
        case ast.Assign(targets=[ast.Name("__all__")]) | ast.keyword(arg="slots"):
            return [node]
        case ast.Expr(ast.Call(ast.Attribute(ast.Name("_log"), "debug"))):
            return [node]
        case ast.If(test=ast.Compare(ast.Attribute(ast.Name("sys"), "platform"))):
            return [*node.body]
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
    elif isinstance(new, ast.Return) and new.value is not None and not _is_nothing(new.value):
        yield ast.Return(ast.Constant(None)), f"{ast.unparse(node)} -> return None"
    elif isinstance(new, ast.Expr) and isinstance(new.value, ast.Call | ast.Await):
        yield ast.Pass(), f"{ast.unparse(node)} -> pass"


def _is_nothing(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and (node.value is None or node.value is False)


@dataclass(frozen=True)
class Seconds:
    """Time that tests took, or may take."""

    processor: float
    clock: float

    def limits(self) -> Seconds:
        """The time that a test may take with a mutant, if it took this time without one."""
        return Seconds(PATIENCE + 10 * self.processor, LONG_PATIENCE + 10 * self.clock)


@dataclass(frozen=True)
class Tests:
    """Tests to run, and how long each may take."""

    names: list[str]
    limits: list[Seconds]
    anew: bool  # in a process that imports everything again


@dataclass(frozen=True)
class Ended:
    """How a run of tests ended."""

    status: int | None  # None if a test did not end in time
    test: int  # the number of the last one that began
    spent: Seconds


class Bench:
    """A process with a copy of the sources, which mutants are put into and tried on, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.mutant: Mutant | None = None
        self.connection, other = multiprocessing.Pipe()
        self._process = os.fork()
        if not self._process:
            try:
                os.setsid()
                self.connection.close()  # or this process would not hear that the other one has ended
                _Trials(folder).serve(other)
            finally:
                os._exit(1)
        other.close()

    def begin(self, mutant: Mutant, tests: Tests) -> None:
        """Try a mutant; ``connection`` can be read when its outcome is known."""
        self.mutant = mutant
        self.connection.send((mutant, tests))

    def ended(self) -> tuple[Mutant, str]:
        """The mutant and its outcome: ``noticed``, ``survived``, ``endless``, or ``none`` if no test ran."""
        outcome: str = self.connection.recv()
        mutant, self.mutant = self.mutant, None
        assert mutant is not None
        return mutant, outcome

    def stop(self) -> None:
        """End the process, and what it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process, signal.SIGTERM)
        os.waitpid(self._process, 0)


class _Trials:
    """In the process of a bench: its sources, and a process that has collected all tests with them."""

    def __init__(self, folder: Path) -> None:
        for name in ("dpop", "cli"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        compileall.compile_dir(folder, quiet=1)
        scratch = folder / "tmp"
        scratch.mkdir()
        own = [str(folder), str(folder / "cli")]
        sys.path[:0] = own
        os.environ.update(PYTHONPATH=os.pathsep.join(own), PYTHONDONTWRITEBYTECODE="1", TMPDIR=str(scratch))
        # Otherwise the sources in the working directory would come first in programs that tests start.
        os.environ["PYTHONSAFEPATH"] = "1"
        sys.dont_write_bytecode, tempfile.tempdir = True, None
        os.chdir(ROOT)
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(nothing, descriptor)
        self._folder = folder
        self._collected, other = multiprocessing.Pipe()
        if not os.fork():
            try:
                self._collected.close()
                _pytest(TESTS, lambda session: _serve_forks(session, other))
            finally:
                os._exit(1)
        other.close()
        self._collected.recv()  # until it has imported everything, its sources must stay as they are

    def serve(self, connection: Connection) -> None:
        while True:
            mutant, tests = connection.recv()
            connection.send(self._outcome(mutant, tests))

    def _outcome(self, mutant: Mutant, tests: Tests) -> str:
        names, limits = tests.names, tests.limits
        outcome = "none"
        while names:
            ended = self._run(mutant, Tests(names, limits, tests.anew))
            if ended.status == pytest.ExitCode.NO_TESTS_COLLECTED:
                break
            outcome = "survived"
            if ended.status == 0:
                break
            # A test failed, or did not end in time. Is that because of the mutant?
            test = names[ended.test]
            without = self._run(None, Tests([test], [Seconds(600.0, 600.0)], tests.anew))
            again = self._run(mutant, Tests([test], [without.spent.limits()], tests.anew))
            if without.status == 0 and again.status != 0:
                return "endless" if again.status is None else "noticed"
            names, limits = names[ended.test + 1 :], limits[ended.test + 1 :]
        return outcome

    def _run(self, mutant: Mutant | None, tests: Tests) -> Ended:
        if mutant is None:
            return self._run_sources(None, tests)
        place = self._folder / mutant.path
        before, facts = place.read_bytes(), place.stat()
        after = before[: mutant.start] + mutant.text.encode() + before[mutant.end :]
        place.write_bytes(after)
        try:
            return self._run_sources((place, before, after), tests)
        finally:
            place.write_bytes(before)
            os.utime(place, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # so that its .pyc is right again

    def _run_sources(self, change: tuple[Path, bytes, bytes] | None, tests: Tests) -> Ended:
        if not tests.anew:
            self._collected.send((change, tests))
            ended: Ended | None = self._collected.recv()
            if ended is not None:
                return ended
        files = sorted({name.partition("::")[0] for name in tests.names})
        return _forked(lambda begun: _pytest(files, lambda session: _run_items(session, tests, begun)), tests)


def _pytest(arguments: list[str], run: Callable[[pytest.Session], None]) -> int:
    """Collect tests, and call ``run`` where pytest would run them; the process ends with the first test that fails."""

    class Plugin:
        @pytest.hookimpl(tryfirst=True)
        def pytest_runtestloop(self, session: pytest.Session) -> bool:
            if not session.testsfailed:  # here, by a file that cannot be imported
                run(session)
            return True

        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed:
                os._exit(1)

    options = ["-q", "-n0", "--assert=plain", "--capture=sys", "-pno:cacheprovider", "-pno:faker"]
    return int(pytest.main([*options, *arguments], [Plugin()]))


def _serve_forks(session: pytest.Session, connection: Connection) -> None:
    """Run tests in forks of this process, with the functions of a changed file changed."""
    connection.send(None)
    while True:
        change, tests = connection.recv()
        functions = list(_changed_functions(*change)) if change is not None else []
        if change is not None and not functions:
            connection.send(None)
            continue

        def run(begun: mmap.mmap, tests: Tests = tests, functions: list[_Changed] = functions) -> None:
            for function, code in functions:
                function.__code__ = code
            _run_items(session, tests, begun)

        connection.send(_forked(run, tests))


_Changed = tuple[FunctionType, CodeType]


def _changed_functions(place: Path, before: bytes, after: bytes) -> Iterator[_Changed]:
    changed = dict(_changed_codes(compile(before, place, "exec"), compile(after, place, "exec")))
    for thing in gc.get_objects():
        if isinstance(thing, FunctionType) and (code := changed.get(thing.__code__)) is not None:
            yield thing, code


def _changed_codes(before: CodeType, after: CodeType) -> Iterator[tuple[CodeType, CodeType]]:
    inner = [[part for part in code.co_consts if isinstance(part, CodeType)] for code in (before, after)]
    for old, new in zip(*inner, strict=False):
        if old != new and old.co_freevars == new.co_freevars:
            yield old, new
            yield from _changed_codes(old, new)


def _run_items(session: pytest.Session, tests: Tests, begun: mmap.mmap) -> None:
    """Run tests, and end the process."""
    known = {item.nodeid: item for item in session.items}
    items = [(number, known[name]) for number, name in enumerate(tests.names) if name in known]
    followers = [*(item for _, item in items[1:]), None]
    for (number, item), follower in zip(items, followers, strict=True):
        begun[:] = number.to_bytes(4, "little")
        signal.setitimer(signal.ITIMER_PROF, tests.limits[number].processor)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=follower)
    os._exit(0 if items else pytest.ExitCode.NO_TESTS_COLLECTED)


def _forked(run: Callable[[mmap.mmap], object], tests: Tests) -> Ended:
    """Run tests in a forked process, and end it with all that it started."""
    begun = mmap.mmap(-1, 4)  # both processes see it
    begun[:] = bytes(4)
    process = os.fork()
    if not process:
        try:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process when a test has used its processor time
            run(begun)
        finally:
            os._exit(1)
    start = since = time.monotonic()
    test, status, processor = 0, None, 0.0
    try:
        while True:
            ended, code, usage = os.wait4(process, os.WNOHANG)
            now = time.monotonic()
            if ended:
                status = os.waitstatus_to_exitcode(code)
                processor = usage.ru_utime + usage.ru_stime
                break
            if (number := int.from_bytes(begun, "little")) != test:
                test, since = number, now
            elif now - since > tests.limits[test].clock:
                break
            time.sleep(0.005)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)
        if status is None:
            os.waitpid(process, 0)
    in_time = None if status == -signal.SIGPROF else status
    return Ended(in_time, int.from_bytes(begun, "little"), Seconds(processor, time.monotonic() - start))


Measured = tuple[str, float, float]  # the name of a test, and the seconds of processor time and of the clock it took
_AT_IMPORT = -1  # stands among the numbers of the tests of a line


class Reached:
    """Which tests reach each line of each file."""

    def __init__(self, tests: list[Measured], lines: dict[str, dict[str, list[int]]]) -> None:
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

    def selection(self, mutant: Mutant) -> Tests:
        """Tests for a mutant."""
        file = self._lines.get(mutant.path, {})
        numbers = {number for line in mutant.lines for number in file.get(str(line), ())}
        anew = mutant.at_import or _AT_IMPORT in numbers
        if not numbers - {_AT_IMPORT}:
            numbers = {number for tests in file.values() for number in tests}
        names: list[str] = []
        limits: list[Seconds] = []
        seconds = 0.0
        for name, processor, clock in _varied(self._tests[number] for number in sorted(numbers - {_AT_IMPORT})):
            if names and seconds + processor > MOST_SECONDS:
                continue
            names.append(name)
            limits.append(Seconds(processor, clock).limits())
            seconds += processor
        return Tests(names, limits, anew)


def _varied(tests: Iterable[Measured]) -> list[Measured]:
    """First the quickest of each test function, the quickest first, then each function's second, and so on."""
    seen: Counter[str] = Counter()
    ranked = []
    for test in sorted(tests, key=lambda test: test[2]):
        function = test[0].partition("[")[0]
        ranked.append((seen[function], test))
        seen[function] += 1
    return [test for _, test in sorted(ranked, key=lambda place: (place[0], place[1][2]))]


TIMING = """
import json, os, pathlib, pytest
spent = {{}}
before = 0.0
@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    global before
    report = yield
    now = sum(os.times()[:4])  # of this process and of those that it started and that ended
    report.processor, before = now - before, now
    return report
def pytest_runtest_logstart():
    global before
    before = sum(os.times()[:4])
def pytest_runtest_logreport(report):
    processor, clock = spent.get(report.nodeid, (0, 0))
    spent[report.nodeid] = processor + report.processor, clock + report.duration
def pytest_sessionfinish(session):
    if not hasattr(session.config, "workerinput"):
        pathlib.Path({durations!r}).write_text(json.dumps(spent), "utf-8")
"""


def _run_with_coverage(scratch: Path, jobs: int) -> tuple[list[Measured], dict[str, dict[str, list[int]]]]:
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
    spent: dict[str, tuple[float, float]] = json.loads(durations.read_text("utf-8"))
    tests = sorted(((name, *seconds) for name, seconds in spent.items()), key=lambda test: test[1])
    numbers = {test[0]: number for number, test in enumerate(tests)}
    found = coverage.CoverageData(str(data))
    found.read()
    lines = {
        str(Path(file).relative_to(ROOT)): {
            str(line): sorted({numbers[name.rpartition("|")[0]] if name else _AT_IMPORT for name in names})
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
            while True:
                if time.monotonic() > until:
                    waiting.clear()
                for bench in benches:
                    if bench.mutant is None and waiting:
                        mutant = waiting.pop()
                        bench.begin(mutant, reached.selection(mutant))
                busy = {bench.connection: bench for bench in benches if bench.mutant is not None}
                if not busy:
                    break
                bench = busy[cast("Connection", wait(list(busy))[0])]
                yield bench.ended()
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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # also in the benches: end what was begun
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
    noticed = sum(outcome in NOTICED for _, outcome in results)
    ended = Counter(outcome for _, outcome in results)
    print(
        f"{noticed} of {len(results)} noticed: {noticed / len(results):.1%} "
        f"in {time.monotonic() - began:.0f} s; {dict(ended)}"
    )
    if options.out is not None:
        survivors = [
            {"path": mutant.path, "line": mutant.line, "what": mutant.what, "outcome": outcome}
            for mutant, outcome in results
            if outcome not in NOTICED
        ]
        facts = {"seed": options.seed, "mutants": len(results), "noticed": noticed, "survivors": survivors}
        options.out.write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    return int(noticed / len(results) < options.floor)


if __name__ == "__main__":
    sys.exit(main())
