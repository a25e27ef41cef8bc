# SPDX-License-Identifier: Apache-2.0
"""Redis stores for several processes or hosts: two caches for servers, and a token store for clients.

A replay cache, so that a proof is accepted once by all of them
::

    client = redis.Redis.from_url("redis://cache.internal/0", socket_timeout=0.5, socket_connect_timeout=0.5)
    cache = RedisReplayCache(client, when_down="refuse")
    cache.check()
    verifier = ProofVerifier(replay=cache, nonces=NonceIssuer(secret, single_use=cache))

A cache of introspection responses, encrypted with a secret that Redis does not have::

    tokens = Introspection(endpoint, ..., cache=RedisIntrospectionCache(client), cache_secret=secret)

A token store for clients, with a lease, so that one host at a time refreshes the tokens::

    source = endpoint.source(RedisTokenStore(redis.Redis.from_url("redis://cache.internal/0", socket_timeout=2)))

One replay cache can hold both proofs and used nonces, because their names differ. :class:`AsyncRedisReplayCache` is
for ``redis.asyncio`` and the async methods of a verifier.

Give the client timeouts, because a request waits as long as Redis does not respond. These stores need Redis 7.0 or
newer, or Valkey.
"""

from __future__ import annotations

from dpop._extras import extra

with extra("redis"):
    from dpop.redis._async_replay import AsyncRedisReplayCache
    from dpop.redis._introspection import RedisIntrospectionCache
    from dpop.redis._replay import RedisReplayCache
    from dpop.redis._tokens import RedisTokenStore

__all__ = ["AsyncRedisReplayCache", "RedisIntrospectionCache", "RedisReplayCache", "RedisTokenStore"]


def __dir__() -> list[str]:
    return sorted(__all__)
