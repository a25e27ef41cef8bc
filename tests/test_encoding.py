# SPDX-License-Identifier: Apache-2.0
"""base64url, strict JSON and the hashes, against published values and arbitrary input."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.paths import DATA

from dpop.encoding import (
    access_token_hash,
    b64url_decode,
    b64url_encode,
    check_access_token,
    check_nonce,
    code_jti,
    json_object,
    sendable_token,
    sendable_token_hash,
)
from dpop.errors import ArgumentTypeError, CredentialError, EncodingError, UsageError
from dpop.tokens import TokenSet

PUBLISHED: list[dict[str, Any]] = json.loads((DATA / "public-vectors.json").read_text(encoding="ascii"))["cases"]
SECRET = "s3cr3t"
BASE64URL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def published(kind: str) -> list[Any]:
    """The published values of one kind, as pytest parameters."""
    return [pytest.param(case, id=case["id"]) for case in PUBLISHED if case["kind"] == kind]


# --- base64url


@given(st.binary(max_size=200))
def test_base64url_round_trip(data: bytes) -> None:
    """What is encoded decodes to itself, without padding, from str and from bytes."""
    text = b64url_encode(data)
    assert "=" not in text
    assert text == base64.urlsafe_b64encode(data).decode().rstrip("=")
    assert b64url_decode(text) == b64url_decode(text.encode()) == data


@given(st.text(alphabet=BASE64URL, max_size=12))
def test_base64url_has_one_spelling(text: str) -> None:
    """Each text of the alphabet is either the one spelling of some bytes or refused."""
    try:
        data = b64url_decode(text)
    except EncodingError:
        return
    assert b64url_encode(data) == text


@given(st.text())
def test_base64url_refuses_everything_else(text: str) -> None:
    """Arbitrary text is refused unless all of it is of the alphabet."""
    try:
        data = b64url_decode(text)
    except EncodingError:
        return
    assert set(text) <= set(BASE64URL)
    assert b64url_encode(data) == text


@pytest.mark.parametrize("case", published("base64url-canonical"))
def test_published_trailing_bits(case: dict[str, Any]) -> None:
    """RFC 4648 §3.5: unused bits that are not zero are refused, not ignored."""
    text, data = case["facts"]["text"], bytes.fromhex(case["facts"]["decodes_leniently_to"])
    if case["holds"]:
        assert b64url_decode(text) == data
    else:
        with pytest.raises(EncodingError, match="not canonical"):
            b64url_decode(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Zg==", "padding"),
        ("Zm9v\n", "allowed"),
        ("Zm 9", "allowed"),
        ("Zm+v", "allowed"),
        ("Zm/v", "allowed"),
        ("Zm9vA", "no bytes encode to 5 characters"),
        ("A", "no bytes encode to 1 characters"),
        ("Zmé9", "outside ASCII"),
        ("\ud800AAA", "outside ASCII"),
    ],
)
def test_base64url_says_what_is_wrong(text: str, why: str) -> None:
    """The refusal names the fault."""
    with pytest.raises(EncodingError, match=why):
        b64url_decode(text)


def test_base64url_errors_keep_the_text_secret() -> None:
    """A refused text may be a token: it is not repeated."""
    with pytest.raises(EncodingError) as caught:
        b64url_decode(SECRET + "!")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("value", [None, 1, ["Zg"], bytearray(b"Zg")])
def test_base64url_decode_wants_text(value: Any) -> None:
    """Neither numbers nor buffers are text."""
    with pytest.raises(ArgumentTypeError):
        b64url_decode(value)


@pytest.mark.parametrize("value", [None, 1, "Zg"])
def test_base64url_encode_wants_bytes(value: Any) -> None:
    """Text must be encoded before it is base64url'd."""
    with pytest.raises(ArgumentTypeError):
        b64url_encode(value)


# --- JSON

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**15), 10**15)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=4), st.booleans())
def test_json_objects_are_read(value: dict[str, Any], escaped: bool) -> None:
    """An object comes back as it was written, with escapes or without."""
    data = json.dumps(value, ensure_ascii=escaped).encode()
    assert json_object(data, max_depth=50) == value


@given(st.binary(max_size=60) | st.text('{}[]":,\\u0aAtrue1.eE- ', max_size=40).map(str.encode))
def test_json_refuses_or_agrees(data: bytes) -> None:
    """Whatever is accepted, the standard parser reads in the same way; nothing else is raised."""
    try:
        value = json_object(data)
    except EncodingError:
        return
    assert value == json.loads(data)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'{"a":1,"a":1}', "duplicate"),
        (b'{"a":{"b":1,"\\u0062":2}}', "duplicate"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b'{"a":"\xff"}', "UTF-8"),
        (b'{"a":"\xed\xa0\x80"}', "UTF-8"),
        (b"{}".decode().encode("utf-16"), "UTF-8"),
        (b'{"a":NaN}', "NaN"),
        (b'{"a":-Infinity}', "Infinity"),
        (b'{"a":1e999}', "too large"),
        (b'{"a":' + b"9" * 41 + b"}", "41 characters"),
        (b'{"a":0.' + b"9" * 39 + b"}", "41 characters"),
        (b'{"a":"\\ud800"}', "surrogate"),
        (b'{"\\udc00":1}', "surrogate"),
        (b'{"a":' * 8 + b"{}" + b"}" * 8, "deeper than 8"),
        (b'{"a":' + b"[" * 100_000, "deeper than 8"),
        (b'{"a":1}{}', "not JSON"),
        (b'{"a":1,}', "not JSON"),
        (b"{'a':1}", "not JSON"),
        (b'{"a', "not JSON"),
        (b'{"a\\', "not JSON"),
        (b"", "not JSON"),
        (b"[]", "an array"),
        (b'"x"', "a string"),
        (b"1", "a number"),
        (b"1.5", "a number"),
        (b"true", "a boolean"),
        (b"null", "null"),
    ],
)
def test_json_says_what_is_wrong(data: bytes, why: str) -> None:
    """Each fault has its own sentence."""
    with pytest.raises(EncodingError, match=why):
        json_object(data)


def test_json_depth_counts_brackets_outside_strings() -> None:
    """Brackets and escaped quotes in strings do not count, and the limit is the caller's."""
    assert json_object(b'{"a":"[[[[[[[[[[\\"[[[[[[[[[["}') == {"a": '[[[[[[[[[["[[[[[[[[[['}
    assert json_object(b'{"a":' * 7 + b"{}" + b"}" * 7)
    assert json_object(b"{}", max_depth=1) == {}
    with pytest.raises(EncodingError):
        json_object(b'{"a":[]}', max_depth=1)


def test_json_deeper_than_the_parser_goes() -> None:
    """A caller who allows any depth gets this package's error when the parser gives up."""
    with pytest.raises(EncodingError, match="too deep"):
        json_object(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}", max_depth=1_000_000)


def test_json_with_a_string_that_never_ends_is_read_once() -> None:
    """A megabyte of escaped quotes is refused; reading it again from each quote would take an hour."""
    with pytest.raises(EncodingError, match="not JSON"):
        json_object(b'{"' + b'\\"' * 500_000)


def test_json_keeps_the_longest_numbers() -> None:
    """Forty characters are still a number, and a fraction is a float."""
    assert json_object(b'{"a":' + b"9" * 40 + b"}") == {"a": int("9" * 40)}
    value = json_object(b'{"iat":1562262616.5}')["iat"]
    assert isinstance(value, float)
    assert math.isclose(value, 1562262616.5)


@pytest.mark.parametrize("value", ["{}", None, bytearray(b"{}")])
def test_json_wants_bytes(value: Any) -> None:
    """Only bytes: a str has lost its encoding."""
    with pytest.raises(ArgumentTypeError):
        json_object(value)


# --- tokens, nonces and hashes


@pytest.mark.parametrize("case", published("ath"))
def test_published_ath(case: dict[str, Any]) -> None:
    """RFC 9449 Figures 6, 13 and 14: the ath of the access token."""
    assert access_token_hash(case["facts"]["access_token"]) == case["facts"]["ath"]


@pytest.mark.parametrize("case", published("access-token"))
def test_published_ath_of_a_jwt(case: dict[str, Any]) -> None:
    """RFC 9449 Figure 8: a JWT is hashed as it stands."""
    assert access_token_hash(case["facts"]["token"]) == case["facts"]["ath"]


@pytest.mark.parametrize("case", published("google-code-jti"))
def test_published_code_jti(case: dict[str, Any]) -> None:
    """Google's rule: jti is the hash of the decoded code; the guide's own sample breaks it."""
    facts = case["facts"]
    assert (code_jti(facts["code"]) == facts.get("sample_jti", facts.get("jti"))) is case["holds"]
    assert code_jti(facts["code"]) == facts.get("required_jti", facts.get("jti"))
    for spelling, wrong in facts.get("wrong_if_percent_encoded", {}).items():
        assert code_jti(spelling) == wrong != code_jti(facts["code"])


@pytest.mark.parametrize("case", published("pkce"))
def test_published_pkce(case: dict[str, Any]) -> None:
    """RFC 7636 B: a challenge is base64url of a SHA-256, as ath is."""
    facts = case["facts"]
    assert access_token_hash(facts["verifier"]) == facts["challenge"]
    assert (facts["challenge"] == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM") is case["holds"]


@pytest.mark.parametrize("case", published("dpop-nonce"))
def test_published_nonces(case: dict[str, Any]) -> None:
    """The nonces of RFC 9449 and of Google's guide are nonces, and opaque."""
    assert check_nonce(case["facts"]["nonce"]) == case["facts"]["nonce"]


@pytest.mark.parametrize("case", published("dpop-proof"))
def test_published_proofs_decode(case: dict[str, Any]) -> None:
    """The strict decoder reads the published proofs, and encodes them to the same text."""
    header, payload, signature = case["facts"]["proof"].split(".")
    assert b64url_encode(b64url_decode(signature)) == signature
    if "header" in case["facts"]:
        assert json_object(b64url_decode(header)) == case["facts"]["header"]
        assert json_object(b64url_decode(payload)) == case["facts"]["payload"]


@given(st.text(alphabet=BASE64URL + ".~+/", min_size=1, max_size=40), st.text("=", max_size=3))
def test_every_token68_has_a_hash(body: str, padding: str) -> None:
    """All of token68 passes unchanged, and its hash has 43 characters."""
    token = body + padding
    assert check_access_token(token) == token
    assert access_token_hash(token) == b64url_encode(hashlib.sha256(token.encode()).digest())
    assert len(access_token_hash(token)) == 43


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters='"\\'), min_size=1))
def test_every_nqchar_is_a_nonce(nonce: str) -> None:
    """1*NQCHAR passes unchanged, whatever its length."""
    assert check_nonce(nonce) == nonce


@pytest.mark.parametrize("tail", ["", " ", "\n", "\r\n", ",", '"', "\\", "\x7f", "\x00", "é", "=a"])
def test_no_secret_in_a_refusal(tail: str) -> None:
    """What cannot be sent is refused in a sentence that does not repeat it."""
    token = "" if not tail else SECRET + tail
    with pytest.raises(CredentialError) as caught:
        check_access_token(token)
    assert SECRET not in str(caught.value)
    if tail not in {",", "=a"}:
        with pytest.raises(CredentialError) as caught:
            check_nonce(token)
        assert SECRET not in str(caught.value)
    if tail not in {" ", ",", '"', "\\", "=a"}:
        with pytest.raises(CredentialError) as caught:
            code_jti(token)
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("", "empty"),
        ("Bearer abc", "without Bearer or DPoP"),
        ("dpop abc", "without Bearer or DPoP"),
        ('"abc"', "quotes"),
        ("'abc'", "quotes"),
        ("abc\n", "line break"),
        ("abc\r\n", "line break"),
        (" abc", "spaces around"),
        ("a,b", "a comma"),
        ("a b", "a space"),
        ("a\r\nX: y", "a control character"),
        ("ä", "outside ASCII"),
    ],
)
def test_a_token_that_cannot_be_sent(token: str, said: str) -> None:
    """What would break the header, or came along with the token, is refused in a sentence of its own."""
    with pytest.raises(CredentialError, match=said) as caught:
        sendable_token(token)
    assert "abc" not in str(caught.value)


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters=",\"'"), min_size=1))
def test_every_other_vschar_can_be_sent(token: str) -> None:
    """A client sends back what the server issued; a verifier of this package takes token68 only."""
    assert sendable_token(token) == token
    assert sendable_token_hash(token) == b64url_encode(hashlib.sha256(token.encode()).digest())


def test_a_token_set_is_no_token() -> None:
    """The message names the attribute that is meant."""
    with pytest.raises(ArgumentTypeError, match=r"tokens\.access_token"):
        sendable_token(TokenSet(access_token=SECRET))


@pytest.mark.parametrize("check", [check_access_token, sendable_token, check_nonce, access_token_hash, code_jti])
@pytest.mark.parametrize("value", [None, 7, SECRET.encode(), [SECRET]])
def test_only_text_is_a_credential(check: Any, value: Any) -> None:
    """A wrong type is named, its value is not."""
    with pytest.raises(ArgumentTypeError) as caught:
        check(value)
    assert SECRET not in str(caught.value)


@given(st.text())
def test_arbitrary_text_is_a_credential_or_a_usage_error(text: str) -> None:
    """Nothing but this package's own errors comes out."""
    for check in (check_access_token, check_nonce, access_token_hash, code_jti):
        try:
            check(text)
        except UsageError:
            continue
