# SPDX-License-Identifier: Apache-2.0
"""The PIN of a device: its source, and a memory of refused PINs, so that no wrong PIN is sent twice.

Devices count wrong PINs, and often lock themselves at the third. A correct PIN is kept in memory, because a device
needs it again after it was removed, and some keys need it for each signature.
"""

from __future__ import annotations

import hmac
import logging
import os
import secrets
import shlex
import stat
from pathlib import Path
from typing import Final

from dpop._files import without_mark
from dpop.errors import KeyPasswordError, PinError
from dpop.keys._pem import Password, check_password
from dpop.keys.pkcs11._uri import Pkcs11Uri

__all__ = ["Pin"]

_log: Final = logging.getLogger("dpop.keys")

_MAX_FILE: Final = 1024

# The refused PINs with the devices that refused them, as hashes, with a key that exists in this process only.
_HASH_KEY: Final = secrets.token_bytes(32)
_refused: Final[set[bytes]] = set()


class Pin:
    """The source of a PIN: an argument, a callback, a file, or a URI.

    :param password: the PIN, or a function that asks for it and is called once, only if needed.
    :param uri: it may name a file with ``pin-source``, or contain the PIN in ``pin-value``.
    :raises KeyPasswordError: the PIN is given twice, empty, or too long.
    """

    def __init__(self, password: Password | None, uri: Pkcs11Uri) -> None:
        in_uri = uri.pin_value is not None or uri.pin_source is not None
        if password is not None and not callable(password):
            if in_uri:
                raise KeyPasswordError("the PIN is given twice, as the password and in the URI; leave one out")
            self._known: bytes | None = check_password(password)
        elif uri.pin_value is not None:
            _log.warning("a pkcs11: URI contains the PIN; name a file with pin-source, or pass the PIN separately")
            self._known = check_password(uri.pin_value)
        else:
            self._known = None
        self._file = uri.pin_source
        self._ask = password if callable(password) and not in_uri else None

    @property
    def is_asked_for(self) -> bool:
        """Whether a person is asked for the PIN; False if it is stored."""
        return self._ask is not None

    def get(self) -> bytes | None:
        """Return the bytes of the PIN; None if there is no PIN.

        :raises PinError: the PIN file cannot be read.
        """
        if self._known is None:
            if self._file is not None:
                self._known = check_password(_read(self._file))
            elif self._ask is not None:
                self._known = check_password(self._ask())
        return self._known

    def forget(self, device: tuple[str, ...]) -> None:
        """Remember that the device refused this PIN, and forget the PIN itself."""
        if self._known is not None:
            _refused.add(_hash(device, self._known))
            self._known = None

    def was_refused(self, device: tuple[str, ...]) -> bool:
        """Whether the device has refused this PIN before, in this process."""
        return self._known is not None and _hash(device, self._known) in _refused

    def __repr__(self) -> str:
        return "<Pin>"


def _hash(device: tuple[str, ...], pin: bytes) -> bytes:
    return hmac.digest(_HASH_KEY, "\0".join(device).encode("utf-8", "surrogateescape") + b"\0" + pin, "sha256")


def _read(path: str) -> bytes:
    """Read a PIN file, which has exactly one line."""
    try:
        with Path(path).open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise PinError(f"the file that pin-source names cannot be read: {error.strerror}") from None
    if len(data) > _MAX_FILE:
        raise PinError(f"the file that pin-source names has more than {_MAX_FILE} bytes, too much for a PIN")
    if os.name == "posix" and stat.S_ISREG(mode) and mode & 0o007:
        _log.warning(
            "the PIN file %r is open to every user (mode %04o); run: chmod 600 %s",
            path,
            stat.S_IMODE(mode),
            shlex.quote(path),
        )
    pin = without_mark(data).rstrip(b"\r\n")
    if not pin:
        raise PinError("the file that pin-source names is empty; expected the PIN")
    return pin
