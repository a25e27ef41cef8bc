# SPDX-License-Identifier: Apache-2.0
"""An API in Litestar: uvicorn api_litestar:app."""

from typing import Any

from litestar import Litestar, Request, Response, get, post

from dpop.asgi import DPoPMiddleware, access, refusal
from dpop.server import REFUSALS, JWTAccessTokens, MemoryReplayCache, ProofVerifier, ProtectedResource, Refusal

ISSUER, API = "https://as.example", "https://api.example"
resource = ProtectedResource(
    ProofVerifier(replay=MemoryReplayCache()),
    url=API,
    token=JWTAccessTokens(issuer=ISSUER, audience=API),
    public=lambda path: path == "/health",
    authorization_servers=[ISSUER],
)


@get("/items")
async def read_items(request: Request[Any, Any, Any]) -> dict[str, str]:
    """For tokens that may read."""
    admitted = await access(request.scope)
    admitted.require_scope("read")
    return {"for": admitted.claims["sub"]}


@post("/items")
async def add_item(request: Request[Any, Any, Any]) -> dict[str, str]:
    """For tokens that may write."""
    admitted = await access(request.scope)
    admitted.require_scope("write")
    return {"for": admitted.claims["sub"]}


@get("/health")
async def health() -> dict[str, str]:
    """For everybody."""
    return {"status": "well"}


def refused(request: Request[Any, Any, Any], error: Refusal) -> Response[bytes]:
    """The response to a request that is refused in a route."""
    response = refusal(request.scope, error)
    fields: dict[str, str] = {}
    for name, value in response.headers:  # challenges for two schemes may stand in one field
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return Response(response.body, status_code=response.status, headers=fields, media_type="application/json")


handlers: dict[Any, Any] = dict.fromkeys(REFUSALS, refused)
app = DPoPMiddleware(Litestar([read_items, add_item, health], exception_handlers=handlers), resource)
