# SPDX-License-Identifier: Apache-2.0
"""The three hashes of DPoP: thumbprints, the ath claim, and the jti of a code exchange at Google."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from dpop.testing.defects._forge import ED, P384, RSA_2048, A, b64u, sha256, thumbprint, to_json

__all__ = ["ath", "code_jti", "thumbprints"]

Case = dict[str, Any]

REQUIRED = {"EC": ("crv", "kty", "x", "y"), "RSA": ("e", "kty", "n"), "OKP": ("crv", "kty", "x")}

RFC_9449 = {
    "kty": "EC",
    "x": "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs",
    "y": "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA",
    "crv": "P-256",
}
RFC_7638 = {
    "kty": "RSA",
    "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3"
    "oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu"
    "6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awa"
    "pJzKnqDKgw",
    "e": "AQAB",
    "alg": "RS256",
    "kid": "2011-04-29",
}
RFC_8037 = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}


def _thumbprint(name: str, jwk: dict[str, Any], note: str = "", published: str = "") -> Case:
    hashed = to_json({member: jwk[member] for member in REQUIRED[jwk["kty"]]})
    made = thumbprint(jwk)
    if published not in {"", made}:
        raise ValueError(f"{name}: the source has another thumbprint")
    case: Case = {"id": name} | ({"note": note} if note else {})
    return case | {"jwk": jwk, "hashed": hashed.decode(), "thumbprint": made}


def _no_thumbprint(name: str, jwk: dict[str, Any], refused: str) -> Case:
    return {"id": name, "jwk": jwk, "refused": refused}


def thumbprints() -> dict[str, Any]:
    """The file thumbprints.json."""
    x, y = A.public_jwk["x"], A.public_jwk["y"]
    optional = {"kid": "1", "use": "sig", "alg": "ES256", "key_ops": ["verify"], "x5c": [], "ext": True}
    # The last of 43 characters has two bits that belong to no octet.
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other_bits = x[:-1] + alphabet[alphabet.index(x[-1]) + 1]
    return {
        "about": [
            "JWK thumbprints with SHA-256 (RFC 7638): jkt and dpop_jkt (RFC 9449 6.1, 10).",
            "hashed: the octets of the hash, the required members alone, in the order of their names.",
            "refused: no thumbprint is made, for the key would have another spelling, or is none.",
            "That rule is DPoP's need, not RFC 7638's: one key with two thumbprints is two keys to a server.",
        ],
        "cases": [
            _thumbprint("rfc9449-6.1", RFC_9449, "Figures 8 to 11", "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"),
            _thumbprint(
                "rfc7638-3.1", RFC_7638, "alg and kid do not count", "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
            ),
            _thumbprint("rfc8037-A.3", RFC_8037, "", "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"),
            _thumbprint("p256", A.public_jwk, "key A of keys.json"),
            _thumbprint("p384", P384.public_jwk, "SHA-256 for each curve"),
            _thumbprint("ed25519", ED.public_jwk),
            _thumbprint("rsa", RSA_2048.public_jwk),
            _thumbprint("order-of-members", {"y": y, "x": x, "kty": "EC", "crv": "P-256"}, "that of p256"),
            _thumbprint("optional-members", A.public_jwk | optional, "that of p256"),
            _thumbprint("private-key", A.public_jwk | {"d": A.d}, "that of p256, its public half"),
            _no_thumbprint("x-padded", A.public_jwk | {"x": x + "="}, "base64url"),
            _no_thumbprint("x-standard-base64", A.public_jwk | {"x": "+" + x[1:]}, "base64url"),
            _no_thumbprint("x-other-unused-bits", A.public_jwk | {"x": other_bits}, "base64url"),
            _no_thumbprint("x-short", A.public_jwk | {"x": x[:-2]}, "length"),
            _no_thumbprint("x-with-leading-zero-octet", A.public_jwk | {"x": "AA" + x}, "length"),
            _no_thumbprint("y-missing", {name: A.public_jwk[name] for name in ("kty", "crv", "x")}, "missing"),
            _no_thumbprint("not-on-the-curve", A.public_jwk | {"y": x}, "point"),
            _no_thumbprint(
                "n-with-leading-zero-octet", RSA_2048.public_jwk | {"n": "AA" + RSA_2048.public_jwk["n"]}, "number"
            ),
            _no_thumbprint("e-with-leading-zero-octet", RSA_2048.public_jwk | {"e": "AAEAAQ"}, "number"),
            _no_thumbprint("symmetric", {"kty": "oct", "k": "AAAAAAAAAAAAAAAAAAAAAA"}, "kty"),
            _no_thumbprint("kty-unknown", {"kty": "ec", "crv": "P-256", "x": x, "y": y}, "kty"),
            _no_thumbprint("kty-missing", {"crv": "P-256", "x": x, "y": y}, "kty"),
            _no_thumbprint("jwk-set", {"keys": [A.public_jwk]}, "kty"),
        ],
    }


def _hash(name: str, text: str, note: str, names: tuple[str, str], published: str = "") -> Case:
    made = b64u(sha256(text.encode("ascii")))
    if published not in {"", made}:
        raise ValueError(f"{name}: the source has another hash")
    case: Case = {"id": name} | ({"note": note} if note else {})
    return case | {names[0]: text, names[1]: made}


def ath() -> dict[str, Any]:
    """The file ath.json."""
    names = ("access_token", "ath")
    jwt = "eyJ0eXAiOiJhdCtqd3QiLCJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJodHRwczovL2FzLmV4YW1wbGUuY29tIn0.AAAA"
    bad = {
        "empty": "",
        "space": "one two",
        "comma": "one,two",
        "line-break": "token\r\nX-Other: 1",
        "line-break-at-the-end": "token\n",
        "padding-inside": "to=ken",
        "padding-alone": "=",
        "not-ascii": "t\u00f6ken",
        "scheme-in-front": "DPoP token",
    }
    return {
        "about": [
            "The ath claim: BASE64URL(SHA-256(ASCII(access token))) (RFC 9449 4.2).",
            "refused: not token68 (RFC 9110 11.2), so no Authorization field can carry it, and there is no ath.",
        ],
        "cases": [
            _hash(
                "rfc9449-figure-13",
                "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU",
                "RFC 9449 Figures 6, 13 and 14",
                names,
                "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo",
            ),
            _hash("of-proofs", "vector.access~token-0123456789", "the token of proofs.json", names),
            _hash("jwt", jwt, "the whole token, not its payload", names),
            _hash("one-character", "x", "", names),
            _hash("padding", "YWJj+/==", "hashed as it is sent, padding included", names),
            _hash("every-character", "AZaz09-._~+/", "", names),
            _hash("long", "a" * 4096, "", names),
            *({"id": name, "access_token": text, "refused": "token68"} for name, text in bad.items()),
        ],
    }


def code_jti() -> dict[str, Any]:
    """The file code_jti.json."""
    names = ("code", "jti")
    made = [
        _hash(
            "google-guide",
            "4/P7q7W91a-oMsCeLvIaQm6bTrgtp7",
            "the code of Google's guide for web servers",
            names,
            "3xbsgA0UB_TL-2wQicAwURmxtBIKPGNmnUFBhZtC0tc",
        ),
        _hash("url-safe", "SplxlOBeZQQYbYS6WxSbIA", "the code of RFC 6749 4.1", names),
        _hash("percent-sign", "4%2F0Ab", "a code that has a percent sign itself", names),
        _hash("plus-and-equals", "a+b/c==", "", names),
        _hash("space", "a b", "in a form it is written a+b", names),
        _hash("every-printable", "".join(map(chr, range(0x20, 0x7F))), "RFC 6749 A.11", names),
        _hash("longest-at-google", "4/0" + "x" * 253, "256 octets", names),
    ]
    bad = {"empty": "", "line-break": "4/0A\n", "not-ascii": "4/\u00e9", "tab": "4/0\tA", "delete": "4/\x7f"}
    return {
        "about": [
            "The jti that Google's token endpoint asks for at a code exchange: BASE64URL(SHA-256(code)).",
            "code: as the redirect's query has it once decoded; that is what is hashed.",
            "form: how a form body writes it. not: the hash of that, a common mistake.",
            "refused: no authorization code (RFC 6749 A.11).",
        ],
        "cases": [
            *map(_with_form, made),
            *({"id": name, "code": text, "refused": "vschar"} for name, text in bad.items()),
        ],
    }


def _with_form(case: Case) -> Case:
    form = quote(case["code"], safe="-._~")
    mistaken = {} if form == case["code"] else {"not": b64u(sha256(form.encode()))}
    return case | {"form": form} | mistaken
