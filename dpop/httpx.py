# SPDX-License-Identifier: Apache-2.0
# Generated from dpop/httpx2.py by scripts/generate_twins.py; do not edit.
"""DPoP for httpx: a transport that signs, ``auth=`` for one request, and a token endpoint.

::

    from dpop.httpx import DPoPTransport

    client = httpx.Client(transport=DPoPTransport(key, origins="https://api.example", access_token=token))

A client with ``transport=`` takes its TLS, proxy and HTTP/2 settings from the transport, not from its own
arguments: give ``verify``, ``cert``, ``http2``, ``proxy``, ``limits`` or ``retries`` to the transport.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import httpx

from dpop._httpx.bodies import AsyncReplay, Replay
from dpop._httpx.endpoint import AsyncBorrowed, AsyncHttpxEndpoint, Borrowed, HttpxEndpoint
from dpop._httpx.transport import AsyncTransport, HttpxAuth, SyncTransport
from dpop.client._policy import Policy, PolicyOptions
from dpop.tokens._grants import EndpointOptions
from dpop.tokens._metadata import ServerMetadata

if TYPE_CHECKING:
    from dpop.client._prover import Prover
    from dpop.keys import Key

__all__ = ["AsyncDPoPTransport", "AsyncTokenEndpoint", "DPoPAuth", "DPoPTransport", "TokenEndpoint"]


class TransportOptions(PolicyOptions, total=False):
    """What the transports take: the settings of :class:`dpop.client._policy.Policy` and httpx's own."""

    verify: ssl.SSLContext | str | bool
    cert: str | tuple[str, str] | tuple[str, str, str] | None
    trust_env: bool
    http1: bool
    http2: bool
    limits: httpx.Limits
    proxy: str | httpx.URL | httpx.Proxy | None
    uds: str | None
    local_address: str | None
    retries: int
    socket_options: Iterable[Any] | None


class _Replay(Replay, httpx.SyncByteStream):
    pass


class _AsyncReplay(AsyncReplay, httpx.AsyncByteStream):
    pass


class DPoPTransport(SyncTransport, httpx.BaseTransport):
    """Signs every request to its origins, on every hop and retry; the rest pass through unsigned.

    :param prover: whose proofs; a bare key will do.
    :param origins: the servers that get proofs and tokens, such as ``"https://api.example"``.
    :param transport: a transport to wrap, instead of an ``HTTPTransport`` made from the options.
    :param options: see :class:`TransportOptions`.
    :raises UsageError: origins or options that cannot be used.
    """

    _replay = _Replay
    _request_class = httpx.Request

    def __init__(
        self,
        prover: Key | Prover,
        *,
        origins: str | Iterable[str],
        transport: httpx.BaseTransport | None = None,
        **options: Unpack[TransportOptions],
    ) -> None:
        rest: dict[str, Any] = dict(options)
        policy = Policy.taking(prover, origins, rest)
        self._set_up(policy, transport, rest, httpx.HTTPTransport)


class AsyncDPoPTransport(AsyncTransport, httpx.AsyncBaseTransport):
    """The same for ``httpx.AsyncClient``; a key that blocks signs in a worker thread."""

    _replay = _AsyncReplay
    _request_class = httpx.Request

    def __init__(
        self,
        prover: Key | Prover,
        *,
        origins: str | Iterable[str],
        transport: httpx.AsyncBaseTransport | None = None,
        **options: Unpack[TransportOptions],
    ) -> None:
        rest: dict[str, Any] = dict(options)
        policy = Policy.taking(prover, origins, rest)
        self._set_up(policy, transport, rest, httpx.AsyncHTTPTransport)


class DPoPAuth(HttpxAuth, httpx.Auth):
    """``auth=`` for one request or client: its own prover and token, within the transport's origins."""


class _Borrowed(Borrowed, httpx.BaseTransport):
    pass


class _AsyncBorrowed(AsyncBorrowed, httpx.AsyncBaseTransport):
    pass


class TokenEndpoint(HttpxEndpoint):
    """One client at one authorization server; see :class:`dpop.tokens._endpoint.SyncEndpoint` for what it can do.

    :param prover: whose proofs; a bare key will do.
    :param server: the URL of the token endpoint, or a :class:`dpop.tokens.ServerMetadata`.
    :param http: a client whose transports, headers and cookies are used; its ``auth`` and hooks are not.
    :param options: see :class:`dpop.tokens._grants.EndpointOptions`.
    :raises UsageError: what is given does not fit together.
    """

    _library: ClassVar[Any] = httpx
    _signing_transport: ClassVar[Any] = DPoPTransport
    _borrowed: ClassVar[Any] = _Borrowed

    def __init__(
        self,
        prover: Key | Prover,
        server: str | ServerMetadata,
        *,
        http: httpx.Client | None = None,
        **options: Unpack[EndpointOptions],
    ) -> None:
        self._start(prover, server, http, dict(options))


class AsyncTokenEndpoint(AsyncHttpxEndpoint):
    """The same for tasks; see :class:`dpop.tokens._async_endpoint.AsyncEndpoint`."""

    _library: ClassVar[Any] = httpx
    _signing_transport: ClassVar[Any] = AsyncDPoPTransport
    _borrowed: ClassVar[Any] = _AsyncBorrowed

    def __init__(
        self,
        prover: Key | Prover,
        server: str | ServerMetadata,
        *,
        http: httpx.AsyncClient | None = None,
        **options: Unpack[EndpointOptions],
    ) -> None:
        self._start(prover, server, http, dict(options))
