# SPDX-License-Identifier: Apache-2.0
"""Cross-references in docstrings lead somewhere."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from support.public_api import PACKAGE

_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):`~?([^`]+)`")
MODULES = sorted(PACKAGE.rglob("*.py"))


def is_inner(name: str) -> bool:
    """Whether a module is inner: a part of its name begins with an underscore."""
    return any(part.startswith("_") for part in name.split("."))


def names_inner_module(target: str) -> bool:
    """Whether a target names a module that users do not import from."""
    return target.startswith("dpop.") and is_inner(target)


def docstrings(tree: ast.Module) -> Iterator[tuple[list[str], str]]:
    """The names of the classes around each docstring, and its text; what stands below an attribute included."""

    def walk(node: ast.AST, around: list[str]) -> Iterator[tuple[list[str], str]]:
        for child in ast.iter_child_nodes(node):
            if (
                isinstance(child, ast.Expr)
                and isinstance(child.value, ast.Constant)
                and isinstance(child.value.value, str)
            ):
                yield around, child.value.value
            inner = [*around, child.name] if isinstance(child, ast.ClassDef) else around
            yield from walk(child, inner)

    return walk(tree, [])


def found(module: str, around: list[str], target: str) -> bool:
    """Whether a target means something: from here, from the class around it, or by its full name."""
    parts = target.removesuffix("()").split(".")
    starts: list[Any] = [import_module(module), builtins]
    for depth in range(len(around), 0, -1):
        value: Any = import_module(module)
        for name in around[:depth]:
            value = getattr(value, name)
        starts.append(value)
    return any(_has(start, parts) for start in starts) or _is_absolute(parts)


def _has(start: Any, parts: list[str]) -> bool:
    for name in parts:
        fields = getattr(start, "__annotations__", {}) if isinstance(start, type) else {}
        if not hasattr(start, name):
            return name in fields or name in getattr(start, "__slots__", ()) or name in _instance_names(start)
        start = getattr(start, name)
    return True


def _instance_names(owner: Any) -> set[str]:
    """Names that a class sets on itself in its methods."""
    if not isinstance(owner, type) or not owner.__module__.startswith("dpop"):
        return set()
    source = Path(str(import_module(owner.__module__).__file__)).read_text("utf-8")
    return set(re.findall(r"self\.(\w+)\b[^\n=]*=", source))


def _is_absolute(parts: list[str]) -> bool:
    for length in range(len(parts), 0, -1):
        try:
            module = import_module(".".join(parts[:length]))
        except ImportError:
            continue
        return length == len(parts) or _has(module, parts[length:])
    return False


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_roles_in_docstrings(path: Path) -> None:
    """Each ``:class:`...``` and the like names something that exists, and nothing inner in what users read."""
    parts = [*path.relative_to(PACKAGE.parent).with_suffix("").parts]
    module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    wrong = [
        target
        for around, text in docstrings(ast.parse(path.read_text("utf-8")))
        for target in _ROLE.findall(text)
        if not found(module, around, target)
    ]
    assert wrong == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_docstring_sends_its_reader_to_an_inner_module(path: Path) -> None:
    """References name the module that users import from; only an inner module's own docstring names its neighbours."""
    tree = ast.parse(path.read_text("utf-8"))
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__")
    own = ast.get_docstring(tree, clean=False) if is_inner(name) else None
    wrong = [
        target
        for _, text in docstrings(tree)
        if text != own
        for target in _ROLE.findall(text)
        if names_inner_module(target)
    ]
    assert wrong == []
