# SPDX-License-Identifier: Apache-2.0
"""Fills one cache to a size: python filling.py CACHE SIZE."""

from __future__ import annotations

import base64
import gc
import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

from dpop.client.nonces import Lease, NonceCache, NonceKey, Role
from dpop.origin import Origin
from dpop.server import MemoryReplayCache
from dpop.server.replay import replay_key


def resident() -> int:
    """Octets of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def thumbprint(number: int) -> str:
    """Some key's."""
    return base64.urlsafe_b64encode(random.Random(number).randbytes(32)).rstrip(b"=").decode()


def replay_cache(size: int, keys: int) -> Callable[[int], object]:
    """Identifiers of 32 characters, spread over so many keys."""
    cache = MemoryReplayCache(max_entries=size, max_per_key=size)
    thumbprints = [thumbprint(number) for number in range(keys)] if keys < size else []
    expires = time.time() + 3600

    def insert(number: int) -> object:
        jkt = thumbprints[number % keys] if thumbprints else thumbprint(number)
        return cache.add(replay_key(jkt, "https://api.example.com/v1/accounts/42", f"{number:032x}"), expires)

    return insert


def nonce_cache(size: int) -> Callable[[int], object]:
    """A nonce each of so many servers."""
    cache = NonceCache(max_entries=size)
    jkt = thumbprint(0)

    def insert(number: int) -> object:
        key = NonceKey(jkt, Origin("https", f"server-{number}.example", 443), Role.RS)
        lease = cache.lease(key)
        assert isinstance(lease, Lease)
        cache.answered(lease, learnt=f"nonce-{number:024x}", accepted=True)
        return cache

    return insert


def main() -> None:
    """Fill it, and print what that took."""
    name, size = sys.argv[1], int(sys.argv[2])
    insert = {
        "replay cache, 1,000 keys": lambda: replay_cache(size, 1000),
        "replay cache, a key each": lambda: replay_cache(size, size),
        "nonce cache": lambda: nonce_cache(size),
    }[name]()
    gc.collect()
    before = resident()
    for number in range(size - size // 10):
        insert(number)
    start = time.perf_counter()
    for number in range(size - size // 10, size):
        insert(number)
    micros = (time.perf_counter() - start) / (size // 10) * 1e6
    gc.collect()
    print(json.dumps({"octets": (resident() - before) / size, "micros": micros}))


if __name__ == "__main__":
    main()
