# SPDX-License-Identifier: Apache-2.0
"""The table of algorithms, and the choice among what a server lists."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpop.errors import AlgorithmError, ArgumentTypeError
from dpop.keys._algorithms import ALGORITHMS, DEFAULT_ALGS, choose_alg, parameters

NAMES = st.one_of(st.sampled_from([*ALGORITHMS, "none", "HS256", "ES256K", "es256"]), st.text(max_size=8))


def test_the_table_says_what_the_rfcs_say() -> None:
    """Key type, curve, hash and signature size of each name (RFC 7518 §3.1, RFC 8037 §3.1, RFC 9864 §2.2)."""
    assert {name: tuple(algorithm) for name, algorithm in ALGORITHMS.items()} == {
        "ES256": ("EC", "P-256", "SHA-256", 64),
        "ES384": ("EC", "P-384", "SHA-384", 96),
        "ES512": ("EC", "P-521", "SHA-512", 132),
        "Ed25519": ("OKP", "Ed25519", None, 64),
        "EdDSA": ("OKP", "Ed25519", None, 64),
        "PS256": ("RSA", None, "SHA-256", None),
        "RS256": ("RSA", None, "SHA-256", None),
        "PS384": ("RSA", None, "SHA-384", None),
        "PS512": ("RSA", None, "SHA-512", None),
        "RS384": ("RSA", None, "SHA-384", None),
        "RS512": ("RSA", None, "SHA-512", None),
    }


def test_the_tables_are_about_the_same_algorithms() -> None:
    """Every algorithm has parameters and a place in the order of preference, and ES256 comes first."""
    assert set(DEFAULT_ALGS) == set(ALGORITHMS)
    assert all(isinstance(parameters(alg), tuple) for alg in ALGORITHMS)
    with pytest.raises(AlgorithmError):
        parameters("none")
    assert len(set(DEFAULT_ALGS)) == len(DEFAULT_ALGS)
    assert DEFAULT_ALGS[0] == "ES256"


@pytest.mark.parametrize("table", [ALGORITHMS])
def test_the_tables_cannot_be_changed(table: dict[str, object]) -> None:
    """Nobody adds an algorithm by assignment."""
    with pytest.raises(TypeError):
        table["HS256"] = None


@pytest.mark.parametrize(
    ("listed", "chosen"),
    [
        (None, "ES256"),
        (["RS256", "ES256"], "ES256"),
        (("RS256", "PS256"), "PS256"),
        (("PS512", "RS256"), "RS256"),
        (("RS512", "PS384"), "PS384"),
        (["EdDSA"], "EdDSA"),
        (["EdDSA", "Ed25519"], "Ed25519"),
        ("RS256  ES384", "ES384"),
        ("ES256", "ES256"),
        ({"none", "HS256", "PS256"}, "PS256"),
        (iter(["ES512"]), "ES512"),
        ([None, 7, ["ES256"], "RS256"], "RS256"),
    ],
)
def test_the_first_of_ours_that_the_server_lists_is_chosen(listed: Iterable[str] | str | None, chosen: str) -> None:
    """Our order decides, not the server's; entries that are no names are passed over."""
    assert choose_alg(listed) == chosen


def test_supported_gives_the_order() -> None:
    """A key that prefers RS256 gets it where both are listed."""
    assert choose_alg("ES256 PS256 RS256", ("RS256", "PS256")) == "RS256"
    assert choose_alg(None, ("RS256", "PS256")) == "RS256"


@pytest.mark.parametrize("listed", [[], "", ["none"], ["HS256"], ["es256"], ["ES256K"], [None]])
def test_nothing_in_common_is_an_error_before_any_request(listed: list[str]) -> None:
    """none, MACs and misspelt names are never chosen, also if nothing else is there."""
    with pytest.raises(AlgorithmError, match="no common algorithm"):
        choose_alg(listed)


@pytest.mark.parametrize("listed", [["HS256", "none"], None])
def test_what_is_not_in_the_table_is_not_supported(listed: list[str] | None) -> None:
    """A caller who names a MAC as supported does not get it either."""
    with pytest.raises(AlgorithmError):
        choose_alg(listed, ("HS256", "none"))


@pytest.mark.parametrize("listed", [b"ES256", 256, 1.5])
def test_no_list_of_names_is_refused_by_type(listed: Iterable[str]) -> None:
    """bytes would be read as numbers; the error says what was expected."""
    with pytest.raises(ArgumentTypeError, match="a list of algorithm names"):
        choose_alg(listed)


def test_a_hostile_list_makes_a_short_message() -> None:
    """What a server lists is shown, but not at any length, and without control characters."""
    with pytest.raises(AlgorithmError) as caught:
        choose_alg(["x" * 10_000, "a\nb", *map(str, range(10_000))])
    message = str(caught.value)
    assert len(message) < 400
    assert "\n" not in message
    assert "more" in message


def test_what_this_side_has_is_shown_whole() -> None:
    """It is ours to say and of a known length; which of them to add to the server is then clear."""
    with pytest.raises(AlgorithmError, match=f"this side has {', '.join(DEFAULT_ALGS)}$"):
        choose_alg(["ES256K"])


@given(st.lists(NAMES), st.lists(NAMES))
def test_a_choice_is_in_both_lists_and_in_the_table(listed: list[str], supported: list[str]) -> None:
    """Whatever both sides say, the choice is one of both, or there is none."""
    common = [alg for alg in supported if alg in listed and alg in ALGORITHMS]
    if common:
        assert choose_alg(listed, supported) == common[0]
    else:
        with pytest.raises(AlgorithmError):
            choose_alg(listed, supported)
