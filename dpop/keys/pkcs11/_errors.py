# SPDX-License-Identifier: Apache-2.0
"""Convert return values of a PKCS#11 module to errors, which name the device, the problem and the remedy."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from dpop.errors import DeviceError, DPoPKeyError, PinError, PinLockedError, SigningError
from dpop.keys.pkcs11._cryptoki import CKF, CKR, CryptokiError

__all__ = ["WANTS_PARAMETERS", "WRONG_PIN", "explain", "tries_left"]

WRONG_PIN: Final = frozenset({CKR.PIN_INCORRECT, CKR.PIN_INVALID, CKR.PIN_LEN_RANGE})

WANTS_PARAMETERS: Final = (
    "it needs parameters: add ?x-init-reserved= to the URI, for NSS such as configdir='sql:/path/of/the/database'"
)

_LOCKED: Final = (
    "{device} is locked after too many wrong PINs, and refuses even the right one; unlock it with its SO PIN or PUK,"
    " a TPM with tpm2_dictionarylockout or by waiting"
)
_GONE: Final = "{device} was removed; insert it and try again ({said})"
_NOT_APPROVED: Final = "{device} was asked to sign, but nobody touched it or agreed in time ({said})"
_NOT_TO_SIGN: Final = "the key in {device} must not sign ({said}); make another one with: dpop key generate --pkcs11"
_NO_ECDSA: Final = "{device} or its module cannot do that with EC keys ({said})"
_READ_ONLY: Final = "{device} cannot be written to ({said})"
_TEMPLATE: Final = "{device} cannot make such a key ({said}); make one with the manufacturer's own tool"
_FAILED: Final = "{device} or its module failed ({said}); check that the device or service is there, and read its log"

_SENTENCES: Final[Mapping[int, tuple[type[DPoPKeyError], str]]] = MappingProxyType(
    {
        CKR.PIN_LOCKED: (PinLockedError, _LOCKED),
        **dict.fromkeys(WRONG_PIN, (PinError, "{device} refused the PIN; it was not tried again")),
        CKR.USER_PIN_NOT_INITIALIZED: (
            PinError,
            "{device} has no PIN yet; set one with: pkcs11-tool --login --login-type so --init-pin",
        ),
        CKR.PIN_EXPIRED: (PinError, "the PIN of {device} has expired; change it: pkcs11-tool --login --change-pin"),
        CKR.USER_ANOTHER_ALREADY_LOGGED_IN: (
            PinError,
            "another user of {device}, such as its security officer, is logged in by this process",
        ),
        CKR.USER_NOT_LOGGED_IN: (PinError, "{device} needs a PIN, but did not ask for it ({said}); load the key again"),
        **dict.fromkeys(
            (CKR.DEVICE_REMOVED, CKR.TOKEN_NOT_PRESENT, CKR.SLOT_ID_INVALID, CKR.TOKEN_NOT_RECOGNIZED),
            (DeviceError, _GONE),
        ),
        **dict.fromkeys((CKR.FUNCTION_REJECTED, CKR.FUNCTION_CANCELED), (SigningError, _NOT_APPROVED)),
        **dict.fromkeys((CKR.KEY_FUNCTION_NOT_PERMITTED, CKR.KEY_TYPE_INCONSISTENT), (SigningError, _NOT_TO_SIGN)),
        **dict.fromkeys(
            (CKR.MECHANISM_INVALID, CKR.MECHANISM_PARAM_INVALID, CKR.FUNCTION_NOT_SUPPORTED), (DeviceError, _NO_ECDSA)
        ),
        CKR.SESSION_COUNT: (DeviceError, "{device} has no session left; other programs use all of them ({said})"),
        **dict.fromkeys((CKR.TOKEN_WRITE_PROTECTED, CKR.SESSION_READ_ONLY), (DeviceError, _READ_ONLY)),
        **dict.fromkeys(
            (
                CKR.ATTRIBUTE_READ_ONLY,
                CKR.ATTRIBUTE_TYPE_INVALID,
                CKR.ATTRIBUTE_VALUE_INVALID,
                CKR.TEMPLATE_INCOMPLETE,
                CKR.TEMPLATE_INCONSISTENT,
            ),
            (DeviceError, _TEMPLATE),
        ),
        CKR.DEVICE_MEMORY: (DeviceError, "{device} is full ({said})"),
        CKR.CRYPTOKI_NOT_INITIALIZED: (
            DeviceError,
            "the module of {device} was ended by another part of this program ({said})",
        ),
    }
)


def explain(error: CryptokiError, device: str) -> DPoPKeyError:
    """Return the error to raise for a return value.

    :param device: the label of the device.
    """
    kind, sentence = _SENTENCES.get(error.rv, (DeviceError, _FAILED))
    text = sentence.format(device=f"the device {device!r}", said=error)
    return DeviceError(text, error.name) if kind is DeviceError else kind(text)


def tries_left(flags: CKF) -> str:
    """Return the end of a sentence: how many PIN tries are left, if the device tells."""
    if flags & CKF.USER_PIN_LOCKED:
        return "; the device is locked now"
    if flags & CKF.USER_PIN_FINAL_TRY:
        return "; one try is left before the device locks itself"
    if flags & CKF.USER_PIN_COUNT_LOW:
        return "; the device counts wrong PINs, and may lock itself after a few more"
    return "; the device does not tell how many tries are left, often two"
