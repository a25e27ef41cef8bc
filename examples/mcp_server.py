# SPDX-License-Identifier: Apache-2.0
"""An MCP server whose tools take only access tokens that are bound to the caller's key.

    pip install 'dpop-toolkit[mcp]' uvicorn
    export ISSUER=https://as.example MCP_URL=https://mcp.example
    uvicorn mcp_server:app --port 8000

MCP_URL is the origin under which clients reach this server; the endpoint is /mcp there. Its metadata (RFC 9728) tells
clients which authorization server to ask, and that tokens must be bound. Tokens are for MCP_URL; set AUDIENCE if the
authorization server names this server in another way.
"""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from mcp.server import MCPServer
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.settings import AuthSettings
from mcp.server.transport_security import TransportSecuritySettings
from pydantic import AnyHttpUrl

from dpop.mcp import VerifiedAccess, protect
from dpop.server import JWTAccessTokens, MemoryReplayCache, NonceIssuer, ProofVerifier, ProtectedResource

issuer, url = os.environ["ISSUER"], os.environ["MCP_URL"]
audience = os.environ.get("AUDIENCE", url)

server = MCPServer(
    "notes",
    auth=AuthSettings(
        issuer_url=AnyHttpUrl(issuer),
        resource_server_url=AnyHttpUrl(f"{url}/mcp"),
        validate_token_resource=False,  # JWTAccessTokens checks the audience
    ),
    token_verifier=VerifiedAccess(),
)


@server.tool()
def whoami() -> str:
    """Say who is calling."""
    token = get_access_token()
    assert token is not None
    return f"{token.subject} with {' '.join(token.scopes) or 'no scopes'}"


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


resource = ProtectedResource(
    ProofVerifier(replay=MemoryReplayCache(), nonces=NonceIssuer()),
    url=url,
    token=JWTAccessTokens(issuer=issuer, audience=audience),
    authorization_servers=[issuer],
)
hosts = TransportSecuritySettings(allowed_hosts=[urlsplit(url).netloc])
app = protect(server.streamable_http_app(transport_security=hosts), resource)
