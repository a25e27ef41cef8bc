# SPDX-License-Identifier: Apache-2.0
"""A cache of introspection responses in Redis. It holds no decision: what it keeps is encrypted by its user."""

from __future__ import annotations

import math

import redis

from dpop.errors import ArgumentTypeError, UsageError
from dpop.redis._errors import answers_in_turn

__all__ = ["RedisIntrospectionCache"]

_MAX_ENTRY = 1 << 17


class RedisIntrospectionCache:
    """Introspection responses for several processes and hosts: the ``cache`` of a :class:`dpop.server.Introspection`.

    ::

        tokens = Introspection(endpoint, ..., cache=RedisIntrospectionCache(client), cache_secret=secret)

    Redis gets neither tokens nor claims. It may evict entries, so any policy will do; a Redis that also holds a replay
    cache needs ``noeviction`` all the same.

    :param client: a client with timeouts, such as ``socket_timeout=0.5``. It is used in threads, also by async code. A
        ``RedisCluster`` is accepted, too, and so is the client of ``Sentinel.master_for``.
    :param prefix: the prefix of the names in Redis.
    :raises ArgumentTypeError: ``client`` is not a synchronous Redis client.
    :raises UsageError: ``prefix`` is empty.
    """

    def __init__(self, client: redis.Redis | redis.RedisCluster, *, prefix: str = "dpop:token:") -> None:
        if not isinstance(client, redis.Redis | redis.RedisCluster):
            raise ArgumentTypeError("client", "a redis.Redis or a redis.RedisCluster", client)
        if not prefix:
            raise UsageError("prefix must not be empty: others would share the names")
        self._client = client
        self._prefix = prefix

    def __repr__(self) -> str:
        return f"<RedisIntrospectionCache {self._prefix}*>"

    def get(self, name: str) -> str | None:
        """Return the entry of this name; None if there is none (see :class:`dpop.server.IntrospectionCache`).

        Errors of redis-py propagate.
        """
        # Not GET: someone else may have put hundreds of megabytes there.
        with answers_in_turn(self._client):
            found = self._client.getrange(self._prefix + name, 0, _MAX_ENTRY)
        text = found.decode("latin-1") if isinstance(found, bytes) else str(found)
        return text or None

    def put(self, name: str, entry: str, seconds: float) -> None:
        """Keep an entry for this many seconds. Errors of redis-py propagate."""
        milliseconds = math.floor(seconds * 1000)
        if milliseconds > 0:
            with answers_in_turn(self._client):
                self._client.set(self._prefix + name, entry, px=milliseconds)
