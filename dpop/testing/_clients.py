# SPDX-License-Identifier: Apache-2.0
"""The clients the test server knows, and how they authenticate (RFC 6749 §2.3)."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote_plus

from dpop.errors import InvalidProof
from dpop.testing._messages import Request

__all__ = ["Client", "Clients"]


@dataclass(frozen=True, slots=True, repr=False)
class Client:
    """A registered client; without a secret it is a public one."""

    client_id: str
    client_secret: str | None = None

    @property
    def confidential(self) -> bool:
        """Whether the client can authenticate."""
        return self.client_secret is not None


class Clients:
    """The registry: authenticates by ``client_secret_basic``, ``client_secret_post`` or ``none``."""

    METHODS = ("client_secret_basic", "client_secret_post", "none")

    def __init__(self, *clients: Client) -> None:
        self._clients = {client.client_id: client for client in clients}

    def find(self, client_id: str | None) -> Client:
        """Find the client of that name.

        :raises InvalidProof: ``invalid_client``.
        """
        client = self._clients.get(client_id or "")
        if client is None:
            raise InvalidProof("invalid_client", "client_unknown", "no client of that client_id is registered")
        return client

    def authenticate(self, request: Request, form: Mapping[str, str]) -> Client:
        """Authenticate the client that sent the request.

        :raises InvalidProof: ``invalid_client``, or ``invalid_request`` for two methods at once.
        """
        basic = request.fields("Authorization")
        if not basic:
            client = self.find(form.get("client_id"))
            secret = form.get("client_secret")
        else:
            if "client_secret" in form or len(basic) > 1:
                raise InvalidProof(
                    "invalid_request",
                    "client_authentication_repeated",
                    "the client authenticated in more than one way; use one",
                )
            name, secret = _basic(basic[0])
            client = self.find(name)
            if form.get("client_id", name) != name:
                raise InvalidProof(
                    "invalid_request", "client_id_mismatch", "the form names another client than the header"
                )
        expected = client.client_secret
        if expected is None:
            if secret:
                raise InvalidProof("invalid_client", "client_is_public", "this client has no secret; send none")
        elif secret is None:
            raise InvalidProof("invalid_client", "client_secret_missing", "this client must send its client_secret")
        elif not hmac.compare_digest(secret.encode(), expected.encode()):
            raise InvalidProof("invalid_client", "client_secret_wrong", "the client_secret is not that of this client")
        return client


def _basic(field: str) -> tuple[str, str]:
    """Read name and secret from HTTP Basic, in which both are form-encoded (RFC 6749 §2.3.1)."""
    scheme, _, credentials = field.partition(" ")
    try:
        if scheme.lower() != "basic":
            raise ValueError
        text = base64.b64decode(credentials.strip(), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        raise InvalidProof(
            "invalid_client", "client_authentication_unknown", "the Authorization header is not HTTP Basic"
        ) from None
    name, colon, secret = text.partition(":")
    if not colon:
        raise InvalidProof("invalid_client", "client_authentication_unknown", "HTTP Basic without a colon")
    return unquote_plus(name), unquote_plus(secret)
