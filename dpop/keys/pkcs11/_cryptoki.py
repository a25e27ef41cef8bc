# SPDX-License-Identifier: Apache-2.0
"""A ctypes binding to a PKCS#11 (Cryptoki) module: the functions that a signer needs, without any policy.

It follows PKCS #11 v2.40. While a function of the module runs, ctypes lets other threads run. This code does not retry,
cache or log, and its errors contain no arguments. The names are those of the standard, which calls a device a token;
the modules above this one say device.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Mapping
from ctypes import POINTER, byref, c_ulong
from typing import Any, Final, NamedTuple

from dpop.keys.pkcs11._cryptoki_types import (
    CKA,
    CKF,
    CKM,
    CKO,
    CKR,
    CKU,
    FUNCTIONS,
    LOGGED_IN_STATES,
    UNAVAILABLE,
    Attribute,
    FunctionList,
    Info,
    Mechanism,
    NssInitializeArguments,
    RawSlotInfo,
    RawTokenInfo,
    SessionInfo,
)

__all__ = [
    "CKA",
    "CKF",
    "CKM",
    "CKO",
    "CKR",
    "CKU",
    "CryptokiError",
    "Module",
    "ModuleInfo",
    "ModuleLoadError",
    "SignOperation",
    "SlotInfo",
    "Template",
    "TokenInfo",
]

# A faulty module could return a list without an end.
_MAX_OBJECTS: Final = 10_000
_MAX_READS: Final = 5
_MAX_BYTES: Final = 1 << 20  # of an attribute
# Return values of modules that accept no arguments, or no arguments that allow threads.
_NO_ARGUMENTS: Final = frozenset({CKR.CANT_LOCK, CKR.ARGUMENTS_BAD, CKR.NEED_TO_CREATE_THREADS})
_NAMES: Final = {code.value: f"CKR_{code.name}" for code in CKR}

Template = Mapping[int, bytes | bool | int]
"""Attributes by type: bytes are sent unchanged, a bool as CK_BBOOL, an int as CK_ULONG."""


class CryptokiError(Exception):
    """A function of the module did not return CKR_OK.

    :param function: the name of the function, such as ``"C_Sign"``.
    :param rv: the return value of the function.
    """

    def __init__(self, function: str, rv: int) -> None:
        self.function = function
        self.rv = rv
        super().__init__(function, rv)

    @property
    def name(self) -> str:
        """The name of the code, such as ``"CKR_PIN_INCORRECT"``; for an unknown code ``"CKR 0x80000001"``."""
        return _NAMES.get(self.rv, f"CKR 0x{self.rv:x}")

    def __str__(self) -> str:
        return f"{self.function} returned {self.name}"


class ModuleLoadError(Exception):
    """The file does not exist, or is not a PKCS#11 module that this process can load."""


class ModuleInfo(NamedTuple):
    """CK_INFO: the manufacturer and description of the module; versions as (major, minor)."""

    manufacturer: str
    description: str
    version: tuple[int, int]


class SlotInfo(NamedTuple):
    """CK_SLOT_INFO: the place of a device."""

    description: str
    manufacturer: str


class TokenInfo(NamedTuple):
    """CK_TOKEN_INFO: the identity and state of a device.

    :param max_sessions: how many sessions this process may have; None if there is no limit or it is unknown.
    """

    label: str
    manufacturer: str
    model: str
    serial: str
    flags: CKF
    max_sessions: int | None


class Module:
    """A loaded module, not initialised yet. Safe for threads once :meth:`initialize` has returned.

    :param path: the path of the shared library; the system searches for a bare name.
    :raises ModuleLoadError: it cannot be loaded, or has no C_GetFunctionList.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._library = ctypes.CDLL(path)
            get_list = self._library.C_GetFunctionList
        except OSError as error:
            raise ModuleLoadError(f"cannot load it: {error}") from None
        except (AttributeError, ValueError):
            raise ModuleLoadError("a library without C_GetFunctionList, so not a PKCS#11 module") from None
        get_list.restype = c_ulong
        functions = POINTER(FunctionList)()
        if get_list(byref(functions)) != CKR.OK or not functions:
            raise ModuleLoadError("its C_GetFunctionList gives no functions")
        self.identity: int = ctypes.addressof(functions.contents)
        """Equal if the same library was loaded under two names: a hard link, or a name that the system searches for."""
        self._functions: dict[str, Callable[..., int]] = {}
        for name, (place, arguments) in FUNCTIONS.items():
            address = functions.contents.functions[place]
            prototype = ctypes.CFUNCTYPE(c_ulong, *arguments)
            self._functions[name] = prototype(address) if address else _not_supported

    def initialize(self, parameters: str | None = None) -> bool:
        """C_Initialize with CKF_OS_LOCKING_OK; False if other code in this process has initialised the module already.

        A module that cannot lock, or accepts no arguments, is initialised with NULL, and then gets one call at a time.

        :param parameters: a text that some modules, such as NSS, need in pReserved.
        """
        arguments = NssInitializeArguments(flags=CKF.OS_LOCKING_OK)
        text = None if parameters is None else ctypes.create_string_buffer(parameters.encode())
        if text is not None:
            arguments.reserved = ctypes.addressof(text)
        rv = self._functions["C_Initialize"](ctypes.addressof(arguments))
        if rv in _NO_ARGUMENTS and parameters is None:
            rv = self._functions["C_Initialize"](None)
            if rv == CKR.OK:
                self._call_one_at_a_time()
        if rv == CKR.CRYPTOKI_ALREADY_INITIALIZED:
            return False
        _check("C_Initialize", rv)
        return True

    def finalize(self) -> None:
        """C_Finalize, which ends all use of the module in this process, also by other code."""
        self._call("C_Finalize", None)

    def info(self) -> ModuleInfo:
        """C_GetInfo."""
        info = Info()
        self._call("C_GetInfo", byref(info))
        return ModuleInfo(_text(info.manufacturer), _text(info.description), (info.version.major, info.version.minor))

    def slots(self) -> list[int]:
        """C_GetSlotList: the slots with a device."""
        return self._list("C_GetSlotList", 1)

    def slot_info(self, slot: int) -> SlotInfo:
        """C_GetSlotInfo."""
        info = RawSlotInfo()
        self._call("C_GetSlotInfo", slot, byref(info))
        return SlotInfo(_text(info.description), _text(info.manufacturer))

    def token_info(self, slot: int) -> TokenInfo:
        """C_GetTokenInfo."""
        info = RawTokenInfo()
        self._call("C_GetTokenInfo", slot, byref(info))
        limit = info.max_sessions
        return TokenInfo(
            _text(info.label),
            _text(info.manufacturer),
            _text(info.model),
            _text(info.serial),
            CKF(info.flags),
            None if limit in {0, UNAVAILABLE} else limit,
        )

    def mechanisms(self, slot: int) -> frozenset[int]:
        """C_GetMechanismList."""
        return frozenset(self._list("C_GetMechanismList", slot))

    def open_session(self, slot: int, *, writable: bool = False) -> int:
        """C_OpenSession; returns the session's handle."""
        handle = c_ulong()
        flags = CKF.SERIAL_SESSION | (CKF.RW_SESSION if writable else 0)
        self._call("C_OpenSession", slot, flags, None, None, byref(handle))
        return handle.value

    def close_session(self, session: int) -> None:
        """C_CloseSession."""
        self._call("C_CloseSession", session)

    def is_logged_in(self, session: int) -> bool:
        """C_GetSessionInfo: whether the user is logged in; a login holds for all sessions with the device."""
        info = SessionInfo()
        self._call("C_GetSessionInfo", session, byref(info))
        return info.state in LOGGED_IN_STATES

    def login(self, session: int, user: CKU, pin: bytes | None) -> None:
        """C_Login; without a PIN the device asks the user itself."""
        if pin is None:
            self._call("C_Login", session, user, None, 0)
            return
        copy = ctypes.create_string_buffer(pin, len(pin))
        try:
            self._call("C_Login", session, user, ctypes.addressof(copy), len(pin))
        finally:
            ctypes.memset(copy, 0, len(pin))

    def find_objects(self, session: int, template: Template) -> list[int]:
        """C_FindObjects with its Init and Final: all handles, in the device's order."""
        attributes = _Attributes(template)
        found: list[int] = []
        self._call("C_FindObjectsInit", session, attributes.array, attributes.count)
        try:
            batch, count = (c_ulong * 64)(), c_ulong()
            while len(found) < _MAX_OBJECTS:
                self._call("C_FindObjects", session, batch, len(batch), byref(count))
                if not count.value:
                    break
                found += batch[: count.value]
        finally:
            self._functions["C_FindObjectsFinal"](session)
        return found

    def attribute(self, session: int, handle: int, kind: CKA) -> bytes | None:
        """C_GetAttributeValue for one attribute; None if the object does not have or does not show it."""
        attribute = Attribute(type=kind)
        if not self._get_attribute(session, handle, attribute) or attribute.length == UNAVAILABLE:
            return None
        if attribute.length > _MAX_BYTES:
            raise CryptokiError("C_GetAttributeValue", CKR.HOST_MEMORY)
        content = ctypes.create_string_buffer(attribute.length)
        attribute.value = ctypes.addressof(content)
        if not self._get_attribute(session, handle, attribute) or attribute.length == UNAVAILABLE:
            return None
        return content.raw[: attribute.length]

    def generate_key_pair(self, session: int, mechanism: CKM, public: Template, private: Template) -> tuple[int, int]:
        """C_GenerateKeyPair; returns the handles of the public and the private key."""
        publics, privates = _Attributes(public), _Attributes(private)
        handles = c_ulong(), c_ulong()
        self._call(
            "C_GenerateKeyPair",
            session,
            byref(Mechanism(mechanism=mechanism)),
            publics.array,
            publics.count,
            privates.array,
            privates.count,
            byref(handles[0]),
            byref(handles[1]),
        )
        return handles[0].value, handles[1].value

    def destroy_object(self, session: int, handle: int) -> None:
        """C_DestroyObject."""
        self._call("C_DestroyObject", session, handle)

    def sign_operation(self, session: int, key: int, mechanism: CKM) -> SignOperation:
        """Make an operation that signs any number of times with one key in one session."""
        return SignOperation(self._functions["C_SignInit"], self._functions["C_Sign"], session, key, mechanism)

    def _call(self, name: str, *arguments: object) -> None:
        _check(name, self._functions[name](*arguments))

    def _get_attribute(self, session: int, handle: int, attribute: Attribute) -> bool:
        rv = self._functions["C_GetAttributeValue"](session, handle, byref(attribute), 1)
        if rv in {CKR.ATTRIBUTE_TYPE_INVALID, CKR.ATTRIBUTE_SENSITIVE}:
            return False
        _check("C_GetAttributeValue", rv)
        return True

    def _list(self, name: str, first: int) -> list[int]:
        """Read a list of numbers; read again if it grows between the calls for its length and its content."""
        count = c_ulong()
        rv: int = CKR.BUFFER_TOO_SMALL
        for _ in range(_MAX_READS):
            self._call(name, first, None, byref(count))
            if not count.value:
                return []
            if count.value > _MAX_OBJECTS:
                raise CryptokiError(name, CKR.HOST_MEMORY)
            numbers = (c_ulong * count.value)()
            rv = self._functions[name](first, numbers, byref(count))
            if rv == CKR.OK:
                return numbers[: count.value]
            if rv != CKR.BUFFER_TOO_SMALL:
                break
        raise CryptokiError(name, rv)

    def _call_one_at_a_time(self) -> None:
        lock = threading.Lock()

        def alone(function: Callable[..., int]) -> Callable[..., int]:
            def call(*arguments: object) -> int:
                with lock:
                    return function(*arguments)

            return call

        self._functions = {name: alone(function) for name, function in self._functions.items()}


class SignOperation:
    """Signs with one key in one session; for one thread at a time."""

    __slots__ = ("_buffer", "_init", "_key", "_length", "_mechanism", "_session", "_sign")

    _SIZE: Final = 512

    def __init__(
        self, init: Callable[..., int], sign: Callable[..., int], session: int, key: int, mechanism: CKM
    ) -> None:
        self._init = init
        self._sign = sign
        self._session = session
        self._key = key
        self._mechanism = Mechanism(mechanism=mechanism)
        self._buffer = ctypes.create_string_buffer(self._SIZE)
        self._length = c_ulong()

    def init(self) -> None:
        """C_SignInit."""
        rv = self._init(self._session, self._mechanism, self._key)
        if rv:
            raise CryptokiError("C_SignInit", rv)

    def sign(self, data: bytes) -> bytes:
        """C_Sign; returns the device's signature, whose length is not checked."""
        self._length.value = self._SIZE
        rv = self._sign(self._session, data, len(data), self._buffer, self._length)
        if rv:
            raise CryptokiError("C_Sign", rv)
        return self._buffer.raw[: self._length.value]


class _Attributes:
    """An attribute template for C; it keeps the memory of its pointers alive."""

    def __init__(self, template: Template) -> None:
        self.count = len(template)
        self.array = (Attribute * self.count)()
        self._kept: list[object] = []
        for attribute, (kind, value) in zip(self.array, template.items(), strict=True):
            content = _encoded(value)
            buffer = ctypes.create_string_buffer(content, max(len(content), 1))
            self._kept.append(buffer)
            attribute.type, attribute.value, attribute.length = kind, ctypes.addressof(buffer), len(content)


def _encoded(value: bytes | bool | int) -> bytes:
    if isinstance(value, bytes):
        return value
    return bytes([value]) if isinstance(value, bool) else bytes(c_ulong(value))


def _text(content: Any) -> str:
    """Read a padded text field: the standard pads with blanks, some modules with zeros."""
    return bytes(content).split(b"\0", 1)[0].decode("utf-8", "replace").rstrip(" ")


def _check(function: str, rv: int) -> None:
    if rv != CKR.OK:
        raise CryptokiError(function, rv)


def _not_supported(*_arguments: object) -> int:
    return CKR.FUNCTION_NOT_SUPPORTED
