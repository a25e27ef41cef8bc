# SPDX-License-Identifier: Apache-2.0
"""One PKCS#11 device: find it by its URI, find it again after a disconnect, and log in."""

from __future__ import annotations

import logging
import time
from typing import Final

from dpop.errors import AmbiguousKeyError, KeyNotFoundError, PinError
from dpop.keys.pkcs11._cryptoki import CKF, CKR, CKU, CryptokiError, Module, ModuleInfo, SlotInfo, TokenInfo
from dpop.keys.pkcs11._errors import WRONG_PIN, explain, tries_left
from dpop.keys.pkcs11._modules import PATIENCE, LoadedModule, SessionHandle
from dpop.keys.pkcs11._pin import Pin
from dpop.keys.pkcs11._uri import Pkcs11Uri

__all__ = ["Device", "devices_of", "find_device", "find_devices"]

_log: Final = logging.getLogger("dpop.keys")

# After one of these errors, opening a session for writing would fail, too.
_NOT_FOR_WRITING: Final = frozenset(
    {
        CKR.GENERAL_ERROR,
        CKR.DEVICE_ERROR,
        CKR.DEVICE_REMOVED,
        CKR.TOKEN_NOT_PRESENT,
        CKR.SLOT_ID_INVALID,
        CKR.SESSION_COUNT,
        CKR.CRYPTOKI_NOT_INITIALIZED,
    }
)


def devices_of(module: Module) -> list[tuple[int, TokenInfo]]:
    """Return the initialised devices of a module with their slots; devices that are removed meanwhile are left out."""
    found = []
    for slot in module.slots():
        try:
            info = module.token_info(slot)
        except CryptokiError as error:
            if error.rv in {CKR.GENERAL_ERROR, CKR.DEVICE_ERROR, CKR.CRYPTOKI_NOT_INITIALIZED}:
                raise
            continue
        if info.flags & CKF.TOKEN_INITIALIZED:
            found.append((slot, info))
    return found


class Device:
    """One device of a module; when it is located again, its serial number must match too."""

    def __init__(self, loaded: LoadedModule, slot: int, info: TokenInfo, pin: Pin) -> None:
        self.loaded = loaded
        self.slot: int = slot
        self.info: TokenInfo = info
        self._pin = pin

    @property
    def label(self) -> str:
        """The label of the device."""
        return self.info.label

    @property
    def uri(self) -> Pkcs11Uri:
        """The URI that names this device and no other."""
        label, manufacturer, model, serial = (text or None for text in _identity(self.info))
        return Pkcs11Uri(token=label, manufacturer=manufacturer, model=model, serial=serial)

    def open_session(self, *, writable: bool = False, login: bool = True) -> SessionHandle:
        """Open a session, and log the user in if the device has a login.

        :param login: without a login, the device shows only its public objects.
        :raises PinError: the device needs a PIN and there is none, or it refuses the PIN.
        :raises CryptokiError: the module reported another error.
        """
        with self.loaded.lock:
            self._locate()
            session = self._open(writable=writable)
            try:
                if login:
                    self._login(session)
            except BaseException:
                self.close_session(session)
                raise
            return session

    def close_session(self, session: SessionHandle) -> None:
        """Close a session; no error if it is closed already."""
        try:
            self.loaded.close_session(session)
        except CryptokiError as error:
            _log.debug("closing a session with the device %r: %s", self.label, error)

    def give_pin_for_signature(self, session: int) -> None:
        """Log in between C_SignInit and C_Sign: an always-authenticate key allows no other call there."""
        with self.loaded.lock:  # if the PIN was changed, only one thread may try the old one
            self._give_pin(session, CKU.CONTEXT_SPECIFIC, self.info.flags)

    def _locate(self) -> None:
        """Find the current slot of the device: slot numbers change when a module starts again."""
        module = self.loaded.module
        try:
            info = module.token_info(self.slot)
        except CryptokiError as error:
            if error.rv not in {CKR.SLOT_ID_INVALID, CKR.TOKEN_NOT_PRESENT, CKR.DEVICE_REMOVED}:
                raise
        else:
            if _identity(info) == _identity(self.info):
                self.info = info
                return
        for slot, info in devices_of(module):
            if _identity(info) == _identity(self.info):
                self.slot, self.info = slot, info
                return
        raise CryptokiError("C_GetSlotList", CKR.TOKEN_NOT_PRESENT)

    def _open(self, *, writable: bool) -> SessionHandle:
        try:
            return self.loaded.open_session(self.slot, writable=writable)
        except CryptokiError as error:
            if writable or error.rv in _NOT_FOR_WRITING:
                raise
        return self.loaded.open_session(self.slot, writable=True)  # some services only know sessions for writing

    def _login(self, session: int) -> None:
        module = self.loaded.module
        if self.info.flags & CKF.LOGIN_REQUIRED and not module.is_logged_in(session):
            self._give_pin(session, CKU.USER, self.info.flags)

    def _give_pin(self, session: int, user: CKU, flags: CKF) -> None:
        module, where = self.loaded.module, f"the device {self.label!r}"
        if flags & CKF.USER_PIN_LOCKED:
            raise explain(CryptokiError("C_Login", CKR.PIN_LOCKED), self.label)
        if flags & (CKF.USER_PIN_COUNT_LOW | CKF.USER_PIN_FINAL_TRY) and self._pin.is_asked_for:
            _log.warning("%s got a wrong PIN earlier%s", where, tries_left(flags))
        pin = self._pin.get()
        if pin is None and not flags & CKF.PROTECTED_AUTHENTICATION_PATH:
            raise PinError(
                f"{where} needs its PIN: give it as the password, or name its file in the URI, ?pin-source=/path"
            )
        if self._pin.was_refused(_identity(self.info)):
            raise PinError(f"{where} has already refused this PIN; this process does not try it again")
        if flags & CKF.USER_PIN_FINAL_TRY and not self._pin.is_asked_for:
            raise PinError(
                f"{where} would lock itself at the next wrong PIN, so a stored one is not tried; enter it at a prompt"
            )
        try:
            module.login(session, user, pin)
        except CryptokiError as error:
            if error.rv == CKR.USER_ALREADY_LOGGED_IN:
                return
            if error.rv not in WRONG_PIN:
                raise
            self._pin.forget(_identity(self.info))
            now = module.token_info(self.slot).flags
            raise PinError(f"{where} refused the PIN, which is not tried again{tries_left(now)}") from None


def find_device(loaded: LoadedModule, uri: Pkcs11Uri, pin: Pin) -> Device:
    """Find the device that a URI names, with retries: a module may miss a device that is new or being written to.

    :raises KeyNotFoundError: no device matches the URI.
    :raises AmbiguousKeyError: several devices match.
    :raises CryptokiError: the module reported an error.
    """
    for seconds in PATIENCE:
        try:
            return Device(loaded, *_the_device(loaded.module, uri), pin)
        except KeyNotFoundError:
            time.sleep(seconds)
            if not loaded.refresh():
                raise
    return Device(loaded, *_the_device(loaded.module, uri), pin)


def find_devices(loaded: LoadedModule, uri: Pkcs11Uri, pin: Pin) -> list[Device]:
    """Find all devices that match a URI.

    :raises CryptokiError: the module reported an error.
    """
    return [Device(loaded, slot, info, pin) for slot, info in _fitting(loaded.module, uri, devices_of(loaded.module))]


def _fitting(module: Module, uri: Pkcs11Uri, devices: list[tuple[int, TokenInfo]]) -> list[tuple[int, TokenInfo]]:
    if not _library_fits(uri, module.info()):
        return []
    return [(slot, info) for slot, info in devices if _fits(uri, info) and _slot_fits(uri, slot, module)]


def _the_device(module: Module, uri: Pkcs11Uri) -> tuple[int, TokenInfo]:
    devices = devices_of(module)
    fitting = _fitting(module, uri, devices)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise AmbiguousKeyError(
            f"{len(fitting)} devices match {uri.name}: {_listed([info for _, info in fitting])}; add serial= to the URI"
        )
    if not devices:
        raise KeyNotFoundError(
            f"there is no device for {uri.name}; check that it is inserted, or that its service runs"
        )
    raise KeyNotFoundError(f"no device matches {uri.name}; there are {_listed([info for _, info in devices])}")


def _fits(uri: Pkcs11Uri, info: TokenInfo) -> bool:
    wanted = (uri.token, uri.manufacturer, uri.model, uri.serial)
    return all(text is None or text == has for text, has in zip(wanted, _identity(info), strict=True))


def _slot_fits(uri: Pkcs11Uri, slot: int, module: Module) -> bool:
    if uri.slot_id is not None and uri.slot_id != slot:
        return False
    if uri.slot_description is None and uri.slot_manufacturer is None:
        return True
    info: SlotInfo = module.slot_info(slot)
    return uri.slot_description in {None, info.description} and uri.slot_manufacturer in {None, info.manufacturer}


def _library_fits(uri: Pkcs11Uri, info: ModuleInfo) -> bool:
    major, minor = info.version
    return (
        uri.library_manufacturer in {None, info.manufacturer}
        and uri.library_description in {None, info.description}
        and uri.library_version in {None, f"{major}.{minor}", str(major) if minor == 0 else None}
    )


def _identity(info: TokenInfo) -> tuple[str, str, str, str]:
    return info.label, info.manufacturer, info.model, info.serial


def _listed(infos: list[TokenInfo]) -> str:
    shown = [f"{info.label!r} (serial {ascii(info.serial)[1:-1] or 'none'})" for info in infos[:8]]
    return ", ".join(shown) + (f" and {len(infos) - 8} more" if len(infos) > 8 else "")
