# SPDX-License-Identifier: Apache-2.0
"""A token source for tests of adapters and of the brain."""

from __future__ import annotations


class Source:
    """A token source that makes a new token when one is refused."""

    def __init__(self) -> None:
        self.token = 1
        self.told: list[str] = []

    def __call__(self) -> str:
        return f"token-{self.token}"

    def refused(self, token: str, /) -> None:
        self.told.append(token)
        self.token += 1
