# SPDX-License-Identifier: Apache-2.0
"""Cases: the claims, the URL, and the binding to a token."""

from __future__ import annotations

import base64
from typing import Any

from case import ATH, NOW, OUT, RESOURCE, TOKEN, Case, bad, body, case, plus
from forge import A, B, b64u, sha256, thumbprint, to_json


def claims() -> list[Case]:
    """jti, htm, iat, exp, nbf."""

    def claim(case_id: str, name: str, value: Any, reason: str, note: str = "", *, also: str = "") -> Case:
        return bad(case_id, reason, note, also=also, claims=plus(**{name: value}))

    def iat(case_id: str, literal: str, reason: str, note: str = "", also: str = "") -> Case:
        text = to_json(body(case_id)).replace(f'"iat":{NOW}'.encode(), f'"iat":{literal}'.encode())
        return bad(case_id, reason, note, also=also, claims=text)

    return [
        claim("jti-missing", "jti", OUT, "jti_missing"),
        claim("htm-missing", "htm", OUT, "htm_missing"),
        claim("htu-missing", "htu", OUT, "htu_missing"),
        claim("iat-missing", "iat", OUT, "iat_missing"),
        claim("jti-empty", "jti", "", "jti_missing"),
        claim("jti-number", "jti", 1, "jti_missing"),
        claim("jti-null", "jti", None, "jti_missing"),
        claim("jti-array", "jti", ["jti-array"], "jti_missing"),
        claim("jti-huge", "jti", "j" * 3000, "jti_too_long"),
        claim("htm-array", "htm", ["GET"], "htm_missing"),
        claim("htm-lowercase", "htm", "get", "htm_mismatch", "RFC 9110 9.1: methods have a case", also="ok"),
        claim("htm-other", "htm", "PUT", "htm_mismatch"),
        claim("htm-trailing-space", "htm", "GET ", "htm_mismatch"),
        claim("htm-empty", "htm", "", "htm_missing"),
        iat("iat-string", f'"{NOW}"', "iat_missing"),
        iat("iat-bool", "true", "iat_missing", "a number to some languages"),
        iat("iat-null", "null", "iat_missing"),
        iat("iat-array", f"[{NOW}]", "iat_missing"),
        iat("iat-object", "{}", "iat_missing"),
        iat("iat-zero", "0", "iat_out_of_range"),
        iat("iat-negative", f"-{NOW}", "iat_out_of_range"),
        iat("iat-huge", "1" + "0" * 30, "iat_out_of_range", "no date can hold it"),
        iat("iat-milliseconds", f"{NOW}000", "iat_out_of_range"),
        iat("iat-stale-3600", f"{NOW - 3600}", "iat_too_old"),
        iat("iat-future-3600", f"{NOW + 3600}", "iat_in_future"),
        iat("iat-NaN", "NaN", "payload_malformed", "no JSON, and every comparison with it is false"),
        iat("iat-Infinity", "Infinity", "payload_malformed"),
        iat("iat-1e400", "1e400", "payload_malformed", "infinity, once parsed"),
        iat("iat-61s-window-edge", f"{NOW - 61}", "iat_too_old"),
        iat("iat-future-31", f"{NOW + 31}", "iat_in_future", "FAPI 2.0 allows 60 at most", "ok"),
        iat("iat-future-61", f"{NOW + 61}", "iat_in_future", "FAPI 2.0 refuses it"),
        claim("exp-past", "exp", NOW - 60, "expired", "no DPoP claim, but a JWT that has it means it", also="ok"),
        claim("nbf-future", "nbf", NOW + 60, "not_yet_valid", also="ok"),
        claim("exp-string", "exp", str(NOW + 60), "time_claim_malformed", also="ok"),
    ]


def htu() -> list[Case]:
    """The URL (RFC 9449 4.3(9))."""
    host = "https://server.example.com"

    def other(
        case_id: str, value: Any, note: str = "", also: str = "", reason: str = "htu_mismatch", **given: Any
    ) -> Case:
        return bad(case_id, reason, note, also=also, claims=plus(htu=value), **given)

    def refused(case_id: str, value: str, note: str = "", also: str = "") -> Case:
        return other(case_id, value, note, also, "htu_invalid")

    return [
        other("htu-other-host", "https://other.example.com/items"),
        other("htu-other-path", f"{host}/other"),
        other("htu-http-scheme", "http://server.example.com/items"),
        other("htu-other-port", f"{host}:8443/items"),
        other("htu-cross-default-port", f"{host}:80/items"),
        other("htu-trailing-slash", f"{host}/items/"),
        other("htu-path-case", f"{host}/Items", also="ok"),
        other("htu-double-slash", f"{host}//items"),
        other("htu-host-suffix", f"{host}.evil.example/items"),
        refused("htu-userinfo", f"{host}@evil.example/items"),
        refused("htu-userinfo-same-host", "https://user@server.example.com/items", also="ok"),
        refused("htu-relative", "/items"),
        refused("htu-scheme-relative", "//server.example.com/items"),
        refused("htu-no-scheme", "server.example.com/items"),
        refused("htu-backslash", "https:\\\\server.example.com\\items", "browsers read it as /", "ok"),
        refused("htu-space", f" {RESOURCE}", "browsers strip it", "ok"),
        refused("htu-tab-inside", "https://server\t.example.com/items", "browsers drop it", "ok"),
        other("htu-prefix", f"{host}/item"),
        refused("htu-encoded-slash", f"{host}%2Fitems"),
        other("htu-idn-homograph", "https://server.ex\u0430mple.com/items", "the first a is Cyrillic"),
        other("htu-trailing-dot", f"{host}./items"),
        other("htu-array", [RESOURCE], reason="htu_missing"),
        other("htu-number", 1, reason="htu_missing"),
        other("htu-empty", "", reason="htu_missing"),
        other("htu-null", None, reason="htu_missing"),
        refused("htu-file", "file:///items"),
        refused("htu-very-long", f"{host}/{'x' * 4100}"),
        other("htu-encoded-dotdot", f"{host}/items/%2e%2e/other"),
        other("htu-reserved-decoded", f"{host}/a/b", "%2F is not /", url=f"{host}/a%2Fb"),
        other("htu-plus-vs-space", f"{host}/a+b", url=f"{host}/a%20b"),
        other(
            "htu-internal-url",
            RESOURCE,
            "a server behind a proxy has to be told its public origin; then this is ok",
            url="http://10.0.0.5:8080/items",
        ),
    ]


def binding() -> list[Case]:
    """The access token and its key (RFC 9449 4.3(12))."""
    digest = sha256(TOKEN.encode())
    standard = base64.b64encode(digest).decode().rstrip("=")
    assert set(standard) & set("+/"), "choose another token: this hash has the same text in both alphabets"
    with_kid = A.jwk | {"kid": "1"}
    sloppy = b64u(sha256(to_json(dict(sorted(with_kid.items())))))

    def ath(case_id: str, value: Any, reason: str = "ath_malformed", note: str = "") -> Case:
        return bad(case_id, reason, note, claims=plus(ath=value))

    def cnf(case_id: str, bound_jkt: str | None, reason: str, note: str = "", **given: Any) -> Case:
        return case(case_id, "invalid_token", reason, note, also="invalid_dpop_proof", bound_jkt=bound_jkt, **given)

    return [
        ath("ath-missing", OUT, "ath_missing"),
        ath("ath-other-token", b64u(sha256(b"other.token")), "ath_mismatch", "two tokens of one client"),
        ath("ath-padded", ATH + "="),
        ath("ath-hex", digest.hex()),
        ath("ath-std-base64", standard),
        ath("ath-of-header", b64u(sha256(f"DPoP {TOKEN}".encode())), "ath_mismatch"),
        ath("ath-half", b64u(digest[:16]), note="at_hash of OpenID Connect is made like this"),
        ath("ath-non-ascii", ATH[:-1] + "\u00e9", note="constant-time comparisons of text can fail on it"),
        ath("ath-number", 1),
        ath("ath-empty", ""),
        cnf("cnf-other-key", thumbprint(A.jwk), "key_mismatch", "a good proof by the thief's own key", key=B),
        cnf("cnf-absent", None, "token_unbound", "an unbound token under the DPoP scheme"),
        cnf(
            "cnf-jkt-of-optional-members",
            sloppy,
            "key_mismatch",
            "a thumbprint that counts kid",
            header=plus(jwk=with_kid),
        ),
        cnf("cnf-malformed", thumbprint(A.jwk) + "=", "token_binding_malformed"),
    ]
