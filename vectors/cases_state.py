# SPDX-License-Identifier: Apache-2.0
"""Cases that depend on what the server issued, saw or stored before."""

from __future__ import annotations

from typing import Any

from case import NOW, OUT, Case, bad, body, case, head, plus
from forge import A, B, Members, make, thumbprint

FRESH: Members = {"value": "Nonce-of-AS.1", "issued_at": NOW - 30, "expires_at": NOW + 60}
SPENT: Members = {"value": "Nonce-of-AS.0", "issued_at": NOW - 60, "expires_at": NOW + 60, "used": True}


def nonce() -> list[Case]:
    """Nonces. ``nonces`` lists what the server accepts at that moment; whatever is not there is unknown."""

    def asked(case_id: str, value: Any, reason: str, note: str = "", *, role: str = "AS", also: str = "") -> Case:
        return case(
            case_id,
            "use_dpop_nonce",
            reason,
            note,
            role=role,
            also=also,
            claims=plus(nonce=value),
            nonces=[FRESH] if role == "AS" else [FRESH | {"value": "Nonce-of-RS.1"}],
        )

    def broken(case_id: str, value: Any) -> Case:
        return bad(
            case_id,
            "nonce_malformed",
            role="AS",
            also="use_dpop_nonce",
            claims=plus(nonce=value),
            nonces=[FRESH],
        )

    return [
        asked("nonce-missing", OUT, "nonce_missing"),
        asked("nonce-missing-rs", OUT, "nonce_missing", role="RS"),
        asked("nonce-unknown", "Nonce-of-nobody", "nonce_unknown"),
        asked("nonce-expired", "Nonce-of-AS.-9", "nonce_unknown"),
        asked("nonce-empty", "", "nonce_missing", also="invalid_dpop_proof"),
        asked("nonce-case", FRESH["value"].lower(), "nonce_unknown", "RFC 9449 8: an exact match"),
        asked("nonce-of-other-server", FRESH["value"], "nonce_unknown", "RFC 9449 9", role="RS"),
        broken("nonce-number", 1),
        broken("nonce-array", [FRESH["value"]]),
        asked("nonce-downgrade", OUT, "nonce_missing", "RFC 9449 11.3: once given, always needed"),
        bad(
            "nonce-ok-bad-signature",
            "signature_invalid",
            "the signature comes first",
            role="AS",
            claims=plus(nonce=FRESH["value"]),
            pen=B.sign,
            nonces=[FRESH],
        ),
        case(
            "nonce-used-up-single-use",
            "use_dpop_nonce",
            "nonce_used",
            role="AS",
            claims=plus(nonce=SPENT["value"]),
            nonces=[FRESH, SPENT],
        ),
    ]


def replay() -> list[Case]:
    """Replays. ``after`` names the case that the same server judged just before."""

    def first(case_id: str, jti: str, **given: Any) -> Case:
        return case(case_id, headers=[["DPoP", make(head(), body(jti), A.sign)]], **given)

    def again(case_id: str, after: str, jti: str, note: str = "", **changes: Any) -> Case:
        proof = make(head(), body(jti, **changes), A.sign)
        return bad(case_id, "replayed", note, after=after, headers=[["DPoP", proof]])

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
            claims=body("replay-4"),
        ),
        bad(
            "replay-invalid-not-recorded-1",
            "signature_invalid",
            "a bad proof must not burn a jti",
            claims=body("replay-5"),
            pen=B.sign,
        ),
        first("replay-invalid-not-recorded-2", "replay-5", after="replay-invalid-not-recorded-1"),
    ]


def authorization_server() -> list[Case]:
    """What only an authorization server meets."""
    stored = thumbprint(A.jwk)
    return [
        bad(
            "as-wrong-endpoint",
            "htu_mismatch",
            "made for PAR",
            role="AS",
            claims=plus(htu="https://as.example.com/par"),
        ),
        bad("as-issuer-as-htu", "htu_mismatch", role="AS", claims=plus(htu="https://as.example.com")),
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
            headers=[],
        ),
        case("as-refresh-same-key", note="the bound key", role="AS", bound_jkt=stored),
        case(
            "as-refresh-no-proof",
            "invalid_grant",
            "proof_missing",
            "a refresh token bound to key A",
            role="AS",
            also="invalid_dpop_proof",
            headers=[],
            bound_jkt=stored,
        ),
    ]
