# SPDX-License-Identifier: Apache-2.0
"""An authorization server that publishes keys and signs access tokens as a test tells it to."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Self

from support.recorder import Received, Recorder, Response

import dpop
from dpop.encoding import b64url_encode
from dpop.keys import Key

__all__ = ["AUDIENCE", "JWTIssuer", "Timer", "forged"]

AUDIENCE = "https://api.example"


class Timer:
    """A clock that a test moves."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def forged(header: object, claims: object, key: Key | None = None) -> str:
    """A compact JWS of anything; bytes go in as they are. Without a key, its signature is rubbish."""
    parts = [b64url_encode(part if isinstance(part, bytes) else json.dumps(part).encode()) for part in (header, claims)]
    data = ".".join(parts)
    return f"{data}.{b64url_encode(b's' * 64 if key is None else key.sign(data.encode()))}"


class JWTIssuer:
    """Metadata at the place of RFC 8414, and a key set; ``down`` is what it does instead."""

    def __init__(self, *, metadata_path: str = "/.well-known/oauth-authorization-server") -> None:
        self.key: Key = dpop.generate_key()
        self.published: list[Any] = [self.jwk(self.key, "k1")]
        self.down: Callable[[Received], Response | None] = lambda _request: None
        self.more: dict[str, Any] = {}
        self._metadata_path = metadata_path
        self._recorder = Recorder(self._respond)

    @staticmethod
    def jwk(key: Key, kid: str | None, **members: Any) -> dict[str, Any]:
        """A key as it is published."""
        return {**key.public_jwk, **({} if kid is None else {"kid": kid}), "use": "sig", **members}

    @property
    def url(self) -> str:
        return self._recorder.origin

    @property
    def asked(self) -> list[str]:
        """The paths that were asked for."""
        return [request.target for request in self._recorder.requests]

    @property
    def fetches(self) -> int:
        """How often the key set was asked for."""
        return self.asked.count("/jwks")

    def rotate(self, kid: str, *, keep: bool = False) -> None:
        """Sign with a new key from now on."""
        self.key = dpop.generate_key()
        self.published = [*(self.published if keep else []), self.jwk(self.key, kid)]

    def __enter__(self) -> Self:
        self._recorder.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._recorder.__exit__(None, None, None)

    def _respond(self, request: Received) -> Response:
        instead = self.down(request)
        if instead is not None:
            return instead
        if request.target == self._metadata_path:
            return _json({"issuer": self.url, "jwks_uri": f"{self.url}/jwks", **self.more})
        if request.target == "/jwks":
            return _json({"keys": self.published})
        return Response(404)

    def claims(self, **changes: Any) -> dict[str, Any]:
        """The claims of a good token; a change to None takes one out."""
        now = int(time.time()) if "now" not in changes else changes.pop("now")
        claims = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "alice",
            "client_id": "c",
            "iat": now,
            "exp": now + 600,
            "jti": "j",
            "scope": "read",
        } | changes
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, *, kid: str | None = "k1", key: Key | None = None, header: Any = None, **changes: Any) -> str:
        """A signed token."""
        key = key or self.key
        head = {"alg": key.alg, "typ": "at+jwt", **({} if kid is None else {"kid": kid}), **(header or {})}
        return forged({name: value for name, value in head.items() if value is not None}, self.claims(**changes), key)


def _json(members: Any) -> Response:
    return Response(200, [("Content-Type", "application/json")], json.dumps(members).encode())
