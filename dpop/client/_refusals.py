# SPDX-License-Identifier: Apache-2.0
"""A memory of the access tokens that servers refused recently, so that sources renew them, but not endlessly."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum
from math import inf
from typing import Any

from dpop.origin import Origin

__all__ = ["RefusedTokens", "Verdict"]

_LIMIT = 5
_SECONDS = 60.0
_MAX_SERVERS = 1000
_MAX_TOKENS = 64


class Verdict(Enum):
    """The action that a refused token calls for."""

    NEW = "tell the source"
    UNDER_WAY = "another request is telling the source"
    RENEWED = "the source was told after it gave this token, so it has another one by now"
    AGAIN = "the source was told before it gave this token: it has no better one"
    TOO_MANY = "the server refuses whatever token it gets"


class _Server:
    """The tokens of one source that one server has refused, each with two times: when it was, and the source knew."""

    __slots__ = ("last_logged", "tokens")

    def __init__(self) -> None:
        # The keys are Python's salted hashes, so that this memory holds no part of a token.
        self.tokens: dict[int, tuple[float, float]] = {}
        self.last_logged = -_SECONDS


class RefusedTokens:
    """Counts the refused tokens of each source and server. A source is told once of each, at most five times a minute.

    :param clock: monotonic seconds.
    """

    __slots__ = ("_clock", "_servers")

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        # No lock, because a forked child could inherit it locked. Two threads that judge the same token at once may
        # both tell the source, which knows its own token.
        self._clock = clock
        self._servers: dict[tuple[int, Origin], _Server] = {}

    def judge(self, source: object, origin: Origin, token: str, asked_at: float) -> Verdict:
        """Decide what to do after this refusal, and count it.

        :param asked_at: when the source was asked for the token, in seconds of the clock.
        """
        tokens, now, name = self._server(source, origin).tokens, self._clock(), hash(token)
        refused_at, told_at = tokens.get(name, (-inf, inf))
        if told_at < inf:
            return Verdict.RENEWED if asked_at < told_at else Verdict.AGAIN
        if now - refused_at < _SECONDS:
            return Verdict.UNDER_WAY
        if sum(now - moment < _SECONDS for moment, _ in list(tokens.values())) >= _LIMIT:
            return Verdict.TOO_MANY
        tokens[name] = now, inf
        _forget_oldest(tokens, _MAX_TOKENS)
        return Verdict.NEW

    def told(self, source: object, origin: Origin, token: str) -> None:
        """Record that the source knows of this refusal: what it gives from now on is its answer to it."""
        tokens, name = self._server(source, origin).tokens, hash(token)
        refused_at, told_at = tokens.get(name, (0.0, 0.0))
        if told_at == inf:
            tokens[name] = refused_at, self._clock()

    def worth_saying(self, source: object, origin: Origin) -> bool:
        """Whether to log that refusals continue: at most once a minute."""
        server, now = self._server(source, origin), self._clock()
        if now - server.last_logged < _SECONDS:
            return False
        server.last_logged = now
        return True

    def _server(self, source: object, origin: Origin) -> _Server:
        server = self._servers.setdefault((id(source), origin), _Server())
        _forget_oldest(self._servers, _MAX_SERVERS)
        return server


def _forget_oldest(memory: dict[Any, Any], limit: int) -> None:
    if len(memory) > limit:
        # A copy, because other threads add to it. To copy a plain dict takes one step even where threads run at once.
        for oldest in list(memory)[:-limit]:
            memory.pop(oldest, None)
