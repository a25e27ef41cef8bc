# SPDX-License-Identifier: Apache-2.0
"""One case: a request with its proof, and the verdict on it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from dpop.testing.defects import DEFECTS, Fields
from dpop.testing.defects._draft import Draft, Signer
from dpop.testing.defects._forge import A, Members, b64u, sha256, thumbprint

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

Case = dict[str, Any]


def draft(jti: str, role: str = "RS", key: Signer = A) -> Draft:
    """The proof of an honest client."""
    if role == "RS":
        return Draft(key, "GET", RESOURCE, jti, NOW, TOKEN)
    return Draft(key, "POST", TOKEN_URL, jti, NOW)


def case(
    case_id: str,
    verdict: str = "ok",
    reason: str | None = None,
    note: str = "",
    *,
    role: str = "RS",
    also: str = "",
    key: Signer = A,
    claims: Members | None = None,
    proof: str | None = None,
    fields: Fields | None = None,
    url: str | None = None,
    bound_jkt: str | None = "",
    nonces: list[Members] | None = None,
    after: str | None = None,
    limits: Members | None = None,
) -> Case:
    """Put a case together; whatever is not given is what an honest client and server have.

    :param claims: changes to them.
    :param fields: all DPoP fields, instead of the one with the proof.
    :param bound_jkt: empty: that of the proof's key at an RS, none at an AS.
    """
    if fields is None:
        honest = draft(case_id, role, key)
        fields = [("DPoP", proof or honest.proof(claims=honest.claims(**claims or {})))]
    written: Case = {"id": case_id, "role": role, "verdict": verdict}
    optional = {"reason": reason, "also": also.split(), "note": note, "after": after, "limits": limits}
    written |= {name: value for name, value in optional.items() if value}
    method, usual_url = ("GET", RESOURCE) if role == "RS" else ("POST", TOKEN_URL)
    written["request"] = {"method": method, "url": url or usual_url}
    if role == "RS":
        written["request"]["access_token"] = TOKEN
    written["headers"] = [[name, _folded(value)] for name, value in fields]
    if role == "RS" or bound_jkt:
        written["bound_jkt"] = thumbprint(dict(key.public_jwk)) if bound_jkt == "" else bound_jkt
    if nonces is not None:
        written["nonces"] = nonces
    return written


def defect(name: str, jti: str | None = None, *, nonce: str | None = None, **given: Any) -> Case:
    """The case of a defect that ``dpop.testing.defects`` has.

    :param jti: of the honest part; the name by default.
    :param nonce: the newest the client has.
    :param given: as for :func:`case`.
    """
    known = DEFECTS[name]
    honest = replace(draft(jti or name, given.get("role", "RS")), nonce=nonce)
    if "url" in given:
        honest = replace(honest, htu=given["url"])
    return case(
        name,
        known.verdict,
        known.reason,
        known.note,
        also=" ".join(known.also),
        fields=known.write(honest),
        **given,
    )


def bad(case_id: str, reason: str, note: str = "", **given: Any) -> Case:
    """A case that is refused with invalid_dpop_proof."""
    return case(case_id, "invalid_dpop_proof", reason, note, **given)


_RUN = re.compile(r"(.{1,4}?)\1{999,}", re.DOTALL)


def _folded(value: str) -> str | list[Any]:
    """A value of tens of thousands of characters as its pieces, where some are repetitions."""
    pieces: list[Any] = []
    at = 0
    for run in _RUN.finditer(value) if len(value) > 50_000 else ():
        pieces += [value[at : run.start()], {"repeat": run[1], "times": len(run[0]) // len(run[1])}]
        at = run.end()
    return [piece for piece in [*pieces, value[at:]] if piece] if pieces else value
