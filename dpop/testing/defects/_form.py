# SPDX-License-Identifier: Apache-2.0
"""Defects of the header field and its JWS, and proofs that are unusual but correct."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from functools import partial
from typing import Any

from dpop.errors import UsageError
from dpop.server._reasons import Reason
from dpop.testing.defects._draft import Draft, Fields, WritableDefect, Write, refused
from dpop.testing.defects._forge import ALPHABET, P256_ORDER, b64u, to_json

__all__ = ["ACCEPTED", "FORM"]


def _accepted(name: str, write: Write, note: str = "", *, also: str = "", where: str = "") -> WritableDefect:
    return WritableDefect(name, "accept", "ok", None, note, tuple(also.split()), where, write)


# --- unusual, yet right


def _high_s(draft: Draft) -> str:
    """Sign with the larger of the two valid values of s."""
    key = draft.key
    if key.alg != "ES256":
        raise UsageError("only an ECDSA signature has a high s; take an ES256 key")

    def pen(data: bytes) -> bytes:
        signature = key.sign(data)
        s = int.from_bytes(signature[32:], "big")
        return signature[:32] + max(s, P256_ORDER - s).to_bytes(32, "big")

    return draft.proof(pen=pen)


def _more_in_jwk(draft: Draft) -> str:
    more = {"kid": "1", "use": "sig", "key_ops": ["verify"], "alg": draft.key.alg, "ext": True}
    return draft.proof(header=draft.header(jwk=draft.jwk | more))


def _empty_in_jwk(draft: Draft) -> str:
    lists: dict[str, list[str]] = {"key_ops": [], "x5c": [], "oth": []}
    texts = dict.fromkeys(("use", "alg", "kid", "d", "p", "q", "dp", "dq", "qi", "k", "x5t", "x5u"))
    return draft.proof(header=draft.header(jwk={**lists, **texts, **draft.jwk}))


def _loud_url(draft: Draft) -> str:
    """Write the first label of the host in upper case, and a default port."""
    first, dot, rest = draft.host.partition(".")
    port = draft.port or {"https": ":443", "http": ":80"}[draft.scheme]
    return draft.proof(
        claims=draft.claims(htu=f"{draft.scheme.upper()}://{first.upper()}{dot}{rest}{port}{draft.path}")
    )


def _claims(**changes: Callable[[Draft], Any]) -> Write:
    """Make a proof with these claims, each computed from the draft."""
    return lambda draft: draft.proof(claims=draft.claims(**{name: of(draft) for name, of in changes.items()}))


ACCEPTED = [
    _accepted("ok-high-s", _high_s, "two of the three proofs in RFC 9449 have a high s"),
    _accepted(
        "ok-extra-members",
        lambda draft: draft.proof(
            header=draft.header(kid="1", x=[1]),
            claims=draft.claims(extra={"a": [1, 2]}, iss="client"),
        ),
        "RFC 9449 4.2 allows other members",
    ),
    _accepted("ok-jwk-extra", _more_in_jwk, "they do not change the thumbprint"),
    _accepted("ok-jwk-empty-members", _empty_in_jwk, "null and empty are absent; some libraries write them all"),
    _accepted(
        "ok-json-whitespace-order",
        lambda draft: draft.proof(header=json.dumps(dict(reversed(draft.header().items())), indent=2).encode()),
        "what is signed is the text, so never write JSON anew before verifying",
    ),
    _accepted(
        "ok-json-unicode-escape",
        lambda draft: draft.proof(header=to_json(draft.header()).replace(b"dpop+jwt", b"dpop\\u002bjwt")),
        "the same string",
    ),
    _accepted(
        "ok-htu-query-fragment",
        _claims(htu=lambda draft: draft.htu + "?a=b#c"),
        "RFC 9449 4.3(9) ignores both",
        also="invalid_dpop_proof",
    ),
    _accepted("ok-htu-case-port", _loud_url, "RFC 3986 normalisation", also="invalid_dpop_proof"),
    _accepted("ok-iat-future-10", _claims(iat=lambda draft: draft.iat + 10), "FAPI 2.0: up to 10 s ahead is accepted"),
    _accepted(
        "ok-iat-fraction", _claims(iat=lambda draft: draft.iat - 0.5), "a NumericDate", also="invalid_dpop_proof"
    ),
    _accepted("ok-header-name-case", lambda draft: [("dPoP", draft.proof())]),
    _accepted("ok-ows", lambda draft: f" \t{draft.proof()} \t", "not part of the value"),
    _accepted("ok-exp-future", _claims(nbf=lambda draft: draft.iat, exp=lambda draft: draft.iat + 60)),
    _accepted("ok-iat-age-60", _claims(iat=lambda draft: draft.iat - 60), "max_age", where="a max_age of 60 s"),
]


# --- the header field


def _two_different(draft: Draft) -> Fields:
    other = draft.proof(claims=draft.claims(jti=f"{draft.jti}-2"))
    return [("DPoP", draft.proof()), ("dpop", other)]


def _twice(draft: Draft) -> Fields:
    return [("DPoP", draft.proof())] * 2


def _joined(draft: Draft) -> str:
    proof = draft.proof()
    return f"{proof},{proof}"


def _json_serialisation(draft: Draft) -> str:
    protected, payload, signature = draft.proof().split(".")
    return json.dumps({"protected": protected, "payload": payload, "signature": signature})


def _edited(edit: Callable[[str], str]) -> Write:
    """Make the correct proof, then edit it."""
    return lambda draft: edit(draft.proof())


def _with_inside(text: str) -> Write:
    return _edited(lambda proof: f"{proof[:50]}{text}{proof[50:]}")


_transport = partial(refused, "transport")

_TRANSPORT = [
    _transport(
        "no-header", lambda _: [], Reason.PROOF_MISSING, also="invalid_request invalid_dpop_proof", verdict="missing"
    ),
    _transport("two-headers-same", _twice, Reason.PROOF_REPEATED, "RFC 9449 4.3(1)", "invalid_request"),
    _transport("two-headers-different", _two_different, Reason.PROOF_REPEATED, also="invalid_request"),
    _transport("comma-joined", _joined, note="what a proxy or WSGI makes of two fields", also="invalid_request"),
    _transport("comma-trailing", _edited(lambda proof: f"{proof},")),
    _transport("empty", lambda _: "", note="present but empty is not absent", also="invalid_request"),
    _transport("scheme-prefix", _edited(lambda proof: f"DPoP {proof}")),
    _transport("quoted", _edited(lambda proof: f'"{proof}"')),
    _transport("inner-space", _with_inside(" ")),
    _transport("newline-in-segment", _with_inside("\n"), note="many decoders skip it"),
    _transport("percent-encoded", _edited(lambda proof: proof.replace(".", "%2E"))),
    _transport("token68-padding", _edited(lambda proof: proof + "==")),
    _transport("non-ascii-octet", _with_inside("\u00e9")),
    _transport("nul-octet", _with_inside("\0")),
    _transport(
        "one-megabyte", lambda _: "A" * 1_048_576, Reason.PROOF_TOO_LONG, "to be refused before it is decoded", "431"
    ),
    _transport("proof-as-json-serialisation", _json_serialisation),
]


# --- the structure


def _parts(edit: Callable[[str, str, str], str]) -> Write:
    """Put the three parts of the correct proof together differently."""
    return lambda draft: edit(*draft.proof().split("."))


def _signed(draft: Draft, data: str) -> str:
    return f"{data}.{b64u(draft.key.sign(data.encode()))}"


def _trailing_bits(draft: Draft) -> str:
    proof = draft.es256.proof()
    return proof[:-1] + ALPHABET[ALPHABET.index(proof[-1]) + 1]


def _padded_header(draft: Draft) -> str:
    headers = (to_json(draft.header(kid="x" * n)) for n in range(3))
    padded = base64.urlsafe_b64encode(next(header for header in headers if len(header) % 3)).decode()
    return _signed(draft, f"{padded}.{b64u(to_json(draft.claims()))}")


def _standard_alphabet(draft: Draft) -> str:
    headers = (base64.b64encode(to_json(draft.header(kid="x" * n + "???>>>~~~"))).decode() for n in range(3))
    standard = next(header for header in headers if "/" in header)
    return _signed(draft, f"{standard}.{b64u(to_json(draft.claims()))}")


def _header(edit: Callable[[Draft, bytes], Any]) -> Write:
    """Edit the header's text, then sign."""
    return lambda draft: draft.proof(header=edit(draft, to_json(draft.header())))


def _payload(edit: Callable[[bytes], Any]) -> Write:
    """Edit the claims' text, then sign."""
    return lambda draft: draft.proof(claims=edit(to_json(draft.claims())))


def _header_with(**changes: Any) -> Write:
    return lambda draft: draft.proof(header=draft.header(**changes))


def _repeated_kty(draft: Draft, header: bytes) -> bytes:
    member = b'"kty":%s' % to_json(draft.jwk["kty"])
    return header.replace(member, member + b"," + member)


def _100k_deep(draft: Draft) -> str:
    header, _, signature = draft.proof().split(".")
    claims = to_json(draft.claims())[:-1]
    claims += b"," * (-len(claims) % 3)  # so that [[[ is W1tb
    return f"{header}.{b64u(claims)}{'W1tb' * 33_334}.{signature}"


_structure = partial(refused, "structure")

_STRUCTURE = [
    _structure("two-segments", _parts(lambda header, claims, _: f"{header}.{claims}")),
    _structure("two-segments-dot", _parts(lambda header, claims, _: f"{header}.{claims}."), note="an empty signature"),
    _structure("four-segments", _parts(lambda *parts: ".".join([*parts, parts[2]]))),
    _structure("five-segments-jwe", _parts(lambda *parts: ".".join([*parts, *parts[1:]]))),
    _structure(
        "empty-payload",
        lambda draft: f"{(first := b64u(to_json(draft.header())))}..{b64u(draft.key.sign(f'{first}.'.encode()))}",
    ),
    _structure("detached-b64", _header_with(b64=False, crit=["b64"]), Reason.CRIT_REFUSED, "RFC 7797"),
    _structure("crit-unknown", _header_with(crit=["x"], x=1), Reason.CRIT_REFUSED, "RFC 7515 4.1.11"),
    _structure("crit-empty", _header_with(crit=[]), Reason.CRIT_REFUSED),
    _structure("b64-without-crit", _header_with(b64=False), Reason.CRIT_REFUSED),
    _structure("padding-in-header", _padded_header),
    _structure("std-base64-alphabet", _standard_alphabet),
    _structure(
        "signature-trailing-bits",
        _trailing_bits,
        Reason.SIGNATURE_MALFORMED,
        "86 characters carry 516 bits; four are unused",
    ),
    _structure("header-not-json", _header(lambda *_: b"dpop+jwt"), Reason.HEADER_MALFORMED),
    _structure("header-array", _header(lambda *_: ["dpop+jwt"]), Reason.HEADER_MALFORMED),
    _structure("header-null", _header(lambda *_: b"null"), Reason.HEADER_MALFORMED),
    _structure("payload-array", lambda draft: draft.proof(claims=[draft.claims()]), Reason.PAYLOAD_MALFORMED),
    _structure("payload-string", _payload(lambda _: b'"jti"'), Reason.PAYLOAD_MALFORMED),
    _structure("header-bom", _header(lambda _, text: b"\xef\xbb\xbf" + text), Reason.HEADER_MALFORMED),
    _structure(
        "header-utf16",
        _header(lambda _, text: text.decode().encode("utf-16")),
        Reason.HEADER_MALFORMED,
        "some parsers guess UTF-16 and UTF-32",
    ),
    _structure("payload-bad-utf8", _payload(lambda text: text[:-1] + b',"x":"\xff"}'), Reason.PAYLOAD_MALFORMED),
    _structure(
        "payload-lone-surrogate",
        _payload(lambda text: text[:-1] + b',"x":"\\ud800"}'),
        Reason.PAYLOAD_MALFORMED,
        "no UTF-8 text can hold it",
    ),
    _structure("dup-alg", _header(lambda _, text: b'{"alg":"none",' + text[1:]), Reason.HEADER_MALFORMED, "RFC 7515 4"),
    _structure(
        "dup-jwk",
        _header(lambda draft, text: text[:-1] + b',"jwk":' + to_json(draft.jwk) + b"}"),
        Reason.HEADER_MALFORMED,
    ),
    _structure(
        "dup-htu",
        _payload(lambda text: b'{"htu":"https://evil.example/",' + text[1:]),
        Reason.PAYLOAD_MALFORMED,
        "parsers differ in which one counts",
    ),
    _structure(
        "dup-jti",
        _payload(lambda text: text[:-1] + b',"jti":"other"}'),
        Reason.PAYLOAD_MALFORMED,
        "two identities in one proof",
    ),
    _structure("dup-in-jwk", _header(_repeated_kty), Reason.HEADER_MALFORMED),
    _structure(
        "deep-nesting",
        _payload(lambda text: text[:-1] + b',"x":' + b"[" * 1500 + b"]" * 1500 + b"}"),
        Reason.PAYLOAD_MALFORMED,
        "recursion must not end in a server error",
    ),
    _structure(
        "huge-int-5000-digits",
        # With an RSA key it would be too long.
        lambda draft: draft.es256.proof(claims=to_json(draft.claims())[:-1] + b',"x":' + b"9" * 5000 + b"}"),
        Reason.PAYLOAD_MALFORMED,
        "CPython refuses such numbers in its own way",
    ),
    _structure("deep-nesting-100k", _100k_deep, Reason.PROOF_TOO_LONG, "length comes before decoding"),
    _structure("trailing-garbage", _payload(lambda text: text + b"}"), Reason.PAYLOAD_MALFORMED),
]

FORM = [*_TRANSPORT, *_STRUCTURE]
