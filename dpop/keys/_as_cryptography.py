# SPDX-License-Identifier: Apache-2.0
"""Wrap a key of this package in the private-key interface of ``cryptography``, for libraries that expect it.

PyJWT takes such an object as its key; joserfc takes it together with the public JWK. The object signs and returns its
public key. It refuses all methods that would need the private part.
"""

from __future__ import annotations

from typing import Any, NoReturn, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric import padding as paddings

from dpop.errors import DPoPKeyError
from dpop.keys._algorithms import ALGORITHMS, Key, parameters
from dpop.keys._public import PublicKey
from dpop.signature import raw_to_der

__all__ = ["as_cryptography_key"]


def as_cryptography_key(key: Key) -> ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey:
    """Wrap the key as a private key object of ``cryptography``; it refuses to export the private part.

    For PyJWT: ``jwt.encode(claims, as_cryptography_key(key), algorithm=key.alg)``. For joserfc, add
    the public JWK: ``ECKey(as_cryptography_key(key), key.public_jwk)``.

    The object signs only with the key's own algorithm; another hash or padding raises cryptography's
    UnsupportedAlgorithm. It signs in the calling thread, so a device or service blocks an event loop.

    :raises InvalidKeyError: the key's public JWK is not a key DPoP can use.
    """
    public = PublicKey.from_jwk(key.public_jwk)
    kty = ALGORITHMS[public.algs[0]].kty
    if kty == "EC":
        return _EllipticCurveKey(key, public)
    if kty == "OKP":
        return _Ed25519Key(key, public)
    return _RSAKey(key, public)


class _WrappedKey:
    """The common base of the three key types."""

    def __init__(self, key: Key, public: PublicKey) -> None:
        self._key = key
        self._public: Any = public.to_cryptography()

    def public_key(self) -> Any:
        return self._public

    @property
    def key_size(self) -> int:
        size: int = self._public.key_size
        return size

    def private_numbers(self) -> NoReturn:
        _refuse_export()

    def private_bytes(self, *_how: object, **_more: object) -> NoReturn:
        _refuse_export()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        _refuse_export()

    def __repr__(self) -> str:
        return f"<private key object of {self._key!r}>"


class _EllipticCurveKey(_WrappedKey, ec.EllipticCurvePrivateKey):
    @property
    def curve(self) -> ec.EllipticCurve:
        curve: ec.EllipticCurve = self._public.curve
        return curve

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        (wanted,) = parameters(self._key.alg)
        _check_hash(getattr(signature_algorithm, "algorithm", None), wanted.algorithm, self._key.alg)
        return raw_to_der(self._key.sign(bytes(data)))

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> NoReturn:  # noqa: ARG002
        raise DPoPKeyError("this key signs; it does not exchange keys")


class _Ed25519Key(_WrappedKey, ed25519.Ed25519PrivateKey):
    def sign(self, data: Any) -> bytes:
        return self._key.sign(bytes(data))

    def private_bytes_raw(self) -> NoReturn:
        _refuse_export()


class _RSAKey(_WrappedKey, rsa.RSAPrivateKey):
    def sign(self, data: Any, padding: paddings.AsymmetricPadding, algorithm: Any) -> bytes:
        wanted, hashing = parameters(self._key.alg)
        _check_hash(algorithm, hashing, self._key.alg)
        if type(padding) is not type(wanted) or not _has_jose_salt(padding, hashing):
            raise UnsupportedAlgorithm(
                f"this key signs {self._key.alg}, which has another padding (RFC 7518 §3.3, §3.5)"
            )
        return self._key.sign(bytes(data))

    def decrypt(self, ciphertext: bytes, padding: paddings.AsymmetricPadding) -> NoReturn:  # noqa: ARG002
        raise DPoPKeyError("this key signs; it does not decrypt")


def _check_hash(given: object, wanted: hashes.HashAlgorithm, alg: str) -> None:
    """Check that the caller asks for the hash of the key's algorithm: the key itself hashes the data."""
    if type(given) is not type(wanted):
        name = getattr(given, "name", type(given).__name__)
        raise UnsupportedAlgorithm(f"this key signs {alg}: it hashes the data itself with {wanted.name}, not {name}")


def _has_jose_salt(padding: Any, hashing: hashes.HashAlgorithm) -> bool:
    """Whether a PSS padding has JOSE's salt length and MGF1 hash (RFC 7518 §3.5); True for other paddings."""
    if not isinstance(padding, paddings.PSS):
        return True
    # The oldest supported cryptography has no public attribute for this.
    salt, mask = getattr(padding, "_salt_length", None), getattr(getattr(padding, "_mgf", None), "_algorithm", None)
    return type(mask) is type(hashing) and salt in {hashing.digest_size, paddings.PSS.DIGEST_LENGTH}


def _refuse_export() -> NoReturn:
    raise DPoPKeyError(
        "the private key cannot be exported: this object can only sign and return its public key. joserfc needs the"
        " public JWK, too: ECKey(as_cryptography_key(key), key.public_jwk)"
    )
