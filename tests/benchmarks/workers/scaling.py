# SPDX-License-Identifier: Apache-2.0
"""Grows one thing to a number of sizes, and measures it at each: python scaling.py WHAT SIZE... < FACTS.

It prints a line of JSON for each size. In a process of its own, for the system tells its memory.
"""

from __future__ import annotations

import gc
import json
import random
import secrets
import statistics
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import redis
from filling import resident

import dpop
from dpop.client._nonces import Lease, NonceKey, Role
from dpop.origin import Origin
from dpop.redis import RedisReplayCache, RedisTokenStore
from dpop.server import MemoryReplayCache, ProofVerifier
from dpop.tokens import FileTokenStore, TokenSet, TokenStore
from dpop.tokens._records import write_record

_URL, _NONCE, _TOKEN = "https://api.example/v1/accounts/42", secrets.token_urlsafe(24), secrets.token_urlsafe(500)
_TOKENS = TokenSet(access_token=_TOKEN, refresh_token=secrets.token_urlsafe(60), scope="read", jkt="x" * 43)


class Growing(ABC):
    """Something that grows by units."""

    def __init__(self) -> None:
        self.dice = random.Random(1)

    @abstractmethod
    def grow(self, first: int, end: int) -> None:
        """Add the units from one number to another."""

    @abstractmethod
    def measured(self, size: int) -> dict[str, float]:
        """Seconds of each operation at a size."""

    def octets(self) -> int:
        """Memory that all units take."""
        gc.collect()
        return resident()

    def facts(self) -> dict[str, float]:
        """Further figures of the last growth."""
        return {}


def _least(
    operation: Callable[[int], object],
    numbers: Sequence[int],
    repeats: int,
    clock: Callable[[], float] = time.process_time,
) -> float:
    """Seconds of one operation, in the best of some runs over these units."""
    taken = []
    for _ in range(repeats):
        start = clock()
        for number in numbers:
            operation(number)
        taken.append((clock() - start) / len(numbers))
    return min(taken)


class Users(Growing):
    """Users of one client process, each with a key and its nonces."""

    def __init__(self) -> None:
        super().__init__()
        self._provers: list[dpop.Prover] = []

    def grow(self, first: int, end: int) -> None:
        for _ in range(first, end):
            self._provers.append(dpop.Prover(dpop.generate_key()))
            self._request(-1)

    def _request(self, number: int) -> None:
        _request(self._provers[number], _URL, Origin("https", "api.example", 443))

    def measured(self, size: int) -> dict[str, float]:
        return {"a proof": _least(self._request, range(size), max(3, 10_000 // size))}


class Servers(Growing):
    """Servers of one key, each with a nonce."""

    def __init__(self) -> None:
        super().__init__()
        self._prover = dpop.Prover(dpop.generate_key())
        self._servers: list[tuple[str, Origin]] = []

    def grow(self, first: int, end: int) -> None:
        for number in range(first, end):
            host = f"server-{number}.example"
            self._servers.append((f"https://{host}/v1", Origin("https", host, 443)))
            _request(self._prover, *self._servers[-1])

    def _known(self, number: int) -> None:
        assert _request(self._prover, *self._servers[number]) is not None, "the nonce was forgotten"

    def measured(self, size: int) -> dict[str, float]:
        return {"a proof": _least(self._known, range(size), max(3, 10_000 // size))}


def _request(prover: dpop.Prover, url: str, origin: Origin) -> str | None:
    """All that a request costs but the wire; returns the nonce that it carried."""
    key = NonceKey(prover.thumbprint, origin, Role.RS)
    lease = prover.nonces.lease(key)
    assert isinstance(lease, Lease)
    dpop.create_proof(prover.key, "GET", url, access_token=_TOKEN, nonce=lease.nonce)
    prover.nonces.answered(lease, learnt=_NONCE, accepted=True)
    return lease.nonce


class KeysSeen(Growing):
    """Keys that a server has seen: it remembers one proof of each.

    The last thousand before each size are verified. Of the others only the entry is made, as a verification leaves it.
    """

    _VERIFIED = 1000

    def __init__(self) -> None:
        super().__init__()
        now = time.time()
        # The clock stands: proofs must not expire while others are made.
        self._cache = MemoryReplayCache(max_entries=2**21, clock=lambda: now)
        self._verifier = ProofVerifier(replay=self._cache, clock=lambda: now)
        self._now = int(now)
        self._last: list[float] = []

    def grow(self, first: int, end: int) -> None:
        verified = max(first, end - self._VERIFIED)
        for _ in range(first, verified):
            self._cache.add(f"{secrets.token_urlsafe(32)}.{secrets.token_urlsafe(32)}", self._now + 90.0)
        keys = [dpop.generate_key() for _ in range(verified, end)]
        made = [
            (key.thumbprint, dpop.create_proof(key, "GET", _URL, iat=self._now, access_token=_TOKEN)) for key in keys
        ]
        self._last = []
        for jkt, proof in made:
            fields = [("Authorization", f"DPoP {_TOKEN}"), ("DPoP", proof)]
            start = time.process_time()
            self._verifier.verify_resource(fields, "GET", _URL, access_token=_TOKEN, bound_jkt=jkt)
            self._last.append(time.process_time() - start)

    def measured(self, size: int) -> dict[str, float]:
        return {"a verification": statistics.median(self._last)}


class Accounts(Growing):
    """Accounts of a token store."""

    store: TokenStore

    def measured(self, size: int) -> dict[str, float]:
        some = [self.dice.randrange(size) for _ in range(50)]
        return {
            "save": _least(lambda number: self.store.save(_TOKENS, f"user-{number}"), some, 3, time.perf_counter),
            "load": _least(lambda number: self.store.load(f"user-{number}"), some, 5, time.perf_counter),
            "list, for each": _least(lambda _: self._listed(size), [0], 3, time.perf_counter) / size,
        }

    def _listed(self, size: int) -> None:
        assert len(self.store.accounts()) == size


class AccountsInFiles(Accounts):
    """Accounts of a FileTokenStore. They are copied there: to save each would take the disk an hour."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="dpop-")
        self.store = FileTokenStore(Path(self._folder.name) / "tokens.json")

    def grow(self, first: int, end: int) -> None:
        for number in range(first, end):
            path = Path(self._folder.name) / f"tokens.user-{number}.json"
            path.write_bytes(write_record(_TOKENS, f"user-{number}", None))
            path.with_name(f".{path.name}.lock").touch()


class AccountsInRedis(Accounts):
    """Accounts of a RedisTokenStore."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._client = redis.Redis.from_url(url)
        self.store = RedisTokenStore(self._client)

    def grow(self, first: int, end: int) -> None:
        for start in range(first, end, 1000):
            with self._client.pipeline(transaction=False) as pipeline:
                for number in range(start, min(start + 1000, end)):
                    record = write_record(_TOKENS, f"user-{number}", None)
                    fields: dict[Any, Any] = {"record": record, "fingerprint": _TOKENS.fingerprint, "fence": 1}
                    pipeline.hset(f"dpop:tokens:{{user-{number}}}", mapping=fields)
                pipeline.execute()

    def octets(self) -> int:
        return int(self._client.info("memory")["used_memory"])


class ProofsInRedis(Growing):
    """Proofs that Redis remembers, each by a command of its own, and what such a command costs Redis itself."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._client = redis.Redis.from_url(url)
        self._cache = RedisReplayCache(self._client, when_down="refuse")
        self._costs: dict[str, float] = {}
        self._ends_at = time.time() + 3600

    def grow(self, first: int, end: int) -> None:
        before, start = self._counters(), time.perf_counter()
        for _ in range(first, end):
            assert self._cache.add(f"{secrets.token_urlsafe(32)}.{secrets.token_urlsafe(32)}", self._ends_at)
        elapsed, after = time.perf_counter() - start, self._counters()
        count = end - first
        self._costs = {name: (after[name] - before[name]) / count for name in after} | {"waited for": elapsed / count}

    def _counters(self) -> dict[str, float]:
        cpu, stats = self._client.info("cpu"), self._client.info("stats")
        bytes_ = stats["total_net_input_bytes"] + stats["total_net_output_bytes"]
        return {"Redis's processor": cpu["used_cpu_user"] + cpu["used_cpu_sys"], "bytes": float(bytes_)}

    def measured(self, size: int) -> dict[str, float]:
        return {name: seconds for name, seconds in self._costs.items() if name != "bytes"}

    def facts(self) -> dict[str, float]:
        return {"bytes sent": self._costs["bytes"]}

    def octets(self) -> int:
        return int(self._client.info("memory")["used_memory"])


def main() -> None:
    """Grow it to each size, and print what it takes there."""
    what, sizes, facts = sys.argv[1], [int(size) for size in sys.argv[2:]], json.load(sys.stdin)
    growing = {
        "users": Users,
        "servers": Servers,
        "keys seen": KeysSeen,
        "accounts in files": AccountsInFiles,
        "proofs in Redis": lambda: ProofsInRedis(facts["redis"]),
        "accounts in Redis": lambda: AccountsInRedis(facts["redis"]),
    }[what]()
    growing.grow(0, sizes[0] // 10)  # what all of them share is not counted
    size = sizes[0] // 10
    for end in sizes:
        before = growing.octets()
        growing.grow(size, end)
        octets, size = (growing.octets() - before) / (end - size), end
        micros = {name: 1e6 * seconds for name, seconds in growing.measured(size).items()}
        print(json.dumps({"size": size, "octets": octets, "micros": micros, **growing.facts()}), flush=True)


if __name__ == "__main__":
    main()
