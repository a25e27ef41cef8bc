# SPDX-License-Identifier: Apache-2.0
"""Writes a page for each public module, and finds what the names in docstrings and signatures refer to.

A public name may be offered by several modules: ``dpop.Prover`` is ``dpop.client.Prover``. It is described once, at the
module that its code belongs to; the others link there.
"""

from __future__ import annotations

import builtins
import enum
import inspect
import re
import sys
import typing
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from sphinx.pycode import ModuleAnalyzer

__all__ = ["home_of", "public_bases", "write_reference"]

_GROUPS = {
    "The package": ["dpop", "dpop.errors", "dpop.profiles", "dpop.redaction"],
    "Keys and proofs": ["dpop.keys", "dpop.keys.pkcs11", "dpop.keys.kms", "dpop.proof", "dpop.signature"],
    "HTTP libraries": [
        "dpop.requests",
        "dpop.httpx2",
        "dpop.httpx",
        "dpop.aiohttp",
        "dpop.mcp",
        "dpop.google",
        "dpop.client",
    ],
    "Tokens": ["dpop.tokens", "dpop.keyring", "dpop.redis"],
    "Servers": ["dpop.server", "dpop.asgi", "dpop.wsgi", "dpop.starlette", "dpop.fastapi"],
    "Tests": ["dpop.testing", "dpop.testing.defects"],
    "Building blocks": ["dpop.encoding", "dpop.htu", "dpop.origin"],
}


def write_reference(into: Path) -> None:
    """Write ``index.rst`` and a page for each public module.

    :param into: an empty folder.
    """
    into.mkdir(parents=True)
    others = {face.__name__ for face in _faces()}.difference(*_GROUPS.values())
    groups = {**_GROUPS, "Others": sorted(others)} if others else _GROUPS
    parts = [
        _heading("Python reference", "="),
        "Everything that is public, made from the docstrings. Other modules and names may change at any time.\n\n",
    ]
    for title, names in groups.items():
        rows = [(f":doc:`{name} <{name}>`", _first_line(import_module(name))) for name in names]
        parts += [_heading(title, "-"), _table(("module", "what it is"), rows)]
    parts.append(
        ".. toctree::\n   :hidden:\n\n" + "".join(f"   {name}\n" for names in groups.values() for name in names)
    )
    (into / "index.rst").write_text("".join(parts), "utf-8")
    for face in _faces():
        (into / f"{face.__name__}.rst").write_text(_page(face), "utf-8")


def home_of(target: str, around: list[str]) -> str | None:
    """The name under which the site describes what a docstring or a signature names.

    :param target: such as ``Prover``, ``dpop.client._prover.Prover`` or ``ProofFlow.open``.
    :param around: modules and classes to look in first, the nearest first.
    :returns: such as ``dpop.client.Prover``; None if no public module offers it.
    """
    if hasattr(builtins, target):
        return None
    for start in [*around, ""]:
        for owner, rest in _splits(f"{start}.{target}" if start else target):
            home = _homes().get(_identity(owner, rest[0])) if rest else None
            if home is not None and _has(owner, rest):
                return ".".join([home, *rest[1:]])
    first, *rest = target.split(".")
    named = [home for home in _homes().values() if home.rpartition(".")[2] == first]
    return ".".join([*named, *rest]) if len(named) == 1 else None


def public_bases(owner: type) -> Iterator[Any]:
    """The bases that readers can look up, in place of inner ones: those of other libraries, and public ones."""
    for base in getattr(owner, "__orig_bases__", owner.__bases__):
        plain = typing.get_origin(base) or base
        if plain in {typing.Generic, object}:
            continue
        if plain.__module__.partition(".")[0] != "dpop" or home_of(plain.__qualname__, [plain.__module__]):
            yield base
        else:
            yield from public_bases(plain)


# -- where names are described ----------------------------------------------------------------


@cache
def _faces() -> list[ModuleType]:
    """All public modules, by name; none of their parts begins with an underscore."""
    package = import_module("dpop")
    root = Path(str(package.__file__)).parent
    names = []
    for path in root.rglob("*.py"):
        parts = [part for part in path.relative_to(root.parent).with_suffix("").parts if part != "__init__"]
        if not any(part.startswith("_") for part in parts):
            names.append(".".join(parts))
    return [import_module(name) for name in sorted(names)]


def _identity(owner: Any, name: str) -> tuple[str, int] | None:
    value = getattr(owner, name, None)
    return None if value is None else (name, id(value))


@cache
def _homes() -> dict[tuple[str, int] | None, str]:
    """Each public object with the name that it is described under: at the module that its code belongs to."""
    offered: dict[tuple[str, int] | None, list[str]] = {}
    for face in _faces():
        for name in face.__all__:
            offered.setdefault(_identity(face, name), []).append(face.__name__)
    homes = {}
    for identity, faces in offered.items():
        assert identity is not None
        code = getattr(getattr(sys.modules[faces[0]], identity[0]), "__module__", "") or ""
        near = [face for face in faces if f"{code}.".startswith(f"{face}.")]
        homes[identity] = f"{max(near or faces, key=len)}.{identity[0]}"
    return homes


def _splits(path: str) -> Iterator[tuple[Any, list[str]]]:
    """Modules that a dotted path may begin with, the longest first, and the rest of the path."""
    parts = path.split(".")
    for length in range(len(parts) - 1, 0, -1):
        module = sys.modules.get(".".join(parts[:length]))
        if module is not None:
            yield module, parts[length:]


def _has(owner: Any, names: list[str]) -> bool:
    value = getattr(owner, names[0], None)
    if len(names) == 1:
        return True
    annotated = {name for base in getattr(value, "__mro__", ()) for name in getattr(base, "__annotations__", {})}
    return inspect.isclass(value) and len(names) == 2 and (hasattr(value, names[1]) or names[1] in annotated)


# -- pages ------------------------------------------------------------------------------------


def _page(face: ModuleType) -> str:
    name = face.__name__
    parts = [_heading(name, "="), f".. automodule:: {name}\n   :no-members:\n\n"]
    elsewhere = []
    for public in face.__all__:
        value = getattr(face, public)
        home = _homes()[_identity(face, public)]
        if inspect.ismodule(value):
            elsewhere.append((f":doc:`{value.__name__} <{value.__name__}>`", _first_line(value)))
        elif home == f"{name}.{public}":
            parts.append(_described(home, value))
        else:
            elsewhere.append((f":py:obj:`{public} <{home}>`", _first_line(value) or f"See ``{home}``."))
    if elsewhere:
        title = "Names" if name == "dpop" else "Also offered here"
        parts += [_heading(title, "-"), _table(("name", "what it is"), elsewhere)]
    return "".join(parts)


def _described(name: str, value: Any) -> str:
    if inspect.isclass(value):
        kind = "autoexception" if issubclass(value, BaseException) else "autoclass"
        members = "".join(f"   .. {how}:: {name}.{member}\n\n" for member, how in _members(value).items())
        bases = "   :show-inheritance:\n" if any(public_bases(value)) else ""
        return f".. {kind}:: {name}\n{bases}\n{members}"
    if inspect.isroutine(value):
        return f".. autofunction:: {name}\n\n"
    return f".. autodata:: {name}\n   :no-value:\n\n"


def _members(owner: type) -> dict[str, str]:
    """The public members that this package defines, inner base classes included, with autodoc's directive for each."""
    found: dict[str, str] = {}
    for base in owner.__mro__:
        if base.__module__.partition(".")[0] != "dpop":
            continue
        for name, value in vars(base).items():
            if (name.startswith("_") and name != "__call__") or name in found:
                continue
            if isinstance(value, property):
                found[name] = "autoproperty"
            elif inspect.isroutine(value.__func__ if isinstance(value, classmethod | staticmethod) else value):
                found[name] = "automethod"
            elif issubclass(owner, enum.Enum) and isinstance(value, owner):
                found[name] = "autoattribute"
        for name in _documented_attributes(base):
            found.setdefault(name, "autoattribute")
    return found


def _documented_attributes(owner: type) -> list[str]:
    """The attributes of a class that have a docstring below them."""
    documented = ModuleAnalyzer.for_module(owner.__module__).find_attr_docs()
    return [name for (where, name) in documented if where == owner.__qualname__ and not name.startswith("_")]


def _first_line(value: Any) -> str:
    own = inspect.ismodule(value) or inspect.isclass(value) or inspect.isroutine(value)
    line = (inspect.getdoc(value) or "").partition("\n\n")[0].replace("\n", " ") if own else ""
    return re.sub(r":\w+:`~?([^`]+)`", r"``\1``", line)


def _heading(text: str, line: str) -> str:
    return f"{text}\n{line * len(text)}\n\n"


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    lines = [".. list-table::", "   :header-rows: 1", "   :widths: auto", ""]
    for row in [head, *rows]:
        lines += [f"   * - {row[0]}", f"     - {row[1]}"]
    return "\n".join(lines) + "\n\n"
