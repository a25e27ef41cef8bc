# SPDX-License-Identifier: Apache-2.0
"""The house itself: which way imports go, what importing costs, and what no file may say."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.paths import ROOT

import dpop

SOURCES = sorted([*(ROOT / "dpop").rglob("*.py"), *(ROOT / "cli").rglob("*.py")])
PYTHON = sorted([*SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "vectors").rglob("*.py")])
OTHERS = [
    *(ROOT / "tests" / "interop").glob("*.mjs"),
    *(ROOT / "tests" / "support").glob("*.c"),
    ROOT / "scripts" / "setup",
    ROOT / ".ci" / "run",
]

# Doors and what they share; no other module may import the libraries they are named after.
DOORS = {
    "requests",
    "google",
    "httpx",
    "httpx2",
    "keyring",
    "redis",
    "asgi",
    "wsgi",
    "starlette",
    "_google_credentials",
    "_google_flows",
    "_google_shared",
    "_google_wire",
    "_urllib3_wire",
    "_httpx_answers",
    "_httpx_bodies",
    "_httpx_auth",
    "_httpx_shells",
    "_httpx_wire",
    "_httpx_tokens",
    "_redis_failures",
    "_redis_replay",
    "_redis_tokens",
}
# From the bottom up: a layer imports from those below it and from itself.
LAYERS = [
    {"errors", "redaction", "profiles"},
    {"encoding", "signature", "origin"},
    {"htu"},
    {"keys"},
    {"proof"},
    {"client", "server"},
    {"tokens"},
    DOORS,
    {"testing"},
]
HTTP_LIBRARIES = {"requests", "urllib3", "httpx", "httpx2", "httpcore", "httpcore2", "h2", "anyio", "aiohttp"}
LIBRARIES = HTTP_LIBRARIES | {"keyring", "redis", "starlette", "google_auth_oauthlib"}


def part(path: Path) -> str:
    """The part of the package a file belongs to."""
    inside = path.relative_to(ROOT / "dpop").parts
    return inside[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Every module a file imports, wherever in it; a relative one with its dots."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.module == "dpop":
                yield from (f"dpop.{name.name}" for name in node.names)
            else:
                yield "." * node.level + (node.module or "")


def level(name: str) -> int:
    """How far up a part stands."""
    return next(number for number, layer in enumerate(LAYERS) if name in layer)


def test_every_part_has_its_layer() -> None:
    """A new part of the package must be given its place."""
    parts = {part(path) for path in SOURCES if path.is_relative_to(ROOT / "dpop")} - {"__init__"}
    assert parts <= set().union(*LAYERS)


def test_imports_go_down() -> None:
    """errors, encoding, htu <- keys <- proof <- client, server <- tokens <- doors <- testing <- cli."""
    wrong = []
    for path in SOURCES:
        if not path.is_relative_to(ROOT / "dpop") or path == ROOT / "dpop" / "__init__.py":
            continue
        here = part(path)
        for module in imports(path):
            names = module.split(".")
            # A relative import would hide its direction from this test.
            if names[0] in {"", "dpop_cli"} or (names[0] == "dpop" and len(names) == 1):
                wrong.append(f"{path.name} imports {module}")
            elif names[0] == "dpop" and here != names[1]:
                there = level(names[1])
                if there > level(here) or {here, names[1]} == {"client", "server"}:
                    wrong.append(f"{path.name} imports {module}")
    assert wrong == []


def test_only_doors_import_what_they_are_named_after() -> None:
    """The brain, the keys and the server know no HTTP library and no database."""
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in SOURCES
        if path.is_relative_to(ROOT / "dpop") and part(path) not in DOORS
        for module in imports(path)
        if module.split(".")[0] in LIBRARIES
    ]
    assert wrong == []


@pytest.mark.parametrize("module", ["dpop", "dpop.server", "dpop.client._flow"])
def test_importing_is_light(module: str) -> None:
    """Importing the package loads no HTTP library, no Redis, no PKCS#11, no joserfc, no click, no idna."""
    others = {"joserfc", "click", "idna", "http.client", "ssl", "pytest", "dpop.keys.pkcs11"}
    heavy = sorted(LIBRARIES | others)
    code = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert shown.stdout.strip() == "[]"


def test_help_loads_no_cryptography() -> None:
    """``dpop --help`` is quick: no key is needed to read it."""
    code = (
        "import sys\nfrom dpop_cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print('cryptography' in sys.modules, file=sys.stderr)"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert shown.stderr.strip() == "False"


def test_the_front_door_is_sorted_and_true() -> None:
    """``__all__`` is sorted, and everything in it is there; the linter sorts those of other modules."""
    assert list(dpop.__all__) == sorted(dpop.__all__)
    assert [name for name in dpop.__all__ if not hasattr(dpop, name)] == []


def test_no_group_is_repeated_possessively() -> None:
    """Python before 3.11.5 misreads ``(?:...)*+`` and ``(?>...)``: Debian 12's let bad hosts through."""
    characters = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]")
    possessive = re.compile(r"\)(?:[*+?]|\{[0-9,]+\})\+|\(\?>")
    wrong = [
        f"{path.name}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and possessive.search(characters.sub(".", str(node.value)))
    ]
    assert wrong == []


def test_every_module_says_what_it_is() -> None:
    """Each module has a docstring."""
    lacking = [path.name for path in SOURCES if ast.get_docstring(ast.parse(path.read_text("utf-8"))) is None]
    assert lacking == []


def test_every_file_has_its_licence() -> None:
    """The first line of every program, after the one that names its interpreter, is the SPDX line."""
    notice = re.compile(r"(#!.*\n)?(#|//) SPDX-License-Identifier: Apache-2\.0\n")
    lacking = [
        str(path.relative_to(ROOT))
        for path in [*PYTHON, *OTHERS]
        if "node_modules" not in path.parts and not notice.match(path.read_text("utf-8"))
    ]
    assert lacking == []


def test_files_are_of_a_size_to_read() -> None:
    """No source file is over 400 lines: a larger one has two reasons to exist."""
    large = {path.name: n for path in SOURCES if (n := len(path.read_text("utf-8").splitlines())) > 400}
    assert large == {}


def tracked() -> list[Path]:
    """Files under version control, or, in a copy without it, all sources."""
    if not (ROOT / ".git").exists():
        return [*PYTHON, *OTHERS]
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_file_names_a_machine_or_a_registry() -> None:
    """Paths of one machine and host names of package registries have no place in a project."""
    forbidden = re.compile(rb"/(?:home|Users)/\w|/[w]ork/|/[r]oot/|[p]ypi\.org|[n]pmjs\.|[p]ythonhosted|[d]eb\.debian")
    wrong = [str(path.relative_to(ROOT)) for path in tracked() if forbidden.search(path.read_bytes())]
    assert wrong == []


def test_the_readme_names_the_right_package() -> None:
    """``pip install dpop`` would install another project's package."""
    readme = (ROOT / "README.md").read_text("utf-8")
    assert re.search(r"pip install \"?dpop-toolkit", readme)
    assert not re.search(r"pip install \"?dpop(?!-toolkit)", readme)


def test_dependencies_have_reasons() -> None:
    """Each run-time dependency has a comment that says what it is for."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    for dependency in tomllib.loads(text)["project"]["dependencies"]:
        assert re.search(re.escape(f'"{dependency}",') + r"\s*# \S", text), dependency
