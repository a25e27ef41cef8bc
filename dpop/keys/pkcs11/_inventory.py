# SPDX-License-Identifier: Apache-2.0
"""List devices and their keys, and what each can do. This module never asks for a PIN."""

from __future__ import annotations

from dataclasses import dataclass

from dpop._tracebacks import hide_frames
from dpop.errors import DeviceError, InvalidKeyError
from dpop.keys._pem import Password
from dpop.keys.pkcs11._cryptoki import CKA, CKF, CKM, CKO, CKR, CryptokiError, Module
from dpop.keys.pkcs11._device import Device, find_device, find_devices
from dpop.keys.pkcs11._errors import explain
from dpop.keys.pkcs11._modules import LoadedModule, SessionHandle, find_module, open_module
from dpop.keys.pkcs11._objects import KeyObject, key_objects, public_keys, read_point
from dpop.keys.pkcs11._pin import Pin
from dpop.keys.pkcs11._sessions import Session, mechanism_of, waits_for_people
from dpop.keys.pkcs11._uri import Pkcs11Uri

__all__ = ["DeviceReport", "KeyReport", "list_devices"]


@dataclass(frozen=True, slots=True)
class KeyReport:
    """One key of a device.

    :param uri: the URI of the key (RFC 7512), without module and PIN.
    :param kind: ``"EC P-256"``, ``"RSA"``, and so on.
    :param private_seen: whether the private key is visible; most devices show it only after the PIN.
    :param usable: whether the key can make ES256 proofs, as far as the device tells.
    :param stays_in_device: whether the device never exports the key; None if it does not tell.
    :param pin_each_time: whether each signature needs the PIN.
    :param thumbprint: the ``jkt``; None if the public key is not visible, of another kind, or another key's.
    """

    uri: str
    label: str
    kind: str
    private_seen: bool
    usable: bool
    stays_in_device: bool | None
    pin_each_time: bool
    thumbprint: str | None


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """One device.

    :param wants_pin: whether the device has a login.
    :param pin_state: ``"locked"``, ``"final try"`` or ``"wrong PIN counted"``; None if all is well, or unknown.
    :param makes_keys: whether the device can make EC keys.
    """

    uri: str
    label: str
    manufacturer: str
    model: str
    serial: str
    wants_pin: bool
    pin_state: str | None
    makes_keys: bool
    signs: bool
    keys: tuple[KeyReport, ...]


@hide_frames
def list_devices(uri: str | Pkcs11Uri = "pkcs11:", *, password: Password | None = None) -> list[DeviceReport]:
    """List the devices that match a URI, and their keys.

    :param uri: ``pkcs11:`` for all devices; the attributes of a device and the module limit the list.
    :param password: a PIN, to list private objects, too. The URI must then name one device, because a PIN is never
        given to several. Each key then signs once, to find out which public key belongs to it. Keys in smart cards do
        not sign, because that may wait for a touch.
    :raises InvalidKeyError: the URI is malformed.
    :raises DeviceError: the module cannot be used.
    :raises KeyNotFoundError: a PIN was given, and no device matches. AmbiguousKeyError: several match.
    :raises PinError: the PIN was refused.
    """
    parsed = uri if isinstance(uri, Pkcs11Uri) else Pkcs11Uri.parse(uri)
    pin = Pin(password, parsed)
    login = password is not None or parsed.pin_source is not None or parsed.pin_value is not None
    loaded = open_module(find_module(parsed), parsed.x_init_reserved)
    try:
        return loaded.recovering(lambda: _listed(loaded, parsed, pin, login=login))
    except CryptokiError as error:
        raise explain(error, parsed.token or parsed.name) from error


def _listed(loaded: LoadedModule, uri: Pkcs11Uri, pin: Pin, *, login: bool) -> list[DeviceReport]:
    with loaded.lock:
        loaded.check_not_ended()
        devices = [find_device(loaded, uri, pin)] if login else find_devices(loaded, uri, pin)
        return [_device_report(device, uri, login=login) for device in devices]


def _device_report(device: Device, uri: Pkcs11Uri, *, login: bool) -> DeviceReport:
    module, info = device.loaded.module, device.info
    session = device.open_session(login=login)
    try:
        keys = _keys(device, session, uri)
    finally:
        device.close_session(session)
    mechanisms = module.mechanisms(device.slot)
    return DeviceReport(
        device.uri.name,
        *(info.label, info.manufacturer, info.model, info.serial),
        wants_pin=bool(info.flags & CKF.LOGIN_REQUIRED),
        pin_state=_pin_state(info.flags),
        makes_keys=CKM.EC_KEY_PAIR_GEN in mechanisms,
        signs=bool({CKM.ECDSA, CKM.ECDSA_SHA256} & mechanisms),
        keys=tuple(keys),
    )


def _keys(device: Device, session: SessionHandle, uri: Pkcs11Uri) -> list[KeyReport]:
    module = device.loaded.module
    privates = key_objects(module, session, CKO.PRIVATE_KEY, uri)
    seen = {(key.id or key.label) for key in privates}
    publics = [key for key in key_objects(module, session, CKO.PUBLIC_KEY, uri) if (key.id or key.label) not in seen]
    return [
        *(_key_report(key, device.uri, _thumbprint(device, session, key)) for key in privates),
        *(_key_report(key, device.uri, _own_thumbprint(module, session, key), private_seen=False) for key in publics),
    ]


def _key_report(key: KeyObject, device: Pkcs11Uri, thumbprint: str | None, *, private_seen: bool = True) -> KeyReport:
    told = key.sensitive is not None and key.extractable is not None
    return KeyReport(
        key.uri(device).name,
        key.label,
        key.kind,
        private_seen=private_seen,
        usable=key.usable and (private_seen or thumbprint is not None),
        stays_in_device=bool(key.sensitive) and not key.extractable if private_seen and told else None,
        pin_each_time=key.always_authenticate,
        thumbprint=thumbprint,
    )


def _thumbprint(device: Device, session: SessionHandle, private: KeyObject) -> str | None:
    """Return the jkt of a visible private key, if a signature proves which public key belongs to it.

    A public object may belong to another key, because the program that writes it chooses its id. If a signature may
    wait for a person, or needs the PIN again, no signature is made and the device's own statement counts.
    """
    if not private.usable:
        return None
    try:
        points = public_keys(device.loaded.module, session, private)
        if private.always_authenticate or waits_for_people(device):
            return points.keys[0].thumbprint if points.certain else None
        mechanism = mechanism_of(device)
        public = Session(device, session, private, mechanism).which(points.keys, mechanism) if points.keys else None
    except (InvalidKeyError, DeviceError):
        return None
    except CryptokiError as error:
        if error.rv in {CKR.GENERAL_ERROR, CKR.DEVICE_ERROR, CKR.CRYPTOKI_NOT_INITIALIZED}:
            raise  # the module is started again, and the list is made again
        return None
    return None if public is None else public.thumbprint


def _own_thumbprint(module: Module, session: int, public: KeyObject) -> str | None:
    point = module.attribute(session, public.handle, CKA.EC_POINT) if public.usable else None
    try:
        return read_point(point).thumbprint if point else None
    except InvalidKeyError:
        return None


def _pin_state(flags: CKF) -> str | None:
    if flags & CKF.USER_PIN_LOCKED:
        return "locked"
    if flags & CKF.USER_PIN_FINAL_TRY:
        return "final try"
    return "wrong PIN counted" if flags & CKF.USER_PIN_COUNT_LOW else None
