# SPDX-License-Identifier: Apache-2.0
"""The smallest DPoP client: :class:`dpop.client.ProofFlow` on ``http.client``, for the demo.

It is also an example of how to add DPoP to an HTTP library. The flow makes all decisions: which nonce to use, and
whether to send a request again. This module only transports bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection
from types import MappingProxyType
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

__all__ = ["Exchange", "Transport", "exchanged", "on_the_wire", "send", "send_signed"]

_FORM = "application/x-www-form-urlencoded"
_MAX_BODY = 1 << 20


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request as it was on the wire, and its response."""

    method: str
    url: str
    sent: Mapping[str, str] = field(repr=False)
    status: int
    received: list[tuple[str, str]] = field(repr=False)
    body: bytes = field(repr=False)
    content: bytes | None = field(default=None, repr=False)

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


Transport = Callable[[str, str, Mapping[str, str], bytes | None], Exchange]
"""Sends one request exactly as given: method, URL, header fields, body."""


def send(policy: Policy, method: str, url: str, form: Mapping[str, str] | None = None) -> list[Exchange]:
    """Send a request with its proof, and once more with a nonce if the server asks for one.

    :param policy: it decides on the key, the servers and the token.
    :returns: all requests and responses in order; the last response is the final one.
    """
    content = None if form is None else urlencode(form).encode("ascii")
    content_type = None if form is None else _FORM
    request = OutgoingRequest(method=method, url=url, content=content, content_type=content_type)
    return send_signed(policy, request, on_the_wire)


def send_signed(
    policy: Policy, request: OutgoingRequest, transport: Transport, own: Mapping[str, str] = MappingProxyType({})
) -> list[Exchange]:
    """Send a request with its proof through a transport, and once more with a nonce if the server asks for one.

    :param own: its other header fields.
    """
    method, url, content = request.method, request.url, request.content
    flow = ProofFlow.open(policy, request)
    if flow is None:
        raise UsageError(f"{Origin.of_url(url)} is not among the policy's origins")
    origin = request.origin
    exchanges = []
    try:
        while True:
            token = ask_token(flow)
            wait_for_nonce(flow)
            headers = {**own, **dict(sign_now(flow, origin.scheme, origin.authority, _target(url), token))}
            exchange = transport(method, url, headers, content)
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
    return exchanged(HTTPConnection(origin.host, origin.port, timeout=10), method, url, headers, content)


def exchanged(
    connection: HTTPConnection, method: str, url: str, headers: Mapping[str, str], content: bytes | None
) -> Exchange:
    """Send one request on a new connection, read at most a mebibyte of its response, and close the connection."""
    sent = {"Content-Type": _FORM, **headers} if content is not None else dict(headers)
    try:
        connection.request(method, _target(url), body=content, headers=sent)
        response = connection.getresponse()
        body = response.read(_MAX_BODY)
        return Exchange(method, url, sent, response.status, response.getheaders(), body, content)
    finally:
        connection.close()


def _target(url: str) -> str:
    """Return the request-target: path and query of the URL."""
    return "/" + url.partition("://")[2].partition("/")[2]
