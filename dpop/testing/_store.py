# SPDX-License-Identifier: Apache-2.0
"""The authorization server's memory: pushed requests, codes and tokens. It is bounded."""

from __future__ import annotations

import secrets
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

__all__ = ["AccessToken", "Code", "DeviceCode", "PushedRequest", "RefreshToken", "Store", "new_grant"]

_MAX_ENTRIES = 100_000
_CODE_SECONDS = 600
_PUSHED_SECONDS = 600

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, repr=False)
class PushedRequest:
    """An authorization request that was pushed (RFC 9126)."""

    client_id: str
    parameters: Mapping[str, str]
    expires_at: float


@dataclass(frozen=True, slots=True, repr=False)
class Code:
    """An authorization code.

    :param jkt: the thumbprint of its key (``dpop_jkt``); None for an unbound code (RFC 9449 §10).
    :param redirect_uri: the redirect_uri of the authorization request; None if it had none.
    :param nonce: the nonce of the authorization request, for the ID token.
    :param grant: the name of the grant; all tokens of one consent share it, so that they can be revoked together.
    """

    value: str
    client_id: str
    sub: str
    scope: str
    grant: str
    redirect_uri: str | None = None
    code_challenge: str | None = None
    jkt: str | None = None
    expires_at: float = 0
    nonce: str | None = None


@dataclass(frozen=True, slots=True, repr=False)
class RefreshToken:
    """A refresh token; ``jkt`` is the thumbprint of its key, None if it is unbound (RFC 9449 §5)."""

    value: str
    client_id: str
    sub: str
    scope: str
    grant: str
    jkt: str | None = None
    expires_at: float | None = None


@dataclass(frozen=True, slots=True, repr=False)
class AccessToken:
    """An access token; ``cnf`` names its key, None if it is a bearer token (RFC 9449 §6)."""

    value: str
    client_id: str
    sub: str
    scope: str
    grant: str
    issued_at: float
    expires_at: float
    cnf: Mapping[str, object] | None = None

    @property
    def bound_jkt(self) -> str | None:
        """``cnf.jkt``; a value that is not a str is returned as a text that is not a valid thumbprint."""
        jkt = None if self.cnf is None else self.cnf.get("jkt")
        return None if jkt is None else str(jkt)


@dataclass(slots=True, repr=False)
class DeviceCode:
    """The codes of a device whose user has to agree (RFC 8628 §3.2)."""

    value: str
    user_code: str
    client_id: str
    scope: str
    grant: str
    expires_at: float
    agreed: bool = False
    asked_at: float | None = None


class Store:
    """Grants of one authorization server. Thread-safe; each can be used up exactly once.

    :param clock: Unix seconds, the server's.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._pushed: OrderedDict[str, PushedRequest] = OrderedDict()
        self._codes: OrderedDict[str, Code] = OrderedDict()
        self._refresh: OrderedDict[str, RefreshToken] = OrderedDict()
        self._access: OrderedDict[str, AccessToken] = OrderedDict()
        self._used: OrderedDict[str, str] = OrderedDict()
        self._devices: OrderedDict[str, DeviceCode] = OrderedDict()

    # --- pushed requests

    def push(self, client_id: str, parameters: Mapping[str, str]) -> tuple[str, int]:
        """Store an authorization request; return its ``request_uri`` and its lifetime in seconds."""
        uri = "urn:ietf:params:oauth:request_uri:" + secrets.token_urlsafe(24)
        with self._lock:
            _put(self._pushed, uri, PushedRequest(client_id, parameters, self._clock() + _PUSHED_SECONDS))
        return uri, _PUSHED_SECONDS

    def take_pushed(self, uri: str) -> PushedRequest | None:
        """Take the request of a ``request_uri``, which is valid once (RFC 9126 §7.3)."""
        with self._lock:
            pushed = self._pushed.pop(uri, None)
        return pushed if pushed is not None and pushed.expires_at > self._clock() else None

    # --- codes and refresh tokens

    def add_code(self, code: Code) -> None:
        """Store a code, which is valid for ten minutes."""
        with self._lock:
            _put(self._codes, code.value, replace(code, expires_at=self._clock() + _CODE_SECONDS))

    def code(self, value: str) -> Code | None:
        """Look up a code that is valid now, without using it up."""
        with self._lock:
            code = self._codes.get(value)
        return code if code is not None and code.expires_at > self._clock() else None

    def add_refresh_token(self, token: RefreshToken) -> None:
        """Store a refresh token."""
        with self._lock:
            _put(self._refresh, token.value, token)

    def refresh_token(self, value: str) -> RefreshToken | None:
        """Look up a refresh token that is valid now, without using it up."""
        with self._lock:
            token = self._refresh.get(value)
        if token is None or (token.expires_at is not None and token.expires_at <= self._clock()):
            return None
        return token

    def use_up(self, value: str) -> bool:
        """Use up a code or rotated refresh token; False if another request was faster."""
        with self._lock:
            used = self._codes.pop(value, None) or self._refresh.pop(value, None)
            if used is not None:
                _put(self._used, value, used.grant)
        return used is not None

    def revoke_if_used_before(self, value: str) -> bool:
        """Revoke the grant of a code or refresh token that was used before, because it may be stolen.

        All tokens of the same consent are revoked (RFC 6749 §4.1.2, RFC 9700 §4.14.2).
        """
        with self._lock:
            grant = self._used.get(value)
        if grant is None:
            return False
        self.revoke_grant(grant)
        return True

    # --- devices

    def add_device_code(self, code: DeviceCode) -> None:
        """Store the codes of a device."""
        with self._lock:
            _put(self._devices, code.value, code)

    def device_code(self, value: str) -> DeviceCode | None:
        """Look up a device code, without using it up."""
        with self._lock:
            return self._devices.get(value)

    def agree(self, user_code: str) -> bool:
        """Record that the user of a device has agreed; return False if there is no such code."""
        with self._lock:
            found = [code for code in self._devices.values() if code.user_code == user_code]
            for code in found:
                code.agreed = True
        return bool(found)

    def polled_too_soon(self, value: str, now: float, interval: float) -> bool:
        """Record a poll with a device code; return whether the last one was less than the interval ago."""
        with self._lock:
            code = self._devices.get(value)
            if code is None:
                return False
            before, code.asked_at = code.asked_at, now
        return before is not None and now - before < interval

    def use_up_device_code(self, value: str) -> bool:
        """Use up a device code; False if another request was faster."""
        with self._lock:
            return self._devices.pop(value, None) is not None

    # --- access tokens

    def add_access_token(self, token: AccessToken) -> None:
        """Store an access token."""
        with self._lock:
            _put(self._access, token.value, token)

    def access_token(self, value: str) -> AccessToken | None:
        """Look up an access token that is active now."""
        with self._lock:
            token = self._access.get(value)
        return token if token is not None and token.expires_at > self._clock() else None

    # --- revocation

    def revoke(self, value: str) -> None:
        """Revoke an access token alone, or a refresh token with all of its grant (RFC 7009 §2.1)."""
        with self._lock:
            self._access.pop(value, None)
            refresh = self._refresh.get(value)
        if refresh is not None:
            self.revoke_grant(refresh.grant)

    def revoke_grant(self, grant: str) -> None:
        """Revoke all tokens of one grant."""
        with self._lock:
            for value in [value for value, token in self._access.items() if token.grant == grant]:
                del self._access[value]
            for value in [value for value, token in self._refresh.items() if token.grant == grant]:
                del self._refresh[value]

    def revoke_access_tokens(self) -> None:
        """Revoke all access tokens; refresh tokens stay valid."""
        with self._lock:
            self._access.clear()


def new_grant() -> str:
    """Return a name for a new grant; all tokens of one consent belong to a grant."""
    return uuid.uuid4().hex


def _put(memory: OrderedDict[str, _T], name: str, value: _T) -> None:
    memory[name] = value
    if len(memory) > _MAX_ENTRIES:
        memory.popitem(last=False)
