# SPDX-License-Identifier: Apache-2.0
"""The smallest DPoP client: :class:`dpop.client.ProofFlow` on ``http.client``, for the demo.

It is also an example of how to add DPoP to an HTTP library. The flow makes all decisions: which nonce to use, and
whether to send a request again. This module only transports bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlencode

from dpop.client import (
    PEEK_BYTES,
    OutgoingRequest,
    Policy,
    ProofFlow,
    Step,
    ask_token,
    refresh,
    sign_now,
    wait_for_nonce,
)
from dpop.encoding import json_object
from dpop.errors import EncodingError, UsageError
from dpop.htu import Origin

__all__ = ["Exchange", "on_the_wire", "send"]

_FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request as it was on the wire, and its response."""

    method: str
    url: str
    sent: Mapping[str, str] = field(repr=False)
    status: int
    received: list[tuple[str, str]] = field(repr=False)
    body: bytes = field(repr=False)

    def response_header(self, name: str) -> str | None:
        """Return a header field of the response."""
        return next((value for key, value in self.received if key.lower() == name.lower()), None)

    @property
    def json(self) -> dict[str, Any]:
        """The response's body; empty if it is not a JSON object."""
        try:
            return json_object(self.body)
        except EncodingError:
            return {}


def send(policy: Policy, method: str, url: str, form: Mapping[str, str] | None = None) -> list[Exchange]:
    """Send a request with its proof, and once more with a nonce if the server asks for one.

    :param policy: it decides on the key, the servers and the token.
    :returns: all requests and responses in order; the last response is the final one.
    """
    content = None if form is None else urlencode(form).encode("ascii")
    content_type = None if form is None else _FORM
    flow = ProofFlow.open(policy, OutgoingRequest(method=method, url=url, content=content, content_type=content_type))
    if flow is None:
        raise UsageError(f"{Origin.of_url(url)} is not among the policy's origins")
    origin = Origin.of_url(url)
    exchanges = []
    try:
        while True:
            token = ask_token(flow)
            wait_for_nonce(flow)
            headers = dict(sign_now(flow, origin.scheme, origin.authority, _target(url), token))
            exchange = on_the_wire(method, url, headers, content)
            exchanges.append(exchange)
            step = flow.received(exchange.status, exchange.received)
            if step is Step.PEEK:
                step = flow.judged(exchange.body[:PEEK_BYTES])
            if step in {Step.REFRESH, Step.REPORT}:
                refresh(flow)
            if step in {Step.DONE, Step.REPORT}:
                return exchanges
    finally:
        flow.failed()


def on_the_wire(method: str, url: str, headers: Mapping[str, str], content: bytes | None = None) -> Exchange:
    """Send one request exactly as given, as a thief would."""
    origin = Origin.of_url(url)
    sent = {"Content-Type": _FORM, **headers} if content is not None else dict(headers)
    connection = HTTPConnection(origin.host, origin.port, timeout=10)
    try:
        connection.request(method, _target(url), body=content, headers=sent)
        response = connection.getresponse()
        return Exchange(method, url, sent, response.status, response.getheaders(), response.read())
    finally:
        connection.close()


def _target(url: str) -> str:
    """Return the request-target: path and query of the URL."""
    return "/" + url.partition("://")[2].partition("/")[2]
