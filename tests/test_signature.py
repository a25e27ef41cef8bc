# SPDX-License-Identifier: Apache-2.0
"""DER and raw R||S: published values, every kind of bad DER, and agreement with cryptography."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from hypothesis import example, given
from hypothesis import strategies as st
from support.paths import DATA, VECTORS

from dpop.encoding import b64url_decode
from dpop.errors import ArgumentTypeError, SignatureFormatError, UsageError
from dpop.signature import check_raw, der_to_raw, raw_to_der

CASES: list[dict[str, Any]] = json.loads((VECTORS / "signatures.json").read_text("ascii"))["cases"]
PUBLISHED: dict[str, dict[str, Any]] = {
    case["id"]: case["facts"] for case in json.loads((DATA / "public-vectors.json").read_text("ascii"))["cases"]
}

CURVES: dict[int, tuple[ec.EllipticCurve, HashAlgorithm]] = {
    32: (ec.SECP256R1(), SHA256()),
    48: (ec.SECP384R1(), SHA384()),
    66: (ec.SECP521R1(), SHA512()),
}
# The number just out of range, as the vectors have it; a test below asks OpenSSL whether that is true.
ORDERS = {c["size"]: int(c["raw"][: 2 * c["size"]], 16) for c in CASES if c["id"].endswith("-raw-r-order")}
KEYS = {size: ec.derive_private_key(0xD1CE, curve) for size, (curve, _) in CURVES.items()}

# What the message says for each reason of the vectors.
SENTENCES = {
    "after": "bytes? after the SEQUENCE",
    "der": "looks like DER",
    "empty": "empty, there is no signature",
    "indefinite": "indefinite length",
    "inside": "bytes? after s inside",
    "integer-empty": "INTEGER [rs] is empty",
    "length": "bytes, not|bytes .*, not",
    "long-form": "longer length field than it needs",
    "needless-00": "leading 00 byte it does not need",
    "negative": "[rs] is negative",
    "range": "[rs] is not below the order of P-",
    "raw": "do not convert it",
    "size": "has at most 72 bytes",
    "tag": "expected the tag",
    "truncated": "truncated",
    "zero": "[rs] is zero",
}


def cases(*members: str) -> list[Any]:
    """The vectors that have exactly these members, as pytest parameters."""
    return [pytest.param(c, id=c["id"]) for c in CASES if c.keys() - {"id", "size"} == set(members)]


@st.composite
def raw_signatures(draw: st.DrawFn) -> tuple[bytes, int]:
    """A raw signature of any curve, its numbers of any length, and its size."""
    size = draw(st.sampled_from(sorted(CURVES)))
    order = ORDERS[size]
    bits = st.integers(1, order.bit_length())
    number = bits.flatmap(lambda b: st.integers(1, min((1 << b) - 1, order - 1)))
    return draw(number).to_bytes(size, "big") + draw(number).to_bytes(size, "big"), size


# --- vectors


@pytest.mark.parametrize("case", cases("der", "raw"))
def test_good_signatures_convert_both_ways(case: dict[str, Any]) -> None:
    """Each DER signature has one raw form and the other way round."""
    der, raw, size = bytes.fromhex(case["der"]), bytes.fromhex(case["raw"]), case["size"]
    assert der_to_raw(der, size) == raw
    assert raw_to_der(raw) == der
    check_raw(raw, size)


@pytest.mark.parametrize("case", cases("der", "refused"))
def test_bad_der_is_refused_and_named(case: dict[str, Any]) -> None:
    """BER, truncation, trailing bytes, wrong tags and numbers out of range each have their sentence."""
    with pytest.raises(SignatureFormatError, match=SENTENCES[case["refused"]]):
        der_to_raw(bytes.fromhex(case["der"]), case["size"])


@pytest.mark.parametrize("case", cases("raw", "refused"))
def test_bad_raw_is_refused_and_named(case: dict[str, Any]) -> None:
    """Wrong lengths and numbers out of range are refused, with and without a known size."""
    raw = bytes.fromhex(case["raw"])
    with pytest.raises(SignatureFormatError, match=SENTENCES[case["refused"]]):
        check_raw(raw, case["size"])
    with pytest.raises(SignatureFormatError, match=SENTENCES[case["refused"]]):
        raw_to_der(raw)


def test_the_vectors_cover_every_reason() -> None:
    """No sentence goes without a case, and no case is of a shape these tests pass over."""
    assert {c["refused"] for c in CASES if "refused" in c} == set(SENTENCES)
    shapes = [cases("der", "raw"), cases("der", "refused"), cases("raw", "refused")]
    assert sum(map(len, shapes)) == len(CASES)


@pytest.mark.parametrize("size", sorted(CURVES))
def test_the_range_is_that_of_the_curve(size: int) -> None:
    """OpenSSL takes n - 1 for a private key and n for none; so do we for r and s."""
    order, curve = ORDERS[size], CURVES[size][0]
    ec.derive_private_key(order - 1, curve)
    with pytest.raises(ValueError):
        ec.derive_private_key(order, curve)
    check_raw((order - 1).to_bytes(size, "big") * 2, size)
    with pytest.raises(SignatureFormatError):
        check_raw(order.to_bytes(size, "big") * 2, size)


def der_of(r: int, s: int) -> bytes:
    """DER of any two numbers, in range or not."""
    return encode_dss_signature(r, s)


@pytest.mark.parametrize("size", sorted(CURVES))
def test_der_has_the_same_range(size: int) -> None:
    """n - 1 is the largest r and s of DER too, whichever way it is read."""
    order = ORDERS[size]
    for r, s in [(order - 1, order - 1), (order - 1, 1), (1, order - 1)]:
        assert der_to_raw(der_of(r, s), size) == r.to_bytes(size, "big") + s.to_bytes(size, "big")
    for r, s in [(order, order - 1), (order - 1, order), (order + 1, order - 1)]:
        with pytest.raises(SignatureFormatError, match="not below the order"):
            der_to_raw(der_of(r, s), size)


@pytest.mark.parametrize("size", [48, 66])
def test_small_numbers_get_the_size_of_their_curve(size: int) -> None:
    """DER that looks like that of a P-256 signature is padded where another curve is asked for."""
    der = KEYS[32].sign(b"data", ec.ECDSA(SHA256()))
    r, s = decode_dss_signature(der)
    assert der_to_raw(der, size) == r.to_bytes(size, "big") + s.to_bytes(size, "big")


@pytest.mark.parametrize("first", [0x01, 0x02, 0x7E, 0x7F, 0x80, 0x81, 0xFE])
@pytest.mark.parametrize("size", [32, 48])
def test_numbers_of_each_first_byte(first: int, size: int) -> None:
    """A leading 00 stands before a high bit and nowhere else, as OpenSSL writes it."""
    number = bytes([first]) + b"\xab" * (size - 1)
    value = int.from_bytes(number, "big")
    assert raw_to_der(number * 2) == der_of(value, value)
    assert der_to_raw(der_of(value, value), size) == number * 2


def test_a_sequence_of_128_bytes_has_the_long_length() -> None:
    """127 bytes are the most that one byte of length can say (X.690 §8.1.3), and only P-521 has more."""
    for size, length in [(61, b"\x7e"), (62, b"\x81\x80"), (63, b"\x81\x82")]:
        value = int.from_bytes(b"\x11" * size, "big")
        der = der_of(value, value)
        assert der[: 1 + len(length)] == b"\x30" + length
        raw = value.to_bytes(66, "big") * 2
        assert (raw_to_der(raw), der_to_raw(der, 66)) == (der, raw)
    value = int.from_bytes(b"\x11" * 61, "big")
    with pytest.raises(SignatureFormatError, match="longer length field"):
        der_to_raw(b"\x30\x81" + der_of(value, value)[1:], 66)


@pytest.mark.parametrize("size", sorted(CURVES))
def test_only_bytes_of_the_raw_length_are_taken_for_raw(size: int) -> None:
    """The hint that a signature is raw already is given for its length, and not for a SEQUENCE of that length."""
    with pytest.raises(SignatureFormatError, match="do not convert it"):
        der_to_raw(b"\x11" * 2 * size, size)
    with pytest.raises(SignatureFormatError, match="expected the tag"):
        der_to_raw(b"\x11" * (2 * size - 1), size)
    short = b"\x30" + bytes([0x81] * (size == 66)) + bytes([2 * size - 2 - (size == 66)])
    with pytest.raises(SignatureFormatError, match="INTEGER r"):
        der_to_raw(short + b"\x11" * (2 * size - len(short)), size)


# --- published signatures


@pytest.mark.parametrize(
    ("name", "hash_name", "size"),
    [
        ("rfc6979-A.2.5-sha256-sample", SHA256(), 32),
        ("rfc6979-A.2.5-sha256-test", SHA256(), 32),
        ("rfc6979-A.2.6-P384-sample", SHA384(), 48),
        ("rfc6979-A.2.7-P521-sample", SHA512(), 66),
    ],
)
def test_rfc6979_signatures(name: str, hash_name: HashAlgorithm, size: int) -> None:
    """RFC 6979: the same signature comes from OpenSSL in DER and has the published r and s in raw form."""
    facts = PUBLISHED[name]
    private = facts.get("x") or PUBLISHED["rfc6979-A.2.5-key"]["x"]
    key = ec.derive_private_key(int(private, 16), CURVES[size][0])
    der = key.sign(facts["message"].encode(), ec.ECDSA(hash_name, deterministic_signing=True))
    raw = der_to_raw(der, size)
    assert raw == bytes.fromhex(facts["r"].zfill(2 * size) + facts["s"].zfill(2 * size))
    assert raw == b64url_decode(facts["raw_b64u"]) if "raw_b64u" in facts else True
    assert raw_to_der(raw) == der


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rfc7515-A.3-jws", 64),
        ("rfc7515-A.4-jws", 132),
        ("rfc9449-fig2-fig5-token-code", 64),
        ("rfc9449-fig7-token-refresh", 64),
        ("rfc9449-fig13-resource", 64),
    ],
)
def test_published_jws_signatures_verify_as_der(name: str, content: int) -> None:
    """JWS signatures of RFC 7515 and RFC 9449, high-S ones too, verify once they are DER."""
    facts = PUBLISHED[name]
    signing_input, _, signature = (facts.get("jws") or facts["proof"]).rpartition(".")
    jwk = facts.get("jwk") or facts["header"]["jwk"]
    raw = b64url_decode(signature)
    assert len(raw) == content
    curve, hash_name = CURVES[content // 2]
    x, y = (int.from_bytes(b64url_decode(jwk[c]), "big") for c in "xy")
    public = ec.EllipticCurvePublicNumbers(x, y, curve).public_key()
    public.verify(raw_to_der(raw), signing_input.encode(), ec.ECDSA(hash_name))
    assert der_to_raw(raw_to_der(raw), content // 2) == raw


# --- properties


@given(raw_signatures())
def test_round_trip(signature: tuple[bytes, int]) -> None:
    """Any r and s in range survive, and the DER is the one that cryptography writes."""
    raw, size = signature
    der = raw_to_der(raw)
    assert der == encode_dss_signature(int.from_bytes(raw[:size], "big"), int.from_bytes(raw[size:], "big"))
    assert der_to_raw(der, size) == raw


@given(st.sampled_from(sorted(CURVES)), st.binary(max_size=16))
def test_real_signatures_agree_with_cryptography(size: int, message: bytes) -> None:
    """Whatever a key signs is converted as decode_dss_signature reads it."""
    der = KEYS[size].sign(message, ec.ECDSA(CURVES[size][1]))
    r, s = decode_dss_signature(der)
    assert der_to_raw(der, size) == r.to_bytes(size, "big") + s.to_bytes(size, "big")
    assert raw_to_der(der_to_raw(der, size)) == der


@given(raw_signatures(), st.data())
def test_a_changed_byte_is_refused_or_means_itself(signature: tuple[bytes, int], data: st.DataObject) -> None:
    """DER with one byte changed is refused, or is the only DER of what it decodes to."""
    raw, size = signature
    der = bytearray(raw_to_der(raw))
    der[data.draw(st.integers(0, len(der) - 1))] ^= data.draw(st.integers(1, 255))
    assert_strict(bytes(der), size)


@pytest.mark.parametrize("size", sorted(CURVES))
def test_every_changed_byte_of_one_signature(size: int) -> None:
    """All changes of one byte, at every place, are refused or mean themselves."""
    der = KEYS[size].sign(b"m", ec.ECDSA(CURVES[size][1], deterministic_signing=True))
    for at in range(len(der)):
        for other in range(256):
            assert_strict(der[:at] + bytes([other]) + der[at + 1 :], size)


@pytest.mark.parametrize("size", sorted(CURVES))
def test_every_truncation_and_extension_is_refused(size: int) -> None:
    """A signature has no valid beginning and no valid continuation."""
    der = KEYS[size].sign(b"m", ec.ECDSA(CURVES[size][1], deterministic_signing=True))
    for length in range(len(der)):
        with pytest.raises(SignatureFormatError):
            der_to_raw(der[:length], size)
    for tail in (b"\0", b"\0\0", b"\x02\x01\x01", der):
        with pytest.raises(SignatureFormatError):
            der_to_raw(der + tail, size)


@given(st.binary(max_size=150) | st.binary(max_size=76).map(lambda b: b"\x30" + bytes([len(b)]) + b))
@example(b"\x30\x06\x02\x01\x01\x02\x01\x01")
def test_arbitrary_bytes(content: bytes) -> None:
    """Whatever is accepted, cryptography decodes to the same numbers; nothing but our error is raised."""
    for size in CURVES:
        assert_strict(content, size)


@given(st.binary(max_size=140))
def test_arbitrary_raw_bytes(content: bytes) -> None:
    """check_raw and raw_to_der accept the same bytes."""
    try:
        der = raw_to_der(content)
    except SignatureFormatError:
        for size in CURVES:
            with pytest.raises(SignatureFormatError):
                check_raw(content, size)
        return
    check_raw(content, len(content) // 2)
    assert der_to_raw(der, len(content) // 2) == content


def assert_strict(der: bytes, size: int) -> None:
    """Refused, or the only spelling of a signature that cryptography reads in the same way."""
    try:
        raw = der_to_raw(der, size)
    except SignatureFormatError:
        return
    assert len(raw) == 2 * size
    assert raw_to_der(raw) == der
    r, s = decode_dss_signature(der)
    assert raw == r.to_bytes(size, "big") + s.to_bytes(size, "big")


# --- misuse


@pytest.mark.parametrize("length", [73, 1000, 1 << 24])
def test_huge_input_is_refused_by_its_length(length: int) -> None:
    """No byte of an oversized signature is looked at."""
    with pytest.raises(SignatureFormatError, match=f"at most 72 bytes, not {length}"):
        der_to_raw(b"\x30" * length)
    with pytest.raises(SignatureFormatError, match=f"not {length}"):
        raw_to_der(bytes(length))


@pytest.mark.parametrize("value", [None, "30", 48, [0x30], bytearray(b"\x30"), memoryview(b"\x30")])
def test_signatures_are_bytes(value: Any) -> None:
    """Anything but bytes is a wrong type, whatever it holds."""
    for convert in (der_to_raw, raw_to_der, lambda v: check_raw(v, 32)):
        with pytest.raises(ArgumentTypeError, match="must be bytes"):
            convert(value)


@pytest.mark.parametrize("size", [0, -32, 31, 33, 64, 65, 256, True])
def test_only_the_sizes_of_the_three_curves(size: int) -> None:
    """Another size is the caller's mistake, and the message lists the sizes."""
    with pytest.raises(UsageError, match=r"32 .P-256., 48 .P-384. or 66 .P-521."):
        der_to_raw(b"\x30\x06\x02\x01\x01\x02\x01\x01", size)
    with pytest.raises(UsageError, match="size must be"):
        check_raw(bytes(64), size)


@pytest.mark.parametrize("size", ["32", None, 32.0, [32]])
def test_a_size_is_an_int(size: Any) -> None:
    """A size of another type is named as such."""
    with pytest.raises(ArgumentTypeError, match="size must be 32, 48 or 66"):
        der_to_raw(b"\x30", size)
    with pytest.raises(ArgumentTypeError):
        check_raw(bytes(64), size)


def test_refusals_hold_no_signature() -> None:
    """A message tells lengths and positions, never the bytes of a signature."""
    der = KEYS[32].sign(b"m", ec.ECDSA(SHA256(), deterministic_signing=True))
    for content in (der + b"\0", der[:-1], b"\x31" + der[1:]):
        with pytest.raises(SignatureFormatError) as caught:
            der_to_raw(content)
        assert der[8:16].hex() not in str(caught.value)
        assert repr(der[8:16])[2:-1] not in str(caught.value)
