# SPDX-License-Identifier: Apache-2.0
"""A new key pair in a token: it signs, and its private part never leaves."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Final

from dpop.errors import AmbiguousKeyError, DeviceError
from dpop.keys.pkcs11._cryptoki import CKA, CKM, CKO, Module, Template
from dpop.keys.pkcs11._device import find_token
from dpop.keys.pkcs11._modules import LoadedModule
from dpop.keys.pkcs11._objects import P256_PARAMS, KeyObject, key_objects
from dpop.keys.pkcs11._pin import Pin
from dpop.keys.pkcs11._uri import Pkcs11Uri

__all__ = ["make_pair"]

_ID_OCTETS: Final = 8


def make_pair(loaded: LoadedModule, uri: Pkcs11Uri, pin: Pin) -> Pkcs11Uri:
    """Make a P-256 pair, and see that the token did what it was told; the URI names it.

    :param uri: names the token and, in ``object``, the new key.
    :raises AmbiguousKeyError: a key of that name or id is there.
    :raises DeviceError: the token makes no such keys, or made another, which is destroyed again.
    :raises CryptokiError: what the module said otherwise.
    """
    module, label = loaded.module, uri.object or ""
    with loaded.lock:
        token = find_token(loaded, uri, pin)
        if CKM.EC_KEY_PAIR_GEN not in module.mechanisms(token.slot):
            raise DeviceError(f"the token {token.label!r} makes no EC keys; use its maker's own tool, and give the URI")
        names: Template = {
            CKA.TOKEN: True,
            CKA.LABEL: label.encode(),
            CKA.ID: uri.id or secrets.token_bytes(_ID_OCTETS),
        }
        made = Pkcs11Uri(object=label, id=bytes(names[CKA.ID]))
        session = token.open_session(writable=True)
        try:
            _refuse_if_there(module, session, made, token.label)
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
            if not _is_as_told(key_objects(module, session, CKO.PRIVATE_KEY, made)):
                for handle in pair:
                    module.destroy_object(session, handle)
                raise DeviceError(
                    f"the token {token.label!r} made a key that could be taken out or not be used; it is destroyed"
                )
        finally:
            token.close_session(session)
        return replace(token.uri, object=label, id=made.id).reached_as(uri)


def _refuse_if_there(module: Module, session: int, made: Pkcs11Uri, token: str) -> None:
    for kind in (CKO.PRIVATE_KEY, CKO.PUBLIC_KEY):
        for same in (replace(made, id=None), replace(made, object=None)):
            if there := key_objects(module, session, kind, same):
                raise AmbiguousKeyError(
                    f"the token {token!r} has {there[0].described} already, which is kept; name the new key otherwise"
                )


def _is_as_told(keys: list[KeyObject]) -> bool:
    return len(keys) == 1 and keys[0].usable and keys[0].sensitive is True and keys[0].extractable is False
