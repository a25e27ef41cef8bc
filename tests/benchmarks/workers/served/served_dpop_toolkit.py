# SPDX-License-Identifier: Apache-2.0
"""The API with this toolkit, as its guide says."""

from __future__ import annotations

import json
from typing import Annotated

from facts import ISSUER, JWKS_URI, KEYS, METADATA, REDIS_URL, URL
from fastapi import Depends, FastAPI

from dpop.asgi import DPoPMiddleware
from dpop.server import (
    Access,
    AsyncReplayCache,
    JWTAccessTokens,
    LookupRequest,
    LookupResponse,
    MemoryReplayCache,
    ProofVerifier,
    ProtectedResource,
    ReplayCache,
)
from dpop.starlette import require_access


def fetch(request: LookupRequest) -> LookupResponse:
    """The issuer's documents, at hand."""
    document = KEYS if request.url == JWKS_URI else METADATA
    return LookupResponse(200, {"content-type": "application/json"}, json.dumps(document).encode())


def used_proofs() -> ReplayCache | AsyncReplayCache:
    """In this process, or in Redis for several."""
    if REDIS_URL is None:
        return MemoryReplayCache()
    import redis.asyncio

    from dpop.redis import AsyncRedisReplayCache

    return AsyncRedisReplayCache(redis.asyncio.Redis.from_url(REDIS_URL), when_down="refuse")


def is_public(path: str) -> bool:
    """What anybody may ask."""
    return path == "/health"


tokens = JWTAccessTokens(issuer=ISSUER, audience=URL, algs="RS256", fetch=fetch)
app = FastAPI()
app.add_middleware(
    DPoPMiddleware,
    resource=ProtectedResource(ProofVerifier(replay=used_proofs()), url=URL, token=tokens, public=is_public),
)


@app.get("/health")
async def health() -> dict[str, str]:
    """For a load balancer."""
    return {}


@app.get("/me")
async def me(access: Annotated[Access, Depends(require_access("read"))]) -> dict[str, str]:
    """For those whose token may read."""
    return {"sub": access.claims["sub"]}
