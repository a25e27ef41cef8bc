# SPDX-License-Identifier: Apache-2.0
"""Strategies for hostile input: made to be almost right, where mutation alone would be refused at once."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from dpop.testing.defects._draft import Draft
from dpop.testing.defects._forge import A

__all__ = ["challenge_fields", "der_like", "edited", "json_values", "proof_parts", "url_texts"]

NOW = 1_700_000_000
HONEST = Draft(A, "GET", "https://server.example.com/items", "jti", NOW, "vector.access~token-0123456789", "n-1")

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["dpop+jwt", "ES256", "EC", "P-256", "GET", HONEST.htu, HONEST.ath, "n-1", HONEST.jwk["x"]]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def _members(draw: st.DrawFn, honest: dict[str, Any]) -> bytes:
    """JSON of the honest members with some changed, taken out, added or written twice, and then edited."""
    members = dict(honest)
    for name in draw(st.lists(st.sampled_from([*honest, "crit", "b64", "exp", "nbf", "x"]), max_size=3)):
        if draw(st.booleans()):
            members[name] = draw(json_values)
        else:
            members.pop(name, None)
    pairs = list(members.items())
    if pairs and draw(st.integers(0, 9)) == 0:
        pairs.append((pairs[0][0], draw(json_values)))
    text = "{" + ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in pairs) + "}"
    data = text.encode("utf-8", "surrogatepass")
    return draw(edited(data)) if draw(st.integers(0, 4)) == 0 else data


@st.composite
def proof_parts(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Header and claims, to be signed."""
    header = HONEST.header()
    if draw(st.booleans()):
        header["jwk"] = json.loads(draw(_jwks()))
    return draw(_members(header)), draw(_members(HONEST.claims()))


@st.composite
def _jwks(draw: st.DrawFn) -> bytes:
    jwk: dict[str, Any] = dict(HONEST.jwk)
    for name in draw(st.lists(st.sampled_from([*jwk, "d", "k", "n", "e", "use", "key_ops", "alg"]), max_size=2)):
        jwk[name] = draw(json_values.filter(lambda value: value == value))  # noqa: PLR0124 - no NaN in it
    return json.dumps(jwk, default=str).replace("NaN", "0").replace("Infinity", "0").encode("utf-8", "surrogatepass")


@st.composite
def edited(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes with a few cut out, put in, doubled or turned."""
    text = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text)))
        upto = min(len(text), at + draw(st.integers(0, 4)))
        text[at:upto] = draw(st.binary(max_size=4) | st.just(bytes(text[at:upto]) * 2))
    return bytes(text)


# --- challenges, by their grammar (RFC 9110 §11.6.1), and what they mean

_TOKEN = st.text("abcXYZ09!#$%&'*+-.^_`|~", min_size=1, max_size=6)
_OTHER_SCHEME = _TOKEN.filter(lambda text: text.lower() != "dpop")
_BLANKS = st.text(" \t", max_size=2)
_QUOTABLE = st.text([chr(code) for code in [9, *range(32, 127), *range(0x80, 0x100)]], max_size=12)


@st.composite
def _parameter(draw: st.DrawFn) -> tuple[str, str, str]:
    name = draw(_TOKEN | st.sampled_from(["error", "Error", "ERROR", "algs", "nonce"]))
    if draw(st.booleans()):
        value = draw(_TOKEN | st.just("use_dpop_nonce"))
        written = value
    else:
        value = draw(_QUOTABLE | st.just("use_dpop_nonce"))
        escape = draw(st.booleans())
        quoted = "".join(f"\\{mark}" if mark in '"\\' or (escape and mark in "ab ") else mark for mark in value)
        written = f'"{quoted}"'
    return name.lower(), value, f"{name}{draw(_BLANKS)}={draw(_BLANKS)}{written}"


@st.composite
def challenge_fields(draw: st.DrawFn) -> tuple[list[str], dict[str, str | None] | None]:
    """Field lines, and the parameters of the DPoP challenge in them."""
    lines: list[str] = []
    meaning: dict[str, str | None] | None = None
    for _ in range(draw(st.integers(1, 3))):
        challenges: list[str] = []
        for _ in range(draw(st.integers(1, 3))):
            scheme = draw(
                _TOKEN.filter(lambda text: text.lower() != "dpop") | st.sampled_from(["DPoP", "dpop", "Bearer"])
            )
            ours = scheme.lower() == "dpop"
            if ours and meaning is None:
                meaning = {}
            if draw(st.integers(0, 4)) == 0:
                argument = draw(st.text("ABCabc012-._~+/", min_size=1, max_size=9)) + "=" * draw(st.integers(0, 2))
                challenges.append(f"{scheme} {argument}")
                continue
            parameters = draw(st.lists(_parameter(), max_size=3))
            for name, value, _written in parameters if ours else []:
                assert meaning is not None
                meaning[name] = value if meaning.setdefault(name, value) == value else None
            joint = f"{draw(_BLANKS)},{draw(_BLANKS)}"
            written = joint.join(each for _name, _value, each in parameters)
            challenges.append(f"{scheme} {written}" if written else scheme)
        comma = draw(st.sampled_from([",", ", ", " ,\t", ", ,", ",, "]))
        lines.append(comma.join(challenges))
    return lines, meaning


# --- URLs and DER

# fmt: off
_URL_PIECES = [
    "https", "http", "://", "/", "//", "..", ".", "%2e", "%2F", "%7E", "%", "@", ":", ":443", ":0", "[::1]", "[", "]",
    "a.example", "A.Example.", "xn--", "xn--a", "?", "#", "127.1", "0x7f", "_", "-", "~", "*", "\\", "\t", "\n", " ",
    # umlaut, sharp s, Cyrillic a, two full stops of other scripts, half a surrogate pair, a joiner, an accent
    "\u00fc", "\u00df", "\u0430", "\u3002", "\uff0e", "\ud800", "\u200d", "\u0301",
]
# fmt: on
url_texts = st.text(max_size=40) | st.lists(st.sampled_from(_URL_PIECES), max_size=12).map("".join)


@st.composite
def der_like(draw: st.DrawFn) -> bytes:
    """A SEQUENCE of two INTEGERs, with lengths and padding that may lie."""

    def element(tag: int, content: bytes) -> bytes:
        length = max(0, len(content) + draw(st.sampled_from([0, 0, 0, 1, -1])))
        form = draw(st.integers(0, 5))
        if form == 0:
            return bytes([tag, 0x81, length & 0xFF]) + content
        if form == 1:
            return bytes([tag, 0x82, length >> 8 & 0xFF, length & 0xFF]) + content
        return bytes([tag]) + (bytes([length]) if length < 128 else bytes([0x81, length & 0xFF])) + content

    def number() -> bytes:
        bits = draw(st.sampled_from([1, 8, 255, 256, 257, 384, 520, 521, 522]))
        value = draw(st.integers(0, 2**bits) | st.sampled_from([0, 1, 2**bits - 1]))
        padding = draw(st.sampled_from([0, 0, 0, 1, -1]))
        size = max(0, value.bit_length() // 8 + 1 + padding)
        return element(draw(st.sampled_from([2, 2, 2, 2, 3])), value.to_bytes(max(size, (value.bit_length() + 7) // 8)))

    return element(0x30, number() + number()) + draw(st.sampled_from([b"", b"", b"", b"\0"]))
