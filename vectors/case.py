# SPDX-License-Identifier: Apache-2.0
"""One case: a request with its proof, and the verdict on it."""

from __future__ import annotations

from typing import Any

from forge import A, ECKey, EdKey, Members, Pen, RSAKey, b64u, make, sha256, thumbprint

NOW = 1_700_000_000
TOKEN = "vector.access~token-0123456789"  # a made-up token, bound to key A
ATH = b64u(sha256(TOKEN.encode()))
RESOURCE = "https://server.example.com/items"
TOKEN_URL = "https://as.example.com/token"
LIMITS: Members = {
    "algs": ["ES256", "Ed25519", "EdDSA", "PS256", "RS256"],
    "max_age": 60,
    "skew": 30,
    "max_length": 8192,
    "max_jti": 256,
    "max_htu": 4096,
    "max_depth": 8,
}
OUT = object()  # as the value of a member: leave it out

Key = ECKey | EdKey | RSAKey
Case = dict[str, Any]


def members(standard: Members, changes: Members) -> Members:
    """The standard members with the changes made, and none that is OUT."""
    return {name: value for name, value in (standard | changes).items() if value is not OUT}


def head(key: Key = A, /, **changes: Any) -> Members:
    """The JOSE header of an honest client, changed."""
    return members({"typ": "dpop+jwt", "alg": key.alg, "jwk": key.jwk}, changes)


def body(jti: str, role: str = "RS", /, **changes: Any) -> Members:
    """The claims of an honest client, changed."""
    if role == "RS":
        standard = {"jti": jti, "htm": "GET", "htu": RESOURCE, "iat": NOW, "ath": ATH}
    else:
        standard = {"jti": jti, "htm": "POST", "htu": TOKEN_URL, "iat": NOW}
    return members(standard, changes)


def case(
    case_id: str,
    verdict: str = "ok",
    reason: str | None = None,
    note: str = "",
    *,
    role: str = "RS",
    also: str = "",
    key: Key = A,
    header: Any = None,
    claims: Any = None,
    pen: Pen | None = None,
    proof: str | None = None,
    headers: list[list[Any]] | None = None,
    method: str | None = None,
    url: str | None = None,
    access_token: str = TOKEN,
    bound_jkt: str | None = "",
    nonces: list[Members] | None = None,
    after: str | None = None,
    limits: Members | None = None,
) -> Case:
    """Put a case together; whatever is not given is what an honest client and server have.

    :param header: the JOSE header, or a dict of changes to it under the key "+".
    :param claims: likewise.
    :param bound_jkt: empty: that of the proof's key at an RS, none at an AS.
    """
    if headers is None:
        if proof is None:
            header = head(key, **header["+"]) if isinstance(header, dict) and "+" in header else header
            claims = body(case_id, role, **claims["+"]) if isinstance(claims, dict) and "+" in claims else claims
            proof = make(
                head(key) if header is None else header,
                body(case_id, role) if claims is None else claims,
                pen or key.sign,
            )
        headers = [["DPoP", proof]]
    honest = ("GET", RESOURCE) if role == "RS" else ("POST", TOKEN_URL)
    written: Case = {"id": case_id, "role": role, "verdict": verdict}
    optional = {"reason": reason, "also": also.split(), "note": note, "after": after, "limits": limits}
    written |= {name: value for name, value in optional.items() if value}
    written["request"] = {"method": method or honest[0], "url": url or honest[1]}
    if role == "RS":
        written["request"]["access_token"] = access_token
    written["headers"] = headers
    if role == "RS" or bound_jkt:
        written["bound_jkt"] = thumbprint(key.jwk) if bound_jkt == "" else bound_jkt
    if nonces is not None:
        written["nonces"] = nonces
    return written


def bad(case_id: str, reason: str, note: str = "", **given: Any) -> Case:
    """A case that is refused with invalid_dpop_proof."""
    return case(case_id, "invalid_dpop_proof", reason, note, **given)


def plus(**changes: Any) -> Members:
    """Changes to the honest members, for ``header`` and ``claims``."""
    return {"+": changes}
