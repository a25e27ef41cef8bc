# SPDX-License-Identifier: Apache-2.0
"""The Redis of the tests is a real one, keeps nothing, and is gone afterwards."""

from __future__ import annotations

import redis
from support.redis_server import RedisServer, running_redis


def test_it_is_a_server_of_ones_own(redis_server: RedisServer, redis_url: str) -> None:
    """Empty at the start of each test, reached by a socket that is this user's alone."""
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        assert client.config_get("save") == {"save": ""}
        client.set("left", "behind")
    assert redis_server.socket.stat().st_mode & 0o077 == 0
    assert client.config_get("port") == {"port": "0"}


def test_it_comes_back_empty_and_leaves_nothing() -> None:
    """A server that was stopped and started has forgotten everything; its directory goes with it."""
    with running_redis("--maxmemory", "4mb") as server, redis.Redis.from_url(server.url) as client:
        client.set("name", "value")
        server.stop()
        server.start()
        assert client.get("name") is None
        assert client.config_get("maxmemory") == {"maxmemory": "4194304"}
    assert not server.directory.exists()
    assert server.process is None
