# SPDX-License-Identifier: Apache-2.0
"""Imports of optional dependencies: a missing one is an error that says what to install."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["extra"]


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Name this extra of the distribution if an import in the ``with`` block finds no such package.

    :raises ModuleNotFoundError: as the import does, with the command that installs the extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        top = (error.name or "").partition(".")[0]
        if top in {"", "dpop"} or top in sys.stdlib_module_names:
            raise  # what is missing is no optional dependency
        raise ModuleNotFoundError(
            f"the Python package {error.name} is not installed; run: pip install 'dpop-toolkit[{name}]'",
            name=error.name,
        ) from None
