# SPDX-License-Identifier: Apache-2.0
"""The protocol for authors of integrations: what a request must carry, and what its response means. No I/O.

Users of an HTTP library do not need this package; they use :mod:`dpop.requests`, :mod:`dpop.httpx2` or
:mod:`dpop.httpx`. This example integrates another library, ``http.client``::

    from urllib.parse import urlsplit

    from dpop.client import (
        PEEK_BYTES, OutgoingRequest, ProofFlow, Step, ask_token, refresh, report, sign_now, wait_for_nonce
    )

    def exchange(connection, method, target, headers=()):
        connection.request(method, target, headers=dict(headers))
        return connection.getresponse()

    def send(policy, connection, method, url):
        parts = urlsplit(url)
        path = parts.path or "/"
        target = f"{path}?{parts.query}" if parts.query else path
        flow = ProofFlow.open(policy, OutgoingRequest(method, url))
        if flow is None:  # a server that is not among origins=
            return exchange(connection, method, target)
        try:
            while True:
                token = ask_token(flow)
                wait_for_nonce(flow)
                headers = sign_now(flow, parts.scheme, parts.netloc, target, token)
                response = exchange(connection, method, target, headers)
                step = flow.received(response.status, response.getheaders())
                if step is Step.PEEK:
                    step = flow.judged(response.peek(PEEK_BYTES))
                if step is Step.REPORT:
                    report(flow, response.close)
                if step in {Step.DONE, Step.REPORT}:
                    return response
                response.read()
                if step is Step.REFRESH:
                    refresh(flow)
        finally:
            flow.failed()  # an interrupted request must not block others

Data flows one way: the integration describes a request (:class:`OutgoingRequest`), the policy decides whose proof
it carries (:class:`Policy`, :class:`Decision`), the flow makes the proof and reads the response
(:class:`ProofFlow`, :class:`Attempt`, :class:`Step`), with a nonce from the cache (:class:`NonceCache`). Functions
whose names begin with ``async_`` do the same for a task, with an :class:`AsyncTools` of the asynchronous library.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dpop._faces import lazy

if TYPE_CHECKING:
    from dpop.client._challenge import NonceField, dpop_challenge, error_of_json, nonce_field
    from dpop.client._clock import NOTABLE_SECONDS, ServerClocks, skew
    from dpop.client._decoding import decoded_start
    from dpop.client._demands import Demand, demand_of
    from dpop.client._driver import (
        DRAIN_BYTES,
        DRAIN_SECONDS,
        AsyncTools,
        ask_token,
        async_ask_token,
        async_refresh,
        async_report,
        async_sign,
        async_wait_for_nonce,
        refresh,
        report,
        sign_now,
        wait_for_nonce,
    )
    from dpop.client._events import ClientEvent
    from dpop.client._flow import PEEK_BYTES, Attempt, ProofFlow, Step
    from dpop.client._nonces import Lease, NonceCache, NonceKey, Role, Turn
    from dpop.client._policy import Decision, Policy, headers_to_withhold
    from dpop.client._prover import Prover
    from dpop.client._request import AccessToken, BearerToken, OutgoingRequest, RequestCredentials, TokenSource

_PLACES = {
    "dpop.client._challenge": ("NonceField", "dpop_challenge", "error_of_json", "nonce_field"),
    "dpop.client._clock": ("NOTABLE_SECONDS", "ServerClocks", "skew"),
    "dpop.client._decoding": ("decoded_start",),
    "dpop.client._demands": ("Demand", "demand_of"),
    "dpop.client._driver": (
        "DRAIN_BYTES",
        "DRAIN_SECONDS",
        "AsyncTools",
        "ask_token",
        "async_ask_token",
        "async_refresh",
        "async_report",
        "async_sign",
        "async_wait_for_nonce",
        "refresh",
        "report",
        "sign_now",
        "wait_for_nonce",
    ),
    "dpop.client._events": ("ClientEvent",),
    "dpop.client._flow": ("PEEK_BYTES", "Attempt", "ProofFlow", "Step"),
    "dpop.client._nonces": ("Lease", "NonceCache", "NonceKey", "Role", "Turn"),
    "dpop.client._policy": ("Decision", "Policy", "headers_to_withhold"),
    "dpop.client._prover": ("Prover",),
    "dpop.client._request": ("AccessToken", "BearerToken", "OutgoingRequest", "RequestCredentials", "TokenSource"),
}
__all__ = [
    "DRAIN_BYTES",
    "DRAIN_SECONDS",
    "NOTABLE_SECONDS",
    "PEEK_BYTES",
    "AccessToken",
    "AsyncTools",
    "Attempt",
    "BearerToken",
    "ClientEvent",
    "Decision",
    "Demand",
    "Lease",
    "NonceCache",
    "NonceField",
    "NonceKey",
    "OutgoingRequest",
    "Policy",
    "ProofFlow",
    "Prover",
    "RequestCredentials",
    "Role",
    "ServerClocks",
    "Step",
    "TokenSource",
    "Turn",
    "ask_token",
    "async_ask_token",
    "async_refresh",
    "async_report",
    "async_sign",
    "async_wait_for_nonce",
    "decoded_start",
    "demand_of",
    "dpop_challenge",
    "error_of_json",
    "headers_to_withhold",
    "nonce_field",
    "refresh",
    "report",
    "sign_now",
    "skew",
    "wait_for_nonce",
]

__getattr__: Callable[[str], Any]
__dir__: Callable[[], list[str]]
__getattr__, __dir__ = lazy(__name__, _PLACES)
