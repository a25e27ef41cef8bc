# SPDX-License-Identifier: Apache-2.0
"""Defects of the JOSE header, the key in it and the signature.

If the draft's own key cannot be used, a published key signs. So the private members of a real key are never written.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from dpop.server._reasons import Reason
from dpop.testing.defects._draft import OUT, Draft, WritableDefect, Write, refused
from dpop.testing.defects._forge import (
    ALPHABET,
    ED,
    ED448,
    K256,
    P256_ORDER,
    P256_PRIME,
    P384,
    RSA_1024,
    RSA_2048,
    RSA_E1,
    RSA_E_HUGE,
    SHORT_X,
    A,
    B,
    ECKey,
    Members,
    Pen,
    b64u,
    ed25519_identity,
    mac,
    small_x_point,
    stream,
    to_json,
    unb64u,
)

__all__ = ["KEY"]


def _header_with(**changes: Any) -> Write:
    return lambda draft: draft.proof(header=draft.header(**changes))


# --- type and algorithm

_header = partial(refused, "header")


def _typ(name: str, value: Any, note: str = "", also: str = "") -> WritableDefect:
    return _header(name, _header_with(typ=value), Reason.TYP_MISMATCH, note, also)


def _alg(name: str, value: Any, note: str = "") -> WritableDefect:
    return _header(name, _header_with(alg=value), Reason.ALG_REFUSED, note)


def _unsigned(draft: Draft) -> str:
    proof = draft.proof(header=draft.header(alg="none"))
    return proof[: proof.rindex(".") + 1]


def _mac_by_public_key(draft: Draft) -> str:
    return draft.proof(header=draft.header(alg="HS256"), pen=mac(to_json(draft.jwk)))


def _mac_by_its_own_key(draft: Draft) -> str:
    secret = stream("HS256 secret", 32)
    symmetric = {"kty": "oct", "k": b64u(secret)}
    return draft.proof(header=draft.header(alg="HS256", jwk=symmetric), pen=mac(secret))


def _rsa_name_on_ec_key(draft: Draft) -> str:
    draft = draft.es256
    return draft.proof(header=draft.header(alg="RS256"), pen=RSA_2048.sign)


_HEADER = [
    _typ("typ-missing", OUT),
    _typ("typ-jwt", "JWT"),
    _typ("typ-at-jwt", "at+jwt"),
    _typ("typ-wrong-case", "DPoP+JWT", "some servers accept it; exact is the safe reading", "ok"),
    _typ("typ-application-prefix", "application/dpop+jwt", "likewise", "ok"),
    _typ("typ-dpop-rt", "dpop-rt+jwt"),
    _typ("typ-array", ["dpop+jwt"]),
    _alg("alg-missing", OUT),
    _header("alg-none", _unsigned, Reason.NOT_COMPACT),
    _alg("alg-none-with-signature", "none"),
    _alg("alg-None-case", "nOnE", "lists of what is forbidden fail here"),
    _header("alg-HS256-jwk-bytes", _mac_by_public_key, Reason.ALG_REFUSED, "the public key as MAC key"),
    _header("alg-HS256-oct", _mac_by_its_own_key, Reason.ALG_REFUSED, "a MAC that fits its own key"),
    _header(
        "alg-lowercase", lambda draft: draft.proof(header=draft.header(alg=draft.key.alg.lower())), Reason.ALG_REFUSED
    ),
    _alg("alg-unregistered", "XX256"),
    _alg("alg-number", 256),
    _header(
        "alg-unsupported-ES384",
        lambda draft: draft.by(P384).proof(),
        Reason.ALG_REFUSED,
        "a good proof; say algs in the challenge",
        where="a server that does not accept ES384",
    ),
    _header("alg-ES256K", lambda draft: draft.by(K256).proof(), Reason.ALG_REFUSED),
    _header(
        "alg-ES384-with-P256",
        lambda draft: draft.es256.proof(header=draft.es256.header(alg="ES384")),
        Reason.JWK_ALG_MISMATCH,
        where="a server that accepts ES384",
    ),
    _header(
        "alg-RS256-with-EC-jwk", _rsa_name_on_ec_key, Reason.JWK_ALG_MISMATCH, "a published example has this fault"
    ),
    _header("alg-EdDSA-Ed448", lambda draft: draft.by(ED448).proof(), Reason.JWK_INVALID),
]


# --- the public key (RFC 7518 6, RFC 8037 2)

_jwk = partial(refused, "jwk")


def _instead(name: str, jwk: Any, reason: Reason = Reason.JWK_MISSING, note: str = "", **more: Any) -> WritableDefect:
    return _jwk(name, _header_with(jwk=jwk, **more), reason, note)


def _changed(
    name: str, note: str = "", also: str = "", reason: Reason = Reason.JWK_INVALID, key: ECKey | None = None, **to: Any
) -> WritableDefect:
    """Change members of an EC key; a function computes its member from the draft."""

    def write(draft: Draft) -> str:
        draft = draft.es256 if key is None else draft.by(key)
        changes = {name: value(draft) if callable(value) else value for name, value in to.items()}
        members = {name: value for name, value in (draft.jwk | changes).items() if value is not OUT}
        return draft.proof(header=draft.header(jwk=members))

    return _jwk(name, write, reason, note, also)


def _with_key(name: str, jwk: Members, alg: str, pen: Pen, note: str = "") -> WritableDefect:
    return _jwk(
        name,
        lambda draft: draft.proof(header=draft.header(alg=alg, jwk=jwk), pen=pen),
        Reason.JWK_INVALID,
        note,
    )


def _x(draft: Draft) -> bytes:
    return unb64u(draft.jwk["x"])


def _wrong_y(draft: Draft) -> str:
    y = unb64u(draft.jwk["y"])
    return b64u(y[:-1] + bytes([y[-1] ^ 1]))


def _sloppy_x(draft: Draft) -> str:
    x: str = draft.jwk["x"]
    return x[:-1] + ALPHABET[ALPHABET.index(x[-1]) + 1]


_LOW_X, _LOW_Y = small_x_point()
_IDENTITY, _FITS_ALL = ed25519_identity()
_TWO_NAMES = "same point, second thumbprint"

_JWK = [
    _instead("jwk-missing", OUT),
    _instead("jwk-null", None),
    _jwk(
        "jwk-string",
        lambda draft: draft.proof(header=draft.header(jwk=to_json(draft.jwk).decode())),
        Reason.JWK_MISSING,
    ),
    _instead("jwk-empty", {}, Reason.JWK_INVALID),
    _jwk("jwk-array", lambda draft: draft.proof(header=draft.header(jwk=[draft.jwk])), Reason.JWK_MISSING),
    _jwk("jwk-set", lambda draft: draft.proof(header=draft.header(jwk={"keys": [draft.jwk]})), Reason.JWK_INVALID),
    _changed(
        "jwk-private-d",
        "RFC 9449 4.3(7); the key is now public, so raise an alarm",
        reason=Reason.JWK_PRIVATE,
        key=A,
        d=A.d,
    ),
    _instead("jwk-kid-only", OUT, note="nothing is looked up", kid="key A"),
    _instead("jwk-x5c", OUT, x5c=["MIIB"]),
    _jwk(
        "jwk-jku",
        lambda draft: draft.proof(header=draft.header(jwk=OUT, jku=f"{draft.origin}/jwks.json")),
        Reason.JWK_MISSING,
        "nothing is fetched",
    ),
    _changed("jwk-x-missing", x=OUT),
    _changed("jwk-kty-missing", kty=OUT),
    _changed("jwk-crv-missing", crv=OUT),
    _with_key("jwk-crv-secp256k1", K256.public_jwk, "ES256", K256.sign),
    _changed("jwk-kty-lowercase", kty="ec"),
    _changed("jwk-x-number", x=lambda draft: int.from_bytes(_x(draft), "big") % 2**53),
    _changed("jwk-not-on-curve", "invalid curve attack", y=_wrong_y),
    _changed("jwk-origin", "(0, 0)", x=b64u(bytes(32)), y=b64u(bytes(32))),
    _changed(
        "jwk-x-ge-p",
        "a second name for a point",
        x=b64u((_LOW_X + P256_PRIME).to_bytes(32, "big")),
        y=b64u(_LOW_Y.to_bytes(32, "big")),
    ),
    _changed("jwk-x-short", "a leading zero octet left out", key=SHORT_X, x=lambda draft: b64u(_x(draft)[1:])),
    _changed("jwk-x-leading-zero", _TWO_NAMES, x=lambda draft: b64u(b"\0" + _x(draft))),
    _changed("jwk-x-padded", _TWO_NAMES, x=lambda draft: draft.jwk["x"] + "="),
    _changed("jwk-x-trailing-bits", _TWO_NAMES, x=_sloppy_x),
    _changed("jwk-use-enc", also="ok", use="enc"),
    _changed("jwk-alg-mismatch", also="ok", reason=Reason.JWK_ALG_MISMATCH, alg="ES384"),
    _with_key(
        "jwk-oversized-rsa",
        {"kty": "RSA", "n": b64u(b"\xc0" + stream("RSA 16384", 2046) + b"\x01"), "e": "AQAB"},
        "RS256",
        lambda _: stream("a signature", 2048),
        "16384 bits, to burn time",
    ),
    _with_key("jwk-rsa-1024", RSA_1024.public_jwk, "RS256", RSA_1024.sign, "RFC 7518 3.3: 2048 or more"),
    _with_key("jwk-rsa-e1", RSA_E1.public_jwk, "RS256", RSA_E1.sign, "anyone can sign"),
    _with_key("jwk-rsa-e-huge", RSA_E_HUGE.public_jwk, "RS256", RSA_E_HUGE.sign, "to burn time"),
    _with_key(
        "jwk-rsa-n-leading-zero",
        RSA_2048.public_jwk | {"n": b64u(RSA_2048.n.to_bytes(257, "big"))},
        "RS256",
        RSA_2048.sign,
        "same key, second thumbprint",
    ),
    _with_key("jwk-ed25519-identity", _IDENTITY, "EdDSA", lambda _: _FITS_ALL, "this signature fits every message"),
    _with_key("jwk-ed25519-short", ED.public_jwk | {"x": b64u(stream("short", 31))}, "EdDSA", ED.sign),
    _with_key("jwk-x25519", ED.public_jwk | {"crv": "X25519"}, "EdDSA", ED.sign),
    _jwk(
        "jwk-second-key-signs",
        lambda draft: draft.es256.proof(pen=B.sign),
        Reason.SIGNATURE_INVALID,
        "the header names A, B signs",
    ),
]


# --- the signature of an ES256 proof (RFC 7518 3.4)


def _signature(name: str, reason: Reason, edit: Callable[[bytes], bytes], note: str = "") -> WritableDefect:
    """Edit a valid signature, R || S."""

    def write(draft: Draft) -> str:
        key = draft.es256.key
        return draft.es256.proof(pen=lambda data: edit(key.sign(data)))

    return refused("signature", name, write, reason, note)


def _halves(signature: bytes) -> tuple[int, int]:
    return int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")


def _der(signature: bytes) -> bytes:
    return encode_dss_signature(*_halves(signature))


def _s_plus_n(signature: bytes) -> bytes:
    _, s = _halves(signature)
    return signature[:32] + ((s + P256_ORDER) % 2**256).to_bytes(32, "big")


def _payload_swapped(draft: Draft) -> str:
    header, _, signature = draft.proof().split(".")
    return f"{header}.{b64u(to_json(draft.claims(jti=f'{draft.jti}-in')))}.{signature}"


_SHA512_BY_A = ECKey("key A", digest=hashes.SHA512())
_ORDER = P256_ORDER.to_bytes(32, "big")

_SIGNATURE = [
    _signature("sig-zero", Reason.SIGNATURE_MALFORMED, lambda _: bytes(64), "CVE-2022-21449"),
    _signature("sig-r-zero", Reason.SIGNATURE_MALFORMED, lambda good: bytes(32) + good[32:]),
    _signature("sig-s-zero", Reason.SIGNATURE_MALFORMED, lambda good: good[:32] + bytes(32)),
    _signature("sig-r-n-s-n", Reason.SIGNATURE_MALFORMED, lambda _: _ORDER + _ORDER),
    _signature("sig-s-plus-n", Reason.SIGNATURE_INVALID, _s_plus_n, "cut to 32 octets"),
    _signature("sig-der", Reason.SIGNATURE_MALFORMED, _der, "ASN.1 instead of R || S"),
    _signature("sig-short-63", Reason.SIGNATURE_MALFORMED, lambda good: good[:-1]),
    _signature("sig-long-65", Reason.SIGNATURE_MALFORMED, lambda good: good + b"\0"),
    _signature("sig-left-padded-66", Reason.SIGNATURE_MALFORMED, lambda good: b"\0" + good[:32] + b"\0" + good[32:]),
    _signature("sig-swapped-s-r", Reason.SIGNATURE_INVALID, lambda good: good[32:] + good[:32]),
    _signature("sig-little-endian", Reason.SIGNATURE_INVALID, lambda good: good[31::-1] + good[:31:-1]),
    _signature("sig-flipped-bit", Reason.SIGNATURE_INVALID, lambda good: good[:20] + bytes([good[20] ^ 8]) + good[21:]),
    refused(
        "signature",
        "sig-sha512-digest",
        lambda draft: draft.by(A).proof(pen=_SHA512_BY_A.sign),
        Reason.SIGNATURE_INVALID,
        "right key, wrong hash",
    ),
    refused("signature", "payload-swapped", _payload_swapped, Reason.SIGNATURE_INVALID),
]

KEY = [*_HEADER, *_JWK, *_SIGNATURE]
