# SPDX-License-Identifier: Apache-2.0
"""The API of the load test, for uvicorn: it notes the proof and token of each request that it lets in.

FACTS in the environment: issuer, url, redis, nonce_secret, and the folder for a file of notes per process.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import redis.asyncio

from dpop.asgi import DPoPMiddleware, Receive, Scope, Send, access
from dpop.redis import AsyncRedisReplayCache
from dpop.server import JWTAccessTokens, NonceIssuer, ProofVerifier, ProtectedResource

_facts = json.loads(os.environ["FACTS"])
_cache = AsyncRedisReplayCache(redis.asyncio.Redis.from_url(_facts["redis"]), when_down="refuse")
# A new nonce every two seconds; old ones are good for a minute, so that no pause of a busy machine outlives one.
_nonces = NonceIssuer(bytes.fromhex(_facts["nonce_secret"]), slot=2, window=30)
_tokens = JWTAccessTokens(issuer=_facts["issuer"], audience=f"{_facts['issuer']}/resource", timeout=60)
_notes = (Path(_facts["folder"]) / f"api-{os.getpid()}").open("a", buffering=1)


async def _note(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return
    admitted = await access(scope)
    assert admitted.proof is not None
    _notes.write(f"{admitted.proof.jti} {admitted.claims['jti']}\n")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


app = DPoPMiddleware(
    _note, ProtectedResource(ProofVerifier(replay=_cache, nonces=_nonces), url=_facts["url"], token=_tokens)
)
