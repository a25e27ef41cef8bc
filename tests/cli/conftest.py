# SPDX-License-Identifier: Apache-2.0
"""A key file, which many commands need."""

from __future__ import annotations

from pathlib import Path

import pytest

import dpop


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    """A key on disk."""
    path = tmp_path / "key.pem"
    dpop.generate_key().save(path)
    return str(path)
