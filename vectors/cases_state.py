# SPDX-License-Identifier: Apache-2.0
"""Cases that depend on what the server issued, saw or stored before."""

from __future__ import annotations

from typing import Any

from case import NOW, Case, bad, case, defect, draft

from dpop.testing.defects._forge import A, B, Members, thumbprint

FRESH: Members = {"value": "Nonce-of-AS.1", "issued_at": NOW - 30, "expires_at": NOW + 60}
SPENT: Members = {"value": "Nonce-of-AS.0", "issued_at": NOW - 60, "expires_at": NOW + 60, "used": True}
OF_RS: Members = FRESH | {"value": "Nonce-of-RS.1"}


def nonce() -> list[Case]:
    """Nonces. ``nonces`` lists what the server accepts at that moment; whatever is not there is unknown."""

    def known(name: str) -> Case:
        return defect(name, role="AS", nonce=FRESH["value"], nonces=[FRESH])

    def asked(case_id: str, reason: str, note: str = "", role: str = "AS", **claims: Any) -> Case:
        nonces = [FRESH] if role == "AS" else [OF_RS]
        return case(case_id, "use_dpop_nonce", reason, note, role=role, claims=claims, nonces=nonces)

    return [
        known("nonce-missing"),
        asked("nonce-missing-rs", "nonce_missing", role="RS"),
        known("nonce-unknown"),
        asked("nonce-expired", "nonce_unknown", nonce="Nonce-of-AS.-9"),
        known("nonce-empty"),
        known("nonce-case"),
        asked("nonce-of-other-server", "nonce_unknown", "RFC 9449 9", role="RS", nonce=FRESH["value"]),
        known("nonce-number"),
        known("nonce-array"),
        asked("nonce-downgrade", "nonce_missing", "RFC 9449 11.3: once given, always needed"),
        bad(
            "nonce-ok-bad-signature",
            "signature_invalid",
            "the signature comes first",
            role="AS",
            proof=_forged("nonce-ok-bad-signature", "AS", nonce=FRESH["value"]),
            nonces=[FRESH],
        ),
        case(
            "nonce-used-up-single-use",
            "use_dpop_nonce",
            "nonce_used",
            role="AS",
            claims={"nonce": SPENT["value"]},
            nonces=[FRESH, SPENT],
        ),
    ]


def _forged(jti: str, role: str = "RS", **claims: Any) -> str:
    """A proof whose header names key A, signed by key B."""
    return (honest := draft(jti, role)).proof(claims=honest.claims(**claims), pen=B.sign)


def replay() -> list[Case]:
    """Replays. ``after`` names the case that the same server judged just before."""

    def first(case_id: str, jti: str, **given: Any) -> Case:
        return case(case_id, proof=draft(jti).proof(), **given)

    def again(case_id: str, after: str, jti: str, note: str = "", **changes: Any) -> Case:
        proof = (honest := draft(jti)).proof(claims=honest.claims(**changes))
        return bad(case_id, "replayed", note, after=after, proof=proof)

    return [
        first("replay-first", "replay-1"),
        again("replay-second", "replay-first", "replay-1"),
        first("replay-same-jti-new-iat-1", "replay-2"),
        again("replay-same-jti-new-iat-2", "replay-same-jti-new-iat-1", "replay-2", "signed anew", iat=NOW + 1),
        first("replay-htu-spelling-1", "replay-3"),
        again(
            "replay-htu-spelling-2",
            "replay-htu-spelling-1",
            "replay-3",
            "remember the canonical URL, not the claim",
            htu="HTTPS://SERVER.example.com:443/%69tems",
        ),
        first("replay-other-key-1", "replay-4"),
        case(
            "replay-other-key-2",
            note="another client's jti is no business of this one",
            after="replay-other-key-1",
            key=B,
            claims={"jti": "replay-4"},
        ),
        bad(
            "replay-invalid-not-recorded-1",
            "signature_invalid",
            "a bad proof must not burn a jti",
            proof=_forged("replay-5"),
        ),
        first("replay-invalid-not-recorded-2", "replay-5", after="replay-invalid-not-recorded-1"),
    ]


def authorization_server() -> list[Case]:
    """What only an authorization server meets."""
    stored = thumbprint(A.public_jwk)
    return [
        defect("as-wrong-endpoint", role="AS"),
        defect("as-issuer-as-htu", role="AS"),
        case(
            "as-refresh-other-key",
            "invalid_grant",
            "key_mismatch",
            "a refresh token bound to key A",
            role="AS",
            also="invalid_dpop_proof",
            key=B,
            bound_jkt=stored,
        ),
        case(
            "as-dpop_jkt-mismatch",
            "invalid_grant",
            "key_mismatch",
            "a code asked for with the dpop_jkt of key A",
            role="AS",
            also="invalid_dpop_proof invalid_request",
            key=B,
            bound_jkt=stored,
        ),
        case(
            "as-no-proof-required",
            "missing",
            "proof_missing",
            "dpop_bound_access_tokens is true: invalid_dpop_proof",
            role="AS",
            also="invalid_dpop_proof invalid_request invalid_grant",
            fields=[],
        ),
        case("as-refresh-same-key", note="the bound key", role="AS", bound_jkt=stored),
        case(
            "as-refresh-no-proof",
            "invalid_grant",
            "proof_missing",
            "a refresh token bound to key A",
            role="AS",
            also="invalid_dpop_proof",
            fields=[],
            bound_jkt=stored,
        ),
    ]
