# SPDX-License-Identifier: Apache-2.0
"""The model of a grant among several hosts, a few rounds of it; ``make model`` plays for an hour."""

from __future__ import annotations

import time

import pytest
from benchmarks.grant_model import rounds
from support.redis_server import running_redis


@pytest.mark.parametrize("kind", ["file", "redis"])
def test_no_grant_is_lost_that_nobody_says_is_lost(kind: str) -> None:
    """Kills, freezes, clocks, full disks, lost locks and a server that lies: every caller returns, and is told."""
    with running_redis() as server:
        played = list(rounds(iter([3, 12]), [kind], server.url, 25, time.monotonic() + 600))
    assert len(played) == 2
    assert [line for line in played if line.startswith("VIOLATION")] == []
