# SPDX-License-Identifier: Apache-2.0
"""An API in Starlette: uvicorn api_starlette:app."""

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from dpop.asgi import DPoPMiddleware
from dpop.server import JWTAccessTokens, MemoryReplayCache, ProofVerifier, ProtectedResource
from dpop.starlette import require_access

ISSUER, API = "https://as.example", "https://api.example"
resource = ProtectedResource(
    ProofVerifier(replay=MemoryReplayCache()),
    url=API,
    token=JWTAccessTokens(issuer=ISSUER, audience=API),
    public=lambda path: path == "/health",
    authorization_servers=[ISSUER],
)
may_read, may_write = require_access("read"), require_access("write")


async def items(request: Request) -> JSONResponse:
    """For tokens that may read, or write."""
    access = await (may_read if request.method in {"GET", "HEAD"} else may_write)(request)
    return JSONResponse({"for": access.claims["sub"]})


async def health(_request: Request) -> JSONResponse:
    """For everybody."""
    return JSONResponse({"status": "well"})


app = Starlette(
    routes=[Route("/items", items, methods=["GET", "POST"]), Route("/health", health)],
    middleware=[Middleware(DPoPMiddleware, resource=resource)],
)
