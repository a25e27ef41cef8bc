# SPDX-License-Identifier: Apache-2.0
"""Key references: the path or URI of a key, stored with the tokens that are bound to it.

A reference is not a secret: it appears in stores, messages and logs. So a text that looks like a key, or a URI with a
PIN, is refused.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from dpop.client._prover import Prover
from dpop.errors import ArgumentTypeError, KeyMismatchError, UsageError
from dpop.keys._sources import load_key

if TYPE_CHECKING:
    from dpop.keys import Key

__all__ = ["KeyHolder", "check_key_reference", "key_reference_of"]

_MAX_LENGTH: Final = 2048
_PIN: Final = re.compile(r"[?&;](?:pin-value|password|passphrase|secret|token)=", re.IGNORECASE)
_USERINFO: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://[^/]*:[^/]*@")


def check_key_reference(reference: object) -> str:
    """Return the reference if it can be stored.

    :raises ArgumentTypeError: not a str.
    :raises UsageError: it is empty or too long, looks like a key, or contains a PIN or password. The reference is not
        in the message.
    """
    if not isinstance(reference, str):
        raise ArgumentTypeError("key_reference", "a path or URI as str", reference)
    if not reference or len(reference) > _MAX_LENGTH or not reference.isprintable():
        raise UsageError(f"key_reference must be a path or URI of 1 to {_MAX_LENGTH} printable characters")
    if "-----BEGIN" in reference or reference.lstrip().startswith(("{", "[")):
        raise UsageError("key_reference must be the path or URI of the key; this looks like the key itself")
    if _PIN.search(reference) or _USERINFO.match(reference):
        raise UsageError(
            "key_reference contains a PIN or password, but is stored unencrypted; leave that out, and give"
            " password= when the key is loaded"
        )
    return reference


def key_reference_of(key: Key, given: str | None) -> str | None:
    """Return the reference of a key: the given one, or the key's own; ``None`` if there is neither.

    :raises UsageError: the given one is refused by :func:`check_key_reference`.
    """
    if given is not None:
        return check_key_reference(given)
    own: object = getattr(key, "reference", None)
    if own is None:
        return None
    try:
        return check_key_reference(own)
    except UsageError:
        return None  # the user did not give this reference, so it is no error


class KeyHolder:
    """Holds a key, or a reference, with which the key is loaded when the first proof is needed.

    Copies share the key. A pickle contains the reference and the thumbprint, but never the key.

    :param key: the key or its prover; without one, ``reference`` says where to load it from.
    :param reference: the path or URI of the key; by default the one that ``key`` was loaded from.
    :param jkt: the thumbprint of the key to which the tokens are bound, if it is known.
    :param password: the password of the key, or a function that asks for it; it is not pickled.
    :raises UsageError: there is neither a key nor a reference, or the reference must not be stored.
    :raises KeyMismatchError: the key has another thumbprint than ``jkt``.
    """

    __slots__ = ("_jkt", "_lock", "_password", "_prover", "_reference")

    def __init__(
        self,
        key: Key | Prover | None = None,
        *,
        reference: str | None = None,
        jkt: str | None = None,
        password: str | bytes | Callable[[], str | bytes] | None = None,
    ) -> None:
        if key is None and reference is None:
            raise UsageError(
                "there is neither a key nor a reference: give key=dpop.load_key(...), the key for which the"
                " tokens were issued, or key_reference= with its path or URI"
            )
        self._jkt = jkt
        self._lock = threading.RLock()  # a signal handler of the thread that holds it may ask, too
        self._password = password
        self._prover = None if key is None else Prover.of(key)
        self._reference = check_key_reference(reference) if reference is not None else None
        if self._prover is not None:
            self._check(self._prover)
            self._reference = key_reference_of(self._prover.key, reference)

    def __repr__(self) -> str:
        return f"<KeyHolder of {self._jkt or self._reference}>"

    @property
    def reference(self) -> str | None:
        """The path or URI of the key; ``None`` if it is not known."""
        return self._reference

    @property
    def jkt(self) -> str | None:
        """The key's thumbprint (RFC 7638); ``None`` if it was not stored and the key is not loaded yet."""
        return self._jkt

    def prover(self) -> Prover:
        """Return the prover of the key; load the key on first use.

        :raises KeyMismatchError: the reference now names another key.
        :raises DPoPKeyError: the key cannot be loaded.
        """
        with self._lock:
            if self._prover is None:
                prover = Prover(load_key(self._reference or "", password=self._password))
                self._check(prover)
                self._prover = prover
            return self._prover

    def _check(self, prover: Prover) -> None:
        if self._jkt not in {None, prover.thumbprint}:
            where = f" ({self._reference})" if self._reference else ""
            raise KeyMismatchError(
                f"the tokens are bound to the key {self._jkt}, but this key{where} is {prover.thumbprint};"
                " nothing was sent: load the right key, or authorise again with this one",
                expected=self._jkt,
                got=prover.thumbprint,
            )
        self._jkt = prover.thumbprint

    def __copy__(self) -> KeyHolder:
        return self

    def __deepcopy__(self, _memo: object) -> KeyHolder:
        return self

    def __reduce__(self) -> tuple[object, ...]:
        if self._reference is None:
            raise UsageError(
                "these cannot be pickled: their key must not travel, and its path or URI is unknown. Load it"
                " from its file or URI with dpop.load_key, or give key_reference="
            )
        return (_by_reference, (self._reference, self._jkt))


def _by_reference(reference: str, jkt: str | None) -> KeyHolder:
    return KeyHolder(reference=reference, jkt=jkt)
