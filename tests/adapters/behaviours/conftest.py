# SPDX-License-Identifier: Apache-2.0
"""Each client in turn, for what every adapter must do."""

from __future__ import annotations

import pytest
from support.clients import CLIENTS, WITH_AGENT


# One of them a second time with its key in the signing agent; in test_keys_elsewhere.py each of them has its turn.
@pytest.fixture(params=[*sorted(CLIENTS), f"aiohttp{WITH_AGENT}"])
def name(request: pytest.FixtureRequest) -> str:
    """Each client in turn."""
    return str(request.param)
