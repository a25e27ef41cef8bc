# SPDX-License-Identifier: Apache-2.0
"""For authors of integrations: what a request must carry, and what a response means. No I/O.

Users of an HTTP library need nothing of this; they plug in :mod:`dpop.requests`, :mod:`dpop.httpx2` or
:mod:`dpop.httpx`. An integration of another library does for each request::

    flow = ProofFlow.open(policy, OutgoingRequest(method, url, ...))      # None: send it unsigned
    wait_for_nonce(flow)
    attempt = flow.attempt(scheme, authority, target, ask_token(flow))    # once per request on the wire
    headers = sign_now(flow, attempt)
    step = flow.received(status, response_headers)                        # a Step says what to do next

Data flows one way: the integration describes a request (:class:`OutgoingRequest`), the policy decides whose proof
it carries (:class:`Policy`, :class:`Decision`), the flow makes the proof and reads the response
(:class:`ProofFlow`, :class:`Attempt`, :class:`Step`), with a nonce from the cache (:class:`NonceCache`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpop._faces import lazy

if TYPE_CHECKING:
    from dpop.client._challenge import NonceField, dpop_challenge, error_of_json, nonce_field
    from dpop.client._clock import NOTABLE_SECONDS, ServerClocks, skew
    from dpop.client._decoding import decoded_start
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
    from dpop.client._flow import PEEK_BYTES, Attempt, ProofFlow, Step
    from dpop.client._nonces import Lease, NonceCache, NonceKey, Role, Turn
    from dpop.client._policy import Decision, Policy, PolicyOptions, headers_to_withhold
    from dpop.client._prover import Prover
    from dpop.client._request import AccessToken, BearerToken, OutgoingRequest, RequestCredentials, TokenSource

_PLACES = {
    "dpop.client._challenge": ("NonceField", "dpop_challenge", "error_of_json", "nonce_field"),
    "dpop.client._clock": ("NOTABLE_SECONDS", "ServerClocks", "skew"),
    "dpop.client._decoding": ("decoded_start",),
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
    "dpop.client._flow": ("PEEK_BYTES", "Attempt", "ProofFlow", "Step"),
    "dpop.client._nonces": ("Lease", "NonceCache", "NonceKey", "Role", "Turn"),
    "dpop.client._policy": ("Decision", "Policy", "PolicyOptions", "headers_to_withhold"),
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
    "Decision",
    "Lease",
    "NonceCache",
    "NonceField",
    "NonceKey",
    "OutgoingRequest",
    "Policy",
    "PolicyOptions",
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

__getattr__, __dir__ = lazy(__name__, _PLACES)
