# SPDX-License-Identifier: Apache-2.0
"""What every test of the token commands starts from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import dpop
from dpop.testing import DPoPTestServer


@pytest.fixture(params=["rfc9449", "google"])
def server(request: pytest.FixtureRequest) -> Iterator[DPoPTestServer]:
    """A server of each kind."""
    with DPoPTestServer(mode=request.param) as running:
        yield running


@pytest.fixture
def plain() -> Iterator[DPoPTestServer]:
    """A server by the book, whose refresh tokens change with each use."""
    with DPoPTestServer(rotate_refresh_tokens=True) as running:
        yield running


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory with a key."""
    monkeypatch.chdir(tmp_path)
    dpop.generate_key().save("key.pem")
