# SPDX-License-Identifier: Apache-2.0
"""The public interface of the package as text: every name of every public module, with its signature.

A face is a module whose name holds no underscore at its beginning; everything in its ``__all__`` is public.
``python tests/support/public_api.py`` writes docs/public-api.txt anew.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(inspect.getfile(import_module("dpop"))).parent
FROZEN = ROOT / "docs" / "public-api.txt"

__all__ = ["FROZEN", "described", "faces", "unreachable_names"]

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_NAME = re.compile(r"[A-Za-z_][A-Za-z_0-9]*(?:\.[A-Za-z_][A-Za-z_0-9]*)*")


def faces() -> list[ModuleType]:
    """All public modules, by name."""
    names = []
    for path in PACKAGE.rglob("*.py"):
        parts = [part for part in path.relative_to(PACKAGE.parent).with_suffix("").parts if part != "__init__"]
        if not any(part.startswith("_") for part in parts):
            names.append(".".join(parts))
    return [import_module(name) for name in sorted(names)]


def described() -> dict[str, str]:
    """Each public name, ``module.Name`` or ``module.Class.method``, with the facts that a caller may rely on."""
    found: dict[str, str] = {}
    for face in faces():
        for name in face.__all__:
            value = getattr(face, name)
            found.update(_described(f"{face.__name__}.{name}", value))
    return found


def _described(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if inspect.isclass(value):
        bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
        # How enums, typed dictionaries and exceptions of ours are called differs between versions of Python.
        called = not issubclass(value, enum.Enum | dict | Exception) and not getattr(value, "_is_protocol", False)
        yield name, f"class ({bases}){_signature(value) if called else ''}"
        if isinstance(getattr(value, "code", None), str):
            yield f"{name}.code", repr(value.code)
        if issubclass(value, enum.Enum):
            for member in value:
                yield f"{name}.{member.name}", repr(member.value)
        yield from _members(name, value)
    elif inspect.isroutine(value):
        yield name, f"def {_signature(value)}"
    elif inspect.ismodule(value):
        yield name, "module"
    else:
        kind = type(value).__name__
        yield name, "Union" if "Union" in kind else kind  # of four names, each in other versions of Python


def _members(name: str, owner: type) -> Iterator[tuple[str, str]]:
    fields = {field.name for field in dataclasses.fields(owner)} if dataclasses.is_dataclass(owner) else set()
    ours = [base for base in owner.__mro__ if base.__module__.partition(".")[0] == "dpop"]
    seen: set[str] = set()
    for base in ours:
        for member, value in vars(base).items():
            if member in seen or (member.startswith("_") and member not in {"__call__", "__enter__", "__aenter__"}):
                continue
            seen.add(member)
            plain = value.__func__ if isinstance(value, classmethod | staticmethod) else value
            if inspect.isroutine(plain):
                kind = f"{type(value).__name__} " if plain is not value else ""
                yield f"{name}.{member}", f"{kind}{'async ' * _is_async(plain)}def {_signature(plain)}"
            elif isinstance(value, property):
                yield f"{name}.{member}", "property"
    for field in sorted(fields - seen):
        if not field.startswith("_"):
            yield f"{name}.{field}", "field"


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _signature(value: Any) -> str:
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return "(...)"
    if inspect.isclass(value) and issubclass(value, tuple):
        signature = _as_written(value, signature)
    # How a Python prints a default is not ours to freeze.
    return _ADDRESS.sub("", re.sub(r"=(<[^>]*>|functools\.partial\([^)]*\))", "=...", str(signature)))


class _Text:
    """An annotation that is printed as it is written."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _as_written(named_tuple: type, signature: inspect.Signature) -> inspect.Signature:
    """The signature with the annotations of the source: Python 3.14 evaluates those of named tuples, others do not."""
    body = ast.parse(textwrap.dedent(inspect.getsource(named_tuple))).body[0]
    assert isinstance(body, ast.ClassDef)
    texts = {
        node.target.id: ast.unparse(node.annotation)
        for node in body.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    parameters = signature.parameters.values()
    return signature.replace(
        parameters=[one.replace(annotation=_Text(texts[one.name])) if one.name in texts else one for one in parameters]
    )


# -- names in signatures ----------------------------------------------------------------------


@cache
def _imports_of(module: str) -> dict[str, str]:
    """The origin of each name that a module imports, imports for type checkers included."""
    source = inspect.getsource(import_module(module))
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and (node.module + ".").startswith("dpop."):
            found.update({alias.asname or alias.name: f"{node.module}:{alias.name}" for alias in node.names})
    return found


def unreachable_names() -> list[str]:
    """Names of this package in public signatures that no public module offers, so that users cannot import them."""
    offered = {id(getattr(face, name)) for face in faces() for name in face.__all__}
    wrong = set()
    for owner, function in _public_functions():
        module = function.__module__
        for annotation in getattr(function, "__annotations__", {}).values():
            text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
            for name in set(_NAME.findall(re.sub(r"Literal\[[^]]*\]", "", text))):
                value = _resolved(module, name)
                if value is not None and id(value) not in offered:
                    wrong.add(f"{owner}: {name} of {module}")
    return sorted(wrong)


def _resolved(module: str, name: str) -> Any:
    """Resolve a name in an annotation to a public class or alias of this package."""
    first = name.partition(".")[0]
    imported = _imports_of(module).get(first)
    if imported is not None:
        home, _, original = imported.partition(":")
        value = getattr(import_module(home), original, None)
        return None if isinstance(value, TypeVar) else value
    value = getattr(sys.modules[module], first, None)
    if inspect.ismodule(value) or first.startswith("_"):
        return None
    defined = f"class {first}" in (source := inspect.getsource(sys.modules[module])) or re.search(
        rf"^{first}\b.*=", source, re.MULTILINE
    )
    return value if defined else None


def _public_functions() -> Iterator[tuple[str, Any]]:
    for face in faces():
        for name in face.__all__:
            value = getattr(face, name)
            if not inspect.isclass(value):
                if inspect.isfunction(value) and value.__module__.startswith("dpop"):
                    yield f"{face.__name__}.{name}", inspect.unwrap(value)
                continue
            for base in value.__mro__:
                if base.__module__.partition(".")[0] != "dpop":
                    continue
                for member, function in vars(base).items():
                    plain = function.__func__ if isinstance(function, classmethod | staticmethod) else function
                    plain = plain.fget if isinstance(plain, property) else plain
                    if inspect.isfunction(plain) and (not member.startswith("_") or member in _called(value)):
                        yield f"{face.__name__}.{name}.{member}", inspect.unwrap(plain)


def _called(owner: type) -> set[str]:
    """Special methods that users call. A constructor is one if its class documents its parameters."""
    constructed = dataclasses.is_dataclass(owner) or ":param" in (owner.__doc__ or "")
    return {"__call__", "__init__"} if constructed else {"__call__"}


if __name__ == "__main__":
    FROZEN.write_text("".join(f"{name}: {text}\n" for name, text in sorted(described().items())), "utf-8")
