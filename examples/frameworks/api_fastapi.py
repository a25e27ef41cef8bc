# SPDX-License-Identifier: Apache-2.0
"""An API in FastAPI: uvicorn api_fastapi:app. Its routes are locked in /docs."""

from typing import Annotated

from fastapi import FastAPI, Security

from dpop.asgi import DPoPMiddleware
from dpop.fastapi import REFUSALS_IN_OPENAPI, DPoPAccess
from dpop.server import Access, JWTAccessTokens, MemoryReplayCache, ProofVerifier, ProtectedResource

ISSUER, API = "https://as.example", "https://api.example"
resource = ProtectedResource(
    ProofVerifier(replay=MemoryReplayCache()),
    url=API,
    token=JWTAccessTokens(issuer=ISSUER, audience=API),
    public=lambda _path: True,  # each route says what it needs
    authorization_servers=[ISSUER],
)
app = FastAPI(responses=REFUSALS_IN_OPENAPI)
app.add_middleware(DPoPMiddleware, resource=resource)


@app.get("/items")
async def read_items(access: Annotated[Access, Security(DPoPAccess("read"))]) -> dict[str, str]:
    """For tokens that may read."""
    return {"for": access.claims["sub"]}


@app.post("/items")
def add_item(access: Annotated[Access, Security(DPoPAccess("write"))]) -> dict[str, str]:
    """For tokens that may write."""
    return {"for": access.claims["sub"]}


@app.get("/health")
async def health() -> dict[str, str]:
    """For everybody."""
    return {"status": "well"}
