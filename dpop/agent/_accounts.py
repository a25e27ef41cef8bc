# SPDX-License-Identifier: Apache-2.0
"""The accounts of an agent: their access tokens, renewed once for all programs that ask, and before they are needed.

Each account has one token source, as in any other program; its refreshes are signed by the agent's own key, under the
rules of that key. Nothing here waits for a refresh with a lock held, so that signatures go on meanwhile.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from dpop.agent._held import HeldKey
from dpop.agent._logins import AgentLogins, KeptLogins, Login, Refreshed
from dpop.agent._protocol import Refusal
from dpop.client._prover import Prover
from dpop.encoding import sendable_token_hash
from dpop.errors import (
    AgentLockedError,
    AgentRefusedError,
    DPoPError,
    DPoPKeyError,
    KeyThrottledError,
    TokenError,
    TokensNotSavedError,
    UsageError,
)
from dpop.tokens._refresher import AccountStatus, Refresher
from dpop.tokens._source import RefreshingSource
from dpop.tokens._stores import locked
from dpop.tokens._token_set import TokenSet

__all__ = ["Account", "Accounts"]

_log: Final = logging.getLogger("dpop.agent")
_LOOK_SECONDS: Final = 900.0

# How the errors of a signature reach a token source, and through it whoever asked for a token.
_AS_ERROR: Final[Mapping[str, type[DPoPKeyError]]] = {
    "locked": AgentLockedError,
    "throttled": KeyThrottledError,
}


class Account(NamedTuple):
    """An account whose key the agent has."""

    name: str
    login: Login
    key: HeldKey

    def __repr__(self) -> str:
        return f"<Account {self.name}>"


class Accounts:
    """The accounts, and the source of each.

    :param key_of: the key of a thumbprint, if the agent has it.
    :param sign: signs the proof of a refresh for an account.
    :param clock: seconds since the epoch.
    :raises TokenStoreError: the logins cannot be read.
    """

    def __init__(
        self,
        logins: AgentLogins | None,
        *,
        key_of: Callable[[str], HeldKey | None],
        sign: Callable[[str, HeldKey, str], bytes],
        clock: Callable[[], float],
    ) -> None:
        self._kept = None if logins is None else KeptLogins(logins)
        self._logins: Mapping[str, Login] = {} if self._kept is None else self._kept.read()
        self._key_of = key_of
        self._sign = sign
        self._clock = clock
        self._refreshed: dict[str, Refreshed] = {}
        self._states: dict[str, AccountStatus] = {}
        self._problems: dict[str, str] = {}  # why a program got no token the last time
        self._guard = threading.Lock()  # of the dicts; never held while a request is under way
        self._changing = threading.Lock()  # one login at a time
        self._changed = threading.Event()
        self._stopping = False
        self._anew = False  # look after all accounts at once

    # --- the accounts

    @property
    def folder(self) -> str | None:
        """Where the logins are kept; None if they are not."""
        return None if self._kept is None else str(self._kept.folder)

    def find(self, name: str) -> Account | None:
        """The account of this name, if the agent has its key."""
        login = self._logins.get(name)
        key = None if login is None else self._key_of(str(login.get("jkt")))
        return None if login is None or key is None else Account(name, login, key)

    def all(self) -> list[Account]:
        """All accounts whose key the agent has."""
        found = map(self.find, sorted(self._logins))
        return [account for account in found if account is not None]

    def log_in(self, name: str, login: Login, tokens: TokenSet, key: HeldKey) -> None:
        """Keep a login, in place of an earlier one of this account.

        :raises UsageError: this agent keeps no logins, or what identifies the client cannot be used.
        :raises TokenStoreError: it could not be kept.
        """
        if self._kept is None:
            raise UsageError("this agent keeps no logins; start it with --logins FOLDER")
        made = self._made(Account(name, login, key), tokens)  # finds out now what is wrong with it
        with self._changing:
            logins = self._kept.keep(name, login, tokens)
            with self._guard:
                self._logins = logins
                self._refreshed[name] = made
                self._states.pop(name, None)
                self._problems.pop(name, None)
        self._changed.set()

    def log_out(self, name: str, *, revoke: bool) -> bool:
        """Forget a login; return whether its tokens were revoked.

        :param revoke: revoke them first (RFC 7009), if the server has an endpoint for that.
        :raises UsageError: there is none.
        :raises TokenError: the server did not revoke them, or they could not be removed; all is as it was.
        """
        account = self.find(name)
        if self._kept is None or name not in self._logins:
            raise UsageError(f"the agent has no login of the account {name}")
        store, revoked = self._kept.store, False
        # A refresh that is under way brings another refresh token, and that one must be revoked.
        with locked(store.lock(name), name):
            tokens = store.load(name)
            if revoke and tokens is not None and account is not None and "revocation_endpoint" in account.login:
                self._of(account).endpoint.revoke(tokens)
                revoked = True
        with self._changing:
            logins = self._kept.forget(name)
            with self._guard:
                self._logins = logins
                self._refreshed.pop(name, None)
                self._states.pop(name, None)
                self._problems.pop(name, None)
        self._changed.set()
        return revoked

    # --- their tokens

    def tokens(self, account: Account, refused: str | None, by: int) -> TokenSet:
        """Fresh tokens of an account, from the store or by a refresh, which takes as long as its server does.

        :param refused: the hash of an access token that a server refused; if it is the current one, it is renewed.
        :param by: the user who says so; each can have five tokens renewed a minute.
        :raises TokenError: there are none.
        :raises DPoPKeyError: the key did not sign.
        """
        source = self._of(account).source
        try:
            tokens = source.tokens()
            if refused is not None and sendable_token_hash(tokens.access_token) == refused:
                source._refused_by(tokens.access_token, by)  # noqa: SLF001 - as the adapters do
                tokens = source.tokens()
        except TokenError as error:
            first = account.name not in self._problems
            self._problems[account.name] = str(error)
            if first and isinstance(error, TokensNotSavedError):
                self._look_anew()  # this process has the only copy: save it soon, also if no program asks again
            raise
        if self._problems.pop(account.name, None) is not None:
            self._look_anew()  # so that the status is right at once
        return tokens

    def facts(self, account: Account) -> dict[str, Any]:
        """What those who may have its tokens may know of an account."""
        facts: dict[str, Any] = {
            "account": account.name,
            "key": account.key.rules.name,
            "jkt": account.key.jkt,
            "locked": not account.key.is_open,
        }
        assert self._kept is not None  # noqa: S101 - there are no accounts otherwise
        try:
            tokens = self._kept.store.load(account.name)
        except DPoPError:
            return {**facts, "state": "unreadable"}
        state = self._states.get(account.name)
        if tokens is None or tokens.refusal:
            return {**facts, "state": "dead"}
        told = {"token_type": tokens.token_type, "expires_at": tokens.expires_at, "scope": tokens.scope}
        if account.name in self._problems and (state is None or state.state == "fresh"):
            told["state"] = "failing"
        return {
            **facts,
            "state": "fresh" if state is None else state.state,
            **{name: value for name, value in told.items() if value is not None},
        }

    def problem(self, account: Account) -> str | None:
        """Why the tokens of an account could not be read or renewed the last time, for the agent's own user."""
        assert self._kept is not None  # noqa: S101 - the same
        try:
            self._kept.store.load(account.name)
        except DPoPError as error:
            return str(error)
        state = self._states.get(account.name)
        return self._problems.get(account.name) or (None if state is None else state.error)

    def _of(self, account: Account) -> Refreshed:
        with self._guard:
            refreshed = self._refreshed.get(account.name)
        if refreshed is not None:
            return refreshed
        assert self._kept is not None  # noqa: S101 - the same
        made = self._made(account, self._kept.store.load(account.name))
        with self._guard:
            return self._refreshed.setdefault(account.name, made)

    def _made(self, account: Account, tokens: TokenSet | None) -> Refreshed:
        assert self._kept is not None  # noqa: S101 - the same
        key = _RefreshKey(account, account.key, self._key_of, self._sign)
        client_key = None
        if "client_jkt" in account.login:
            held = self._key_of(str(account.login["client_jkt"]))
            if held is None:
                raise AgentLockedError("the agent does not have the key of this account's client any more")
            client_key = _RefreshKey(account, held, self._key_of, self._sign)
        prover = Prover(key, clock=lambda: self._clock() + key.clock_offset)
        return self._kept.refreshed(
            account.name,
            account.login,
            prover,
            bound=tokens is None or tokens.is_bound,
            client_key=client_key,
            clock=self._clock,
            key_reference=f"agent:{account.key.rules.name}",
        )

    # --- kept fresh

    def keep_fresh(self) -> None:
        """Renew tokens before they are needed, until :meth:`stop`; to be called in a thread."""
        refresher: Refresher | None = None
        of: list[int] = []
        while not self._stopping:
            self._changed.clear()
            sources = list(self._to_keep_fresh())
            if self._anew or [id(source) for source in sources] != of:
                self._anew = False
                of = [id(source) for source in sources]
                refresher = Refresher(sources, clock=self._clock, tell=self._note) if sources else None
            wait = _LOOK_SECONDS if refresher is None else refresher.step()
            self._changed.wait(min(wait, _LOOK_SECONDS))

    def _look_anew(self) -> None:
        self._anew = True
        self._changed.set()

    def look_again(self) -> None:
        """Look after the accounts at once, because keys were opened or forgotten."""
        self._changed.set()

    def stop(self) -> None:
        """End :meth:`keep_fresh`. A refresh that is under way is finished by its own thread."""
        self._stopping = True
        self._changed.set()

    def _to_keep_fresh(self) -> Iterable[RefreshingSource]:
        for account in self.all():
            # A person is asked only when a program needs a token.
            if account.key.is_open and not account.key.rules.confirm:
                try:
                    yield self._of(account).source
                except DPoPError as error:
                    if account.name not in self._states:  # once
                        _log.warning("the tokens of %r cannot be kept fresh: %s", account.name, error)
                    self._note(AccountStatus(account.name, "failing", None, self._clock(), str(error)))

    def _note(self, status: AccountStatus) -> None:
        self._states[status.account] = status
        if status.error is None:
            self._problems.pop(status.account, None)

    def __repr__(self) -> str:
        return f"<Accounts {', '.join(sorted(self._logins))}>"


class _RefreshKey:
    """A key of an account, as its token endpoint uses it: it signs under the rules that the key has at that time.

    :param key: the key of the proofs, or the key of the client's assertions.
    """

    blocking = True

    def __init__(
        self,
        account: Account,
        key: HeldKey,
        key_of: Callable[[str], HeldKey | None],
        sign: Callable[[str, HeldKey, str], bytes],
    ) -> None:
        self._account = account.name
        self._key_of = key_of
        self._sign = sign
        self._server = str(account.login["token_endpoint"])
        self.alg = key.alg
        self.public_jwk = dict(key.jwk)
        self.thumbprint = key.jkt

    @property
    def clock_offset(self) -> float:
        """Seconds that the rules add to the clock for the account's server."""
        key = self._key_of(self.thumbprint)
        return 0.0 if key is None else key.offset_of(self._server)

    def sign(self, signing_input: bytes, /) -> bytes:
        """Sign the proof of a refresh, or the assertion that goes with it.

        :raises DPoPKeyError: the key is forgotten, or a rule does not allow it.
        """
        key = self._key_of(self.thumbprint)
        if key is None:
            raise AgentLockedError("the agent does not have this account's key any more")
        try:
            return self._sign(self._account, key, signing_input.decode("ascii"))
        except Refusal as refusal:
            if refusal.error == "refused":
                raise AgentRefusedError(refusal.message, refusal.reason) from None
            raise _AS_ERROR.get(refusal.error, DPoPKeyError)(refusal.message) from None

    def __repr__(self) -> str:
        return f"<the key of the account {self._account}>"
