# SPDX-License-Identifier: Apache-2.0
"""Token store in Redis, with a lease that lets one host at a time refresh the tokens."""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections.abc import Hashable
from typing import Any, Final

import redis

from dpop._tracebacks import hide_frames
from dpop.errors import ArgumentTypeError, TokenStoreError, UsageError
from dpop.redis._errors import REDIS_ERRORS, answers_in_turn, describe, is_down
from dpop.tokens._records import Sealer, read_record, write_record
from dpop.tokens._stores import DEFAULT_ACCOUNT, StoreLock, check_account, locked
from dpop.tokens._token_set import TokenSet

__all__ = ["RedisTokenStore"]

_log: Final = logging.getLogger("dpop.tokens")

# Compare, then write. A client that lost the response repeats the command; its own write is not a conflict.
_REPLACE: Final = """
local there = redis.call('HGET', KEYS[1], 'fingerprint') or ''
if there ~= ARGV[1] and there ~= ARGV[3] then return 0 end
if ARGV[4] ~= '' then
  if tonumber(ARGV[4]) < tonumber(redis.call('HGET', KEYS[1], 'fence') or '0') then return 0 end
  redis.call('HSET', KEYS[1], 'fence', ARGV[4])
end
redis.call('HSET', KEYS[1], 'record', ARGV[2], 'fingerprint', ARGV[3])
return 1
"""
# The fence is a counter inside the record, so that it cannot be evicted or deleted without the record.
_ACQUIRE: Final = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
local fence = holder and redis.call('HGET', KEYS[2], 'fence')
return fence and tonumber(fence) or redis.call('HINCRBY', KEYS[2], 'fence', 1)
"""
_RENEW: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
# With the lease, delete a record that contains only a fence.
_RELEASE: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if redis.call('HEXISTS', KEYS[2], 'record') == 0 then redis.call('DEL', KEYS[2]) end
return redis.call('DEL', KEYS[1])
"""
_AT_ONCE: Final = 1000
"""How many accounts are looked up in one round trip."""
_SLEEPS: Final = (0.005, 0.01, 0.02, 0.05)
_MARGIN: Final = 0.9
"""The part of a lease during which its holder may send: clocks differ, and sending takes some time."""


class RedisTokenStore:
    """Tokens that several hosts share: a :class:`dpop.tokens.TokenStore` in Redis.

    While a host refreshes, it holds a lease and renews it. If the host dies, the lease expires, and another host takes
    over. Each lease has a higher fence number than the lease before: a host that was suspended until after the end of
    its lease can no longer begin a refresh. All hosts need the same key: a file on each host, or a key in an HSM or
    KMS.

    Redis can lose a confirmed write when it stops. Let it write to disk (``appendonly yes``, ``appendfsync
    always``). With replicas, a failover still loses the last moments.

    :param client: a ``redis.Redis`` or ``redis.RedisCluster`` with a timeout and few retries, such as
        ``socket_timeout=2, retry=Retry(NoBackoff(), 1)``. Retries are safe, but they add up: the default retries of
        redis-py 6 and newer turn a timeout of two seconds into half a minute.
    :param key: 32 random bytes that encrypt the records; do not store them in Redis.
    :param password: a password that encrypts the records, instead of ``key``.
    :param prefix: the prefix of the names in Redis.
    :param lease_seconds: how long the other hosts wait if a host dies during a refresh.
    :raises ArgumentTypeError: ``client`` is neither a ``redis.Redis`` nor a ``redis.RedisCluster``.
    :raises UsageError: the key, the password or ``lease_seconds`` is invalid.
    """

    @hide_frames
    def __init__(
        self,
        client: redis.Redis | redis.RedisCluster,
        *,
        key: bytes | None = None,
        password: str | bytes | None = None,
        prefix: str = "dpop:tokens:",
        lease_seconds: float = 10.0,
    ) -> None:
        if not isinstance(client, redis.Redis | redis.RedisCluster):
            raise ArgumentTypeError("client", "a redis.Redis or redis.RedisCluster", client)
        if not 0.1 <= lease_seconds <= 600:
            raise UsageError(f"lease_seconds must be from 0.1 to 600, got {lease_seconds!r:.40}")
        self._client = client
        self._sealer = None if key is None and password is None else Sealer(key, password=password)
        self._prefix = prefix
        self._lease_ms = round(lease_seconds * 1000)

    def __repr__(self) -> str:
        return f"<RedisTokenStore {self._prefix}*{', encrypted' if self._sealer else ''}>"

    @hide_frames
    def load(self, account: str = DEFAULT_ACCOUNT) -> TokenSet | None:
        """Return the tokens of an account, or ``None`` if there are none.

        :raises TokenFormatError: the record cannot be read.
        :raises TokenStoreError: Redis cannot be reached.
        """
        name = self._name(account)
        data = self._ask("HGET", name, "record")
        if data is None:
            return None
        data = data.encode() if isinstance(data, str) else data
        return read_record(data, account, self._sealer, f"the Redis record {name!r}")

    @hide_frames
    def save(self, tokens: TokenSet, account: str = DEFAULT_ACCOUNT) -> None:
        """Save these tokens, after waiting for a refresh in progress.

        :raises TokenStoreError: Redis did not confirm the write.
        """
        if not isinstance(tokens, TokenSet):
            raise UsageError("a token store saves a TokenSet, as an endpoint returns it")
        with locked(self.lock(account), account):
            record = write_record(tokens, account, self._sealer)
            self._ask("HSET", self._name(account), "record", record, "fingerprint", tokens.fingerprint)

    @hide_frames
    def replace(self, old: TokenSet | None, new: TokenSet, account: str, *, fence: int | None = None) -> bool:
        """Save ``new`` if ``old`` is stored and no later holder of the lease has written, by its fence number.

        :raises TokenStoreError: Redis did not confirm the write.
        """
        arguments = [
            "" if old is None else old.fingerprint,
            write_record(new, account, self._sealer),
            new.fingerprint,
            "" if fence is None else fence,
        ]
        return bool(self._ask("EVAL", _REPLACE, 1, self._name(account), *arguments))

    def delete(self, account: str = DEFAULT_ACCOUNT) -> None:
        """Delete the tokens of an account, after waiting for a refresh in progress."""
        with locked(self.lock(account), account):
            self._ask("DEL", self._name(account))

    def accounts(self) -> list[str]:
        """Return the accounts that have tokens."""
        pattern = "".join(f"\\{c}" if c in "*?[]\\^" else c for c in self._prefix) + "{*}"
        try:
            client: Any = self._client
            with answers_in_turn(client):
                found = list(set(client.scan_iter(pattern, count=_AT_ONCE)))
                names = []
                for start in range(0, len(found), _AT_ONCE):
                    some = found[start : start + _AT_ONCE]
                    pipeline = client.pipeline(transaction=False)
                    for name in some:
                        pipeline.hexists(name, "record")
                    for name, has in zip(some, pipeline.execute(raise_on_error=False), strict=True):
                        if isinstance(has, Exception) and "WRONGTYPE" not in str(has):
                            raise has
                        if has and not isinstance(has, Exception):  # a value of another type is none of ours
                            names.append(name.decode() if isinstance(name, bytes) else name)
        except REDIS_ERRORS as error:
            raise _unusable(error) from error
        return sorted(name[len(self._prefix) + 1 : -1] for name in names)

    def lock(self, account: str) -> StoreLock:
        """Return a new handle of the account's lease."""
        name = self._name(account)
        return _Lease(self, f"{name}:lease", name, self._lease_ms)

    def _name(self, account: str) -> str:
        # The braces make a cluster keep record and lease in the same place.
        return f"{self._prefix}{{{check_account(account)}}}"

    def _ask(self, *command: Any) -> Any:
        execute: Any = self._client.execute_command
        try:
            with answers_in_turn(self._client):
                return execute(*command)
        except REDIS_ERRORS as error:
            raise _unusable(error) from error


class _Lease:
    """The lease of one account; see :class:`dpop.tokens.StoreLock`."""

    def __init__(self, store: RedisTokenStore, name: str, record: str, milliseconds: int) -> None:
        self._store = store
        self._name = name
        self._record = record
        self._ms = milliseconds
        self._token = secrets.token_urlsafe(12)
        self._released = threading.Event()
        self._held = False
        self._pid = os.getpid()
        self._until = 0.0
        self.fence: int = 0

    @property
    def name(self) -> Hashable:
        """The lease's key together with its store, because a client does not tell to which Redis it is connected."""
        return (id(self._store), self._name)

    def is_held(self) -> bool:
        """Whether Redis confirmed the lease recently enough, counted from the command; suspended time counts, too."""
        return self._held and _elapsed() < self._until and self._pid == os.getpid()

    def _confirmed(self, asked_at: float) -> None:
        self._until = asked_at + _MARGIN * self._ms / 1000

    def acquire(self, timeout: float) -> bool:
        """Take the lease, after waiting at most ``timeout`` seconds.

        :raises TokenStoreError: Redis cannot be reached.
        """
        deadline = time.monotonic() + timeout
        tries = 0
        while not self._released.is_set():
            asked_at = _elapsed()
            fence = self._store._ask("EVAL", _ACQUIRE, 2, self._name, self._record, self._token, self._ms)  # noqa: SLF001
            if fence:
                self.fence, self._held = int(fence), True
                self._confirmed(asked_at)
                if self._released.is_set():
                    break
                # A daemon thread, so that a process can end without waiting for its lease.
                threading.Thread(target=self._keep, args=(os.getpid(),), name="dpop-lease", daemon=True).start()
                return True
            if time.monotonic() >= deadline:
                return False
            self._released.wait(_SLEEPS[min(tries, len(_SLEEPS) - 1)])
            tries += 1
        self.release()
        return False

    def _keep(self, pid: int) -> None:
        while not self._released.wait(self._ms / 3000) and pid == os.getpid():
            asked_at = _elapsed()
            try:
                if not self._store._ask("EVAL", _RENEW, 1, self._name, self._token, self._ms):  # noqa: SLF001
                    self._until = 0.0  # another host has the lease, or Redis has lost it
                    return
                self._confirmed(asked_at)
            except TokenStoreError as error:
                _log.warning("the lease on tokens could not be renewed: %s", error)

    def release(self) -> None:
        """Release the lease; if Redis cannot be reached, the lease expires by itself."""
        self._released.set()
        held, self._held = self._held and self._pid == os.getpid(), False  # a forked child must not release it
        if held:
            try:
                self._store._ask("EVAL", _RELEASE, 2, self._name, self._record, self._token)  # noqa: SLF001
            except TokenStoreError as error:
                _log.warning("the lease on tokens could not be released; it expires by itself: %s", error)


def _elapsed() -> float:
    """Return seconds of a monotonic clock that also runs while the machine is suspended."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)  # on Linux, where time.monotonic() stops then
    return time.monotonic() if clock is None else time.clock_gettime(clock)


def _unusable(error: Exception) -> TokenStoreError:
    if is_down(error):
        return TokenStoreError(f"the token store cannot be reached: {error}")
    return TokenStoreError(f"Redis cannot serve as a token store: {describe(error)}")
