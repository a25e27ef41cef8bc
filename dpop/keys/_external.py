# SPDX-License-Identifier: Apache-2.0
"""Keys in a service, a device or another process. Each signature is verified before it is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, NoReturn, Self

from dpop._tracebacks import hide_frames
from dpop.errors import (
    AlgorithmError,
    ArgumentTypeError,
    DPoPError,
    DPoPKeyError,
    InvalidKeyError,
    SigningError,
    UsageError,
)
from dpop.keys._algorithms import ALGORITHMS
from dpop.keys._public import PublicKey
from dpop.signature import der_to_raw

__all__ = ["ExternalKey", "SignatureFormat", "read_public_key"]

SignatureFormat = Literal["der", "raw"]
"""The format of a signer's ECDSA signatures: DER (OpenSSL, AWS, Google Cloud) or R||S (PKCS#11, Azure)."""

_FORMATS: Final = ("der", "raw")


class ExternalKey:
    """A key outside this process: you give its public key and a function that signs bytes.

    Each signature is converted to the JOSE format, and verified with the public key before it is returned. So a signer
    that hashes twice, returns the other format or signs with another key fails here, not at the server. The object is
    immutable, and as thread-safe as ``sign`` is.

    :param public_key: a JWK, also as bytes, PEM or DER (SubjectPublicKeyInfo, or a certificate in PEM), a key object of
        the ``cryptography`` package, or a :class:`dpop.keys.PublicKey`.
    :param sign: a function that takes the signing input, which is not hashed yet, and returns the signature. Its
        DPoPKeyErrors are raised unchanged. Of other exceptions only the type is reported, because their text may
        contain secrets.
    :param signature_format: the format of its ECDSA signatures, ``"der"`` or ``"raw"`` (R||S). It is never
        guessed. Signatures of other kinds of keys have one format only, so there it is ignored.
    :param alg: which of the key's algorithms ``sign`` uses; the best by default (``PS256`` for RSA).
    :param blocking: whether ``sign`` may wait for a device, a network or a person. Then asynchronous
        clients call it in a worker thread.
    :param reference: the path or URI, without any secret, by which :func:`dpop.load_key` opens the key.
    :raises InvalidKeyError: ``public_key`` is not a public key that DPoP can use.
    :raises AlgorithmError: the key cannot sign with ``alg``.
    """

    __slots__ = (
        "__weakref__",
        "_alg",
        "_blocking",
        "_format",
        "_public",
        "_reference",
        "_sign",
        "_size",
        "_thumbprint",
    )

    def __init__(
        self,
        public_key: object,
        sign: Callable[[bytes], bytes],
        *,
        signature_format: SignatureFormat,
        alg: str | None = None,
        blocking: bool = True,
        reference: str | None = None,
    ) -> None:
        public = read_public_key(public_key)
        if not callable(sign):
            raise ArgumentTypeError("sign", "a function that takes bytes and returns their signature", sign)
        if signature_format not in _FORMATS:
            raise UsageError(f'signature_format must be "der" or "raw", not {signature_format!r:.20}')
        if alg is not None and alg not in public.algs:
            raise AlgorithmError(f"the key can sign with {' or '.join(public.algs)}, not with {alg!r:.40}")
        self._public: PublicKey = public
        self._thumbprint: str = public.thumbprint
        self._alg: str = alg or public.algs[0]
        self._sign: Callable[[bytes], bytes] = sign
        self._format: SignatureFormat = signature_format
        self._blocking: bool = blocking
        self._reference: str | None = reference
        algorithm = ALGORITHMS[self._alg]
        self._size: int = (algorithm.signature_size or 0) // 2 if algorithm.kty == "EC" else 0

    @property
    def alg(self) -> str:
        """The JWS algorithm name of the key's signatures."""
        return self._alg

    @property
    def public_jwk(self) -> dict[str, str]:
        """The public key as a JWK with its required members only, in a new dict (RFC 7638 §3.2)."""
        return self._public.jwk

    @property
    def thumbprint(self) -> str:
        """RFC 7638 SHA-256 thumbprint of the public key, 43 characters: the ``jkt``."""
        return self._thumbprint

    @property
    def blocking(self) -> bool:
        """Whether :meth:`sign` may wait."""
        return self._blocking

    @property
    def reference(self) -> str | None:
        """The path or URI by which :func:`dpop.load_key` opens the key; None if none was given."""
        return self._reference

    @hide_frames
    def sign(self, signing_input: bytes) -> bytes:
        """Sign the bytes and return the JWS signature (RFC 7518 §3): R||S for ES256, ES384 and ES512.

        :raises SigningError: the signer failed, or its signature does not verify.
        :raises DPoPKeyError: the signer raised it.
        :raises ArgumentTypeError: not bytes.
        """
        if not isinstance(signing_input, bytes):
            raise ArgumentTypeError("signing_input", "bytes", signing_input)
        try:
            signature = self._sign(signing_input)
        except DPoPKeyError:
            raise
        except Exception as error:  # noqa: BLE001 - a signer may raise anything
            what = str(error) if isinstance(error, DPoPError) else type(error).__name__
        else:
            return self._converted(signing_input, signature)
        # Raised outside the except block, so that it has no context: the original exception may contain secrets.
        raise SigningError(f"{self._backend} failed to sign with {self._alg}: {what}")

    def _converted(self, signing_input: bytes, signature: Any) -> bytes:
        try:
            if self._size and self._format == "der":
                signature = der_to_raw(signature, self._size)
            good = self._public.verify(self._alg, signing_input, signature)
        except DPoPError as error:
            raise SigningError(f"{self._backend} did not return a signature with {self._alg}: {error}") from None
        if not good:
            raise SigningError(f"{self._backend} returned a signature that does not verify with its public key")
        verified: bytes = signature
        return verified

    @property
    def _backend(self) -> str:
        """The name of the key backend, for error messages."""
        return "the signer"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._alg} {self._thumbprint}>"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise UsageError("a key cannot be pickled; pass on its path or URI, and load it there")


def read_public_key(public_key: object) -> PublicKey:
    """Read a public key in any of the forms that :class:`ExternalKey` accepts.

    :raises InvalidKeyError: not one of these forms, or not a key that DPoP can use.
    """
    if isinstance(public_key, PublicKey):
        return public_key
    if isinstance(public_key, Mapping):
        return PublicKey.from_jwk(public_key)
    if not isinstance(public_key, bytes):
        return PublicKey.from_cryptography(public_key)
    if b"-----BEGIN CERTIFICATE-----" not in public_key:
        return PublicKey.from_bytes(public_key)
    from cryptography import x509  # noqa: PLC0415 - slow to load, and seldom needed

    try:
        key = x509.load_pem_x509_certificate(public_key).public_key()
    except Exception:  # noqa: BLE001 - a damaged certificate can raise many kinds of errors
        raise InvalidKeyError("the certificate cannot be read") from None
    return PublicKey.from_cryptography(key)
