# SPDX-License-Identifier: Apache-2.0
"""The numbers and C structures of PKCS #11 v2.40, as far as :mod:`dpop.keys.pkcs11._cryptoki` needs them.

On Windows the structures are packed, and CK_ULONG has 32 bits there, as c_ulong does.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from ctypes import POINTER, c_ubyte, c_ulong, c_void_p
from enum import IntEnum, IntFlag
from typing import Any, Final

__all__ = [
    "CKA",
    "CKF",
    "CKK_EC",
    "CKM",
    "CKO",
    "CKR",
    "CKU",
    "FUNCTIONS",
    "LOGGED_IN_STATES",
    "UNAVAILABLE",
    "Attribute",
    "FunctionList",
    "Info",
    "InitializeArguments",
    "Mechanism",
    "NssInitializeArguments",
    "RawSlotInfo",
    "RawTokenInfo",
    "SessionInfo",
]


class CKR(IntEnum):
    """Return values of functions."""

    OK = 0x0
    HOST_MEMORY = 0x2
    SLOT_ID_INVALID = 0x3
    GENERAL_ERROR = 0x5
    FUNCTION_FAILED = 0x6
    ARGUMENTS_BAD = 0x7
    NEED_TO_CREATE_THREADS = 0x9
    CANT_LOCK = 0xA
    ATTRIBUTE_READ_ONLY = 0x10
    ATTRIBUTE_SENSITIVE = 0x11
    ATTRIBUTE_TYPE_INVALID = 0x12
    ATTRIBUTE_VALUE_INVALID = 0x13
    DATA_LEN_RANGE = 0x21
    DEVICE_ERROR = 0x30
    DEVICE_MEMORY = 0x31
    DEVICE_REMOVED = 0x32
    FUNCTION_CANCELED = 0x50
    FUNCTION_NOT_SUPPORTED = 0x54
    KEY_HANDLE_INVALID = 0x60
    KEY_TYPE_INCONSISTENT = 0x63
    KEY_FUNCTION_NOT_PERMITTED = 0x68
    MECHANISM_INVALID = 0x70
    MECHANISM_PARAM_INVALID = 0x71
    OBJECT_HANDLE_INVALID = 0x82
    OPERATION_ACTIVE = 0x90
    OPERATION_NOT_INITIALIZED = 0x91
    PIN_INCORRECT = 0xA0
    PIN_INVALID = 0xA1
    PIN_LEN_RANGE = 0xA2
    PIN_EXPIRED = 0xA3
    PIN_LOCKED = 0xA4
    SESSION_CLOSED = 0xB0
    SESSION_COUNT = 0xB1
    SESSION_HANDLE_INVALID = 0xB3
    SESSION_PARALLEL_NOT_SUPPORTED = 0xB4
    SESSION_READ_ONLY = 0xB5
    TEMPLATE_INCOMPLETE = 0xD0
    TEMPLATE_INCONSISTENT = 0xD1
    TOKEN_NOT_PRESENT = 0xE0
    TOKEN_NOT_RECOGNIZED = 0xE1
    TOKEN_WRITE_PROTECTED = 0xE2
    USER_ALREADY_LOGGED_IN = 0x100
    USER_NOT_LOGGED_IN = 0x101
    USER_PIN_NOT_INITIALIZED = 0x102
    USER_TYPE_INVALID = 0x103
    USER_ANOTHER_ALREADY_LOGGED_IN = 0x104
    USER_TOO_MANY_TYPES = 0x105
    BUFFER_TOO_SMALL = 0x150
    CRYPTOKI_NOT_INITIALIZED = 0x190
    CRYPTOKI_ALREADY_INITIALIZED = 0x191
    FUNCTION_REJECTED = 0x200


class CKF(IntFlag):
    """Flags of devices, sessions and initialisation: each kind has its own numbers."""

    OS_LOCKING_OK = 0x2
    RW_SESSION = 0x2
    SERIAL_SESSION = 0x4
    LOGIN_REQUIRED = 0x4
    USER_PIN_INITIALIZED = 0x8
    PROTECTED_AUTHENTICATION_PATH = 0x100
    TOKEN_INITIALIZED = 0x400
    USER_PIN_COUNT_LOW = 0x10000
    USER_PIN_FINAL_TRY = 0x20000
    USER_PIN_LOCKED = 0x40000


class CKU(IntEnum):
    """Kinds of user at a login."""

    USER = 1
    CONTEXT_SPECIFIC = 2


class CKO(IntEnum):
    """Classes of objects."""

    CERTIFICATE = 1
    PUBLIC_KEY = 2
    PRIVATE_KEY = 3


class CKA(IntEnum):
    """Attributes of objects."""

    CLASS = 0x0
    TOKEN = 0x1
    PRIVATE = 0x2
    LABEL = 0x3
    VALUE = 0x11
    KEY_TYPE = 0x100
    ID = 0x102
    SENSITIVE = 0x103
    SIGN = 0x108
    VERIFY = 0x10A
    DERIVE = 0x10C
    EXTRACTABLE = 0x162
    LOCAL = 0x163
    NEVER_EXTRACTABLE = 0x164
    EC_PARAMS = 0x180
    EC_POINT = 0x181
    ALWAYS_AUTHENTICATE = 0x202


class CKM(IntEnum):
    """Mechanisms."""

    EC_KEY_PAIR_GEN = 0x1040
    ECDSA = 0x1041
    ECDSA_SHA256 = 0x1044


CKK_EC: Final = 3
LOGGED_IN_STATES: Final = frozenset({1, 3})  # CKS_RO_USER_FUNCTIONS, CKS_RW_USER_FUNCTIONS
UNAVAILABLE: Final = c_ulong(-1).value  # CK_UNAVAILABLE_INFORMATION


class _Structure(ctypes.Structure):
    if sys.platform == "win32":
        _pack_ = 1


class Version(_Structure):
    """CK_VERSION."""

    _fields_ = (("major", c_ubyte), ("minor", c_ubyte))


class Info(_Structure):
    """CK_INFO."""

    _fields_ = (
        ("cryptoki_version", Version),
        ("manufacturer", c_ubyte * 32),
        ("flags", c_ulong),
        ("description", c_ubyte * 32),
        ("version", Version),
    )


class RawSlotInfo(_Structure):
    """CK_SLOT_INFO."""

    _fields_ = (
        ("description", c_ubyte * 64),
        ("manufacturer", c_ubyte * 32),
        ("flags", c_ulong),
        ("hardware_version", Version),
        ("firmware_version", Version),
    )


class RawTokenInfo(_Structure):
    """CK_TOKEN_INFO."""

    _fields_ = (
        ("label", c_ubyte * 32),
        ("manufacturer", c_ubyte * 32),
        ("model", c_ubyte * 16),
        ("serial", c_ubyte * 16),
        ("flags", c_ulong),
        ("max_sessions", c_ulong),
        ("sessions", c_ulong),
        ("max_rw_sessions", c_ulong),
        ("rw_sessions", c_ulong),
        ("max_pin", c_ulong),
        ("min_pin", c_ulong),
        ("memory", c_ulong * 4),
        ("hardware_version", Version),
        ("firmware_version", Version),
        ("utc_time", c_ubyte * 16),
    )


class SessionInfo(_Structure):
    """CK_SESSION_INFO."""

    _fields_ = (("slot", c_ulong), ("state", c_ulong), ("flags", c_ulong), ("device_error", c_ulong))


class Attribute(_Structure):
    """CK_ATTRIBUTE."""

    _fields_ = (("type", c_ulong), ("value", c_void_p), ("length", c_ulong))


class Mechanism(_Structure):
    """CK_MECHANISM."""

    _fields_ = (("mechanism", c_ulong), ("parameter", c_void_p), ("length", c_ulong))


class InitializeArguments(_Structure):
    """CK_C_INITIALIZE_ARGS."""

    _fields_ = (("mutexes", c_void_p * 4), ("flags", c_ulong), ("reserved", c_void_p))


class NssInitializeArguments(_Structure):
    """CK_C_INITIALIZE_ARGS with one more pointer, which NSS reads; its pReserved is a string of parameters."""

    _fields_ = (*InitializeArguments._fields_, ("more", c_void_p))


class FunctionList(_Structure):
    """CK_FUNCTION_LIST."""

    _fields_ = (("version", Version), ("functions", c_void_p * 68))


_ULONG_P: Final = POINTER(c_ulong)
_BYTES: Final = ctypes.c_char_p

# The functions used here, with their places in CK_FUNCTION_LIST and their arguments.
FUNCTIONS: Final[Mapping[str, tuple[int, tuple[Any, ...]]]] = {
    "C_Initialize": (0, (c_void_p,)),
    "C_Finalize": (1, (c_void_p,)),
    "C_GetInfo": (2, (POINTER(Info),)),
    "C_GetSlotList": (4, (c_ubyte, _ULONG_P, _ULONG_P)),
    "C_GetSlotInfo": (5, (c_ulong, POINTER(RawSlotInfo))),
    "C_GetTokenInfo": (6, (c_ulong, POINTER(RawTokenInfo))),
    "C_GetMechanismList": (7, (c_ulong, _ULONG_P, _ULONG_P)),
    "C_OpenSession": (12, (c_ulong, c_ulong, c_void_p, c_void_p, _ULONG_P)),
    "C_CloseSession": (13, (c_ulong,)),
    "C_GetSessionInfo": (15, (c_ulong, POINTER(SessionInfo))),
    "C_Login": (18, (c_ulong, c_ulong, c_void_p, c_ulong)),
    "C_DestroyObject": (22, (c_ulong, c_ulong)),
    "C_GetAttributeValue": (24, (c_ulong, c_ulong, POINTER(Attribute), c_ulong)),
    "C_FindObjectsInit": (26, (c_ulong, POINTER(Attribute), c_ulong)),
    "C_FindObjects": (27, (c_ulong, _ULONG_P, c_ulong, _ULONG_P)),
    "C_FindObjectsFinal": (28, (c_ulong,)),
    "C_SignInit": (42, (c_ulong, POINTER(Mechanism), c_ulong)),
    "C_Sign": (43, (c_ulong, _BYTES, c_ulong, c_void_p, _ULONG_P)),
    "C_GenerateKeyPair": (
        59,
        (
            c_ulong,
            POINTER(Mechanism),
            POINTER(Attribute),
            c_ulong,
            POINTER(Attribute),
            c_ulong,
            _ULONG_P,
            _ULONG_P,
        ),
    ),
}
