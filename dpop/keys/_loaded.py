# SPDX-License-Identifier: Apache-2.0
"""Public keys as objects of the ``cryptography`` package, which verifies signatures.

They are not in :mod:`dpop.keys._public`, so that a program whose keys are in the signing agent does not load
OpenSSL: it takes half of the time that such a command needs to start.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from dpop.encoding import b64url_encode
from dpop.errors import InvalidKeyError
from dpop.keys._algorithms import parameters

__all__ = ["EC_CURVES", "CryptographyKey", "LoadedKey", "jwk_of", "read_public_file"]

CryptographyKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey

EC_CURVES: Final[Mapping[str, ec.EllipticCurve]] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
}
_CRV_OF_CURVE: Final = {curve.name: crv for crv, curve in EC_CURVES.items()}


class LoadedKey:
    """A public key that OpenSSL has loaded.

    :param crv: the curve; it means nothing for RSA.
    :param decoded: an uncompressed point, the bytes of an Ed25519 key, or exponent and modulus.
    :raises InvalidKeyError: not a point of its curve.
    """

    __slots__ = ("key",)

    def __init__(self, crv: str, decoded: bytes | tuple[int, int]) -> None:
        self.key: CryptographyKey = _load(crv, decoded)

    def verify(self, alg: str, signing_input: bytes, signature: bytes) -> bool:
        """Return whether the signature is valid.

        :param signature: as OpenSSL expects it: DER for ECDSA.
        """
        try:
            key: Any = self.key
            key.verify(signature, signing_input, *parameters(alg))
        except InvalidSignature:
            return False
        return True


def _load(crv: str, decoded: bytes | tuple[int, int]) -> CryptographyKey:
    if isinstance(decoded, tuple):
        return rsa.RSAPublicNumbers(*decoded).public_key()
    if crv == "Ed25519":
        return ed25519.Ed25519PublicKey.from_public_bytes(decoded)
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(EC_CURVES[crv], decoded)
    except ValueError:
        raise InvalidKeyError('the "x" and "y" of the JWK are not a point of its curve') from None


def jwk_of(key: object) -> dict[str, str]:
    """Return the JWK of a key object of the ``cryptography`` package, unchecked.

    :raises InvalidKeyError: not a kind of key that DPoP can use.
    """
    if isinstance(key, ec.EllipticCurvePublicKey):
        crv = _CRV_OF_CURVE.get(key.curve.name)
        if crv is None:
            raise InvalidKeyError(f"the curve {key.curve.name} is not for DPoP; use P-256, P-384 or P-521")
        size = (key.curve.key_size + 7) // 8
        point = key.public_numbers()
        x, y = (b64url_encode(number.to_bytes(size, "big")) for number in (point.x, point.y))
        return {"kty": "EC", "crv": crv, "x": x, "y": y}
    if isinstance(key, ed25519.Ed25519PublicKey):
        raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        return {"kty": "OKP", "crv": "Ed25519", "x": b64url_encode(raw)}
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        n, e = (
            b64url_encode(number.to_bytes((number.bit_length() + 7) // 8, "big")) for number in (numbers.n, numbers.e)
        )
        return {"kty": "RSA", "n": n, "e": e}
    raise InvalidKeyError(f"a {type(key).__name__} cannot sign proofs; use a P-256, P-384, P-521, Ed25519 or RSA key")


def read_public_file(data: bytes) -> object:
    """Read a public key in PEM or DER.

    :raises InvalidKeyError: it contains no such key.
    """
    read = serialization.load_pem_public_key if b"-----BEGIN" in data else serialization.load_der_public_key
    try:
        return read(data)
    except (ValueError, UnsupportedAlgorithm, InternalError):  # OpenSSL may have no error code: InternalError
        raise InvalidKeyError(
            "this is not a public key: expected PEM (-----BEGIN PUBLIC KEY-----), DER or a JWK; from a private key,"
            " openssl pkey -pubout makes one"
        ) from None
