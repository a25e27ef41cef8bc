# SPDX-License-Identifier: Apache-2.0
"""The token endpoint for requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import requests
from requests.adapters import HTTPAdapter
from requests.cookies import extract_cookies_to_jar
from requests.structures import CaseInsensitiveDict
from requests.utils import select_proxy
from urllib3.exceptions import HTTPError, ProtocolError

from dpop._arguments import explain_unknown_arguments
from dpop._client_auth import ClientAuth
from dpop._tracebacks import hide_frames
from dpop.client._prover import Prover
from dpop.errors import ArgumentTypeError, DPoPError
from dpop.profiles import RFC9449, Profile
from dpop.requests._adapter import DPoPAdapter, ProcessAdapter
from dpop.requests._connection import Exchange, Wire
from dpop.tokens._endpoint import SyncEndpoint
from dpop.tokens._endpoint_base import DEFAULT_TIMEOUT
from dpop.tokens._failures import address_of, reason_of
from dpop.tokens._lent_headers import is_lent
from dpop.tokens._metadata import ServerMetadata
from dpop.tokens._responses import whole_body
from dpop.tokens._steps import MAX_RESPONSE, HTTPRequest, HTTPResponse, NoResponse, from_server, mark_unsent

if TYPE_CHECKING:
    from dpop.keys import Key

__all__ = ["TokenEndpoint"]


class TokenEndpoint(SyncEndpoint):
    """One client at one authorization server: grants, refresh, revocation, introspection, and token sources.

    :param prover: the prover that signs the requests; a key is accepted, too.
    :param server: the URL of the token endpoint, or a :class:`dpop.tokens.ServerMetadata`.
    :param http: a session whose headers, cookies, proxies and TLS settings are used, with the connection settings of
        the adapter that it has mounted for the server, such as an SSL context. Its ``auth``, ``params`` and retries are
        not used, nor headers that are about one message or server, such as ``Host`` and ``Content-Length``.
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

    @hide_frames
    @explain_unknown_arguments
    def __init__(
        self,
        prover: Key | Prover,
        server: str | ServerMetadata,
        *,
        http: requests.Session | None = None,
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
        if http is not None and not isinstance(http, requests.Session):
            raise ArgumentTypeError("http", "a requests.Session", http)
        self._session = requests.Session() if http is None else http
        self._signing = DPoPAdapter(self.prover, **signing)
        self._plain = ProcessAdapter()
        # The session's adapter at the last request, and this endpoint's copies of it.
        self._mounted: tuple[object, DPoPAdapter, ProcessAdapter] | None = None

    def exchange(self, request: HTTPRequest) -> HTTPResponse:
        """Send one request and read its response, following no redirect.

        :raises NoResponse: no response came.
        """
        wire = Wire(2 * self.timeout)
        proxy: str | None = None
        try:
            settings = self._session.merge_environment_settings(request.url, {}, True, None, None)
            proxy = select_proxy(request.url, settings["proxies"])
            if proxy is not None:
                proxy = proxy.rpartition("://")[2].rpartition("@")[2].rstrip("/")
            return from_server(wire.watch(self._exchange, request, settings), proxy)
        except (DPoPError, NoResponse):
            raise
        except Exception as error:
            if wire.sent and not isinstance(error, OSError | HTTPError):
                raise
            raise NoResponse(reason_of(error, address_of(request.url), proxy), sent=wire.sent) from error
        except BaseException as interrupt:
            if not wire.sent:
                mark_unsent(interrupt)
            raise

    def _exchange(self, request: HTTPRequest, settings: Mapping[str, Any]) -> HTTPResponse:
        session = self._session
        # The value None leaves out a header field, or a parameter, of the session.
        theirs: Mapping[Any, Any] = session.headers or {}
        headers: CaseInsensitiveDict[Any] = CaseInsensitiveDict(
            {name: None for name, value in theirs.items() if not is_lent(name, value)}
        )
        headers["Authorization"] = None
        headers.update(request.headers)
        params = dict.fromkeys(session.params) if isinstance(session.params, Mapping) else {}
        prepared = session.prepare_request(
            requests.Request(
                request.method, request.url, headers=headers, data=request.body, params=params, auth=_no_auth
            )
        )
        signing, plain = self._adapters(request.url)
        # A request without a proof needs an exchange, too: it may be sent while the body of another request is read,
        # and would otherwise carry that one's token.
        send = signing.send if request.signed else partial(_unsigned().send, plain.send)
        with send(prepared, timeout=self.timeout, **settings) as response:
            for each in (*response.history, response):
                extract_cookies_to_jar(session.cookies, prepared, each.raw)
            fields = tuple((name.lower(), value) for name, value in response.headers.items())
            return HTTPResponse(response.status_code, fields, _body(response, self.timeout * 2))

    def _adapters(self, url: str) -> tuple[DPoPAdapter, ProcessAdapter]:
        """Return this endpoint's adapters, with the connection settings of the session's own adapter for this URL."""
        theirs = self._session.get_adapter(url)
        if type(theirs) is HTTPAdapter and not theirs.poolmanager.connection_pool_kw.keys() - {"maxsize", "block"}:
            return self._signing, self._plain  # a default adapter: it has no settings to copy
        mounted = self._mounted
        if mounted is None or mounted[0] is not theirs:
            mounted = theirs, self._signing.with_connections_of(theirs), self._plain.with_connections_of(theirs)
            self._mounted = mounted
        return mounted[1], mounted[2]

    def close(self) -> None:
        """Close the connections that this endpoint opened; a session that the user gave stays open."""
        self._signing.close()
        self._plain.close()
        if self._mounted is not None:
            self._mounted[1].close()
            self._mounted[2].close()


def _unsigned() -> Exchange:
    return Exchange(None, one_shot=False, withheld=frozenset())


def _no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Add no credentials: given as ``auth=``, it keeps out those of netrc and of the session's ``auth``."""
    return request


def _body(response: requests.Response, seconds: float) -> bytes:
    """Read the decompressed body, up to slightly more than the allowed size."""
    deadline = time.monotonic() + seconds
    body = b""
    failure: Exception | None = None
    try:
        # read1 returns the bytes that have arrived; stream would wait for more, and lose them if there is an error.
        while chunk := response.raw.read1(16_384, decode_content=False):
            body += chunk
            if len(body) > MAX_RESPONSE:
                break
            if time.monotonic() > deadline:
                raise requests.ReadTimeout
    except ValueError as error:
        failure = ProtocolError(str(error))  # a negative chunk size: http.client raises a ValueError
        failure.__cause__ = error
    except Exception as error:  # noqa: BLE001 - raised again if the body is incomplete
        failure = error
    return whole_body(response.headers.get("Content-Encoding"), body, failure)
