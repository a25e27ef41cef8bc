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

from dpop.errors import InvalidProof
from dpop.server import MemoryReplayCache, NonceVerdict, ProofVerifier, Reason, VerifiedProof
from dpop.server._replay import nonce_key

VECTORS = Path(__file__).parent.parent / "vectors"
DOCUMENT: dict[str, Any] = json.loads((VECTORS / "proofs.json").read_text(encoding="ascii"))
CASES: dict[str, dict[str, Any]] = {case["id"]: case for case in DOCUMENT["cases"]}


class ListedNonces:
    """A nonce checker that knows the nonces of a case."""

    def __init__(self, listed: list[dict[str, Any]], now: float) -> None:
        self._listed = {entry["value"]: NonceVerdict(entry["issued_at"], entry["expires_at"]) for entry in listed}
        used = [entry["value"] for entry in listed if entry.get("used")]
        self.used = MemoryReplayCache(clock=lambda: now) if used else None
        if self.used is not None:
            for value in used:
                self.used.add(nonce_key(value), now + 1000)

    def issue(self, jkt: str | None = None) -> str:
        """A nonce to hand out."""
        return "a-new-nonce"

    def check(self, nonce: str, jkt: str) -> NonceVerdict | None:
        """The verdict of the case."""
        return self._listed.get(nonce)

    def next_for(self, nonce: str | None, jkt: str | None) -> str | None:
        """No new nonce."""
        return None


def judge(case: dict[str, Any], verifier: ProofVerifier) -> VerifiedProof:
    """Put the request of a case to a verifier."""
    request, headers = case["request"], [(name, text(value)) for name, value in case["headers"]]
    if case["role"] == "AS":
        return verifier.verify_token_request(
            headers, request["method"], request["url"], bound_jkt=case.get("bound_jkt")
        )
    return verifier.verify_resource(
        headers,
        request["method"],
        request["url"],
        access_token=request["access_token"],
        bound_jkt=case["bound_jkt"],
    )


def text(value: str | list[Any]) -> str:
    """The text of a field, put together from its pieces."""
    if isinstance(value, str):
        return value
    return "".join(piece if isinstance(piece, str) else piece["repeat"] * piece["times"] for piece in value)


def verdict(case: dict[str, Any], verifier: ProofVerifier) -> tuple[str, str | None]:
    """The error code and the reason, in the words of the vectors."""
    try:
        judge(case, verifier)
    except InvalidProof as refused:
        refusal = refused
    else:
        return "ok", None
    assert (refusal.nonce is not None) == (refusal.error == "use_dpop_nonce")
    secrets = [text(value) for _, value in case["headers"]] + [case["request"].get("access_token", "")]
    assert not any(secret in str(refusal) for secret in secrets if len(secret) > 20)
    missing = case["verdict"] == "missing" and refusal.reason == "proof_missing"
    return "missing" if missing else refusal.error, refusal.reason


def server_of(case: dict[str, Any]) -> ProofVerifier:
    """A verifier with the policy, the clock and the nonces of a case."""
    now = DOCUMENT["now"]
    limits = DOCUMENT["limits"] | case.get("limits", {})
    nonces = ListedNonces(case["nonces"], now) if "nonces" in case else None
    return ProofVerifier(replay=MemoryReplayCache(clock=lambda: now), nonces=nonces, clock=lambda: now, **limits)


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
    document = json.loads((Path(__file__).parent / "data" / "public-vectors.json").read_text(encoding="utf-8"))
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
    }
    unreached = {reason.value for reason in Reason} - reached
    assert unreached == {"token_malformed", "request_url_invalid"} | of_requests


def test_ids_are_unique_and_named_cases_exist() -> None:
    """A case is found by its id, and a later one may name it."""
    assert [name for name, count in Counter(case["id"] for case in DOCUMENT["cases"]).items() if count > 1] == []
    assert all(case["after"] in CASES for case in CASES.values() if "after" in case)


def test_the_generator_makes_the_same_octets(tmp_path: Path) -> None:
    """Nobody edited the file by hand, and any machine regenerates it."""
    subprocess.run([sys.executable, "-B", VECTORS / "generate.py", tmp_path], check=True, timeout=120)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made
    for name, octets in made.items():
        assert octets == (VECTORS / name).read_bytes(), f"run python vectors/generate.py: {name} is stale"
