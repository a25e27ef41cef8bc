# SPDX-License-Identifier: Apache-2.0
"""Cases: the JOSE header, the key in it, the signature."""

from __future__ import annotations

from typing import Any

from case import LIMITS, OUT, Case, bad, body, head, plus
from cryptography.hazmat.primitives import hashes
from forge import (
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
    make,
    small_x_point,
    stream,
    to_json,
)


def header() -> list[Case]:
    """The type and the algorithm."""
    secret = stream("HS256 secret", 32)
    symmetric = {"kty": "oct", "k": b64u(secret)}
    allow_p384 = {"algs": [*LIMITS["algs"], "ES384"]}
    unsigned = make(head(alg="none"), body("alg-none"), A.sign)

    def typ(case_id: str, value: Any, note: str = "", also: str = "") -> Case:
        return bad(case_id, "typ_mismatch", note, also=also, header=plus(typ=value))

    def alg(case_id: str, value: Any, note: str = "", **given: Any) -> Case:
        return bad(case_id, "alg_refused", note, header=plus(alg=value), **given)

    return [
        typ("typ-missing", OUT),
        typ("typ-jwt", "JWT"),
        typ("typ-at-jwt", "at+jwt"),
        typ("typ-wrong-case", "DPoP+JWT", "some servers accept it; exact is the safe reading", "ok"),
        typ("typ-application-prefix", "application/dpop+jwt", "likewise", "ok"),
        typ("typ-dpop-rt", "dpop-rt+jwt"),
        typ("typ-array", ["dpop+jwt"]),
        alg("alg-missing", OUT),
        bad("alg-none", "not_compact", headers=[["DPoP", unsigned[: unsigned.rindex(".") + 1]]]),
        alg("alg-none-with-signature", "none"),
        alg("alg-None-case", "nOnE", "lists of what is forbidden fail here"),
        alg("alg-HS256-jwk-bytes", "HS256", "the public key as MAC key", pen=mac(to_json(A.jwk))),
        bad(
            "alg-HS256-oct",
            "alg_refused",
            "a MAC that fits its own key",
            header=plus(alg="HS256", jwk=symmetric),
            pen=mac(secret),
        ),
        alg("alg-lowercase", "es256"),
        alg("alg-unregistered", "XX256"),
        alg("alg-number", 256),
        bad("alg-unsupported-ES384", "alg_refused", "a good proof; say algs in the challenge", key=P384),
        bad("alg-ES256K", "alg_refused", key=K256),
        bad(
            "alg-ES384-with-P256",
            "jwk_alg_mismatch",
            header=plus(alg="ES384"),
            limits=allow_p384,
        ),
        bad(
            "alg-RS256-with-EC-jwk",
            "jwk_alg_mismatch",
            "a published example has this fault",
            header=plus(alg="RS256"),
            pen=RSA_2048.sign,
        ),
        bad("alg-EdDSA-Ed448", "jwk_invalid", key=ED448),
    ]


def jwk() -> list[Case]:
    """The public key (RFC 7518 6, RFC 8037 2)."""
    x, y = (coordinate.to_bytes(32, "big") for coordinate in A.xy)
    low_x, low_y = small_x_point()
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    sloppy_x = A.jwk["x"][:-1] + alphabet[alphabet.index(A.jwk["x"][-1]) + 1]
    identity, fits_all = ed25519_identity()
    modulus_16k = b"\xc0" + stream("RSA 16384", 2046) + b"\x01"
    one_zero = RSA_2048.n.to_bytes(257, "big")

    def changed(case_id: str, reason: str, note: str = "", also: str = "", key: ECKey = A, **changes: Any) -> Case:
        members = {name: value for name, value in (key.jwk | changes).items() if value is not OUT}
        return bad(case_id, reason, note, also=also, key=key, header=plus(jwk=members))

    def instead(case_id: str, value: Any, reason: str = "jwk_missing", note: str = "", **more: Any) -> Case:
        return bad(case_id, reason, note, header=plus(jwk=value, **more))

    def with_key(case_id: str, members: Members, alg: str, pen: Pen, note: str = "") -> Case:
        return bad(case_id, "jwk_invalid", note, header={"typ": "dpop+jwt", "alg": alg, "jwk": members}, pen=pen)

    return [
        instead("jwk-missing", OUT),
        instead("jwk-null", None),
        instead("jwk-string", to_json(A.jwk).decode()),
        instead("jwk-empty", {}, "jwk_invalid"),
        instead("jwk-array", [A.jwk]),
        instead("jwk-set", {"keys": [A.jwk]}, "jwk_invalid"),
        changed("jwk-private-d", "jwk_private", "RFC 9449 4.3(7); the key is now public, so raise an alarm", d=A.d),
        changed("jwk-private-d-null", "jwk_private", "what counts is that it is there", d=None),
        changed("jwk-private-d-empty", "jwk_private", d=""),
        instead("jwk-kid-only", OUT, note="nothing is looked up", kid="key A"),
        instead("jwk-x5c", OUT, x5c=["MIIB"]),
        instead("jwk-jku", OUT, note="nothing is fetched", jku="https://server.example.com/jwks.json"),
        changed("jwk-x-missing", "jwk_invalid", x=OUT),
        changed("jwk-kty-missing", "jwk_invalid", kty=OUT),
        changed("jwk-crv-missing", "jwk_invalid", crv=OUT),
        with_key("jwk-crv-secp256k1", K256.jwk, "ES256", K256.sign),
        changed("jwk-kty-lowercase", "jwk_invalid", kty="ec"),
        changed("jwk-x-number", "jwk_invalid", x=A.xy[0] % 2**53),
        changed("jwk-not-on-curve", "jwk_invalid", "invalid curve attack", y=b64u(y[:-1] + bytes([y[-1] ^ 1]))),
        changed("jwk-origin", "jwk_invalid", "(0, 0)", x=b64u(bytes(32)), y=b64u(bytes(32))),
        changed(
            "jwk-x-ge-p",
            "jwk_invalid",
            "a second name for a point",
            x=b64u((low_x + P256_PRIME).to_bytes(32, "big")),
            y=b64u(low_y.to_bytes(32, "big")),
        ),
        changed(
            "jwk-x-short",
            "jwk_invalid",
            "a leading zero octet left out",
            key=SHORT_X,
            x=b64u(SHORT_X.xy[0].to_bytes(31, "big")),
        ),
        changed("jwk-x-leading-zero", "jwk_invalid", "same point, second thumbprint", x=b64u(b"\0" + x)),
        changed("jwk-x-padded", "jwk_invalid", "same point, second thumbprint", x=A.jwk["x"] + "="),
        changed("jwk-x-trailing-bits", "jwk_invalid", "same point, second thumbprint", x=sloppy_x),
        changed("jwk-use-enc", "jwk_invalid", also="ok", use="enc"),
        changed("jwk-alg-mismatch", "jwk_alg_mismatch", also="ok", alg="ES384"),
        with_key(
            "jwk-oversized-rsa",
            {"kty": "RSA", "n": b64u(modulus_16k), "e": "AQAB"},
            "RS256",
            lambda _: stream("a signature", 2048),
            "16384 bits, to burn time",
        ),
        with_key("jwk-rsa-1024", RSA_1024.jwk, "RS256", RSA_1024.sign, "RFC 7518 3.3: 2048 or more"),
        with_key("jwk-rsa-e1", RSA_E1.jwk, "RS256", RSA_E1.sign, "anyone can sign"),
        with_key("jwk-rsa-e-huge", RSA_E_HUGE.jwk, "RS256", RSA_E_HUGE.sign, "to burn time"),
        with_key(
            "jwk-rsa-n-leading-zero",
            RSA_2048.jwk | {"n": b64u(one_zero)},
            "RS256",
            RSA_2048.sign,
            "same key, second thumbprint",
        ),
        with_key(
            "jwk-ed25519-identity",
            identity,
            "EdDSA",
            lambda _: fits_all,
            "this signature fits every message",
        ),
        with_key("jwk-ed25519-short", ED.jwk | {"x": b64u(stream("short", 31))}, "EdDSA", ED.sign),
        with_key("jwk-x25519", ED.jwk | {"crv": "X25519"}, "EdDSA", ED.sign),
        bad("jwk-second-key-signs", "signature_invalid", "the header names A, B signs", pen=B.sign),
    ]


def signature() -> list[Case]:
    """The signature of an ES256 proof (RFC 7518 3.4)."""
    order = P256_ORDER.to_bytes(32, "big")
    sha512 = ECKey("key A", digest=hashes.SHA512())
    other = make(head(), body("payload-swapped"), A.sign)
    first, _, last = other.split(".")
    swapped = f"{first}.{b64u(to_json(body('payload-swapped-in')))}.{last}"

    def sig(case_id: str, reason: str, pen: Pen, note: str = "") -> Case:
        return bad(case_id, reason, note, pen=pen)

    def s_plus_n(data: bytes) -> bytes:
        r, s = A.pair(data)
        return r.to_bytes(32, "big") + ((s + P256_ORDER) % 2**256).to_bytes(32, "big")

    def padded(data: bytes) -> bytes:
        r, s = A.pair(data)
        return r.to_bytes(33, "big") + s.to_bytes(33, "big")

    def flipped(data: bytes) -> bytes:
        good = A.sign(data)
        return good[:20] + bytes([good[20] ^ 8]) + good[21:]

    return [
        sig("sig-zero", "signature_malformed", lambda _: bytes(64), "CVE-2022-21449"),
        sig("sig-r-zero", "signature_malformed", lambda data: bytes(32) + A.sign(data)[32:]),
        sig("sig-s-zero", "signature_malformed", lambda data: A.sign(data)[:32] + bytes(32)),
        sig("sig-r-n-s-n", "signature_malformed", lambda _: order + order),
        sig("sig-s-plus-n", "signature_invalid", s_plus_n, "cut to 32 octets"),
        sig("sig-der", "signature_malformed", A.der, "ASN.1 instead of R || S"),
        sig("sig-short-63", "signature_malformed", lambda data: A.sign(data)[:-1]),
        sig("sig-long-65", "signature_malformed", lambda data: A.sign(data) + b"\0"),
        sig("sig-left-padded-66", "signature_malformed", padded),
        sig("sig-swapped-s-r", "signature_invalid", lambda data: A.sign(data)[32:] + A.sign(data)[:32]),
        sig("sig-little-endian", "signature_invalid", lambda data: A.sign(data)[31::-1] + A.sign(data)[:31:-1]),
        sig("sig-flipped-bit", "signature_invalid", flipped),
        sig("sig-sha512-digest", "signature_invalid", sha512.sign, "right key, wrong hash"),
        bad("payload-swapped", "signature_invalid", headers=[["DPoP", swapped]]),
    ]
