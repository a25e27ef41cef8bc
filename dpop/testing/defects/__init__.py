# SPDX-License-Identifier: Apache-2.0
"""Proofs with one defect each, for people who test a server of their own.

::

    from dpop.testing.defects import DEFECTS

    for name, defect in DEFECTS.items():
        fields = defective_fields(name, key, "GET", url, access_token=token)
        ...  # send them; the server must respond with defect.verdict, and not with a 500

Each proof is correct except for one thing, so that a server that refuses it has found this defect. Those named
``ok-...`` are unusual, but correct, and a server must accept them. On the command line: ``dpop proof --defect list``.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

from dpop.encoding import check_access_token, check_nonce
from dpop.errors import UsageError
from dpop.htu import check_method, url_htu
from dpop.keys import Key
from dpop.proof import random_jti
from dpop.testing.defects._draft import Defect, Draft, Fields, Verdict, WritableDefect
from dpop.testing.defects._form import ACCEPTED, FORM
from dpop.testing.defects._key import KEY
from dpop.testing.defects._request import REQUEST

__all__ = ["DEFECTS", "Defect", "Fields", "Verdict", "defective_fields", "defective_proof"]

_DEFECTS: Mapping[str, WritableDefect] = {defect.name: defect for defect in ACCEPTED + FORM + KEY + REQUEST}
DEFECTS: Mapping[str, Defect] = MappingProxyType(_DEFECTS)
"""All defects by name, in the order in which a verifier finds them."""


def defective_fields(
    name: str,
    key: Key,
    method: str,
    url: str,
    *,
    access_token: str | None = None,
    nonce: str | None = None,
    jti: str | None = None,
    iat: int | None = None,
    clock: Callable[[], float] = time.time,
) -> Fields:
    """Make the DPoP header fields of a request, like :func:`dpop.create_proof`, but with one defect.

    Usually it is one field; some defects consist of two fields, or none.

    :param name: a name in :data:`DEFECTS`.
    :param key: the key to sign with, if the defect allows that; otherwise a published key signs.
    :param access_token: the access token of the request; the defects ``ath-...`` need one.
    :param nonce: the server's newest nonce; the defects ``nonce-...`` need one.
    :returns: names and values, one character per byte: some values contain bytes that no HTTP client sends.
    :raises UsageError: there is no such defect, or it is impossible with this URL, or without a token.
    :raises DPoPKeyError: the key did not sign.
    """
    defect = _DEFECTS.get(name)
    if defect is None:
        near = difflib.get_close_matches(name, DEFECTS, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else "."
        raise UsageError(f"there is no defect {name[:60]!a}{hint} All are in DEFECTS: dpop proof --defect list")
    return defect.write(
        Draft(
            key,
            check_method(method),
            url_htu(url),
            random_jti() if jti is None else jti,
            int(clock()) if iat is None else iat,
            None if access_token is None else check_access_token(access_token),
            None if nonce is None else check_nonce(nonce),
        )
    )


def defective_proof(
    name: str,
    key: Key,
    method: str,
    url: str,
    *,
    access_token: str | None = None,
    nonce: str | None = None,
    jti: str | None = None,
    iat: int | None = None,
    clock: Callable[[], float] = time.time,
) -> str:
    """Return the value of the DPoP header with one defect; see :func:`defective_fields`.

    :raises UsageError: as there; and if the defect is in the number or the name of the fields.
    """
    fields = defective_fields(
        name, key, method, url, access_token=access_token, nonce=nonce, jti=jti, iat=iat, clock=clock
    )
    if [name for name, _ in fields] != ["DPoP"]:
        raise UsageError(f"{name} is a defect of the header fields, not of a proof; use defective_fields")
    return fields[0][1]
