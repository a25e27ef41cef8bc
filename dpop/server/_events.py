# SPDX-License-Identifier: Apache-2.0
"""Events for operators: what became of requests and look-ups, without secrets, for metrics and traces."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from dpop._event_hooks import call_hook, checked_hook
from dpop._forking import reset_after_fork

__all__ = ["BearerReport", "Event", "EventHook", "client_of", "emit"]

_log = logging.getLogger("dpop.server")
_MAX_NAME = 64
_MAX_CLIENTS = 1000


class Event(NamedTuple):
    """Something that happened at an API.

    :param kind: ``accepted``: a request was let in. ``challenged``: it had no credentials, or needs a nonce.
        ``refused``: it got 400, 401 or 403. ``unavailable``: nothing could be told (503). ``looked_up``: an
        authorization server was asked, for keys or about a token. ``remembered``: a token was known from before.
        ``shared``: the cache of all processes was asked about a token.
    :param reason: of what was not accepted: a value of :class:`dpop.server.Reason`, or the reason that an application
        gave; of an ``unavailable`` or failed ``looked_up`` the ``code`` of the error; of a ``shared`` without result
        ``absent``, ``foreign`` (an entry that this API did not write) or ``unavailable``.
    :param scheme: of an accepted request: ``DPoP`` or ``Bearer``.
    :param client: of an accepted request: the ``client_id`` or ``azp`` of its token, 64 characters at most.
    :param seconds: how long a ``looked_up`` or ``shared`` took.
    """

    kind: Literal["accepted", "challenged", "refused", "unavailable", "looked_up", "remembered", "shared"]
    reason: str | None = None
    scheme: Literal["DPoP", "Bearer"] | None = None
    client: str | None = None
    seconds: float | None = None


EventHook = Callable[[Event], object]
"""A function that gets each event. It must be quick, and is called in any thread; what it raises is logged."""


def emit(hook: EventHook | None, event: Event) -> None:
    """Give an event to a hook. An error in the hook is no reason to refuse a request."""
    call_hook(hook, event, _log)


def client_of(claims: Mapping[str, Any]) -> str | None:
    """The client that a token was issued to, shortened; None if it does not say (RFC 9068 §2.2, RFC 7662 §2.2)."""
    client = claims.get("client_id") or claims.get("azp")
    if not isinstance(client, str):
        return None
    name = client[:_MAX_NAME]
    # A line break, a terminal's escape or half a surrogate pair would break the log or the metrics of the operator.
    return name if name.isprintable() else "".join(each if each.isprintable() else "?" for each in name)


class BearerReport:
    """An event hook that counts who still sends bearer tokens, for an API that moves to DPoP. Thread-safe.

    ::

        report = BearerReport()
        api = ProtectedResource(verifier, url=url, token=tokens, bearer=True, events=report)
        ...
        print(report.bearer)    # {"old-app": 17}

    :param then: another hook that gets each event too.
    """

    def __init__(self, then: EventHook | None = None) -> None:
        self._then = checked_hook(then)
        self._lock = threading.RLock()  # a signal handler of the thread that holds it may ask, too
        self._counts: dict[str, dict[str, int]] = {"Bearer": {}, "DPoP": {}}
        reset_after_fork(self)

    def __call__(self, event: Event) -> None:
        """Count an accepted request."""
        if event.kind == "accepted" and event.scheme is not None:
            counts, name = self._counts[event.scheme], event.client or ""
            with self._lock:
                if name not in counts and len(counts) >= _MAX_CLIENTS:
                    name = ""
                counts[name] = counts.get(name, 0) + 1
        emit(self._then, event)

    @property
    def bearer(self) -> dict[str, int]:
        """Requests with bearer tokens by client; ``""`` for tokens that name none, and beyond a thousand clients."""
        with self._lock:
            return dict(self._counts["Bearer"])

    @property
    def dpop(self) -> dict[str, int]:
        """Requests with proofs, in the same way."""
        with self._lock:
            return dict(self._counts["DPoP"])

    def _reset_after_fork(self) -> None:
        """In a forked child: a lock that another thread held would never be released."""
        self._lock = threading.RLock()
