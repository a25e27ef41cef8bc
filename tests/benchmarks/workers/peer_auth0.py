# SPDX-License-Identifier: Apache-2.0
"""auth0-server-python: an auth object for httpx."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
from auth0_server_python.auth_schemes.dpop_auth import DPoPAuth
from jwcrypto import jwk


def mint(*, key: str, alg: str, method: str, url: str, nonce: str, token: str) -> Callable[[], object]:
    """A proof, made by the method that makes each of its proofs: the library offers no other way for a resource."""
    auth = DPoPAuth(token, jwk.JWK.from_pem(key.encode()))
    del alg
    return lambda: auth._make_proof(method, url, nonce)


class Httpx:
    """An asynchronous client with its auth object."""

    def __init__(self, auth: DPoPAuth, url: str) -> None:
        self.auth, self.url = auth, url
        self.client = httpx.AsyncClient(
            auth=auth, timeout=60, trust_env=False, limits=httpx.Limits(max_connections=200)
        )

    def fresh(self) -> Httpx:
        """Another client of the same auth."""
        return Httpx(self.auth, self.url)

    async def send(self) -> int:
        """One request."""
        return (await self.client.get(self.url)).status_code


def client(*, library: str, key: str, url: str, origin: str, token: str, workers: int) -> Any:
    """A client."""
    del library, origin, workers
    return Httpx(DPoPAuth(token, jwk.JWK.from_pem(key.encode())), url)
