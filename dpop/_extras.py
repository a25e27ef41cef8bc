# SPDX-License-Identifier: Apache-2.0
"""Imports of optional dependencies: a missing one is an error that says what to install."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["extra"]


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Say which extra to install if an import in the ``with`` block fails because a package is missing.

    :raises ModuleNotFoundError: the package is missing; the message has the command that installs the extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        top = (error.name or "").partition(".")[0]
        if top in {"", "dpop"} or top in sys.stdlib_module_names:
            raise  # the missing package is not an optional dependency
        raise ModuleNotFoundError(
            f"the Python package {error.name} is not installed; run: pip install 'dpop-toolkit[{name}]'",
            name=error.name,
        ) from None
