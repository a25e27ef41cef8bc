# SPDX-License-Identifier: Apache-2.0
"""The brain and clocks: a refused proof and the server's Date tell how wrong ours is."""

from __future__ import annotations

import logging

import pytest
from support.flow import DATE_90_S_AHEAD, INVALID_PROOF, KEY, NOW, replace_flow, resource, token_request

from dpop.client._flow import Step
from dpop.client._prover import Prover


def test_a_wrong_clock_is_explained(caplog: pytest.LogCaptureFixture) -> None:
    """invalid_dpop_proof with a far-off Date: the log names the difference; nothing is changed."""
    exchange = resource()
    exchange.send()
    with caplog.at_level(logging.WARNING, "dpop.client"):
        assert exchange.response(401, INVALID_PROOF, DATE_90_S_AHEAD) is Step.DONE
    assert "90 s ahead of" in caplog.text
    assert replace_flow(exchange).send()["iat"] == NOW


@pytest.mark.parametrize(
    ("date", "offset"),
    [
        (DATE_90_S_AHEAD, 90),
        (("Date", "Fri, 15 Jan 2027 12:00:00 GMT"), 300),
        (("Date", "Thu, 01 Jan 1970 00:00:00 GMT"), -300),
    ],
)
def test_learn_clock_corrects_the_next_call(date: tuple[str, str], offset: int) -> None:
    """With learn_clock the next proof follows the server's clock, five minutes at most, and never this one."""
    exchange = resource(learn_clock=True)
    exchange.send()
    assert exchange.response(401, INVALID_PROOF, date) is Step.DONE
    assert replace_flow(exchange).send()["iat"] == NOW + offset


def test_a_token_endpoints_wrong_clock_is_explained_too(caplog: pytest.LogCaptureFixture) -> None:
    """A 400 with a far-off Date is looked into even without a nonce."""
    exchange = token_request(learn_clock=True)
    exchange.send()
    with caplog.at_level(logging.WARNING, "dpop.client"):
        assert exchange.response(400, DATE_90_S_AHEAD, body=b'{"error":"invalid_dpop_proof"}') is Step.DONE
    assert "90 s ahead of" in caplog.text
    assert replace_flow(exchange).send()["iat"] == NOW + 90


def test_a_correction_is_corrected_when_our_clock_is_set() -> None:
    """Learnt from a clock that was wrong, the offset does not outlive it: the next refusal takes it back."""
    now = [NOW - 90.0]
    exchange = resource(learn_clock=True, prover=Prover(KEY, clock=lambda: now[0]))
    date = ("Date", "Fri, 15 Jan 2027 08:00:00 GMT")
    exchange.send()
    exchange.response(401, INVALID_PROOF, date)
    assert replace_flow(exchange).send()["iat"] == NOW
    now[0] = NOW
    late = replace_flow(exchange)
    assert late.send()["iat"] == NOW + 90
    late.response(401, INVALID_PROOF, date)
    assert replace_flow(exchange).send()["iat"] == NOW


def test_a_correction_is_corrected_at_a_token_endpoint_too() -> None:
    """A Date that agrees with our clock and not with the proof is worth a look into the 400."""
    exchange = token_request(learn_clock=True)
    assert exchange.policy.clocks is not None
    exchange.policy.clocks.learn(exchange.flow.origin, 90)
    assert exchange.send()["iat"] == NOW + 90
    date = ("Date", "Fri, 15 Jan 2027 08:00:00 GMT")
    exchange.response(400, date, body=b'{"error":"invalid_dpop_proof"}')
    assert replace_flow(exchange).send()["iat"] == NOW


@pytest.mark.parametrize("date", [None, ("Date", "yesterday"), ("Date", "Fri, 15 Jan 2027 08:00:04 GMT")])
def test_no_date_or_a_near_one_teaches_nothing(date: tuple[str, str] | None) -> None:
    """Without a far-off Date the clock stays as it is."""
    exchange = resource(learn_clock=True)
    exchange.send()
    exchange.response(401, INVALID_PROOF, *([date] if date else []))
    assert replace_flow(exchange).send()["iat"] == NOW
