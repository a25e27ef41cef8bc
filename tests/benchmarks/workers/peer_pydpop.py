# SPDX-License-Identifier: Apache-2.0
"""pydpop, as its docstrings show it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pydpop
import pydpop.integrations.httpx
import pydpop.integrations.requests
import requests
from cryptography.hazmat.primitives.serialization import load_pem_private_key


def mint(*, key: str, alg: str, method: str, url: str, nonce: str | None, token: str | None) -> Callable[[], object]:
    """A proof."""
    private = load_pem_private_key(key.encode(), None)
    del alg
    return lambda: pydpop.generate_proof(private_key=private, htm=method, htu=url, access_token=token, nonce=nonce)


def verify(
    *, proofs: list[str], method: str, url: str, nonce: str, token: str, jkts: list[str]
) -> Callable[[], object]:
    """Its verifier with its store of identifiers; the binding to the token is the caller's to compare."""
    store = pydpop.MemoryJtiStore()
    turns = iter(zip(proofs, jkts, strict=True))

    def one() -> None:
        proof, jkt = next(turns)
        seen = pydpop.verify_proof(
            proof=proof, htm=method, htu=url, access_token=token, expected_nonce=nonce, jti_store=store
        )
        if seen["jwk_thumbprint"] != jkt:
            raise ValueError

    return one


class Requests:
    """A session per thread, one auth object for all."""

    def __init__(self, auth: Any, url: str, token: str) -> None:
        self.auth, self.url, self.token = auth, url, token
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.auth = auth
        self.session.headers["Authorization"] = f"DPoP {token}"

    def fresh(self) -> Requests:
        """A session with the same auth."""
        return Requests(self.auth, self.url, self.token)

    def send(self) -> int:
        """One request."""
        return self.session.get(self.url).status_code


class Httpx:
    """An asynchronous client with its auth object."""

    def __init__(self, auth: Any, url: str, token: str) -> None:
        self.arguments = (auth, url, token)
        self.url = url
        self.client = httpx.AsyncClient(
            auth=auth,
            headers={"Authorization": f"DPoP {token}"},
            timeout=60,
            trust_env=False,
            limits=httpx.Limits(max_connections=200),
        )

    def fresh(self) -> Httpx:
        """Another client of the same auth."""
        return Httpx(*self.arguments)

    async def send(self) -> int:
        """One request."""
        return (await self.client.get(self.url)).status_code


def client(*, library: str, key: str, url: str, origin: str, token: str, workers: int) -> Any:
    """A client of one of the libraries."""
    del origin, workers
    private = load_pem_private_key(key.encode(), None)
    if library == "httpx async":
        return Httpx(pydpop.integrations.httpx.DPoPAuth(private, access_token=token), url, token)
    return Requests(pydpop.integrations.requests.DPoPAuth(private, access_token=token), url, token)
