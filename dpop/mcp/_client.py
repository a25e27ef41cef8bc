# SPDX-License-Identifier: Apache-2.0
"""The HTTP client of an MCP session, whose OAuth provider is the SDK's.

The SDK's provider knows bearer tokens only. Its interface is an authentication flow of httpx2: it yields requests and
gets their responses. The flow here stands between the provider and the client. It marks the requests that the DPoP
transport is to sign, and hands the provider what it can read.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlsplit

import anyio
import httpx2
from mcp.client.auth import OAuthClientProvider

from dpop._httpx.bodies import in_memory
from dpop._tracebacks import hide_frames
from dpop.client._challenge import challenges
from dpop.client._prover import Prover
from dpop.client._request import BearerToken, RequestCredentials
from dpop.errors import EncodingError, UnboundTokenError
from dpop.httpx2 import AsyncDPoPTransport
from dpop.mcp._discovery import IssuerSearch
from dpop.origin import Origin, origin_of
from dpop.tokens._responses import read_tokens
from dpop.tokens._steps import HTTPResponse

if TYPE_CHECKING:
    from dpop.keys import Key

__all__ = ["http_client"]

_log = logging.getLogger("dpop.mcp")
_TIMEOUT: Final = httpx2.Timeout(30.0, read=300.0)  # as the SDK's own: a stream may be silent for long
_SECRETS: Final = frozenset({"code", "code_verifier", "refresh_token", "client_secret", "client_assertion"})
_TOKEN_SECONDS: Final = 60.0  # for a token response, which nobody may interrupt
_EXPIRED: Final = 1.0  # for the provider's expiry time, where 0 means that it is unknown


@hide_frames
def http_client(
    prover: Key | Prover,
    provider: OAuthClientProvider,
    *,
    headers: Mapping[str, str] | None = None,
    timeout: httpx2.Timeout = _TIMEOUT,
    allow_bearer: bool = False,
    **settings: Any,
) -> httpx2.AsyncClient:
    """Make the client for ``streamable_http_client(url, http_client=…)``.

    Requests to the MCP server and token requests carry proofs of the key. The provider's authorization URL names the
    key (``dpop_jkt``, RFC 9449 §10). When the server refuses a token, it is refreshed; the user has to log in again
    only if that fails. A refresh token of an earlier run is sent only to the ``issuer`` that the stored client
    information names, because the storage does not say otherwise where it came from.

    Requests of the client raise :class:`~dpop.errors.UnboundTokenError` if the authorization server binds a token to
    no key: the provider does not store it. They also raise it, before any login, if the MCP server refuses a request
    and names the scheme ``Bearer`` and not ``DPoP`` (RFC 9449 §7.1).

    :param prover: signs the requests; a key is accepted, too.
    :param provider: an ``OAuthClientProvider`` of the SDK, or a subclass. Use it for this client only.
    :param headers: sent with each request.
    :param timeout: for each request.
    :param allow_bearer: use such servers. Tokens that are bound to no key are sent as bearer tokens, and a WARNING
        says so.
    :param settings: of :class:`dpop.httpx2.AsyncDPoPTransport`, such as ``verify`` or ``insecure_origins``.
    :raises InsecureOriginError: the MCP server's URL is http:// and not on this machine.
    """
    prover = Prover.of(prover)
    server = str(Origin.of_url(provider.context.server_url))
    transport = _Transport(prover, **{"origins": server, "profile": "mcp", **settings})
    tokens = _BoundTokens(provider, prover, transport, allow_bearer=allow_bearer)
    return httpx2.AsyncClient(transport=transport, auth=tokens, headers=headers, timeout=timeout)


class _Transport(AsyncDPoPTransport):
    """Keeps a request's token from authorization servers, which become origins of the transport when they are found."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request, without its token if it has been redirected to another origin than it was made for."""
        marked = request.extensions.get("dpop_for")
        if marked is not None and marked != _origin(request):
            request.extensions = {name: value for name, value in request.extensions.items() if name != "dpop"}
            request.headers.pop("authorization", None)
        if not _is_token_request(request):
            return await super().handle_async_request(request)
        # A refresh token or code is used up by then. A session that ends must not lose what came for it.
        with anyio.move_on_after(_TOKEN_SECONDS, shield=True):
            response = await super().handle_async_request(request)
            await response.aread()
            return response
        raise httpx2.ReadTimeout(f"no token response came within {_TOKEN_SECONDS:.0f} s", request=request)


class _BoundTokens(httpx2.Auth):
    """An authentication flow around the provider's, which gets bound tokens for it and sends them."""

    def __init__(
        self, provider: OAuthClientProvider, prover: Prover, transport: AsyncDPoPTransport, *, allow_bearer: bool
    ) -> None:
        self._allow_bearer = allow_bearer
        self._provider = provider
        self._context = provider.context
        self._prover = prover
        self._transport = transport
        self._unbound: str | None = None
        """The newest access token, if the authorization server said that it is a bearer token."""
        self._issued_at: str | None = None
        """The token endpoint that the tokens are from."""
        if self._context.redirect_handler is not None:
            self._context.redirect_handler = partial(_naming_key, self._context.redirect_handler, prover.thumbprint)

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        """Send a request with the token there is; have the provider get another one when the server wants that."""
        refused: tuple[str, httpx2.Response] | None = None
        refusal: httpx2.Response | None = None
        # The provider holds a lock while it waits for a response. Requests that need nothing of it do not wait for it.
        if self._context.is_token_valid():
            token = self._mark(request)
            response = yield request
            if not _concerns_provider(response):
                return
            refused = token, response
        may_refresh = True
        again = True
        while again:
            again = False
            async with contextlib.aclosing(self._provided(request, refusal)) as flow:
                outgoing = await anext(flow)
                while True:
                    if outgoing is not request:
                        received = await self._readable(outgoing, (yield self._prepared(outgoing)))
                    else:
                        token = self._token()
                        if refused is None or refused[0] != token:  # another request has brought a new one
                            refused = self._mark(request), (yield request)
                        received, refused = refused[1], None
                        if not _concerns_provider(received):
                            return
                        if may_refresh and received.status_code == 401 and self._context.can_refresh_token():
                            # The provider would ask the user to log in. A token that it takes for expired is
                            # refreshed first.
                            self._context.token_expiry_time = _EXPIRED
                            may_refresh, again, refusal = False, True, received
                            break
                        self._check_scheme(received)
                    try:
                        # Until new tokens are in the storage, the caller's cancellation waits.
                        with anyio.CancelScope(shield=outgoing is not request and _is_token_request(outgoing)):
                            outgoing = await flow.asend(received)
                    except StopAsyncIteration:
                        return

    async def _provided(
        self, request: httpx2.Request, refusal: httpx2.Response | None
    ) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        """The provider's flow, whose refresh token goes to its own issuer only.

        :param refusal: the response that refused the access token, if one did.
        """
        has_searched = False
        while True:
            async with contextlib.aclosing(self._provider.async_auth_flow(request)) as flow:
                outgoing = await anext(flow)
                if self._is_of_unknown_issuer(outgoing):  # a refresh is always the first request
                    if not has_searched:
                        has_searched = True
                        search = IssuerSearch(self._context, refusal)
                        async with contextlib.aclosing(search.steps()) as steps:
                            with contextlib.suppress(StopAsyncIteration):
                                asked = await anext(steps)
                                while True:
                                    asked = await steps.asend((yield asked))
                        self._issued_at = search.token_endpoint or self._issued_at
                        continue
                    outgoing = await flow.asend(_unsent(outgoing))
                with contextlib.suppress(StopAsyncIteration):
                    while True:
                        outgoing = await flow.asend((yield outgoing))
                return

    def _token(self) -> str:
        tokens = self._context.current_tokens
        return "" if tokens is None else tokens.access_token

    def _mark(self, request: httpx2.Request) -> str:
        """Have the transport sign a request with the current token, and return that."""
        token = self._token()
        request.extensions = {name: value for name, value in request.extensions.items() if name != "dpop"}
        if token:
            sent = BearerToken(token) if token == self._unbound else token
            request.extensions |= {"dpop": RequestCredentials(self._prover, sent), "dpop_for": _origin(request)}
        return token

    def _prepared(self, request: httpx2.Request) -> httpx2.Request:
        """Have the transport sign a token request: discovery has only now found out where it goes."""
        if _is_token_request(request):
            self._transport.add_origins(_origin(request))
        return request

    def _is_of_unknown_issuer(self, request: httpx2.Request) -> bool:
        """Whether a refresh token goes to another place than the one that its tokens are known to be from."""
        refreshes = _is_token_request(request) and b"grant_type=refresh_token" in request.content
        return refreshes and str(request.url) != self._issued_at

    def _check_scheme(self, response: httpx2.Response) -> None:
        """Check that a server which wants a token does not want a bearer token, before a user logs in for it."""
        told = _told(response)
        if response.status_code == 401 and "bearer" in told and "dpop" not in told and not self._allow_bearer:
            raise UnboundTokenError(
                f"the MCP server {response.url.host} asks for a bearer token (WWW-Authenticate: Bearer), which anyone"
                " who steals it can use, and not for a bound one (DPoP); no login was started. To use it all the same:"
                " http_client(..., allow_bearer=True)",
                status=response.status_code,
            )

    async def _readable(self, request: httpx2.Request, response: httpx2.Response) -> httpx2.Response:
        """Replace the token type of a token response, because the provider takes only ``Bearer``."""
        if not _is_token_request(request) or not response.is_success:
            return response
        content = await response.aread()
        if not self._allow_bearer:
            fields = tuple((name.lower(), value) for name, value in response.headers.multi_items())
            read_tokens(
                HTTPResponse(response.status_code, fields, content),
                asked_at=time.time(),
                jkt=self._prover.thumbprint,
                allow_bearer=False,
                secrets=[value for name, value in parse_qsl(request.content.decode()) if name in _SECRETS],
            )
        try:
            told = json.loads(content)
            kind, token = told["token_type"].casefold(), str(told["access_token"])
        except (ValueError, TypeError, KeyError, AttributeError):
            return response  # the provider says what is wrong with it
        if kind == "dpop":
            self._unbound = None
        elif kind == "bearer":
            self._unbound = token
            _log.warning("%s bound the access token to no key; it is sent as a bearer token", request.url.host)
        else:
            return response
        self._issued_at = str(request.url)
        left = {"content-encoding", "content-length", "transfer-encoding"}
        kept = [pair for pair in response.headers.multi_items() if pair[0].lower() not in left]
        content = json.dumps({**told, "token_type": "Bearer"}).encode()
        return httpx2.Response(response.status_code, headers=kept, content=content, request=response.request)


def _unsent(request: httpx2.Request) -> httpx2.Response:
    """A refusal of a refresh that was not sent: with it, the provider asks the user to log in."""
    _log.warning(
        "the refresh token of an earlier run was not sent to %s, because the client information names no issuer, or"
        " another one; the user has to log in again",
        request.url.host,
    )
    return httpx2.Response(400, request=request)


def _origin(request: httpx2.Request) -> str:
    return str(origin_of(request.url.scheme, request.url.netloc.decode("ascii")))


def _concerns_provider(response: httpx2.Response) -> bool:
    """Whether the response asks for another token. One that refuses the proof does not: a login would not help."""
    if response.status_code == 403:
        return True
    return response.status_code == 401 and not any(
        parameters.get("error") in {"use_dpop_nonce", "invalid_dpop_proof"} for parameters in _told(response).values()
    )


def _told(response: httpx2.Response) -> dict[str, dict[str, str | None]]:
    """The challenges of a response; none if they break the grammar, as the transport has logged."""
    try:
        return challenges(response.headers.get_list("www-authenticate"))
    except EncodingError:
        return {}


def _is_token_request(request: httpx2.Request) -> bool:
    kind = request.headers.get("content-type", "")
    is_form = request.method == "POST" and kind.lower().startswith("application/x-www-form-urlencoded")
    return is_form and b"grant_type=" in (in_memory(request) or b"")


async def _naming_key(handler: Callable[[str], Awaitable[None]], thumbprint: str, url: str) -> None:
    """Add the key's thumbprint to the authorization URL (RFC 9449 §10): the code is then of use with this key only."""
    await handler(f"{url}{'&' if urlsplit(url).query else '?'}dpop_jkt={thumbprint}")
