# SPDX-License-Identifier: Apache-2.0
"""Every error this package raises, in one tree.

::

    DPoPError
    ├── UsageError (ValueError)         the caller passed something that cannot be used
    │   ├── ArgumentTypeError (TypeError)   ... of the wrong Python type
    │   ├── EncodingError               not base64url, not the JSON it should be
    │   ├── SignatureFormatError        not strict DER, not a raw R||S
    │   ├── TargetError                 a URL or method that no proof can name without doubt
    │   ├── InsecureOriginError         http:// to a host that is not this machine
    │   └── CredentialError             an access token or nonce that cannot be sent
    ├── DPoPKeyError                    the key, its file or its device
    │   ├── InvalidKeyError (ValueError)    not a key DPoP can use
    │   ├── KeyFileError                a key file that cannot be read or written
    │   ├── KeyPasswordError            the password is missing or wrong
    │   ├── KeyNotFoundError            no key of that name where it should be kept
    │   ├── KeyAccessError              its keeper does not let this caller use it
    │   ├── KeyDisabledError            it is there, and switched off, expired or about to be deleted
    │   ├── KeyUnavailableError         its keeper cannot be reached now
    │   │   └── KeyThrottledError       ... or wants fewer requests
    │   ├── MissingExtraError (ImportError) the Python package that speaks to its keeper is not installed
    │   ├── AlgorithmError (ValueError) no algorithm both sides accept
    │   └── SigningError                the key did not produce a good signature
    ├── UnrewindableBodyError           a request would have to be sent again, and its body is gone
    ├── InvalidProof                    a verifier refuses a proof, or what came with it
    └── ReplayCacheError                the replay cache is full or cannot be reached

``UsageError`` and ``DPoPKeyError`` are faults on this side; ``InvalidProof`` is a fault of the
peer. Each class has a stable ``code`` for programs; the text is for people and may change.
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "AlgorithmError",
    "ArgumentTypeError",
    "CredentialError",
    "DPoPError",
    "DPoPKeyError",
    "EncodingError",
    "InsecureOriginError",
    "InvalidKeyError",
    "InvalidProof",
    "KeyAccessError",
    "KeyDisabledError",
    "KeyFileError",
    "KeyNotFoundError",
    "KeyPasswordError",
    "KeyThrottledError",
    "KeyUnavailableError",
    "MissingExtraError",
    "ReplayCacheError",
    "SignatureFormatError",
    "SigningError",
    "TargetError",
    "UnrewindableBodyError",
    "UsageError",
]


class DPoPError(Exception):
    """Root of all errors of this package.

    ``code`` is a stable string, one per class, that programs may compare.
    """

    code: ClassVar[str] = "dpop_error"


class UsageError(DPoPError, ValueError):
    """An argument cannot be used; nothing was sent and nothing was changed."""

    code = "usage"


class ArgumentTypeError(UsageError, TypeError):
    """An argument has the wrong Python type.

    :param name: the argument's name.
    :param expected: what it should be, in words.
    :param value: what came. Only its type is kept: the value may be a secret.
    """

    code = "argument_type"

    def __init__(self, name: str, expected: str, value: object) -> None:
        self.name = name
        self.expected = expected
        self.got: str = type(value).__name__
        super().__init__(f"{name} must be {expected}, not {self.got}")

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild_argument_type, (self.name, self.expected, self.got))


def _rebuild_argument_type(name: str, expected: str, got: str) -> ArgumentTypeError:
    """Unpickle an ArgumentTypeError, which keeps the type's name and never the value."""
    error = ArgumentTypeError(name, expected, None)
    error.got = got
    error.args = (f"{name} must be {expected}, not {got}",)
    return error


class EncodingError(UsageError):
    """Octets are not the base64url or JSON they should be (RFC 7515 §2, RFC 8259)."""

    code = "encoding"


class SignatureFormatError(UsageError):
    """An ECDSA signature is not strict DER, or not a raw R||S of the right length (RFC 7518 §3.4)."""

    code = "signature_format"


class TargetError(UsageError):
    """A URL or method that cannot be put into ``htu``/``htm`` without doubt (RFC 9449 §4.2)."""

    code = "target"


class InsecureOriginError(UsageError):
    """A proof or token would travel over plain http (RFC 9449 §2)."""

    code = "insecure_origin"


class CredentialError(UsageError):
    """An access token or nonce holds characters its syntax does not allow (RFC 9449 §7.1, §8.1)."""

    code = "credential"


class DPoPKeyError(DPoPError):
    """Something about the key: its kind, its file, its password, its device."""

    code = "key"


class InvalidKeyError(DPoPKeyError, ValueError):
    """Not a key that DPoP can use: symmetric, public only, wrong curve, weak or inconsistent."""

    code = "invalid_key"


class KeyFileError(DPoPKeyError):
    """A key file cannot be read or written; the cause is chained."""

    code = "key_file"


class KeyPasswordError(DPoPKeyError):
    """The key is encrypted and its password is missing or wrong, or a password was given for nothing."""

    code = "key_password"


class KeyNotFoundError(DPoPKeyError):
    """Where the key should be kept, a token or a service, there is no key of that name."""

    code = "key_not_found"


class KeyAccessError(DPoPKeyError):
    """Whoever keeps the key does not let this caller use it: no credentials, refused ones, no permission."""

    code = "key_access"


class KeyDisabledError(DPoPKeyError):
    """The key is there and may not sign: disabled, not valid yet or any more, about to be deleted."""

    code = "key_disabled"


class KeyUnavailableError(DPoPKeyError):
    """Whoever keeps the key cannot be reached or cannot answer now; later it may."""

    code = "key_unavailable"


class KeyThrottledError(KeyUnavailableError):
    """Whoever keeps the key wants fewer requests; wait before the next."""

    code = "key_throttled"


class MissingExtraError(DPoPKeyError, ImportError):
    """The Python package that speaks to the key's keeper is not installed; the message names the extra."""

    code = "missing_extra"


class AlgorithmError(DPoPKeyError, ValueError):
    """No signature algorithm that the key and the server both support (RFC 9449 §5.1)."""

    code = "algorithm"


class SigningError(DPoPKeyError):
    """The key failed to sign, or signed something that does not verify; nothing was sent."""

    code = "signing"


class UnrewindableBodyError(DPoPError):
    """The request would be sent a second time, but its body can be read only once.

    Raised instead of sending an empty or cut body.
    """

    code = "unrewindable_body"


class InvalidProof(DPoPError):  # noqa: N818 - the contract's name, after the RFC's invalid_dpop_proof
    """A verifier's refusal (RFC 9449 §4.3, §5, §7.1).

    :param error: the OAuth error code to answer with: ``invalid_dpop_proof``, ``use_dpop_nonce``,
        ``invalid_token`` at a resource, ``invalid_grant`` at a token endpoint.
    :param reason: a stable name of the check that failed, such as ``"htu_mismatch"``.
    :param detail: one sentence for people, safe to log: it holds no proof, token or nonce.
    :param expected: what the verifier expected, where that is no secret.
    :param got: what came, where that is no secret.
    :param nonce: for ``use_dpop_nonce``, the nonce to hand out. It never appears in ``str()``.
    """

    code = "invalid_proof"

    def __init__(
        self,
        error: str,
        reason: str,
        detail: str,
        *,
        expected: str | None = None,
        got: str | None = None,
        nonce: str | None = None,
    ) -> None:
        self.error = error
        self.reason = reason
        self.detail = detail
        self.expected = expected
        self.got = got
        self.nonce = nonce
        text = f"{error} ({reason}): {detail}"
        if expected is not None or got is not None:
            text += f"; expected {expected or 'nothing'}, got {got or 'nothing'}"
        super().__init__(text)

    def __reduce__(self) -> tuple[Any, ...]:
        facts = {"expected": self.expected, "got": self.got, "nonce": self.nonce}
        return (_rebuild_invalid_proof, (self.error, self.reason, self.detail, facts))


def _rebuild_invalid_proof(error: str, reason: str, detail: str, facts: dict[str, str | None]) -> InvalidProof:
    """Unpickle an InvalidProof, whose evidence is keyword-only."""
    return InvalidProof(error, reason, detail, **facts)


class ReplayCacheError(DPoPError):
    """The replay cache is full or cannot be reached: the proof must not be accepted (RFC 9449 §11.1)."""

    code = "replay_cache"
