# SPDX-License-Identifier: Apache-2.0
"""A str that does not show itself."""

from __future__ import annotations

__all__ = ["Shy"]


class Shy(str):
    """As a masked secret or a member of an enum: ``str()`` and f-strings show something else than it is."""

    __slots__ = ()

    def __str__(self) -> str:
        return "****"

    def __format__(self, _spec: str) -> str:
        return "****"
