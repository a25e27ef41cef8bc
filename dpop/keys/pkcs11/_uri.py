# SPDX-License-Identifier: Apache-2.0
"""PKCS#11 URIs: the name of a key in a device (RFC 7512), read strictly.

::

    pkcs11:token=my%20token;object=dpop;id=%01?module-path=/usr/lib/libx.so&pin-source=file:/run/pin

The part before the question mark names the key. The part after it says how to reach the key, and may contain the PIN.
So the second part is in no repr, no message and not in :meth:`Pkcs11Uri.name`.
"""

from __future__ import annotations

import re
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import PurePath
from typing import Any, Final, NoReturn
from urllib.parse import quote_from_bytes, unquote_to_bytes

from dpop._tracebacks import hide_frames
from dpop.errors import ArgumentTypeError, InvalidKeyError

__all__ = ["Pkcs11Uri"]

_MAX_URI: Final = 4096
# Unreserved characters, percent-encoded bytes, and the characters that only this part may have (RFC 7512 §2.3).
_PATH_VALUE: Final = re.compile(r"(?:[A-Za-z0-9._~:\[\]@!$'()*+,=&-]|%[0-9A-Fa-f]{2})*")
_QUERY_VALUE: Final = re.compile(r"(?:[A-Za-z0-9._~:\[\]@!$'()*+,=/?|-]|%[0-9A-Fa-f]{2})*")
_NUMBER: Final = re.compile(r"[0-9]{1,10}")
_VERSION: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3})?")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")

_REFERENCE: Final = ("module_path", "module_name", "x_init_reserved", "pin_source")
_SAFE_IN_QUERY: Final = ":[]@!$'(),*+=/"
_SAFE_IN_PATH: Final = ":[]@!$'(),*+="


@dataclass(frozen=True, slots=True)
class Pkcs11Uri:
    """The attributes of a PKCS#11 URI. None means that an attribute is absent and matches everything.

    :param token: the label of the device, which PKCS#11 calls a token. ``manufacturer``, ``serial`` and ``model`` also
        describe the device.
    :param object: the label of the key. ``id`` is its CKA_ID, any bytes.
    :param slot_id: the number of the slot. It may change each time a module starts, so prefer ``token``.
    :param module_path: the absolute path of the shared library. It is loaded as code, so never use a URI from
        somebody who must not choose the code of this process.
    :param module_name: the library's name without ``lib`` and suffix; it is searched in the usual directories.
    :param x_init_reserved: the value that the module needs in pReserved of C_Initialize, as in p11-kit's option of
        this name: for NSS ``configdir='sql:/path'``. Most modules need no value.
    :param pin_value: the PIN itself. Prefer ``pin_source``, which names a file with the PIN.
    """

    token: str | None = None
    manufacturer: str | None = None
    serial: str | None = None
    model: str | None = None
    object: str | None = None
    id: bytes | None = None
    slot_id: int | None = None
    slot_manufacturer: str | None = None
    slot_description: str | None = None
    library_manufacturer: str | None = None
    library_description: str | None = None
    library_version: str | None = None
    module_path: str | None = field(default=None, repr=False)
    module_name: str | None = field(default=None, repr=False)
    x_init_reserved: str | None = field(default=None, repr=False)
    pin_value: str | None = field(default=None, repr=False)
    pin_source: str | None = field(default=None, repr=False)

    @classmethod
    @hide_frames
    def parse(cls, text: str) -> Pkcs11Uri:
        """Read a URI (RFC 7512 §2.3).

        These are refused: attributes that are unknown or given twice, a ``type`` other than ``private``, characters
        that must be percent-encoded, text that is not UTF-8, ``pin-value`` together with ``pin-source``, a
        ``pin-source`` that is a command, and a ``module-path`` that is not absolute.

        :raises InvalidKeyError: the URI is refused; the message says why, and contains no text after the question mark.
        """
        if not isinstance(text, str):
            raise ArgumentTypeError("uri", "str", text)
        if text[:7].lower() != "pkcs11:":
            _refuse("it does not begin with pkcs11:")
        if len(text) > _MAX_URI:
            _refuse(f"it has {len(text)} characters; at most {_MAX_URI} are read")
        path, _, query = text[7:].partition("?")
        values: dict[str, Any] = {}
        for pair in path.split(";") if path else []:
            name, data = _attribute(pair, _PATH_VALUE, values, "; separates attributes")
            values[name] = _path_value(name, data)
        for pair in query.split("&") if query else []:
            name, data = _attribute(pair, _QUERY_VALUE, values, "& separates attributes after the question mark")
            values[name] = _query_value(name, data)
        if "pin-value" in values and "pin-source" in values:
            _refuse("it has pin-value and pin-source; leave one out")
        if "module-path" in values and "module-name" in values:
            _refuse("it has module-path and module-name; leave one out")
        values.pop("type", None)
        return cls(**{name.replace("-", "_"): value for name, value in values.items()})

    @property
    def name(self) -> str:
        """The URI without its query: it names the key, but does not say how to reach it."""
        return "pkcs11:" + ";".join(self._written(each.name) for each in fields(self) if each.repr and self._has(each))

    @property
    def reference(self) -> str:
        """The URI with its query, but without the PIN; the path of the PIN's file is included."""
        query = [self._written(each) for each in _REFERENCE if getattr(self, each) is not None]
        return self.name + ("?" + "&".join(query) if query else "")

    def reached_as(self, other: Pkcs11Uri) -> Pkcs11Uri:
        """Return the URI of this key with the module and the PIN file of another URI."""
        return replace(
            self,
            module_path=other.module_path,
            module_name=other.module_name,
            x_init_reserved=other.x_init_reserved,
            pin_source=other.pin_source,
            pin_value=None,
        )

    def _has(self, attribute: Field[Any]) -> bool:
        return getattr(self, attribute.name) is not None

    def _written(self, name: str) -> str:
        value = getattr(self, name)
        if isinstance(value, bytes):
            encoded = "".join(f"%{byte:02x}" for byte in value)
        else:
            safe = _SAFE_IN_QUERY if name in _REFERENCE else _SAFE_IN_PATH
            encoded = quote_from_bytes(str(value).encode("utf-8", "surrogateescape"), safe)
        return f"{name.replace('_', '-')}={encoded}"

    def __str__(self) -> str:
        return self.name


_PATH_NAMES: Final = frozenset(each.name.replace("_", "-") for each in fields(Pkcs11Uri) if each.repr) | {"type"}
_QUERY_NAMES: Final = frozenset(each.name.replace("_", "-") for each in fields(Pkcs11Uri) if not each.repr)


def _attribute(pair: str, allowed: re.Pattern[str], seen: dict[str, Any], rule: str) -> tuple[str, bytes]:
    """Parse one attribute: its name and its decoded value."""
    in_path = allowed is _PATH_VALUE
    known, others = (_PATH_NAMES, _QUERY_NAMES) if in_path else (_QUERY_NAMES, _PATH_NAMES)
    name, equals, value = pair.partition("=")
    if name in others and equals:
        _refuse(f"{name} is on the wrong side of the question mark")
    if name not in known or not equals:
        # Text that is not a name may be the rest of a PIN, so it is not shown.
        shown = (
            f"{name!r} is not an attribute" if in_path and re.fullmatch(r"[a-z-]{1,30}", name) else "a part has no name"
        )
        _refuse(f"{shown}; {rule}, and those known are {', '.join(sorted(known))}")
    if name in seen:
        _refuse(f"{name} is given twice")
    if not allowed.fullmatch(value):
        _refuse(f"the value of {name} has a character that must be percent-encoded, such as %20 for a space")
    return name, unquote_to_bytes(value)


def _path_value(name: str, data: bytes) -> str | bytes | int:
    if name == "id":
        if not data:
            _refuse("its id is empty")
        return data
    text = _text(name, data)
    if name == "type" and text != "private":
        _refuse("its type is not private: another object cannot sign")
    if name == "slot-id":
        if not _NUMBER.fullmatch(text):
            _refuse("its slot-id is not a decimal number")
        return int(text)
    if name == "library-version" and not _VERSION.fullmatch(text):
        _refuse("its library-version is not of the form 2.6")
    return text


def _query_value(name: str, data: bytes) -> str:
    text = _text(name, data)
    if not text:
        _refuse(f"its {name} is empty")
    if name == "module-path" and not PurePath(text).is_absolute():
        _refuse("its module-path is not an absolute path; for a bare name, use module-name")
    if name == "module-name" and not re.fullmatch(r"[A-Za-z0-9._+-]+", text):
        _refuse("its module-name is not a bare name; for a path, use module-path")
    if name == "pin-source":
        return _pin_file(text)
    return text


def _pin_file(text: str, kind: type[PurePath] = PurePath) -> str:
    """Read the path in a pin-source; tools write ``/path``, ``file:/path`` or ``file:///path``.

    :param kind: the class of the system's paths; on Windows, ``file:///C:/path`` names ``C:/path``.
    """
    if text.startswith("|"):
        _refuse("its pin-source is a command, which is never run; name a file")
    path = re.sub(r"\Afile:(?://(?:localhost)?(?=/))?", "", text)
    if path[:1] == "/" and kind(path[1:]).drive:
        path = path[1:]
    if path.startswith("//") or not kind(path).is_absolute():
        _refuse("its pin-source is not the absolute path of a file")
    return path


def _text(name: str, data: bytes) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        _refuse(f"the value of {name} is not UTF-8")
    if _CONTROL.search(text):
        _refuse(f"the value of {name} has a control character")
    return text


def _refuse(why: str) -> NoReturn:
    raise InvalidKeyError(f"the PKCS#11 URI cannot be used: {why} (RFC 7512)") from None
