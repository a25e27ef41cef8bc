# SPDX-License-Identifier: Apache-2.0
"""Lazy packages: each public name is imported on its first use.

A program that makes one proof would otherwise spend more time on importing unused modules than on the proof.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from importlib import import_module
from typing import Any

from dpop._extras import extra

__all__ = ["lazy"]


def lazy(
    package: str, places: Mapping[str, Iterable[str]], *, needs: str | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` for a package whose names are imported on first use (PEP 562).

    :param package: the ``__name__`` of the package.
    :param places: the full name of each module that defines public names, and these names. A public name that is a
        module itself is listed under its package: ``{"dpop": ["profiles"]}`` for ``dpop.profiles``.
    :param needs: the extra with the packages that these modules import.
    """
    homes = {name: module for module, names in places.items() for name in names}
    if "create_proof" not in getattr(sys.modules["dpop"], "__all__", ()):
        raise ImportError(
            "the package dpop is not the one of dpop-toolkit: an unrelated project named dpop, with the same import,"
            " has overwritten or removed its files. Repair: pip uninstall dpop dpop-toolkit, then pip install"
            " dpop-toolkit",
            name="dpop",
        )

    def __getattr__(name: str) -> Any:  # noqa: N807 - PEP 562 names it
        home = homes.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        with extra(needs) if needs else nullcontext():
            value = import_module(f"{home}.{name}") if home == package else getattr(import_module(home), name)
        setattr(sys.modules[package], name, value)
        return value

    def __dir__() -> list[str]:  # noqa: N807 - PEP 562 names it
        return sorted(homes)

    return __getattr__, __dir__
