# SPDX-License-Identifier: Apache-2.0
"""Every check's verdict: never another than the verifier's, and all that is wrong at once."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.proof_cases import CASES, server_of, text, verdict

import dpop
from dpop.encoding import b64url_encode
from dpop.errors import InvalidProof
from dpop.server import MemoryReplayCache, NonceIssuer, NonceVerdict, ProofReport, ProofVerifier

URL = "https://api.example/things"
NOW = 1_700_000_000
KEY = dpop.generate_key()


def verifier(**settings: Any) -> ProofVerifier:
    """One whose clock stands."""
    return ProofVerifier(replay=MemoryReplayCache(clock=lambda: NOW), clock=lambda: NOW, **settings)


def failed(report: ProofReport) -> dict[str, str]:
    """Reasons by check."""
    return {check.name: check.refusal.reason for check in report.checks if check.refusal is not None}


def verdicts(report: ProofReport) -> dict[str, str]:
    """Verdicts by check."""
    return {check.name: check.verdict for check in report.checks}


def made(header: dict[str, Any] | None = None, claims: dict[str, Any] | None = None) -> str:
    """A proof, signed, with whatever is asked for in it."""
    members = {"typ": "dpop+jwt", "alg": "ES256", "jwk": dict(KEY.public_jwk), **(header or {})}
    payload = {"jti": "j", "htm": "GET", "htu": URL, "iat": NOW, **(claims or {})}
    parts = [b64url_encode(json.dumps(part).encode()) for part in (members, payload)]
    return ".".join([*parts, b64url_encode(KEY.sign(".".join(parts).encode()))])


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_it_never_disagrees_with_the_verifier(case: dict[str, Any]) -> None:
    """Over all vectors the first refusal is the verifier's own; what only its caches know is not judged."""
    judge, request = server_of(case), case["request"]
    headers = [(name, text(value)) for name, value in case["headers"]]
    bound_jkt = case.get("bound_jkt")
    token = request["access_token"] if case["role"] == "RS" else None
    report = judge.report(
        headers,
        request["method"],
        request["url"],
        access_token=token,
        bound_jkt=bound_jkt,
        unbound=token is not None and bound_jkt is None,
    )
    expected = verdict(case, judge)
    if "after" in case:
        verdict(CASES[case["after"]], judge)
        expected = verdict(case, judge)
    got = ("ok", None) if report.refusal is None else (report.refusal.error, report.refusal.reason)
    if expected[1] in {"replayed", "nonce_used"}:
        assert got == ("ok", None)
    else:
        assert got[1] == expected[1]
        assert got[0] == expected[0] or expected[0] == "missing"
    reasons = set(failed(report).values())
    assert (got[1] in reasons) if report.refusal else not reasons


@given(
    header=st.dictionaries(
        st.sampled_from(["typ", "alg", "jwk", "kid", "crit"]), st.sampled_from([None, 1, "ES384", {}])
    ),
    claims=st.dictionaries(
        st.sampled_from(["jti", "htm", "htu", "iat", "exp", "nbf", "nonce", "ath"]),
        st.sampled_from([None, "", 1, NOW + 10**6, "x" * 300, URL, "GET", [], 1e300]),
    ),
)
def test_nor_on_any_other_proof(header: dict[str, Any], claims: dict[str, Any]) -> None:
    """Whatever is put into header and claims, one refusal more or less is never possible."""
    judge, proof = verifier(), made(header, claims)
    try:
        judge.verify_token_request({"DPoP": proof}, "GET", URL)
    except InvalidProof as refusal:
        expected = refusal.reason
    else:
        expected = None
    report = judge.report({"DPoP": proof}, "GET", URL)
    assert (report.refusal.reason if report.refusal else None) == expected


def test_a_binding_that_is_not_known_is_not_judged() -> None:
    """Nobody has looked at the claims of the token yet; one that is known to be unbound is refused."""
    for unbound, reason in ((False, None), (True, "token_unbound")):
        report = verifier().report({"DPoP": made()}, "GET", URL, access_token="t", unbound=unbound)
        assert failed(report).get("binding") == reason
    assert failed(verifier().report({"DPoP": made()}, "GET", URL, access_token="t")).get("binding") is None


def test_all_that_is_wrong_is_there_at_once() -> None:
    """A verifier names the first fault; a report names each, and what is right as well."""
    proof = made({"typ": "JWT"}, {"jti": "", "htm": "POST", "htu": "http://api.example/", "iat": NOW - 90, "exp": "x"})
    report = verifier().report({"DPoP": proof}, "GET", URL, access_token="token", bound_jkt="A" * 43)
    assert failed(report) == {
        "typ": "typ_mismatch",
        "jti": "jti_missing",
        "htm": "htm_mismatch",
        "htu": "htu_mismatch",
        "iat": "iat_too_old",
        "lifetime": "time_claim_malformed",
        "ath": "ath_missing",
        "binding": "key_mismatch",
    }
    assert verdicts(report)["signature"] == "passed"
    assert report.jkt == KEY.thumbprint
    assert report.header is not None
    assert report.claims is not None


def test_what_is_not_known_is_not_judged() -> None:
    """Without a request, a token or a nonce to compare with, nothing is said of them."""
    report = verifier().report({"DPoP": made()}, None, None)
    assert report.refusal is None
    unknown = {name for name, said in verdicts(report).items() if said == "not judged"}
    assert unknown == {"htm", "htu", "nonce", "ath", "binding", "replay"}


def test_a_nonce_of_the_server_spares_the_time() -> None:
    """As for the verifier: a fresh nonce proves that the proof is fresh, whatever its iat."""
    nonces = NonceIssuer(b"s" * 32, clock=lambda: NOW)
    judge = verifier(nonces=nonces)
    old = made(claims={"iat": NOW - 5000, "nonce": nonces.issue(KEY.thumbprint)})
    assert judge.report({"DPoP": old}, "GET", URL).refusal is None
    refusal = judge.report({"DPoP": made(claims={"nonce": "unknown"})}, "GET", URL).refusal
    assert refusal is not None
    assert refusal.reason == "nonce_unknown"
    assert refusal.nonce is not None


class OneNonce:
    """A server's nonce that tells nothing about when it was given."""

    used = None

    def issue(self, jkt: str | None = None) -> str:
        return "the nonce"

    def check(self, nonce: str, jkt: str) -> NonceVerdict | None:
        return NonceVerdict(issued_at=None, expires_at=NOW + 60) if nonce == "the nonce" else None

    def next_for(self, nonce: str | None, jkt: str | None) -> str | None:
        return None


def test_a_nonce_that_tells_no_time_does_not_spare_it() -> None:
    """Then ``iat`` decides, for the report as for the verifier."""
    judge = verifier(nonces=OneNonce())
    headers = {"DPoP": made(claims={"iat": NOW - 5000, "nonce": "the nonce"})}
    assert failed(judge.report(headers, "GET", URL)) == {"iat": "iat_too_old"}
    with pytest.raises(InvalidProof, match="iat"):
        judge.verify_token_request(headers, "GET", URL)


@pytest.mark.parametrize("where", [0, 1, 2])
def test_the_good_half_of_a_broken_proof_is_judged(where: int) -> None:
    """With padding in one part, the others are still decoded; the signature then is not judged."""
    parts = made(claims={"htm": "POST"}).split(".")
    parts[where] += "="
    report = verifier().report({"DPoP": ".".join(parts)}, "GET", URL)
    assert failed(report)["jwt"] == "not_compact"
    assert (report.header is None, report.claims is None) == (where == 0, where == 1)
    assert verdicts(report)["signature"] == "not judged"
    assert (failed(report).get("htm") == "htm_mismatch") == (where != 1)


def test_nothing_is_recorded() -> None:
    """A report can be made as often as one likes, and the verifier accepts the proof all the same."""
    judge, proof = verifier(), {"DPoP": made()}
    for _ in range(3):
        assert judge.report(proof, "GET", URL).refusal is None
    assert judge.verify_token_request(proof, "GET", URL).jti == "j"


def test_a_report_may_be_written_into() -> None:
    """Its header is the reader's own: the verifier keeps the headers it saw, and judges by them again."""
    judge, text = verifier(), made()
    report = judge.report([("DPoP", text)], "GET", URL)
    assert isinstance(report.header, dict)
    report.header["jwk"]["d"] = "x"
    report.header["alg"] = "none"
    assert judge.verify_token_request([("DPoP", text)], "GET", URL).jkt == KEY.thumbprint


def test_a_wrong_type_does_not_hide_a_wrong_algorithm() -> None:
    """Both are named, although the verifier itself stops at the first."""
    report = verifier().report([("DPoP", made({"typ": "JWT", "alg": "ES384"}))], "GET", URL)
    assert {name: failed(report)[name] for name in ("typ", "alg")} == {"typ": "typ_mismatch", "alg": "alg_refused"}


def test_the_length_of_a_signature_is_judged_before_the_key_is_loaded() -> None:
    """A check that costs nothing comes first: the point of this key is not on its curve, but nobody looks."""
    jwk = {**KEY.public_jwk, "y": KEY.public_jwk["x"]}
    headers = [("DPoP", f"{made({'jwk': jwk}).rpartition('.')[0]}.AAAA")]
    report = verifier().report(headers, "GET", URL)
    with pytest.raises(InvalidProof) as caught:
        verifier().verify_token_request(headers, "GET", URL)
    assert report.refusal is not None
    assert report.refusal.reason == caught.value.reason == failed(report)["signature"]


@pytest.mark.parametrize(
    ("known", "error"),
    [
        ({}, "invalid_dpop_proof"),
        ({"bound_jkt": KEY.thumbprint}, "invalid_grant"),
        ({"access_token": "token"}, "invalid_dpop_proof"),
        ({"access_token": "token", "bound_jkt": KEY.thumbprint}, "invalid_dpop_proof"),
    ],
    ids=["nothing", "a grant", "a token", "a bound token"],
)
def test_a_missing_proof_has_the_error_of_its_request(known: dict[str, Any], error: str) -> None:
    """``invalid_grant`` where a refresh token or code is bound to a key, as the verifier says (RFC 9449 §5)."""
    report = verifier().report([], "GET", URL, **known)
    assert report.refusal is not None
    assert (report.refusal.error, report.refusal.reason) == (error, "proof_missing")
