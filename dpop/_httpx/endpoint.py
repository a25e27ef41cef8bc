# SPDX-License-Identifier: Apache-2.0
"""How the token endpoints for httpx and httpx2 carry a request; the two have the same API under two names."""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

from dpop._httpx.transport import AsyncTransport, SyncTransport, anyio_tools
from dpop.client._decoding import decoded_start
from dpop.tokens._async_endpoint import AsyncEndpoint
from dpop.tokens._endpoint import SyncEndpoint
from dpop.tokens._steps import MAX_RESPONSE, HTTPRequest, HTTPResponse, NoResponse

__all__ = ["AsyncBorrowed", "AsyncHttpxEndpoint", "Borrowed", "HttpxEndpoint"]

# Clients, requests and responses of either library. Any, because the two share no base class.
_Any = Any


class Borrowed:
    """The transports of a client, chosen by it for each URL; mixed into the library's ``BaseTransport``."""

    def __init__(self, carrier: _Carrier) -> None:
        self._carrier = carrier

    def handle_request(self, request: _Any) -> _Any:
        """Send it by the client's transport for its URL, below what signs there already."""
        transport = self._carrier.client()._transport_for_url(request.url)  # noqa: SLF001 - respects proxies and mounts
        return (transport._transport() if isinstance(transport, SyncTransport) else transport).handle_request(request)  # noqa: SLF001


class AsyncBorrowed:
    """The same for an asynchronous client."""

    def __init__(self, carrier: _Carrier) -> None:
        self._carrier = carrier

    async def handle_async_request(self, request: _Any) -> _Any:
        """Send it by the client's transport for its URL, below what signs there already."""
        transport = self._carrier.client()._transport_for_url(request.url)  # noqa: SLF001 - respects proxies and mounts
        inner = transport._transport() if isinstance(transport, AsyncTransport) else transport  # noqa: SLF001
        return await inner.handle_async_request(request)


class _Carrier:
    """What carries requests: a client that was given, or one of its own for each process and event loop.

    A forked child must not write to its parent's sockets, and no loop can use those of another.
    """

    def __init__(self, make: _Any, given: _Any, running: Callable[[], object | None] = lambda: None) -> None:
        self._make = make
        self._given = given
        self._running = running
        self._pid = 0
        self._alone: _Any = None
        self._by_loop: weakref.WeakKeyDictionary[object, _Any] = weakref.WeakKeyDictionary()

    def client(self) -> _Any:
        """The client to use here and now."""
        if self._given is not None:
            return self._given
        if self._pid != os.getpid():
            self._pid, self._alone, self._by_loop = os.getpid(), None, weakref.WeakKeyDictionary()
        loop = self._running()
        if loop is None:
            self._alone = self._alone or self._make()
            return self._alone
        client = self._by_loop.get(loop)
        if client is None:
            client = self._by_loop[loop] = self._make()
        return client

    def take_own(self) -> _Any:
        """The client that was made here and can be closed here; ``None`` if there is none."""
        if self._pid != os.getpid():
            return None
        loop = self._running()
        own, self._alone = (self._alone, None) if loop is None else (self._by_loop.pop(loop, None), self._alone)
        return own


def _running_loop() -> object | None:
    """The event loop of this task; ``None`` on one of another library."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _prepared(client: _Any, request: HTTPRequest, timeout: float) -> _Any:
    prepared = client.build_request(
        request.method, request.url, headers=list(request.headers), content=request.body, timeout=timeout
    )
    if "authorization" not in {name.lower() for name, _ in request.headers}:
        prepared.headers.pop("authorization", None)  # the client's own is for others
    return prepared


def _response(response: _Any, body: bytes) -> HTTPResponse:
    fields = tuple((name.lower(), value) for name, value in response.headers.multi_items())
    return HTTPResponse(response.status_code, fields, body)


def _no_response(library: _Any, error: Exception) -> NoResponse:
    never_sent = (library.ConnectError, library.ConnectTimeout, library.PoolTimeout, library.ProxyError)
    return NoResponse(type(error).__name__, sent=not isinstance(error, never_sent))


class HttpxEndpoint(SyncEndpoint):
    """``TokenEndpoint`` of either library."""

    _library: ClassVar[_Any]
    _signing_transport: ClassVar[_Any]
    _borrowed: ClassVar[_Any]

    def _start(self, prover: _Any, server: _Any, http: _Any, options: dict[str, Any]) -> None:
        signing = self._set_up(prover, server, options)
        self._carrier = _Carrier(self._library.Client, http)
        self._plain = self._borrowed(self._carrier)
        self._signing = self._signing_transport(self.prover, transport=self._plain, **signing)

    def exchange(self, request: HTTPRequest) -> HTTPResponse:
        """Send one request and read its answer, following no redirect.

        :raises NoResponse: none came.
        """
        prepared = _prepared(self._carrier.client(), request, self.timeout)
        try:
            response = (self._signing if request.signed else self._plain).handle_request(prepared)
            try:
                return _response(response, self._body(response))
            finally:
                response.close()
        except (self._library.TransportError, self._library.DecodingError) as error:
            raise _no_response(self._library, error) from error

    def _body(self, response: _Any) -> bytes:
        if response.is_stream_consumed:  # by a transport of the user's own, which has it in memory
            return bytes(response.content)
        deadline = time.monotonic() + 2 * self.timeout
        body = b""
        for chunk in response.iter_raw():
            body += chunk
            if len(body) > MAX_RESPONSE:
                break
            if time.monotonic() > deadline:
                raise self._library.ReadTimeout("the body did not end in time")
        return decoded_start(response.headers.get("content-encoding"), body, MAX_RESPONSE + 1)

    def close(self) -> None:
        """Close the connections made here; a client that was given stays open."""
        own = self._carrier.take_own()
        if own is not None:
            own.close()


class AsyncHttpxEndpoint(AsyncEndpoint):
    """``AsyncTokenEndpoint`` of either library."""

    tools = anyio_tools

    _library: ClassVar[_Any]
    _signing_transport: ClassVar[_Any]
    _borrowed: ClassVar[_Any]

    def _start(self, prover: _Any, server: _Any, http: _Any, options: dict[str, Any]) -> None:
        signing = self._set_up(prover, server, options)
        self._carrier = _Carrier(self._library.AsyncClient, http, _running_loop)
        self._plain = self._borrowed(self._carrier)
        self._signing = self._signing_transport(self.prover, transport=self._plain, **signing)

    async def exchange(self, request: HTTPRequest) -> HTTPResponse:
        """Send one request and read its answer, following no redirect.

        :raises NoResponse: none came.
        """
        prepared = _prepared(self._carrier.client(), request, self.timeout)
        try:
            response = await (self._signing if request.signed else self._plain).handle_async_request(prepared)
            try:
                return _response(response, await self._body(response))
            finally:
                await response.aclose()
        except (self._library.TransportError, self._library.DecodingError) as error:
            raise _no_response(self._library, error) from error

    async def _body(self, response: _Any) -> bytes:
        if response.is_stream_consumed:  # by a transport of the user's own, which has it in memory
            return bytes(response.content)
        deadline = time.monotonic() + 2 * self.timeout
        body = b""
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > MAX_RESPONSE:
                break
            if time.monotonic() > deadline:
                raise self._library.ReadTimeout("the body did not end in time")
        return decoded_start(response.headers.get("content-encoding"), body, MAX_RESPONSE + 1)

    async def aclose(self) -> None:
        """Close the connections made here; a client that was given stays open."""
        own = self._carrier.take_own()
        if own is not None:
            await own.aclose()
