# SPDX-License-Identifier: Apache-2.0
"""Redis behind a server of several processes or hosts: each proof once in all of them, and each nonce.

::

    client = redis.Redis.from_url("redis://cache.internal/0", socket_timeout=0.5, socket_connect_timeout=0.5)
    cache = RedisReplayCache(client, when_down="refuse")
    cache.check()
    verifier = ProofVerifier(replay=cache, nonces=NonceIssuer(secret, single_use=cache))

Proofs and used nonces have different names in it, so one cache serves for both. :class:`AsyncRedisReplayCache`
is the same for ``redis.asyncio`` and the async methods of a verifier.

Give the client timeouts: a request waits for as long as Redis does not answer. Redis 7.0 or newer, or Valkey.
"""

from __future__ import annotations

from dpop._redis_replay import AsyncRedisReplayCache, RedisReplayCache

__all__ = ["AsyncRedisReplayCache", "RedisReplayCache"]
