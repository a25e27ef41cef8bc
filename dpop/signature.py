# SPDX-License-Identifier: Apache-2.0
"""Conversion of ECDSA signatures between DER (OpenSSL, key services) and raw R||S (JOSE).

The raw form is two unsigned big-endian integers, each padded to the length of the curve's order (RFC 7518 §3.4). DER
has exactly one form for each signature, BER has many. The parser here reads DER only (X.690 §8.3, §10.1), so that
nobody can make a second valid form of a signature. JOSE has no low-S rule: s is converted unchanged.
"""

from __future__ import annotations

import re
from typing import Final

from dpop._tracebacks import hide_frames
from dpop.errors import ArgumentTypeError, SignatureFormatError, UsageError

__all__ = ["check_raw", "der_to_raw", "raw_to_der"]

_CURVES: Final = {32: "P-256", 48: "P-384", 66: "P-521"}

# The order n of each curve's group (SP 800-186 §3.2.1), by its length in bytes.
_ORDERS: Final = {
    size: int(digits, 16)
    for size, digits in {
        32: "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551",
        48: "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973",
        66: "01fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffa"
        "51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409",
    }.items()
}
_ORDER_BYTES: Final = {size: order.to_bytes(size, "big") for size, order in _ORDERS.items()}

# SEQUENCE, then two INTEGERs of a tag, a length and at most size + 1 bytes each.
_MAX_DER: Final = {32: 72, 48: 104, 66: 139}

_INTEGER: Final = 0x02
_SEQUENCE: Final = 0x30


def _usual_layout(size: int) -> re.Pattern[bytes]:
    """Return a pattern for 99 % of DER signatures: r and s have full length, with a 00 only before a high bit."""
    number = rb"\x02(?:%b(?=[\x01-\x7f])|%b\x00(?=[\x80-\xff]))(.{%d})" % (
        re.escape(bytes([size])),
        re.escape(bytes([size + 1])),
        size,
    )
    return re.compile(rb"\x30(.)" + number + number, re.DOTALL)


# Beside the signature itself, signing a request should cost no measurable time. One match of this pattern takes half
# the time of the parser below. Other curves are rare and always use the parser.
_P256: Final = 32
_P256_ORDER: Final = _ORDER_BYTES[_P256]
_usual: Final = _usual_layout(_P256).fullmatch


@hide_frames
def der_to_raw(der: bytes, size: int = 32) -> bytes:
    """Convert a DER ECDSA signature to raw R||S (RFC 7518 §3.4).

    :param der: exactly one DER ``SEQUENCE { r INTEGER, s INTEGER }`` (RFC 3279 §2.2.3).
    :param size: bytes of r and of s: 32 for P-256, 48 for P-384, 66 for P-521.
    :returns: ``2 * size`` bytes.
    :raises SignatureFormatError: not DER, or r or s is not in 1..n-1; the message says which.
    :raises ArgumentTypeError: not bytes, or size not an int.
    :raises UsageError: the size is not one of these.
    """
    if size == _P256 and type(der) is bytes and (usual := _usual(der)):
        length, r, s = usual.groups()
        # Neither number begins with 00, so neither is zero. Bytes of equal length compare like the numbers they encode.
        if length[0] == len(der) - 2 and r < _P256_ORDER and s < _P256_ORDER:
            raw: bytes = r + s
            return raw
    if not isinstance(der, bytes):
        raise ArgumentTypeError("der", "bytes", der)
    _order_bytes(size)
    return _parse(der, size)


@hide_frames
def raw_to_der(raw: bytes) -> bytes:
    """Convert a raw R||S of 64, 96 or 132 bytes to DER (RFC 3279 §2.2.3).

    :raises SignatureFormatError: another length, or r or s not in 1..n-1.
    :raises ArgumentTypeError: not bytes.
    """
    if not isinstance(raw, bytes):
        raise ArgumentTypeError("raw", "bytes", raw)
    size = len(raw) // 2
    if len(raw) not in {64, 96, 132}:
        raise SignatureFormatError(
            f"a raw ECDSA signature has 64, 96 or 132 bytes (P-256, P-384, P-521), not {len(raw)}"
            + _looks_like_der(raw)
        )
    _check_numbers(raw, size, _ORDER_BYTES[size])
    body = _der_integer(raw[:size]) + _der_integer(raw[size:])
    if len(body) < 0x80:
        return bytes((_SEQUENCE, len(body))) + body
    return bytes((_SEQUENCE, 0x81, len(body))) + body


@hide_frames
def check_raw(raw: bytes, size: int) -> None:
    """Check that a raw R||S has ``2 * size`` bytes, and r and s in 1..n-1 (RFC 7518 §3.4).

    The signature itself is not verified.

    :raises SignatureFormatError: one of these is wrong; the message says which.
    :raises ArgumentTypeError: not bytes, or size not an int.
    :raises UsageError: a size other than 32, 48 or 66.
    """
    if not isinstance(raw, bytes):
        raise ArgumentTypeError("raw", "bytes", raw)
    order = _order_bytes(size)
    if len(raw) != 2 * size:
        raise SignatureFormatError(
            f"a raw {_CURVES[size]} signature has {2 * size} bytes, not {len(raw)}" + _looks_like_der(raw)
        )
    _check_numbers(raw, size, order)


def _check_numbers(raw: bytes, size: int, order: bytes) -> None:
    zero = bytes(size)
    if not (zero < raw[:size] < order and zero < raw[size:] < order):
        _check_range("r", int.from_bytes(raw[:size], "big"), size)
        _check_range("s", int.from_bytes(raw[size:], "big"), size)


def _order_bytes(size: int) -> bytes:
    if not isinstance(size, int):
        raise ArgumentTypeError("size", "32, 48 or 66", size)
    order = _ORDER_BYTES.get(size)
    if order is None:
        raise UsageError("size must be 32 (P-256), 48 (P-384) or 66 (P-521) bytes")
    return order


def _looks_like_der(data: bytes) -> str:
    return "; it looks like DER: convert it with der_to_raw" if data[:1] == b"\x30" else ""


def _check_range(name: str, value: int, size: int) -> None:
    if value == 0:
        raise SignatureFormatError(f"{name} is zero, which no ECDSA signature has")
    if value >= _ORDERS[size]:
        raise SignatureFormatError(f"{name} is not below the order of {_CURVES[size]}: not a signature of that curve")


def _der_integer(number: bytes) -> bytes:
    """Encode a positive number as INTEGER: with a leading 00 only if the highest bit is set."""
    if len(number) == _P256 and (start := _INTEGER_STARTS[number[0]]):
        return start + number
    data = number.lstrip(b"\0")
    if data[0] >= 0x80:
        data = b"\0" + data
    return bytes((_INTEGER, len(data))) + data


# The start of a DER INTEGER with 32 bytes, by the first of them. It is empty for 00, which DER leaves out.
_INTEGER_STARTS: Final = (b"", *[b"\x02\x20"] * 0x7F, *[b"\x02\x21\x00"] * 0x80)


# --- the strict parser


def _parse(der: bytes, size: int) -> bytes:
    if not der:
        raise SignatureFormatError("not DER: empty, there is no signature")
    if len(der) > _MAX_DER[size]:
        raise SignatureFormatError(
            f"a DER {_CURVES[size]} signature has at most {_MAX_DER[size]} bytes, not {len(der)}"
        )
    if len(der) == 2 * size and der[0] != _SEQUENCE:
        raise SignatureFormatError(
            f"not DER: {2 * size} bytes without a SEQUENCE; if it is a raw R||S already, do not convert it"
        )
    at, end = _element(der, 0, _SEQUENCE, "the SEQUENCE")
    if end != len(der):
        raise SignatureFormatError(f"not DER: {len(der) - end} bytes after the SEQUENCE")
    r, at = _number(der, at, "r", size)
    s, at = _number(der, at, "s", size)
    if at != end:
        raise SignatureFormatError(f"not DER: {end - at} bytes after s inside the SEQUENCE")
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


def _element(der: bytes, at: int, tag: int, what: str) -> tuple[int, int]:
    """Return where the content of the element at ``at`` begins and ends."""
    if len(der) < at + 2:
        raise SignatureFormatError(f"not DER: truncated before {what}")
    if der[at] != tag:
        raise SignatureFormatError(f"not DER: expected the tag {tag:02x} of {what}, got {der[at]:02x}")
    length, start = der[at + 1], at + 2
    if length == 0x80:
        raise SignatureFormatError(f"BER, not DER: {what} has an indefinite length")
    if length > 0x80:
        # Only a P-521 SEQUENCE reaches 128 bytes; DER then needs 81 before the length byte.
        if length > 0x81 or der[start : start + 1] < b"\x80":
            raise SignatureFormatError(f"BER, not DER: {what} has a longer length field than it needs")
        length, start = der[start], start + 1
    if start + length > len(der):
        raise SignatureFormatError(f"not DER: truncated inside {what}")
    return start, start + length


def _number(der: bytes, at: int, name: str, size: int) -> tuple[int, int]:
    """Read the INTEGER at ``at``, which must be in 1..n-1; return it and its end."""
    start, end = _element(der, at, _INTEGER, f"the INTEGER {name}")
    if start == end:
        raise SignatureFormatError(f"not DER: the INTEGER {name} is empty")
    if der[start] >= 0x80:
        raise SignatureFormatError(f"{name} is negative; a leading 00 byte is missing")
    if end - start > 1 and der[start] == 0 and der[start + 1] < 0x80:
        raise SignatureFormatError(f"BER, not DER: {name} has a leading 00 byte it does not need")
    value = int.from_bytes(der[start:end], "big")
    _check_range(name, value, size)
    return value, end
