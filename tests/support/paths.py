# SPDX-License-Identifier: Apache-2.0
"""Folders of the checkout that tests read from."""

from __future__ import annotations

from pathlib import Path

__all__ = ["DATA", "DOCS", "ROOT", "VECTORS"]

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
DOCS = ROOT / "docs"
VECTORS = ROOT / "vectors"
