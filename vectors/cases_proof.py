# SPDX-License-Identifier: Apache-2.0
"""Cases that a proof alone decides: those of ``dpop.testing.defects``, and a few beside them."""

from __future__ import annotations

from typing import Any

from case import ATH, LIMITS, NOW, RESOURCE, Case, bad, case, defect, draft

from dpop.testing.defects import DEFECTS
from dpop.testing.defects._forge import (
    ED,
    ED448,
    K256,
    P384,
    RSA_2048,
    SHORT_X,
    A,
    RSAKey,
    b64u,
    rsa_2048,
    sha256,
    thumbprint,
    to_json,
)

# What the server or the request of a defect must be, if not as usual; the key is what the token is bound to.
_BESIDES: dict[str, dict[str, Any]] = {
    "alg-unsupported-ES384": {"key": P384},
    "alg-ES256K": {"key": K256},
    "alg-EdDSA-Ed448": {"key": ED448},
    "jwk-x-short": {"key": SHORT_X},
    "alg-ES384-with-P256": {"limits": {"algs": [*LIMITS["algs"], "ES384"]}},
    "htu-reserved-decoded": {"url": "https://server.example.com/a%2Fb"},
    "htu-plus-vs-space": {"url": "https://server.example.com/a%20b"},
}
# The first cases made shared an identifier, and those that edit the text of a proof still do.
_SHARED_JTI = {
    "transport": set(DEFECTS),
    "structure": {
        "two-segments",
        "two-segments-dot",
        "four-segments",
        "five-segments-jwe",
        "padding-in-header",
        "std-base64-alphabet",
        "signature-trailing-bits",
        "payload-bad-utf8",
        "payload-lone-surrogate",
        "dup-htu",
        "dup-jti",
        "deep-nesting",
        "huge-int-5000-digits",
        "deep-nesting-100k",
        "trailing-garbage",
    },
}


def group(name: str) -> list[Case]:
    """The cases of all defects of a group."""
    shared = _SHARED_JTI.get(name, set())
    return [
        defect(known.name, name if known.name in shared else None, **_BESIDES.get(known.name, {}))
        for known in DEFECTS.values()
        if known.group == name
    ]


def accept() -> list[Case]:
    """Proofs that a server accepts."""
    known = [{"value": "nonce-known", "issued_at": NOW - 30, "expires_at": NOW + 60}]
    return [
        case("ok-rs"),
        case("ok-as", role="AS"),
        defect("ok-high-s"),
        case("ok-ed25519", key=ED),
        case(
            "ok-ed25519-fully-specified",
            note="the name of RFC 9864",
            key=ED,
            proof=_by_another_name("ok-ed25519-fully-specified"),
        ),
        defect("ok-extra-members"),
        defect("ok-jwk-extra"),
        defect("ok-jwk-empty-members"),
        defect("ok-json-whitespace-order"),
        defect("ok-json-unicode-escape"),
        defect("ok-htu-query-fragment"),
        case("ok-request-query", url=RESOURCE + "?a=b"),
        defect("ok-htu-case-port"),
        defect("ok-iat-future-10"),
        defect("ok-iat-fraction"),
        case("ok-nonce-known", role="AS", claims={"nonce": "nonce-known"}, nonces=known),
        case(
            "ok-nonce-known-iat-off",
            note="a nonce that tells its time replaces iat",
            role="AS",
            also="invalid_dpop_proof",
            claims={"nonce": "nonce-known", "iat": NOW - 3600},
            nonces=known,
        ),
        case(
            "ok-nonce-not-asked",
            note="a server without nonces ignores the claim",
            also="invalid_dpop_proof",
            claims={"nonce": "nonce-known"},
        ),
        case(
            "ok-nonce-empty-not-asked",
            note="clients exist that send one first",
            role="AS",
            also="invalid_dpop_proof",
            claims={"nonce": ""},
        ),
        defect("ok-header-name-case"),
        defect("ok-ows"),
        defect("ok-exp-future"),
        case(
            "ok-ath-at-as",
            note="the RFC is silent; some servers refuse it",
            role="AS",
            also="invalid_dpop_proof",
            claims={"ath": ATH},
        ),
        defect("ok-iat-age-60"),
        case("ok-rs256", key=RSA_2048),
        case("ok-rs384", key=rsa_2048("RS384"), limits={"algs": ["RS384"]}),
        case("ok-rs512", key=rsa_2048("RS512"), limits={"algs": ["RS512"]}),
        case("ok-ps256", key=rsa_2048("PS256")),
        case("ok-ps384", key=rsa_2048("PS384"), limits={"algs": ["PS384"]}),
        case("ok-ps512", key=rsa_2048("PS512"), limits={"algs": ["PS512"]}),
    ]


def header() -> list[Case]:
    """The header, and an algorithm that is good and not taken."""
    refused = bad(
        "alg-unsupported-RS512", "alg_refused", "of the names of this key, RS256 is taken", key=rsa_2048("RS512")
    )
    return [*group("header"), refused]


def signature() -> list[Case]:
    """The signature. An RSA key signs in many ways, so the one that the header names has to be the one that counts."""
    return [
        *group("signature"),
        _signed_as("sig-rs512-of-sha256", "RS512", rsa_2048("RS256"), "signed as RS256, which is allowed too"),
        _signed_as("sig-ps256-as-rs256", "RS256", rsa_2048("PS256"), "signed as PS256, which is allowed too"),
        _signed_as("sig-rs256-as-ps256", "PS256", rsa_2048("RS256"), "signed as RS256, which is allowed too"),
        _signed_as("sig-ps256-no-salt", "PS256", rsa_2048("PS256", salt_size=0), _SALT),
        _signed_as("sig-ps512-salt-32", "PS512", rsa_2048("PS512", salt_size=32), _SALT),
        _signed_as("sig-ps512-mgf1-sha1", "PS512", rsa_2048("PS512", mask="sha1"), "RFC 7518 3.5: the same hash"),
    ]


_SALT = "RFC 7518 3.5: as long as the hash"


def _signed_as(name: str, alg: str, signer: RSAKey, note: str) -> Case:
    """A signature that is right for ``signer`` and not for the ``alg`` in the header."""
    key = rsa_2048(alg)
    proof = draft(name, key=key).proof(pen=signer.sign)
    allowed = {"algs": ["RS256", "RS512", "PS256", "PS512"]}
    return bad(name, "signature_invalid", note, key=key, proof=proof, limits=allowed)


def htu() -> list[Case]:
    """The URL (RFC 9449 4.3(9))."""
    internal = bad(
        "htu-internal-url",
        "htu_mismatch",
        "a server behind a proxy has to be told its public origin; then this is ok",
        url="http://10.0.0.5:8080/items",
    )
    return [*group("htu"), internal]


def binding() -> list[Case]:
    """The access token and its key (RFC 9449 4.3(12))."""
    with_kid = A.public_jwk | {"kid": "1"}
    sloppy = b64u(sha256(to_json(dict(sorted(with_kid.items())))))

    def cnf(case_id: str, bound_jkt: str | None, reason: str, note: str = "", **given: Any) -> Case:
        return case(case_id, "invalid_token", reason, note, also="invalid_dpop_proof", bound_jkt=bound_jkt, **given)

    return [
        *group("binding"),
        cnf("cnf-absent", None, "token_unbound", "an unbound token under the DPoP scheme"),
        cnf(
            "cnf-jkt-of-optional-members",
            sloppy,
            "key_mismatch",
            "a thumbprint that counts kid",
            proof=_with_jwk("cnf-jkt-of-optional-members", with_kid),
        ),
        cnf("cnf-malformed", thumbprint(A.public_jwk) + "=", "token_binding_malformed"),
    ]


def _by_another_name(jti: str) -> str:
    """An Ed25519 proof under the name of RFC 9864."""
    return (honest := draft(jti, key=ED)).proof(header=honest.header(alg="Ed25519"))


def _with_jwk(jti: str, jwk: dict[str, Any]) -> str:
    return (honest := draft(jti)).proof(header=honest.header(jwk=jwk))
