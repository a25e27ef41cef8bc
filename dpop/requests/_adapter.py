# SPDX-License-Identifier: Apache-2.0
"""The adapter for requests, and ``auth=`` for one request."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from requests.cookies import RequestsCookieJar, extract_cookies_to_jar, get_cookie_header
from requests.utils import rewind_body
from urllib3.util.retry import Retry

from dpop._arguments import explain_unknown_arguments
from dpop._tracebacks import hide_frames
from dpop.client import _demands  # noqa: F401 - not first in a thread: see dpop._forking.import_now
from dpop.client._challenge import nonce_field
from dpop.client._driver import refresh, report
from dpop.client._flow import ProofFlow, Step
from dpop.client._nonces import Role
from dpop.client._policy import Policy, headers_to_withhold
from dpop.client._prover import Prover
from dpop.client._request import AccessToken, OutgoingRequest, RequestCredentials, check_token_setting
from dpop.errors import UsageError
from dpop.profiles import RFC9449, Profile
from dpop.requests._connection import Exchange, drain, install_signing, peek

if TYPE_CHECKING:
    import urllib3
    from urllib3.connectionpool import HTTPConnectionPool

    from dpop.keys import Key

__all__ = ["DPoPAdapter", "DPoPAuth", "ProcessAdapter"]


_log = logging.getLogger("dpop.requests")
_MAX_POOLS = 64


class ProcessAdapter(HTTPAdapter):
    """An adapter whose connections belong to one process: a forked child starts without connections.

    If two processes used one connection, each would get responses for the other.
    """

    _copied_settings: Mapping[str, Any] = {}
    """Settings copied from another adapter's pools; see :meth:`with_connections_of`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._pid = os.getpid()
        super().__init__(*args, **options)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Make the pool manager; its pools sign."""
        super().init_poolmanager(*args, **options)
        for name, value in self._copied_settings.items():
            self.poolmanager.connection_pool_kw.setdefault(name, value)
        install_signing(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **options: Any) -> urllib3.ProxyManager:
        """Return the pool manager of an HTTP or SOCKS proxy; its pools sign."""
        manager: urllib3.ProxyManager = super().proxy_manager_for(proxy, **options)
        install_signing(manager)
        return manager

    def send(self, *args: Any, **options: Any) -> requests.Response:
        """Send one request; arguments as for ``HTTPAdapter.send``."""
        if self._pid != os.getpid():
            self._start_afresh()
        return super().send(*args, **options)

    def _start_afresh(self) -> None:
        """In a forked child: make new pools, because the parent owns the old sockets and may hold the old locks."""
        self._inherited = (self.poolmanager, self.proxy_manager)
        self.proxy_manager: dict[str, urllib3.ProxyManager] = {}
        self.init_poolmanager(self._pool_connections, self._pool_maxsize, block=self._pool_block)
        # Set the process id last: until then, no other thread of the child may take the old pools for its own.
        self._pid = os.getpid()

    def with_connections_of(self, theirs: object) -> Self:
        """Return a copy of this adapter that opens connections like the user's adapter.

        In requests, an adapter is the only place for an SSL context, a source address or a client certificate with a
        password. The copy inherits from the user's class, too, but makes no retries of that adapter.

        :param theirs: the adapter that a session has mounted. One that is no ``HTTPAdapter`` is ignored.
        """
        if not isinstance(theirs, HTTPAdapter) or isinstance(theirs, ProcessAdapter):
            return self
        own = type(theirs)
        made: Self = object.__new__(type(own.__name__, (type(self), own), {}))
        vars(made).update({**vars(theirs), **vars(self), "proxy_manager": {}})
        pools = getattr(theirs, "poolmanager", None)
        settings = {} if pools is None else pools.connection_pool_kw
        made._copied_settings = {name: value for name, value in settings.items() if name not in {"maxsize", "block"}}
        made._start_afresh()
        return made

    def close(self) -> None:
        """Close the connections of this process."""
        if self._pid == os.getpid():
            super().close()


class DPoPAdapter(ProcessAdapter):
    """Signs every request to its origins, also after redirects and on retries; other requests pass through unsigned.

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
    :param pool_connections: as for ``HTTPAdapter``: how many hosts keep their connections.
    :param pool_maxsize: as for ``HTTPAdapter``: how many connections of a host are kept.
    :param max_retries: as for ``HTTPAdapter``: a number, or a :class:`urllib3.util.Retry`. Each retry gets a proof of
        its own.
    :param pool_block: as for ``HTTPAdapter``: whether to wait for a connection when all of a host's are in use.
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
        pool_connections: int = 10,
        pool_maxsize: int = 10,
        max_retries: Retry | int | None = 0,
        pool_block: bool = False,
    ) -> None:
        self._policy = Policy(
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
        self._pools: dict[tuple[object, ...], weakref.ref[HTTPConnectionPool]] = {}
        super().__init__(pool_connections, pool_maxsize, max_retries, pool_block)

    def __repr__(self) -> str:
        return f"<DPoPAdapter for {', '.join(sorted(map(str, self._policy.origins)))}>"

    def __reduce__(self) -> tuple[object, ...]:
        raise UsageError("a DPoPAdapter cannot be pickled: its key must not travel; mount one in each process")

    def get_connection_with_tls_context(
        self, request: requests.PreparedRequest, verify: Any, proxies: Any = None, cert: Any = None
    ) -> HTTPConnectionPool:
        """Return the connection pool for a request; it is cached, because requests needs as long to find it as a proof.

        The cache holds weak references: the pool manager decides how long a pool lives.
        """
        exchange = Exchange.current()
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
        """Return the request target; without a proxy this is quicker than in requests."""
        return super().request_url(request, proxies) if proxies else request.path_url

    def add_origins(self, origins: str | Iterable[str], *, insecure_origins: str | Iterable[str] = ()) -> None:
        """Allow more servers to get proofs and tokens, such as an API that discovery has found.

        :param origins: as for the constructor; the earlier ones stay allowed. Mount this adapter for the new ones, too.
        :param insecure_origins: http:// origins, beyond this machine's own, that may get proofs all the same.
        :raises UsageError: ``origins`` is empty, or contains an invalid origin.
        :raises InsecureOriginError: an http:// origin that is not this machine's.
        """
        self._policy.add_origins(origins, insecure_origins=insecure_origins)

    @hide_frames
    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        """Send one request to one server, with the flow's retries; arguments as for ``HTTPAdapter.send``.

        :raises DPoPError: the request cannot be signed; nothing was sent.
        """
        outgoing = _described(request)
        flow = ProofFlow.open(self._policy, outgoing)
        if flow is None:
            foreign = Exchange(None, one_shot=False, withheld=headers_to_withhold(outgoing.authorization))
            return foreign.send(super().send, request, *args, **options)
        exchange = Exchange(flow, one_shot=not flow.may_be_resent, withheld=flow.headers_replaced)
        history: list[requests.Response] = []
        sent = request
        try:
            while True:
                response = exchange.send(super().send, sent, *args, **options)
                step = exchange.step
                if not exchange.signed:
                    _log.warning(
                        "a response for %s came without a connection of dpop.requests: no proof and no token were"
                        " sent. A library that replaces connections in tests, such as responses or vcrpy, may do so",
                        flow.origin,
                    )
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
        self._pools = {}
        super()._start_afresh()

    @hide_frames
    def prime(
        self,
        url: str,
        *,
        method: str = "HEAD",
        prover: Key | Prover | None = None,
        role: Role | None = None,
        timeout: float | tuple[float, float] | None = 5.0,
        verify: bool | str = True,
        cert: str | tuple[str, str] | None = None,
        proxies: Mapping[str, str] | None = None,
    ) -> bool:
        """Fetch a server's nonce with a request that carries a proof and no token.

        Call it before sending a body that can be read only once. Returns whether a usable nonce came.

        :param prover: the prover whose nonce to fetch, if later requests bring their own prover.
        :param role: the server's role; ``Role.RS`` if the requests that follow set their own ``Authorization: DPoP``.
        :param timeout: as in requests, like the next three parameters: an adapter does not know its session's settings.
        :param verify: whether to verify the certificate, or the path of the CA bundle to use.
        :param cert: a client certificate.
        :param proxies: the proxy for each scheme.
        :raises UsageError: the URL is not one of this adapter's origins.
        """
        own = None if prover is None else RequestCredentials(prover)
        priming = _Priming(self._policy.priming_role(url, role, credentials=own))
        request = requests.Request(method, url).prepare()
        request.register_hook("response", priming)
        if own is not None:
            request.register_hook("response", _Carrier(own))
        with self.send(request, timeout=timeout, verify=verify, cert=cert, proxies=proxies or {}) as response:
            return nonce_field(response.raw.headers.getlist("DPoP-Nonce")).nonce is not None


class DPoPAuth(AuthBase):
    """``auth=`` for one request or session, with its own prover and token; it applies to the adapter's origins.

    :param prover: the prover that signs the requests; a key is accepted, too.
    :param access_token: a ``str``, a function, or a token source; ``None`` for an authorization server.

    It only marks the request: the mounted :class:`DPoPAdapter` signs it, on every hop within its origins.
    """

    @hide_frames
    def __init__(self, prover: Key | Prover, access_token: AccessToken | None = None) -> None:
        check_token_setting(access_token)
        self._prover = Prover.of(prover)
        self._access_token = access_token

    def __repr__(self) -> str:
        return f"<DPoPAuth {self._prover.thumbprint}>"

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Mark the request; raise an error after the response if no DPoP adapter has seen it."""
        own = RequestCredentials._for_one_request(self._prover, self._access_token)  # noqa: SLF001 - ours
        request.register_hook("response", _Carrier(own))
        return request


class _Carrier:
    """Carries a request's credentials in its response hooks, which requests keeps over redirects and netrc."""

    def __init__(self, credentials: RequestCredentials) -> None:
        self._credentials: RequestCredentials | None = credentials

    @property
    def credentials(self) -> RequestCredentials:
        """The credentials that the request carries.

        :raises UsageError: the request is a copy that was pickled.
        """
        if self._credentials is None:
            raise UsageError(
                "this request is a pickled or deep copy of one with DPoPAuth, and credentials are not copied: make a"
                " new request with auth=DPoPAuth(…)"
            )
        return self._credentials

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle or copy without the key and the token, because a response keeps its request."""
        return _without_credentials, ()

    def __call__(self, response: requests.Response, **_options: Any) -> None:
        if not self.credentials.seen:
            raise UsageError(
                f"the request to {response.url.partition('?')[0]} was sent without a proof: DPoPAuth needs a"
                " DPoPAdapter, such as session.mount(origin + '/', DPoPAdapter(key, origins=origin))"
            )


def _without_credentials() -> _Carrier:
    carrier = object.__new__(_Carrier)
    carrier._credentials = None
    return carrier


class _Priming:
    """Marks a request that only fetches a nonce."""

    def __init__(self, role: Role) -> None:
        self.role = role

    def __call__(self, response: requests.Response, **_options: Any) -> None:
        """Leave the response as it is."""


def _described(request: requests.PreparedRequest) -> OutgoingRequest:
    """Describe a prepared request for the policy and the flow."""
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
    """Whether the body can be sent again: it is empty, in memory, or a file whose start position requests knows."""
    if request.body is None or content is not None:
        return True
    return isinstance(request._body_position, int) and _seekable(request.body)  # noqa: SLF001


def _seekable(body: object) -> bool:
    """Whether a body can be rewound; a forwarded download, for example, knows its position but cannot go back."""
    seekable = getattr(body, "seekable", None)
    return hasattr(body, "seek") and (seekable is None or bool(seekable()))


def _again(
    sent: requests.PreparedRequest, response: requests.Response, rebuild: Callable[[bytes], bytes] | None
) -> requests.PreparedRequest:
    """Prepare the request to be sent again: rewind its body and update its cookies."""
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
