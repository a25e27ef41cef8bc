# SPDX-License-Identifier: Apache-2.0
"""From header fields to the parts of a proof: one reading, or a refusal."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpop.errors import ArgumentTypeError, InvalidProof
from dpop.server import Reason
from dpop.server._jws import _kept_header, parse_compact, proof_field


def b64u(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def refused(text: str, **limits: int) -> InvalidProof:
    """The refusal of a text."""
    with pytest.raises(InvalidProof) as caught:
        assert parse_compact(text, **{"max_length": 8192, "max_depth": 8} | limits).payload is None
    return caught.value


PROOF = f"{b64u(b'{}')}.{b64u(b'{}')}.AAAA"


@pytest.mark.parametrize(
    "headers",
    [
        [("Host", "a"), ("DPoP", "x.y.z")],
        [("host", "a"), ("dpop", "x.y.z")],
        ((name, value) for name, value in [("DPOP", " x.y.z\t")]),
        [(b"host", b"a"), (b"dPoP", b"x.y.z")],
        {"DPoP": "x.y.z", "Host": "a"},
        {b"dpop": b"x.y.z"},
    ],
)
def test_the_field_is_found_in_any_spelling(headers: Any) -> None:
    """Pairs or a mapping, text or bytes, any case of the name, blanks around the value."""
    assert proof_field(headers) == "x.y.z"


def test_no_field_is_none_and_an_empty_field_is_not() -> None:
    """Absent and empty are different things."""
    assert proof_field([("DPoP-Nonce", "x"), ("Host", "a")]) is None
    assert proof_field({"DPoP": ""}) == ""


class Multi(dict[str, str]):
    """A mapping as some frameworks have it: items() gives a field twice."""

    def items(self) -> Any:
        """Both fields."""
        return iter([("DPoP", "x"), ("dpop", "x")])

    def __iter__(self) -> Iterator[str]:
        return iter(["DPoP"])


@pytest.mark.parametrize("headers", [[("DPoP", "x"), ("DPoP", "x")], [(b"dpop", b""), (b"dpop", b"x")], Multi()])
def test_two_fields_are_refused(headers: Any) -> None:
    """Equal or not, empty or not (RFC 9449 §4.3 (1))."""
    with pytest.raises(InvalidProof) as caught:
        proof_field(headers)
    assert caught.value.reason == "proof_repeated"


@pytest.mark.parametrize("headers", [7, None, ["DPoP: x"], [("DPoP", None)], [("DPoP", ["x"])], [(4, 4)], {"DPoP": 1}])
def test_what_is_no_header_list_is_a_fault_of_the_caller(headers: Any) -> None:
    """A wrong type is told as such, without the value."""
    with pytest.raises(ArgumentTypeError, match="headers must be"):
        proof_field(headers)


def test_a_compact_jws_is_taken_apart() -> None:
    """Header, payload, signature, and the very text that was signed."""
    header, payload = b'{"typ": "x"}', b'{ "jti":"1"}'
    text = f"{b64u(header)}.{b64u(payload)}.{b64u(b'sig')}"
    jws = parse_compact(text, max_length=8192, max_depth=8)
    assert (jws.header.members, jws.payload, jws.signature) == ({"typ": "x"}, {"jti": "1"}, b"sig")
    assert jws.signing_input.decode() == text.rpartition(".")[0]
    assert "sig" not in repr(jws)


def test_claims_and_signature_are_judged_when_they_are_asked_for() -> None:
    """What a check does not need costs nothing, however long a stranger made it."""
    jws = parse_compact(f"{b64u(b'{}')}.AB.AB", max_length=8192, max_depth=8)
    with pytest.raises(InvalidProof) as caught:
        assert jws.signature is None
    assert caught.value.reason == Reason.SIGNATURE_MALFORMED
    with pytest.raises(InvalidProof) as caught:
        assert jws.payload is None
    assert caught.value.reason == Reason.PAYLOAD_MALFORMED


def test_a_header_in_use_is_kept() -> None:
    """Strangers with a key for each proof do not displace the header of a client that sends requests meanwhile."""

    def header_of(name: str) -> object:
        return parse_compact(
            f"{b64u(json.dumps({'typ': name}).encode())}.e30.AAAA", max_length=8192, max_depth=8
        ).header

    known = header_of("known")
    for number in range(3000):
        header_of(f"stranger {number}")
        if not number % 1000:
            assert header_of("known") is known


@pytest.mark.parametrize(("bits", "kept"), [(2048, True), (4096, True), (8192, False)])
def test_the_longest_proofs_fit(bits: int, kept: bool) -> None:
    """With an RSA key of any size and half of what the claims may hold; a header of up to 4096 bits is kept."""
    number = b64u(b"\xff" * (bits // 8))
    header = {"typ": "dpop+jwt", "alg": "PS512", "jwk": {"kty": "RSA", "n": number, "e": "AQAB"}}
    claims = {"jti": "j" * 128, "htm": "OPTIONS", "htu": "u" * 2048, "iat": 1, "ath": "a" * 43, "nonce": "n" * 128}
    proof = ".".join([b64u(json.dumps(part).encode()) for part in (header, claims)] + [number])
    first, second, third = (parse_compact(proof, max_length=8192, max_depth=8).header for _ in range(3))
    assert first.members == header
    assert (second is third) is kept


def test_headers_that_are_kept_are_bounded() -> None:
    """More clients than are remembered are read anew, and none is taken for another."""
    for turn in range(3):
        for number in range(1500):
            header = b64u(json.dumps({"n": number}).encode())
            jws = parse_compact(f"{header}.e30.AAAA", max_length=8192, max_depth=8)
            assert jws.header.members == {"n": number}, turn
    assert _kept_header.cache_info().currsize <= 1024


def test_a_header_with_more_values_than_any_client_needs_is_refused() -> None:
    """They are counted before the JSON is read; a certificate, a name with commas and every known member fit."""
    jwk = dict.fromkeys(("kty", "crv", "x", "y", "kid", "use", "alg", "x5t", "x5t#S256", "x5u"), "v")
    known = {"typ": "dpop+jwt", "alg": "ES256", "kid": "CN=a,OU=b,O=c,C=d", "x5c": ["c" * 400] * 3, "jwk": jwk}
    for more, fits in ((0, True), (60, False)):
        header = b64u(json.dumps({**known, **{str(number): 1 for number in range(more)}}).encode())
        if fits:
            assert parse_compact(f"{header}.e30.AAAA", max_length=8192, max_depth=8).header.members == known
        else:
            error = refused(f"{header}.e30.AAAA", max_length=8192, max_depth=8)
            assert (error.reason, "more than 64 brackets and commas" in str(error)) == ("header_malformed", True)


def test_length_is_checked_at_its_edge() -> None:
    """The limit itself is allowed, one character more is not."""
    assert parse_compact(PROOF, max_length=len(PROOF), max_depth=8)
    assert refused(PROOF, max_length=len(PROOF) - 1).reason == "proof_too_long"


def test_depth_is_checked_at_its_edge() -> None:
    """The limit itself is allowed, one level more is not."""
    three_deep = ".".join([b64u(b"{}"), b64u(b'{"a":{"b":{}}}'), "AAAA"])
    assert parse_compact(three_deep, max_length=8192, max_depth=3).payload
    assert refused(three_deep, max_depth=2).reason == "payload_malformed"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "empty"),
        (f"{PROOF},{PROOF}", "comma"),
        ('{"protected":"e30"}', "JSON"),
        ("e30.e30", "2 parts"),
        ("e30.e30.", "one of its parts is empty"),
        ("e30.e30.AA==", "padding"),
        (PROOF + "\n", "only A-Z"),
    ],
)
def test_the_likely_mistake_is_named(text: str, hint: str) -> None:
    """A developer learns from the refusal what to change."""
    refusal = refused(text)
    assert refusal.reason == "not_compact"
    assert hint in refusal.detail


@given(st.text() | st.from_regex(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*", fullmatch=True))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    """No text makes the parser fail in any other way."""
    try:
        assert isinstance(parse_compact(text, max_length=500, max_depth=4).payload, dict)
    except InvalidProof:
        return
    assert text.count(".") == 2


@given(st.binary(), st.binary(), st.binary(min_size=1))
def test_any_bytes_are_parsed_or_refused(header: bytes, payload: bytes, signature: bytes) -> None:
    """Whatever the segments hold, only JSON objects get through, unchanged."""
    text = f"{b64u(header)}.{b64u(payload)}.{b64u(signature)}"
    try:
        jws = parse_compact(text, max_length=8192, max_depth=8)
        claims = jws.payload
    except InvalidProof:
        return
    assert jws.header.members == json.loads(header)
    assert claims == json.loads(payload)
    assert jws.signature == signature


@given(st.lists(st.tuples(st.text() | st.just("DPoP"), st.text())))
def test_any_header_list_gives_a_text_none_or_a_refusal(headers: list[tuple[str, str]]) -> None:
    """Names and values of any kind."""
    count = sum(name.lower() == "dpop" for name, _ in headers)
    try:
        found = proof_field(headers)
    except InvalidProof:
        assert count > 1
    else:
        assert count == (found is not None)
