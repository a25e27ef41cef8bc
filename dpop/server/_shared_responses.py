# SPDX-License-Identifier: Apache-2.0
"""Share introspection responses among the processes and hosts of an API, in a cache that others may read and write.

The cache gets neither tokens nor claims: the name of an entry is a keyed hash of the token, and the entry is encrypted
with a key that is made of the secret and the token. Whoever can write to the cache but lacks the secret cannot make an
entry that is believed, nor give the response for one token to another.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from dpop._forking import import_now
from dpop._tracebacks import hide_frames
from dpop.encoding import b64url_decode, b64url_encode, json_object
from dpop.errors import EncodingError
from dpop.server._events import Event, EventHook, emit
from dpop.server._nonces import check_secret

__all__ = ["IntrospectionCache", "SharedResponse", "SharedResponses"]

_log = logging.getLogger("dpop.server")

_MAX_SEALED: Final = 1 << 17
_NONCE_SIZE: Final = 12
_MAX_DEPTH: Final = 17  # of a response, and one more
_PAUSE: Final = 1.0  # seconds without the cache after it failed, so that not every request waits for its timeout


class IntrospectionCache(Protocol):
    """Keeps encrypted introspection responses for all processes of an API; see :class:`dpop.server.Introspection`.

    Both methods are called in threads that may block. They may raise any error: the authorization server is then asked
    without the cache.
    """

    def get(self, name: str) -> str | None:
        """The entry of this name; None if there is none.

        :param name: 43 characters of base64url.
        """
        ...

    def put(self, name: str, entry: str, seconds: float) -> None:
        """Keep an entry, in place of an earlier one of this name.

        :param entry: ASCII text, 131,072 characters at most.
        :param seconds: more than 0. The entry must be gone afterwards; it may be gone earlier.
        """
        ...


class SharedResponse(NamedTuple):
    """A response of the authorization server, and when it was asked for, in Unix seconds."""

    response: dict[str, Any]
    asked_at: float

    def __repr__(self) -> str:
        return "<SharedResponse>"


class SharedResponses:
    """Reads and writes the cache. No error of the cache is an error of a request.

    :param secret: 16 bytes or more, the same in all processes.
    :param context: what a response depends on besides the token, such as the endpoint.
    :raises UsageError: a secret that is too short.
    """

    @hide_frames
    def __init__(
        self,
        cache: IntrospectionCache,
        secret: bytes,
        context: tuple[str, ...],
        *,
        events: EventHook | None,
        monotonic: Callable[[], float],
    ) -> None:
        check_secret(secret)
        import_now("cryptography.hazmat.primitives.ciphers.aead")
        about = json.dumps(context).encode()
        self._cache = cache
        self._name_key = hmac.digest(secret, b"dpop introspection name\0" + about, hashlib.sha256)
        self._entry_key = hmac.digest(secret, b"dpop introspection entry\0" + about, hashlib.sha256)
        self._events = events
        self._monotonic = monotonic
        self._not_before = 0.0
        self._is_down = False
        self._has_warned = False

    def __repr__(self) -> str:
        return f"<SharedResponses in {type(self._cache).__name__}>"

    @hide_frames
    def get(self, token: str) -> SharedResponse | None:
        """The response for a token; None if there is none, if it cannot be believed, or if the cache fails."""
        if self._monotonic() < self._not_before:
            return None
        began = time.monotonic()
        found, outcome = None, "unavailable"
        try:
            entry = self._cache.get(self._name(token))
        except Exception as error:  # noqa: BLE001 - the authorization server is asked instead
            self._failed(error)
        else:
            self._works()
            found = None if entry is None else self._opened(token, entry)
            outcome = "absent" if entry is None else "foreign" if found is None else ""
        emit(self._events, Event("shared", outcome or None, seconds=time.monotonic() - began))
        return found

    @hide_frames
    def put(self, token: str, shared: SharedResponse, seconds: float) -> None:
        """Keep a response for this many seconds, if the cache can."""
        if seconds <= 0 or self._monotonic() < self._not_before:
            return
        try:
            entry = self._sealed(token, shared)
            if len(entry) <= _MAX_SEALED:
                self._cache.put(self._name(token), entry, seconds)
        except Exception as error:  # noqa: BLE001 - the response is there, only not for others
            self._failed(error)

    def _name(self, token: str) -> str:
        return b64url_encode(hmac.digest(self._name_key, _bytes(token), hashlib.sha256))

    def _cipher(self, token: str) -> Any:
        """AES-256-GCM with a key of this token alone, so that random nonces never run out."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - dpop.server stays light

        return AESGCM(hmac.digest(self._entry_key, _bytes(token), hashlib.sha256))

    def _sealed(self, token: str, shared: SharedResponse) -> str:
        nonce = os.urandom(_NONCE_SIZE)
        data = json.dumps({"asked_at": shared.asked_at, "response": shared.response}).encode()
        return b64url_encode(nonce + self._cipher(token).encrypt(nonce, data, None))

    def _opened(self, token: str, entry: object) -> SharedResponse | None:
        """Decrypt an entry; None if this API did not write it for this token."""
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - as above

        try:
            if not isinstance(entry, str) or len(entry) > _MAX_SEALED:
                raise EncodingError("no entry of this package")
            data = b64url_decode(entry)
            content = self._cipher(token).decrypt(data[:_NONCE_SIZE], data[_NONCE_SIZE:], None)
            members = json_object(content, max_depth=_MAX_DEPTH)
            return SharedResponse(members["response"], members["asked_at"])
        except (EncodingError, InvalidTag, ValueError):
            if not self._has_warned:
                self._has_warned = True
                _log.warning(
                    "an entry of the shared introspection cache was not written with this secret, or was changed; it "
                    "is ignored, like later ones: look who else writes there"
                )
            return None

    def _failed(self, error: Exception) -> None:
        self._not_before = self._monotonic() + _PAUSE
        if not self._is_down:
            self._is_down = True
            _log.warning(
                "the shared introspection cache failed (%s); until it works again, each process asks for itself",
                type(error).__name__,
            )

    def _works(self) -> None:
        if self._is_down:
            self._is_down = False
            _log.warning("the shared introspection cache works again")


def _bytes(token: str) -> bytes:
    return token.encode("utf-8", "surrogatepass")
