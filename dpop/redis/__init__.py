# SPDX-License-Identifier: Apache-2.0
"""Redis stores for several processes or hosts: a replay cache for servers, and a token store for clients.

::

    client = redis.Redis.from_url("redis://cache.internal/0", socket_timeout=0.5, socket_connect_timeout=0.5)
    cache = RedisReplayCache(client, when_down="refuse")
    cache.check()
    verifier = ProofVerifier(replay=cache, nonces=NonceIssuer(secret, single_use=cache))

A token store for clients, with a lease, so that one host at a time refreshes the tokens::

    source = endpoint.source(RedisTokenStore(redis.Redis.from_url("redis://cache.internal/0", socket_timeout=2)))

One replay cache can hold both proofs and used nonces, because their names differ. :class:`AsyncRedisReplayCache` is
for ``redis.asyncio`` and the async methods of a verifier.

Give the client timeouts, because a request waits as long as Redis does not respond. These stores need Redis 7.0 or
newer, or Valkey.
"""

from __future__ import annotations

from dpop.redis._replay import AsyncRedisReplayCache, RedisReplayCache
from dpop.redis._tokens import RedisTokenStore

__all__ = ["AsyncRedisReplayCache", "RedisReplayCache", "RedisTokenStore"]


def __dir__() -> list[str]:
    return sorted(__all__)
