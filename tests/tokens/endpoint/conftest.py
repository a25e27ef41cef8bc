# SPDX-License-Identifier: Apache-2.0
"""What every test of a token endpoint starts from."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.endpoints import ENDPOINTS

from dpop.testing import DPoPTestServer


@pytest.fixture(params=sorted(ENDPOINTS))
def name(request: pytest.FixtureRequest) -> str:
    """Each integration in turn."""
    return str(request.param)


@pytest.fixture
def server() -> Iterator[DPoPTestServer]:
    """A server that wants nonces and rotates refresh tokens."""
    with DPoPTestServer(nonces="rotating", rotate_refresh_tokens=True) as running:
        yield running
