# SPDX-License-Identifier: Apache-2.0
"""Key references: the path or URI of a key, noted beside the tokens that are bound to it.

A reference is no secret: it stands in stores, messages and logs. So what looks like a key, or a URI with a
PIN in it, is refused before it gets there.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from dpop.errors import ArgumentTypeError, UsageError

if TYPE_CHECKING:
    from dpop.keys import Key

__all__ = ["check_key_reference", "key_reference_of"]

_MAX_LENGTH: Final = 2048
_PIN: Final = re.compile(r"[?&;](?:pin-value|password|passphrase|secret|token)=", re.IGNORECASE)
_USERINFO: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://[^/]*:[^/]*@")


def check_key_reference(reference: object) -> str:
    """Return the reference if it can be written down.

    :raises ArgumentTypeError: not a str.
    :raises UsageError: it is empty or too long, looks like a key, or has a PIN or password in it. What it says
        is not in the message.
    """
    if not isinstance(reference, str):
        raise ArgumentTypeError("key_reference", "a path or URI as str", reference)
    if not reference or len(reference) > _MAX_LENGTH or not reference.isprintable():
        raise UsageError(f"key_reference must be a path or URI of 1 to {_MAX_LENGTH} printable characters")
    if "-----BEGIN" in reference or reference.lstrip().startswith(("{", "[")):
        raise UsageError("key_reference must say where the key is kept; this looks like the key itself")
    if _PIN.search(reference) or _USERINFO.match(reference):
        raise UsageError(
            "key_reference has a PIN or password in it, and is stored in the clear; leave that out, and give"
            " password= when the key is loaded"
        )
    return reference


def key_reference_of(key: Key, given: str | None) -> str | None:
    """Where a key is kept: as given, or as the key itself knows; ``None`` if neither says.

    :raises UsageError: as :func:`check_key_reference` does, for one that was given.
    """
    if given is not None:
        return check_key_reference(given)
    own: object = getattr(key, "reference", None)
    if own is None:
        return None
    try:
        return check_key_reference(own)
    except UsageError:
        return None  # nobody asked for it to be noted
