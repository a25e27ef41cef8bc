# SPDX-License-Identifier: Apache-2.0
"""A client that sends exactly what it is told to, for tests of the test server itself."""

from __future__ import annotations

import http.client
import json
from base64 import b64encode
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import dpop
from dpop.testing import DPoPTestServer

KEY = dpop.generate_key()
OTHER_KEY = dpop.generate_key()


@dataclass
class Response:
    """The response to one request."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.body))

    @property
    def nonce(self) -> str | None:
        return self.field("DPoP-Nonce")

    @property
    def challenge(self) -> str:
        """The WWW-Authenticate fields, joined."""
        return ", ".join(self.fields("WWW-Authenticate"))

    def fields(self, name: str) -> list[str]:
        return [value for field, value in self.headers if field.lower() == name.lower()]

    def field(self, name: str) -> str | None:
        values = self.fields(name)
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None


def send(method: str, url: str, headers: list[tuple[str, str]] | None = None, body: bytes | None = None) -> Response:
    """Send one request over a new connection, with these header fields only."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    try:
        connection.putrequest(
            method, parts.path + ("?" + parts.query if parts.query else ""), skip_accept_encoding=True
        )
        for name, value in headers or []:
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        return Response(response.status, response.getheaders(), response.read())
    finally:
        connection.close()


def call(
    server: DPoPTestServer,
    token: str | None,
    *,
    method: str = "GET",
    url: str | None = None,
    key: Any = KEY,
    nonce: str | None = None,
    body: bytes | None = None,
    **proof: Any,
) -> Response:
    """Request the resource with a token and a proof."""
    url = url or server.resource
    made = dpop.create_proof(key, method, url, nonce=nonce, access_token=token, **proof)
    headers = [("DPoP", made)]
    if token is not None:
        headers.append(("Authorization", f"DPoP {token}"))
    return send(method, url, headers, body)


def post(
    server: DPoPTestServer,
    url: str,
    form: dict[str, str],
    *,
    key: Any = KEY,
    nonce: str | None = None,
    public: bool = False,
    basic: bool = False,
    secret: str | None = None,
    **proof: Any,
) -> Response:
    """Post a form to the authorization server as one of its two clients; key=None sends no proof."""
    headers = [("Content-Type", "application/x-www-form-urlencoded")]
    secret = secret or server.client_secret
    if public:
        form = {"client_id": server.public_client_id, **form}
    elif basic:
        credentials = b64encode(f"{server.client_id}:{secret}".encode()).decode()
        headers.append(("Authorization", f"Basic {credentials}"))
    else:
        form = {"client_id": server.client_id, "client_secret": secret, **form}
    if key is not None:
        headers.append(("DPoP", dpop.create_proof(key, "POST", url, nonce=nonce, **proof)))
    return send("POST", url, headers, urlencode(form).encode())


def ask(server: DPoPTestServer, form: dict[str, str], **options: Any) -> Response:
    """Send a token request, and again with a nonce if the server asks for one."""
    answer = post(server, server.token_endpoint, form, **options)
    if answer.status == 400 and answer.json["error"] == "use_dpop_nonce":
        answer = post(server, server.token_endpoint, form, **{**options, "nonce": answer.nonce})
    return answer


def reasons(server: DPoPTestServer) -> list[str]:
    """The reasons of the server's refusals."""
    return [refusal.reason for refusal in server.refusals]
