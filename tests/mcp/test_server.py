# SPDX-License-Identifier: Apache-2.0
"""What the SDK's server is told of an admitted request."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest
from mcp.server.auth.provider import AccessToken

import dpop
from dpop.asgi import Receive, Scope, Send
from dpop.errors import UsageError
from dpop.mcp import VerifiedAccess, protect
from dpop.server import MemoryReplayCache, ProofVerifier, ProtectedResource

URL = "https://mcp.example/mcp"


def told(claims: dict[str, Any], *, required: tuple[str, ...] = ()) -> tuple[httpx2.Response, list[AccessToken | None]]:
    """Send one good request; return the response, and what the application found out about its token and another."""
    key, found = dpop.generate_key(), list[AccessToken | None]()

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        fields = dict(scope["headers"])
        assert fields[b"authorization"] == b"Bearer at-1"
        found.extend([await VerifiedAccess().verify_token("at-1"), await VerifiedAccess().verify_token("at-2")])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    resource = ProtectedResource(
        ProofVerifier(replay=MemoryReplayCache()),
        url="https://mcp.example",
        token=lambda _token: {"cnf": {"jkt": key.thumbprint}, **claims},
    )

    async def work() -> httpx2.Response:
        transport = httpx2.ASGITransport(app=protect(app, resource, required_scopes=required))  # type: ignore[arg-type]
        async with httpx2.AsyncClient(transport=transport, timeout=60) as client:
            proof = dpop.create_proof(key, "POST", URL, access_token="at-1")
            return await client.post(URL, headers={"Authorization": "DPoP at-1", "DPoP": proof})

    return asyncio.run(work()), found


def test_the_verified_claims_reach_the_server() -> None:
    """Of the request's own token, and of no other."""
    claims = {"client_id": "c", "sub": "alice", "scope": "read write", "aud": ["x", "y"], "exp": 4_000_000_000.5}
    response, (own, other) = told(claims)
    assert response.status_code == 200
    assert own is not None
    assert (own.client_id, own.subject, own.scopes) == ("c", "alice", ["read", "write"])
    assert (own.resource, own.expires_at) == ("x", 4_000_000_000)
    assert other is None


@pytest.mark.parametrize("scope", [None, 7, {"a": 1}, ["read", 7]])
def test_odd_claims_are_left_out(scope: object) -> None:
    """They make no error of a good token."""
    response, (own, _) = told({"scope": scope, "azp": None, "client_id": 7, "exp": True, "sub": 7, "aud": 7})
    assert response.status_code == 200
    assert own is not None
    assert own.scopes == (["read"] if isinstance(scope, list) else [])
    assert (own.client_id, own.subject, own.resource, own.expires_at) == ("", None, None, None)


def test_a_missing_scope_is_refused_with_the_right_scheme() -> None:
    """The SDK's own refusal names Bearer."""
    response, found = told({"scope": "read"}, required=("write",))
    assert (response.status_code, found) == (403, [])
    assert response.headers["www-authenticate"].startswith("DPoP ")
    assert 'error="insufficient_scope"' in response.headers["www-authenticate"]


def test_a_websocket_needs_the_scope_too() -> None:
    """Of an application that contains the SDK's."""
    key, sent = dpop.generate_key(), list[str]()

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    resource = ProtectedResource(
        ProofVerifier(replay=MemoryReplayCache()),
        url="https://mcp.example",
        token=lambda token: {"cnf": {"jkt": key.thumbprint}, "scope": token},
    )
    for token in ("read", "write"):
        proof = dpop.create_proof(key, "GET", URL, access_token=token)
        fields = [(b"authorization", f"DPoP {token}".encode()), (b"dpop", proof.encode())]
        scope = {"type": "websocket", "path": "/mcp", "raw_path": b"/mcp", "query_string": b"", "headers": fields}
        asyncio.run(protect(app, resource, required_scopes=["write"])(scope, receive, send))
    assert sent == ["websocket.close", "websocket.accept"]


def test_a_client_authenticates_with_basic_on_a_public_path() -> None:
    """Such as the token endpoint of the SDK's own authorization server: the login is not taken for a missing token."""
    seen: list[dict[bytes, bytes]] = []

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        seen.append(dict(scope["headers"]))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    resource = ProtectedResource(
        ProofVerifier(replay=MemoryReplayCache()),
        url="https://mcp.example",
        token=lambda _token: None,
        public=lambda path: path == "/token",
    )

    async def work() -> list[int]:
        transport = httpx2.ASGITransport(app=protect(app, resource, required_scopes=["write"]))  # type: ignore[arg-type]
        async with httpx2.AsyncClient(transport=transport, timeout=60, base_url="https://mcp.example") as client:
            places = ("/token", "/mcp")
            return [(await client.post(place, auth=("client", "secret"))).status_code for place in places]

    assert asyncio.run(work()) == [200, 401]
    [fields] = seen
    assert fields[b"authorization"].startswith(b"Basic ")


def test_one_text_is_no_list_of_scopes() -> None:
    """Its letters would be required."""
    with pytest.raises(UsageError, match="list of scopes"):
        told({"scope": "write"}, required="write")  # type: ignore[arg-type]


def test_outside_of_a_request_no_token_is_verified() -> None:
    """The gate has not seen it."""
    assert asyncio.run(VerifiedAccess().verify_token("at-1")) is None
