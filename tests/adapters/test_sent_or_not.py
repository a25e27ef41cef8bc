# SPDX-License-Identifier: Apache-2.0
"""Whether a request was sent: known by whether its head was handed to a connection, with every HTTP library.

Before that "nothing was sent", and a store takes back its note of a refresh; after it the outcome is unknown.
"""

from __future__ import annotations

import contextlib
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpcore  # noqa: F401 - it looks for socksio when it is imported, which must not be while a test hides that
import httpcore2  # noqa: F401 - as above; httpx2 would import it at its first request
import httpx
import httpx2
import pytest
import requests
from support.authority import Authority
from support.endpoints import ENDPOINTS, Endpoint
from support.recorder import Recorder, Response, script
from support.relays import ForwardProxy, SocksProxy

import dpop
import dpop.requests
from dpop.errors import (
    ArgumentTypeError,
    KeyAccessDeniedError,
    OutcomeUnknownError,
    SigningError,
    TokenEndpointUnavailableError,
)
from dpop.tokens import MemoryTokenStore, TokenSet

KEY = dpop.generate_key()
OLD = TokenSet(access_token="old", expires_at=1, refresh_token="r3fresh", jkt=KEY.thumbprint)
NEW = Response(200, [("Content-Type", "application/json")], b'{"access_token":"new","token_type":"DPoP"}')


@pytest.fixture(params=sorted(ENDPOINTS))
def name(request: pytest.FixtureRequest) -> str:
    """Each integration's endpoint."""
    return str(request.param)


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port on which nobody listens, kept so."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def unsent(name: str, url: str, **options: Any) -> str:
    """What is said of a refresh that was not sent; the stored tokens are as they were."""
    store = MemoryTokenStore()
    store.save(OLD)
    with Endpoint(name, KEY, url, client_id="c", **options) as endpoint:
        source = endpoint.it.source(store)
        with pytest.raises(TokenEndpointUnavailableError) as caught:
            endpoint.wait(source.atoken())
    assert store.load() == OLD, "the note that a refresh was sent is taken back"
    message = str(caught.value)
    assert "nothing was sent" in message
    assert "r3fresh" not in message
    return message


def test_a_closed_port(name: str, closed_port: int) -> None:
    """Host, port and reason are named."""
    assert f"127.0.0.1:{closed_port} refused the connection" in unsent(name, f"http://127.0.0.1:{closed_port}/token")


def test_a_host_that_does_not_exist(name: str) -> None:
    """The name is said not to be known."""
    message = unsent(name, "https://as.invalid/token")
    assert re.search(r"as\.invalid:443: the host name is unknown", message)


def test_a_certificate_that_is_not_trusted(name: str, authority: Authority) -> None:
    """The reason is OpenSSL's own."""
    with Recorder(script(NEW), tls=authority.server_context()) as server:
        message = unsent(name, server.url("/token"))
        assert server.requests == []
    assert f"127.0.0.1:{server.port}: certificate verify failed: " in message


def test_plain_http_behind_an_https_url(name: str) -> None:
    """A response in place of TLS is none."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.sendall(b"HTTP/1.1 400 X\r\nContent-Length: 0\r\n\r\n")
                        while connection.recv(4096):
                            pass

        thread = threading.Thread(target=answer)
        thread.start()
        port = listener.getsockname()[1]
        message = unsent(name, f"https://127.0.0.1:{port}/token")
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    assert f"127.0.0.1:{port}: no TLS connection: " in message


def test_a_proxy_that_is_down(name: str, closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy is named, not the server."""
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{closed_port}")
    assert f"proxy 127.0.0.1:{closed_port} refused the connection" in unsent(name, "https://as.example/token")


@pytest.mark.parametrize(
    ("status", "words"), [(403, "responded 403 X"), (407, "wants authentication"), (502, "responded 502 X")]
)
def test_a_proxy_that_opens_no_tunnel(name: str, monkeypatch: pytest.MonkeyPatch, status: int, words: str) -> None:
    """Its refusal of the CONNECT is quoted."""
    with Recorder(script(Response(status))) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.origin)
        message = unsent(name, "https://as.example/token")
    assert f"proxy 127.0.0.1:{proxy.port} {words}" in message


def test_a_forwarding_proxy_that_wants_authentication(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its 407 is not taken for the token endpoint's."""
    with Recorder(script(Response(407, [("Proxy-Authenticate", "Basic")]))) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.origin)
        message = unsent(name, "http://as.example/token", insecure_origins="http://as.example")
    assert f"the proxy 127.0.0.1:{proxy.port} wants authentication" in message


@pytest.mark.parametrize("proxy", ["foo://127.0.0.1:1", "http://"])
def test_a_proxy_url_that_is_none(name: str, monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    """No error of the library's gets out raw."""
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    unsent(name, "https://as.example/token")


SOCKS_NEEDS = {
    "aiohttp": "with a connector for SOCKS",
    "requests": "SOCKS proxies need: pip install pysocks",
    "httpx": "SOCKS proxies need: pip install socksio",
}


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_socks_proxy_that_the_library_cannot_use(name: str, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """What it needs is named, and nothing goes to the proxy."""

    def without_pysocks(*_: object, **_more: object) -> None:
        raise requests.exceptions.InvalidSchema("Missing dependencies for SOCKS support.")

    monkeypatch.setattr("requests.adapters.SOCKSProxyManager", without_pysocks)
    monkeypatch.setitem(sys.modules, "socksio", None)
    with SocksProxy() as proxy:
        monkeypatch.setenv(f"{scheme.upper()}_PROXY", proxy.url)
        message = unsent(name, f"{scheme}://as.example/token", insecure_origins="http://as.example")
    assert SOCKS_NEEDS[name.partition("-")[0].removesuffix("2")] in message
    assert proxy.seen == []


@pytest.mark.parametrize("name", sorted(ENDPOINTS.keys() - {"aiohttp"}), indirect=True)  # it reads them when imported
def test_certificates_of_authorities_that_are_missing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is named."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "nowhere/ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", "nowhere/ca.pem")
    message = unsent(name, "https://127.0.0.1:1/token")
    assert "nowhere/ca.pem" in message or "verify= or SSL_CERT_FILE" in message


def test_a_key_that_fails_takes_the_note_back(name: str) -> None:
    """Its error is raised as it is, and the stored tokens are as they were."""

    class Broken:
        alg, public_jwk, thumbprint, blocking = "ES256", KEY.public_jwk, KEY.thumbprint, False

        def sign(self, _data: bytes, /) -> bytes:
            raise KeyAccessDeniedError("the device is locked")

    store = MemoryTokenStore()
    store.save(OLD)
    with Recorder(script(NEW)) as server, Endpoint(name, Broken(), server.url("/token"), client_id="c") as endpoint:
        source = endpoint.it.source(store)
        with pytest.raises(KeyAccessDeniedError, match="the device is locked"):
            endpoint.wait(source.atoken())
        assert server.requests == []
    assert store.load() == OLD


@pytest.mark.parametrize("fails", [RuntimeError("SECRET"), OSError(5, "SECRET"), TimeoutError("SECRET")], ids=repr)
def test_an_odd_error_of_a_key_is_not_taken_for_one_of_the_connection(name: str, fails: Exception) -> None:
    """A key of one's own may raise anything. To try again later, or to look at the network, would not help."""

    class Odd:
        alg, public_jwk, thumbprint, blocking = "ES256", KEY.public_jwk, KEY.thumbprint, False

        def sign(self, _data: bytes, /) -> bytes:
            raise fails

    told = f"the key failed to sign with ES256: {type(fails).__name__}"
    with Recorder(script(NEW)) as server, Endpoint(name, Odd(), server.url("/token"), client_id="c") as endpoint:
        with pytest.raises(SigningError, match=f"^{told}$"):
            endpoint.refresh("r")
        assert server.requests == []


def test_a_session_whose_settings_cannot_be_read_takes_the_note_back() -> None:
    """Whatever fails before the request is written, nothing was sent."""

    class Broken(requests.Session):
        def merge_environment_settings(self, *_: Any, **_more: Any) -> Any:
            raise LookupError("no settings")

    assert "LookupError" in unsent("requests", "https://as.example/token", http=Broken())
    with pytest.raises(ArgumentTypeError, match=r"http must be a requests\.Session, not Client"):
        dpop.requests.TokenEndpoint(KEY, "https://as.example/token", client_id="c", http=httpx.Client())  # type: ignore[arg-type]


class Stop(BaseException):
    """An interrupt, such as KeyboardInterrupt or a cancellation."""


HTTPX = sorted(name for name in ENDPOINTS if name.startswith("httpx"))


def silent(name: str, sends: bool, error: BaseException) -> Callable[[], Any]:
    """Make clients with a transport of the user that tells nothing of what it writes, and fails in the end."""
    library: Any = {"httpx": httpx, "httpx2": httpx2}[name.partition("-")[0]]

    class Silent(library.BaseTransport, library.AsyncBaseTransport):  # type: ignore[misc, name-defined]
        _pool = None  # of another kind than the library's

        def handle_request(self, request: Any) -> Any:
            if sends:
                content = b"".join(request.stream)
                with library.HTTPTransport() as own:
                    own.handle_request(
                        library.Request(request.method, request.url, headers=request.headers, content=content)
                    )
            raise error

        async def handle_async_request(self, request: Any) -> Any:
            return self.handle_request(request)

    client = library.AsyncClient if name.endswith("-async") else library.Client
    return lambda: client(transport=Silent())


@pytest.mark.parametrize("name", HTTPX, indirect=True)
@pytest.mark.parametrize(("error", "told"), [(LookupError("x"), OutcomeUnknownError), (Stop(), Stop)])
def test_a_transport_of_the_user_that_may_have_sent_it(
    name: str, error: BaseException, told: type[BaseException]
) -> None:
    """It does not tell what it wrote, so whatever it raises, the note that the refresh was sent stays."""
    store = MemoryTokenStore()
    store.save(OLD)
    with (
        Recorder(script(NEW)) as server,
        Endpoint(name, KEY, server.url("/token"), client_id="c", http=silent(name, True, error)) as endpoint,
    ):
        source = endpoint.it.source(store)
        with pytest.raises(told):
            endpoint.wait(source.atoken())
        assert server.requests
    stored = store.load()
    assert stored is not None
    assert stored.refresh_sent_at is not None


@pytest.mark.parametrize("name", HTTPX, indirect=True)
def test_a_transport_of_the_user_that_has_found_nobody(name: str) -> None:
    """Where its own error says that there was no connection, nothing was sent."""
    library: Any = {"httpx": httpx, "httpx2": httpx2}[name.partition("-")[0]]
    unsent(name, "https://as.example/token", http=silent(name, False, library.ConnectError("nobody there")))


@pytest.mark.parametrize("name", HTTPX, indirect=True)
def test_a_transport_of_the_user_that_finds_nobody_the_second_time(name: str) -> None:
    """The first request was answered with a nonce: sent stays sent."""
    library: Any = {"httpx": httpx, "httpx2": httpx2}[name.partition("-")[0]]
    asked: list[Any] = []

    def handle(request: Any) -> Any:
        asked.append(request)
        if len(asked) > 1:
            raise library.ConnectError("nobody there any more")
        return library.Response(400, headers={"DPoP-Nonce": "n1"}, json={"error": "use_dpop_nonce"})

    client = library.AsyncClient if name.endswith("-async") else library.Client
    with (
        Endpoint(
            name,
            KEY,
            "https://as.example/token",
            client_id="c",
            http=lambda: client(transport=library.MockTransport(handle)),
        ) as endpoint,
        pytest.raises(OutcomeUnknownError),
    ):
        endpoint.refresh(OLD)
    assert len(asked) == 2


def test_a_response_that_does_not_come(name: str) -> None:
    """After the head was written the outcome is unknown, and the server is named."""
    with (
        Recorder(script(Response(drop=True))) as server,
        Endpoint(name, KEY, server.url("/token"), client_id="c") as endpoint,
        pytest.raises(OutcomeUnknownError, match=rf"\(127\.0\.0\.1:{server.port}[: ]"),
    ):
        endpoint.refresh(OLD)


def test_sent_stays_sent(name: str) -> None:
    """The first attempt was answered with a nonce; that the second found nobody does not undo it."""

    def handler(_request: Any) -> Response:
        server._listener.shutdown(socket.SHUT_RDWR)
        server._listener.close()
        headers = [("DPoP-Nonce", "n1"), ("Connection", "close")]
        return Response(400, headers, b'{"error":"use_dpop_nonce"}')

    with (
        Recorder(handler) as server,
        Endpoint(name, KEY, server.url("/token"), client_id="c") as endpoint,
        pytest.raises(OutcomeUnknownError),
    ):
        endpoint.refresh(OLD)


def test_a_proxy_that_works_is_no_failure(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same path, where all is well."""
    with ForwardProxy() as proxy, Recorder(script(NEW)) as server:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        with Endpoint(name, KEY, server.url("/token"), client_id="c") as endpoint:
            assert endpoint.refresh(OLD).access_token == "new"
        assert len(server.requests) == 1
