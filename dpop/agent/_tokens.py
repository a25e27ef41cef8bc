# SPDX-License-Identifier: Apache-2.0
"""Access tokens from the agent: a token source in a program that has neither key nor refresh token."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

from dpop._forking import reset_after_fork
from dpop._tracebacks import hide_frames
from dpop.agent._connection import AgentClient
from dpop.agent._protocol import NAME
from dpop.client._request import BearerToken
from dpop.encoding import sendable_token_hash
from dpop.errors import AgentUnavailableError, ArgumentTypeError, DPoPError, UsageError
from dpop.tokens._source import own_copy
from dpop.tokens._token_set import TokenSet
from dpop.tokens._waiting import waiting_here

if TYPE_CHECKING:
    from dpop.tokens._stores import TokenStore

__all__ = ["AgentTokens"]

_log: Final = logging.getLogger("dpop.agent")
_TOKEN_SECONDS: Final = 150.0
"""How long a token may take: a refresh is sent twice if no response comes, and another one may be under way."""
_LAST_SECONDS: Final = 5.0


class AgentTokens:
    """Fresh access tokens of an account of the signing agent: a token source like any other.

    ::

        key = dpop.load_key("agent:work")
        adapter = DPoPAdapter(key, origins="https://api.example", access_token=AgentTokens("work"))

    The agent refreshes, once for all its programs; this process has no refresh token. Each call asks the agent, so
    that a locked agent gives out nothing, and no program uses a token that another one has had renewed. Call it from
    any thread, or await :meth:`atoken` on any event loop of asyncio or trio. A forked process makes connections of its
    own, and an agent that is restarted is found again.

    :param account: the account: ``dpop login --agent --account NAME``.
    :param client: the agent; by default the one at ``DPOP_AGENT_SOCK`` or the user's.
    :param fallback: used while no agent responds: a token store with an access token of the account, which is only
        read, or a function or token source that returns one.
    :raises UsageError: no name of an account, or this system has no Unix sockets.
    """

    def __init__(
        self,
        account: str,
        *,
        client: AgentClient | None = None,
        fallback: TokenStore | Callable[[], str] | None = None,
    ) -> None:
        if not isinstance(account, str) or not NAME.fullmatch(account):
            raise UsageError("the name of an account is 1 to 64 letters, digits, dots, hyphens and underscores")
        if fallback is not None and not callable(fallback) and not hasattr(fallback, "load"):
            raise ArgumentTypeError("fallback", "a token store, or a function that returns a token", fallback)
        self._account = account
        self._client = AgentClient() if client is None else client
        self._fallback = fallback
        self._refused: str | None = None  # the hash of a token that was refused
        self._away = False
        self._lock = threading.Lock()
        self._asking: tuple[str | None, Future[TokenSet]] | None = None
        reset_after_fork(self)

    @property
    def account(self) -> str:
        """The account of the tokens."""
        return self._account

    @hide_frames
    def __call__(self) -> str:
        """Return a fresh access token: a :class:`dpop.BearerToken` if it is bound to no key.

        :raises AgentUnavailableError: no agent listens, or it does not respond, and there is no fallback.
        :raises AgentLockedError: it is locked.
        :raises ReauthorizationError: it has no such account for this user, or the user has to authorise again.
        :raises TokenError: it has no token; by the kind of its own error.
        """
        return _text_of(self.tokens())

    async def atoken(self) -> str:
        """Return a fresh access token to a task; other tasks run meanwhile. All tasks that wait share one request."""
        wait = waiting_here()
        asked = self._shared()
        while not asked.done():
            await wait(asked)
        try:
            return _text_of(asked.result())
        except DPoPError as error:
            raise own_copy(error) from error

    @hide_frames
    def refused(self, token: str, /) -> None:
        """Record that a resource server refused this token: the next call has the agent renew it.

        If the agent has another one by then, that one is returned. However many programs say so, it is renewed once.
        """
        self._refused = sendable_token_hash(token)

    def renew(self) -> str:
        """Have the agent renew the tokens now, although they have not expired, and return the new access token.

        :raises DPoPError: as for a call.
        """
        self.refused(self())
        return self()

    async def arenew(self) -> str:
        """Form of :meth:`renew` for a task; other tasks run meanwhile."""
        self.refused(await self.atoken())
        return await self.atoken()

    @hide_frames
    def tokens(self) -> TokenSet:
        """Return the token set of the fresh access token, without a refresh token.

        Its ``key_reference`` is the key that it is bound to, such as ``agent:work``.

        :raises DPoPError: as for a call.
        """
        refused = self._refused
        try:
            told = self._client.request(
                "token",
                seconds=_TOKEN_SECONDS,
                account=self._account,
                **({} if refused is None else {"refused": refused}),
            )
        except AgentUnavailableError as error:
            return self._without_agent(error)
        tokens = self._read(told)
        self._away = False
        if self._refused == refused:
            self._refused = None  # the agent knows
        return tokens

    def __reduce__(self) -> NoReturn:
        raise UsageError("a token source cannot be pickled; make one in each process, by the name of the account")

    def __repr__(self) -> str:
        return f"<AgentTokens of {self._account!r}>"

    # --- what the agent told

    def _read(self, told: dict[str, Any]) -> TokenSet:
        bound, key = told.get("jkt"), told.get("key")
        try:
            return TokenSet.from_dict(
                {
                    **{name: told.get(name) for name in ("access_token", "token_type", "expires_at", "scope", "jkt")},
                    "key_reference": f"agent:{key}" if isinstance(key, str) and bound is not None else None,
                }
            )
        except DPoPError:
            raise AgentUnavailableError(
                f"the program that listens at {self._client.path} gave no token that can be used; is it the agent of"
                " dpop-toolkit?"
            ) from None

    # --- while it is away

    def _without_agent(self, error: AgentUnavailableError) -> TokenSet:
        """Return the fallback's token.

        :raises AgentUnavailableError: it has none that can be used; the error says both.
        """
        if self._fallback is None:
            raise error
        try:
            tokens = self._from_fallback()
        except DPoPError as also:
            raise AgentUnavailableError(f"{error}. The fallback has no token either: {also}") from also
        if tokens is None:
            raise AgentUnavailableError(f"{error}. The fallback has no token that can be used either") from error
        if not self._away:
            self._away = True  # once, until it is back
            _log.warning("%s. Until then the tokens of %r are those of its fallback", error, self._account)
        return tokens

    def _from_fallback(self) -> TokenSet | None:
        fallback = self._fallback
        if callable(fallback):
            token = fallback()
            if not isinstance(token, str):
                raise ArgumentTypeError("the token that fallback() returned", "str", token)
            if sendable_token_hash(token) == self._refused and hasattr(fallback, "refused"):
                self._refused = None
                fallback.refused(token)
                token = fallback()
            return TokenSet(access_token=token, token_type="Bearer" if isinstance(token, BearerToken) else "DPoP")
        tokens = cast("TokenStore", fallback).load(self._account)
        if tokens is None or sendable_token_hash(tokens.access_token) == self._refused:
            return None
        if tokens.expires_at is not None and time.time() > tokens.expires_at - _LAST_SECONDS:
            return None
        return tokens.replace(refresh_token=None)

    # --- tasks

    def _shared(self) -> Future[TokenSet]:
        """Return the request that is under way, or begin one in a thread: each task of its own would take a thread."""
        refused = self._refused
        with self._lock:
            if self._asking is not None and self._asking[0] == refused:
                return self._asking[1]
            future: Future[TokenSet] = Future()
            future.set_running_or_notify_cancel()  # so that no waiting task can cancel it
            self._asking = (refused, future)

        def ask() -> None:
            try:
                tokens = self.tokens()
            except BaseException as error:  # noqa: BLE001 - raised in the waiting tasks
                self._asked(future)
                future.set_exception(error)
            else:
                self._asked(future)
                future.set_result(tokens)

        try:
            threading.Thread(target=ask, name="dpop agent tokens", daemon=True).start()
        except RuntimeError:  # the interpreter is shutting down, or has no thread left
            ask()
        return future

    def _asked(self, future: Future[TokenSet]) -> None:
        with self._lock:
            if self._asking is not None and self._asking[1] is future:
                self._asking = None

    def _reset_after_fork(self) -> None:
        self._lock = threading.Lock()
        self._asking = None


def _text_of(tokens: TokenSet) -> str:
    return tokens.access_token if tokens.is_bound else BearerToken(tokens.access_token)
