# SPDX-License-Identifier: Apache-2.0
"""google-auth's requests to its token endpoint, sent by a token endpoint of this package.

google-auth calls a *request* object with URL, method, headers and body, and reads status and body of the result. Its
own request objects follow redirects, and send the same bytes again when a connection breaks. Here, every request on the
wire carries a fresh proof. The settings of google-auth's request object are used: its timeout, and its session's
proxies, TLS settings and headers.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, quote

import requests
import urllib3
from google.auth.exceptions import RefreshError, TransportError
from requests.adapters import HTTPAdapter

from dpop.errors import DPoPError, InvalidTokenResponseError, TokenEndpointUnavailableError, TokenRequestError
from dpop.origin import Origin
from dpop.requests import TokenEndpoint
from dpop.tokens._lent_headers import is_lent
from dpop.tokens._responses import is_success, token_response
from dpop.tokens._steps import HTTPResponse, NoResponse
from dpop.tokens._token_set import TokenSet

__all__ = ["Carrier", "Response", "SignedRequest", "carrier_of", "check_bearer", "refresh_error", "verdict"]

_TIMEOUT: Final = 120.0  # google-auth's own
_OURS: Final = frozenset({"grant_type", "refresh_token", "client_id", "client_secret"})


@dataclass(frozen=True, slots=True, repr=False)
class Response:
    """The parts of a response that google-auth reads (``google.auth.transport.Response``)."""

    status: int
    headers: Mapping[str, str]
    data: bytes


class SignedRequest:
    """A ``google.auth.transport.Request`` that signs requests to the token endpoint; others pass through unsigned.

    :param request: google-auth's own request object, for other URLs.
    """

    def __init__(self, request: Callable[..., Any], endpoint: TokenEndpoint) -> None:
        self._request = request
        self._endpoint = endpoint
        self.tokens: TokenSet | None = None
        self.error: TokenRequestError | None = None

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> Any:
        """Send one request. Each repetition by google-auth gets a new proof.

        :raises TransportError: no response came.
        :raises RefreshError: nothing was sent, or the response cannot be used.
        """
        form = dict(parse_qsl((body or b"").decode("latin-1")))
        if form.get("grant_type") != "refresh_token":
            if timeout is not None:
                options["timeout"] = timeout
            return self._request(url=url, method=method, body=body, headers=headers, **options)
        if url != self._endpoint.server.token_endpoint:
            raise RefreshError("the refresh token is bound to a key, and is sent to its own token endpoint only")
        self._endpoint.timeout = _seconds(timeout) or self._endpoint.timeout
        try:
            return self._refresh(form, headers or {})
        except DPoPError as error:
            raise refresh_error(error) from error

    def _refresh(self, form: Mapping[str, str], headers: Mapping[str, str]) -> Response:
        """Run the steps of a refresh, and return the response for google-auth to read."""
        more = {name: value for name, value in form.items() if name not in _OURS}
        steps = self._endpoint.grants.refresh(form.get("refresh_token", ""), more)
        step: Any = next(steps)
        known = {name.lower() for name, _ in step.headers}
        further = tuple(
            (name, value) for name, value in headers.items() if name.lower() not in known and is_lent(name, value)
        )
        self.error = None
        try:
            response = self._endpoint.exchange(replace(step, headers=step.headers + further))
        except NoResponse as failure:
            try:
                steps.throw(failure)
            except TokenRequestError as error:
                raise TransportError(str(error)) from error
            raise
        try:
            steps.send(response)
        except StopIteration as done:
            self.tokens = done.value
        except TokenRequestError as error:
            # google-auth puts the body of a refusal into its error, and may send the refresh token again.
            if is_success(response) or getattr(error, "tokens", None) is not None:
                raise
            self.error = error
        if self.tokens is None:
            return Response(response.status, dict(response.headers), _readable(response.body))
        check_bearer(self.tokens)
        return Response(200, dict(response.headers), _usual_form(response, self.tokens))


def check_bearer(tokens: TokenSet) -> None:
    """Refuse an access token that google-auth cannot send correctly.

    :raises InvalidTokenResponseError: the access token is bound to the key.
    """
    if tokens.is_bound:
        raise InvalidTokenResponseError(
            "the access token is bound to the key, too, but google-auth sends no proof with it; use a"
            " dpop.requests.DPoPAdapter for this server. The tokens are in the error's tokens",
            tokens=tokens,
        )


def _readable(body: bytes) -> bytes:
    """Make the body of a refusal one that google-auth reads: it fails with errors of its own on arrays and numbers."""
    text = body.decode("utf-8", "replace")
    with contextlib.suppress(ValueError, RecursionError):
        if not isinstance(json.loads(text), dict | str):
            text = json.dumps(text)
    return text.encode()


def _usual_form(response: HTTPResponse, tokens: TokenSet) -> bytes:
    """Return a token response with only the members that google-auth reads, in a form that it can read."""
    parsed = token_response(response)
    members = {
        "access_token": tokens.access_token,
        "expires_in": parsed.expires_in,
        "refresh_token": tokens.refresh_token,
        "scope": parsed.scope,
        "id_token": parsed.id_token,
    }
    return json.dumps({name: value for name, value in members.items() if value is not None}).encode("ascii")


def refresh_error(error: DPoPError) -> RefreshError:
    """Convert an error of this package to the error of google-auth that its callers catch."""
    retryable = isinstance(error, TokenEndpointUnavailableError)
    if not isinstance(error, TokenRequestError) or error.error is None:
        return RefreshError(str(error), retryable=retryable)
    facts = {"error": error.error, "error_description": error.description, "error_subtype": error.subtype}
    return RefreshError(str(error), {name: fact for name, fact in facts.items() if fact}, retryable=retryable)


def verdict(theirs: RefreshError, ours: TokenRequestError, secrets: list[str]) -> RefreshError:
    """Make google-auth's error for a refusal, with the arguments and the ``retryable`` that its callers inspect.

    Secrets that a server repeats are masked. A refused nonce is retryable, but google-auth does not know that.
    """
    of_nonce = ours.error == "use_dpop_nonce"
    arguments = _masked(list(theirs.args), [secret for secret in secrets if len(secret) >= 4])
    return RefreshError(*arguments, retryable=theirs.retryable or of_nonce)


def _masked(value: Any, secrets: list[str]) -> Any:
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, "[redacted]")
        return value
    if isinstance(value, Mapping):
        return {_masked(name, secrets): _masked(each, secrets) for name, each in value.items()}
    return [_masked(each, secrets) for each in value] if isinstance(value, list) else value


# -- the settings of a request object


class Carrier(NamedTuple):
    """The session and timeout of a google-auth request object, used for token requests.

    :param http: a session with its proxies, TLS settings and headers; ``None`` if a new one is to be made.
    :param timeout: seconds.
    """

    http: requests.Session | None
    timeout: float


def carrier_of(request: object, url: str | None) -> Carrier:
    """Find the session and timeout of a google-auth request, also inside a ``functools.partial``.

    :param url: the token endpoint.
    """
    options: dict[str, Any] = {}
    while isinstance(request, functools.partial):
        options = {**request.keywords, **options}
        request = request.func
    http: Any = getattr(request, "http", None)
    session = getattr(request, "session", None)
    timeout = None
    if isinstance(session, requests.Session):
        settings = {name: options[name] for name in ("verify", "cert", "proxies") if options.get(name) is not None}
        if settings:
            session = _with_settings(copy.copy(session), settings)
    elif isinstance(http, urllib3.PoolManager):
        session, timeout = _of_urllib3(http), http.connection_pool_kw.get("timeout")
    elif hasattr(http, "proxy_info") and hasattr(http, "ca_certs"):
        session, timeout = _with_settings(requests.Session(), _of_httplib2(http, url)), http.timeout
        session.trust_env = callable(http.proxy_info)  # if it is a function, it reads the environment
    else:
        session = None
    return Carrier(session, _seconds(options.get("timeout")) or _seconds(timeout) or _TIMEOUT)


def _with_settings(session: requests.Session, settings: Mapping[str, Any]) -> requests.Session:
    """Set the session's settings for every request; like arguments, they override the environment."""
    merge = session.merge_environment_settings

    def merged(url: str, proxies: Mapping[str, str] | None, stream: Any, verify: Any, cert: Any) -> Any:
        proxies = {**(proxies or {}), **settings.get("proxies", {})}
        return merge(url, proxies, stream, settings.get("verify", verify), settings.get("cert", cert))

    vars(session)["merge_environment_settings"] = merged
    return session


class _PoolSettingsAdapter(HTTPAdapter):
    """An adapter that opens connections with the settings of a urllib3 pool manager."""

    def __init__(self, theirs: urllib3.PoolManager) -> None:
        self._theirs = theirs
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Make the pool manager, with the settings of the other pool manager."""
        super().init_poolmanager(*args, **options)
        self.poolmanager.connection_pool_kw.update(_settings_of(self._theirs))

    def proxy_manager_for(self, proxy: str, **options: Any) -> urllib3.ProxyManager:
        """Return the pool manager of the other one's proxy."""
        theirs = self._theirs
        if isinstance(theirs, urllib3.ProxyManager):
            options["proxy_ssl_context"] = theirs.proxy_config.ssl_context if theirs.proxy_config else None
        manager: urllib3.ProxyManager = super().proxy_manager_for(proxy, **options)
        manager.connection_pool_kw.update(_settings_of(theirs))
        return manager

    def proxy_headers(self, proxy: str) -> dict[str, str]:
        """Return the header fields for the proxy."""
        return {**super().proxy_headers(proxy), **getattr(self._theirs, "proxy_headers", {})}

    def build_connection_pool_key_attributes(self, *args: Any, **options: Any) -> Any:
        """Return the host, without the TLS settings that requests would add."""
        return super().build_connection_pool_key_attributes(*args, **options)[0], {}

    def cert_verify(self, *args: Any, **options: Any) -> None:
        """Do nothing: the pool manager's settings decide about certificates."""


def _settings_of(pools: urllib3.PoolManager) -> dict[str, Any]:
    left_out = {"maxsize", "block", "timeout", "retries", "headers", "_proxy", "_proxy_headers", "_proxy_config"}
    return {name: value for name, value in pools.connection_pool_kw.items() if name not in left_out}


def _of_urllib3(pools: urllib3.PoolManager) -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    session.mount("https://", _PoolSettingsAdapter(pools))
    session.mount("http://", _PoolSettingsAdapter(pools))
    proxy = getattr(pools, "proxy", None)
    if proxy is not None:
        session.proxies = {"http": proxy.url, "https": proxy.url}
    return session


def _of_httplib2(http: Any, url: str | None) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    proxy = http.proxy_info
    if proxy is not None and not callable(proxy) and proxy.isgood():
        kind = {1: "socks4", 2: "socks5h"}.get(proxy.proxy_type, "http")
        user = f"{quote(proxy.proxy_user)}:{quote(proxy.proxy_pass or '')}@" if proxy.proxy_user else ""
        url = f"{kind}://{user}{proxy.proxy_host}:{proxy.proxy_port}"
        settings["proxies"] = {"http": url, "https": url}
    if http.disable_ssl_certificate_validation:
        settings["verify"] = False
    elif http.ca_certs:
        settings["verify"] = http.ca_certs
    own = next(http.certificates.iter(Origin.of_url(url).host if url else ""), None)
    if own is not None:
        key, certificate = own[:2]
        settings["cert"] = (certificate, key) if key else certificate
    return settings


def _seconds(timeout: object) -> float | None:
    """Return a timeout as one number: the longest part of ``(connect, read)`` or of urllib3's ``Timeout``."""
    if isinstance(timeout, urllib3.Timeout):
        timeout = (timeout.total, timeout.connect_timeout, timeout.read_timeout)
    if isinstance(timeout, tuple):
        return max((seconds for each in timeout if (seconds := _seconds(each))), default=None)
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout <= 0:
        return None
    return float(timeout)
