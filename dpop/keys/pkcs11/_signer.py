# SPDX-License-Identifier: Apache-2.0
"""What a token signs, through everything that may happen to the token meanwhile."""

from __future__ import annotations

import hashlib
import os
from typing import Final

from dpop._tracebacks import discreet
from dpop.errors import ForkedKeyError
from dpop.keys.pkcs11._cryptoki import CKM, CKR, CryptokiError
from dpop.keys.pkcs11._device import Token
from dpop.keys.pkcs11._errors import explain
from dpop.keys.pkcs11._sessions import SessionPool

__all__ = ["TokenSigner", "data_to_sign"]

# A session, a handle or a login is stale, and new ones may be had: the token was away, or someone logged out.
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


class TokenSigner:
    """Signs in the sessions of a pool; once more in new ones if those were lost."""

    def __init__(self, token: Token, pool: SessionPool, mechanism: CKM) -> None:
        self._label = token.label
        self._loaded = token.loaded
        self._pool = pool
        self._mechanism = mechanism
        self._pid = os.getpid()
        token.loaded.users.add(pool)

    @discreet
    def __call__(self, signing_input: bytes) -> bytes:
        """The signature as the token returns it, R||S, not verified.

        :raises DPoPKeyError: there is none.
        """
        if os.getpid() != self._pid:
            raise ForkedKeyError(
                f"the key in the token {self._label!r} was opened before this process was forked; open it in the child"
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
        """Close all sessions. In a forked process they are the parent's, and stay."""
        if os.getpid() == self._pid:
            self._pool.close()


def data_to_sign(mechanism: CKM, signing_input: bytes) -> bytes:
    """What the mechanism wants: SHA-256 of the octets, or the octets themselves (RFC 7518 §3.4)."""
    return signing_input if mechanism is CKM.ECDSA_SHA256 else hashlib.sha256(signing_input).digest()
