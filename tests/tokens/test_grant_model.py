# SPDX-License-Identifier: Apache-2.0
"""A few short rounds of the model of a grant in which everything goes wrong; ``make model`` plays it for an hour."""

from __future__ import annotations

import pytest
from support.grant_model import STORES, rounds
from support.redis_server import RedisServer

_SEEDS = (7, 8)
"""Of rounds which have, taken together, each fault."""


@pytest.mark.parametrize("store", STORES)
def test_no_grant_is_lost_that_nobody_says_is_lost(store: str, redis_server: RedisServer) -> None:
    """Hosts ask; kills, freezes, clocks, lost locks, full disks, and a server that drops requests and lies."""
    pauses = (0, 0, 0.005, 0.05, 0.2)
    played = list(rounds(iter(_SEEDS), (store,), redis_server.url, 20, pauses=pauses, lock_seconds=1.0))
    assert [line for line, violations in played if violations] == []
    assert len(played) == len(_SEEDS)
