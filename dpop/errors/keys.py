# SPDX-License-Identifier: Apache-2.0
"""Errors of keys, and of whoever keeps them."""

from __future__ import annotations

from typing import Any

from dpop.errors.root import DPoPError

__all__ = [
    "AlgorithmError",
    "AmbiguousKeyError",
    "DPoPKeyError",
    "DeviceError",
    "ForkedKeyError",
    "InvalidKeyError",
    "KeyAccessError",
    "KeyDisabledError",
    "KeyFileError",
    "KeyMismatchError",
    "KeyNotFoundError",
    "KeyPasswordError",
    "KeyThrottledError",
    "KeyUnavailableError",
    "MissingExtraError",
    "PinError",
    "PinLockedError",
    "SigningError",
]


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


class PinError(KeyPasswordError):
    """A device wants a PIN, or refused the one it got; it is not tried again, for tries are counted."""

    code = "pin"


class PinLockedError(PinError):
    """The device takes no PIN any more, the right one included, until somebody unlocks it."""

    code = "pin_locked"


class AmbiguousKeyError(DPoPKeyError):
    """Several keys or devices fit the name; the message lists them."""

    code = "ambiguous_key"


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


class DeviceError(KeyUnavailableError):
    """A device that keeps keys, or its driver, cannot be used: missing, removed, busy, out of order.

    :param reason: what the driver itself said, such as ``"CKR_DEVICE_REMOVED"``; None if it said nothing.
    """

    code = "device"

    def __init__(self, message: str, reason: str | None = None) -> None:
        self.reason = reason
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        return (DeviceError, (self.args[0], self.reason))


class ForkedKeyError(DPoPKeyError):
    """The key was opened before this process was forked, and a device knows only the process that opened it."""

    code = "forked_key"


class MissingExtraError(DPoPKeyError, ImportError):
    """The Python package that speaks to the key's keeper is not installed; the message names the extra."""

    code = "missing_extra"


class AlgorithmError(DPoPKeyError, ValueError):
    """No signature algorithm that the key and the server both support (RFC 9449 §5.1)."""

    code = "algorithm"


class SigningError(DPoPKeyError):
    """The key failed to sign, or signed something that does not verify; nothing was sent."""

    code = "signing"


class KeyMismatchError(DPoPKeyError):
    """The tokens are bound to another key than the one at hand (RFC 9449 §5); nothing was sent.

    :param expected: the ``jkt`` the tokens are bound to.
    :param got: the thumbprint of the key at hand.
    """

    code = "key_mismatch"

    def __init__(self, message: str, *, expected: str | None = None, got: str | None = None) -> None:
        self.expected = expected
        self.got = got
        super().__init__(message)
