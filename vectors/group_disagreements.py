# SPDX-License-Identifier: Apache-2.0
"""Where other software that these vectors are run through answers otherwise, and why."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["disagreements"]

SOFTWARE = {
    "jose": {
        "version": "6.2.18",
        "applied_to": (
            "proofs.json, keys.json, thumbprints.json: npm jose verifies the JWT, with the checks of a DPoP server"
            " around it as its users would write them, htu compared by URL"
        ),
    },
    "oauth4webapi": {
        "version": "3.8.8",
        "applied_to": "challenges.json: whether npm oauth4webapi takes the answer for one that asks for a nonce",
    },
    "cryptography": {
        "version": "45.0.1 and newer",
        "applied_to": "signatures.json, the member der: decode_dss_signature of Python's cryptography",
    },
    "URL": {
        "version": "WHATWG URL Standard",
        "applied_to": (
            "htu_inputs.json (the member client), htu_pairs.json: the URL class of browsers and of Node.js, without"
            " search and hash, compared by href"
        ),
    },
}


def _of_each_curve(*names: str) -> list[str]:
    return [f"{curve}-{name}" for curve in ("p256", "p384", "p521") for name in names]


class Row(NamedTuple):
    """Cases of one file to which one software gives the same other answer, for the same reason."""

    file: str
    software: str
    response: str
    why: str
    ids: list[str]
    newer: str | None = None


ROWS = [
    Row(
        "proofs.json",
        "jose",
        "ok",
        why="The platform's base64url decoder passes over padding and unused bits. RFC 7515 section 2 has one"
        " spelling only; who wants to hold to it matches the text before decoding it.",
        ids=["padding-in-header", "signature-trailing-bits", "token68-padding"],
    ),
    Row(
        "proofs.json",
        "jose",
        "ok",
        why="JSON.parse takes the last of two members of a name, as RFC 7515 section 4 allows. The other choice"
        " it allows, to refuse, is ours: two readers of one proof then cannot read two things.",
        ids=["dup-alg", "dup-htu", "dup-in-jwk", "dup-jti", "dup-jwk"],
    ),
    Row(
        "proofs.json",
        "jose",
        "ok",
        why="TextDecoder drops a byte order mark, and JSON.parse lets half of a surrogate pair stand. Neither is"
        " UTF-8 JSON as RFC 8259 section 8 has it.",
        ids=["header-bom", "payload-lone-surrogate"],
    ),
    Row(
        "proofs.json",
        "jose",
        "ok",
        why="Depth and length of numbers are limits of this project, for a server's sake; RFC 8259 section 9 lets"
        " each parser have its own.",
        ids=["deep-nesting", "huge-int-5000-digits"],
    ),
    Row(
        "proofs.json",
        "jose",
        "ok",
        why="b64 counts only where crit names it (RFC 7797 section 6). No proof uses it, so we refuse it at once.",
        ids=["b64-without-crit"],
    ),
    Row(
        "proofs.json",
        "jose",
        "ok",
        why="typ is compared as a media type: without case, and with or without application/ in front (RFC 7515"
        " section 4.1.9). RFC 9449 section 4.2 names one value, and we take it at its word.",
        ids=["typ-application-prefix", "typ-wrong-case"],
    ),
    Row(
        "proofs.json",
        "jose",
        "invalid_token",
        why="The platform imports these spellings of a key, and the signature verifies. The thumbprint, which is"
        " of the text, is another one, so the token is not bound to it. We refuse the spelling before any key"
        " is bound to it.",
        ids=["jwk-rsa-n-leading-zero", "jwk-x-leading-zero", "jwk-x-padded", "jwk-x-short", "jwk-x-trailing-bits"],
    ),
    Row(
        "proofs.json",
        "jose",
        "invalid_dpop_proof",
        why="The platform takes a key with a member d for a private one, also where its value is null, as some"
        " libraries write it, and then refuses to verify with it.",
        ids=["ok-jwk-empty-members"],
    ),
    Row(
        "proofs.json",
        "jose",
        "invalid_token",
        why="Which keys are fit to sign with is left to the application (RFC 8725 section 3.4), and these are the"
        " tests an application that takes keys from strangers needs.",
        ids=["jwk-rsa-e-huge", "jwk-rsa-e1"],
    ),
    Row(
        "proofs.json",
        "jose",
        "invalid_token",
        why="The same, for a key of small order, which fits any signature; newer platforms refuse it.",
        ids=["jwk-ed25519-identity"],
        newer="invalid_dpop_proof",
    ),
    Row(
        "proofs.json",
        "jose",
        "ok",
        why="The URL class turns a backslash into a slash and drops tabs, and spaces at both ends. Compared by"
        " it, these claims name the URL of the request.",
        ids=["htu-backslash", "htu-space", "htu-tab-inside"],
    ),
    Row(
        "thumbprints.json",
        "jose",
        "a thumbprint",
        why="RFC 7638 hashes the members as they stand, whatever they are, and of a symmetric key too. That one"
        " key has one spelling is a rule for whoever accepts the key.",
        ids=[
            "e-with-leading-zero-octet",
            "n-with-leading-zero-octet",
            "not-on-the-curve",
            "symmetric",
            "x-other-unused-bits",
            "x-padded",
            "x-short",
            "x-standard-base64",
            "x-with-leading-zero-octet",
        ],
    ),
    Row(
        "htu_pairs.json",
        "URL",
        "not equal",
        why="The URL class leaves percent-escapes as they are written, where RFC 3986 sections 6.2.2.1 and"
        " 6.2.2.2 make them alike. A client is safe from this if it signs what it sends.",
        ids=["escape-case", "escape-in-request", "escape-of-letter", "escape-of-unreserved", "not-ascii-escape-case"],
    ),
    Row(
        "htu_pairs.json",
        "URL",
        "equal",
        why="The URL class repairs what it is given: a backslash is a slash, tabs and outer spaces go, 127.1 is"
        " an IPv4 address. RFC 3986 has none of this, and a claim that needs repair is refused.",
        ids=["not-backslash", "not-ipv4-short", "not-leading-space", "not-tab"],
    ),
    Row(
        "htu_inputs.json",
        "URL",
        "https://user:pw@server.example.com/token",
        why="href keeps user and password; a proof must not carry them. fetch refuses such a URL.",
        ids=["userinfo"],
    ),
    Row(
        "htu_inputs.json",
        "URL",
        "https://server.example.com/b",
        why="The URL class reads %2e as a dot and resolves it, and fetch sends the result, which can be signed."
        " Other libraries send it as it stands, so for the URL alone there is no answer.",
        ids=["dot-dot-encoded"],
    ),
    Row(
        "htu_inputs.json",
        "URL",
        "https://server.example.com/a%20b",
        why="fetch sends it so, and a client that uses fetch may sign that.",
        ids=["space"],
    ),
    Row(
        "htu_inputs.json",
        "URL",
        "https://server.example.com/a%22b%3Cc%3E[d]%7Be%7D|f^g%60h",
        why="fetch sends it so. What it leaves as it is, [ ] | and ^, a server that reads URLs by RFC 3986 may refuse.",
        ids=["characters-no-url-has"],
        newer="https://server.example.com/a%22b%3Cc%3E[d]%7Be%7D|f%5Eg%60h",
    ),
    Row(
        "htu_inputs.json",
        "URL",
        "https://server.example.com/a/b",
        why="A backslash is a slash to the URL class and to nobody else.",
        ids=["backslash"],
    ),
    Row(
        "htu_inputs.json",
        "URL",
        "https://server.example.com/100%/x",
        why="fetch sends it so; a server that reads URLs by RFC 3986 refuses it.",
        ids=["percent-alone"],
    ),
    Row(
        "challenges.json",
        "oauth4webapi",
        "retry",
        why="One field lacks a comma, two fields contradict each other; both are read, and the first error counts. RFC"
        " 9110 section 11.6.1 wants the comma, and each parameter once. We take nothing from what breaks that rule: the"
        " answer then is the server's refusal, and the nonce beside it is kept for the next request.",
        ids=["missing-comma", "two-dpop-challenges-conflict"],
    ),
    Row(
        "signatures.json",
        "cryptography",
        "read",
        why="decode_dss_signature gives two numbers and knows no curve: whether r and s are in range, and of which"
        " size, is for whoever knows the curve.",
        ids=[
            *_of_each_curve("r-order", "r-zero", "s-all-ones", "s-order", "s-zero"),
            "p384-signature-for-p256",
        ],
    ),
]


def disagreements() -> dict[str, Any]:
    """The file disagreements.json."""
    return {
        "about": [
            "Where other software answers otherwise than these vectors say, and why.",
            "None of it is wrong about what it promises: a JOSE or URL library does not promise DPoP.",
            "The project's tests run the vectors through it; what is not listed here agrees.",
            "answer: what it says to these cases, in the words of the file; on Node.js 20, where it needs Node.js.",
            "newer: what it says on Node.js 24, if that is another answer.",
        ],
        "software": SOFTWARE,
        "cases": [
            {"file": row.file, "software": row.software, "ids": row.ids, "answer": row.response}
            | ({} if row.newer is None else {"newer": row.newer})
            | {"why": row.why}
            for row in ROWS
        ],
    }
