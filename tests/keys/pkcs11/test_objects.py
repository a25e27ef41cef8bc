# SPDX-License-Identifier: Apache-2.0
"""CKA_EC_POINT: every form in use is told apart by its length. Finding objects is tested with real devices."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dpop.errors import InvalidKeyError
from dpop.keys._public import PublicKey
from dpop.keys.pkcs11._objects import read_point

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def x_begins_with(byte: int) -> int:
    """A private number whose public X begins with the byte."""
    return next(
        number
        for number in range(1, 10_000)
        if ec.derive_private_key(number, ec.SECP256R1()).public_key().public_numbers().x >> 248 == byte
    )


# A bare point is 04 and X: with these it begins as DER's OCTET STRING or BIT STRING of some length would.
@example(x_begins_with(0x3F))
@example(x_begins_with(0x41))
@example(x_begins_with(0x21))
@settings(max_examples=60)
@given(st.integers(1, ORDER - 1))
def test_every_form_is_the_same_key(number: int) -> None:
    """DER OCTET STRING, DER BIT STRING and bare, compressed or not."""
    public = ec.derive_private_key(number, ec.SECP256R1()).public_key()
    expected = PublicKey.from_cryptography(public)
    for form in (PublicFormat.UncompressedPoint, PublicFormat.CompressedPoint):
        bare = public.public_bytes(Encoding.X962, form)
        assert read_point(bare) == expected
        assert read_point(bytes([4, len(bare)]) + bare) == expected
        assert read_point(bytes([3, len(bare) + 1, 0]) + bare) == expected


POINT = (
    ec.derive_private_key(7, ec.SECP256R1()).public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x04",
        bytes(65),
        POINT[:-1],
        POINT + b"\0",
        POINT[:-1] + bytes([POINT[-1] ^ 1]),
        b"\x04\x40" + POINT,
        b"\x05\x41" + POINT,
        b"\x03\x42\x01" + POINT,
        b"\x04\x61\x04" + bytes(96),
        b"\x00",
    ],
    ids=lambda data: f"{len(data)}-{data[:2].hex()}",
)
def test_what_is_no_point(data: bytes) -> None:
    """Points of other curves, damaged ones and other bytes are refused."""
    with pytest.raises(InvalidKeyError, match="not a point of P-256"):
        read_point(data)
