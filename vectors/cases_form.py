# SPDX-License-Identifier: Apache-2.0
"""Cases: proofs to accept, header fields, and the structure of a JWS."""

from __future__ import annotations

import base64
import json

from case import ATH, NOW, RESOURCE, Case, bad, body, case, head, plus
from forge import ED, P256_ORDER, RSA_2048, A, b64u, make, to_json


def high_s(data: bytes) -> bytes:
    """Key A's signature with the larger of its two possible s."""
    r, s = A.pair(data)
    return r.to_bytes(32, "big") + max(s, P256_ORDER - s).to_bytes(32, "big")


def proof(case_id: str) -> str:
    """An honest proof for the resource."""
    return make(head(), body(case_id), A.sign)


def field(case_id: str, value: str, reason: str = "not_compact", note: str = "", **given: object) -> Case:
    """A case whose DPoP field has this value."""
    return bad(case_id, reason, note, headers=[["DPoP", value]], **given)


def accept() -> list[Case]:
    """Proofs that a server accepts."""
    spaced = json.dumps(dict(reversed(head().items())), indent=2).encode()
    escaped = to_json(head()).replace(b"dpop+jwt", b"dpop\\u002bjwt")
    more = A.jwk | {"kid": "1", "use": "sig", "key_ops": ["verify"], "alg": "ES256", "ext": True}
    known = [{"value": "nonce-known", "issued_at": NOW - 30, "expires_at": NOW + 60}]
    return [
        case("ok-rs"),
        case("ok-as", role="AS"),
        case("ok-high-s", note="two of the three proofs in RFC 9449 have a high s", pen=high_s),
        case("ok-ed25519", key=ED),
        case("ok-ed25519-fully-specified", note="the name of RFC 9864", key=ED, header=plus(alg="Ed25519")),
        case(
            "ok-extra-members",
            note="RFC 9449 4.2 allows other members",
            header=plus(kid="1", x=[1]),
            claims=plus(extra={"a": [1, 2]}, iss="client"),
        ),
        case("ok-jwk-extra", note="they do not change the thumbprint", header=plus(jwk=more)),
        case(
            "ok-json-whitespace-order",
            note="what is signed is the text, so never write JSON anew before verifying",
            header=spaced,
        ),
        case("ok-json-unicode-escape", note="the same string", header=escaped),
        case(
            "ok-htu-query-fragment",
            note="RFC 9449 4.3(9) ignores both",
            also="invalid_dpop_proof",
            claims=plus(htu=RESOURCE + "?a=b#c"),
        ),
        case("ok-request-query", url=RESOURCE + "?a=b"),
        case(
            "ok-htu-case-port",
            note="RFC 3986 normalisation",
            also="invalid_dpop_proof",
            claims=plus(htu="HTTPS://SERVER.example.com:443/items"),
        ),
        case("ok-iat-future-10", note="FAPI 2.0: up to 10 s ahead is accepted", claims=plus(iat=NOW + 10)),
        case("ok-iat-fraction", note="a NumericDate", also="invalid_dpop_proof", claims=plus(iat=NOW - 0.5)),
        case("ok-nonce-known", role="AS", claims=plus(nonce="nonce-known"), nonces=known),
        case(
            "ok-nonce-known-iat-off",
            note="a nonce that tells its time replaces iat",
            role="AS",
            also="invalid_dpop_proof",
            claims=plus(nonce="nonce-known", iat=NOW - 3600),
            nonces=known,
        ),
        case(
            "ok-nonce-not-asked",
            note="a server without nonces ignores the claim",
            also="invalid_dpop_proof",
            claims=plus(nonce="nonce-known"),
        ),
        case(
            "ok-nonce-empty-not-asked",
            note="clients exist that send one first",
            role="AS",
            also="invalid_dpop_proof",
            claims=plus(nonce=""),
        ),
        case("ok-header-name-case", headers=[["dPoP", proof("ok-header-name-case")]]),
        case("ok-ows", note="not part of the value", headers=[["DPoP", f" \t{proof('ok-ows')} \t"]]),
        case("ok-exp-future", claims=plus(nbf=NOW, exp=NOW + 60)),
        case(
            "ok-ath-at-as",
            note="the RFC is silent; some servers refuse it",
            role="AS",
            also="invalid_dpop_proof",
            claims=plus(ath=ATH),
        ),
        case("ok-iat-age-60", note="max_age", claims=plus(iat=NOW - 60)),
        case("ok-rs256", key=RSA_2048),
    ]


def transport() -> list[Case]:
    """The header field itself."""
    honest = proof("transport")
    first, second, third = honest.split(".")
    whole = json.dumps({"protected": first, "payload": second, "signature": third})
    return [
        case("no-header", "missing", "proof_missing", also="invalid_request invalid_dpop_proof", headers=[]),
        bad(
            "two-headers-same",
            "proof_repeated",
            "RFC 9449 4.3(1)",
            also="invalid_request",
            headers=[["DPoP", honest], ["DPoP", honest]],
        ),
        bad(
            "two-headers-different",
            "proof_repeated",
            also="invalid_request",
            headers=[["DPoP", honest], ["dpop", proof("transport-2")]],
        ),
        field(
            "comma-joined",
            f"{honest},{honest}",
            note="what a proxy or WSGI makes of two fields",
            also="invalid_request",
        ),
        field("comma-trailing", f"{honest},"),
        field("empty", "", note="present but empty is not absent", also="invalid_request"),
        field("scheme-prefix", f"DPoP {honest}"),
        field("quoted", f'"{honest}"'),
        field("inner-space", f"{honest[:50]} {honest[50:]}"),
        field("newline-in-segment", f"{honest[:50]}\n{honest[50:]}", note="many decoders skip it"),
        field("percent-encoded", honest.replace(".", "%2E")),
        field("token68-padding", honest + "=="),
        field("non-ascii-octet", honest[:50] + "\u00e9" + honest[50:]),
        field("nul-octet", honest[:50] + "\0" + honest[50:]),
        bad(
            "one-megabyte",
            "proof_too_long",
            "to be refused before it is decoded",
            also="431",
            headers=[["DPoP", [{"repeat": "A", "times": 1_048_576}]]],
        ),
        field("proof-as-json-serialisation", whole),
    ]


def structure() -> list[Case]:
    """Segments, base64url and JSON."""
    honest = proof("structure")
    first, second, third = honest.split(".")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    sloppy = honest[:-1] + alphabet[alphabet.index(honest[-1]) + 1]
    odd = next(head(kid="x" * n) for n in range(3) if len(to_json(head(kid="x" * n))) % 3)
    padded_header = base64.urlsafe_b64encode(to_json(odd)).decode()
    standard_header = base64.b64encode(to_json(head(kid="???>>>~~~"))).decode()
    assert padded_header.endswith("=")
    assert "/" in standard_header
    claims = to_json(body("structure"))
    jwk = to_json(A.jwk)
    no_payload = A.sign(f"{first}.".encode())

    def signed(data: str) -> str:
        return f"{data}.{b64u(A.sign(data.encode()))}"

    return [
        field("two-segments", f"{first}.{second}"),
        field("two-segments-dot", f"{first}.{second}.", note="an empty signature"),
        field("four-segments", f"{honest}.{third}"),
        field("five-segments-jwe", f"{honest}.{second}.{third}"),
        field("empty-payload", f"{first}..{b64u(no_payload)}"),
        bad("detached-b64", "crit_refused", "RFC 7797", header=plus(b64=False, crit=["b64"])),
        bad("crit-unknown", "crit_refused", "RFC 7515 4.1.11", header=plus(crit=["x"], x=1)),
        bad("crit-empty", "crit_refused", header=plus(crit=[])),
        bad("b64-without-crit", "crit_refused", header=plus(b64=False)),
        field("padding-in-header", signed(f"{padded_header}.{second}")),
        field("std-base64-alphabet", signed(f"{standard_header}.{second}")),
        field(
            "signature-trailing-bits",
            sloppy,
            "signature_malformed",
            "86 characters carry 516 bits; four are unused",
        ),
        bad("header-not-json", "header_malformed", header=b"dpop+jwt"),
        bad("header-array", "header_malformed", header=["dpop+jwt"]),
        bad("header-null", "header_malformed", header=b"null"),
        bad("payload-array", "payload_malformed", claims=[body("payload-array")]),
        bad("payload-string", "payload_malformed", claims=b'"jti"'),
        bad("header-bom", "header_malformed", header=b"\xef\xbb\xbf" + to_json(head())),
        bad(
            "header-utf16",
            "header_malformed",
            "some parsers guess UTF-16 and UTF-32",
            header=to_json(head()).decode().encode("utf-16"),
        ),
        bad("payload-bad-utf8", "payload_malformed", claims=claims[:-1] + b',"x":"\xff"}'),
        bad(
            "payload-lone-surrogate",
            "payload_malformed",
            "no UTF-8 text can hold it",
            claims=claims[:-1] + b',"x":"\\ud800"}',
        ),
        bad("dup-alg", "header_malformed", "RFC 7515 4", header=b'{"alg":"none",' + to_json(head())[1:]),
        bad("dup-jwk", "header_malformed", header=to_json(head())[:-1] + b',"jwk":' + jwk + b"}"),
        bad(
            "dup-htu",
            "payload_malformed",
            "parsers differ in which one counts",
            claims=b'{"htu":"https://evil.example/",' + claims[1:],
        ),
        bad(
            "dup-jti",
            "payload_malformed",
            "two identities in one proof",
            claims=claims[:-1] + b',"jti":"other"}',
        ),
        bad(
            "dup-in-jwk",
            "header_malformed",
            header=to_json(head()).replace(b'"kty":"EC"', b'"kty":"EC","kty":"EC"'),
        ),
        bad(
            "deep-nesting",
            "payload_malformed",
            "recursion must not end in a server error",
            claims=claims[:-1] + b',"x":' + b"[" * 1500 + b"]" * 1500 + b"}",
        ),
        bad(
            "huge-int-5000-digits",
            "payload_malformed",
            "CPython refuses such numbers in its own way",
            claims=claims[:-1] + b',"x":' + b"9" * 5000 + b"}",
        ),
        bad(
            "deep-nesting-100k",
            "proof_too_long",
            "length comes before decoding",
            headers=[
                [
                    "DPoP",
                    [
                        f"{first}.{b64u(claims[:-1] + b',' * ((1 - len(claims)) % 3))}",
                        {"repeat": "W1tb", "times": 33_334},
                        f".{third}",
                    ],
                ]
            ],
        ),
        bad("trailing-garbage", "payload_malformed", claims=claims + b"}"),
    ]
