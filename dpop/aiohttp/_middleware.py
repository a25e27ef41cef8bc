# SPDX-License-Identifier: Apache-2.0
"""The middleware for aiohttp's client."""

from __future__ import annotations

import logging
import os
import re
import ssl as ssl_module
import weakref
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Final, Literal, Self

from aiohttp import BaseConnector, ClientHandlerType, ClientRequest, ClientResponse, ClientSession, ClientTimeout

from dpop._arguments import explain_unknown_arguments
from dpop._tracebacks import hide_frames
from dpop.aiohttp._bodies import drain, in_memory, is_repeatable, peek
from dpop.aiohttp._threads import asyncio_tools
from dpop.client import _demands  # noqa: F401 - not first in a thread: see dpop._forking.import_now
from dpop.client._challenge import nonce_field
from dpop.client._driver import async_ask_token, async_refresh, async_report, async_sign, async_wait_for_nonce
from dpop.client._flow import ProofFlow, Step
from dpop.client._nonces import Role
from dpop.client._policy import Policy, headers_to_withhold
from dpop.client._request import AccessToken, OutgoingRequest, RequestCredentials
from dpop.errors import InvalidTargetError, UsageError
from dpop.origin import origin_of
from dpop.profiles import RFC9449, Profile

if TYPE_CHECKING:
    from aiohttp.connector import Connection
    from yarl import URL

    from dpop.client._prover import Prover
    from dpop.keys import Key

__all__ = ["DPoPClientMiddleware"]

_log = logging.getLogger("dpop.aiohttp")

# The handshake of a WebSocket is a request like any other (RFC 6455 §4.1); its URL in a proof is that of HTTP. What
# goes through a Unix socket or a named pipe is HTTP, too.
_HTTP_OF: Final = {"ws": "http", "wss": "https", "unix": "http", "npipe": "http"}
_TARGET: Final = re.compile(r"[!-~]+")


class DPoPClientMiddleware:
    """Signs every request to its origins, after redirects and on retries too; other requests pass through unsigned.

    Give it to ``ClientSession(middlewares=[...])``, as the last one: what a later one sends or changes is not judged
    here. A request is signed when a connection is there, however long it has waited for one. One object can serve any
    number of sessions, event loops and threads. A child of a fork needs a session of its own.

    A body that can be read only once, such as an asynchronous generator, is sent once: call :meth:`prime` first. A
    request with such a body that meets a challenge all the same gets the challenge as its response.

    :param prover: signs each request that brings no prover of its own; a key is accepted, too.
    :param origins: the servers that get proofs and tokens, such as ``"https://api.example"``.
    :param access_token: a ``str``, a function that returns one, or a token source. With it, requests are for a
        resource server; without it, for an authorization server.
    :param as_endpoints: URLs of an authorization server among those of a resource server. Proofs for them have no
        ``ath``, and the caller's own Authorization header is kept.
    :param insecure_origins: http:// origins, beyond this machine's own, that may get proofs all the same.
    :param profile: the known facts about the server, see :mod:`dpop.profiles`: a profile, its name, or the path of
        a TOML file.
    :param nonces: ``"required"`` or ``"auto"``, instead of the profile's.
    :param algs: the algorithms the server lists; a key with none of them is refused here.
    :param learn_clock: after an ``invalid_dpop_proof``, use the server's clock from the next request on.
    :param rebuild: gets a body that holds a ``client_assertion`` and returns one with a new assertion, for a retry.
        Without it such a request is never sent twice.
    :param renew_refused: whether a token source is told that a server refused its token. The request is then sent
        again with another token, if repeating it is safe.
    :param serial: whether requests are sent one at a time, for a server that accepts only the newest nonce it gave.
        ``True``: from the start; ``False``: never; ``None``: as the profile says, or once the server turns out to
        need it.
    :raises UsageError: ``origins`` is empty, or a setting is invalid.
    :raises InsecureOriginError: an http:// origin that is not this machine's.
    :raises AlgorithmError: the key has none of ``algs``.
    """

    @hide_frames
    @explain_unknown_arguments
    def __init__(
        self,
        prover: Key | Prover,
        *,
        origins: str | Iterable[str],
        access_token: AccessToken | None = None,
        as_endpoints: Iterable[str] = (),
        insecure_origins: str | Iterable[str] = (),
        profile: Profile | str = RFC9449,
        nonces: Literal["auto", "required"] | None = None,
        algs: Iterable[str] | str | None = None,
        learn_clock: bool = False,
        rebuild: Callable[[bytes], bytes] | None = None,
        renew_refused: bool = True,
        serial: bool | None = None,
    ) -> None:
        policy = Policy(
            prover,
            origins=origins,
            access_token=access_token,
            as_endpoints=as_endpoints,
            insecure_origins=insecure_origins,
            profile=profile,
            nonces=nonces,
            algs=algs,
            learn_clock=learn_clock,
            rebuild=rebuild,
            renew_refused=renew_refused,
            serial=serial,
        )
        self._set_up(policy, weakref.WeakKeyDictionary())

    def _set_up(
        self,
        policy: Policy,
        processes: weakref.WeakKeyDictionary[BaseConnector, int],
        credentials: RequestCredentials | None = None,
        priming: Role | None = None,
    ) -> None:
        self._policy = policy
        self._processes = processes
        self._credentials = credentials
        self._priming = priming

    def _variant(self, credentials: RequestCredentials | None, priming: Role | None = None) -> Self:
        variant = object.__new__(type(self))
        variant._set_up(self._policy, self._processes, credentials, priming)
        return variant

    def __repr__(self) -> str:
        return f"<DPoPClientMiddleware for {', '.join(sorted(map(str, self._policy.origins)))}>"

    def __reduce__(self) -> tuple[object, ...]:
        raise UsageError("a DPoPClientMiddleware cannot be pickled: its key must not travel; make one in each process")

    @hide_frames
    def with_credentials(self, prover: Key | Prover, access_token: AccessToken | None = None) -> Self:
        """A middleware with the same settings and another prover and token, for one request or one user.

        ``session.get(url, middlewares=[middleware.with_credentials(key, token)])``: one session can serve many users.
        aiohttp uses the ``middlewares`` of a request in place of the session's.

        :param prover: the prover that signs the requests; a key is accepted, too.
        :param access_token: a ``str``, a function, or a token source; ``None`` for an authorization server.
        :raises UsageError: neither a key nor a prover; a token that cannot stand in a header.
        """
        return self._variant(RequestCredentials(prover, access_token))

    def add_origins(self, origins: str | Iterable[str], *, insecure_origins: str | Iterable[str] = ()) -> None:
        """Allow more servers to get proofs and tokens, such as an API that discovery has found.

        :param origins: as at the start; those there were stay.
        :param insecure_origins: http:// origins, beyond this machine's own, that may get proofs all the same.
        :raises UsageError: ``origins`` is empty, or contains an invalid origin.
        :raises InsecureOriginError: an http:// origin that is not this machine's.
        """
        self._policy.add_origins(origins, insecure_origins=insecure_origins)

    @hide_frames
    async def prime(
        self,
        session: ClientSession,
        url: str,
        *,
        method: str = "HEAD",
        role: Role | None = None,
        timeout: float | None = 5.0,  # noqa: ASYNC109 - handed to aiohttp
        proxy: str | URL | None = None,
        ssl: ssl_module.SSLContext | bool = True,
    ) -> bool:
        """Fetch a server's nonce with a request that carries a proof and no token.

        Call it before sending a body that can be read only once. Returns whether a nonce came that can be used.

        :param session: the session that sends it, without middlewares of its own.
        :param method: of that request.
        :param role: ``Role.RS`` where the requests that follow set their own ``Authorization: DPoP``.
        :param timeout: seconds for the whole request.
        :param proxy: as for a request of aiohttp.
        :param ssl: as for a request of aiohttp.
        :raises UsageError: the URL is not one of this middleware's origins.
        """
        role = self._policy.priming_role(url, role, credentials=self._credentials)
        async with session.request(
            method,
            url,
            middlewares=(self._variant(self._credentials, role),),
            allow_redirects=False,
            raise_for_status=False,
            timeout=ClientTimeout(total=timeout),
            proxy=proxy,
            ssl=ssl,
        ) as response:
            return nonce_field(response.headers.getall("DPoP-Nonce", [])).nonce is not None

    @hide_frames
    async def __call__(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        """Send one request to one server, with the retries that the flow decides on; aiohttp calls it for each hop."""
        self._check_process(request.session)
        flow = ProofFlow.open(self._policy, await self._outgoing(request))
        if flow is None:
            for name in headers_to_withhold(_joined(request, "Authorization")):
                request.headers.popall(name, None)
            return await handler(request)
        if self._priming is not None:
            request.headers.popall("Authorization", None)  # the session's own
        exchange = _Exchange(flow, request, self._policy, self._outgoing)
        # aiohttp calls the request's send() when it has a connection, once for each request on the wire.
        attributes = vars(request)
        before = attributes.get("send")
        attributes["send"] = exchange.send
        try:
            return await exchange.run(handler)
        except BaseException:
            flow.failed()
            raise
        finally:
            del attributes["send"]
            if before is not None:
                attributes["send"] = before

    def _check_process(self, session: ClientSession) -> None:
        """Refuse a session of the parent after a fork: two processes would write to one connection."""
        connector, here = session.connector, os.getpid()
        if connector is not None and self._processes.setdefault(connector, here) != here:
            raise UsageError(
                "this ClientSession was used in another process, before a fork, and its connections are that"
                " process's: nothing was sent. Make a session in each process; the middleware can stay"
            )

    async def _outgoing(self, request: ClientRequest) -> OutgoingRequest:
        url = request.url
        scheme = _HTTP_OF.get(url.scheme, url.scheme)
        # aiohttp connects to what the URL says, whatever Host says.
        server = f"{url.host_subcomponent}:{url.port or ''}"
        return OutgoingRequest(
            request.method,
            f"{scheme}://{server}{url.raw_path_qs}",
            origin=origin_of(scheme, server),
            authorization=_joined(request, "Authorization"),
            content=await in_memory(request),
            content_type=request.headers.get("Content-Type"),
            repeatable=is_repeatable(request.body),
            credentials=self._credentials,
            priming=self._priming,
        )


class _Exchange:
    """One request to one server, with all its attempts."""

    def __init__(
        self,
        flow: ProofFlow,
        request: ClientRequest,
        policy: Policy,
        outgoing: Callable[[ClientRequest], Awaitable[OutgoingRequest]],
    ) -> None:
        self._flow = flow
        self._request = request
        self._policy = policy
        self._outgoing = outgoing
        self._method, self._url = request.method, request.url
        self._send_unsigned = request.send
        self._token: str | None = None
        self._signed = False

    async def run(self, handler: ClientHandlerType) -> ClientResponse:
        """Send the request, and again as the flow says; return the last response."""
        flow, request = self._flow, self._request
        while True:
            self._signed = False
            # Before there is a connection: the token's source may need the only one.
            self._token = await async_ask_token(flow)
            await async_wait_for_nonce(flow, asyncio_tools)
            response = await handler(request)
            if not self._signed:
                _log.warning(
                    "a request to %s was answered before it was sent: no proof and no token were sent. A middleware"
                    " behind this one, or a library that replaces connections in tests, may do so",
                    flow.origin,
                )
                flow.failed()
                return response
            try:
                step = flow.received(response.status, response.headers.items())
                if step is Step.PEEK:
                    step = flow.judged(await peek(response))
                if step is Step.REPORT:
                    await async_report(flow, _closing(response))
                if step is Step.DONE or step is Step.REPORT:
                    return response
                _keep_cookies(request, response)
                await drain(response, request)
            except BaseException:
                response.close()
                raise
            if step is Step.REFRESH:
                await async_refresh(flow)
            if flow.needs_rebuild:
                await self._rebuild()
            request.update_expect_continue()  # it waits for another 100

    async def send(self, connection: Connection) -> ClientResponse:
        """Sign the request as it is now, and send it; aiohttp calls this in place of the request's own ``send``."""
        flow, request = self._flow, self._request
        await self._check_unchanged()
        headers = await async_sign(flow, *_wire(request), self._token, tools=asyncio_tools)
        own = [(name, value) for name in flow.headers_replaced for value in request.headers.popall(name, [])]
        request.headers.update(headers)
        self._signed = True
        try:
            return await self._send_unsigned(connection)
        finally:
            # They are written. What stays in the request is shown by aiohttp's errors, and by its responses.
            for name, _ in headers:
                request.headers.popall(name, None)
            request.headers.extend(own)

    async def _check_unchanged(self) -> None:
        """Refuse what a middleware behind this one has made another request of; its path may be changed."""
        flow, request = self._flow, self._request
        if request.url is self._url and request.method == self._method:
            return
        decision = self._policy.decide(await self._outgoing(request))
        if decision is None or (decision.origin, decision.role) != (flow.origin, flow.role):
            changed = f"sends the request for {flow.origin} elsewhere"
        elif request.method != self._method:
            changed = f"changed the method {self._method}"
        else:
            return
        raise UsageError(
            f"nothing was sent: a middleware behind DPoPClientMiddleware {changed};"
            " make DPoPClientMiddleware the last of middlewares="
        )

    async def _rebuild(self) -> None:
        """Put a new client assertion into the body; the key that signs it may block."""
        rebuild = self._policy.rebuild
        content = await in_memory(self._request) or b""
        if rebuild is not None:
            await self._request.update_body(await asyncio_tools.to_thread(lambda: rebuild(content)))


def _wire(request: ClientRequest) -> tuple[str, str, str]:
    """Scheme, Host and target of a request as they will be on the wire."""
    url = request.url
    scheme = _HTTP_OF.get(url.scheme, url.scheme)
    target = url.raw_path_qs
    if request.proxy is not None and not request.is_ssl():
        target = f"{scheme}:{str(url).partition(':')[2]}"
    if not _TARGET.fullmatch(target):
        raise InvalidTargetError(
            "the URL holds a blank or another character that no request line can hold; URL(..., encoded=True) takes"
            " it as it is: percent-encode it, or leave encoded=True out"
        )
    return scheme, _joined(request, "Host") or "", target


def _joined(request: ClientRequest, name: str) -> str | None:
    values = request.headers.getall(name, None)
    return None if values is None else ", ".join(values)


def _closing(response: ClientResponse) -> Callable[[], Awaitable[object]]:
    async def close() -> None:
        response.close()

    return close


def _keep_cookies(request: ClientRequest, response: ClientResponse) -> None:
    """Put the cookies of a response that is dropped into the session's jar, and into the request that follows it.

    A load balancer that keeps a client at one server by a cookie would otherwise send the retry to another one.
    """
    fields = response.headers.getall("Set-Cookie", ())
    if fields:
        jar = request.session.cookie_jar
        jar.update_cookies_from_headers(fields, request.url)
        kept = jar.filter_cookies(request.url)
        request.update_cookies({name: kept[name] for name in response.cookies if name in kept})
