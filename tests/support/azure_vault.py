# SPDX-License-Identifier: Apache-2.0
"""A fake Azure Key Vault, which signs with the local crypto of Azure's own library."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from azure.core.credentials import AccessToken
from azure.keyvault.keys import JsonWebKey
from azure.keyvault.keys._shared import http_challenge_cache
from azure.keyvault.keys.crypto import CryptographyClient, SignatureAlgorithm
from support.cloud import Asked, CloudServer, Told

from dpop.encoding import b64url_decode, b64url_encode
from dpop.keys import SoftwareKey
from dpop.keys.kms import KmsKey
from dpop.keys.kms._azure import AzureKeyVault

ACCESS_TOKEN = "eyJ.SECRET-ACCESS-TOKEN"
VERSION = "0123456789abcdef0123456789abcdef"


class Vault(CloudServer):
    """A vault with one key, dpop, in one version.

    It challenges as Key Vault does, and lets CryptographyClient.from_jwk sign: Azure's own code, which
    takes a digest and gives R||S.
    """

    def __init__(self, certificate: Path, key: SoftwareKey | None = None) -> None:
        super().__init__(self._response, certificate)
        self.certificate = certificate
        # The library keeps each host's challenge for the whole process, and an earlier vault may have had this port.
        with contextlib.suppress(KeyError):  # old versions may remove only what is there
            http_challenge_cache.remove_challenge_for_url(self.url)
        # The library gives a token to hosts under the domain of the resource, and this makes 127.0.0.1 one.
        self.resource = f"https://0.0.1:{self.port}"
        self.attributes: dict[str, Any] = {"enabled": True}
        self.operations = ["sign", "verify"]
        self.change = lambda jwk: jwk
        self.keep(key or SoftwareKey.generate())

    def keep(self, key: SoftwareKey) -> None:
        """Put the key into the vault."""
        self.key = key
        secret = {name: value for name, value in key.to_jwk(private=True).items() if name != "alg"}
        members = {
            name: b64url_decode(value) if name not in {"kty", "crv"} else value for name, value in secret.items()
        }
        self.crypto = CryptographyClient.from_jwk(JsonWebKey(key_ops=["sign"], **members))

    def _response(self, asked: Asked) -> Told:
        if asked.headers.get("authorization") != f"Bearer {ACCESS_TOKEN}":
            challenge = f'Bearer authorization="https://login.example/tenant", resource="{self.resource}"'
            return Told(
                401, {"error": {"code": "Unauthorized", "message": "AKV10000"}}, {"WWW-Authenticate": challenge}
            )
        path = asked.path.partition("?")[0]
        if asked.method == "GET" and path in {"/keys/dpop/", "/keys/dpop", f"/keys/dpop/{VERSION}"}:
            jwk = {"kid": f"{self.url}/keys/dpop/{VERSION}", "key_ops": self.operations, **self.key.public_jwk}
            return Told(200, {"key": self.change(jwk), "attributes": self.attributes})
        if path == f"/keys/dpop/{VERSION}/sign":
            digest = b64url_decode(asked.body["value"])
            signature = self.crypto.sign(SignatureAlgorithm(asked.body["alg"]), digest).signature
            return Told(200, {"kid": f"{self.url}/keys/dpop/{VERSION}", "value": b64url_encode(signature)})
        return azure_error(404, "KeyNotFound")

    def open(self, name: str = "dpop", **options: Any) -> KmsKey:
        """Open the vault's key with a test credential and without retries."""
        settings: dict[str, Any] = {"retry_total": 0, "verify_challenge_resource": False, **options}
        settings["connection_verify"] = str(self.certificate)
        return KmsKey.open(AzureKeyVault(f"{self.url}/keys/{name}", credential=Credential, options=settings))


class Credential:
    """A credential in place of azure-identity's: it always has a token."""

    def get_token(self, *scopes: str, **_options: Any) -> AccessToken:
        return AccessToken(ACCESS_TOKEN, int(time.time()) + 3600)


def azure_error(status: int, inner: str, message: str = "No.") -> Told:
    """Make an error as Key Vault writes it."""
    error: dict[str, Any] = {"code": "Forbidden", "message": message, "innererror": {"code": inner}}
    return Told(status, {"error": error})


@contextlib.contextmanager
def managed_identity() -> Iterator[dict[str, str]]:
    """Set the environment of an application with an App Service identity."""
    with CloudServer(_token) as server:
        yield {"IDENTITY_ENDPOINT": f"{server.url}/token", "IDENTITY_HEADER": "here"}


def _token(asked: Asked) -> Told:
    """Make the response to a token request."""
    if asked.headers["x-identity-header"] != "here":
        return Told(400, {"error": "invalid_request"})
    resource = parse_qs(asked.path.partition("?")[2])["resource"][0]
    expires = str(int(time.time()) + 3600)
    return Told(
        200, {"access_token": ACCESS_TOKEN, "expires_on": expires, "resource": resource, "token_type": "Bearer"}
    )
