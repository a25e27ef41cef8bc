# SPDX-License-Identifier: Apache-2.0
"""Classify errors of Redis commands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from redis import exceptions

from dpop.errors import ReplayCacheError

__all__ = [
    "REDIS_ERRORS",
    "answers_in_turn",
    "close_idle_connections",
    "describe",
    "is_down",
    "is_from_redis",
    "unusable",
]

# What Python raises in one thread when another thread closes the client in the middle of a command.
_CLOSED = (OSError, ValueError, AttributeError)
# What it raises for a connection of redis.asyncio that was opened on another event loop, such as one of asyncio.run.
_OF_ANOTHER_LOOP = (RuntimeError,)
REDIS_ERRORS = (exceptions.RedisError, exceptions.RedisClusterException, *_CLOSED, *_OF_ANOTHER_LOOP)
"""What a client raises. ``RedisClusterException``, when no node of a cluster responds, is not a ``RedisError``."""

# Redis does not respond, or says that it is not ready: it is loading, or a failover is in progress.
_DOWN = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.ClusterDownError,
    exceptions.TryAgainError,
    exceptions.RedisClusterException,
)
# The library calls the first two ConnectionErrors, but the server works: the password is wrong. The others are mistakes
# of a program that uses a cluster.
_NOT_DOWN = (
    exceptions.AuthenticationError,
    exceptions.AuthorizationError,
    exceptions.CrossSlotTransactionError,
    exceptions.InvalidPipelineStack,
)
# Messages for a full pool. Before redis-py 7.2.1, the asyncio ConnectionPool raises a plain ConnectionError with the
# first message. A BlockingConnectionPool whose wait timed out still raises one with the second message.
_POOL_IS_FULL = ("Too many connections", "No connection available.")


def is_from_redis(error: BaseException) -> bool:
    """Whether the client itself raised this error, so that its connection is as it should be."""
    return isinstance(error, exceptions.RedisError | exceptions.RedisClusterException)


def close_idle_connections(client: Any) -> None:
    """Close the idle connections of a client after an exception that is none of Redis, such as a signal handler's.

    It may have come between a command and its answer. Then the connection is in the pool again, and the next command on
    it would take that answer for its own: a proof would pass twice, or two hosts have one lease. A client of
    ``redis.asyncio`` closes the connection itself.
    """
    nodes: Any = getattr(client, "get_nodes", list)() if isinstance(client, redis.RedisCluster) else []
    for each in (client, *(node.redis_connection for node in nodes)):
        if isinstance(each, redis.Redis):
            each.connection_pool.disconnect(inuse_connections=False)


@contextmanager
def answers_in_turn(client: Any) -> Iterator[None]:
    """Run commands; if they end with an exception that is none of Redis, call :func:`close_idle_connections`."""
    try:
        yield
    except BaseException as error:
        if not is_from_redis(error):
            close_idle_connections(client)
        raise


def is_down(error: Exception) -> bool:
    """Whether Redis cannot be reached, as opposed to refusing a command."""
    return isinstance(error, _DOWN) and not isinstance(error, _NOT_DOWN) and not _is_pool_full(error)


def _is_pool_full(error: Exception) -> bool:
    """Whether the client's connection pool has no connection left, because many requests run at once."""
    return isinstance(error, exceptions.MaxConnectionsError) or str(error) in _POOL_IS_FULL


def unusable(error: Exception) -> ReplayCacheError:
    """Return the error that says why Redis cannot serve as a replay cache."""
    if isinstance(error, exceptions.OutOfMemoryError):
        return ReplayCacheError("the replay cache is full: Redis has reached its maxmemory; raise it")
    if _is_pool_full(error):
        return ReplayCacheError("all connections to the replay cache are in use; raise the pool's max_connections")
    if is_down(error):
        return ReplayCacheError(f"the replay cache cannot be reached: {error}")
    hint = "; SET with NX and GET needs Redis 7.0 or newer" if "syntax error" in str(error) else ""
    return ReplayCacheError(f"Redis cannot serve as a replay cache: {describe(error)}{hint}")


def describe(error: Exception) -> str:
    """Return the message of an error, with a likely cause where the message alone says little."""
    if isinstance(error, UnicodeError):
        return "a value there is not UTF-8 text; look who else writes under this prefix"
    if isinstance(error, _OF_ANOTHER_LOOP):
        return f"{error}; a client of redis.asyncio belongs to one event loop: make it there"
    if isinstance(error, _CLOSED):
        return f"{type(error).__name__}: {error}; was the client closed while it was in use?"
    return str(error)
