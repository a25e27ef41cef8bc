# SPDX-License-Identifier: Apache-2.0
"""Provers: what they hold, and that it does not get out."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

import dpop
from dpop.client._prover import Prover
from dpop.errors import AlgorithmError, ArgumentTypeError, CredentialError, UsageError

KEY = dpop.generate_key()


def test_a_bare_key_is_a_prover() -> None:
    """Wherever a prover is wanted a key will do; a prover stays what it is."""
    prover = Prover.of(KEY)
    assert prover.key is KEY
    assert prover.thumbprint == KEY.thumbprint
    assert Prover.of(prover) is prover


def test_the_server_must_accept_the_key() -> None:
    """A key of no listed algorithm is refused before anything is sent, and the error names both sides."""
    with pytest.raises(AlgorithmError, match=r"PS256.*ES256"):
        Prover(KEY, algs=["PS256"])


def test_a_key_keeps_its_own_algorithm_if_listed() -> None:
    """Listing another name first does not switch a key that is accepted as it is."""
    assert Prover(dpop.generate_key("PS256"), algs=["RS256", "PS256"]).key.alg == "PS256"


@pytest.mark.parametrize("key", [None, "key.pem", 5, object()])
def test_what_is_no_key_is_refused(key: object) -> None:
    """The error says where keys come from."""
    with pytest.raises(ArgumentTypeError, match="generate_key or load_key"):
        Prover(key)  # type: ignore[arg-type]


def test_each_token_has_its_own_hash() -> None:
    """However the tokens take turns, each gets the ath that RFC 9449 §4.2 says; a bad one is refused each time."""
    prover = Prover(KEY)
    for token in ("one", "one", "two", "one", "two"):
        assert prover.ath(token) == dpop.access_token_hash(token)
    for _ in range(2):
        with pytest.raises(CredentialError):
            prover.ath("")


def test_a_prover_does_not_travel() -> None:
    """Pickling and copying would take the key along: refused, with what to do instead."""
    prover = Prover(KEY)
    for travel in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(UsageError, match="must not travel"):
            travel(prover)


def test_a_prover_shows_its_thumbprint_only() -> None:
    """The repr names algorithm and thumbprint."""
    assert repr(Prover(KEY)) == f"<Prover ES256 {KEY.thumbprint}>"


@pytest.mark.parametrize("options", [{"algs": 5}, {"algs": b"ES256"}, {"nonces": {}}, {"clock": 5}, {"jti": "fixed"}])
def test_settings_of_the_wrong_type_are_refused(options: dict[str, Any]) -> None:
    """When the prover is made, with the name of the setting, not at its first proof."""
    with pytest.raises(ArgumentTypeError, match="must be"):
        Prover(KEY, **options)


@pytest.mark.parametrize("algs", ["none " * 50_000, ["HS256", None, 5], [], "https://user:pw@as.example/" + "x" * 9999])
def test_whatever_a_server_lists_is_told_in_a_sentence(algs: Any) -> None:
    """A list that is hostile or junk: what was wanted, what came in short, and what to do."""
    with pytest.raises(AlgorithmError, match=r"ES256; generate a key with generate_key\(algs=") as refused:
        Prover(KEY).for_algs(algs)
    assert len(str(refused.value)) < 400
    assert "pw@as.example" not in str(refused.value)
