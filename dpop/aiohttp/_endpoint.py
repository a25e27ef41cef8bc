# SPDX-License-Identifier: Apache-2.0
"""The token endpoint for aiohttp."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from aiohttp import (
    BaseConnector,
    ClientError,
    ClientHandlerType,
    ClientHttpProxyError,
    ClientRequest,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    CookieJar,
)

from dpop._arguments import explain_unknown_arguments
from dpop._client_auth import ClientAuth
from dpop._connections import OnePerLoop, close_socket
from dpop._tracebacks import hide_frames
from dpop.aiohttp._middleware import DPoPClientMiddleware
from dpop.aiohttp._threads import asyncio_tools
from dpop.client._driver import AsyncTools
from dpop.errors import DPoPError, UsageError
from dpop.profiles import RFC9449, Profile
from dpop.tokens._async_endpoint import AsyncEndpoint
from dpop.tokens._endpoint_base import DEFAULT_TIMEOUT
from dpop.tokens._failures import address_of, reason_of
from dpop.tokens._lent_headers import is_lent
from dpop.tokens._metadata import ServerMetadata
from dpop.tokens._responses import whole_body
from dpop.tokens._steps import MAX_RESPONSE, HTTPRequest, HTTPResponse, NoResponse, from_server, mark_unsent

if TYPE_CHECKING:
    from aiohttp.connector import Connection

    from dpop.client._prover import Prover
    from dpop.keys import Key

__all__ = ["AsyncTokenEndpoint"]


class AsyncTokenEndpoint(AsyncEndpoint):
    """One client at one authorization server: grants, refresh, revocation, introspection, and token sources.

    :param prover: the prover that signs the requests; a key is accepted, too.
    :param server: the URL of the token endpoint, or a :class:`dpop.tokens.ServerMetadata`.
    :param http: a session whose connector, headers, cookies and proxy are used; its ``auth`` and ``middlewares`` are
        not, nor headers that are about one message or server, such as ``Host`` and ``Content-Length``. Give a function
        that makes one, such as a class, and each event loop of the program gets its own session; a session object can
        be used on its own event loop only.
    :param client_id: the client's identifier; without a secret, the client is a public one.
    :param client_secret: the client's secret.
    :param client_auth: how the client authenticates: ``"none"``, ``"client_secret_basic"``, ``"client_secret_post"``,
        ``"tls_client_auth"`` with the certificate of ``http``, or a :class:`dpop.tokens.PrivateKeyJWT`; by default as
        the server says.
    :param profile: the known facts about the server, see :mod:`dpop.profiles`: a profile, its name, or the path of
        a TOML file.
    :param allow_bearer: accept Bearer access tokens in response to a proof; by default as the profile says.
    :param signed_endpoints: endpoints whose requests carry a proof, in addition to those for tokens and pushed
        authorization requests: ``"revocation"``, ``"introspection"``, ``"device_authorization"``; by default as the
        profile says.
    :param key_reference: the path or URI of the key, stored with the tokens; by default the one it was loaded from.
    :param insecure_origins: http:// servers, other than this machine's, that may be used.
    :param learn_clock: after an ``invalid_dpop_proof``, use the server's clock from the next request on.
    :param timeout: seconds for a connection and between bytes; a response must be whole within twice that.
    :param clock: Unix seconds.
    :raises UsageError: the arguments contradict each other.
    :raises InsecureOriginError: an endpoint is http:// and not on this machine.
    :raises AlgorithmError: the key has none of the server's algorithms.
    """

    tools: ClassVar[AsyncTools] = asyncio_tools

    @hide_frames
    @explain_unknown_arguments
    def __init__(
        self,
        prover: Key | Prover,
        server: str | ServerMetadata,
        *,
        http: ClientSession | Callable[[], ClientSession] | None = None,
        client_id: str | None = None,
        client_secret: str | None = None,
        client_auth: str | ClientAuth | None = None,
        profile: Profile | str = RFC9449,
        allow_bearer: bool | None = None,
        signed_endpoints: Iterable[str] | None = None,
        key_reference: str | None = None,
        insecure_origins: str | Iterable[str] = (),
        learn_clock: bool = False,
        timeout: float = DEFAULT_TIMEOUT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        signing = self._set_up(
            prover,
            server,
            client_id=client_id,
            client_secret=client_secret,
            client_auth=client_auth,
            profile=profile,
            allow_bearer=allow_bearer,
            signed_endpoints=signed_endpoints,
            key_reference=key_reference,
            insecure_origins=insecure_origins,
            learn_clock=learn_clock,
            timeout=timeout,
            clock=clock,
        )
        self._sessions: OnePerLoop[ClientSession] = OnePerLoop(
            _new_session if http is None else http,
            ClientSession,
            close=lambda session: session.close(),
            close_sockets=_close_sockets,
        )
        self.has_given_client: bool = self._sessions.has_given
        self._middleware = DPoPClientMiddleware(self.prover, **signing)

    async def exchange(self, request: HTTPRequest) -> HTTPResponse:
        """Send one request and read its response, following no redirect.

        :raises NoResponse: no response came.
        :raises UsageError: the event loop is not one of asyncio.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise UsageError(
                "aiohttp needs an event loop of asyncio; under trio, take the endpoint of dpop.httpx or dpop.httpx2"
            ) from None
        wire = _Wire(request, 2 * self.timeout)
        try:
            session = await self._sessions.get()
            # aiohttp reads a session's Expect before any middleware runs.
            expect = [("Expect", "")] if "Expect" in session.headers else []
            async with session.request(
                request.method,
                request.url,
                headers=[*(field for field in request.headers if field[0].lower() != "authorization"), *expect],
                data=request.body,
                # The first one's send() is nearest to the connection: it runs when the request has been signed.
                middlewares=[wire.watch, *([self._middleware] if request.signed else []), wire.until_the_head],
                allow_redirects=False,
                raise_for_status=False,
                auto_decompress=False,
                timeout=ClientTimeout(
                    total=None,
                    connect=2 * self.timeout,  # the others do not bound the CONNECT of a proxy
                    sock_connect=self.timeout,
                    sock_read=self.timeout,
                ),
            ) as response:
                fields = tuple((name.lower(), value) for name, value in response.headers.items())
                outcome = HTTPResponse(response.status, fields, await self._body(response, wire.deadline))
            return from_server(outcome, wire.proxy)
        except (DPoPError, NoResponse):
            raise
        except Exception as error:
            if wire.sent and not isinstance(error, ClientError | OSError):
                raise
            told = OSError(f"{error.status} {error.message}") if isinstance(error, ClientHttpProxyError) else error
            reason = reason_of(told, address_of(request.url), wire.proxy)
            raise NoResponse(reason, sent=wire.sent) from error
        except BaseException as interrupt:
            if not wire.sent:
                mark_unsent(interrupt)
            raise

    async def _body(self, response: ClientResponse, deadline: float | None) -> bytes:
        body = b""
        failure: Exception | None = None
        try:
            async with asyncio.timeout_at(deadline):
                while not response.content.at_eof() and len(body) <= MAX_RESPONSE:
                    body += await response.content.readany()
        except Exception as error:  # noqa: BLE001 - raised again if the body is incomplete
            failure = error
        return whole_body(response.headers.get("Content-Encoding"), body, failure)

    async def aclose(self) -> None:
        """Close the connections that this endpoint opened; a session that the user gave stays open."""
        await self._sessions.aclose()


class _Wire:
    """Records whether one request was handed to a connection, and bounds the time until its response has come whole.

    :param seconds: from each time that the request is handed to a connection.
    """

    def __init__(self, request: HTTPRequest, seconds: float) -> None:
        self._own = request
        self._seconds = seconds
        self._timer = asyncio.timeout(None)
        self.sent = False
        self.deadline: float | None = None
        """When the response has to be whole, by the clock of the event loop; ``None`` before the request is sent."""
        self.proxy: str | None = None

    async def watch(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        """Set the header fields of this request and send it; the middleware in front of all others."""
        if request.proxy is not None:
            self.proxy = f"{request.proxy.host}:{request.proxy.port}"
            if request.proxy.scheme.startswith("socks"):
                # aiohttp would speak HTTP to the SOCKS proxy, which would get the tokens of a request to an http URL.
                raise NoResponse(
                    f"aiohttp cannot use the SOCKS proxy {self.proxy}: give http= a function that makes a session"
                    " with a connector for SOCKS, such as that of aiohttp-socks",
                    sent=False,
                )
        self._set_headers(request)
        original = request.send

        async def send(connection: Connection) -> ClientResponse:
            self.sent = True
            self.deadline = asyncio.get_running_loop().time() + self._seconds
            self._timer.reschedule(self.deadline)
            return await original(connection)

        vars(request)["send"] = send
        self._timer = asyncio.timeout(None)
        try:
            async with self._timer:
                return await handler(request)
        finally:
            del vars(request)["send"]
            request.headers.popall("Authorization", None)

    def _set_headers(self, request: ClientRequest) -> None:
        """Remove the header fields of the session that are not lent, and set those of this request."""
        fields = request.headers
        for name in {name for name, value in fields.items() if not is_lent(name, value)}:
            fields.popall(name, None)
        fields["Host"] = request.url.host_port_subcomponent or ""
        if self._own.body is not None:
            fields["Content-Length"] = str(len(self._own.body))
        fields.update(self._own.headers)

    async def until_the_head(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        """Stop the timer when the head of a response has come; the middleware behind all others."""
        response = await handler(request)
        self._timer.reschedule(None)
        return response


def _new_session() -> ClientSession:
    # Cookies of hosts that are addresses are kept, too, as the other libraries keep them.
    return ClientSession(trust_env=True, cookie_jar=CookieJar(unsafe=True))


def _close_sockets(session: ClientSession) -> None:
    """Close the sockets of a session whose event loop is closed: nothing can be awaited on that loop any more."""
    connector: Any = session.connector
    session.detach()
    if isinstance(connector, BaseConnector):
        waiting: Any = connector._conns  # noqa: SLF001 - no method does it without the loop
        for protocol, *_ in [each for those in waiting.values() for each in those]:
            close_socket(protocol.transport)
        waiting.clear()
