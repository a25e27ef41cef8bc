# SPDX-License-Identifier: Apache-2.0
"""The whole chain for a few seconds: clients in processes, API workers, Redis, tokens that expire; see make load."""

from __future__ import annotations

from benchmarks.load import run


def test_no_request_fails_no_proof_passes_twice_and_each_expiry_has_one_refresh() -> None:
    """Two client processes, with threads and tasks, and two workers; the first token has expired before they begin."""
    outcome = run(seconds=3, clients=2, callers=2, workers=2, lifetime=4, store="redis")
    assert outcome.violations == [], outcome.failures[:5]
    assert outcome.refreshes >= 1
    assert outcome.tokens <= outcome.refreshes
    assert outcome.accepted >= outcome.requests >= 8
    assert outcome.stolen["200 and 401"] >= 2
    assert outcome.stolen["200 and 200"] == 0
