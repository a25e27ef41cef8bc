# SPDX-License-Identifier: Apache-2.0
"""A key in a device: open it by its URI, or generate it there."""

from __future__ import annotations

import logging
import secrets
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from dpop._ending import uninterrupted
from dpop._tracebacks import hide_frames
from dpop.errors import (
    AlgorithmError,
    AmbiguousKeyError,
    DeviceError,
    InvalidKeyError,
    KeyNotFoundError,
    UsageError,
)
from dpop.keys._external import ExternalKey, read_public_key
from dpop.keys._pem import Password
from dpop.keys._public import PublicKey
from dpop.keys.pkcs11._cryptoki import CKA, CKM, CKO, CryptokiError, Module, Template
from dpop.keys.pkcs11._device import Device, find_device
from dpop.keys.pkcs11._errors import explain
from dpop.keys.pkcs11._modules import LoadedModule, find_module, open_module
from dpop.keys.pkcs11._objects import P256_PARAMS, KeyObject, key_objects, public_keys, the_private_key
from dpop.keys.pkcs11._pin import Pin
from dpop.keys.pkcs11._sessions import DeviceSigner, Session, SessionPool, default_limit, mechanism_of
from dpop.keys.pkcs11._uri import Pkcs11Uri

__all__ = ["Pkcs11Key", "generate_key", "load", "make_pair", "open_key"]

_ID_BYTES: Final = 8


def make_pair(loaded: LoadedModule, uri: Pkcs11Uri, pin: Pin) -> Pkcs11Uri:
    """Make a P-256 pair with the names in the URI, and check that the device set the requested attributes.

    :param uri: it names the device and, in ``object``, the new key.
    :raises AmbiguousKeyError: the device already has a key with that name or id.
    :raises DeviceError: the device cannot make such keys, or made a wrong one, which is destroyed again.
    :raises CryptokiError: the module reported another error.
    """
    module, label = loaded.module, uri.object or ""
    with loaded.lock:
        loaded.check_not_ended()
        device = find_device(loaded, uri, pin)
        if CKM.EC_KEY_PAIR_GEN not in module.mechanisms(device.slot):
            raise DeviceError(
                f"the device {device.label!r} cannot make EC keys; make one with another tool, and give its URI"
            )
        names: Template = {
            CKA.TOKEN: True,
            CKA.LABEL: label.encode(),
            CKA.ID: uri.id or secrets.token_bytes(_ID_BYTES),
        }
        new = Pkcs11Uri(object=label, id=bytes(names[CKA.ID]))
        session = device.open_session(writable=True)
        try:
            _refuse_existing(module, session, new, device.label)
            public: Template = {**names, CKA.EC_PARAMS: P256_PARAMS, CKA.VERIFY: True}
            private: Template = {
                **names,
                CKA.PRIVATE: True,
                CKA.SENSITIVE: True,
                CKA.EXTRACTABLE: False,
                CKA.SIGN: True,
                CKA.DERIVE: False,
            }
            pair = module.generate_key_pair(session, CKM.EC_KEY_PAIR_GEN, public, private)
            if not _is_as_requested(key_objects(module, session, CKO.PRIVATE_KEY, new)):
                for handle in pair:
                    module.destroy_object(session, handle)
                raise DeviceError(
                    f"the device {device.label!r} made a key that can be exported or cannot be used; it was destroyed"
                )
        finally:
            device.close_session(session)
        return replace(device.uri, object=label, id=new.id).reached_as(uri)


def _refuse_existing(module: Module, session: int, new: Pkcs11Uri, device: str) -> None:
    for kind in (CKO.PRIVATE_KEY, CKO.PUBLIC_KEY):
        for same in (replace(new, id=None), replace(new, object=None)):
            if existing := key_objects(module, session, kind, same):
                raise AmbiguousKeyError(
                    f"the device {device!r} already has {existing[0].described}; give the new key another name"
                )


def _is_as_requested(keys: list[KeyObject]) -> bool:
    return len(keys) == 1 and keys[0].usable and keys[0].sensitive is True and keys[0].extractable is False


_log: Final = logging.getLogger("dpop.keys")


class Pkcs11Key(ExternalKey):
    """A P-256 private key in a PKCS#11 device. It signs with ES256, in as many sessions as the device allows.

    It is thread-safe. Every signature is verified before it is returned. A device that was removed or restarted is
    found again automatically, with the PIN that worked; a refused PIN is never tried again. In a
    forked process the key refuses to sign: open it there.
    """

    __slots__ = ("_device", "_object", "_pool", "_signer")

    def __init__(
        self,
        device: Device,
        key: KeyObject,
        public: PublicKey,
        pool: SessionPool,
        signer: DeviceSigner,
        *,
        reference: str,
    ) -> None:
        """Store the arguments: use :func:`open_key` instead."""
        super().__init__(public, signer, signature_format="raw", reference=reference)
        self._device = device
        self._object = key
        self._pool = pool
        self._signer = signer
        weakref.finalize(self, signer.close).atexit = False

    @property
    def device(self) -> str:
        """The label of the key's device."""
        return self._device.label

    @property
    def stays_in_device(self) -> bool | None:
        """Whether the device says that it never exports the private part; None if it does not tell."""
        if self._object.sensitive is None or self._object.extractable is None:
            return None
        return self._object.sensitive and not self._object.extractable

    @property
    def sessions(self) -> int:
        """The maximum number of signatures at the same time."""
        return self._pool.limit

    def sign(self, signing_input: bytes) -> bytes:
        """Sign the bytes and return R||S, 64 bytes, as :meth:`ExternalKey.sign` does.

        :raises SigningError: the device failed, or its signature does not verify.
        :raises DPoPKeyError: the key or its module was closed, or the device refused.
        :raises ArgumentTypeError: not bytes.
        """
        with uninterrupted():
            return super().sign(signing_input)

    def close(self) -> None:
        """Close the key's sessions with the device; the key cannot sign any more."""
        self._signer.close()

    @property
    def _backend(self) -> str:
        return f"the device {self._device.label!r}"


@hide_frames
def open_key(
    uri: str | Pkcs11Uri,
    *,
    password: Password | None = None,
    public_key: object | None = None,
    sessions: int | None = None,
) -> Pkcs11Key:
    """Open a private key in a device.

    :param uri: it must name exactly one device and one P-256 key (RFC 7512). Its ``module-path`` is loaded as code.
    :param password: the PIN, or a function that asks for it; not needed if the URI has ``pin-source`` or
        ``pin-value``, or if the device needs no PIN. It stays in memory as long as the key.
    :param public_key: the public key, if the device shows neither it nor a certificate; in any form of
        :class:`dpop.keys.ExternalKey`.
    :param sessions: how many signatures to make at once; the default suits the device.
    :raises InvalidKeyError: the URI is malformed, the key is not a P-256 key that may sign, or the public key
        belongs to another key.
    :raises DeviceError: the module or device cannot be used.
    :raises KeyNotFoundError: there is no such device or key. AmbiguousKeyError: there are several.
    :raises PinError: the PIN is missing or was refused.
    :raises ForkedKeyError: the module was started before this process was forked.
    """
    if sessions is not None and (not isinstance(sessions, int) or sessions < 1):
        raise UsageError("sessions must be at least 1")
    parsed = uri if isinstance(uri, Pkcs11Uri) else Pkcs11Uri.parse(uri)
    given = None if public_key is None else read_public_key(public_key)
    return _opened(parsed, Pin(password, parsed), given, sessions)


def load(uri: str, *, password: Password | None = None, alg: str | None = None) -> Pkcs11Key:
    """Open the key of a ``pkcs11:`` URI for :func:`dpop.load_key`.

    :raises AlgorithmError: ``alg`` is not ES256.
    """
    if alg not in {None, "ES256"}:
        raise AlgorithmError(f"a key in a device signs with ES256, not with {alg!r:.40}")
    return open_key(uri, password=password)


@hide_frames
def generate_key(uri: str | Pkcs11Uri, *, password: Password | None = None) -> Pkcs11Key:
    """Make a P-256 pair in a device; its private part never leaves the device (SENSITIVE, not EXTRACTABLE).

    :param uri: it names the device and, in ``object``, the new key. The key's ``id`` is random by default.
    :param password: as for :func:`open_key`.
    :raises InvalidKeyError: the URI is malformed, or has no ``object``.
    :raises AmbiguousKeyError: the device already has a key with that name or id.
    :raises DeviceError: the device cannot make such keys.
    """
    parsed = uri if isinstance(uri, Pkcs11Uri) else Pkcs11Uri.parse(uri)
    if not parsed.object:
        raise InvalidKeyError("the URI does not name the new key; add object=, such as pkcs11:token=…;object=dpop")
    pin = Pin(password, parsed)
    loaded = open_module(find_module(parsed), parsed.x_init_reserved)
    try:
        made = loaded.recovering(lambda: make_pair(loaded, parsed, pin))
    except CryptokiError as error:
        raise explain(error, parsed.token or parsed.name) from error
    key = _opened(made, pin, None, None)
    key.sign(b"a first signature, to check that the key works")
    return key


def _opened(uri: Pkcs11Uri, pin: Pin, given: PublicKey | None, sessions: int | None) -> Pkcs11Key:
    loaded = open_module(find_module(uri), uri.x_init_reserved)
    try:
        return loaded.recovering(lambda: _open(loaded, uri, pin, given, sessions))
    except CryptokiError as error:
        raise explain(error, uri.token or uri.name) from error


def _open(loaded: LoadedModule, uri: Pkcs11Uri, pin: Pin, given: PublicKey | None, sessions: int | None) -> Pkcs11Key:
    with loaded.lock:
        loaded.check_not_ended()
        device = find_device(loaded, uri, pin)
        mechanism = mechanism_of(device)
        handle = device.open_session()
        try:
            key = the_private_key(loaded.module, handle, uri, device.label)
            first = Session(device, handle, key, mechanism)
            public = _public_key(device, first, key, given, mechanism)
            pool = SessionPool(_opener(device, key, mechanism), default_limit(device) if sessions is None else sessions)
        except BaseException:
            device.close_session(handle)
            raise
        pool.add(first)
        signer = DeviceSigner(device, pool, mechanism)
    if key.extractable or key.sensitive is False:
        _log.warning("the key %s can be exported from its device %r; make one that cannot", key.described, device.label)
    return Pkcs11Key(device, key, public, pool, signer, reference=key.uri(device.uri).reached_as(uri).reference)


def _opener(device: Device, key: KeyObject, mechanism: CKM) -> Callable[[], Session]:
    """Return a function that opens more sessions for a key. Each finds the key again, because object numbers change."""
    name = key.uri(Pkcs11Uri())

    def open_session() -> Session:
        handle = device.open_session()
        try:
            with device.loaded.lock:
                found = the_private_key(device.loaded.module, handle, name, device.label)
            return Session(device, handle, found, mechanism)
        except BaseException:
            device.close_session(handle)
            raise

    return open_session


def _public_key(device: Device, session: Session, key: KeyObject, given: PublicKey | None, mechanism: CKM) -> PublicKey:
    points = public_keys(device.loaded.module, session.handle, key)
    candidates, certain = points.keys, points.certain
    if not candidates and given is None:
        raise KeyNotFoundError(
            f"the device {device.label!r} shows no public key of {key.described}; write its certificate or public key"
            " to the device, or call open_key with public_key="
        )
    if given is not None:
        if candidates and given not in candidates:
            raise InvalidKeyError(f"the given public key does not belong to {key.described} in {device.label!r}")
        candidates, certain = [given], certain and bool(candidates)
    if certain:
        return candidates[0]
    # The device does not say that the two keys belong together; one signature proves it.
    public = session.which(candidates, mechanism)
    if public is not None:
        return public
    raise InvalidKeyError(
        f"none of {len(candidates)} public keys or certificates for {key.described} in the device {device.label!r}"
        " belongs to its private key"
    )
