# SPDX-License-Identifier: Apache-2.0
"""Token endpoints for httpx and httpx2; the two libraries have the same API under two names."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic

import anyio

from dpop._connections import OnePerLoop, OnePerProcess, close_socket
from dpop._httpx.deadline import ResponseDeadline
from dpop._httpx.protocols import (
    AsyncClient,
    AsyncTransport,
    Client,
    Info,
    Library,
    RequestT,
    ResponseT,
    Transport,
)
from dpop._httpx.transport import HEADERS_START, AsyncSigningTransport, SigningTransport, anyio_tools, carries_proof
from dpop.client._driver import AsyncTools
from dpop.errors import DPoPError
from dpop.tokens._async_endpoint import AsyncEndpoint
from dpop.tokens._endpoint import SyncEndpoint
from dpop.tokens._failures import address_of, reason_of
from dpop.tokens._lent_headers import is_lent
from dpop.tokens._responses import whole_body
from dpop.tokens._steps import MAX_RESPONSE, HTTPRequest, HTTPResponse, NoResponse, from_server, mark_unsent

if TYPE_CHECKING:
    from dpop.client._prover import Prover
    from dpop.keys import Key
    from dpop.tokens._metadata import ServerMetadata

__all__ = ["AsyncClientTransport", "AsyncHttpxTokenEndpoint", "ClientTransport", "HttpxTokenEndpoint"]

_HAND: Final = "dpop_hand"
"""The extension of a request with the function to call just before a transport of the user gets the request."""


def _hand(request: RequestT, inner: object) -> None:
    # The library's own transports have a pool of httpcore, which reports when it writes. Others may report nothing.
    if _HAND in request.extensions and not hasattr(getattr(inner, "_pool", None), "connections"):
        request.extensions[_HAND]()


class ClientTransport(Generic[RequestT, ResponseT]):
    """A transport that sends with a client's own transport for each URL; a mixin for ``BaseTransport``."""

    def __init__(self, clients: OnePerProcess[Client[RequestT, ResponseT]]) -> None:
        self._clients = clients

    def handle_request(self, request: RequestT) -> ResponseT:
        """Send the request with the client's transport for its URL; if that is a DPoP transport, bypass it."""
        transport = self._clients.get()._transport_for_url(request.url)  # noqa: SLF001 - respects proxies and mounts
        inner = transport._inner.get() if isinstance(transport, SigningTransport) else transport  # noqa: SLF001
        deadline = request.extensions.get(ResponseDeadline.EXTENSION)
        if deadline is not None:
            deadline.pool = getattr(inner, "_pool", None)
        _hand(request, inner)
        return inner.handle_request(request)


class AsyncClientTransport(Generic[RequestT, ResponseT]):
    """A transport that sends with an asynchronous client's own transport for each URL."""

    def __init__(self, clients: OnePerLoop[AsyncClient[RequestT, ResponseT]]) -> None:
        self._clients = clients

    async def handle_async_request(self, request: RequestT) -> ResponseT:
        """Send the request with the client's transport for its URL; if that is a DPoP transport, bypass it."""
        client = await self._clients.get()
        transport = client._transport_for_url(request.url)  # noqa: SLF001 - respects proxies and mounts
        inner = transport._inner.get() if isinstance(transport, AsyncSigningTransport) else transport  # noqa: SLF001
        _hand(request, inner)
        return await inner.handle_async_request(request)


def _close_sockets(client: AsyncClient[RequestT, ResponseT]) -> None:
    """Close the sockets of a client whose event loop is closed, so that its ``aclose()`` cannot be awaited."""
    transports = [client._transport, *client._mounts.values()]  # noqa: SLF001 - every public method needs the loop
    for pool in (getattr(transport, "_pool", None) for transport in transports):
        for connection in getattr(pool, "connections", ()):
            close_socket(getattr(getattr(connection, "_connection", None), "_network_stream", None))


class _Wire:
    """Records an exchange with the ``trace`` extension: where it connected, and whether it wrote a request head.

    :param seconds: for a whole response, from the moment when the head of its request is written.
    """

    def __init__(self, seconds: float) -> None:
        self.handed = 0
        """How often a transport of the user got the request: once, and once more for each retry."""
        self._traced = False
        self.sent = False
        self.peer: str | None = None
        self.seconds = seconds
        self.deadline = ResponseDeadline(seconds)
        """Of a synchronous request."""
        self.scope: anyio.CancelScope | None = None
        """Of an asynchronous request: cancelled if a response does not come whole in time."""

    def hand(self) -> None:
        """Count that a transport of the user gets the request now."""
        self.handed += 1

    @property
    def is_guessed(self) -> bool:
        """Whether only a transport of the user knows what was written, and this transport does not report it."""
        return self.handed > 0 and not self._traced

    @property
    def maybe_sent(self) -> bool:
        """Whether a request head was written, or may have been."""
        return self.sent or self.is_guessed

    def on_event(self, event: str, info: Info) -> None:
        """Handle an event of httpcore."""
        self._traced = True
        if event == "connection.connect_tcp.started":
            host = info["host"]
            self.peer = f"{f'[{host}]' if ':' in host else host}:{info['port']}"
        elif event.endswith(HEADERS_START) and carries_proof(info):
            self.sent = True

    def on_sync_event(self, event: str, info: Info) -> None:
        """Handle an event of synchronous httpcore."""
        self.on_event(event, info)
        if event.endswith(HEADERS_START):
            self.deadline.restart()

    async def on_async_event(self, event: str, info: Info) -> None:
        """Handle an event of asynchronous httpcore."""
        self.on_event(event, info)
        if self.scope is not None and event.endswith(HEADERS_START):
            self.scope.deadline = anyio.current_time() + self.seconds
        elif self.scope is not None and event.endswith(".response_closed.complete"):
            self.scope.deadline = math.inf  # a key may need longer to sign the next request

    def proxy(self, server: str) -> str | None:
        """Return host and port of the proxy, if the connection went to one."""
        return None if self.peer == server else self.peer


def _prepared(
    client: Client[RequestT, ResponseT] | AsyncClient[RequestT, ResponseT],
    request: HTTPRequest,
    timeout: float,
    extensions: dict[str, Any],
) -> RequestT:
    built = client.build_request(
        request.method,
        request.url,
        headers=list(request.headers),
        content=request.body,
        timeout=timeout,
        extensions=extensions,
    )
    own = {name.lower().encode("ascii") for name, _ in request.headers}
    fields = [(name, value) for name, value in built.headers.raw if name.lower() in own or is_lent(name, value)]
    # With the URL as it is, without the client's own parameters; and with the length and the host of this request.
    return type(built)(request.method, request.url, headers=fields, content=request.body, extensions=built.extensions)


def _response(
    client: Client[RequestT, ResponseT] | AsyncClient[RequestT, ResponseT],
    prepared: RequestT,
    response: ResponseT,
    body: bytes,
) -> HTTPResponse:
    response.request = prepared
    client.cookies.extract_cookies(response)
    fields = tuple((name.lower(), value) for name, value in response.headers.multi_items())
    return HTTPResponse(response.status_code, fields, body)


def _no_response(
    library: Library[RequestT, ResponseT], error: Exception, request: HTTPRequest, wire: _Wire
) -> NoResponse | None:
    """Describe a failure for the steps; ``None`` if the exception is to be raised unchanged."""
    sent = wire.maybe_sent
    if wire.is_guessed:
        never_sent = (library.ConnectError, library.ConnectTimeout, library.PoolTimeout, library.ProxyError)
        sent = wire.handed > 1 or not isinstance(error, (*never_sent, library.UnsupportedProtocol))
    elif sent and not isinstance(error, (library.TransportError, library.DecodingError, OSError)):
        return None
    server = address_of(request.url)
    return NoResponse(reason_of(error, server, wire.proxy(server), socks="socksio"), sent=sent)


class HttpxTokenEndpoint(SyncEndpoint, Generic[RequestT, ResponseT]):
    """The common base of ``TokenEndpoint`` for httpx and httpx2."""

    _library: Library[RequestT, ResponseT]
    _signing_transport: Callable[..., Transport[RequestT, ResponseT]]
    _client_transport: Callable[[OnePerProcess[Client[RequestT, ResponseT]]], Transport[RequestT, ResponseT]]

    def _start(
        self,
        prover: Key | Prover,
        server: str | ServerMetadata,
        http: Client[RequestT, ResponseT] | Callable[[], Client[RequestT, ResponseT]] | None,
        **options: Any,  # passed on to _set_up, which declares their types
    ) -> None:
        signing = self._set_up(prover, server, **options)
        client = self._library.Client
        self._closes = not isinstance(http, client)
        self._clients: OnePerProcess[Client[RequestT, ResponseT]] = OnePerProcess(
            client if http is None else http, client, "http", now=False
        )
        self._plain = self._client_transport(self._clients)
        self._signing = self._signing_transport(self.prover, transport=lambda: self._plain, **signing)

    def exchange(self, request: HTTPRequest) -> HTTPResponse:
        """Send one request and read its response, following no redirect.

        :raises NoResponse: no response came.
        """
        wire = _Wire(2 * self.timeout)
        extensions = {"trace": wire.on_sync_event, ResponseDeadline.EXTENSION: wire.deadline, _HAND: wire.hand}
        try:
            client = self._clients.get()
            prepared = _prepared(client, request, self.timeout, extensions)
            response = (self._signing if request.signed else self._plain).handle_request(prepared)
            try:
                outcome = _response(client, prepared, response, self._body(response, wire.deadline))
            finally:
                response.close()
            return from_server(outcome, wire.proxy(address_of(request.url)))
        except (DPoPError, NoResponse):
            raise
        except Exception as error:
            late = wire.sent and wire.deadline.is_over  # then the socket was shut down, which has many names
            cause = self._library.ReadTimeout("the response did not end in time") if late else error
            failure = _no_response(self._library, cause, request, wire)
            if failure is None:
                raise
            raise failure from error
        except BaseException as interrupt:
            if not wire.maybe_sent:
                mark_unsent(interrupt)
            raise
        finally:
            wire.deadline.stop()

    def _body(self, response: ResponseT, deadline: ResponseDeadline) -> bytes:
        if response.is_stream_consumed:  # a transport of the user has read it into memory
            return bytes(response.content)
        if deadline.at is None:  # a transport of the user that does not trace
            deadline.restart()
        body = b""
        failure: Exception | None = None
        try:
            for chunk in response.iter_raw():
                body += chunk
                if len(body) > MAX_RESPONSE:
                    break
                if deadline.is_over:
                    raise self._library.ReadTimeout("the response did not end in time")
            else:
                if deadline.is_over:  # a body without a length seems to end where the socket was shut down
                    raise self._library.ReadTimeout("the response did not end in time")
        except Exception as error:  # noqa: BLE001 - raised again if the body is incomplete
            failure = error
        return whole_body(response.headers.get("content-encoding"), body, failure)

    def close(self) -> None:
        """Close the connections that this endpoint opened; a client that the user gave stays open."""
        own = self._clients.own() if self._closes else None
        if own is not None:
            own.close()


class AsyncHttpxTokenEndpoint(AsyncEndpoint, Generic[RequestT, ResponseT]):
    """The common base of ``AsyncTokenEndpoint`` for httpx and httpx2."""

    tools: ClassVar[AsyncTools] = anyio_tools

    _library: Library[RequestT, ResponseT]
    _signing_transport: Callable[..., AsyncTransport[RequestT, ResponseT]]
    _client_transport: Callable[[OnePerLoop[AsyncClient[RequestT, ResponseT]]], AsyncTransport[RequestT, ResponseT]]

    def _start(
        self,
        prover: Key | Prover,
        server: str | ServerMetadata,
        http: AsyncClient[RequestT, ResponseT] | Callable[[], AsyncClient[RequestT, ResponseT]] | None,
        **options: Any,  # passed on to _set_up, which declares their types
    ) -> None:
        signing = self._set_up(prover, server, **options)
        self._clients: OnePerLoop[AsyncClient[RequestT, ResponseT]] = OnePerLoop(
            http, self._library.AsyncClient, close=lambda client: client.aclose(), close_sockets=_close_sockets
        )
        self.has_given_client: bool = self._clients.has_given
        self._plain = self._client_transport(self._clients)
        self._signing = self._signing_transport(self.prover, transport=lambda: self._plain, **signing)

    async def exchange(self, request: HTTPRequest) -> HTTPResponse:
        """Send one request and read its response, following no redirect.

        :raises NoResponse: no response came.
        """
        wire = _Wire(2 * self.timeout)
        try:
            client = await self._clients.get()
            prepared = _prepared(client, request, self.timeout, {"trace": wire.on_async_event, _HAND: wire.hand})
            with anyio.CancelScope() as wire.scope:
                response = await (self._signing if request.signed else self._plain).handle_async_request(prepared)
            if wire.scope.cancelled_caught:
                raise self._library.ReadTimeout("the response did not end in time")
            try:
                outcome = _response(client, prepared, response, await self._body(response, wire))
            finally:
                await response.aclose()
            return from_server(outcome, wire.proxy(address_of(request.url)))
        except (DPoPError, NoResponse):
            raise
        except Exception as error:
            failure = _no_response(self._library, error, request, wire)
            if failure is None:
                raise
            raise failure from error
        except BaseException as interrupt:
            if not wire.maybe_sent:
                mark_unsent(interrupt)
            raise

    async def _body(self, response: ResponseT, wire: _Wire) -> bytes:
        if response.is_stream_consumed:  # a transport of the user has read it into memory
            return bytes(response.content)
        body = b""
        failure: Exception | None = None
        known = math.inf if wire.scope is None else wire.scope.deadline
        with anyio.CancelScope(deadline=min(known, anyio.current_time() + wire.seconds)) as scope:
            try:
                async for chunk in response.aiter_raw():
                    body += chunk
                    if len(body) > MAX_RESPONSE:
                        break
            except Exception as error:  # noqa: BLE001 - raised again if the body is incomplete
                failure = error
        if scope.cancelled_caught:
            failure = self._library.ReadTimeout("the response did not end in time")
        return whole_body(response.headers.get("content-encoding"), body, failure)

    async def aclose(self) -> None:
        """Close the connections that this endpoint opened; a client that the user gave stays open."""
        await self._clients.aclose()
