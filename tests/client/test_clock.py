# SPDX-License-Identifier: Apache-2.0
"""How far a server's clock is believed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpop.client._clock import ServerClocks, skew
from dpop.htu import Origin

API = Origin.parse("https://api.example")


def test_skew_is_measured_from_date() -> None:
    """In seconds, from when the request was sent or its answer came; a server behind is negative."""
    assert skew("Fri, 15 Jan 2027 08:01:30 GMT", 1_800_000_000, 1_800_000_001) == 89
    assert skew("Fri, 15 Jan 2027 07:59:00 GMT", 1_800_000_000, 1_800_000_001) == -60


def test_a_slow_answer_is_no_wrong_clock() -> None:
    """Whatever time between sending and receiving the server names, the clocks agree."""
    for second in range(31):
        assert skew(f"Fri, 15 Jan 2027 08:00:{second:02} GMT", 1_800_000_000, 1_800_000_030) == 0


def test_a_date_of_no_place_says_nothing() -> None:
    """Without a time zone a Date could be any hour."""
    assert skew("Fri, 15 Jan 2027 08:01:30 -0000", 1_800_000_000, 1_800_000_000) is None
    assert skew("Fri, 15 Jan 2027 08:01:30", 1_800_000_000, 1_800_000_000) is None


@given(st.none() | st.text(max_size=60))
def test_any_date_is_read_or_ignored(date: str | None) -> None:
    """No Date header whatever makes it raise."""
    result = skew(date, 0.0, 1.0)
    assert result is None or isinstance(result, float)


@pytest.mark.parametrize(("seconds", "kept"), [(90, 90), (-90, -90), (301, 300), (-1e9, -300)])
def test_an_offset_is_five_minutes_at_most(seconds: float, kept: float) -> None:
    """A hostile Date cannot have proofs made out for tomorrow."""
    clocks = ServerClocks()
    assert clocks.learn(API, seconds) == kept
    assert clocks.offset(API) == kept


def test_offsets_belong_to_one_origin_and_are_bounded() -> None:
    """What one server says changes no proof for another, and a thousand servers do not fill memory."""
    clocks = ServerClocks()
    for number in range(1000):
        clocks.learn(Origin.parse(f"https://a{number}.example"), 10)
    assert clocks.offset(API) == 0
    assert clocks.offset(Origin.parse("https://a999.example")) == 10
    assert clocks.offset(Origin.parse("https://a0.example")) == 0
    assert len(clocks._offsets) <= 100
