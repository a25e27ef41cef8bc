# SPDX-License-Identifier: Apache-2.0
"""A pool of open sessions with a device: one session for each running signature, up to the device's limit.

A session does one thing at a time, and opening a session costs more than a signature. After an error a session may
stay unusable, so it is closed, and another one is opened when it is needed.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
import time
from collections.abc import Callable
from typing import Final

from dpop._tracebacks import hide_frames
from dpop.errors import DeviceError, DPoPKeyError, ForkedKeyError, SignatureFormatError
from dpop.keys._public import PublicKey
from dpop.keys.pkcs11._cryptoki import CKM, CKR, CryptokiError, SignOperation
from dpop.keys.pkcs11._device import Device
from dpop.keys.pkcs11._errors import explain
from dpop.keys.pkcs11._modules import SessionHandle
from dpop.keys.pkcs11._objects import KeyObject

__all__ = [
    "DeviceSigner",
    "Session",
    "SessionPool",
    "data_to_sign",
    "default_limit",
    "mechanism_of",
    "waits_for_people",
]

_MAX_SESSIONS: Final = 8
# The beginnings of the descriptions of libraries whose devices do one thing at a time. More sessions would not be
# quicker there, and other programs need the few that there are.
_CARDS: Final = ("PKCS#11 PIV Library", "OpenSC")
_SERIAL: Final = ("TPM2.0 Cryptoki", *_CARDS)


def default_limit(device: Device) -> int:
    """Return the default number of sessions: one for a TPM or smart card, else eight or half of the device's limit."""
    description = device.loaded.module.info().description
    if description.startswith(_SERIAL):
        return 1
    allowed = device.info.max_sessions
    return _MAX_SESSIONS if allowed is None else max(1, min(_MAX_SESSIONS, allowed // 2))


def mechanism_of(device: Device) -> CKM:
    """Choose the mechanism: CKM_ECDSA with our own digest, because few devices have CKM_ECDSA_SHA256.

    :raises DeviceError: the device has neither of the two.
    """
    offered = device.loaded.module.mechanisms(device.slot)
    if CKM.ECDSA in offered or not offered:
        return CKM.ECDSA
    if CKM.ECDSA_SHA256 in offered:
        return CKM.ECDSA_SHA256
    raise DeviceError(f"the device {device.label!r} has no ECDSA, so it cannot sign proofs")


def waits_for_people(device: Device) -> bool:
    """Whether a signature may wait for a touch although the device does not say so, as with smart cards."""
    return device.loaded.module.info().description.startswith(_CARDS)


class Session:
    """One session in which one key signs, for one thread at a time."""

    __slots__ = ("_always_authenticate", "_device", "_operation", "handle")

    def __init__(self, device: Device, handle: SessionHandle, key: KeyObject, mechanism: CKM) -> None:
        self.handle: SessionHandle = handle
        self._device = device
        self._always_authenticate = key.always_authenticate
        self._operation: SignOperation = device.loaded.module.sign_operation(handle, key.handle, mechanism)

    def sign(self, data: bytes) -> bytes:
        """Call C_SignInit and C_Sign, with the PIN in between for some keys."""
        if not self._device.loaded.has_session(self.handle):
            raise CryptokiError("C_SignInit", CKR.SESSION_HANDLE_INVALID)
        operation = self._operation
        operation.init()
        if self._always_authenticate:
            self._device.give_pin_for_signature(self.handle)
        return operation.sign(data)

    def which(self, candidates: list[PublicKey], mechanism: CKM) -> PublicKey | None:
        """Return the public key that belongs to this private key, found with one signature."""
        probe = secrets.token_bytes(32)
        signature = self.sign(data_to_sign(mechanism, probe))
        return next((key for key in candidates if _verifies(key, probe, signature)), None)

    def close(self) -> None:
        """Close the session."""
        self._device.close_session(self.handle)


class SessionPool:
    """Sessions of one key.

    :param open_session: a function that opens one more session.
    :param limit: how many sessions there may be at once.
    """

    def __init__(self, open_session: Callable[[], Session], limit: int) -> None:
        self._open = open_session
        self._limit = limit
        self._idle: list[Session] = []
        self._busy = 0
        self._paused = False
        self._closed = False
        self._changed = threading.Condition(threading.Lock())

    @property
    def limit(self) -> int:
        """The maximum number of sessions; it shrinks if the device has fewer."""
        return self._limit

    def sign(self, data: bytes) -> bytes:
        """Sign in a session that is free, or wait for one.

        :raises CryptokiError: the module reported an error; the session is closed.
        :raises DPoPKeyError: the pool is closed, or no session can be opened.
        """
        session = self._take()
        try:
            signature = session.sign(data)
        except BaseException:
            self._done(None)
            session.close()
            raise
        self._done(session)
        return signature

    def add(self, session: Session) -> None:
        """Add an open session to the pool."""
        with self._changed:
            self._idle.append(session)

    def clear(self) -> None:
        """Close all idle sessions, after the device was disconnected."""
        with self._changed:
            idle, self._idle = self._idle, []
        for session in idle:
            session.close()

    def close(self) -> None:
        """Close all sessions and sign no more; a session in use is closed after its signature."""
        self.end()
        self.clear()

    def end(self) -> None:
        """Sign no more: the module is ended, and its sessions with it."""
        with self._changed:
            self._closed = True
            self._paused = False
            self._changed.notify_all()

    def pause(self, timeout: float) -> bool:
        """Start no new signature, and wait until none is running; False if that took too long."""
        deadline = time.monotonic() + timeout
        with self._changed:
            self._paused = True
            return self._changed.wait_for(lambda: not self._busy, max(0.0, deadline - time.monotonic()))

    def resume(self, *, restarted: bool) -> None:
        """Allow signatures again; if the module was restarted, all sessions are gone."""
        with self._changed:
            if restarted:
                self._idle.clear()
            self._paused = False
            self._changed.notify_all()

    def _take(self) -> Session:
        while True:
            with self._changed:
                while self._paused or not (self._closed or self._idle or self._busy < self._limit):
                    self._changed.wait()
                if self._closed:
                    raise DPoPKeyError("the key was closed; load it again")
                self._busy += 1
                if self._idle:
                    return self._idle.pop()
            try:
                return self._open()
            except CryptokiError as error:
                if not self._no_more(error):
                    raise
            except BaseException:
                self._done(None)
                raise

    def _no_more(self, error: CryptokiError) -> bool:
        """Return whether the device has no session left but this pool has some, so that waiting for one makes sense."""
        with self._changed:
            self._busy -= 1
            self._changed.notify_all()
            others = self._busy + len(self._idle)
            if error.rv != CKR.SESSION_COUNT or not others:
                return False
            self._limit = others
            return True

    def _done(self, session: Session | None) -> None:
        """Give a session back to the pool, or None for a lost one."""
        with self._changed:
            self._busy -= 1
            keep = session is not None and not self._closed
            if session is not None and keep:
                self._idle.append(session)
            self._changed.notify()
            if self._paused:
                self._changed.notify_all()
        if session is not None and not keep:
            session.close()


# A session, handle or login is stale and can be renewed, because the device was removed or other code logged out.
_REOPEN: Final = frozenset(
    {
        CKR.SESSION_HANDLE_INVALID,
        CKR.SESSION_CLOSED,
        CKR.OBJECT_HANDLE_INVALID,
        CKR.KEY_HANDLE_INVALID,
        CKR.USER_NOT_LOGGED_IN,
        CKR.OPERATION_ACTIVE,
        CKR.OPERATION_NOT_INITIALIZED,
        CKR.DEVICE_REMOVED,
        CKR.TOKEN_NOT_PRESENT,
        CKR.SLOT_ID_INVALID,
    }
)


class DeviceSigner:
    """Signs with the sessions of a pool; if sessions were lost, it tries once more with new ones."""

    def __init__(self, device: Device, pool: SessionPool, mechanism: CKM) -> None:
        self._label = device.label
        self._loaded = device.loaded
        self._pool = pool
        self._mechanism = mechanism
        self._pid = os.getpid()
        device.loaded.users.add(pool)

    @hide_frames
    def __call__(self, signing_input: bytes) -> bytes:
        """Sign, and return the device's signature (R||S), which is not verified yet.

        :raises DPoPKeyError: the device made no signature.
        """
        if os.getpid() != self._pid:
            raise ForkedKeyError(
                f"the key in the device {self._label!r} was opened before this process was forked; open it in the child"
                " (gunicorn: in post_fork; multiprocessing: use the spawn start method)"
            )
        data = data_to_sign(self._mechanism, signing_input)
        generation = self._loaded.generation
        try:
            return self._pool.sign(data)
        except CryptokiError as error:
            if error.rv in _REOPEN:
                self._pool.clear()
            elif not self._loaded.restart(generation, error.rv):
                raise explain(error, self._label) from error
        try:
            return self._pool.sign(data)
        except CryptokiError as error:
            raise explain(error, self._label) from error

    def close(self) -> None:
        """Close all sessions. In a forked process, do nothing, because the sessions belong to the parent."""
        if os.getpid() == self._pid:
            self._pool.close()


def _verifies(public: PublicKey, signing_input: bytes, signature: bytes) -> bool:
    try:
        return public.verify("ES256", signing_input, signature)
    except SignatureFormatError:
        return False


def data_to_sign(mechanism: CKM, signing_input: bytes) -> bytes:
    """Return the input of the mechanism: SHA-256 of the bytes, or the bytes themselves (RFC 7518 §3.4)."""
    return signing_input if mechanism is CKM.ECDSA_SHA256 else hashlib.sha256(signing_input).digest()
