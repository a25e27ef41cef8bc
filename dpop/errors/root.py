# SPDX-License-Identifier: Apache-2.0
"""The root of the tree, and what a caller can pass wrongly."""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "ArgumentTypeError",
    "CredentialError",
    "DPoPError",
    "EncodingError",
    "InsecureOriginError",
    "SignatureFormatError",
    "TargetError",
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
