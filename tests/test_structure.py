# SPDX-License-Identifier: Apache-2.0
"""The structure of the project: which way imports go, what importing costs, and what no file may say."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from dpop_cli.main import COMMANDS
from support.paths import ROOT

import dpop

SOURCES = sorted([*(ROOT / "dpop").rglob("*.py"), *(ROOT / "cli").rglob("*.py")])
PYTHON = sorted(
    [*SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "vectors").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]
)
OTHERS = [
    *(ROOT / "tests" / "interop").glob("*.mjs"),
    *(ROOT / "tests" / "support").glob("*.c"),
    ROOT / "scripts" / "setup",
    ROOT / ".ci" / "run",
]

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
# Folders from the bottom up: one imports from those below it and from itself. All single modules of the package
# that belong to no library are below the folders; integrations are above them, and the test server is on top.
FOLDERS = ["keys", "client|server", "tokens", "agent", "(integrations)", "testing"]
ABOVE_KEYS = {"_client_auth", "proof"}  # the single modules that work with keys
# The same of the command line; main, which lists and starts the commands, is above all.
COMMAND_LINE = ["console|wire", "signing", "tokens", "login", "commands|httpie"]
# Interfaces of the standard and of the language, which are no package to install.
INTERFACES = {"asgi", "wsgi"}
HTTP_LIBRARIES = {"requests", "urllib3", "httpx", "httpx2", "httpcore", "httpcore2", "h2", "anyio", "aiohttp"}
# The one writer of private files, and the one place that knows when something is logged, are no offer to users.
SHARED_WITH_THE_COMMAND_LINE = {"dpop._files", "dpop._late_logging"}
LIBRARIES = HTTP_LIBRARIES | {"keyring", "redis", "starlette", "google_auth_oauthlib"}


def part(path: Path) -> str:
    """The folder or single module of the package that a file belongs to."""
    return path.relative_to(ROOT / "dpop").parts[0].removesuffix(".py")


def is_integration(name: str) -> bool:
    """Whether a part is named after a library: one that an extra installs, or an interface."""
    return name.removeprefix("_") in PROJECT["optional-dependencies"].keys() | INTERFACES


def level(name: str) -> int:
    """How far up a part stands: 0 for single modules, then the folders in their order."""
    if is_integration(name):
        return 1 + FOLDERS.index("(integrations)")
    if (ROOT / "dpop" / name).is_dir():
        return 1 + next(number for number, folder in enumerate(FOLDERS) if name in folder.split("|"))
    return 1 if name in ABOVE_KEYS else 0


def module_of(path: Path) -> str:
    """The dotted name of a source file."""
    inside = path.relative_to(ROOT / "cli" if path.is_relative_to(ROOT / "cli") else ROOT)
    return ".".join(inside.with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    """Every module a file imports, wherever in it; a relative one with its dots."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from (whole if (whole := f"{module}.{name.name}") in MODULES else module for name in node.names)


MODULES = {module_of(path) for path in SOURCES}
# The package's own face, and ``python -m dpop``, which starts the command line, stand above all others.
ENTRIES = {ROOT / "dpop" / "__init__.py", ROOT / "dpop" / "__main__.py"}
INSIDE = [path for path in SOURCES if path.is_relative_to(ROOT / "dpop") and path not in ENTRIES]


def test_imports_go_down() -> None:
    """Single modules <- keys <- client, server <- tokens <- agent <- integrations <- testing."""
    wrong = []
    for path in INSIDE:
        here = part(path)
        for module in imports(path):
            names = module.split(".")
            # A relative import would hide its direction from this test.
            if (
                names[0] in {"", "dpop_cli"}
                or (names[0] == "dpop" and len(names) == 1)
                or (names[0] == "dpop" and (level(names[1]) > level(here) or {here, names[1]} == {"client", "server"}))
            ):
                wrong.append(f"{path.name} imports {module}")
    assert wrong == []


def test_the_command_line_uses_what_everybody_may() -> None:
    """Its modules import from faces, so that whatever it needs is there for every other program too."""
    wrong = [
        f"{path.name} imports {module}"
        for path in SOURCES
        if not path.is_relative_to(ROOT / "dpop")
        for module in imports(path)
        if module.startswith("dpop.")
        and any(name.startswith("_") for name in module.split("."))
        and module not in SHARED_WITH_THE_COMMAND_LINE
    ]
    assert wrong == []


def command_line_level(module: str) -> int:
    """How far up a module of the command line stands: 0 for its lowest folders; what starts it is above all folders."""
    folder = module.split(".")[1] if module != "dpop_cli" else ""
    return next((n for n, names in enumerate(COMMAND_LINE) if folder in names.split("|")), len(COMMAND_LINE))


def test_imports_of_the_command_line_go_down() -> None:
    """Console and wire <- signing <- tokens <- login <- commands, none of which imports another command."""
    wrong = []
    for path in SOURCES:
        here = module_of(path)
        for module in imports(path) if here.startswith("dpop_cli.") else ():
            both = here.split(".")[:3], module.split(".")[:3]
            if module.startswith("dpop_cli") and (
                command_line_level(module) > command_line_level(here)
                or (both[0][1] == both[1][1] == "commands" and both[0] != both[1])
            ):
                wrong.append(f"{here} imports {module}")
    assert wrong == []


def test_a_command_lives_under_its_name() -> None:
    """The module or folder of ``dpop NAME`` is ``dpop_cli/commands/NAME``; no other one is there."""
    folder = ROOT / "cli" / "dpop_cli" / "commands"
    found = {path.stem for path in folder.iterdir() if not path.name.startswith("__")}
    assert found == COMMANDS.keys() - {"login", "logout", "tokens"}  # short names of commands in the group token
    targets = [command.target for command in COMMANDS.values()]
    assert [target for target in targets if not target.startswith("dpop_cli.commands.")] == []
    for name in found:
        module = COMMANDS[name].target.partition(":")[0]
        assert module in {f"dpop_cli.commands.{name}", f"dpop_cli.commands.{name}.command"}


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Not even for types, or within a function: each module can be read with only those below it in mind."""
    graph = {module_of(path): {name for name in imports(path) if name in MODULES} for path in SOURCES}
    for name in graph:  # a package gathers what its modules define, so it is above them, for itself and for others
        graph[name] -= {name} | {package for package in graph if name.startswith(f"{package}.")}
    while free := [name for name, needs in graph.items() if not needs]:
        graph = {name: needs - set(free) for name, needs in graph.items() if name not in free}
    assert graph == {}


def test_only_integrations_import_what_they_are_named_after() -> None:
    """The protocol, the keys and the server know no HTTP library and no database."""
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in INSIDE
        if not is_integration(part(path))
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


def test_all_is_sorted_and_true() -> None:
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


def test_dependencies_have_reasons() -> None:
    """Each run-time dependency has a comment that says what it is for."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    for dependency in tomllib.loads(text)["project"]["dependencies"]:
        assert re.search(re.escape(f'"{dependency}",') + r"\s*# \S", text), dependency
