# SPDX-License-Identifier: Apache-2.0
"""The brain without an HTTP library: a policy, requests, and an exchange that drives them as an adapter does."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from dataclasses import dataclass, field
from typing import Any

import dpop
from dpop.client._flow import Attempt, ProofFlow, Step
from dpop.client._policy import Policy
from dpop.client._prover import Prover
from dpop.client._request import OutgoingRequest

KEY = dpop.generate_key()
ORIGIN = "https://api.example"
NOW = 1_800_000_000
RS_CHALLENGE = ("WWW-Authenticate", 'DPoP error="use_dpop_nonce", algs="ES256"')
AS_CHALLENGE = b'{"error":"use_dpop_nonce"}'
INVALID_PROOF = ("WWW-Authenticate", 'DPoP error="invalid_dpop_proof"')
DATE_90_S_AHEAD = ("Date", "Fri, 15 Jan 2027 08:01:30 GMT")
FORM = "application/x-www-form-urlencoded"


def policy(**options: Any) -> Policy:
    """A policy for one origin, with a clock that stands still."""
    prover = options.pop("prover", None) or Prover(KEY, clock=lambda: NOW)
    return Policy(prover, **{"origins": ORIGIN, **options})


@dataclass
class Exchange:
    """Drives a flow as an adapter does, and keeps what would be on the wire."""

    policy: Policy
    request: OutgoingRequest
    proofs: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        flow = ProofFlow.open(self.policy, self.request)
        assert flow is not None
        self.flow: ProofFlow = flow

    def send(self, token: str | None = "asked") -> dict[str, Any]:
        """One attempt; returns the claims of its proof."""
        own = self.flow.access_token
        if token == "asked":
            token = own if own is None or isinstance(own, str) else own()  # type: ignore[assignment]
        assert not isinstance(token, bytes)
        self.flow.ready(give_up=True)
        attempt: Attempt = self.flow.attempt("https", "api.example", "/things?x=1", token)
        headers = dict(attempt.headers(KEY.sign(attempt.signing_input)))
        self.headers.append(headers)
        claims = payload(headers["DPoP"])
        self.proofs.append(claims)
        return claims

    def response(self, status: int, *fields: tuple[str, str], body: bytes = b"") -> Step:
        """One answer, and what the flow says to it."""
        step = self.flow.received(status, fields)
        return self.flow.judged(body) if step is Step.PEEK else step


def payload(proof: str) -> dict[str, Any]:
    """The claims of a proof."""
    part = proof.split(".")[1]
    claims: dict[str, Any] = json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return claims


def resource(method: str = "GET", **options: Any) -> Exchange:
    """A request to a resource server."""
    rules = {key: options.pop(key) for key in list(options) if key not in OutgoingRequest.__slots__}
    rules.setdefault("access_token", "token")
    return Exchange(policy(**rules), OutgoingRequest(method, f"{ORIGIN}/things?x=1", **options))


def token_request(form: str = "grant_type=refresh_token", **options: Any) -> Exchange:
    """A request to a token endpoint."""
    rules = {key: options.pop(key) for key in list(options) if key not in OutgoingRequest.__slots__}
    options = {"content": form.encode(), "content_type": FORM, **options}
    return Exchange(policy(**rules), OutgoingRequest("POST", f"{ORIGIN}/things", **options))


def replace_flow(exchange: Exchange, **changes: Any) -> Exchange:
    """The next request with the same policy."""
    facts = {name: getattr(exchange.request, name) for name in OutgoingRequest.__slots__}
    return Exchange(exchange.policy, OutgoingRequest(**{**facts, **changes}))
