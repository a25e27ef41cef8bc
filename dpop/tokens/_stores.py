# SPDX-License-Identifier: Apache-2.0
"""Token stores: the interface of every store, and the store in memory.

Other stores are :class:`dpop.tokens.FileTokenStore`, :class:`dpop.keyring.KeyringTokenStore` and
:class:`dpop.redis.RedisTokenStore`. To write a store of your own, follow :class:`TokenStore`, which describes the
rules; ``tests/support/token_stores.py`` checks them for any store.
"""

from __future__ import annotations

import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Hashable
from typing import Final, Protocol

from dpop._arguments import refuse_class
from dpop._forking import reset_after_fork
from dpop._tracebacks import hide_frames
from dpop.errors import ArgumentTypeError, TokenLockError, UsageError
from dpop.tokens._token_set import TokenSet

__all__ = [
    "DEFAULT_ACCOUNT",
    "LOCK_SECONDS",
    "LockedStore",
    "MemoryTokenStore",
    "StoreLock",
    "TokenStore",
    "check_account",
    "check_store",
    "keep",
    "locked",
    "take_kept",
]

DEFAULT_ACCOUNT: Final = "default"
LOCK_SECONDS: Final = 60.0
_MAX_ACCOUNT: Final = 512


class StoreLock(Protocol):
    """The right to refresh an account's tokens: one thread, in one process of one host, can hold it.

    The lock ends with its holder: if a process is killed, its lock ends soon.
    """

    @property
    def name(self) -> Hashable:
        """The name of the lock: equal for all its handles, also those of different store objects."""
        ...

    @property
    def fence(self) -> int:
        """A number that grows with each holder, if a suspended holder can lose the lock; otherwise 0."""
        ...

    def is_held(self) -> bool:
        """Whether this handle certainly holds the lock now. It is called before each request, and never blocks."""
        ...

    def acquire(self, timeout: float) -> bool:
        """Take the lock, after waiting at most ``timeout`` seconds; return whether that worked.

        :raises TokenStoreError: the lock cannot be taken at all.
        """
        ...

    def release(self) -> None:
        """Release the lock; also end an :meth:`acquire` that still waits in another thread. It never raises."""
        ...


class TokenStore(Protocol):
    """Keeps one token set per account. Its methods may block, and are called from several threads.

    Once :meth:`save` or :meth:`replace` has returned, the tokens are durable: they survive the process, and a crash
    of the machine if the store is on disk. Tokens that cannot be read are an error, not ``None``.
    """

    def load(self, account: str = DEFAULT_ACCOUNT) -> TokenSet | None:
        """Return the tokens of an account, or ``None`` if there are none.

        :raises TokenFormatError: the stored tokens cannot be read.
        :raises TokenStoreError: the store cannot be reached.
        """
        ...

    def save(self, tokens: TokenSet, account: str = DEFAULT_ACCOUNT) -> None:
        """Save these tokens in place of any others, after waiting for a refresh in progress.

        :raises TokenStoreError: the tokens could not be saved; the stored tokens are unchanged.
        """
        ...

    def replace(self, old: TokenSet | None, new: TokenSet, account: str, *, fence: int | None = None) -> bool:
        """Save ``new`` if ``old``, by its fingerprint, is stored now; return whether it was. The caller holds the lock.

        :param fence: the lock's fence; if a later holder has written with its own fence, nothing is written.
        :raises TokenStoreError: the tokens could not be saved; the stored tokens are unchanged.
        """
        ...

    def delete(self, account: str = DEFAULT_ACCOUNT) -> None:
        """Delete the tokens of an account, after waiting for a refresh in progress."""
        ...

    def accounts(self) -> list[str]:
        """Return the accounts that have tokens."""
        ...

    def lock(self, account: str) -> StoreLock:
        """Return a new handle of the account's lock, which is not taken yet."""
        ...


def check_account(account: object) -> str:
    """Return the name of an account if it is valid.

    :raises UsageError: the name is not a str of 1 to 512 printable characters.
    """
    if not isinstance(account, str) or not 0 < len(account) <= _MAX_ACCOUNT or not account.isprintable():
        raise UsageError(f"an account must be a str of 1 to {_MAX_ACCOUNT} printable characters")
    return account


def check_store(store: object) -> None:
    """Check that the argument is a store, and not the class of a store.

    :raises UsageError: the argument is not a store.
    """
    refuse_class("store", store)
    if not all(hasattr(store, method) for method in ("load", "replace", "lock")):
        raise ArgumentTypeError("store", "a FileTokenStore or another TokenStore", store)


# Locks, by name, that this process keeps because it has the only copy of new tokens: see keep().
_kept: dict[Hashable, StoreLock] = {}


def keep(lock: StoreLock) -> None:
    """Keep a held lock, so that no other process refreshes while this one has tokens that it could not store.

    The next renewal of the source with these tokens takes the lock over with :func:`take_kept`; so does a ``save()`` of
    the user.
    """
    _kept[lock.name] = lock


def take_kept(lock: StoreLock) -> StoreLock | None:
    """Return the handle that this process has kept for a lock, if it still holds the lock."""
    kept = _kept.pop(lock.name, None)
    if kept is not None and not kept.is_held():
        kept.release()  # another process has the lock now
        return None
    return kept


class locked:  # noqa: N801 - used like a function
    """Hold an account's lock, in a ``with`` statement.

    :raises TokenLockError: the lock could not be taken in time.
    """

    def __init__(self, lock: StoreLock, account: str, *, timeout: float = LOCK_SECONDS) -> None:
        self._lock = lock
        self._account = account
        self._timeout = timeout
        self._was_kept = False

    def __enter__(self) -> StoreLock:
        kept = take_kept(self._lock)
        if kept is not None:
            self._lock, self._was_kept = kept, True
        elif not self._lock.acquire(self._timeout):
            raise TokenLockError(
                f"another thread, process or host has been refreshing the tokens of {self._account!r} for more than"
                f" {self._timeout:.0f} s; nothing was changed"
            )
        return self._lock

    def __exit__(self, kind: object, *exc: object) -> None:
        if self._was_kept and kind is not None:
            keep(self._lock)  # nothing was stored: this process still has the only copy of new tokens
        else:
            self._lock.release()


class LockedStore(ABC):
    """The base of stores whose lock cannot be lost while its holder lives, so that they need no fence."""

    @abstractmethod
    def load(self, account: str = DEFAULT_ACCOUNT) -> TokenSet | None:
        """See :meth:`TokenStore.load`."""

    @abstractmethod
    def lock(self, account: str) -> StoreLock:
        """See :meth:`TokenStore.lock`."""

    @abstractmethod
    def _write(self, tokens: TokenSet, account: str) -> None:
        """Write these tokens durably; the caller holds the lock."""

    @hide_frames
    def save(self, tokens: TokenSet, account: str = DEFAULT_ACCOUNT) -> None:
        """Save these tokens, after waiting for a refresh in progress.

        :raises TokenStoreError: the tokens could not be saved; the stored tokens are unchanged.
        """
        if not isinstance(tokens, TokenSet):
            raise UsageError("a token store saves a TokenSet, as an endpoint returns it")
        with locked(self.lock(account), account):
            self._write(tokens, account)

    @hide_frames
    def replace(
        self,
        old: TokenSet | None,
        new: TokenSet,
        account: str,
        *,
        fence: int | None = None,  # noqa: ARG002 - see above
    ) -> bool:
        """Save ``new`` if ``old`` is stored; the caller holds the lock.

        :raises TokenStoreError: the tokens could not be saved; the stored tokens are unchanged.
        """
        there = self.load(account)
        if (there and there.fingerprint) != (old and old.fingerprint):
            return False
        self._write(new, account)
        return True


class MemoryTokenStore(LockedStore):
    """Keeps tokens in this process only. A forked child has an independent copy."""

    def __init__(self) -> None:
        self._tokens: dict[str, TokenSet] = {}
        self._locks: dict[str, threading.Lock] = {}
        reset_after_fork(self)

    def __repr__(self) -> str:
        return f"<MemoryTokenStore of {len(self._tokens)} accounts>"

    def __reduce__(self) -> tuple[object, ...]:
        raise UsageError("a MemoryTokenStore cannot be pickled: its tokens belong to one process; use a file or Redis")

    def load(self, account: str = DEFAULT_ACCOUNT) -> TokenSet | None:
        """Return the tokens of an account, or ``None`` if there are none."""
        return self._tokens.get(check_account(account))

    def delete(self, account: str = DEFAULT_ACCOUNT) -> None:
        """Delete the tokens of an account."""
        with locked(self.lock(account), account):
            self._tokens.pop(account, None)

    def accounts(self) -> list[str]:
        """Return the accounts that have tokens."""
        return sorted(self._tokens)

    def lock(self, account: str) -> StoreLock:
        """Return a new handle of the account's lock."""
        name = check_account(account)
        return _MemoryLock(self._locks.setdefault(name, threading.Lock()), (id(self), name))

    def _write(self, tokens: TokenSet, account: str) -> None:
        self._tokens[account] = tokens

    def _reset_after_fork(self) -> None:
        self._locks.clear()  # the threads that held them do not exist in this process


class _MemoryLock:
    fence: int = 0

    def __init__(self, lock: threading.Lock, name: Hashable) -> None:
        self._lock = lock
        self.name = name
        self._pid = os.getpid()
        self._held = False
        self._given_up = False

    def is_held(self) -> bool:
        return self._held and self._pid == os.getpid()

    def acquire(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while not self._lock.acquire(timeout=min(0.1, max(0.0, deadline - time.monotonic()))):
            if self._given_up or time.monotonic() >= deadline:
                return False
        self._held = True
        if self._given_up:
            self.release()
            return False
        return True

    def release(self) -> None:
        self._given_up = True
        if self._held:
            self._held = False
            self._lock.release()
