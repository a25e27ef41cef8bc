# SPDX-License-Identifier: Apache-2.0
"""Renewing the tokens in a store, once, whoever asks: the order of things that loses no refresh token.

1. Read the store: somebody else may have renewed them.
2. Take the account's lock; read again.
3. Check the key. Write down that a refresh begins: this is also the proof that the store can be written.
4. Send the refresh token. Without an answer, send it once more, with a new proof.
5. Write down what came, durably. Only then hand it out.

A generator of steps, like all that is written once for threads and tasks.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Final

from dpop.errors import (
    DPoPError,
    OutcomeUnknownError,
    ReauthorizationError,
    TokenEndpointUnavailableError,
    TokenLockError,
    TokenRequestError,
    TokensNotSavedError,
    TokenStoreError,
)
from dpop.tokens._grants import Grants, Parameter
from dpop.tokens._steps import Blocking, Pause, Steps
from dpop.tokens._stores import LOCK_SECONDS, StoreLock, TokenStore
from dpop.tokens._token_set import TokenSet

__all__ = ["Renewal"]

_log: Final = logging.getLogger("dpop.tokens")
_ROUNDS: Final = 3
_PAUSES: Final = (0.002, 0.005, 0.01, 0.02, 0.05)


class Renewal:
    """Renews the tokens of one account.

    :param grant: what to ask for where there is no refresh token: a grant type and its parameters.
    :param seen: told of all tokens that are found in the store: they may do, should there be no newer ones.
    """

    def __init__(
        self,
        grants: Grants,
        store: TokenStore,
        account: str,
        *,
        clock: Callable[[], float],
        lock_seconds: float = LOCK_SECONDS,
        grant: tuple[str, Mapping[str, Parameter]] | None = None,
        seen: Callable[[TokenSet], None] = lambda _: None,
    ) -> None:
        self._grants = grants
        self._store = store
        self._account = account
        self._clock = clock
        self._lock_seconds = lock_seconds
        self._grant = grant
        self._seen = seen
        # Tokens that came and could not be stored, with those they replace: this process has the only copy.
        self._unsaved: tuple[TokenSet | None, TokenSet] | None = None
        # Tokens the server has no use for any more.
        self._dead: TokenSet | None = None

    def steps(self, good: Callable[[TokenSet], bool], *, patient: bool = True) -> Steps[TokenSet]:
        """Tokens for which ``good`` holds: from the store, or else new ones.

        :param patient: wait for whoever holds the lock; otherwise that is a TokenLockError at once.
        :raises ReauthorizationError: there are none, or the refresh token is dead.
        :raises TokenRequestError: the server did not give any.
        :raises TokenStoreError: the store cannot be read, written or locked.
        :raises TokensNotSavedError: new tokens came and could not be stored; they are in the error.
        """
        if self._unsaved is None:
            stored: TokenSet | None = yield Blocking(self._load)
            if stored is not None and good(stored):
                return stored
        lock = self._store.lock(self._account)
        try:
            yield from self._take(lock, self._lock_seconds if patient else 0.0)
            tokens: TokenSet = yield from self._under(lock, good)
        except BaseException:
            lock.release()
            raise
        yield Blocking(lock.release)
        return tokens

    def _take(self, lock: StoreLock, seconds: float) -> Steps[None]:
        """Take the lock. Each try is short: a task that waited in a worker thread would keep it from the holder."""
        deadline = time.monotonic() + seconds
        tries = 0
        while not (yield Blocking(lambda: lock.acquire(0))):
            if time.monotonic() >= deadline:
                raise TokenLockError(
                    f"another thread, process or host has been refreshing the tokens of {self._account!r} for"
                    f" {seconds:.0f} s; nothing was sent"
                )
            yield Pause(_PAUSES[min(tries, len(_PAUSES) - 1)])
            tries += 1

    def _load(self) -> TokenSet | None:
        tokens = self._store.load(self._account)
        if tokens is not None:
            self._seen(tokens)
        return tokens

    def _under(self, lock: StoreLock, good: Callable[[TokenSet], bool]) -> Steps[TokenSet]:
        for _ in range(_ROUNDS):
            if self._unsaved is not None:
                yield from self._save(*self._unsaved)
            stored: TokenSet | None = yield Blocking(self._load)
            if stored is not None and good(stored):
                return stored
            if stored is None or not stored.refresh_token or (stored.refusal and self._grant is not None):
                tokens = yield from self._first(stored)
            else:
                tokens = yield from self._refresh(stored, lock)
            if tokens is not None:
                return tokens
            # Someone has stored other tokens meanwhile: look at those.
        raise TokenEndpointUnavailableError(f"the stored tokens of {self._account!r} keep changing; try again")

    def _first(self, stored: TokenSet | None) -> Steps[TokenSet | None]:
        """Tokens by a grant that needs no user, such as client_credentials."""
        if self._grant is None:
            lacks = "there are no tokens" if stored is None else "there is no refresh token"
            raise ReauthorizationError(f"{lacks} for {self._account!r} in {self._store!r}; the user has to authorise")
        grant_type, parameters = self._grant
        tokens = yield from self._grants.grant(grant_type, parameters)
        return (yield from self._save(stored, tokens))

    def _refresh(self, stored: TokenSet, lock: StoreLock) -> Steps[TokenSet | None]:
        """New tokens; ``None`` if others are in the store now."""
        if stored.refusal:
            raise _refusal_of(stored)
        if self._dead is not None and self._dead.fingerprint == stored.fingerprint:
            raise _refusal_of(self._dead)  # it could not be noted
        self._grants.check(stored)
        begun = stored.replace(refresh_sent_at=self._clock())
        if not (yield Blocking(lambda: self._store.replace(stored, begun, self._account, fence=lock.fence))):
            return None
        lost = stored.refresh_sent_at is not None
        try:
            try:
                tokens = yield from self._grants.refresh(begun, {})
            except OutcomeUnknownError as error:
                _log.warning("a refresh got no answer and is sent once more: %s", error)
                lost = True
                tokens = yield from self._grants.refresh(begun, {})
        except ReauthorizationError as error:
            there: TokenSet | None = yield Blocking(self._load)
            if there is not None and there.fingerprint != stored.fingerprint:
                return None
            final = begun.replace(refusal=_noted(error, lost=lost))
            self._dead = final
            yield Blocking(lambda: self._note(begun, final))
            if self._grant is not None:
                return (yield from self._first(final))
            raise _refusal_of(final) from error
        except DPoPError as error:
            # Without one of its errors the server was not even asked: our own key failed, say.
            asked = isinstance(error, TokenRequestError)
            unavailable = isinstance(error, TokenEndpointUnavailableError) and (error.status or 0) < 500
            if not lost and (unavailable or not asked):
                # The server has not looked at the refresh token, or was never reached.
                yield Blocking(lambda: self._note(begun, stored))
            raise
        return (yield from self._save(begun, tokens))

    def _note(self, there: TokenSet, noted: TokenSet) -> None:
        """Write down what became of a refresh; if that fails, what is there is true, if not all of the truth."""
        try:
            self._store.replace(there, noted, self._account)
        except TokenStoreError as error:
            _log.warning("what became of a refresh could not be noted with the tokens: %s", error)

    def _save(self, old: TokenSet | None, tokens: TokenSet) -> Steps[TokenSet | None]:
        """Store new tokens in place of those they came from; ``None`` if others are there now."""
        self._unsaved = (old, tokens)
        try:
            kept = yield Blocking(lambda: self._store.replace(old, tokens, self._account))
        except Exception as error:  # whatever a store of others raises
            raise TokensNotSavedError(
                f"new tokens of {self._account!r} came and could not be stored ({error}). The old refresh token may be"
                " spent: make the store writable and ask again, which stores them, or save error.tokens yourself",
                tokens=tokens,
            ) from error
        self._unsaved = None
        return tokens if kept else None


def _noted(error: ReauthorizationError, *, lost: bool) -> dict[str, str]:
    """What is kept of a final refusal, for all who share the store."""
    message = str(error)
    if lost:
        message += (
            ". An earlier refresh with the same refresh token was sent, and its response never arrived or could not be"
            " used: the server may have replaced the token then, and nobody who shares the store has the new one"
        )
    facts = {"message": message, "error": error.error, "subtype": error.subtype, "description": error.description}
    return {name: fact for name, fact in facts.items() if fact}


def _refusal_of(tokens: TokenSet) -> ReauthorizationError:
    said = tokens.refusal
    return ReauthorizationError(
        str(said.get("message", "the refresh token was refused; the user has to authorise again")),
        error=said.get("error"),
        subtype=said.get("subtype"),
        description=said.get("description"),
    )
