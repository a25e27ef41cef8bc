# SPDX-License-Identifier: Apache-2.0
"""Private keys in memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

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
from dpop.keys._algorithms import ALGORITHMS, parameters
from dpop.keys._files import key_path, write_key_file
from dpop.keys._loaded import EC_CURVES
from dpop.keys._pem import Password, check_password, read_private_key
from dpop.keys._private_jwk import PrivateKey, read_private_jwk, write_private_jwk
from dpop.keys._public import PublicKey, algs_of_der
from dpop.signature import der_to_raw

__all__ = ["SoftwareKey"]

_RSA_BITS: Final = 3072
_PRIVATE_KEYS: Final = (ec.EllipticCurvePrivateKey, ed25519.Ed25519PrivateKey, rsa.RSAPrivateKey)


class SoftwareKey:
    """A private key of the ``cryptography`` package. Immutable and thread-safe.

    :func:`dpop.generate_key` and :func:`dpop.load_key` make one; :meth:`from_private_key` wraps an
    existing key object. Its private part is in no repr and not in ``vars()``, and cannot be pickled. A copy
    of the key is the key itself.
    """

    __slots__ = (
        "__weakref__",
        "_alg",
        "_blocking",
        "_foreign",
        "_parameters",
        "_private",
        "_public",
        "_reference",
        "_sign",
        "_size",
        "_thumbprint",
    )

    def __init__(
        self, private: PrivateKey, public: PublicKey, alg: str, *, blocking: bool, reference: str | None = None
    ) -> None:
        """Store the arguments, without checking that they belong together: use the class methods instead."""
        self._reference = reference
        self._private = private
        self._public = public
        self._thumbprint = public.thumbprint
        self._alg = alg
        self._blocking = blocking
        self._foreign = _is_foreign(private)
        self._sign: Any = private.sign
        self._parameters = parameters(alg)
        algorithm = ALGORITHMS[alg]
        self._size = (algorithm.signature_size or 0) // 2 if algorithm.kty == "EC" else 0

    @classmethod
    def generate(cls, alg: str = "ES256") -> SoftwareKey:
        """Generate a new key. RSA keys have 3072 bits.

        :raises AlgorithmError: ``alg`` is not a DPoP algorithm.
        """
        algorithm = ALGORITHMS.get(alg) if isinstance(alg, str) else None
        if algorithm is None:
            raise AlgorithmError(f"no such algorithm: {alg!r:.40}; expected one of {' '.join(ALGORITHMS)}")
        private: PrivateKey
        if algorithm.kty == "EC":
            private = ec.generate_private_key(EC_CURVES[algorithm.crv or ""])
        elif algorithm.kty == "OKP":
            private = ed25519.Ed25519PrivateKey.generate()
        else:
            private = rsa.generate_private_key(65537, _RSA_BITS)
        return cls.from_private_key(private, alg=alg)

    @classmethod
    @hide_frames
    def from_pem(cls, data: bytes, password: Password | None = None) -> SoftwareKey:
        """Load a private key from PEM or DER: PKCS#8, encrypted or not, SEC1 or PKCS#1.

        A key of the type RSASSA-PSS signs with RSASSA-PSS only. The type cannot be seen in an encrypted file, except
        with PBES2, PBKDF2 and AES.

        :raises InvalidKeyError: the data has no private key, several, or one that DPoP cannot use.
        :raises KeyPasswordError: the password is missing, wrong, or given for a key that is not encrypted.
        """
        if not isinstance(data, bytes):
            raise ArgumentTypeError("data", "bytes", data)
        found = read_private_key(data, password)
        private: Any = found[0]
        algs = algs_of_der(found[1])
        if algs is None:
            return cls.from_private_key(private)
        public = PublicKey.from_cryptography(private.public_key()).restricted(algs)
        return cls(private, public, public.algs[0], blocking=False)

    @classmethod
    @hide_frames
    def from_jwk(cls, jwk: Mapping[str, object]) -> SoftwareKey:
        """Load a private JWK, strictly (RFC 7517 §4, RFC 7518 §6). The key uses the JWK's ``alg``, if it has one.

        :raises InvalidKeyError: the key is public or symmetric, or members are missing, misspelt or do
            not belong together. The message contains no value of the JWK.
        """
        private, public = read_private_jwk(jwk)
        return cls(private, public, public.declared_alg or public.algs[0], blocking=False)

    @classmethod
    @hide_frames
    def from_private_key(
        cls, private_key: object, *, alg: str | None = None, blocking: bool | None = None
    ) -> SoftwareKey:
        """Wrap a private key object with the interface of ``cryptography``; it need not be exportable.

        Only its ``sign`` and ``public_key`` are used, until :meth:`save` or :meth:`to_jwk` is called.
        A signature by an object of another package is verified before it is returned.

        :param alg: which of the key's algorithms to use; the best by default.
        :param blocking: whether ``sign`` may wait; by default True for objects of other packages.
        :raises InvalidKeyError: a public key, or a key DPoP cannot use.
        :raises AlgorithmError: the key cannot sign with ``alg``.
        """
        if not isinstance(private_key, _PRIVATE_KEYS):
            what = type(private_key).__name__
            if hasattr(private_key, "verify"):
                raise InvalidKeyError(f"this is a public key ({what}), but a private key is needed")
            raise InvalidKeyError(f"a {what} cannot sign proofs; use a P-256, P-384, P-521, Ed25519 or RSA key")
        try:
            public_part = private_key.public_key()
        except Exception as error:  # noqa: BLE001 - a key object of another package may raise anything
            raise DPoPKeyError(f"the key object did not return its public key ({type(error).__name__})") from None
        public = PublicKey.from_cryptography(public_part)
        if blocking is None:
            blocking = _is_foreign(private_key)
        key = cls(private_key, public, public.algs[0], blocking=blocking)
        return key if alg is None else key.with_alg(alg)

    @property
    def alg(self) -> str:
        """The JWS algorithm name of the key's signatures."""
        return self._alg

    @property
    def algs(self) -> tuple[str, ...]:
        """All algorithm names this key can sign with, best first."""
        return self._public.algs

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
        """Whether :meth:`sign` may wait; False for a key in memory."""
        return self._blocking

    @property
    def reference(self) -> str | None:
        """The absolute path or the URI by which :func:`dpop.load_key` opens the key; None if it has neither."""
        return self._reference

    def referred_to_by(self, reference: str) -> SoftwareKey:
        """Return this key with a reference to its place: a path or URI that :func:`dpop.load_key` opens."""
        return SoftwareKey(self._private, self._public, self._alg, blocking=self._blocking, reference=reference)

    def sign(self, signing_input: bytes) -> bytes:
        """Sign the bytes and return the JWS signature (RFC 7518 §3): R||S for ES256, ES384 and ES512.

        :raises SigningError: the key object failed, or its signature does not verify.
        :raises ArgumentTypeError: not bytes.
        """
        try:
            signature: bytes = self._sign(signing_input, *self._parameters)
            if self._size:
                signature = der_to_raw(signature, self._size)
            if self._foreign:
                self._check(signing_input, signature)
        except Exception as error:  # noqa: BLE001 - a key object of another package may raise anything
            self._explain(error, signing_input)
        return signature

    def with_alg(self, alg: str) -> SoftwareKey:
        """Return this key for another of its algorithm names: Ed25519 or EdDSA; for RSA, PS256, RS256 and others.

        :raises AlgorithmError: not one of :attr:`algs`.
        """
        if alg == self._alg:
            return self
        if alg not in self.algs:
            raise AlgorithmError(f"the key can sign with {' or '.join(self.algs)}, not with {alg!r:.40}")
        return SoftwareKey(self._private, self._public, alg, blocking=self._blocking, reference=self._reference)

    def to_jwk(self, *, private: bool = False) -> dict[str, str]:
        """Return the key as a JWK (RFC 7517).

        :param private: include the private members and ``alg``. Protect the result like a key file.
        :raises DPoPKeyError: the private part cannot be exported.
        """
        if not private:
            return self.public_jwk
        try:
            return {**write_private_jwk(self._private), **self.public_jwk, "alg": self._alg}
        except Exception:  # noqa: BLE001 - a key object of another package may raise anything
            _refuse_export()

    @hide_frames
    def save(
        self, path: str | os.PathLike[str], *, password: str | bytes | None = None, overwrite: bool = False
    ) -> None:
        """Write the private key to a file, atomically: PKCS#8 in PEM (RFC 5958), mode 0600.

        The file does not contain the key's ``alg``: give it to :func:`dpop.load_key` again, unless it is the first of
        :attr:`algs`. A symbolic link as ``path`` is refused.

        :param password: encrypts the file with the best cipher of the cryptography package.
        :param overwrite: replace an existing file.
        :raises KeyFileError: the file exists, or cannot be written; nothing has changed then.
        :raises KeyPasswordError: the password is empty or too long.
        :raises DPoPKeyError: the key cannot be exported.
        """
        target = key_path(path)
        encryption: KeySerializationEncryption = NoEncryption()
        if password is not None:
            encryption = BestAvailableEncryption(check_password(password))
        try:
            data = self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
        except Exception:  # noqa: BLE001 - a key object of another package may raise anything
            _refuse_export()
        write_key_file(target, data, overwrite=overwrite)

    def __repr__(self) -> str:
        return f"<SoftwareKey {self._alg} {self._thumbprint}>"

    def __copy__(self) -> SoftwareKey:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> SoftwareKey:
        return self

    def __reduce__(self) -> NoReturn:
        raise UsageError(
            "a private key cannot be pickled: it must not be copied unnoticed; save it, and load it by its path"
        )

    def _check(self, signing_input: bytes, signature: bytes) -> None:
        if not self._public.verify(self._alg, signing_input, signature):
            raise SigningError("the key object returned a signature that does not verify with its public key")

    def _explain(self, error: Exception, signing_input: object) -> NoReturn:
        """Convert an exception to one of our errors, without the original text, which may contain key bytes."""
        if not isinstance(signing_input, bytes):
            raise ArgumentTypeError("signing_input", "bytes", signing_input) from None
        if isinstance(error, DPoPKeyError):
            raise error
        what = str(error) if isinstance(error, DPoPError) else type(error).__name__
        raise SigningError(f"the key object failed to sign with {self._alg}: {what}") from None


def _is_foreign(private: object) -> bool:
    """Whether the object is of another package, so that it may sign in a device or a service."""
    return not type(private).__module__.startswith("cryptography.")


def _refuse_export() -> NoReturn:
    raise DPoPKeyError("the private key cannot be exported; store its path or URI instead of saving it") from None
