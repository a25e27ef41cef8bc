# SPDX-License-Identifier: Apache-2.0
"""Nonces: recognised by those who share the secret, for a while, and by nobody else."""

from __future__ import annotations

import copy
import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpop.encoding import check_nonce
from dpop.errors import ArgumentTypeError, UsageError
from dpop.server._nonces import NonceIssuer
from dpop.server._replay import MemoryReplayCache

SECRET = bytes(range(32))
JKT = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
OTHER_JKT = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
START = 1_700_000_040.0  # the first second of a slot of 60


class Clock:
    """A clock that a test sets."""

    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock at the beginning of a slot."""
    return Clock()


def test_a_nonce_is_good_from_its_slot_to_the_end_of_the_window(clock: Clock) -> None:
    """With three slots of a minute it lives two to three minutes, and tells when it was issued."""
    issuer = NonceIssuer(SECRET, clock=clock)
    clock.now = START + 10
    nonce = issuer.issue()
    verdict = issuer.check(nonce, JKT)
    assert verdict is not None
    assert (verdict.issued_at, verdict.expires_at) == (START, START + 180)
    clock.now = START + 179.9
    assert issuer.check(nonce, JKT) == verdict
    clock.now = START + 180
    assert issuer.check(nonce, JKT) is None


def test_a_window_of_one_slot_forgets_at_once(clock: Clock) -> None:
    """The smallest window is the current slot alone."""
    issuer = NonceIssuer(SECRET, slot=10, window=1, clock=clock)
    nonce = issuer.issue()
    clock.now += 10
    assert issuer.check(nonce, JKT) is None


def test_grace_is_added_to_the_window(clock: Clock) -> None:
    """A nonce whose window has closed is accepted a little longer, and the verdict says until when."""
    issuer = NonceIssuer(SECRET, slot=60, window=1, grace=5, clock=clock)
    nonce = issuer.issue()
    clock.now = START + 64.9
    verdict = issuer.check(nonce, JKT)
    assert verdict is not None
    assert verdict.expires_at == START + 65
    clock.now = START + 65
    assert issuer.check(nonce, JKT) is None


def test_the_same_nonce_is_handed_out_for_one_slot(clock: Clock) -> None:
    """Within a slot clients see one nonce, in the next slot another."""
    issuer = NonceIssuer(SECRET, clock=clock)
    first = issuer.issue()
    clock.now = START + 59.9
    assert issuer.issue() == first
    clock.now = START + 60
    assert issuer.issue() != first


def test_processes_with_one_secret_accept_each_others_nonces(clock: Clock) -> None:
    """A second process, or the same after a restart, needs only the secret."""
    assert NonceIssuer(SECRET, clock=clock).check(NonceIssuer(SECRET, clock=clock).issue(), JKT)


def test_a_clock_that_is_ahead_elsewhere_does_no_harm(clock: Clock) -> None:
    """A nonce of the coming slot is accepted, one of the slot after it is not."""
    ahead = Clock(START + 60)
    issuer, other = NonceIssuer(SECRET, clock=clock), NonceIssuer(SECRET, clock=ahead)
    assert issuer.check(other.issue(), JKT)
    ahead.now = START + 120
    assert issuer.check(other.issue(), JKT) is None


def test_roles_and_secrets_are_apart(clock: Clock) -> None:
    """The nonces of an AS, of an RS and of a server with another secret never mix."""
    rs, other_rs = (
        NonceIssuer(SECRET, role="RS", clock=clock),
        NonceIssuer(SECRET[::-1], role="RS", clock=clock),
    )
    nonce = NonceIssuer(SECRET, role="AS", clock=clock).issue()
    assert rs.check(nonce, JKT) is None
    assert other_rs.check(rs.issue(), JKT) is None


def test_a_fleet_changes_its_secret_without_refusing_anybody(clock: Clock) -> None:
    """The new secret is accepted everywhere before anybody issues with it, the old one until its nonces are gone."""
    old, new = SECRET, SECRET[::-1]
    before = NonceIssuer(old, clock=clock)
    prepared = NonceIssuer(old, other_secrets=[new], clock=clock)
    changed = NonceIssuer(new, other_secrets=[old], clock=clock)
    after = NonceIssuer(new, clock=clock)
    for running, coming in ((before, prepared), (prepared, changed), (changed, after)):
        assert coming.check(running.issue(), JKT)
        assert running.check(coming.issue(), JKT)
    assert prepared.issue() == before.issue()
    assert changed.issue() == after.issue()
    assert after.check(before.issue(), JKT) is None


def test_a_nonce_bound_to_a_key_is_good_for_that_key(clock: Clock) -> None:
    """Each key has its own; one that was handed out without a key is good for nobody."""
    issuer = NonceIssuer(SECRET, bind_key=True, clock=clock)
    mine = issuer.issue(JKT)
    assert issuer.check(mine, JKT)
    assert issuer.check(mine, OTHER_JKT) is None
    assert issuer.check(issuer.issue(), JKT) is None
    assert issuer.next_for(mine, JKT) is None
    assert issuer.next_for(None, None) is None
    assert issuer.next_for(mine, OTHER_JKT) == issuer.issue(OTHER_JKT) != mine
    assert NonceIssuer(SECRET, clock=clock).check(mine, JKT) is None


def test_without_a_key_to_bind_to_a_nonce_is_everybodys(clock: Clock) -> None:
    """The default: whoever asks, whatever the key, the nonce is the same."""
    issuer = NonceIssuer(SECRET, clock=clock)
    assert issuer.issue(JKT) == issuer.issue()
    assert issuer.check(issuer.issue(JKT), OTHER_JKT)
    assert issuer.next_for(None, None) == issuer.issue()


def test_a_bound_nonce_may_be_for_one_use_too(clock: Clock) -> None:
    """Both options at once."""
    issuer = NonceIssuer(SECRET, bind_key=True, single_use=MemoryReplayCache(clock=clock), clock=clock)
    assert issuer.issue(JKT) != issuer.issue(JKT)
    assert issuer.check(issuer.issue(JKT), JKT)
    assert issuer.check(issuer.issue(JKT), OTHER_JKT) is None
    assert repr(issuer) == "<NonceIssuer RS, 3 slots of 60 s, single use, bound to keys>"


def test_a_nonce_that_lives_long_tells_no_time(clock: Clock) -> None:
    """A proof must not live as long as such a nonce: its iat is to be checked as well."""
    verdicts = [
        issuer.check(issuer.issue(), JKT)
        for issuer in (
            NonceIssuer(slot=100, window=3, clock=clock),
            NonceIssuer(slot=100, window=3, grace=1, clock=clock),
        )
    ]
    assert [verdict is not None and verdict.issued_at is not None for verdict in verdicts] == [True, False]


def test_without_a_secret_each_issuer_has_its_own(clock: Clock) -> None:
    """The default secret is random."""
    assert NonceIssuer(clock=clock).check(NonceIssuer(clock=clock).issue(), JKT) is None


def test_the_default_secret_comes_from_the_given_source(clock: Clock) -> None:
    """Randomness is an argument: the same source, the same nonces."""
    one, two = (NonceIssuer(clock=clock, random=lambda size: b"\7" * size) for _ in range(2))
    assert one.issue() == two.issue()


def test_the_next_nonce_is_sent_only_if_it_is_newer(clock: Clock) -> None:
    """No header while the nonce used is the newest; a new one for an old one, an unknown one and none."""
    issuer = NonceIssuer(SECRET, clock=clock)
    nonce = issuer.issue()
    assert issuer.next_for(nonce, JKT) is None
    assert issuer.next_for(None, JKT) == nonce
    assert issuer.next_for("\u00e9\ud800", JKT) == nonce
    clock.now += 60
    assert issuer.next_for(nonce, JKT) == issuer.issue() != nonce


def test_single_use_nonces_all_differ(clock: Clock) -> None:
    """Each is new, each is recognised, each answer carries the next."""
    store = MemoryReplayCache(clock=clock)
    issuer = NonceIssuer(SECRET, single_use=store, clock=clock)
    nonces = [issuer.issue() for _ in range(1000)]
    assert len(set(nonces)) == 1000
    assert all(issuer.check(nonce, JKT) for nonce in nonces)
    assert issuer.next_for(nonces[-1], JKT) is not None
    assert issuer.used is store


def test_single_use_and_shared_nonces_are_apart(clock: Clock) -> None:
    """A server that switches to single use does not accept what it handed out to everybody."""
    shared = NonceIssuer(SECRET, clock=clock)
    single = NonceIssuer(SECRET, single_use=MemoryReplayCache(clock=clock), clock=clock)
    assert single.check(shared.issue(), JKT) is None
    assert shared.check(single.issue(), JKT) is None


@pytest.mark.parametrize("single", [False, True])
def test_nonces_have_the_syntax_of_the_rfc(clock: Clock, single: bool) -> None:
    """base64url, which is within NQCHAR."""
    nonce = NonceIssuer(SECRET, single_use=MemoryReplayCache(clock=clock) if single else None, clock=clock).issue()
    assert check_nonce(nonce) == nonce
    assert re.fullmatch(r"[A-Za-z0-9_-]{48}" if single else r"[A-Za-z0-9_-]{32}", nonce)


@given(st.text() | st.from_regex(r"[A-Za-z0-9_-]{32}", fullmatch=True))
def test_no_other_text_is_a_nonce(text: str) -> None:
    """Whatever comes in the claim, the answer is "unknown", never an exception."""
    assert NonceIssuer(SECRET, clock=Clock()).check(text, JKT) is None


@given(st.integers(0, 31), st.integers(1, 63))
def test_a_changed_character_makes_it_unknown(at: int, by: int) -> None:
    """Every character counts, case included."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    issuer = NonceIssuer(SECRET, clock=Clock())
    nonce = issuer.issue()
    other = alphabet[(alphabet.index(nonce[at]) + by) % 64]
    assert issuer.check(nonce[:at] + other + nonce[at + 1 :], JKT) is None


def test_a_nonce_before_1970_is_no_problem() -> None:
    """A machine whose clock is not set yet still serves."""
    issuer = NonceIssuer(SECRET, clock=lambda: -1000.0)
    assert issuer.check(issuer.issue(), JKT)


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ({"secret": b"short"}, UsageError),
        ({"secret": "a str of sixteen or more"}, ArgumentTypeError),
        ({"other_secrets": [b"short"]}, UsageError),
        ({"other_secrets": b"one secret where a list is wanted"}, ArgumentTypeError),
        ({"slot": 0}, UsageError),
        ({"slot": float("nan")}, UsageError),
        ({"window": 0}, UsageError),
        ({"grace": -1}, UsageError),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting: dict[str, object], error: type[Exception]) -> None:
    """A weak secret and an empty window are told at the start, without the secret."""
    with pytest.raises(error) as caught:
        NonceIssuer(**setting)  # type: ignore[arg-type]
    assert "short" not in str(caught.value).split()


def test_the_secret_shows_nowhere(clock: Clock) -> None:
    """Not in the repr, and a pickle or copy of an issuer is refused."""
    issuer = NonceIssuer(SECRET, role="AS", clock=clock)
    assert repr(issuer) == "<NonceIssuer AS, 3 slots of 60 s>"
    with pytest.raises(UsageError, match="pickled or copied"):
        pickle.dumps(issuer)
    with pytest.raises(UsageError, match="pickled or copied"):
        copy.copy(issuer)
