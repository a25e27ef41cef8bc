# SPDX-License-Identifier: Apache-2.0
"""The nonce book: generations of nonces, under a clock that the test holds."""

from __future__ import annotations

import pytest

from dpop.testing import Discipline
from dpop.testing._levers import NoncePolicy
from dpop.testing._nonces import NonceBook


def book(discipline: Discipline, *, grace: int = 1, seconds: float | None = None) -> tuple[NonceBook, list[float]]:
    """A book, and its time to be changed in place."""
    now = [0.0]
    return NonceBook("RS", NoncePolicy(discipline, grace, seconds), clock=lambda: now[0]), now


@pytest.mark.parametrize("discipline", ["rotating", "per-answer", "single-use"])
def test_nonces_lapse_by_time_when_told(discipline: Discipline) -> None:
    """After so many seconds another nonce is handed out; the old one has its grace, if it is for many."""
    nonces, now = book(discipline, seconds=60)
    first = nonces.issue()
    assert nonces.check(first, "jkt") is not None
    now[0] = 59
    assert nonces.check(first, "jkt") is not None
    now[0] = 60
    second = nonces.issue()
    assert second != first
    assert (nonces.check(first, "jkt") is not None) is (discipline != "single-use")
    now[0] = 120
    assert nonces.check(first, "jkt") is None


def test_nonces_do_not_age_otherwise() -> None:
    """Without that lever no time ends a nonce."""
    nonces, now = book("rotating")
    first = nonces.issue()
    now[0] = 1e9
    assert nonces.check(first, "jkt") is not None
    assert nonces.next_for(first, "jkt") is None


def test_a_verdict_excuses_no_iat() -> None:
    """The verdict has no time of issue, so the verifier looks at iat as well."""
    nonces, _ = book("single-use")
    verdict = nonces.check(nonces.issue(), "jkt")
    assert verdict is not None
    assert verdict.issued_at is None


def test_only_per_answer_moves_on_with_a_success() -> None:
    """An accepted request changes the newest nonce of that discipline and of no other."""
    for discipline, moves in (("rotating", False), ("per-answer", True)):
        nonces, _ = book(discipline)  # type: ignore[arg-type]
        first = nonces.issue()
        nonces.accepted()
        assert (nonces.issue() != first) is moves


def test_its_repr_holds_no_nonce() -> None:
    """What is printed tells the role and the discipline."""
    nonces, _ = book("rotating")
    assert repr(nonces) == "<NonceBook RS, rotating>"
