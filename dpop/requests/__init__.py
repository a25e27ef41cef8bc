# SPDX-License-Identifier: Apache-2.0
"""DPoP for requests: an adapter that signs, ``auth=`` for one request, and a token endpoint.

::

    from dpop.requests import DPoPAdapter

    session.mount("https://api.example/", DPoPAdapter(key, origins="https://api.example", access_token=token))

``origins`` is required although the adapter is mounted: requests does not tell an adapter where, and a
mount prefix without a trailing slash matches other hosts too.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Unpack

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from requests.cookies import RequestsCookieJar, extract_cookies_to_jar, get_cookie_header
from requests.utils import rewind_body
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ProtocolError
from urllib3.util.retry import Retry

from dpop.client._challenge import nonce_field
from dpop.client._decoding import decoded_start
from dpop.client._driver import refresh, report, wait_for_nonce
from dpop.client._flow import ProofFlow, Step
from dpop.client._nonces import Role
from dpop.client._policy import Policy, PolicyOptions, headers_to_withhold
from dpop.client._prover import Prover
from dpop.client._request import AccessToken, OutgoingRequest, RequestCredentials, check_token_setting
from dpop.errors import UsageError
from dpop.requests._connection import Exchange, drain, install_signing, peek
from dpop.tokens._endpoint import SyncEndpoint
from dpop.tokens._grants import EndpointOptions
from dpop.tokens._metadata import ServerMetadata
from dpop.tokens._steps import MAX_RESPONSE, HTTPRequest, HTTPResponse, NoResponse

if TYPE_CHECKING:
    import urllib3
    from urllib3.connectionpool import HTTPConnectionPool

    from dpop.keys import Key

__all__ = ["DPoPAdapter", "DPoPAuth", "TokenEndpoint"]


_MAX_POOLS = 64


class AdapterOptions(PolicyOptions, total=False):
    """What the adapter takes: the settings of :class:`dpop.client._policy.Policy` and ``HTTPAdapter``'s own."""

    pool_connections: int
    pool_maxsize: int
    max_retries: Retry | int | None
    pool_block: bool


class DPoPAdapter(HTTPAdapter):
    """Signs every request to its origins, on every hop and retry; the rest pass through unsigned.

    :param prover: whose proofs; a bare key will do.
    :param origins: the servers that get proofs and tokens, such as ``"https://api.example"``.
    :param options: see :class:`AdapterOptions`.
    :raises UsageError: origins or options that cannot be used.
    """

    def __init__(
        self, prover: Key | Prover, *, origins: str | Iterable[str], **options: Unpack[AdapterOptions]
    ) -> None:
        rest: dict[str, Any] = dict(options)
        self._policy = Policy.taking(prover, origins, rest)
        self._pid = os.getpid()
        self._pools: dict[tuple[object, ...], weakref.ref[HTTPConnectionPool]] = {}
        super().__init__(**rest)

    def __repr__(self) -> str:
        return f"<DPoPAdapter for {', '.join(sorted(map(str, self._policy.origins)))}>"

    def __reduce__(self) -> tuple[object, ...]:
        raise UsageError("a DPoPAdapter cannot be pickled: its key must not travel; mount one in each process")

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Make the pool manager, with pools that sign."""
        super().init_poolmanager(*args, **options)
        install_signing(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **options: Any) -> urllib3.ProxyManager:
        """The pool manager of a proxy, HTTP or SOCKS, with pools that sign."""
        manager: urllib3.ProxyManager = super().proxy_manager_for(proxy, **options)
        install_signing(manager)
        return manager

    def get_connection_with_tls_context(
        self, request: requests.PreparedRequest, verify: Any, proxies: Any = None, cert: Any = None
    ) -> HTTPConnectionPool:
        """The connection pool for a request; requests looks it up anew each time, which takes as long as a proof.

        Remembered weakly: the pool manager decides how long a pool lives.
        """
        exchange = Exchange.under_way()
        if proxies or exchange is None or exchange.flow is None:
            return super().get_connection_with_tls_context(request, verify, proxies, cert)
        key = (exchange.flow.origin, verify, cert)
        known = self._pools.get(key)
        pool = None if known is None else known()
        if pool is None:
            pool = super().get_connection_with_tls_context(request, verify, proxies, cert)
            if len(self._pools) >= _MAX_POOLS:
                self._pools.clear()
            self._pools[key] = weakref.ref(pool)
        return pool

    def request_url(self, request: requests.PreparedRequest, proxies: Any) -> str:
        """The request target; without a proxy there is nothing to find out."""
        return super().request_url(request, proxies) if proxies else request.path_url

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        """Send one request on one hop, as often as the flow says; arguments as for ``HTTPAdapter.send``.

        :raises DPoPError: it cannot be signed; nothing was sent.
        """
        if self._pid != os.getpid():
            self._start_afresh()
        outgoing = _facts(request)
        flow = ProofFlow.open(self._policy, outgoing)
        if flow is None:
            foreign = Exchange(None, one_shot=False, withheld=headers_to_withhold(outgoing.authorization))
            return foreign.send(super().send, request, *args, **options)
        exchange = Exchange(flow, one_shot=not flow.may_be_resent, withheld=flow.headers_replaced)
        history: list[requests.Response] = []
        sent = request
        try:
            wait_for_nonce(flow)
            while True:
                response = exchange.send(super().send, sent, *args, **options)
                step = exchange.step
                if step is Step.PEEK:
                    payload, response.raw = peek(response.raw)
                    step = flow.judged(payload)
                if step is Step.REPORT:
                    report(flow, response.close)
                if step is Step.DONE or step is Step.REPORT:
                    response.request = request
                    if history:
                        response.history = history
                    return response
                drain(response.raw)
                if step is Step.REFRESH:
                    refresh(flow)
                history.append(response)
                sent = _again(sent, response, self._policy.rebuild if flow.needs_rebuild else None)
        finally:
            flow.failed()

    def _start_afresh(self) -> None:
        """In a forked child: new pools. The old ones' sockets are the parent's, and a lock of theirs may be held."""
        self._inherited = (self.poolmanager, self.proxy_manager)
        self.proxy_manager: dict[str, urllib3.ProxyManager] = {}
        self.init_poolmanager(self._pool_connections, self._pool_maxsize, block=self._pool_block)
        self._pools = {}
        # Last, for until then another thread of the child must not take the old pools for its own.
        self._pid = os.getpid()

    def prime(
        self,
        url: str,
        *,
        method: str = "HEAD",
        prover: Key | Prover | None = None,
        role: Role | None = None,
        **options: Any,
    ) -> bool:
        """Fetch a server's nonce with a request that carries a proof and no token.

        Call it before sending a body that can be read only once. Returns whether a nonce came that can be used.

        :param prover: whose nonce, where the requests that follow bring their own prover.
        :param role: whose nonce, where the requests that follow set their own ``Authorization: DPoP``: ``Role.RS``.
        :param options: what :meth:`send` takes: an adapter does not know its session's ``timeout``,
            ``verify``, ``cert`` and ``proxies``.
        :raises UsageError: the URL is not one of this adapter's origins.
        """
        own = None if prover is None else RequestCredentials(prover)
        priming = _Priming(self._policy.priming_role(url, role, credentials=own))
        request = requests.Request(method, url).prepare()
        request.register_hook("response", priming)
        if own is not None:
            request.register_hook("response", _Carrier(own))
        with self.send(request, **options) as response:
            return nonce_field(response.raw.headers.getlist("DPoP-Nonce")).nonce is not None


class DPoPAuth(AuthBase):
    """``auth=`` for one request or session: its own prover and token, within the adapter's origins.

    :param prover: whose proofs; a bare key will do.
    :param access_token: a ``str``, a function, or a token source; ``None`` for an authorization server.

    It only marks the request: the mounted :class:`DPoPAdapter` signs it, on every hop within its origins.
    """

    def __init__(self, prover: Key | Prover, access_token: AccessToken | None = None) -> None:
        check_token_setting(access_token)
        self._prover = Prover.of(prover)
        self._access_token = access_token

    def __repr__(self) -> str:
        return f"<DPoPAuth {self._prover.thumbprint}>"

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Mark the request; complain after the answer if no DPoP adapter took notice."""
        request.register_hook("response", _Carrier(RequestCredentials(self._prover, self._access_token)))
        return request


class _Carrier:
    """A request's credentials among its response hooks, which requests keeps over redirects and netrc."""

    def __init__(self, credentials: RequestCredentials) -> None:
        self.credentials = credentials

    def __call__(self, response: requests.Response, **_options: Any) -> None:
        if not self.credentials.seen:
            raise UsageError(
                f"the request to {response.url.partition('?')[0]} was sent without a proof: DPoPAuth needs a"
                " DPoPAdapter, such as session.mount(origin + '/', DPoPAdapter(key, origins=origin))"
            )


class _Priming:
    """Marks a request that only fetches a nonce."""

    def __init__(self, role: Role) -> None:
        self.role = role

    def __call__(self, response: requests.Response, **_options: Any) -> None:
        """A hook that leaves the answer as it is."""


def _facts(request: requests.PreparedRequest) -> OutgoingRequest:
    """What the brain must know of a prepared request."""
    hooks = request.hooks.get("response", [])
    carriers = [hook.credentials for hook in hooks if isinstance(hook, _Carrier)]
    roles = [hook.role for hook in hooks if isinstance(hook, _Priming)]
    content = _in_memory(request.body)
    authorization = request.headers.get("Authorization")
    content_type = None if content is None else request.headers.get("Content-Type")
    return OutgoingRequest(
        method=request.method or "",
        url=request.url or "",
        authorization=authorization.decode("latin-1") if isinstance(authorization, bytes) else authorization,
        content=content,
        content_type=content_type.decode("latin-1") if isinstance(content_type, bytes) else content_type,
        repeatable=_repeatable(request, content),
        credentials=carriers[-1] if carriers else None,
        priming=roles[-1] if roles else None,
    )


def _in_memory(body: object) -> bytes | None:
    return body.encode("utf-8") if isinstance(body, str) else body if isinstance(body, bytes) else None


def _repeatable(request: requests.PreparedRequest, content: bytes | None) -> bool:
    """Whether there is no body, it is in memory, or a file that requests noted where to rewind to."""
    if request.body is None or content is not None:
        return True
    return isinstance(request._body_position, int) and _seekable(request.body)  # noqa: SLF001


def _seekable(body: object) -> bool:
    """Some bodies tell where they are and cannot go back there: a download handed on, for one."""
    seekable = getattr(body, "seekable", None)
    return hasattr(body, "seek") and (seekable is None or bool(seekable()))


def _again(
    sent: requests.PreparedRequest, response: requests.Response, rebuild: Callable[[bytes], bytes] | None
) -> requests.PreparedRequest:
    """The request as it is sent the second time: its body whole again, its cookies brought up to date."""
    copy = sent.copy()
    if "Set-Cookie" in response.headers:
        jar = RequestsCookieJar() if copy._cookies is None else copy._cookies  # noqa: SLF001
        before = copy.headers.pop("Cookie", None)
        made_from_jar = before == get_cookie_header(jar, copy)
        extract_cookies_to_jar(jar, sent, response.raw)
        if made_from_jar:
            copy.prepare_cookies(jar)
        elif before is not None:
            copy.headers["Cookie"] = before  # the caller's own
    if rebuild is not None:
        copy.prepare_body(rebuild(_in_memory(sent.body) or b""), None)
    elif isinstance(copy._body_position, int):  # noqa: SLF001
        rewind_body(copy)
    return copy


class TokenEndpoint(SyncEndpoint):
    """One client at one authorization server; see :class:`dpop.tokens._endpoint.SyncEndpoint` for what it can do.

    :param prover: whose proofs; a bare key will do.
    :param server: the URL of the token endpoint, or a :class:`dpop.tokens.ServerMetadata`.
    :param http: a session whose headers, cookies, proxies and TLS settings are used. Its adapters and its
        ``auth`` are not: requests are signed by an adapter of the endpoint's own.
    :param options: see :class:`dpop.tokens._grants.EndpointOptions`.
    :raises UsageError: what is given does not fit together.
    """

    def __init__(
        self,
        prover: Key | Prover,
        server: str | ServerMetadata,
        *,
        http: requests.Session | None = None,
        **options: Unpack[EndpointOptions],
    ) -> None:
        signing = self._set_up(prover, server, dict(options))
        self._session = requests.Session() if http is None else http
        self._signing = DPoPAdapter(self.prover, **signing)
        self._plain = HTTPAdapter()

    def exchange(self, request: HTTPRequest) -> HTTPResponse:
        """Send one request and read its answer, following no redirect.

        :raises NoResponse: none came.
        """
        headers: dict[str, Any] = {"Authorization": None, **dict(request.headers)}  # None: not the session's
        prepared = self._session.prepare_request(
            requests.Request(request.method, request.url, headers=headers, data=request.body, auth=_as_it_is)
        )
        settings = self._session.merge_environment_settings(request.url, {}, True, None, None)
        adapter = self._signing if request.signed else self._plain
        try:
            with adapter.send(prepared, timeout=self.timeout, **settings) as response:
                fields = tuple((name.lower(), value) for name, value in response.headers.items())
                return HTTPResponse(response.status_code, fields, _body(response, self.timeout * 2))
        except (requests.RequestException, HTTPError) as error:
            raise NoResponse(type(error).__name__, sent=not _never_connected(error)) from error

    def close(self) -> None:
        """Close the connections made here; a session that was given stays open."""
        self._signing.close()
        self._plain.close()


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """``auth=`` that adds nothing, and keeps netrc and the session's own from adding."""
    return request


def _body(response: requests.Response, seconds: float) -> bytes:
    """As much of a body as an answer may have, or a little more, however it was compressed."""
    deadline = time.monotonic() + seconds
    body = b""
    try:
        for chunk in response.raw.stream(16_384, decode_content=False):
            body += chunk
            if len(body) > MAX_RESPONSE:
                break
            if time.monotonic() > deadline:
                raise requests.ReadTimeout
    except ValueError as error:
        raise ProtocolError(str(error)) from error  # a negative chunk, for which http.client has no error
    return decoded_start(response.headers.get("Content-Encoding"), body, MAX_RESPONSE + 1)


def _never_connected(error: BaseException) -> bool:
    """Whether the connection was not even made."""
    inner = error.args[0] if error.args else None
    return isinstance(getattr(inner, "reason", None), NewConnectionError | ConnectTimeoutError)
