# SPDX-License-Identifier: Apache-2.0
"""ECDSA signatures in DER and as R||S: pairs, and what is neither."""

from __future__ import annotations

from typing import Any

__all__ = ["signatures"]

Case = dict[str, Any]

CURVES = {"p256": 32, "p384": 48, "p521": 66}
ORDERS = {
    "p256": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    "p384": 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
    "p521": int(
        "01fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffa"
        "51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409",
        16,
    ),
}

# RFC 6979 A.2.5, A.2.6 and A.2.7, with the hash that goes with the curve in JOSE.
R = 0xEFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716
S = 0xF7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8
PUBLISHED = [
    ("rfc6979-A.2.5-sample", "p256", R, S),
    (
        "rfc6979-A.2.5-test",
        "p256",
        0xF1ABB023518351CD71D881567B1EA663ED3EFCF6C5132B354F28D3B0B7D38367,
        0x019F4113742A2B14BD25926B49C649155F267E60D3814B4C0CC84250E46F0083,
    ),
    (
        "rfc6979-A.2.6-sample",
        "p384",
        0x94EDBB92A5ECB8AAD4736E56C691916B3F88140666CE9FA73D64C4EA95AD133C81A648152E44ACF96E36DD1E80FABE46,
        0x99EF4AEB15F178CEA1FE40DB2603138F130E740A19624526203B6351D0A3A94FA329C145786E679E7B82C71A38628AC8,
    ),
    (
        "rfc6979-A.2.7-sample",
        "p521",
        int(
            "c328fafcbd79dd77850370c46325d987cb525569fb63c5d3bc53950e6d4c5f174e25a1ee9017b5d450606add152b534931"
            "d7d4e8455cc91f9b15bf05ec36e377fa",
            16,
        ),
        int(
            "617cce7cf5064806c467f678d3b4080d6f1cc50af26ca209417308281b68af282623eaa63e5b5c0723d8b8c37ff0777b1a"
            "20f8ccb1dccc43997f1ee0e44da4a67a",
            16,
        ),
    ),
]

# r and s of full length, with no 00 in front: what a fast path for the usual signature could let through.
USUAL_LONG_FORM = (
    "022077ea4595565b547e88a06ece6a2f40eb4e9643bdab557cc8e1a6875427579b8b"
    "02207be58e4a16b2be20ea1b63d0db714fb2f9f4806ddcd7fa0326e25597c21d66d4"
)


def integer(value: int) -> bytes:
    """A DER INTEGER."""
    data = value.to_bytes(value.bit_length() // 8 + 1, "big")
    return bytes((0x02, len(data))) + data


def sequence(body: bytes) -> bytes:
    """A DER SEQUENCE."""
    length = bytes((len(body),)) if len(body) < 0x80 else bytes((0x81, len(body)))
    return b"\x30" + length + body


def der(r: int, s: int) -> bytes:
    """The one DER form of a signature."""
    return sequence(integer(r) + integer(s))


def pair(name: str, curve: str, r: int, s: int) -> Case:
    """A signature in both forms."""
    size = CURVES[curve]
    raw = r.to_bytes(size, "big") + s.to_bytes(size, "big")
    return {"id": name, "size": size, "der": der(r, s).hex(), "raw": raw.hex()}


def no_der(name: str, data: bytes | str, reason: str, curve: str = "p256") -> Case:
    """Octets that are no DER signature of the curve; a str is hexadecimal."""
    written = data if isinstance(data, str) else data.hex()
    return {"id": name, "size": CURVES[curve], "der": written, "refused": reason}


def no_raw(name: str, data: bytes, reason: str, curve: str = "p256") -> Case:
    """Octets that are no raw signature of the curve."""
    return {"id": name, "size": CURVES[curve], "raw": data.hex(), "refused": reason}


def of_curve(curve: str) -> list[Case]:
    """Lengths and ranges, the same for each curve."""
    n, size = ORDERS[curve], CURVES[curve]
    order, ones, zero = n.to_bytes(size, "big"), b"\x01" * size, bytes(size)
    return [
        pair(f"{curve}-smallest", curve, 1, 1),
        pair(f"{curve}-largest", curve, n - 1, n - 1),
        pair(f"{curve}-r-short", curve, R >> 16 if curve == "p256" else n >> 20, n >> 1),
        pair(f"{curve}-s-short", curve, n >> 1, 0x7F),
        pair(f"{curve}-sign-octet", curve, 1 << (8 * (size - 2) + 7), 0x80),
        no_der(f"{curve}-r-zero", der(0, 1), "zero", curve),
        no_der(f"{curve}-s-zero", der(1, 0), "zero", curve),
        no_der(f"{curve}-r-order", der(n, 1), "range", curve),
        no_der(f"{curve}-s-order", der(1, n), "range", curve),
        no_der(f"{curve}-s-all-ones", der(1, (1 << 8 * size) - 1), "range", curve),
        no_raw(f"{curve}-raw-r-zero", zero + ones, "zero", curve),
        no_raw(f"{curve}-raw-s-zero", ones + zero, "zero", curve),
        no_raw(f"{curve}-raw-r-order", order + ones, "range", curve),
        no_raw(f"{curve}-raw-s-order", ones + order, "range", curve),
        no_raw(f"{curve}-raw-short", b"\x01" * (2 * size - 1), "length", curve),
        no_raw(f"{curve}-raw-long", b"\x01" * (2 * size + 2), "length", curve),
    ]


def of_der() -> list[Case]:
    """What DER forbids: each has a reading in BER, or is cut, or has something left over."""
    usual, n = der(R, S), ORDERS["p521"]
    r, s = integer(R), integer(S)
    one, two = integer(1), integer(2)
    raw = R.to_bytes(32, "big") + S.to_bytes(32, "big")
    return [
        no_der("empty", b"", "empty"),
        no_raw("raw-empty", b"", "length"),
        no_der("raw-given-as-der", raw, "raw"),
        no_raw("der-given-as-raw", usual, "der"),
        no_der("too-long", b"\x30\x81\x80" + bytes(128), "size"),
        no_der("p384-signature-for-p256", der(*PUBLISHED[2][2:]), "size"),
        no_der("tag-set", b"\x31" + usual[1:], "tag"),
        no_der("tag-r-octet-string", sequence(b"\x04" + r[1:] + s), "tag"),
        no_der("tag-s-bit-string", sequence(r + b"\x03" + s[1:]), "tag"),
        no_der("ber-sequence-length-81", "308106" + (one + two).hex(), "long-form"),
        no_der("ber-sequence-length-82", "30820006" + (one + two).hex(), "long-form"),
        no_der("ber-integer-length-81", "3007" + "02810101" + two.hex(), "long-form"),
        no_der("ber-integer-length-84", "300a" + "020102" + "02840000000101", "long-form"),
        no_der("ber-reserved-length-ff", "30ff" + (one + two).hex(), "long-form"),
        no_der("ber-indefinite-sequence", "3080" + (one + two).hex() + "0000", "indefinite"),
        no_der("ber-indefinite-integer", "3008" + "0280010000" + two.hex(), "indefinite"),
        no_der("ber-length-81-of-a-usual-signature", "308144" + USUAL_LONG_FORM, "long-form"),
        no_der("p521-length-82", "30820087" + der(n - 1, n >> 8).hex()[6:], "long-form", "p521"),
        no_der("p521-length-short-81", "308106" + (one + two).hex(), "long-form", "p521"),
        no_der("p521-length-octet-missing", "3081", "long-form", "p521"),
        no_der("negative-r", sequence(b"\x02\x20" + R.to_bytes(32, "big") + s), "negative"),
        no_der("negative-s", sequence(r + b"\x02\x20" + S.to_bytes(32, "big")), "negative"),
        no_der("minus-one", "3006" + "0201ff" + one.hex(), "negative"),
        no_der("needless-00-r", sequence(b"\x02\x02\x00\x01" + s), "needless-00"),
        no_der("needless-00-s", sequence(one + b"\x02\x02\x00\x7f"), "needless-00"),
        no_der("two-00-before-high-bit", sequence(b"\x02\x22\x00\x00" + R.to_bytes(32, "big") + one), "needless-00"),
        no_der("zero-as-two-octets", sequence(b"\x02\x02\x00\x00" + one), "needless-00"),
        no_der("integer-empty-r", sequence(b"\x02\x00" + one), "integer-empty"),
        no_der("integer-empty-s", sequence(one + b"\x02\x00"), "integer-empty"),
        no_der("sequence-empty", sequence(b""), "truncated"),
        no_der("one-integer", sequence(integer(5)), "truncated"),
        no_der("three-integers", sequence(integer(5) + integer(6) + integer(7)), "inside"),
        no_der("null-inside", sequence(integer(5) + integer(6) + b"\x05\x00"), "inside"),
        no_der("trailing-octet", der(5, 6) + b"\x00", "after"),
        no_der("trailing-sequence", der(5, 6) + der(5, 6), "after"),
        no_der("sequence-too-short", "3005" + (one + two).hex(), "after"),
        no_der("sequence-too-long", "3007" + (one + two).hex(), "truncated"),
        no_der("truncated-by-one", usual[:-1], "truncated"),
        no_der("truncated-to-header", usual[:1], "truncated"),
        no_der("truncated-in-r", "3003" + "0205" + "01", "truncated"),
        no_der("s-runs-over-end", "3006" + "020101" + "020201", "truncated"),
    ]


def signatures() -> dict[str, Any]:
    """The file signatures.json."""
    cases = [pair(*row) for row in PUBLISHED]
    for curve in CURVES:
        cases += of_curve(curve)
    return {
        "about": [
            "ECDSA signatures in DER (RFC 3279 2.2.3) and as raw R||S (RFC 7518 3.4), both in hexadecimal.",
            "size: octets of r and of s, 32 for P-256, 48 for P-384, 66 for P-521.",
            "der and raw: each converts to the other.",
            "der and refused: not strict DER of that curve. raw and refused: not a raw signature of that curve.",
        ],
        "cases": cases + of_der(),
    }
