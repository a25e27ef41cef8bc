# SPDX-License-Identifier: Apache-2.0
"""What every test of a token source starts from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.sources import Sources

from dpop.testing import DPoPTestServer
from dpop.tokens import FileTokenStore


@pytest.fixture(params=["requests", "httpx2-async"])
def name(request: pytest.FixtureRequest) -> str:
    """An integration for threads and one for tasks: a source knows no more of them."""
    return str(request.param)


@pytest.fixture
def server() -> Iterator[DPoPTestServer]:
    """A server that rotates refresh tokens and revokes all when an old one is used again."""
    with DPoPTestServer(nonces="none", rotate_refresh_tokens=True) as running:
        yield running


@pytest.fixture
def at(name: str, server: DPoPTestServer, tmp_path: Path) -> Iterator[Sources]:
    """The server with tokens in a file."""
    made = Sources(name, server, FileTokenStore(tmp_path / "tokens.json"))
    yield made
    made.close()


@pytest.fixture
def requests_at(server: DPoPTestServer, tmp_path: Path) -> Iterator[Sources]:
    """The server with tokens in a file, for requests."""
    made = Sources("requests", server, FileTokenStore(tmp_path / "tokens.json"))
    yield made
    made.close()
