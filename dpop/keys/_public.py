# SPDX-License-Identifier: Apache-2.0
"""Public keys: read from a JWK with every check; verify signatures; compute thumbprints.

A proof brings its own key, so a JWK is hostile input. If a key had two spellings, it would have two thumbprints; and
with some values that look like keys, anyone can sign. JOSE and cryptography libraries accept several of these, so the
checks are here (RFC 7518 §6, RFC 8037 §2, RFC 8725 §3.4).
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Final

from dpop._files import without_mark
from dpop._tracebacks import hide_frames
from dpop.encoding import b64url_decode, b64url_encode, json_object
from dpop.errors import (
    AlgorithmError,
    ArgumentTypeError,
    EncodingError,
    InvalidKeyError,
    SignatureFormatError,
)
from dpop.keys._algorithms import ALGORITHMS, RSA_ALGS
from dpop.signature import check_raw, raw_to_der

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    from dpop.keys._loaded import LoadedKey

__all__ = [
    "COORDINATE_SIZES",
    "REQUIRED_MEMBERS",
    "PublicKey",
    "algs_of_der",
    "decode_bytes",
    "decode_number",
    "der_of",
    "is_given",
    "private_member",
    "thumbprint",
    "unloaded_key",
]

# RFC 7638 §3.2, RFC 8037 §2, in the order of the thumbprint's input.
REQUIRED_MEMBERS: Final[Mapping[str, tuple[str, ...]]] = {
    "EC": ("crv", "kty", "x", "y"),
    "OKP": ("crv", "kty", "x"),
    "RSA": ("e", "kty", "n"),
}

# RFC 7638 §3.1. Values are base64url or fixed names, so JSON needs no escapes.
_CANONICAL: Final = {
    kty: "{" + ",".join(f'"{name}":"%s"' for name in names) + "}" for kty, names in REQUIRED_MEMBERS.items()
}

_ALG_OF_CURVE: Final = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
COORDINATE_SIZES: Final[Mapping[str, int]] = {"P-256": 32, "P-384": 48, "P-521": 66}
"""The bytes of a coordinate, and of a private key, on each curve."""

# RFC 7518 §6.2.2, §6.3.2, §6.4.1; "priv" belongs to the AKP key type.
_SECRET_MEMBERS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"})
_OPTIONAL_MEMBERS: Final = frozenset({"use", "key_ops", "alg"})  # RFC 7517 §4.2 to §4.4; most proofs have none

_MIN_RSA_BITS: Final = 2048  # RFC 7518 §3.3
_MAX_RSA_BITS: Final = 8192  # longer keys would add no security, but cost the verifier time
_MAX_RSA_EXPONENT: Final = 2**32

_ED25519_PRIME: Final = 2**255 - 19
_ORDER_8: Final = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
# The y of the eight points whose order divides 8 (orders 4, 1, 2, 8 and 8); the sign of x does not matter.
# With such a key one signature is valid for every message, and OpenSSL accepts the key.
_SMALL_ORDER: Final = frozenset({0, 1, _ED25519_PRIME - 1, _ORDER_8, _ED25519_PRIME - _ORDER_8})


class PublicKey:
    """A public key that passed every check. Immutable; equal to another with the same thumbprint.

    Make one with :meth:`from_jwk`, which also accepts untrusted input, :meth:`from_bytes` or
    :meth:`from_cryptography`. One check is missing: whether an Ed25519 key is a point of the curve. It would take as
    long as verifying a signature, and no signature verifies with a value that is not such a point.
    """

    __slots__ = ("_algs", "_declared_alg", "_decoded", "_loaded", "_signature_size", "_thumbprint", "_values")

    def __init__(
        self,
        values: tuple[str, ...],
        decoded: bytes | tuple[int, int],
        algs: tuple[str, ...],
        signature_size: int,
        declared_alg: str | None,
    ) -> None:
        """Store the arguments unchecked: use :meth:`from_jwk` or another class method instead."""
        self._loaded: LoadedKey | None = None
        self._values = values
        self._decoded = decoded
        self._algs = algs
        self._signature_size = signature_size
        self._declared_alg = declared_alg
        canonical = _CANONICAL[ALGORITHMS[algs[0]].kty] % values
        self._thumbprint = b64url_encode(hashlib.sha256(canonical.encode("ascii")).digest())

    @classmethod
    @hide_frames
    def from_jwk(cls, jwk: Mapping[str, object]) -> PublicKey:
        """Read a public JWK, strictly (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2, RFC 9449 §4.3 (7)).

        These are refused: private and symmetric members with a value, other key types and curves, missing
        members, values that are not canonical base64url, coordinates of another length, points
        that are not on the curve or of small order, RSA moduli outside 2048..8192 bits, RSA exponents
        that are even, below 3 or above 2^32, and a ``use`` or ``key_ops`` that excludes verifying. Optional and
        private members that are null or empty count as absent, because some libraries write all members that
        they know. Other members are ignored; ``alg`` is kept in :attr:`declared_alg`.

        :raises InvalidKeyError: the JWK is refused; the message says why, and contains no value of it.
        """
        key = unloaded_key(jwk)
        key._load()  # noqa: SLF001 - the class of this method; it refuses a point that is not on its curve
        return key

    @classmethod
    def from_cryptography(cls, key: object) -> PublicKey:
        """Make a public key from a key object of the ``cryptography`` package, with the checks of :meth:`from_jwk`.

        :raises InvalidKeyError: not a key DPoP can use.
        """
        from dpop.keys._loaded import jwk_of  # noqa: PLC0415 - it loads OpenSSL

        return cls.from_jwk(jwk_of(key))

    def to_cryptography(self) -> ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey:
        """Return the key as an object of the ``cryptography`` package."""
        return self._load().key

    @classmethod
    @hide_frames
    def from_bytes(cls, data: bytes) -> PublicKey:
        """Read the content of a public key file: PEM (as ``openssl pkey -pubout`` writes it), DER, or a JWK.

        :raises InvalidKeyError: not one of these formats, a private key, or not a key that DPoP can use.
        :raises ArgumentTypeError: not bytes.
        """
        if not isinstance(data, bytes):
            raise ArgumentTypeError("data", "bytes", data)
        data = without_mark(data)
        if data.lstrip()[:1] == b"{":
            try:
                return cls.from_jwk(json_object(data))
            except EncodingError as error:
                raise InvalidKeyError(f"this looks like a JWK, but is {error}") from None
        from dpop.keys._loaded import read_public_file  # noqa: PLC0415 - it loads OpenSSL

        key = read_public_file(data)
        return cls.from_cryptography(key).restricted(algs_of_der(der_of(data)))

    def restricted(self, algs: tuple[str, ...] | None) -> PublicKey:
        """Return this key restricted to some of its algorithms; with None, the key itself.

        :raises InvalidKeyError: the key has none of these algorithms.
        """
        if algs is None:
            return self
        kept = tuple(alg for alg in self._algs if alg in algs)
        if not kept:
            raise InvalidKeyError(
                "the RSA key is for RSASSA-PSS with a hash that no DPoP algorithm uses; use SHA-256, SHA-384 or SHA-512"
            )
        return PublicKey(self._values, self._decoded, kept, self._signature_size, self._declared_alg)

    @property
    def algs(self) -> tuple[str, ...]:
        """The algorithms this key can verify, best first, such as ``("ES256",)``; an RSA key has six."""
        return self._algs

    @property
    def declared_alg(self) -> str | None:
        """The ``alg`` member of the JWK, unchecked, for the caller to compare (RFC 7517 §4.4)."""
        return self._declared_alg

    @property
    def jwk(self) -> dict[str, str]:
        """The public JWK with its required members only, in a new dict."""
        return dict(zip(REQUIRED_MEMBERS[ALGORITHMS[self._algs[0]].kty], self._values, strict=True))

    @property
    def thumbprint(self) -> str:
        """RFC 7638 SHA-256 thumbprint, 43 characters: the ``jkt`` (RFC 9449 §6.1)."""
        return self._thumbprint

    def verify(self, alg: str, signing_input: bytes, signature: bytes) -> bool:
        """Return whether ``signature`` is a valid signature of ``signing_input`` by this key (RFC 7515 §5.2).

        :param signature: JWS bytes: R||S for ES256, ES384 and ES512. A high S is accepted like a low S.
        :raises SignatureFormatError: the length is wrong, or r or s is out of range.
        :raises AlgorithmError: ``alg`` is not in :attr:`algs`.
        :raises ArgumentTypeError: not bytes.
        """
        if alg not in self._algs:
            raise AlgorithmError(f"this key verifies {' and '.join(self._algs)}, not {alg!r:.40}")
        if not isinstance(signing_input, bytes):
            raise ArgumentTypeError("signing_input", "bytes", signing_input)
        if not isinstance(signature, bytes):
            raise ArgumentTypeError("signature", "bytes", signature)
        size = self._signature_size
        if ALGORITHMS[alg].kty == "EC":
            if len(signature) != size:
                check_raw(signature, size // 2)
            signature = raw_to_der(signature)
        elif len(signature) != size:
            raise SignatureFormatError(f"a signature by this key has {size} bytes, not {len(signature)}")
        loaded = self._loaded or self._load()
        return loaded.verify(alg, signing_input, signature)

    def _load(self) -> LoadedKey:
        """Have OpenSSL load the key, once. Two threads may both do so, which does no harm.

        :raises InvalidKeyError: not a point of its curve.
        """
        if self._loaded is None:
            self._loaded = _loader()(self._values[0], self._decoded)
        return self._loaded

    def __repr__(self) -> str:
        return f"<PublicKey {self._algs[0]} {self._thumbprint}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and self._thumbprint == other._thumbprint

    def __hash__(self) -> int:
        return hash(self._thumbprint)


@cache
def _loader() -> type[LoadedKey]:
    """The class of loaded keys, imported once: an import statement in a function costs 1 us each time."""
    from dpop.keys._loaded import LoadedKey  # noqa: PLC0415 - it loads OpenSSL

    return LoadedKey


def unloaded_key(jwk: Mapping[str, object]) -> PublicKey:
    """Read a public JWK whose holder has checked it, without OpenSSL: whether its point is on the curve is not checked.

    The key is loaded, and then refused if it is wrong, before it verifies a signature.

    :raises InvalidKeyError: the JWK is refused for another reason of :meth:`PublicKey.from_jwk`.
    """
    if type(jwk) is not dict and not isinstance(jwk, Mapping):
        raise InvalidKeyError(f"a JWK must be a JSON object, not {type(jwk).__name__}")
    name = private_member(jwk)
    if name is not None:
        raise InvalidKeyError(
            f'a public key is needed, but the JWK has "{name}", a member of private or symmetric keys'
        )
    declared = None
    if not _OPTIONAL_MEMBERS.isdisjoint(jwk):
        _check_purpose(jwk)
        declared = _text(jwk, "alg") if is_given(jwk, "alg") else None
    kty = jwk.get("kty")
    decoded: bytes | tuple[int, int]
    if kty == "EC":
        decoded, algs, size = _read_ec(jwk)
    elif kty == "OKP":
        decoded, algs, size = _read_ed25519(jwk)
    elif kty == "RSA":
        decoded, algs, size = _read_rsa(jwk)
    else:
        raise _wrong_kty(jwk)
    values = tuple([str(jwk[name]) for name in REQUIRED_MEMBERS[kty]])
    return PublicKey(values, decoded, algs, size, declared)


def is_given(jwk: Mapping[str, object], name: str) -> bool:
    """Whether the member is present and has a value; null, ``""``, ``[]`` and ``{}`` count as absent."""
    value = jwk.get(name)
    return value is not None and not (isinstance(value, (str, list, dict)) and not value)


def private_member(jwk: Mapping[str, object]) -> str | None:
    """Return the name of a member of private or symmetric keys that has a value; None if there is no such member."""
    if _SECRET_MEMBERS.isdisjoint(jwk):
        return None
    return next((name for name in jwk if name in _SECRET_MEMBERS and is_given(jwk, name)), None)


@hide_frames
def thumbprint(jwk: Mapping[str, object]) -> str:
    """Return the RFC 7638 SHA-256 thumbprint of a JWK, 43 characters: the ``jkt`` of RFC 9449 §6.1.

    A private JWK has the thumbprint of its public key. Optional members do not affect it.

    :raises InvalidKeyError: not an asymmetric key that DPoP can use, or not in its canonical spelling.
    """
    if not isinstance(jwk, Mapping):
        raise InvalidKeyError(f"a JWK must be a JSON object, not {type(jwk).__name__}")
    kty = jwk.get("kty")
    names = REQUIRED_MEMBERS.get(kty) if isinstance(kty, str) else None
    if names is None:
        raise _wrong_kty(jwk)
    return PublicKey.from_jwk({name: jwk[name] for name in names if name in jwk}).thumbprint


# --- the algorithms to which a key's encoding restricts it

_PSS: Final = bytes.fromhex("06092a864886f70d01010a")
_PSS_HASHES: Final = {
    bytes.fromhex("0609608648016503040201"): "PS256",
    bytes.fromhex("0609608648016503040202"): "PS384",
    bytes.fromhex("0609608648016503040203"): "PS512",
}


def der_of(data: bytes) -> bytes:
    """Return the DER of a key in PEM or DER; empty if the lines of the PEM cannot be read."""
    if b"-----BEGIN " not in data:
        return data
    inside = re.search(rb"-----BEGIN [^-]{1,60}-----([^-]*)-----END ", data)
    try:
        return base64.b64decode(inside[1]) if inside else b""
    except ValueError:
        return b""


def algs_of_der(der: bytes) -> tuple[str, ...] | None:
    """Return the algorithms to which a key's encoding restricts it; None if it does not (RFC 4055 §1.2).

    A key of the type id-RSASSA-PSS must not sign with RSASSA-PKCS1-v1_5. If it has parameters, it may use one hash
    only. The cryptography package reads it like any RSA key, and drops both facts.

    :param der: SubjectPublicKeyInfo, or PKCS#8 that is not encrypted.
    """
    at = der.find(_PSS, 0, 24)
    if at < 2 or der[at - 2] != 0x30:
        return None
    parameters_of = der[at + len(_PSS) : at + der[at - 1]]
    if parameters_of in {b"", b"\x05\x00"}:
        return tuple(_PSS_HASHES.values())
    return tuple(alg for oid, alg in _PSS_HASHES.items() if oid in parameters_of)[:1]


# --- reading members


def decode_bytes(jwk: Mapping[str, object], name: str, size: int) -> bytes:
    """Decode a member of fixed length to its ``size`` bytes.

    :raises InvalidKeyError: the member is missing, not a string, not canonical base64url, or has another length.
    """
    value = _text(jwk, name)
    expected = (size * 8 + 5) // 6
    if len(value) != expected:
        raise InvalidKeyError(
            f'the "{name}" of the JWK must be {expected} characters of base64url ({size} bytes,'
            f" leading zeros included, no padding), not {len(value)}"
        )
    return _decoded(value, name)


def decode_number(jwk: Mapping[str, object], name: str, max_bits: int) -> int:
    """Decode a member of variable length to a positive number (RFC 7518 §2, Base64urlUInt).

    :raises InvalidKeyError: the member is missing, not a string, not canonical base64url, zero, has a leading
        zero byte, or is longer than ``max_bits``.
    """
    value = _text(jwk, name)
    # Check the length first, before the value costs any time.
    if len(value) > (max_bits + 7) // 8 * 4 / 3 + 1:
        raise InvalidKeyError(f'the "{name}" of the JWK is longer than {max_bits} bits')
    data = _decoded(value, name)
    if not data or data[0] == 0:
        raise InvalidKeyError(f'the "{name}" of the JWK is empty or has a leading zero byte')
    number = int.from_bytes(data, "big")
    if number.bit_length() > max_bits:
        raise InvalidKeyError(f'the "{name}" of the JWK is longer than {max_bits} bits')
    return number


def _text(jwk: Mapping[str, object], name: str) -> str:
    value = jwk.get(name)
    if isinstance(value, str):
        return value
    what = "is not a string" if name in jwk else "is missing"
    raise InvalidKeyError(f'the "{name}" of the JWK {what}')


def _decoded(value: str, name: str) -> bytes:
    try:
        return b64url_decode(value)
    except EncodingError as error:
        raise InvalidKeyError(f'the "{name}" of the JWK is {error}') from None


# --- the three key types


def _read_ec(jwk: Mapping[str, object]) -> tuple[bytes, tuple[str, ...], int]:
    crv = _text(jwk, "crv")
    size = COORDINATE_SIZES.get(crv)
    if size is None:
        raise InvalidKeyError('the "crv" of the JWK is not a curve of DPoP; expected P-256, P-384 or P-521')
    point = b"\x04" + decode_bytes(jwk, "x", size) + decode_bytes(jwk, "y", size)
    return point, (_ALG_OF_CURVE[crv],), 2 * size


def _read_ed25519(jwk: Mapping[str, object]) -> tuple[bytes, tuple[str, ...], int]:
    if _text(jwk, "crv") != "Ed25519":
        raise InvalidKeyError('the "crv" of the JWK is not a curve of DPoP; with "kty" OKP expected Ed25519')
    data = decode_bytes(jwk, "x", 32)
    y = int.from_bytes(data, "little") & (2**255 - 1)
    if y >= _ED25519_PRIME:
        raise InvalidKeyError('the "x" of the JWK is not the canonical encoding of an Ed25519 point (RFC 8032 §5.1.3)')
    if y in _SMALL_ORDER:
        raise InvalidKeyError("the JWK is an Ed25519 point of small order: anyone could sign for it")
    return data, ("Ed25519", "EdDSA"), 64


def _read_rsa(jwk: Mapping[str, object]) -> tuple[tuple[int, int], tuple[str, ...], int]:
    n = decode_number(jwk, "n", _MAX_RSA_BITS)
    if n.bit_length() < _MIN_RSA_BITS:
        raise InvalidKeyError(f"the RSA key has {n.bit_length()} bits; at least {_MIN_RSA_BITS} are needed")
    e = decode_number(jwk, "e", 33)
    if e < 3 or e > _MAX_RSA_EXPONENT or not e % 2 or not n % 2:
        raise InvalidKeyError(
            "the RSA key is weak: n must be odd, and e odd, at least 3 and at most 2^32 (65537 is usual)"
        )
    return (e, n), RSA_ALGS, (n.bit_length() + 7) // 8


def _check_purpose(jwk: Mapping[str, object]) -> None:
    """Check that ``use`` and ``key_ops``, if present, allow verifying (RFC 7517 §4.2, §4.3)."""
    if is_given(jwk, "use") and jwk["use"] != "sig":
        raise InvalidKeyError('the "use" of the JWK is not "sig": the key is not for signatures')
    if is_given(jwk, "key_ops"):
        operations = jwk["key_ops"]
        if not isinstance(operations, list) or "verify" not in operations:
            raise InvalidKeyError('the "key_ops" of the JWK have no "verify": the key is not for signatures')


def _wrong_kty(jwk: Mapping[str, object]) -> InvalidKeyError:
    kty = jwk.get("kty")
    if "keys" in jwk and "kty" not in jwk:
        return InvalidKeyError("this is a JWK Set, but a single JWK is needed; pass one of its keys")
    if kty == "oct":
        return InvalidKeyError("this is a symmetric key, but an asymmetric key is needed (RFC 9449 §4.2)")
    what = "is missing" if "kty" not in jwk else "is not one DPoP can use"
    return InvalidKeyError(f'the "kty" of the JWK {what}; expected EC, OKP or RSA')
