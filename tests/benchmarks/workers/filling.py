# SPDX-License-Identifier: Apache-2.0
"""Fills one cache to a size: python filling.py CACHE SIZE. In a process of its own, for the system tells its memory."""

from __future__ import annotations

import gc
import json
import os
import secrets
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dpop.client._nonces import Lease, NonceCache, NonceKey, Role
from dpop.origin import Origin
from dpop.server import MemoryReplayCache

_BLOCKS = 100


def resident() -> int:
    """Octets of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def replay_cache(size: int, keys: int) -> tuple[Callable[[int], Any], Callable[[Any], object]]:
    """Proofs of so many keys, each identifier a new one."""
    cache = MemoryReplayCache(max_entries=size, max_per_key=size)
    thumbprints = [secrets.token_urlsafe(32) for _ in range(keys)] if keys < size else []
    expires = time.time() + 3600

    def entry(number: int) -> Any:
        jkt = thumbprints[number % keys] if thumbprints else secrets.token_urlsafe(32)
        return f"{jkt}.{secrets.token_urlsafe(32)}", expires + number % 60

    return entry, lambda entry: cache.add(*entry)


def nonce_cache(size: int) -> tuple[Callable[[int], Any], Callable[[Any], object]]:
    """A nonce each of so many servers."""
    cache = NonceCache(max_entries=size)
    jkt = secrets.token_urlsafe(32)

    def entry(number: int) -> Any:
        return NonceKey(jkt, Origin("https", f"server-{number}.example", 443), Role.RS), secrets.token_urlsafe(24)

    def insert(entry: Any) -> object:
        key, nonce = entry
        lease = cache.lease(key)
        assert isinstance(lease, Lease)
        cache.answered(lease, learnt=nonce, accepted=True)
        return cache

    return entry, insert


def main() -> None:
    """Fill it block by block, and print what that took."""
    name, size = sys.argv[1], int(sys.argv[2])
    entry, insert = {
        "replay cache, 1,000 keys": lambda: replay_cache(size, 1000),
        "replay cache, a key each": lambda: replay_cache(size, size),
        "nonce cache": lambda: nonce_cache(size),
    }[name]()
    times = []
    gc.collect()
    before = resident()
    for block in range(_BLOCKS):
        entries = [entry(number) for number in range(block * size // _BLOCKS, (block + 1) * size // _BLOCKS)]
        start = time.perf_counter()
        for one in entries:
            insert(one)
        times.append((time.perf_counter() - start) / len(entries) * 1e6)
        del entries, one
    gc.collect()
    data = (resident() - before) / size
    # A table that no longer fits into the processor's caches answers later; one that is searched, far later.
    late = statistics.median(times[75:95]) / statistics.median(times[5:25])
    print(json.dumps({"octets": data, "micros": statistics.median(times), "late": late}))


if __name__ == "__main__":
    main()
