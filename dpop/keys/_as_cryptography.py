# SPDX-License-Identifier: Apache-2.0
"""Wrap a key of this package in the private-key interface of ``cryptography``, for libraries that need that.

PyJWT takes such an object as its key, and joserfc takes it with the public JWK beside it. It signs and
shows its public key. Whatever would need the private part is refused, wherever the key is kept.
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

    With PyJWT it is the key: ``jwt.encode(claims, as_cryptography_key(key), algorithm=key.alg)``. joserfc wants
    the public part beside it: ``ECKey(as_cryptography_key(key), key.public_jwk)``.

    The object signs by the key's own algorithm only; another hash or padding raises cryptography's
    UnsupportedAlgorithm. It signs where it is called: a library that does so in an event loop waits there.

    :raises InvalidKeyError: its public JWK is not a key DPoP can use.
    """
    public = PublicKey.from_jwk(key.public_jwk)
    kty = ALGORITHMS[public.algs[0]].kty
    if kty == "EC":
        return _EllipticCurveKey(key, public)
    if kty == "OKP":
        return _Ed25519Key(key, public)
    return _RSAKey(key, public)


class _Held:
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


class _EllipticCurveKey(_Held, ec.EllipticCurvePrivateKey):
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


class _Ed25519Key(_Held, ed25519.Ed25519PrivateKey):
    def sign(self, data: Any) -> bytes:
        return self._key.sign(bytes(data))

    def private_bytes_raw(self) -> NoReturn:
        _refuse_export()


class _RSAKey(_Held, rsa.RSAPrivateKey):
    def sign(self, data: Any, padding: paddings.AsymmetricPadding, algorithm: Any) -> bytes:
        wanted, hashing = parameters(self._key.alg)
        _check_hash(algorithm, hashing, self._key.alg)
        if type(padding) is not type(wanted) or not _is_salted_as_jose_says(padding, hashing):
            raise UnsupportedAlgorithm(f"this key signs {self._key.alg} and pads as that does (RFC 7518 §3.3, §3.5)")
        return self._key.sign(bytes(data))

    def decrypt(self, ciphertext: bytes, padding: paddings.AsymmetricPadding) -> NoReturn:  # noqa: ARG002
        raise DPoPKeyError("this key signs; it does not decrypt")


def _check_hash(given: object, wanted: hashes.HashAlgorithm, alg: str) -> None:
    """Check that the caller asks for the key's own hash; the key hashes itself, so it cannot sign a given digest."""
    if type(given) is not type(wanted):
        name = getattr(given, "name", type(given).__name__)
        raise UnsupportedAlgorithm(f"this key signs {alg}: it hashes the data itself with {wanted.name}, not {name}")


def _is_salted_as_jose_says(padding: Any, hashing: hashes.HashAlgorithm) -> bool:
    """Whether a PSS padding has the salt length and MGF1 hash that JOSE needs (RFC 7518 §3.5); others always pass."""
    if not isinstance(padding, paddings.PSS):
        return True
    # The oldest supported cryptography has no public attribute for this.
    salt, mask = getattr(padding, "_salt_length", None), getattr(getattr(padding, "_mgf", None), "_algorithm", None)
    return type(mask) is type(hashing) and salt in {hashing.digest_size, paddings.PSS.DIGEST_LENGTH}


def _refuse_export() -> NoReturn:
    raise DPoPKeyError(
        "the private key cannot be exported: the object signs and shows its public key, no more. joserfc needs the"
        " public JWK beside it: ECKey(as_cryptography_key(key), key.public_jwk)"
    )
