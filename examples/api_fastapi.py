# SPDX-License-Identifier: Apache-2.0
"""An API in several processes: FastAPI with three workers, which share in Redis the proofs that were used.

    pip install 'dpop-toolkit[redis,starlette]' fastapi uvicorn
    export API_URL=https://api.example              # as clients write it
    export REDIS_URL=redis://127.0.0.1:6379/0
    export INTROSPECTION_URL=https://as.example/introspect CLIENT_ID=api CLIENT_SECRET=...
    uvicorn api_fastapi:app --workers 3 --host 127.0.0.1 --port 8000

A proof is accepted once, whichever worker gets it. Without Redis nothing is accepted: when_down="refuse".
"""

from __future__ import annotations

import os
from typing import Annotated

import redis.asyncio
from fastapi import Depends, FastAPI

from dpop.asgi import DPoPMiddleware
from dpop.redis import AsyncRedisReplayCache
from dpop.server import Access, Introspection, ProofVerifier, ProtectedResource
from dpop.starlette import require_access

used_proofs = AsyncRedisReplayCache(redis.asyncio.Redis.from_url(os.environ["REDIS_URL"]), when_down="refuse")
tokens = Introspection(
    os.environ["INTROSPECTION_URL"],
    client_id=os.environ["CLIENT_ID"],
    client_secret=os.environ["CLIENT_SECRET"],
)
api = ProtectedResource(
    ProofVerifier(replay=used_proofs),
    url=os.environ["API_URL"],
    token=tokens,
    public=lambda path: path == "/health",
)
app = FastAPI()
app.add_middleware(DPoPMiddleware, resource=api)


@app.get("/health")
async def health() -> dict[str, str]:
    """For everybody."""
    return {"status": "well"}


@app.get("/me")
async def me(access: Annotated[Access, Depends(require_access("read"))]) -> dict[str, str | int]:
    """For those whose token may read."""
    return {"sub": access.claims["sub"], "worker": os.getpid()}
