# SPDX-License-Identifier: Apache-2.0
"""The values of access tokens: random, or JWTs signed with keys that are published and rotated (RFC 9068)."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Mapping

from dpop.encoding import b64url_decode, b64url_encode, json_object
from dpop.errors import EncodingError
from dpop.keys import PublicKey, SoftwareKey, generate_key
from dpop.testing._levers import ServerLevers

__all__ = ["TokenSigner"]

RESOURCE_PATH = "/resource"


class TokenSigner:
    """Makes the values of access tokens of one test server. Thread-safe.

    There is one key for each rotation by the lever ``rotate_keys``; it is made when it is first needed.
    """

    def __init__(self, levers: ServerLevers) -> None:
        self._levers = levers
        self._lock = threading.Lock()
        self._keys: dict[int, SoftwareKey] = {}

    def value(
        self,
        origin: str,
        *,
        client_id: str,
        sub: str,
        scope: str,
        issued_at: float,
        expires_at: float,
        cnf: Mapping[str, object] | None,
    ) -> str:
        """Return the value of a new access token, of the kind in the lever ``tokens``."""
        if self._levers.tokens == "opaque":
            return secrets.token_urlsafe(32)
        claims: dict[str, object] = {
            "iss": origin,
            "aud": origin + RESOURCE_PATH,
            "sub": sub,
            "client_id": client_id,
            "scope": scope,
            "iat": int(issued_at),
            "exp": int(expires_at),
            "jti": secrets.token_urlsafe(16),
        }
        if cnf is not None:
            claims["cnf"] = dict(cnf)
        return self.sign("at+jwt", claims)

    def sign(self, typ: str, claims: Mapping[str, object]) -> str:
        """Return a JWT signed with the newest key."""
        newest = self._levers.key_range[1]
        key = self._key(newest)
        header = {"alg": key.alg, "kid": _name(newest), "typ": typ}
        data = ".".join(b64url_encode(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims))
        return f"{data}.{b64url_encode(key.sign(data.encode('ascii')))}"

    def verified(self, text: str) -> Mapping[str, object] | None:
        """Return the claims of a JWT that one of the published keys signed; None for any other text."""
        data, _, signature = text.rpartition(".")
        try:
            parts = data.split(".")
            if len(parts) != 2:
                return None
            kid = json_object(b64url_decode(parts[0])).get("kid")
            oldest, newest = self._levers.key_range
            for number in range(oldest, newest + 1):
                if _name(number) == kid:
                    public = PublicKey.from_jwk(self._key(number).public_jwk)
                    raw = b64url_decode(signature)
                    return json_object(b64url_decode(parts[1])) if public.verify("ES256", data.encode(), raw) else None
        except (EncodingError, ValueError):
            return None
        return None

    def jwks(self) -> dict[str, object]:
        """Return the published keys (RFC 7517 §5), the newest first."""
        oldest, newest = self._levers.key_range
        numbers = range(newest, oldest - 1, -1)
        return {
            "keys": [
                {**self._key(number).public_jwk, "kid": _name(number), "alg": "ES256", "use": "sig"}
                for number in numbers
            ]
        }

    def _key(self, number: int) -> SoftwareKey:
        with self._lock:
            if number not in self._keys:
                self._keys[number] = generate_key("ES256")
            return self._keys[number]


def _name(number: int) -> str:
    return f"key-{number}"
