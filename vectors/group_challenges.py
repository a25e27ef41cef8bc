# SPDX-License-Identifier: Apache-2.0
"""WWW-Authenticate fields, and what a DPoP client makes of them."""

from __future__ import annotations

from typing import Any

__all__ = ["challenges"]

Parameters = dict[str, str | None] | None

# Name, fields, parameters of the DPoP challenge, and a note on some.
ROWS: list[tuple[str, list[str], Parameters, str]] = [
    ("fig15", ['DPoP algs="ES256 PS256"'], {"algs": "ES256 PS256"}, "RFC 9449 Figure 15"),
    (
        "fig16",
        ['DPoP error="invalid_token", error_description="Invalid DPoP key binding", algs="ES256"'],
        {"error": "invalid_token", "error_description": "Invalid DPoP key binding", "algs": "ES256"},
        "RFC 9449 Figure 16",
    ),
    ("fig17", ['Bearer, DPoP algs="ES256 PS256"'], {"algs": "ES256 PS256"}, "RFC 9449 Figure 17"),
    (
        "fig18",
        ['Bearer error="invalid_token", error_description="Invalid token", DPoP algs="ES256 PS256"'],
        {"algs": "ES256 PS256"},
        "RFC 9449 Figure 18",
    ),
    (
        "fig19",
        [
            (
                'Bearer error="invalid_request", error_description="Multiple methods used to include access token",'
                ' DPoP algs="ES256 PS256", error="invalid_request",'
                ' error_description="Multiple methods used to include access token"'
            )
        ],
        {
            "algs": "ES256 PS256",
            "error": "invalid_request",
            "error_description": "Multiple methods used to include access token",
        },
        "RFC 9449 Figure 19",
    ),
    (
        "fig24",
        ['DPoP error="use_dpop_nonce", error_description="Resource server requires nonce in DPoP proof"'],
        {"error": "use_dpop_nonce", "error_description": "Resource server requires nonce in DPoP proof"},
        "RFC 9449 Figure 24",
    ),
    ("two-lines", ['Bearer realm="x"', 'DPoP error="use_dpop_nonce"'], {"error": "use_dpop_nonce"}, ""),
    ("scheme-lower", ['dpop error="use_dpop_nonce"'], {"error": "use_dpop_nonce"}, ""),
    ("scheme-upper", ['DPOP error="use_dpop_nonce"'], {"error": "use_dpop_nonce"}, ""),
    ("param-upper", ['DPoP ERROR="use_dpop_nonce"'], {"error": "use_dpop_nonce"}, ""),
    (
        "value-case-kept",
        ['DPoP error="USE_DPOP_NONCE"'],
        {"error": "USE_DPOP_NONCE"},
        "values are case-sensitive, names are not",
    ),
    ("unquoted", ["DPoP error=use_dpop_nonce, algs=ES256"], {"error": "use_dpop_nonce", "algs": "ES256"}, ""),
    (
        "error-not-first",
        ['DPoP algs="ES256", error="use_dpop_nonce"'],
        {"algs": "ES256", "error": "use_dpop_nonce"},
        "",
    ),
    (
        "no-space-after-comma",
        ['DPoP error="use_dpop_nonce",algs="ES256"'],
        {"error": "use_dpop_nonce", "algs": "ES256"},
        "",
    ),
    (
        "bws",
        ['DPoP error = "use_dpop_nonce" , algs = "ES256"'],
        {"error": "use_dpop_nonce", "algs": "ES256"},
        "bad white space, which a recipient must accept",
    ),
    (
        "tabs-and-empties",
        [',, DPoP  error="use_dpop_nonce",, ,\talgs="ES256" ,'],
        {"error": "use_dpop_nonce", "algs": "ES256"},
        "",
    ),
    (
        "escaped-quote",
        ['DPoP error="invalid_token", error_description="a \\"quoted\\" \\\\ text"'],
        {"error": "invalid_token", "error_description": 'a "quoted" \\ text'},
        "",
    ),
    (
        "comma-in-quotes",
        ['DPoP error_description="a, b, c=d", error="use_dpop_nonce"'],
        {"error_description": "a, b, c=d", "error": "use_dpop_nonce"},
        "",
    ),
    ("injected-in-realm", ['Basic realm="x, DPoP error=\\"use_dpop_nonce\\""'], None, "what is quoted is text"),
    (
        "injected-in-description",
        ['Bearer error="invalid_token", error_description="DPoP error=use_dpop_nonce"'],
        None,
        "what is quoted is text",
    ),
    ("bearer-error-not-dpop", ['Bearer error="use_dpop_nonce"'], None, "an error belongs to its own scheme"),
    ("token68-first", ['Negotiate YIIBhg==, DPoP error="use_dpop_nonce"'], {"error": "use_dpop_nonce"}, ""),
    ("token68-after", ['DPoP error="use_dpop_nonce", NTLM TlRMTVNTUAAB'], {"error": "use_dpop_nonce"}, ""),
    ("bare-dpop", ["DPoP"], {}, ""),
    ("bare-dpop-then-bearer", ['DPoP, Bearer realm="a"'], {}, ""),
    (
        "basic-bearer-dpop",
        [
            (
                'Basic realm="a", Bearer realm="b", error="invalid_token",'
                ' DPoP realm="c", error="use_dpop_nonce", algs="ES256"'
            )
        ],
        {"realm": "c", "error": "use_dpop_nonce", "algs": "ES256"},
        "",
    ),
    (
        "resource-metadata",
        ['DPoP resource_metadata="https://rs.example.com/.well-known/oauth-protected-resource", algs="ES256"'],
        {"resource_metadata": "https://rs.example.com/.well-known/oauth-protected-resource", "algs": "ES256"},
        "",
    ),
    (
        "step-up",
        [
            (
                'DPoP error="insufficient_user_authentication", error_description="x", acr_values="myACR",'
                ' max_age="5", algs="ES256"'
            )
        ],
        {
            "error": "insufficient_user_authentication",
            "error_description": "x",
            "acr_values": "myACR",
            "max_age": "5",
            "algs": "ES256",
        },
        "",
    ),
    (
        "unknown-params-ignored",
        ['DPoP foo="1", error="use_dpop_nonce", bar=2'],
        {"foo": "1", "error": "use_dpop_nonce", "bar": "2"},
        "",
    ),
    ("empty-algs", ['DPoP algs=""'], {"algs": ""}, ""),
    ("duplicate-same", ['DPoP error="use_dpop_nonce", error="use_dpop_nonce"'], {"error": "use_dpop_nonce"}, ""),
    (
        "duplicate-conflict",
        ['DPoP error="use_dpop_nonce", error="invalid_token"'],
        {"error": None},
        "unusable, so no retry",
    ),
    ("scheme-prefix-trap", ['DPoPX error="use_dpop_nonce"'], None, "another scheme"),
    (
        "unterminated",
        ['DPoP error="use_dpop_nonce'],
        None,
        "not a field value: taken as absent, and the DPoP-Nonce header still counts",
    ),
    (
        "latin1",
        ['DPoP error="invalid_token", error_description="caf\xe9"'],
        {"error": "invalid_token", "error_description": "caf\xe9"},
        "obs-text in a quoted string",
    ),
    ("empty", [""], None, ""),
    ("proxy-only", ['Basic realm="p"'], None, ""),
    ("newline-injection", ['DPoP error="use_dpop_nonce"\r X: y'], None, "a control character ends the matter"),
    (
        "tab-after-scheme",
        ['DPoP\terror="use_dpop_nonce"'],
        {"error": "use_dpop_nonce"},
        "more lenient than the grammar, which has a space here",
    ),
    ("missing-comma", ['DPoP error="use_dpop_nonce" algs="ES256"'], None, ""),
    ("parameter-without-scheme", ['error="use_dpop_nonce"'], None, ""),
    ("word-after-word", ['DPoP foo bar, error="use_dpop_nonce"'], None, ""),
    (
        "two-dpop-challenges-agree",
        ['DPoP error="use_dpop_nonce"', 'DPoP algs="ES256"'],
        {"error": "use_dpop_nonce", "algs": "ES256"},
        "",
    ),
    (
        "two-dpop-challenges-conflict",
        ['DPoP error="use_dpop_nonce"', 'DPoP error="invalid_token"'],
        {"error": None},
        "",
    ),
    (
        "broken-neighbour",
        ['Bearer realm="x', 'DPoP error="use_dpop_nonce"'],
        None,
        "the fields are one list, so one that cannot be read leaves none",
    ),
    (
        "single-quotes",
        ["DPoP error='use_dpop_nonce'"],
        {"error": "'use_dpop_nonce'"},
        "RFC 9110 quotes with double quotes only; ' is a character like another",
    ),
    ("nul", ['DPoP error="use_dpop_nonce\x00"'], None, ""),
]


def challenges() -> dict[str, Any]:
    """The file challenges.json."""
    cases = []
    for name, fields, parameters, note in ROWS:
        case: dict[str, Any] = {"id": name} | ({"note": note} if note else {})
        retry = parameters is not None and parameters.get("error") == "use_dpop_nonce"
        cases.append(case | {"fields": fields, "parameters": parameters, "retry": retry})
    return {
        "about": [
            "WWW-Authenticate fields, and what a DPoP client makes of them (RFC 9110 11.6.1, RFC 9449 7.1).",
            "fields: one entry per field line, one character per octet.",
            "parameters: of the DPoP challenge, names in lower case. null: there is no usable DPoP challenge.",
            "A parameter is null where it was given twice with different values.",
            "retry: whether it asks for a nonce. The response also needs status 401 and a DPoP-Nonce field.",
        ],
        "cases": cases,
    }
