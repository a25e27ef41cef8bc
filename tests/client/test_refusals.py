# SPDX-License-Identifier: Apache-2.0
"""Refused access tokens: each source is told of each token once, and five times a minute at most."""

from __future__ import annotations

from dpop.client._refusals import RefusedTokens, Verdict
from dpop.origin import Origin

API, OTHER = Origin.parse("https://api.example"), Origin.parse("https://other.example")
SOURCE = object()


class Clock:
    """Seconds that pass when told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_token_counts_once() -> None:
    """New at first; then it depends on whether the source gave it before or after it was told."""
    clock = Clock()
    refused = RefusedTokens(clock=clock)
    assert refused.judge(SOURCE, API, "t", 999.0) is Verdict.NEW
    assert refused.judge(SOURCE, API, "t", 999.5) is Verdict.UNDER_WAY
    assert refused.judge(SOURCE, API, "t", 1001.0) is Verdict.UNDER_WAY
    refused.told(SOURCE, API, "t")
    assert refused.judge(SOURCE, API, "t", 999.5) is Verdict.RENEWED
    assert refused.judge(SOURCE, API, "t", 1001.0) is Verdict.AGAIN


def test_a_source_that_is_never_told() -> None:
    """The request that was to tell it came to an end: after a minute another one does."""
    clock = Clock()
    refused = RefusedTokens(clock=clock)
    assert refused.judge(SOURCE, API, "t", 999.0) is Verdict.NEW
    clock.now += 60
    assert refused.judge(SOURCE, API, "t", 1059.0) is Verdict.NEW


def test_five_tokens_a_minute_for_each_origin_and_source() -> None:
    """The sixth is too many, until a minute has passed; another origin and another source have their own five."""
    clock = Clock()
    refused = RefusedTokens(clock=clock)
    assert [refused.judge(SOURCE, API, f"t{n}", 0.0) for n in range(5)] == [Verdict.NEW] * 5
    assert refused.judge(SOURCE, API, "t5", 0.0) is Verdict.TOO_MANY
    assert refused.judge(SOURCE, OTHER, "t5", 0.0) is Verdict.NEW
    assert refused.judge(object(), API, "t5", 0.0) is Verdict.NEW
    clock.now += 60
    assert refused.judge(SOURCE, API, "t5", 0.0) is Verdict.NEW


def test_the_log_says_so_once_a_minute() -> None:
    """Once for each origin."""
    clock = Clock()
    refused = RefusedTokens(clock=clock)
    assert [refused.worth_saying(SOURCE, API) for _ in range(3)] == [True, False, False]
    assert refused.worth_saying(SOURCE, OTHER)
    clock.now += 60
    assert refused.worth_saying(SOURCE, API)


def test_memory_is_bounded() -> None:
    """Neither tokens nor servers are remembered without end, and no token is kept as it is."""
    clock = Clock()
    refused = RefusedTokens(clock=clock)
    for number in range(200):
        clock.now += 20
        refused.judge(SOURCE, API, f"t{number}", 0.0)
    (server,) = refused._servers.values()
    assert len(server.tokens) == 64
    assert "t199" not in server.tokens
    for number in range(2000):
        refused.judge(SOURCE, Origin("https", "api.example", number + 1), "t", 0.0)
    assert len(refused._servers) == 1000
