# SPDX-License-Identifier: Apache-2.0
"""An OAuth application as a user of the library would write it, on any of the HTTP clients."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
import urllib.parse
from typing import Any, Self

import requests
from interop.peers import OidcProvider
from joserfc import jwt
from joserfc.jwk import ECKey
from support.clients import Client, Reply, make

import dpop
from dpop.client._prover import Prover

__all__ = ["AUTHENTICATION", "Application", "browse", "json_of"]

AUTHENTICATION = ["public", "basic", "post", "assertion"]
"""Its ways to authenticate, and the identifiers of the clients that use them."""

JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


def json_of(reply: Reply) -> dict[str, Any]:
    """The object in a body, if there is a body."""
    fields: dict[str, Any] = json.loads(reply.body or b"{}")
    return fields


def browse(provider: OidcProvider, url: str) -> str:
    """What a browser would do: follow redirects, with cookies, up to the application's own address."""
    with requests.Session() as browser:
        browser.trust_env = False
        while not url.startswith(f"{provider['redirect_uri']}?"):
            response = browser.get(url, allow_redirects=False, timeout=60)
            assert response.is_redirect, response.text
            url = urllib.parse.urljoin(url, response.headers["Location"])
    return url


class Application:
    """One application with one key.

    :param name: which HTTP client, by its name in ``support.clients``.
    :param kind: how it authenticates, from :data:`AUTHENTICATION`.
    :param options: for the adapter that signs its requests to the authorization server.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        provider: OidcProvider,
        assertion_key: ECKey,
        *,
        prover: Prover | None = None,
        **options: Any,
    ) -> None:
        self.name, self.kind, self.provider = name, kind, provider
        self.prover = Prover(dpop.generate_key()) if prover is None else prover
        self._assertion_key = assertion_key
        self._clients: list[Client] = []
        if kind == "assertion":
            options.setdefault("rebuild", self.rebuild)
        self.http = self.client(**options)

    def client(self, **options: Any) -> Client:
        """Another HTTP client of this application, closed with it."""
        made: Client = make(self.name, self.prover, origins=self.provider["issuer"], **options)
        self._clients.append(made)
        return made

    def close(self) -> None:
        """Close its HTTP clients."""
        while self._clients:
            self._clients.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- client authentication -------------------------------------------------------------------

    def assertion(self) -> str:
        """A new private_key_jwt assertion (RFC 7523 §2.2)."""
        now = int(time.time())
        claims = {
            "iss": "assertion",
            "sub": "assertion",
            "aud": self.provider["issuer"],
            "jti": secrets.token_urlsafe(16),
            "iat": now,
            "exp": now + 60,
        }
        return jwt.encode({"alg": "ES256", "kid": "assertion"}, claims, self._assertion_key)

    def rebuild(self, body: bytes) -> bytes:
        """The same form with a new assertion, for the adapter's second try."""
        fields = dict(urllib.parse.parse_qsl(body.decode()))
        return urllib.parse.urlencode({**fields, "client_assertion": self.assertion()}).encode()

    def credentials(self) -> dict[str, str]:
        """What stands in the form to authenticate this application."""
        if self.kind == "basic":
            return {}
        if self.kind == "assertion":
            return {"client_assertion_type": JWT_BEARER, "client_assertion": self.assertion()}
        secret = self.provider.secrets[self.kind]
        return {"client_id": self.kind} if secret is None else {"client_id": self.kind, "client_secret": secret}

    def post(self, endpoint: str, fields: dict[str, str], *, client: Client | None = None) -> Reply:
        """A form to the authorization server, authenticated."""
        http = client or self.http
        options: dict[str, Any] = {}
        if self.kind == "basic":
            options["auth"] = ("basic", self.provider.secrets["basic"])
        body = http.form_body({**fields, **self.credentials()})
        return http.send("POST", self.provider[f"{endpoint}_endpoint"], body=body, **options)

    # -- grants ----------------------------------------------------------------------------------

    def authorize(self, **more: str) -> dict[str, str]:
        """A code, by PAR and PKCE; returns the form that exchanges it (RFC 9126 §2, RFC 7636 §4).

        :param more: for the authorization request.
        """
        verifier = secrets.token_urlsafe(32)
        digest = hashlib.sha256(verifier.encode()).digest()
        fields = {
            "response_type": "code",
            "client_id": self.kind,
            "redirect_uri": self.provider["redirect_uri"],
            "scope": "openid offline_access",
            "prompt": "consent",
            "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
            **more,
        }
        reply = self.post("pushed_authorization_request", fields)
        assert reply.status == 201, reply.body
        return {
            "grant_type": "authorization_code",
            "code": self._consent(json_of(reply)["request_uri"]),
            "code_verifier": verifier,
            "redirect_uri": self.provider["redirect_uri"],
        }

    def _consent(self, request_uri: str) -> str:
        query = urllib.parse.urlencode({"client_id": self.kind, "request_uri": request_uri})
        url = browse(self.provider, f"{self.provider['authorization_endpoint']}?{query}")
        return urllib.parse.parse_qs(urllib.parse.urlsplit(url).query)["code"][0]

    def redeem(self, **more: str) -> dict[str, Any]:
        """Tokens for a new code."""
        reply = self.post("token", self.authorize(**more))
        assert reply.status == 200, reply.body
        return json_of(reply)

    def refresh(self, tokens: dict[str, Any]) -> Reply:
        """A refresh with this application's key."""
        return self.post("token", {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]})
