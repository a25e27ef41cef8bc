# SPDX-License-Identifier: Apache-2.0
"""The browser of the tests: Debian's Chromium, or the one that the machine has."""

from __future__ import annotations

import shutil

__all__ = ["chromium_path"]


def chromium_path() -> str:
    """The path of the program."""
    for name in ("chromium-headless-shell", "chromium", "google-chrome"):
        path = shutil.which(name)
        if path is not None:
            return path
    raise FileNotFoundError("no Chromium is here; run `make test`, or `scripts/setup test` once before pytest")
