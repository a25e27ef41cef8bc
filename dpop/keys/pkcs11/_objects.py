# SPDX-License-Identifier: Apache-2.0
"""Find objects in a device: the private key that a URI names, and the public key that belongs to it."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass, replace
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from dpop.errors import AmbiguousKeyError, InvalidKeyError, KeyNotFoundError
from dpop.keys._public import PublicKey
from dpop.keys.pkcs11._cryptoki import CKA, CKO, Module
from dpop.keys.pkcs11._cryptoki_types import CKK_EC
from dpop.keys.pkcs11._errors import WANTS_PARAMETERS
from dpop.keys.pkcs11._uri import Pkcs11Uri

__all__ = ["P256_PARAMS", "KeyObject", "Points", "key_objects", "public_keys", "read_point", "the_private_key"]

P256_PARAMS: Final = bytes.fromhex("06082a8648ce3d030107")  # OBJECT IDENTIFIER prime256v1

_CURVES: Final = {
    P256_PARAMS: "P-256",
    bytes.fromhex("06052b81040022"): "P-384",
    bytes.fromhex("06052b81040023"): "P-521",
    bytes.fromhex("06052b8104000a"): "secp256k1",
}
_KEY_TYPES: Final = {0: "RSA", 1: "DSA", 0x40: "Edwards"}
_ULONG: Final = ctypes.sizeof(ctypes.c_ulong)


@dataclass(frozen=True, slots=True)
class KeyObject:
    """A key as its device describes it. None means that the device does not tell.

    :param kind: ``"EC P-256"``, ``"RSA"``, and so on.
    """

    handle: int
    label: str
    id: bytes
    kind: str
    sign: bool | None
    sensitive: bool | None
    extractable: bool | None
    never_extractable: bool | None
    local: bool | None
    always_authenticate: bool

    @property
    def usable(self) -> bool:
        """Whether the key can make ES256 proofs, as far as the device tells."""
        return self.kind in {"EC P-256", "EC"} and self.sign is not False

    def uri(self, device: Pkcs11Uri) -> Pkcs11Uri:
        """Return the URI of the key, given the URI of its device."""
        return replace(device, object=self.label or None, id=self.id or None)

    @property
    def described(self) -> str:
        """A description for messages: the key's name, its kind, and whether it must not sign."""
        name = Pkcs11Uri(object=self.label or None, id=self.id or None).name.removeprefix("pkcs11:")
        return f"{name or 'one without a name'} ({self.kind}{', not for signing' if self.sign is False else ''})"


def key_objects(module: Module, session: int, kind: CKO, uri: Pkcs11Uri = Pkcs11Uri()) -> list[KeyObject]:  # noqa: B008
    """List the keys of one class that match the ``object`` and ``id`` of a URI and are visible, sorted by name.

    :param kind: ``CKO.PRIVATE_KEY`` or ``CKO.PUBLIC_KEY``.
    """
    template: dict[int, bytes | bool | int] = {CKA.CLASS: kind}
    if uri.object is not None:
        template[CKA.LABEL] = uri.object.encode()
    if uri.id is not None:
        template[CKA.ID] = uri.id
    found = [_described(module, session, handle) for handle in module.find_objects(session, template)]
    return sorted(found, key=lambda key: (key.label, key.id))


def the_private_key(module: Module, session: int, uri: Pkcs11Uri, device: str) -> KeyObject:
    """Find the only private key that matches the URI and can sign with ES256.

    :param device: the label of the device, for messages.
    :raises KeyNotFoundError: no key matches.
    :raises InvalidKeyError: the matching key is of another kind, or must not sign.
    :raises AmbiguousKeyError: several keys match.
    """
    fitting = key_objects(module, session, CKO.PRIVATE_KEY, uri)
    usable = [key for key in fitting if key.usable]
    if len(usable) == 1:
        return usable[0]
    if usable:
        raise AmbiguousKeyError(
            f"{len(usable)} keys of the device {device!r} match {uri.name}: {_listed(usable)}; choose with object= and"
            " id="
        )
    if fitting:
        raise InvalidKeyError(
            f"the device {device!r} has only {_listed(fitting)} for {uri.name}; an EC P-256 key that may sign is needed"
        )
    others = key_objects(module, session, CKO.PRIVATE_KEY)
    there = f"it has {_listed(others)}" if others else f"it shows no private key at all{_why_none(module, uri)}"
    raise KeyNotFoundError(f"the device {device!r} has no private key for {uri.name}; {there}")


def _why_none(module: Module, uri: Pkcs11Uri) -> str:
    """Return a hint for NSS: without parameters, its newer modules start, but show no database."""
    if uri.x_init_reserved is None and module.info().description.startswith("NSS"):
        return f"; {WANTS_PARAMETERS}"
    return ""


@dataclass(frozen=True, slots=True)
class Points:
    """Candidates for the public key of a private key.

    :param certain: there is one candidate, and the device itself says that it belongs to the private key.
    """

    keys: list[PublicKey]
    certain: bool


def public_keys(module: Module, session: int, private: KeyObject) -> Points:
    """Find the public key of a private key: in a public object, or in the private key, or in a certificate.

    :raises InvalidKeyError: a public key was found that is not a point of P-256.
    """
    same = Pkcs11Uri(id=private.id) if private.id else Pkcs11Uri(object=private.label)
    found = [key for key in key_objects(module, session, CKO.PUBLIC_KEY, same) if key.kind in {"EC P-256", "EC"}]
    if len(found) > 1:
        found = [key for key in found if key.label == private.label] or found
    keys = [read_point(point) for key in found if (point := module.attribute(session, key.handle, CKA.EC_POINT))]
    if not keys:
        point = module.attribute(session, private.handle, CKA.EC_POINT)
        if point:
            return Points([read_point(point)], certain=True)
    if not keys:
        return Points(list(dict.fromkeys(_of_certificates(module, session, private))), certain=False)
    distinct = list(dict.fromkeys(keys))
    return Points(distinct, certain=len(distinct) == 1)


def read_point(data: bytes) -> PublicKey:
    """Read the public key in a CKA_EC_POINT: in the standard a DER OCTET STRING, in practice often the bare point.

    The length tells which one it is: a bare point can begin with the same bytes as DER.

    :raises InvalidKeyError: the data is not a point of P-256 in any known form.
    """
    bare = data
    if (len(data), data[:2]) in {(67, b"\x04\x41"), (35, b"\x04\x21")}:
        bare = data[2:]
    elif (len(data), data[:3]) in {(68, b"\x03\x42\x00"), (36, b"\x03\x22\x00")}:  # BIT STRING
        bare = data[3:]
    if len(bare) not in {65, 33}:
        raise InvalidKeyError(f"the device's public key has {len(data)} bytes, which is not a point of P-256")
    try:
        return PublicKey.from_cryptography(ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), bare))
    except ValueError:
        raise InvalidKeyError("the device's public key is not a point of P-256") from None


def _of_certificates(module: Module, session: int, private: KeyObject) -> list[PublicKey]:
    from cryptography.x509 import load_der_x509_certificate  # noqa: PLC0415 - slow to load, and seldom wanted

    # Search by label and by id: tools that write a certificate later often give it the key's label and another id.
    names: list[dict[int, bytes | bool | int]] = []
    if private.id:
        names.append({CKA.ID: private.id})
    if private.label:
        names.append({CKA.LABEL: private.label.encode()})
    handles = [
        handle for name in names for handle in module.find_objects(session, {CKA.CLASS: CKO.CERTIFICATE, **name})
    ]
    keys = []
    for handle in dict.fromkeys(handles):
        data = module.attribute(session, handle, CKA.VALUE)
        try:
            key = load_der_x509_certificate(data or b"").public_key()
        except ValueError:
            continue
        if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
            keys.append(PublicKey.from_cryptography(key))
    return keys


def _described(module: Module, session: int, handle: int) -> KeyObject:
    def data(kind: CKA) -> bytes | None:
        return module.attribute(session, handle, kind)

    def flag(kind: CKA) -> bool | None:
        value = data(kind)
        return None if value is None or len(value) != 1 else value != b"\0"

    private = data(CKA.CLASS) == bytes(ctypes.c_ulong(CKO.PRIVATE_KEY))
    return KeyObject(
        handle,
        (data(CKA.LABEL) or b"").rstrip(b"\0").decode("utf-8", "replace"),
        data(CKA.ID) or b"",
        _kind(module, session, handle),
        flag(CKA.SIGN if private else CKA.VERIFY),
        flag(CKA.SENSITIVE),
        flag(CKA.EXTRACTABLE),
        flag(CKA.NEVER_EXTRACTABLE),
        flag(CKA.LOCAL),
        flag(CKA.ALWAYS_AUTHENTICATE) is True,
    )


def _kind(module: Module, session: int, handle: int) -> str:
    key_type = module.attribute(session, handle, CKA.KEY_TYPE) or b""
    number = int.from_bytes(key_type, sys.byteorder)
    if len(key_type) != _ULONG or number != CKK_EC:
        return _KEY_TYPES.get(number, f"key type {number}") if len(key_type) == _ULONG else "unknown"
    parameters = module.attribute(session, handle, CKA.EC_PARAMS)
    return "EC" if parameters is None else f"EC {_CURVES.get(parameters, 'another curve')}"


def _listed(keys: list[KeyObject]) -> str:
    return ", ".join(key.described for key in keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")
