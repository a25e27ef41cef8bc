# SPDX-License-Identifier: Apache-2.0
"""The language-neutral vectors: the verifier agrees with each, and their generator still makes them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.paths import DATA, VECTORS
from support.proof_cases import CASES, DOCUMENT, server_of, verdict

from dpop.server import MemoryReplayCache, ProofVerifier, Reason


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_verifier_agrees(case: dict[str, Any]) -> None:
    """Every case gets its verdict, for the reason given."""
    verifier = server_of(case)
    if "after" in case:
        before = CASES[case["after"]]
        assert verdict(before, verifier) == (before["verdict"], before.get("reason"))
    assert verdict(case, verifier) == (case["verdict"], case.get("reason"))


@pytest.mark.parametrize(
    "name", ["rfc9449-fig2-fig5-token-code", "rfc9449-fig7-token-refresh", "rfc9449-fig13-resource"]
)
def test_the_proofs_in_the_rfc_pass_at_their_time(name: str) -> None:
    """Figures 2, 7 and 13 of RFC 9449, two of them with a high s, by the key of its section 6.1."""
    document = json.loads((DATA / "public-vectors.json").read_text(encoding="utf-8"))
    facts = {published["id"]: published["facts"] for published in document["cases"]}
    claims, headers = facts[name]["payload"], {"DPoP": facts[name]["proof"]}
    verifier = ProofVerifier(replay=MemoryReplayCache(), clock=lambda: claims["iat"])
    jkt, token = facts["rfc9449-jkt"]["jkt"], facts["rfc9449-ath"]["access_token"]
    if "ath" in claims:
        seen = verifier.verify_resource(headers, claims["htm"], claims["htu"], access_token=token, bound_jkt=jkt)
    else:
        seen = verifier.verify_token_request(headers, claims["htm"], claims["htu"], bound_jkt=jkt)
    assert (seen.jkt, seen.jti) == (jkt, claims["jti"])


def test_every_reason_has_a_case() -> None:
    """The vectors reach all reasons, apart from those no proof decides."""
    reached = {case["reason"] for case in CASES.values() if "reason" in case}
    of_requests = {
        "no_credentials",
        "authorization_repeated",
        "token_outside_header",
        "token_inactive",
        "bearer_refused",
        "bound_token_as_bearer",
        "proof_with_bearer",
        "scope_missing",
        "authentication_insufficient",
        "token_expired",
        "certificate_mismatch",
    }
    unreached = {reason.value for reason in Reason} - reached
    assert unreached == {"token_malformed", "request_url_invalid"} | of_requests


def test_ids_are_unique_and_named_cases_exist() -> None:
    """A case is found by its id, and a later one may name it."""
    assert [name for name, count in Counter(case["id"] for case in DOCUMENT["cases"]).items() if count > 1] == []
    assert all(case["after"] in CASES for case in CASES.values() if "after" in case)


def test_the_generator_makes_the_same_bytes(tmp_path: Path) -> None:
    """Nobody edited the file by hand, and any machine regenerates it."""
    subprocess.run([sys.executable, "-B", VECTORS / "generate.py", tmp_path], check=True, timeout=120)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made
    for name, data in made.items():
        assert data == (VECTORS / name).read_bytes(), f"run python vectors/generate.py: {name} is stale"
