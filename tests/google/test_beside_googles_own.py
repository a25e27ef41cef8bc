# SPDX-License-Identifier: Apache-2.0
"""Our credentials beside google-auth's own, in the same situations: they differ by the proof and by nothing else."""

from __future__ import annotations

import datetime as dt
import functools
import json
import ssl
import threading
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import parse_qs

import google.auth.transport.requests
import google.auth.transport.urllib3
import google.oauth2.credentials
import google_auth_httplib2
import httplib2
import pytest
import requests
import urllib3
from google.auth.exceptions import GoogleAuthError, RefreshError, TransportError
from requests.adapters import HTTPAdapter
from support.authority import Authority, make_authority
from support.recorder import Received, Recorder, Response, script

import dpop
from dpop.errors import DPoPError
from dpop.google import Credentials, SharedCredentials
from dpop.requests import TokenEndpoint
from dpop.tokens import MemoryTokenStore, TokenSet

KEY = dpop.generate_key()
REFRESH = "1//refresh-t0ken"
Plain = google.oauth2.credentials.Credentials
Request = google.auth.transport.requests.Request
GOOD = {"access_token": "new", "token_type": "Bearer", "expires_in": 3600}


def made(kind: type[Plain], url: str, **options: Any) -> Plain:
    """Credentials of one kind or the other."""
    facts = {"refresh_token": REFRESH, "token_uri": url, "client_id": "c", "client_secret": "s3cret", **options}
    return kind(None, **facts, **({} if kind is Plain else {"key": KEY}))


class Outcome(NamedTuple):
    """What a caller of google-auth can see of a refresh."""

    error: type[Exception] | None
    retryable: bool
    arguments: tuple[Any, ...]
    token: str | None
    refresh_token: str | None
    id_token: str | None
    granted: list[str] | None
    lifetime: float | None
    forms: list[dict[str, list[str]]]


def outcome(kind: type[Plain], *responses: Response, **options: Any) -> Outcome:
    """Refresh once, and look at what there is to be seen."""
    with Recorder(script(*responses)) as recorder:
        credentials = made(kind, recorder.url("/token"), **options)
        error = None
        try:
            credentials.refresh(Request())
        except GoogleAuthError as raised:
            error = raised
        now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
        forms = [parse_qs(request.body.decode(), keep_blank_values=True) for request in recorder.requests]
        proofs = [len(request.all("DPoP")) for request in recorder.requests]
    assert proofs == [0 if kind is Plain else 1] * len(proofs)
    lifetime = None if credentials.expiry is None else round((credentials.expiry - now).total_seconds() / 60)
    return Outcome(
        error and type(error),
        error is not None and error.retryable,
        () if error is None else error.args,
        credentials.token,
        credentials.refresh_token,
        credentials.id_token,
        credentials.granted_scopes,
        lifetime,
        forms,
    )


def said(status: int, body: Any) -> Response:
    """A JSON response."""
    return Response(status, [("Content-Type", "application/json")], json.dumps(body).encode())


SITUATIONS: dict[str, tuple[list[Response], dict[str, Any]]] = {
    "tokens": ([said(200, GOOD)], {}),
    "a new refresh token": ([said(200, {**GOOD, "refresh_token": "other"})], {}),
    "an ID token": ([said(200, {**GOOD, "id_token": "a.b.c"})], {}),
    "a lifetime in a string": ([said(200, {**GOOD, "expires_in": "3600"})], {}),
    "a lifetime of null": ([said(200, {**GOOD, "expires_in": None})], {}),
    "no lifetime": ([said(200, {"access_token": "new", "token_type": "Bearer"})], {}),
    "no type": ([said(200, {"access_token": "new", "expires_in": 60})], {}),
    "scopes asked for": ([said(200, GOOD)], {"scopes": ["read", "write"]}),
    "scopes granted": ([said(200, {**GOOD, "scope": "read write"})], {"scopes": ["read", "write"]}),
    "fewer scopes granted": ([said(200, {**GOOD, "scope": "read"})], {"scopes": ["read", "write"]}),
    "an empty client secret": ([said(200, GOOD)], {"client_secret": ""}),
    "a rapt token": ([said(200, GOOD)], {"rapt_token": "rapt"}),
    "invalid_grant": ([said(400, {"error": "invalid_grant", "error_description": "Token has been revoked."})], {}),
    "a refusal without description": ([said(400, {"error": "invalid_request"})], {}),
    "a refusal with a subtype": (
        [said(400, {"error": "invalid_grant", "error_description": "x", "error_subtype": "invalid_rapt"})],
        {},
    ),
    "invalid_client": ([said(401, {"error": "invalid_client", "error_description": "Unauthorized"})], {}),
    "another object": ([said(403, {"code": 403, "message": "disabled"})], {}),
    "internal_failure, then tokens": ([said(400, {"error": "internal_failure"}), said(200, GOOD)], {}),
    "408, then tokens": ([said(408, {"error": "timeout"}), said(200, GOOD)], {}),
    "internal_failure in the description": (
        [said(400, {"error": "invalid_request", "error_description": "internal_failure"})],
        {},
    ),
    "503 again and again": ([said(503, {"error": "unavailable"})], {}),
}


@pytest.mark.parametrize("name", SITUATIONS)
def test_the_same_comes_of_it(name: str) -> None:
    """Tokens, expiry, scopes, the error's arguments and its retryable, and the forms that were sent."""
    responses, options = SITUATIONS[name]
    theirs, ours = (outcome(kind, *responses, **options) for kind in (Plain, Credentials))
    if options.get("client_secret") == "":
        for form in theirs.forms:
            del form["client_secret"]  # an empty parameter, which means none (RFC 6749 §3.2)
    assert ours == theirs


@pytest.mark.parametrize("body", [["error"], None, 400, True])
def test_a_refusal_that_google_auth_cannot_read(body: Any) -> None:
    """JSON that is neither an object nor a string: an error that its callers catch, and no AttributeError."""
    with Recorder(script(said(400, body))) as server, pytest.raises(RefreshError) as caught:
        made(Credentials, server.url("/token")).refresh(google.auth.transport.requests.Request())
    assert not caught.value.retryable


def test_a_secret_that_a_server_repeats_is_masked() -> None:
    """The one difference in the arguments of an error."""
    body = {"error": "invalid_grant", "error_description": f"no such token {REFRESH}"}
    theirs, ours = (outcome(kind, said(400, body)) for kind in (Plain, Credentials))
    assert REFRESH in str(theirs.arguments)
    assert ours.arguments[0] == "invalid_grant: no such token [redacted]"
    assert ours.arguments[1] == {"error": "invalid_grant", "error_description": "no such token [redacted]"}


# --- the settings of what a library brings along


def of_urllib3(proxy: str | None = None, **options: Any) -> Any:
    """The request of google-auth's AuthorizedHttp for urllib3."""
    pool = urllib3.PoolManager(**options) if proxy is None else urllib3.ProxyManager(proxy, **options)
    return google.auth.transport.urllib3.AuthorizedHttp(Plain("token"), http=pool)._request


def of_httplib2(proxy: str | None = None, **options: Any) -> Any:
    """The request of google-auth's AuthorizedHttp for httplib2."""
    if proxy is not None:
        _, host, port = proxy.replace("//", "").split(":")
        options["proxy_info"] = httplib2.ProxyInfo(httplib2.socks.PROXY_TYPE_HTTP, host, int(port))
    return google_auth_httplib2.AuthorizedHttp(Plain("token"), http=httplib2.Http(**options))._request


def of_requests(proxy: str | None = None, ca_certs: str | None = None, timeout: float = 30) -> Any:
    """The request that google-auth's AuthorizedSession hands over."""
    own = requests.Session()
    if proxy is not None:
        own.proxies = {"http": proxy, "https": proxy}
    if ca_certs is not None:
        own.verify = ca_certs
    return functools.partial(Request(own), timeout=timeout)


REQUESTS: dict[str, Callable[..., Any]] = {"requests": of_requests, "urllib3": of_urllib3, "httplib2": of_httplib2}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Certificates."""
    return make_authority(tmp_path_factory.mktemp("tls"))


@pytest.mark.parametrize("library", REQUESTS)
def test_the_proxy_is_used(library: str) -> None:
    """The token request goes through the proxy that was set, as google-auth's own does."""
    with Recorder(script(said(200, GOOD))) as proxy:
        made(Credentials, "http://127.0.0.1:9/token").refresh(REQUESTS[library](proxy=proxy.origin))
    assert proxy.requests[0].target == "http://127.0.0.1:9/token"
    assert proxy.requests[0].claims["htu"] == "http://127.0.0.1:9/token"


@pytest.mark.parametrize("library", REQUESTS)
def test_the_tls_settings_are_used(library: str, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """A private authority that was set is trusted; without it the server is not."""
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # in requests they come before a session's setting
        monkeypatch.delenv(variable, raising=False)
    with Recorder(script(said(200, GOOD)), tls=authority.server_context()) as server:
        made(Credentials, server.url("/token")).refresh(REQUESTS[library](ca_certs=str(authority.ca)))
        with pytest.raises(TransportError):
            made(Credentials, server.url("/token")).refresh(REQUESTS[library]())
    assert len(server.requests) == 1


@pytest.mark.parametrize("library", REQUESTS)
def test_the_timeout_is_used(library: str) -> None:
    """A token endpoint that takes longer than the caller's seconds is left, before it answers."""
    over = threading.Event()

    def response(_request: Received) -> Response:
        return Response(drop=True) if over.wait(60) else said(200, GOOD)

    with Recorder(response) as server:
        try:
            with pytest.raises(TransportError):
                made(Credentials, server.url("/token")).refresh(REQUESTS[library](timeout=0.3))
        finally:
            over.set()


class ContextAdapter(HTTPAdapter):
    """An adapter with an SSL context, as the documentation of requests recommends to write it."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Pools with this context."""
        super().init_poolmanager(*args, ssl_context=self.context, **options)

    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        """Pools behind a proxy with this context."""
        return super().proxy_manager_for(*args, ssl_context=self.context, **options)


def of_mounted(adapter: Any, **settings: Any) -> Any:
    """A request with a session that has this adapter mounted."""
    session = requests.Session()
    session.mount("https://", adapter)
    vars(session).update(settings)
    return Request(session)


def of_context_from_outside(authority: Authority) -> Any:
    """The other recipe: the pools of a plain adapter are made once more."""
    adapter = HTTPAdapter()
    adapter.init_poolmanager(1, 1, ssl_context=authority.client_context())
    return of_mounted(adapter)


def of_certificate_of_httplib2(authority: Authority) -> Any:
    """A client certificate that httplib2 was given."""
    http = httplib2.Http(ca_certs=authority.ca)
    http.add_certificate(authority.client, authority.client, "")
    return google_auth_httplib2.AuthorizedHttp(Plain("token"), http=http)._request


def bundle(authority: Authority, **more: Any) -> dict[str, Any]:
    """What urllib3 calls the certificates."""
    return {"ca_certs": authority.ca, "cert_reqs": "CERT_REQUIRED", **more}


# Each on a server that wants a client certificate; whether the certificate is shown and the server trusted.
TLS: dict[str, tuple[Callable[[Authority], Any], bool]] = {
    "an adapter with an SSL context": (lambda a: of_mounted(ContextAdapter(a.client_context())), True),
    "a context that was set from outside": (of_context_from_outside, True),
    "a session's certificates": (lambda a: of_mounted(HTTPAdapter(), verify=a.ca, cert=a.client), True),
    "a session without a certificate": (lambda a: of_mounted(HTTPAdapter(), verify=a.ca), False),
    "a partial with certificates": (lambda a: functools.partial(Request(), verify=a.ca, cert=a.client), True),
    "a pool manager with a context": (lambda a: of_urllib3(ssl_context=a.client_context()), True),
    "a pool manager with files": (lambda a: of_urllib3(**bundle(a, cert_file=a.client)), True),
    "a pool manager without a certificate": (lambda a: of_urllib3(**bundle(a)), False),
    "a pool manager for another name": (
        lambda a: of_urllib3(ssl_context=a.client_context(), assert_hostname="other.example"),
        False,
    ),
    "a pool manager that trusts nobody": (
        lambda _: of_urllib3(ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)),
        False,
    ),
    "httplib2 with a certificate": (of_certificate_of_httplib2, True),
}


@pytest.mark.parametrize("name", TLS)
def test_the_connection_is_the_librarys_own(name: str, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contexts, client certificates and names to expect, beside google-auth's credentials with the same request."""
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(variable, raising=False)
    make, works = TLS[name]
    for kind in (Plain, Credentials):
        with Recorder(script(said(200, GOOD)), tls=authority.server_context(want_client=True)) as server:
            credentials, request = made(kind, server.url("/token")), make(authority)
            if works:
                credentials.refresh(request)
                assert credentials.token == "new"
                assert len(server.requests) == 1
            else:
                with pytest.raises(TransportError):
                    credentials.refresh(request)
                assert server.requests == []
            if isinstance(getattr(request, "http", None), httplib2.Http):
                request.http.close()


def test_a_mounted_adapter_is_used_behind_a_proxy() -> None:
    """Its own header fields for the proxy too, and a signed request below its own send()."""
    sent: list[Any] = []

    class Office(HTTPAdapter):
        def proxy_headers(self, proxy: str) -> dict[str, str]:
            return {**super().proxy_headers(proxy), "X-Desk": "7"}

        def send(self, request: Any, *args: Any, **options: Any) -> Any:
            sent.append(request.url)
            return super().send(request, *args, **options)

    with Recorder(script(said(200, GOOD))) as proxy:
        session = requests.Session()
        session.mount("http://", Office())
        session.proxies = {"http": proxy.origin}
        made(Credentials, "http://127.0.0.1:9/token").refresh(Request(session))
        assert proxy.requests[0].one("X-Desk") == "7"
        assert proxy.requests[0].claims["htu"] == "http://127.0.0.1:9/token"
    assert sent == ["http://127.0.0.1:9/token"]


def test_an_authorized_session_brings_its_settings() -> None:
    """Headers, proxy and timeout of the session that its token requests are made with."""
    with Recorder(script(said(200, GOOD))) as proxy, Recorder(script(Response(200))) as api:
        own = requests.Session()
        own.proxies, own.headers["X-Office"] = {"http": proxy.origin}, "Berne"
        credentials = made(Credentials, "http://127.0.0.1:9/token")
        session = google.auth.transport.requests.AuthorizedSession(credentials, auth_request=Request(own))
        session.get(api.url("/"), timeout=30)
        assert api.requests[0].one("Authorization") == "Bearer new"
        assert proxy.requests[0].one("X-Office") == "Berne"


def test_settings_of_partials_are_used(authority: Authority) -> None:
    """A partial around a partial, with verify, proxies and timeout: the outer one counts."""
    with Recorder(script(said(200, GOOD)), tls=authority.server_context()) as server:
        inner = functools.partial(Request(), verify="/nowhere", timeout=(1, 7))
        outer = functools.partial(inner, verify=str(authority.ca))
        made(Credentials, server.url("/token")).refresh(outer)
    assert len(server.requests) == 1


# --- scopes, times, files


def test_scopes_in_one_text() -> None:
    """Scopes separated by spaces are several, not letters."""
    with Recorder(script(said(200, GOOD))) as recorder:
        credentials = made(Credentials, recorder.url("/token"), scopes="read write")
        credentials.refresh(Request())
        assert parse_qs(recorder.requests[0].body.decode())["scope"] == ["read write"]
    assert credentials.scopes == ["read", "write"]
    plain = made(Plain, "https://as.example/token", scopes="read write")
    assert Credentials.from_credentials(plain, key=KEY).scopes == ["read", "write"]
    endpoint = TokenEndpoint(KEY, "https://as.example/token", client_id="c")
    assert SharedCredentials(endpoint.source(MemoryTokenStore()), scopes="read write").scopes == ["read", "write"]


def test_an_expiry_with_a_zone() -> None:
    """It is the same moment in google-auth's form, and in a token set."""
    moment = dt.datetime(2031, 1, 1, 12, 0, tzinfo=dt.timezone(dt.timedelta(hours=5)))
    in_utc = dt.datetime.fromisoformat("2031-01-01T07:00:00")
    credentials = Credentials("token", expiry=moment, key=KEY)
    assert credentials.expiry == in_utc
    assert not credentials.expired
    assert credentials.to_token_set().expires_at == moment.timestamp()
    credentials.expiry = moment
    assert credentials.to_token_set().expires_at == moment.timestamp()
    plain = Plain("token")
    plain.expiry = moment
    assert Credentials.from_credentials(plain, key=KEY).expiry == in_utc


def test_a_file_with_null_for_our_member() -> None:
    """``"dpop": null`` is no member."""
    info = {"refresh_token": REFRESH, "client_id": "c", "client_secret": "s", "dpop": None}
    assert Credentials.from_authorized_user_info(info, key=KEY).jkt == KEY.thumbprint


def test_an_empty_client_secret_is_a_public_client() -> None:
    """The refresh token is sent with a proof, and not by google-auth without one."""
    with Recorder(script(said(200, GOOD))) as recorder:
        made(Credentials, recorder.url("/token"), client_secret="").refresh(Request())
    assert recorder.requests[0].claims["htm"] == "POST"


@pytest.mark.parametrize("missing", ["refresh_token", "token_uri", "client_id"])
def test_empty_facts_send_nothing_unsigned(missing: str) -> None:
    """What google-auth would send without a proof is an error before anything is sent."""
    with Recorder(script(said(200, GOOD))) as recorder:
        facts = {"token_uri": recorder.url("/token"), missing: ""}
        with pytest.raises(RefreshError) as caught:
            made(Credentials, facts.pop("token_uri"), **facts).refresh(Request())
        assert isinstance(caught.value.__cause__, DPoPError)
        assert recorder.requests == []


@pytest.mark.parametrize("seconds", [30, 200, 3600])
def test_shared_credentials_recover_from_a_401(seconds: float) -> None:
    """Also in a token's last minutes, in which google-auth no longer calls it valid."""
    store = MemoryTokenStore()
    now = dt.datetime.now(dt.UTC).timestamp()
    store.save(
        TokenSet(
            access_token="revoked",
            token_type="Bearer",
            refresh_token=REFRESH,
            issued_at=now - 36_000,
            expires_at=now + seconds,
        )
    )

    def response(request: Received) -> Response:
        if request.target == "/token":
            return said(200, GOOD)
        return Response(200 if request.one("Authorization") == "Bearer new" else 401)

    with Recorder(response) as server:
        endpoint = TokenEndpoint(
            KEY, server.url("/token"), client_id="c", client_secret="s", profile=dpop.profiles.GOOGLE
        )
        credentials = SharedCredentials(endpoint.source(store, ahead=0))
        session = google.auth.transport.requests.AuthorizedSession(credentials)
        assert session.get(server.url("/api")).status_code == 200
        assert [request.target for request in server.requests] == ["/api", "/token", "/api"]
        assert session.get(server.url("/api")).status_code == 200
    assert len(server.requests) == 4


def test_a_token_near_its_end_is_not_refused_without_reason() -> None:
    """google-auth asks again and again in the last minutes; the source decides when to renew."""
    store = MemoryTokenStore()
    now = dt.datetime.now(dt.UTC).timestamp()
    store.save(TokenSet(access_token="old", token_type="Bearer", issued_at=now - 36_000, expires_at=now + 200))
    endpoint = TokenEndpoint(KEY, "http://127.0.0.1:9/token", client_id="c", profile=dpop.profiles.GOOGLE)
    credentials = SharedCredentials(endpoint.source(store, ahead=0))
    with Recorder(script(Response(200))) as api:
        session = google.auth.transport.requests.AuthorizedSession(credentials)
        for _ in range(8):
            session.get(api.url("/"))
        assert {request.one("Authorization") for request in api.requests} == {"Bearer old"}
