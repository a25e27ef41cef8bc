# SPDX-License-Identifier: Apache-2.0
"""How a package shows its public names and imports each only when somebody asks for it.

A program that makes one proof would otherwise spend longer on importing what it does not use than on its proof.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["lazy"]


def lazy(package: str, places: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package whose names are imported on first use (PEP 562).

    :param package: the ``__name__`` of the package.
    :param places: each public name, and the full name of the module that defines it. A name that is a module
        itself has its own full name there.
    """

    def __getattr__(name: str) -> Any:  # noqa: N807 - PEP 562 names it
        place = places.get(name)
        if place is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = import_module(place)
        value = module if place == f"{package}.{name}" else getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    def __dir__() -> list[str]:  # noqa: N807 - PEP 562 names it
        return sorted(places)

    return __getattr__, __dir__
