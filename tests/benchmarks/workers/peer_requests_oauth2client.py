# SPDX-License-Identifier: Apache-2.0
"""requests_oauth2client: a DPoP token is an auth object for requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import requests
from binapy import BinaPy
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwskate import Jwk
from requests_oauth2client import DPoPKey, DPoPToken, OAuth2AccessTokenAuth, OAuth2Client
from requests_oauth2client.dpop import validate_dpop_proof
from worker import at_once


def _key(key: str, alg: str) -> DPoPKey:
    return DPoPKey(Jwk.from_cryptography_key(load_pem_private_key(key.encode(), None)), alg=alg)


def mint(*, key: str, alg: str, method: str, url: str, nonce: str | None, token: str | None) -> Callable[[], object]:
    """A proof, its ath made as the library makes it."""
    loaded = _key(key, "EdDSA" if alg == "Ed25519" else alg)

    def one() -> str:
        ath = None if token is None else BinaPy(token).to("sha256").to("b64u").decode()
        return str(loaded.proof(htm=method, htu=url, ath=ath, nonce=nonce))

    return one


def verify(
    *, proofs: list[str], method: str, url: str, nonce: str, token: str, jkts: list[str]
) -> Callable[[], object]:
    """Its validation; it has no store of identifiers, so a set stands in."""
    ath = BinaPy(token).to("sha256").to("b64u").decode()
    seen: set[str] = set()
    turns = iter(zip(proofs, jkts, strict=True))

    def one() -> None:
        proof, jkt = next(turns)
        jwt = validate_dpop_proof(proof, htm=method, htu=url, ath=ath, nonce=nonce, algs=["ES256"])
        if Jwk(jwt.headers["jwk"]).thumbprint() != jkt or jwt.jwt_token_id in seen:
            raise ValueError
        seen.add(str(jwt.jwt_token_id))

    return one


class Requests:
    """A session per thread, one token for all."""

    def __init__(self, token: DPoPToken | OAuth2AccessTokenAuth, url: str) -> None:
        self.token, self.url = token, url
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.auth = token

    def fresh(self) -> Requests:
        """A session with the same token."""
        return Requests(self.token, self.url)

    def send(self) -> int:
        """One request."""
        return self.session.get(self.url).status_code


def client(*, library: str, key: str, url: str, origin: str, token: str, workers: int) -> Any:
    """A client."""
    del library, origin, workers
    return Requests(DPoPToken(access_token=token, _dpop_key=_key(key, "ES256")), url)


def refresh(
    *,
    key: str,
    client_id: str,
    endpoint: str,
    access_token: str,
    refresh_token: str,
    url: str,
    origin: str,
    store: str,
    threads: int,
) -> Callable[[], dict[str, int]]:
    """One call of an API by each thread, with the library's auth object that refreshes."""
    del origin, store
    token = DPoPToken(
        access_token=access_token, refresh_token=refresh_token, expires_in=1, _dpop_key=_key(key, "ES256")
    )
    auth = OAuth2AccessTokenAuth(OAuth2Client(endpoint, client_id=client_id, testing=True), token)
    return at_once(threads, lambda: Requests(auth, url))
