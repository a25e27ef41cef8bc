# SPDX-License-Identifier: Apache-2.0
"""DPoP for httpx2: a transport that signs, ``auth=`` for one request, and a token endpoint.

::

    from dpop.httpx2 import DPoPTransport

    client = httpx2.Client(transport=DPoPTransport(key, origins="https://api.example", access_token=token))

A client with ``transport=`` takes its TLS, proxy and HTTP/2 settings from the transport, not from its own
arguments: give ``verify``, ``cert``, ``http2``, ``proxy``, ``limits`` or ``retries`` to the transport.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from dpop._arguments import explain_unknown_arguments
from dpop._client_auth import ClientAuth
from dpop._extras import extra
from dpop._httpx.bodies import AsyncPeekedStream, PeekedStream
from dpop._httpx.endpoint import AsyncClientTransport, AsyncHttpxTokenEndpoint, ClientTransport, HttpxTokenEndpoint
from dpop._httpx.transport import AsyncSigningTransport, RequestAuth, SigningTransport
from dpop._tracebacks import hide_frames
from dpop.client._policy import Policy
from dpop.client._request import AccessToken
from dpop.profiles import RFC9449, Profile
from dpop.tokens._endpoint_base import DEFAULT_TIMEOUT
from dpop.tokens._metadata import ServerMetadata

with extra("httpx2"):
    import httpx2

if TYPE_CHECKING:
    from dpop.client._prover import Prover
    from dpop.keys import Key

__all__ = ["AsyncDPoPTransport", "AsyncTokenEndpoint", "DPoPAuth", "DPoPTransport", "TokenEndpoint"]


_LIMITS = httpx2.Limits(max_connections=100, max_keepalive_connections=20)


class _PeekedStream(PeekedStream, httpx2.SyncByteStream):
    pass


class _AsyncPeekedStream(AsyncPeekedStream, httpx2.AsyncByteStream):
    pass


class DPoPTransport(SigningTransport[httpx2.Request, httpx2.Response], httpx2.BaseTransport):
    """Signs every request to its origins, after redirects and on retries too; other requests pass through unsigned.

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
    :param transport: sends the signed requests, instead of an ``HTTPTransport`` made from the settings below.
        Give a function that makes one, such as a class, and each process of the program gets its own; a transport
        object can be used in this process only.
    :param verify: as for ``HTTPTransport``: an :class:`ssl.SSLContext`, or whether to verify certificates.
    :param cert: as for ``HTTPTransport``: a client certificate.
    :param trust_env: as for ``HTTPTransport``: whether to read settings of TLS from the environment.
    :param http1: as for ``HTTPTransport``: whether to speak HTTP/1.1.
    :param http2: as for ``HTTPTransport``: whether to speak HTTP/2 if the server does.
    :param limits: as for ``HTTPTransport``: how many connections are opened and kept.
    :param proxy: as for ``HTTPTransport``: a proxy for all requests.
    :param uds: as for ``HTTPTransport``: the path of a Unix domain socket to connect to.
    :param local_address: as for ``HTTPTransport``: the address to connect from.
    :param retries: as for ``HTTPTransport``: how often to try again to connect.
    :param socket_options: as for ``HTTPTransport``: options for each socket.
    :raises UsageError: ``origins`` is empty, or a setting is invalid.
    :raises InsecureOriginError: an http:// origin that is not this machine's.
    :raises AlgorithmError: the key has none of ``algs``.
    """

    _peeked_stream = _PeekedStream
    _library = httpx2
    _transport_class = httpx2.BaseTransport

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
        transport: httpx2.BaseTransport | Callable[[], httpx2.BaseTransport] | None = None,
        verify: ssl.SSLContext | str | bool = True,
        cert: str | tuple[str, str] | tuple[str, str, str] | None = None,
        trust_env: bool = True,
        http1: bool = True,
        http2: bool = False,
        limits: httpx2.Limits = _LIMITS,
        proxy: str | httpx2.URL | httpx2.Proxy | None = None,
        uds: str | None = None,
        local_address: str | None = None,
        retries: int = 0,
        socket_options: Iterable[Any] | None = None,
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
        make = partial(
            httpx2.HTTPTransport,
            verify=verify,
            cert=cert,
            trust_env=trust_env,
            http1=http1,
            http2=http2,
            limits=limits,
            proxy=proxy,
            uds=uds,
            local_address=local_address,
            retries=retries,
            socket_options=socket_options,
        )
        self._set_up(policy, transport, make)


class AsyncDPoPTransport(AsyncSigningTransport[httpx2.Request, httpx2.Response], httpx2.AsyncBaseTransport):
    """Signs as :class:`DPoPTransport` does, for ``httpx2.AsyncClient``; a key that blocks signs in a worker thread.

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
    :param transport: sends the signed requests, instead of an ``AsyncHTTPTransport`` made from the settings below.
        Give a function that makes one, such as a class, and each process of the program gets its own; a transport
        object can be used in this process only.
    :param verify: as for ``AsyncHTTPTransport``: an :class:`ssl.SSLContext`, or whether to verify certificates.
    :param cert: as for ``AsyncHTTPTransport``: a client certificate.
    :param trust_env: as for ``AsyncHTTPTransport``: whether to read settings of TLS from the environment.
    :param http1: as for ``AsyncHTTPTransport``: whether to speak HTTP/1.1.
    :param http2: as for ``AsyncHTTPTransport``: whether to speak HTTP/2 if the server does.
    :param limits: as for ``AsyncHTTPTransport``: how many connections are opened and kept.
    :param proxy: as for ``AsyncHTTPTransport``: a proxy for all requests.
    :param uds: as for ``AsyncHTTPTransport``: the path of a Unix domain socket to connect to.
    :param local_address: as for ``AsyncHTTPTransport``: the address to connect from.
    :param retries: as for ``AsyncHTTPTransport``: how often to try again to connect.
    :param socket_options: as for ``AsyncHTTPTransport``: options for each socket.
    :raises UsageError: ``origins`` is empty, or a setting is invalid.
    :raises InsecureOriginError: an http:// origin that is not this machine's.
    :raises AlgorithmError: the key has none of ``algs``.
    """

    _peeked_stream = _AsyncPeekedStream
    _library = httpx2
    _transport_class = httpx2.AsyncBaseTransport

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
        transport: httpx2.AsyncBaseTransport | Callable[[], httpx2.AsyncBaseTransport] | None = None,
        verify: ssl.SSLContext | str | bool = True,
        cert: str | tuple[str, str] | tuple[str, str, str] | None = None,
        trust_env: bool = True,
        http1: bool = True,
        http2: bool = False,
        limits: httpx2.Limits = _LIMITS,
        proxy: str | httpx2.URL | httpx2.Proxy | None = None,
        uds: str | None = None,
        local_address: str | None = None,
        retries: int = 0,
        socket_options: Iterable[Any] | None = None,
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
        make = partial(
            httpx2.AsyncHTTPTransport,
            verify=verify,
            cert=cert,
            trust_env=trust_env,
            http1=http1,
            http2=http2,
            limits=limits,
            proxy=proxy,
            uds=uds,
            local_address=local_address,
            retries=retries,
            socket_options=socket_options,
        )
        self._set_up(policy, transport, make)


class DPoPAuth(RequestAuth[httpx2.Request, httpx2.Response], httpx2.Auth):
    """``auth=`` for one request or client, with its own prover and token; it applies to the transport's origins.

    It only marks the request: a DPoP transport signs it, on every hop within its origins.

    :param prover: the prover that signs the requests; a key is accepted, too.
    :param access_token: a ``str``, a function, or a token source; ``None`` for an authorization server.
    :raises UsageError: neither a key nor a prover; a token that cannot stand in a header.
    """


class _ClientTransport(ClientTransport[httpx2.Request, httpx2.Response], httpx2.BaseTransport):
    pass


class _AsyncClientTransport(AsyncClientTransport[httpx2.Request, httpx2.Response], httpx2.AsyncBaseTransport):
    pass


class TokenEndpoint(HttpxTokenEndpoint[httpx2.Request, httpx2.Response]):
    """One client at one authorization server: grants, refresh, revocation, introspection, and token sources.

    :param prover: the prover that signs the requests; a key is accepted, too.
    :param server: the URL of the token endpoint, or a :class:`dpop.tokens.ServerMetadata`.
    :param http: a client whose transports, headers and cookies are used; its ``auth``, ``params`` and hooks are
        not, nor headers that are about one message or server, such as ``Host`` and ``Content-Length``. Give a function
        that makes one, such as a class, and each process of the program gets its own client; a client object can be
        used in this process only.
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

    _library = httpx2
    _signing_transport = DPoPTransport
    _client_transport = _ClientTransport

    @hide_frames
    @explain_unknown_arguments
    def __init__(
        self,
        prover: Key | Prover,
        server: str | ServerMetadata,
        *,
        http: httpx2.Client | Callable[[], httpx2.Client] | None = None,
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
        self._start(
            prover,
            server,
            http,
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


class AsyncTokenEndpoint(AsyncHttpxTokenEndpoint[httpx2.Request, httpx2.Response]):
    """Asynchronous form of :class:`TokenEndpoint`: one client at one authorization server.

    :param prover: the prover that signs the requests; a key is accepted, too.
    :param server: the URL of the token endpoint, or a :class:`dpop.tokens.ServerMetadata`.
    :param http: a client whose transports, headers and cookies are used; its ``auth``, ``params`` and hooks are
        not, nor headers that are about one message or server, such as ``Host`` and ``Content-Length``. Give a function
        that makes one, such as a class, and each process of the program gets its own client; a client object can be
        used in this process only.
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

    _library = httpx2
    _signing_transport = AsyncDPoPTransport
    _client_transport = _AsyncClientTransport

    @hide_frames
    @explain_unknown_arguments
    def __init__(
        self,
        prover: Key | Prover,
        server: str | ServerMetadata,
        *,
        http: httpx2.AsyncClient | Callable[[], httpx2.AsyncClient] | None = None,
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
        self._start(
            prover,
            server,
            http,
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


def __dir__() -> list[str]:
    return sorted(__all__)
