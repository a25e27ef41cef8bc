# SPDX-License-Identifier: Apache-2.0
"""Renew the tokens in a store, in an order that loses no refresh token.

1. Read the store: another process may have renewed them.
2. Take the account's lock; read again.
3. Check the key. Store a note that a refresh begins: this also shows that the store can be written.
4. Send the refresh token. Without a response, store the note again and send the token once more, with a new proof.
5. Store the new tokens durably. Only then return them.

Directly before each request it checks that the lock is still held. The note of step 3 names this process: while it
waits for the response, others wait, too, even if somebody has deleted its lock. Before it saves, it checks that the
predecessor of the tokens is still in the store. If new tokens cannot be stored, this process has the only copy: it
keeps the lock, so that no other process sends the old refresh token, and every error contains the tokens.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Final

from dpop.client._driver import BeforeEachSend, before_each_send
from dpop.errors import (
    DPoPError,
    InvalidTokenResponseError,
    OutcomeUnknownError,
    ReauthorizationError,
    TokenEndpointUnavailableError,
    TokenLockError,
    TokenRefusedError,
    TokenRequestError,
    TokensNotSavedError,
    TokenStoreError,
)
from dpop.origin import Origin
from dpop.tokens._dead_grants import may_pass
from dpop.tokens._grants import Grants, Parameter
from dpop.tokens._owner import RefreshOwner, is_at_work
from dpop.tokens._steps import Blocking, Pause, Steps, is_unsent
from dpop.tokens._stores import LOCK_SECONDS, StoreLock, TokenStore, keep, take_kept
from dpop.tokens._token_set import TokenSet

__all__ = ["Renewal"]

_log: Final = logging.getLogger("dpop.tokens")
_REPLACED: Final = (
    "the server has replaced the refresh token in a response that must not be used. The new token is in the error's"
    " tokens, here or where that was said first: save them to the store, or let the user authorise again"
)
_ROUNDS: Final = 3
_PAUSES: Final = (0.002, 0.005, 0.01, 0.02, 0.05)


class Renewal:
    """Renews the tokens of one account.

    :param grant: the grant to use if there is no refresh token: a grant type and its parameters.
    :param seen: a function that gets all tokens found in the store; they may be used if there are no newer ones.
    :param begin: a function that is called before a refresh; the function that it returns is called after it.
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
        begin: Callable[[], Callable[[], object]] = lambda: lambda: None,
    ) -> None:
        self._grants = grants
        self._store = store
        self._account = account
        self._clock = clock
        self._lock_seconds = lock_seconds
        self._grant = grant
        self._seen = seen
        self._begin = begin
        # New tokens that could not be stored, with the tokens they replace: this process has the only copy.
        self._unsaved: tuple[TokenSet | None, TokenSet] | None = None
        self._keeps: StoreLock | None = None
        # Tokens that the server does not accept any more.
        self._dead: TokenSet | None = None
        # Tokens in a response that must not be used, if they replaced the dead ones.
        self._came: TokenSet | None = None
        # The refresh that is going on, or has brought tokens that could not be stored.
        self._owner: RefreshOwner | None = None

    def steps(self, good: Callable[[TokenSet], bool], *, patient: bool = True) -> Steps[TokenSet]:
        """Return tokens for which ``good`` is true: from the store, or else new ones.

        :param patient: wait while another process holds the lock; otherwise raise TokenLockError at once.
        :raises ReauthorizationError: there are no tokens, or the refresh token is dead.
        :raises TokenRequestError: the server gave no tokens.
        :raises TokenStoreError: the store cannot be read, written or locked.
        :raises TokensNotSavedError: new tokens could not be stored, now or before; they are in the error.
        """
        try:
            for _ in range(_ROUNDS):
                turn = _Turn()
                try:
                    return (yield from self._once(good, turn, patient=patient))
                except Exception:
                    if not turn.lost:
                        raise
                    _log.warning("the lock on the tokens of %r was lost before a send; nothing was sent", self._account)
            raise TokenLockError(
                f"the lock on the tokens of {self._account!r} is lost again and again; try again later"
            )
        except Exception as error:
            if self._unsaved is None or isinstance(error, TokensNotSavedError):
                raise
            raise self._not_saved(error) from error  # whatever the error is, these tokens must not be lost

    def _once(self, good: Callable[[TokenSet], bool], turn: _Turn, *, patient: bool) -> Steps[TokenSet]:
        if self._unsaved is None:
            stored: TokenSet | None = yield Blocking(self._load)
            if stored is not None and good(stored):
                return stored
        deadline = time.monotonic() + (self._lock_seconds if patient else 0.0)
        while True:
            try:
                return (yield from self._with_lock(good, turn, deadline))
            except _AnotherAtWork:
                self._check_patience(deadline)
                yield Pause(_PAUSES[-1])

    def _with_lock(self, good: Callable[[TokenSet], bool], turn: _Turn, deadline: float) -> Steps[TokenSet]:
        lock = self._store.lock(self._account)
        # Only the source with the tokens takes the kept lock; another source of this process has no copy of them.
        kept = take_kept(lock) if self._unsaved is not None else None
        try:
            if kept is not None:
                lock = kept
            else:
                yield from self._take(lock, deadline)
            turn.lock = lock
            tokens: TokenSet = yield from self._under(turn, good)
        except BaseException:
            self._let_go(lock)
            raise
        yield Blocking(lambda: self._let_go(lock))
        return tokens

    def _let_go(self, lock: StoreLock) -> None:
        """Release the lock, unless only this process has the new tokens: another one would then send the old token."""
        if self._unsaved is not None and lock.is_held():
            keep(lock)
            if self._keeps is not lock:
                self._keeps = lock
                # If the source is garbage collected, its tokens are lost, and the lock has no purpose any more.
                weakref.finalize(self, _release_kept, lock).atexit = False
        else:
            lock.release()

    def _take(self, lock: StoreLock, deadline: float) -> Steps[None]:
        """Take the lock with short attempts: a long wait would occupy a worker thread that the holder may need."""
        tries = 0
        while not (yield Blocking(lambda: lock.acquire(0))):
            self._check_patience(deadline)
            yield Pause(_PAUSES[min(tries, len(_PAUSES) - 1)])
            tries += 1

    def _check_patience(self, deadline: float) -> None:
        if time.monotonic() >= deadline:
            raise TokenLockError(
                f"another thread, process or host has been refreshing the tokens of {self._account!r}, and a caller"
                f" waits at most {self._lock_seconds:.0f} s for it; nothing was sent"
            )

    def _load(self) -> TokenSet | None:
        tokens = self._store.load(self._account)
        if tokens is not None:
            self._seen(tokens)
        return tokens

    def _under(self, turn: _Turn, good: Callable[[TokenSet], bool]) -> Steps[TokenSet]:
        for _ in range(_ROUNDS):
            if self._unsaved is not None:
                yield from self._save(*self._unsaved)
            stored: TokenSet | None = yield Blocking(self._load)
            if stored is not None and good(stored):
                return stored
            if stored is not None and is_at_work(stored.refresh_owner):
                raise _AnotherAtWork
            if stored is None or not stored.refresh_token or (stored.refusal and self._grant is not None):
                tokens = yield from self._first(stored)
            else:
                tokens = yield from self._refresh(stored, turn)
            if tokens is not None:
                return tokens
            # Another process has stored other tokens meanwhile: check them.
        raise TokenEndpointUnavailableError(f"the stored tokens of {self._account!r} keep changing; try again")

    def _first(self, stored: TokenSet | None) -> Steps[TokenSet | None]:
        """Get tokens with a grant that needs no user, such as client_credentials."""
        if self._grant is None:
            lacks = "there are no tokens" if stored is None else "there is no refresh token"
            raise ReauthorizationError(f"{lacks} for {self._account!r} in {self._store!r}; the user has to authorise")
        grant_type, parameters = self._grant
        tokens = yield from self._grants.grant(grant_type, parameters)
        return (yield from self._save(stored, tokens))

    def _refresh(self, stored: TokenSet, turn: _Turn) -> Steps[TokenSet | None]:
        """Refresh; return new tokens, or ``None`` if the store has other tokens by now."""
        dead = self._dead if self._dead is not None and self._dead.fingerprint == stored.fingerprint else None
        if stored.refusal or dead is not None:  # the store may not have the note
            raise _refusal_of(stored if stored.refusal or dead is None else dead, None if dead is None else self._came)
        self._grants.check(stored)
        end = self._begin()
        try:
            return (yield from self._refresh_noted(stored, turn))
        finally:
            self._end_if_saved()
            end()

    def _refresh_noted(self, stored: TokenSet, turn: _Turn) -> Steps[TokenSet | None]:
        stored = stored.replace(refresh_owner=None)
        self._owner = None if turn.fence else RefreshOwner()  # with a fence, others may take over
        turn.owner = self._owner
        owner = None if self._owner is None else self._owner.name
        begun = stored.replace(refresh_sent_at=self._clock(), refresh_owner=owner)
        lost = stored.refresh_sent_at is not None
        try:
            if not (yield Blocking(lambda: self._fenced(stored, begun, turn))):
                return None
            try:
                tokens = yield from self._send(begun, turn)
            except OutcomeUnknownError as error:
                _log.warning("a refresh got no response and is sent once more: %s", error)
                lost = True
                again = begun.replace(refresh_sent_at=self._clock())
                # Store the note with the fence again: during the wait, the lock may have passed to another host.
                if not (yield Blocking(lambda: self._fenced(begun, again, turn))):
                    return None
                begun = again
                tokens = yield from self._send(begun, turn)
        except ReauthorizationError as error:
            there: TokenSet | None = yield Blocking(self._load)
            if there is not None and there.fingerprint != stored.fingerprint:
                return None
            return (yield from self._refused(error, stored, begun, turn, lost=lost))
        except DPoPError as error:
            if not turn.lost:
                yield from self._after(error, stored, begun, turn, lost=lost)
            raise
        except BaseException as interrupt:
            self._interrupted(interrupt, stored, begun, turn, lost=lost)
            raise
        return (yield from self._save(begun, tokens))

    def _refused(
        self, error: ReauthorizationError, stored: TokenSet, begun: TokenSet, turn: _Turn, *, lost: bool
    ) -> Steps[TokenSet | None]:
        """Note that the server has refused the refresh token for good."""
        if self._grants.rebinds and stored.jkt != self._grants.prover.thumbprint:
            # With its own key the refresh token is as good as it was.
            yield Blocking(lambda: self._note(begun, _over(begun) if lost else stored, turn))
            raise _not_rebound(error) from error
        final = _over(begun).replace(refusal=_noted(error, lost=lost))
        self._dead, self._came = final, None
        yield Blocking(lambda: self._note(begun, final, turn))
        if self._grant is not None:
            return (yield from self._first(final))
        raise _refusal_of(final) from error

    def _interrupted(
        self, interrupt: BaseException, stored: TokenSet, begun: TokenSet, turn: _Turn, *, lost: bool
    ) -> None:
        """Note that a refresh is over, or was not sent; directly, because no step runs after an interrupt."""
        if is_unsent(interrupt) and not lost:
            self._note(begun, stored, turn)
        elif begun.refresh_owner is not None and turn.lock is not None and turn.lock.is_held():
            self._note(begun, _over(begun), turn)

    def _after(self, error: DPoPError, stored: TokenSet, begun: TokenSet, turn: _Turn, *, lost: bool) -> Steps[None]:
        """Record what a failed refresh means for the refresh token that was sent."""
        came = error.tokens if isinstance(error, InvalidTokenResponseError) else None
        if came is not None and came.refresh_token != stored.refresh_token:
            # The server has replaced the old refresh token, and would take another use of it for a theft.
            final = _over(begun).replace(refusal={"message": _REPLACED})
            self._dead, self._came = final, came  # a renewal ahead of time raises no error that would carry them
            yield Blocking(lambda: self._note(begun, final, turn))
            return
        # Without an error of the server, nothing was sent, for example because our own key failed.
        asked = isinstance(error, TokenRequestError)
        unseen = isinstance(error, TokenEndpointUnavailableError) and (error.status or 0) < 500
        # The client is authenticated before its refresh token is looked at (RFC 6749 §6).
        unseen |= isinstance(error, TokenRefusedError) and error.error == "invalid_client"
        # If the server was not reached, or has not looked at the refresh token, the note is removed.
        became = stored if not lost and (unseen or not asked) else _over(begun)
        times = stored.refused_times
        if became is not stored and isinstance(error, TokenRequestError) and may_pass(error):
            times = (times or 0) + 1
        yield Blocking(lambda: self._note(begun, became.replace(refused_times=times), turn))

    def _send(self, begun: TokenSet, turn: _Turn) -> Steps[TokenSet]:
        """Send one refresh; before each of its requests, also nonce retries, check that the lock is still held."""
        origin = Origin.of_url(self._grants.server.token_endpoint)
        outer = before_each_send.get()  # of another refresh, if it is that one which needs these tokens
        before_each_send.set(BeforeEachSend(self._grants.prover, origin, turn.check))
        try:
            return (yield from self._grants.refresh(begun, {}))
        finally:
            before_each_send.set(outer)

    def _fenced(self, there: TokenSet, tokens: TokenSet, turn: _Turn) -> bool:
        return self._store.replace(there, tokens, self._account, fence=turn.fence)

    def _note(self, there: TokenSet, noted: TokenSet, turn: _Turn) -> None:
        """Store the outcome of a refresh; if that fails, the stored facts remain true, but incomplete."""
        try:
            self._fenced(there, noted, turn)
        except Exception as error:  # noqa: BLE001 - whatever a store of others raises
            _log.warning("the outcome of a refresh could not be stored with the tokens: %s", error)

    def _save(self, old: TokenSet | None, tokens: TokenSet) -> Steps[TokenSet | None]:
        """Store new tokens in place of their predecessors; return ``None`` if the store has later tokens by now."""
        self._unsaved = (old, tokens)
        try:
            kept = yield Blocking(lambda: self._put(old, tokens))
        except Exception as error:  # a store of another package may raise anything
            raise self._not_saved(error) from error
        self._unsaved = None
        self._end_if_saved()
        return tokens if kept else None

    def _put(self, old: TokenSet | None, tokens: TokenSet) -> bool:
        """Store new tokens over their predecessors or into an empty store; ``False`` if the store has later ones.

        It uses no fence: the server accepts only these tokens from now on, even if another process has the lock by now.
        """
        for expected in (old, None):
            if self._store.replace(expected, tokens, self._account):
                return True
        there = self._store.load(self._account)
        if there is not None and there.fingerprint == tokens.fingerprint:
            return True
        if there is not None and (there.issued_at or 0.0) > (tokens.issued_at or 0.0):
            _log.warning(
                "the store has later tokens of %r than those that came; it keeps the later ones", self._account
            )
            return False
        if old is None or not old.refresh_token:
            return False  # no refresh token was used up for them
        raise TokenStoreError("another program has changed the stored tokens; they are not their successors")

    def _end_if_saved(self) -> None:
        """End the refresh, unless it has brought tokens that are not stored: then others still must not send."""
        if self._owner is not None and self._unsaved is None:
            self._owner.end()
            self._owner = None

    def _not_saved(self, error: Exception) -> TokensNotSavedError:
        assert self._unsaved is not None  # noqa: S101 - the callers have checked it
        return TokensNotSavedError(
            f"new tokens of {self._account!r} could not be stored ({error}). The old refresh token may be"
            " used up: make the store writable and call again, which stores them, or save error.tokens yourself",
            tokens=self._unsaved[1],
        )


class _AnotherAtWork(Exception):  # noqa: N818 - it never leaves this module
    """Somebody has deleted the lock of a refresh whose response may still come."""


class _Turn:
    """The right to send a refresh token, for as long as a lock is held."""

    owner: RefreshOwner | None = None

    def __init__(self) -> None:
        self.lock: StoreLock | None = None
        self.lost = False

    @property
    def fence(self) -> int:
        """The fence of the lock."""
        assert self.lock is not None  # noqa: S101 - taken before anything is written
        return self.lock.fence

    def check(self) -> None:
        """Check that the lock is held at this moment.

        :raises TokenLockError: another process may have the lock by now.
        """
        if self.lock is None or not self.lock.is_held():
            self.lost = True
            raise TokenLockError("the lock on the tokens was lost before the refresh token was sent; nothing was sent")
        if self.owner is not None:
            self.owner.begin()


def _over(begun: TokenSet) -> TokenSet:
    """Return the note of a refresh that is over without a response."""
    return begun.replace(refresh_owner=None)


def _release_kept(lock: StoreLock) -> None:
    if take_kept(lock) is lock:
        lock.release()


def _noted(error: ReauthorizationError, *, lost: bool) -> dict[str, str]:
    """Return the facts of a final refusal, to store them for all processes that share the store."""
    message = str(error)
    if lost:
        message += (
            ". An earlier refresh with the same refresh token was sent, and its response never arrived or could not be"
            " used: the server may have replaced the token, and no process that shares the store has the new one"
        )
    facts = {"message": message, "error": error.error, "subtype": error.subtype, "description": error.description}
    return {name: fact for name, fact in facts.items() if fact}


def _not_rebound(error: ReauthorizationError) -> TokenRefusedError:
    return TokenRefusedError(
        f"the server does not bind the tokens to another key: {error.error or 'it refused'}. They are as they were, and"
        " need their old key; for the new one log in again",
        error=error.error,
        subtype=error.subtype,
        description=error.description,
        status=error.status,
    )


def _refusal_of(tokens: TokenSet, came: TokenSet | None = None) -> ReauthorizationError:
    said = tokens.refusal
    return ReauthorizationError(
        str(said.get("message", "the refresh token was refused; the user has to authorise again")),
        error=said.get("error"),
        subtype=said.get("subtype"),
        description=said.get("description"),
        tokens=came,
    )
