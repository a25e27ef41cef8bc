# SPDX-License-Identifier: Apache-2.0
"""The cases of vectors/proofs.json, each with a verifier that has its policy, clock and nonces."""

from __future__ import annotations

import json
from typing import Any

from support.paths import VECTORS

from dpop.errors import InvalidProof
from dpop.server import MemoryReplayCache, NonceVerdict, ProofVerifier, VerifiedProof
from dpop.server._replay import nonce_key

__all__ = ["CASES", "DOCUMENT", "judge", "server_of", "text", "verdict"]

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
        """The nonce to issue."""
        return "a-new-nonce"

    def check(self, nonce: str, jkt: str) -> NonceVerdict | None:
        """The verdict of the case."""
        return self._listed.get(nonce)

    def next_for(self, nonce: str | None, jkt: str | None) -> str | None:
        """No new nonce."""
        return None


def judge(case: dict[str, Any], verifier: ProofVerifier) -> VerifiedProof:
    """Verify the request of a case with a verifier."""
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
    """Join the pieces of a field to its text."""
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
    """Make a verifier with the policy, the clock and the nonces of a case."""
    now = DOCUMENT["now"]
    limits = DOCUMENT["limits"] | case.get("limits", {})
    nonces = ListedNonces(case["nonces"], now) if "nonces" in case else None
    return ProofVerifier(replay=MemoryReplayCache(clock=lambda: now), nonces=nonces, clock=lambda: now, **limits)
