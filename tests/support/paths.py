# SPDX-License-Identifier: Apache-2.0
"""Folders that tests read from: those of the checkout, and where the package and the commands are installed."""

from __future__ import annotations

from pathlib import Path

import dpop_cli

import dpop

__all__ = ["COMMANDS", "DATA", "DOCS", "PACKAGE", "ROOT", "VECTORS"]

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
DOCS = ROOT / "docs"
VECTORS = ROOT / "vectors"
PACKAGE = Path(dpop.__file__).parent
COMMANDS = Path(dpop_cli.__file__).parent
