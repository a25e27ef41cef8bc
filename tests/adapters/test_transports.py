# SPDX-License-Identifier: Apache-2.0
"""What lies between a client and a server: retries, proxies, TLS, HTTP/2, streams, hooks, logs, clocks."""

from __future__ import annotations

import asyncio
import base64
import gc
import hashlib
import io
import itertools
import json
import logging
import threading
import time
import urllib.parse
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import requests
from support.authority import Authority, make_authority
from support.clients import ASYNCHRONOUS, CLIENTS, HTTPX, Client, make
from support.http2_recorder import Http2Recorder
from support.recorder import Received, Recorder, challenge, script
from support.recorder import Response as Reply
from support.relays import ForwardProxy, SocksProxy
from urllib3.util.retry import Retry
from yarl import URL

import dpop
import dpop.requests
from dpop.client._prover import Prover
from dpop.errors import InvalidTargetError, UsageError
from dpop.redaction import RedactingFilter
from dpop.tokens import ServerMetadata

TOKEN = "access-token-1"
BODY = b"0123456789" * 1000

PROXIES = {"aiohttp": [ForwardProxy]}
"""What a client has of the kinds of proxies, where it has not all."""


@pytest.fixture(params=sorted(CLIENTS))
def name(request: pytest.FixtureRequest) -> str:
    """Each client in turn."""
    return str(request.param)


@pytest.fixture
def client(name: str) -> Iterator[Callable[..., Any]]:
    """Makes clients, and closes them."""
    made: list[Client] = []

    def build(prover: Any = None, **options: Any) -> Any:
        made.append(make(name, prover, **options))
        return made[-1]

    yield build
    for one in made:
        one.close()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Certificates for this run."""
    return make_authority(tmp_path_factory.mktemp("tls"))


def tls_options(name: str, authority: Authority) -> dict[str, Any]:
    """How each client is told what to trust and what to show."""
    if name == "requests":
        return {"verify": authority.ca, "cert": authority.client}
    return {"verify": authority.client_context()}


def pool_of_one(name: str) -> dict[str, Any]:
    """Options for a single connection, which is waited for."""
    if name == "requests":
        return {"pool_connections": 1, "pool_maxsize": 1, "pool_block": True}
    if name == "aiohttp":
        return {"connections": 1}
    return {"limits": CLIENTS[name].library.Limits(max_connections=1)}


def assert_fresh(received: list[Received], scheme: str = "http") -> None:
    """One proof on each, no identifier twice, each for its own method and target."""
    assert len({request.claims["jti"] for request in received}) == len(received)
    for request in received:
        assert request.claims["htm"] == request.method
        assert request.claims["htu"] == f"{scheme}://{request.one('Host')}{request.target.partition('?')[0]}"


# -- retries below the adapter -----------------------------------------------------------------


@pytest.mark.parametrize("status", [503, 429])
def test_urllib3_retries_get_fresh_proofs(status: int) -> None:
    """Each retry that urllib3 makes by itself has a proof of its own, and the newest nonce."""
    responses = [Reply(status, [("DPoP-Nonce", f"n{number}"), ("Retry-After", "0")]) for number in range(3)]
    retry = Retry(total=5, status_forcelist=[503, 429], allowed_methods=None, backoff_factor=0)
    with Recorder(script(*responses, Reply(200))) as server:
        with make("requests", origins=server.origin, access_token=TOKEN, max_retries=retry) as client:
            assert client.send("POST", server.url("/r?q=1"), body=client.bytes_body(BODY)).status == 200
        assert [request.nonce for request in server.requests] == [None, "n0", "n1", "n2"]
        assert {request.body for request in server.requests} == {BODY}
        assert_fresh(server.requests)


def test_a_dropped_connection_is_retried_with_a_fresh_proof() -> None:
    """A kept-alive connection that is gone: urllib3 sends again, with another proof."""
    with Recorder(script(Reply(200), Reply(drop=True), Reply(200))) as server:
        with make("requests", origins=server.origin, access_token=TOKEN, max_retries=2) as client:
            for _ in range(2):
                assert client.send("GET", server.url("/r")).status == 200
        assert len(server.requests) == 3
        assert_fresh(server.requests)


def test_a_retried_stream_is_not_sent_empty() -> None:
    """A body that can be read once is sent once: the 503 is handed on although retries are left."""
    retry = Retry(total=5, status_forcelist=[503], allowed_methods=None, backoff_factor=0)
    with Recorder(script(Reply(503, [("Retry-After", "0")]), Reply(200))) as server:
        with make("requests", origins=server.origin, access_token=TOKEN, max_retries=retry) as client:
            assert client.send("POST", server.url("/r"), body=client.stream_body(BODY)).status == 503
        assert [request.body for request in server.requests] == [BODY]


def test_a_stream_on_a_dropped_connection_fails_as_requests_fails() -> None:
    """The server may have read it, so it is not sent again although retries are left."""
    with Recorder(script(Reply(drop=True), Reply(200))) as server:
        with make("requests", origins=server.origin, access_token=TOKEN, max_retries=3) as client:
            with pytest.raises(requests.ConnectionError):
                client.send("PUT", server.url("/r"), body=client.stream_body(BODY))
        assert [request.body for request in server.requests] == [BODY]


def test_a_retried_code_exchange_keeps_its_identifier() -> None:
    """Google's code exchange: the same jti on every attempt, a fresh signature on each."""
    retry = Retry(total=2, status_forcelist=[503], allowed_methods=None, backoff_factor=0)
    form = {"grant_type": "authorization_code", "code": "4/P7q7W91a-oMsCeLvIaQm6bTrgtp7"}
    wants = Reply(400, [("DPoP-Nonce", "n1")], b'{"error":"use_dpop_nonce"}')
    with Recorder(script(Reply(503), wants, Reply(200))) as server:
        options = {"profile": dpop.profiles.GOOGLE, "max_retries": retry}
        with make("requests", origins=server.origin, **options) as client:
            assert client.send("POST", server.url("/token"), body=client.form_body(form)).status == 200
        assert {request.claims["jti"] for request in server.requests} == {"3xbsgA0UB_TL-2wQicAwURmxtBIKPGNmnUFBhZtC0tc"}
        assert len({request.one("DPoP") for request in server.requests}) == 3


# -- proxies -----------------------------------------------------------------------------------


def test_through_a_forwarding_proxy(client: Callable[..., Any]) -> None:
    """http through a proxy: signed for the server, not for the proxy, challenge and redirect included."""

    def handler(request: Received) -> Reply:
        if request.nonce != "n1":
            return challenge("n1")
        return Reply(200) if request.target.startswith("/there") else Reply(307, [("Location", "/there?x=1")])

    with ForwardProxy() as proxy, Recorder(handler) as server:
        one = client(origins=server.origin, access_token=TOKEN, proxy=proxy.url)
        assert one.send("POST", server.url("/here"), body=one.bytes_body(BODY)).status == 200
        assert len(proxy.seen) == 3
        assert_fresh(server.requests)


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in sorted(CLIENTS) for kind in PROXIES.get(name, [ForwardProxy, SocksProxy])],
    indirect=["name"],
)
def test_through_a_tunnel(
    name: str, client: Callable[..., Any], authority: Authority, kind: type[ForwardProxy | SocksProxy]
) -> None:
    """https through CONNECT and SOCKS: the proxy sees no request, the server one fresh proof on each."""
    with kind() as proxy, Recorder(script(challenge("n1"), Reply(200)), tls=authority.server_context()) as server:
        one = client(origins=server.origin, access_token=TOKEN, proxy=proxy.url, **tls_options(name, authority))
        for _ in range(2):
            assert one.send("GET", server.url("/r")).status == 200
        assert [request.nonce for request in server.requests] == [None, "n1", "n1"]
        assert_fresh(server.requests, "https")
        assert all(f"127.0.0.1:{server.port}" in line for line in proxy.seen)


@pytest.mark.parametrize("name", HTTPX, indirect=True)
def test_a_stream_over_http2_through_a_tunnel(name: str, client: Callable[..., Any], authority: Authority) -> None:
    """The CONNECT before it is not taken for the request: a body that can be read once is sent, and signed once."""
    with (
        ForwardProxy() as proxy,
        Http2Recorder(script(Reply(200)), tls=authority.server_context(http2=True)) as server,
    ):
        made = itertools.count(1)
        prover = Prover(dpop.generate_key(), jti=lambda: f"jti-{next(made)}")
        options = {"proxy": proxy.url, "http2": True, **tls_options(name, authority)}
        one = client(prover, origins=server.origin, access_token=TOKEN, **options)
        assert one.send("POST", server.url("/r"), body=one.stream_body(BODY)).status == 200
        assert [request.body for request in server.requests] == [BODY]
        assert server.requests[0].claims["jti"] == "jti-1"


def test_a_proof_does_not_age_while_it_waits_for_a_connection(name: str, client: Callable[..., Any]) -> None:
    """With one connection for all, the last request in the queue has a proof as young as the first, a stream too."""
    now = [1_800_000_000.0]
    ages: list[float] = []

    def handler(request: Received) -> Reply:
        ages.append(now[0] - request.claims["iat"])
        now[0] += 60
        return Reply(200)

    with Recorder(handler) as server:
        one = client(Prover(dpop.generate_key(), clock=lambda: now[0]), origins=server.origin, **pool_of_one(name))

        def send(path: str) -> Any:
            return one.send("POST", server.url(path), body=one.stream_body(BODY))

        if name in ASYNCHRONOUS:

            async def storm() -> None:
                calls = [one.asend("POST", server.url("/r"), body=one.stream_body(BODY)) for _ in range(4)]
                await asyncio.gather(*calls)

            one.runner.run(storm())
        else:
            with ThreadPoolExecutor(4) as threads:
                list(threads.map(send, ["/r"] * 4))
        assert {request.body for request in server.requests} == {BODY}
        assert_fresh(server.requests)
    assert ages == [0, 0, 0, 0]


def test_requests_signs_when_it_is_connected() -> None:
    """A slow way to the server does not age the proof: it is made once the connection stands."""
    seen: list[int] = []
    with SocksProxy() as proxy, Recorder(script(Reply(200))) as server:
        prover = Prover(dpop.generate_key(), jti=lambda: f"jti-{seen.append(len(proxy.seen))}")  # type: ignore[func-returns-value]
        with make("requests", prover, origins=server.origin, access_token=TOKEN, proxy=proxy.url) as one:
            assert one.send("GET", server.url("/r")).status == 200
    assert seen == [1]


def test_retries_through_proxies_get_fresh_proofs(authority: Authority) -> None:
    """A dropped tunnel and a 503 behind it: each attempt that arrives has its own proof."""
    retry = Retry(total=5, status_forcelist=[503], allowed_methods=None, backoff_factor=0)
    for kind in (ForwardProxy, SocksProxy):
        with kind() as proxy, Recorder(script(Reply(503), Reply(200)), tls=authority.server_context()) as server:
            proxy.drop_next = 1
            options = {"proxy": proxy.url, "max_retries": retry, **tls_options("requests", authority)}
            with make("requests", origins=server.origin, access_token=TOKEN, **options) as client:
                assert client.send("GET", server.url("/r")).status == 200
            assert_fresh(server.requests, "https")
            assert len(server.requests) == 2


def test_a_proxys_challenge_is_not_answered(client: Callable[..., Any]) -> None:
    """407 with a DPoP challenge: no proof for the proxy, no second request, its nonce is not kept (RFC 9449 §7.1)."""
    fields = [("Proxy-Authenticate", 'DPoP error="use_dpop_nonce"'), ("DPoP-Nonce", "evil")]
    with ForwardProxy(refuse=fields) as proxy, Recorder(script(Reply(200))) as server:
        prover = Prover(dpop.generate_key())
        one = client(prover, origins=server.origin, access_token=TOKEN, proxy=proxy.url)
        assert one.send("GET", server.url("/r")).status == 407
        assert len(proxy.seen) == 1
        assert server.requests == []
        assert client(prover, origins=server.origin, access_token=TOKEN).send("GET", server.url("/r")).status == 200
        assert [request.nonce for request in server.requests] == [None]


# -- TLS, HTTP/2, streams, hooks, netrc, base URLs ----------------------------------------------


def test_with_a_client_certificate(name: str, client: Callable[..., Any], authority: Authority) -> None:
    """Mutual TLS and DPoP go together."""
    tls = authority.server_context(want_client=True)
    with Recorder(script(challenge("n1"), Reply(200)), tls=tls) as server:
        one = client(origins=server.origin, access_token=TOKEN, **tls_options(name, authority))
        assert one.send("GET", server.url("/r")).status == 200
        assert_fresh(server.requests, "https")


@pytest.mark.parametrize("name", HTTPX, indirect=True)
def test_over_http2(name: str, client: Callable[..., Any], authority: Authority) -> None:
    """HTTP/2: signed for the authority, challenges and redirects included, one proof per stream."""

    def handler(request: Received) -> Reply:
        if request.nonce != "n1":
            return challenge("n1", b"no")
        return Reply(200, body=b"yes") if request.target == "/there" else Reply(307, [("location", "/there")])

    with Http2Recorder(handler, tls=authority.server_context(http2=True)) as server:
        one = client(origins=server.origin, access_token=TOKEN, http2=True, **tls_options(name, authority))
        for _ in range(3):
            assert one.send("POST", server.url("/here"), body=one.bytes_body(BODY)).status == 200
        assert len(server.requests) == 7
        assert {request.line.split(" ")[2] for request in server.requests} == {"HTTP/2"}
        assert {request.connection for request in server.requests} == {1}
        assert {request.body for request in server.requests} == {BODY}
        assert_fresh(server.requests, "https")


@pytest.mark.parametrize("name", HTTPX, indirect=True)
@pytest.mark.parametrize("size", [400_000, 5_000_000])
def test_an_http2_connection_survives_the_challenges_that_are_dropped(
    name: str, client: Callable[..., Any], authority: Authority, size: int
) -> None:
    """Their bodies count against what the connection may receive: they are read, or another connection is opened."""
    rounds, connections = (60, 1) if size < 1_000_000 else (5, 6)
    served = itertools.count(1)
    expected = [0]

    def handler(request: Received) -> Reply:
        if request.nonce != f"n{expected[0]}":
            return challenge(f"n{expected[0]}", b"x" * size)
        expected[0] = next(served)
        return Reply(200, body=b"yes")

    with Http2Recorder(handler, tls=authority.server_context(http2=True)) as server:
        one = client(origins=server.origin, access_token=TOKEN, http2=True, **tls_options(name, authority))
        assert [one.send("GET", server.url("/r")).status for _ in range(rounds)] == [200] * rounds
        assert len(server.requests) == 2 * rounds
        assert len({request.connection for request in server.requests}) == connections


def test_a_streamed_answer_is_not_read_early(name: str) -> None:
    """A streamed 200 reaches the caller while the server is still sending it."""
    pieces = itertools.count()

    def endless() -> Iterator[bytes]:
        for _ in pieces:
            yield b"x" * 1000
            time.sleep(0.01)

    with Recorder(lambda request: Reply(200, [("DPoP-Nonce", "n1")], endless())) as server:
        with make(name, origins=server.origin, access_token=TOKEN) as one:
            assert first_bytes(one, server.url("/r")) == b"x"


def first_bytes(client: Any, url: str) -> bytes:
    """The first byte of a streamed answer, in the way of each library."""
    if client.name == "requests":
        with client.session.get(url, stream=True, timeout=60) as response:
            return bytes(next(response.iter_content(1)))
    if client.name == "aiohttp":

        async def read_one() -> bytes:
            async with client.session.get(url) as response:
                return bytes(await response.content.read(1))

        return bytes(client.runner.run(read_one()))
    if client.name in ASYNCHRONOUS:

        async def read() -> bytes:
            async with client.client.stream("GET", url) as response:
                async for chunk in response.aiter_bytes(1):
                    return bytes(chunk)
            return b""

        return bytes(client.runner.run(read()))
    with client.client.stream("GET", url) as response:
        return bytes(next(response.iter_bytes(1)))


def test_hooks_that_raise_do_not_see_the_challenge(name: str) -> None:
    """A user's raise_for_status hook sees the final answer only, so the nonce retry survives it."""
    seen: list[int] = []

    def check(response: Any, *_args: Any, **_options: Any) -> None:
        seen.append(response.status if name == "aiohttp" else response.status_code)
        response.raise_for_status()

    async def acheck(response: Any) -> None:
        check(response)

    with Recorder(script(challenge("n1"), Reply(200))) as server:
        with make(name, origins=server.origin, access_token=TOKEN) as one:
            if name == "requests":
                one.session.hooks["response"].append(check)
            elif name == "aiohttp":
                one.session._raise_for_status = acheck
            else:
                one.client.event_hooks["response"] = [acheck if name in ASYNCHRONOUS else check]
            assert one.send("GET", server.url("/r")).status == 200
        assert seen == [200]


def test_netrc_does_not_displace_the_token(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A .netrc entry for the host: DPoP survives it, also on a redirect."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login mallory password secret\n", "utf-8")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    responses = script(Reply(307, [("Location", "/there")]), Reply(200))
    with Recorder(responses) as server:
        user = (dpop.generate_key(), "theirs")
        with make(name, origins=server.origin, access_token=TOKEN, trust_env=True) as one:
            one.send("GET", server.url("/here"))
            one.send("GET", server.url("/here"), user=user)
        sent = [request.one("Authorization") for request in server.requests]
        assert sent == [f"DPoP {TOKEN}"] * 2 + ["DPoP theirs"]


@pytest.mark.parametrize("name", ["httpx", "httpx2"], indirect=True)
def test_with_a_base_url_and_wrapped_transports(name: str, client: Callable[..., Any]) -> None:
    """base_url joins before signing, and a given transport is used as it is."""
    one = client(origins="https://api.example", access_token=TOKEN)
    library, integration = one.library, one.integration
    seen: list[Any] = []

    def answer(request: Any) -> Any:
        seen.append(request)
        if len(seen) == 1:
            return library.Response(
                401, headers={"WWW-Authenticate": 'DPoP error="use_dpop_nonce"', "DPoP-Nonce": "n1"}, content=b"no"
            )
        return library.Response(200, content=b"yes")

    transport = integration.DPoPTransport(
        dpop.generate_key(), origins="https://api.example", access_token=TOKEN, transport=library.MockTransport(answer)
    )
    with library.Client(transport=transport, base_url="https://api.example/v1/", timeout=60) as wrapped:
        response = wrapped.post("things", json={"a": 1})
    assert (response.status_code, response.content) == (200, b"yes")
    assert [request.content for request in seen] == [seen[0].content] * 2
    claims = json.loads(base64.urlsafe_b64decode(seen[1].headers["DPoP"].split(".")[1] + "=="))
    assert (claims["htu"], claims["nonce"]) == ("https://api.example/v1/things", "n1")
    assert "DPoP" not in response.request.headers
    with pytest.raises(UsageError, match="retries"):
        integration.DPoPTransport(
            dpop.generate_key(), origins="https://api.example", transport=library.MockTransport(answer), retries=3
        )


@pytest.mark.parametrize("name", ["httpx", "httpx2"], indirect=True)
def test_a_given_transport_gets_a_complete_request(name: str, client: Callable[..., Any]) -> None:
    """Its content can be looked at without reading, and its method is that of the proof, whatever a hook made of it."""
    one = client(origins="https://api.example", access_token=TOKEN)
    library, integration = one.library, one.integration
    seen: list[tuple[bytes, str, str]] = []

    class Given(library.BaseTransport):  # type: ignore[misc]
        def handle_request(self, request: Any) -> Any:
            claims = json.loads(base64.urlsafe_b64decode(request.headers["DPoP"].split(".")[1] + "=="))
            seen.append((request.content, request.method, claims["htm"]))
            return library.Response(200)

    def hook(request: Any) -> None:
        request.method = request.method.lower()

    transport = integration.DPoPTransport(
        dpop.generate_key(), origins="https://api.example", access_token=TOKEN, transport=Given()
    )
    with library.Client(transport=transport, event_hooks={"request": [hook]}, timeout=60) as wrapped:
        wrapped.post("https://api.example/things", content=b"abc")
    assert seen == [(b"abc", "POST", "POST")]


@pytest.mark.parametrize("name", ["httpx", "httpx2"], indirect=True)
def test_a_callers_request_is_left_as_it_is(name: str, client: Callable[..., Any]) -> None:
    """What a foreign origin does not get is not taken out of the caller's own request, nor is anything put in."""
    with Recorder(script(Reply(200))) as ours, Recorder(script(Reply(200))) as foreign:
        one = client(origins=ours.origin)
        for server in (ours, foreign):
            request = one.client.build_request("GET", server.url("/r"), headers={"Authorization": "DPoP mine"})
            before = request.headers.raw.copy()
            one.client.send(request)
            assert request.headers.raw == before
        assert ours.requests[0].one("Authorization") == "DPoP mine"
        assert foreign.requests[0].all("Authorization") == []


@pytest.mark.parametrize("name", ["requests", *HTTPX], indirect=True)
def test_auth_without_an_adapter_says_so(name: str) -> None:
    """DPoPAuth on a client that does not sign: an error that names what is missing, and no token sent."""
    with Recorder(script(Reply(200))) as server:
        with make(name, origins="https://api.example") as one:
            auth = (dpop.requests if name == "requests" else one.integration).DPoPAuth(
                dpop.generate_key(), "secret-token"
            )
            with pytest.raises(UsageError, match="without a proof"):
                if name == "requests":
                    requests.get(server.url("/r"), auth=auth, timeout=60)
                elif name in ASYNCHRONOUS:

                    async def send() -> None:
                        async with one.library.AsyncClient(auth=auth, trust_env=False, timeout=60) as bare:
                            await bare.get(server.url("/r"))

                    one.runner.run(send())
                else:
                    one.library.Client(auth=auth, trust_env=False, timeout=60).get(server.url("/r"))
        assert server.requests[0].all("Authorization") == []


@pytest.mark.parametrize("name", ["httpx", "httpx2"], indirect=True)
def test_credentials_for_one_request_take_a_bare_key(name: str, client: Callable[..., Any]) -> None:
    """extensions={"dpop": ...} with a key as it is, for a stream too after priming for the same key."""
    key = dpop.generate_key()
    with Recorder(script(challenge("n1"), Reply(200))) as server:
        one = client(origins=server.origin)
        assert one.transport.prime(server.url("/r"), prover=Prover(key), method="GET") is True
        extensions = {"dpop": dpop.RequestCredentials(key, "theirs")}
        one.send("GET", server.url("/r"), extensions=extensions)
        assert server.requests[1].one("Authorization") == "DPoP theirs"
        assert dpop.thumbprint(server.requests[1].jwk) == key.thumbprint


@pytest.mark.parametrize("token", [5, b"bytes", ["list"], "two words", ""])
def test_credentials_are_checked_where_they_are_given(name: str, client: Callable[..., Any], token: Any) -> None:
    """Not when the request is half sent."""
    one = client(origins="https://api.example")
    if name == "aiohttp":
        own = one.transport.with_credentials
    else:
        own = (dpop.requests if name == "requests" else one.integration).DPoPAuth
    for carrier in (own, dpop.RequestCredentials):
        with pytest.raises(UsageError, match=r"access.token"):
            carrier(dpop.generate_key(), token)
        with pytest.raises(UsageError, match="key must be"):
            carrier(token)


@pytest.mark.parametrize("name", ["aiohttp", *HTTPX], indirect=True)
def test_priming_does_not_wait_for_ever(name: str, client: Callable[..., Any]) -> None:
    """A transport does not know its client's timeout, so priming has its own."""
    gate = threading.Event()

    def handler(_request: Received) -> Reply:
        gate.wait(60)
        return Reply(200)

    with Recorder(handler) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        try:
            with pytest.raises(TimeoutError if name == "aiohttp" else one.library.ReadTimeout):
                session = [one.session] if name == "aiohttp" else []
                primed = one.transport.prime(*session, server.url("/r"), timeout=0.05)
                if name in ASYNCHRONOUS:
                    one.runner.run(primed)
        finally:
            gate.set()


# -- a pool of one ------------------------------------------------------------------------------


def test_a_pool_of_one_does_not_deadlock(name: str, client: Callable[..., Any]) -> None:
    """With a single connection the challenge's connection is given back before the retry."""
    with Recorder(script(challenge("n1", b"x" * 100_000), challenge("n2", b"y"), Reply(200))) as server:
        one = client(origins=server.origin, access_token=TOKEN, **pool_of_one(name))
        assert [one.send("GET", server.url("/r")).status for _ in range(2)] == [200, 200]
        assert len(server.requests) == 4


def test_a_connection_lives_as_long_as_requests_lets_it(authority: Authority) -> None:
    """One connection while nothing changes; another after close(), or for other TLS settings."""
    tls = authority.server_context()
    with Recorder(lambda _request: Reply(200), tls=tls) as server, requests.Session() as session:
        session.trust_env = False
        session.verify = authority.ca
        session.mount(server.origin, dpop.requests.DPoPAdapter(dpop.generate_key(), origins=server.origin))
        for _ in range(3):
            session.get(server.url("/r"))
        session.close()
        session.get(server.url("/r"))
        with pytest.raises(requests.exceptions.SSLError):
            session.get(server.url("/r"), verify=True)
        session.get(server.url("/r"))
        numbers = [request.connection for request in server.requests]
        assert numbers[0] == numbers[1] == numbers[2] != numbers[3] == numbers[4]


# -- keys and secrets ---------------------------------------------------------------------------


class DeviceKey:
    """A key that cannot export, copy or pickle."""

    def __init__(self) -> None:
        self._key = dpop.generate_key()
        self.alg = self._key.alg
        self.public_jwk: Mapping[str, str] = self._key.public_jwk
        self.thumbprint = self._key.thumbprint
        self.blocking = True

    def sign(self, signing_input: bytes) -> bytes:
        return self._key.sign(signing_input)

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError


def test_a_key_that_cannot_export(client: Callable[..., Any]) -> None:
    """Everything an adapter does works with a key that only signs."""
    with Recorder(script(challenge("n1"), Reply(307, [("Location", "/there")]), Reply(200))) as server:
        one = client(DeviceKey(), origins=server.origin, access_token=TOKEN)
        assert one.send("POST", server.url("/r"), body=one.bytes_body(BODY)).status == 200
        assert_fresh(server.requests)


def test_nothing_secret_is_logged_or_shown(client: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    """At DEBUG level, with the filter for other libraries, no log or repr has a token, proof or nonce."""
    masking = RedactingFilter()
    caplog.handler.addFilter(masking)
    caplog.set_level(logging.DEBUG)
    with Recorder(script(challenge("secret-nonce"), Reply(307, [("Location", "/there")]), Reply(drop=True))) as server:
        one = client(origins=server.origin, access_token="very-secret-token")
        with pytest.raises(Exception, match=r".") as failed:
            one.send("POST", server.url("/r"), body=one.bytes_body(BODY))
    shown = caplog.text + repr(one.transport) + repr(vars(one.transport)) + str(failed.getrepr(style="short"))
    request = getattr(failed.value, "request", None)
    shown += repr(getattr(request, "headers", ""))
    caplog.handler.removeFilter(masking)
    assert "dpop" in shown.lower()
    for secret in ("very-secret-token", "secret-nonce", *(r.one("DPoP")[-40:] for r in server.requests)):
        assert secret not in shown


def test_our_own_loggers_need_no_filter(client: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    """What this package logs itself has nothing to mask."""
    caplog.set_level(logging.DEBUG, "dpop")
    with Recorder(script(challenge("secret-nonce"), challenge("other-nonce"))) as server:
        one = client(origins=server.origin, access_token="very-secret-token")
        one.send("GET", server.url("/r"))
    own = [record.getMessage() for record in caplog.records if record.name.startswith("dpop")]
    assert own
    assert not any(secret in "".join(own) for secret in ("secret-nonce", "other-nonce", "very-secret", "eyJ"))


# -- client assertions --------------------------------------------------------------------------


def test_a_client_assertion_is_sent_once(client: Callable[..., Any]) -> None:
    """A bare adapter hands the challenge on; with rebuild= the retry has a new assertion."""
    numbers = itertools.count(1)

    def rebuild(body: bytes) -> bytes:
        fields = dict(urllib.parse.parse_qsl(body.decode()))
        fields["client_assertion"] = f"assertion-{next(numbers)}-longer-than-before"
        return urllib.parse.urlencode(fields).encode()

    wants = Reply(400, [("DPoP-Nonce", "n1")], b'{"error":"use_dpop_nonce"}')
    form = {"grant_type": "client_credentials", "client_assertion": "assertion-0"}
    for option, expected in ((None, 1), (rebuild, 2)):
        with Recorder(script(wants, Reply(200))) as server:
            one = client(origins=server.origin, rebuild=option)
            reply = one.send("POST", server.url("/token"), body=one.form_body(form))
            assert (reply.status, len(server.requests)) == (200 if option else 400, expected)
            assertions = [dict(urllib.parse.parse_qsl(r.body.decode()))["client_assertion"] for r in server.requests]
            assert assertions == ["assertion-0", "assertion-1-longer-than-before"][:expected]
            assert all(request.complete for request in server.requests)


def test_a_client_assertion_is_not_sent_again_by_urllib3() -> None:
    """A used assertion is refused, and rebuild= cannot reach what urllib3 retries: the 503 is handed on."""
    retry = Retry(total=3, status_forcelist=[503], allowed_methods=None, backoff_factor=0)
    form = {"grant_type": "client_credentials", "client_assertion": "assertion-0"}
    with Recorder(script(Reply(503, [("Retry-After", "0")]), Reply(200))) as server:
        with make("requests", origins=server.origin, max_retries=retry) as one:
            assert one.send("POST", server.url("/token"), body=one.form_body(form)).status == 503
        assert len(server.requests) == 1


# -- clocks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [90, -90])
def test_a_wrong_clock_is_explained_and_learnt(
    client: Callable[..., Any], ahead: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The refusal is explained with the measured difference; with learn_clock=True the next call succeeds."""

    def handler(request: Received) -> Reply:
        now = time.time() + ahead
        if abs(request.claims["iat"] - now) < 30:
            return Reply(200)
        headers = [("WWW-Authenticate", 'DPoP error="invalid_dpop_proof"'), ("Date", formatdate(now, usegmt=True))]
        return Reply(401, headers)

    with Recorder(handler) as server:
        one = client(origins=server.origin, access_token=TOKEN, learn_clock=True)
        assert [one.send("GET", server.url("/r")).status for _ in range(2)] == [401, 200]
        assert len(server.requests) == 2
    assert f"s {'ahead of' if ahead > 0 else 'behind'} this machine" in caplog.text


# -- cookies and authorization of others ---------------------------------------------------------


def test_cookies_of_a_challenge_go_with_the_retry(name: str, client: Callable[..., Any]) -> None:
    """A load balancer's cookie on the 401 brings the retry to the server that gave the nonce, and stays in the jar."""
    answer = challenge("n1")
    answer.headers += [("Set-Cookie", "node=7; Path=/"), ("Set-Cookie", "changed=new; Path=/")]
    last = Reply(200, [("Set-Cookie", "last=9; Path=/")])
    with Recorder(script(answer, last)) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        if name == "aiohttp":
            jar = one.session.cookie_jar
            jar.update_cookies({"old": "1", "changed": "1"}, URL(server.origin))
        else:
            jar = one.session.cookies if name == "requests" else one.client.cookies
            for cookie in ("old", "changed"):
                jar.set(cookie, "1", domain="127.0.0.1", path="/")
        assert one.send("GET", server.url("/r")).status == 200
        if name == "aiohttp":
            kept = {cookie.key: cookie.value for cookie in jar}
        else:
            kept = {cookie.name: cookie.value for cookie in (jar if name == "requests" else jar.jar)}
        assert kept == {"old": "1", "changed": "new", "node": "7", "last": "9"}
        assert sorted(server.requests[0].one("Cookie").split("; ")) == ["changed=1", "old=1"]
        assert sorted(server.requests[1].one("Cookie").split("; ")) == ["changed=new", "node=7", "old=1"]


def test_a_callers_own_cookies_survive_a_challenge() -> None:
    """A Cookie header the caller wrote goes with the retry too, and the answer names the caller's request."""
    answer = challenge("n1")
    answer.headers.append(("Set-Cookie", "node=7; Path=/"))
    with Recorder(script(answer, Reply(200))) as server, requests.Session() as session:
        session.trust_env = False
        session.mount(
            "http://", dpop.requests.DPoPAdapter(dpop.generate_key(), origins=server.origin, access_token="t")
        )
        prepared = requests.Request("GET", server.url("/r"), headers={"Cookie": "own=1"}).prepare()
        response = session.send(prepared, timeout=60)
        assert [request.one("Cookie") for request in server.requests] == ["own=1"] * 2
        assert response.request is prepared


@pytest.mark.parametrize("name", ["httpx2"], indirect=True)  # httpx itself counts such a file from its beginning
def test_a_file_is_sent_again_from_where_it_stood(client: Callable[..., Any]) -> None:
    """Not from its beginning; and the caller's own trace sees every request."""
    seen: list[str] = []
    with Recorder(script(challenge("n1"), Reply(200))) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        file = io.BytesIO(b"skipped" + BODY)
        file.seek(7)
        extensions = {"trace": lambda event, _info: seen.append(event)}
        assert one.send("POST", server.url("/r"), body={"content": file}, extensions=extensions).status == 200
        assert [request.body for request in server.requests] == [BODY] * 2
        assert seen.count("http11.send_request_headers.started") == 2


def test_one_prepared_request_sent_twice_has_two_proofs() -> None:
    """Session.send() with the same prepared request signs each time."""
    with Recorder(script(Reply(200))) as server:
        with make("requests", origins=server.origin, access_token=TOKEN) as client:
            prepared = client.session.prepare_request(requests.Request("POST", server.url("/r"), data=BODY))
            for _ in range(2):
                client.session.send(prepared)
            assert "DPoP" not in prepared.headers
        assert_fresh(server.requests)


def test_ath_is_the_hash_of_the_token_that_is_sent(client: Callable[..., Any]) -> None:
    """A function's token is asked for with each attempt; header and hash always agree."""
    tokens = (f"token-{number}" for number in itertools.count())
    with Recorder(script(challenge("n1"), Reply(307, [("Location", "/there")]), Reply(200))) as server:
        one = client(origins=server.origin, access_token=lambda: next(tokens))
        assert one.send("GET", server.url("/r")).status == 200
        for number, request in enumerate(server.requests):
            assert request.one("Authorization") == f"DPoP token-{number}"
            digest = hashlib.sha256(f"token-{number}".encode()).digest()
            assert request.claims["ath"] == base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


# -- token sources that fail or need a connection themselves ---------------------------------------


@pytest.mark.parametrize(
    "error", [OSError("disk"), requests.ConnectionError("refresh"), ValueError("bad"), TimeoutError()]
)
def test_what_a_token_source_raises_is_raised(client: Callable[..., Any], name: str, error: Exception) -> None:
    """A failing source is no failing connection: its own error comes out, nothing is sent, nothing retried."""
    asked: list[int] = []

    def source() -> str:
        asked.append(1)
        raise error

    options = {"max_retries": 3} if name == "requests" else {}
    with Recorder(script(Reply(200))) as server:
        one = client(origins=server.origin, access_token=source, **options)
        with pytest.raises((ValueError, OSError)) as raised:
            one.send("GET", server.url("/r"))
        # aiohttp makes an error of its own of every OSError.
        wrapped = name == "aiohttp" and isinstance(error, OSError) and not isinstance(error, TimeoutError)
        assert (raised.value.__cause__ if wrapped else raised.value) is error
        assert (len(asked), len(server.requests)) == (1, 0)


def test_a_source_that_fails_on_a_retry_says_so() -> None:
    """On urllib3's own retries too, an OSError of the source is not taken for one of the connection."""
    tokens = iter(["first"])

    def source() -> str:
        try:
            return next(tokens)
        except StopIteration:
            raise OSError("no second token") from None

    retry = Retry(total=5, status_forcelist=[503], backoff_factor=0)
    with Recorder(script(Reply(503), Reply(200))) as server:
        with make("requests", origins=server.origin, access_token=source, max_retries=retry) as one:
            with pytest.raises(OSError, match="no second token"):
                one.send("GET", server.url("/r"))
        assert len(server.requests) == 1


def test_a_source_may_use_the_adapter_itself() -> None:
    """A source that refreshes through the same session, on a pool of one: no deadlock, each with its own proof."""
    with Recorder(script(Reply(200, [("DPoP-Nonce", "n1")], b"fresh-token"))) as server:
        clients: list[Any] = []

        def source() -> str:
            answer = clients[0].session.post(server.url("/token"), data={"a": "b"}, timeout=60)
            return str(answer.text)

        options = {"as_endpoints": [server.url("/token")], "pool_maxsize": 1, "pool_block": True}
        with make("requests", origins=server.origin, access_token=source, **options) as one:
            clients.append(one)
            assert one.send("GET", server.url("/r")).status == 200
        token, resource = server.requests
        assert token.all("Authorization") == []
        assert resource.one("Authorization") == "DPoP fresh-token"
        assert_fresh(server.requests)


INVALID_TOKEN = Reply(401, [("WWW-Authenticate", 'DPoP error="invalid_token"')], b"expired")


@pytest.mark.parametrize("name", ["requests", "httpx", "httpx2"], indirect=True)
def test_a_source_may_refresh_through_the_adapter_itself(name: str, client: Callable[..., Any]) -> None:
    """A source that hears invalid_token and asks on the same pool of one: the refused answer is out of its way."""

    class Source:
        token = "first"

        def __call__(self) -> str:
            return self.token

        def refused(self, _token: str, /) -> None:
            reply = one.send("POST", server.url("/token"), body=one.form_body({"a": "b"}), timeout=60)
            self.token = reply.body.decode()

    def handler(request: Received) -> Reply:
        if request.target == "/token":
            return Reply(200, body=b"second")
        return Reply(200) if request.one("Authorization") == "DPoP second" else INVALID_TOKEN

    with Recorder(handler) as server:
        options = {"as_endpoints": [server.url("/token")], **pool_of_one(name)}
        one = client(origins=server.origin, access_token=Source(), **options)
        replies: list[int] = []
        # In a thread, because requests waits for a connection for ever.
        thread = threading.Thread(target=lambda: replies.append(one.send("GET", server.url("/r")).status), daemon=True)
        thread.start()
        thread.join(60)
        assert replies == [200]
        assert [request.target for request in server.requests] == ["/r", "/token", "/r"]


@pytest.mark.parametrize("when", ["source", "body", "event"])
def test_a_request_made_while_another_is_sent_has_nothing_of_it(when: str) -> None:
    """A source, a body or an event hook may use a token endpoint: that request carries no token of an API."""

    def now(name: str) -> None:
        if name == when:
            endpoint.revoke("an-old-token")

    def source() -> str:
        now("source")
        return TOKEN

    def body() -> Iterator[bytes]:
        yield b"a"
        now("body")

    with (
        Recorder(script(Reply(200, [("DPoP-Nonce", "of-as")]))) as server,
        Recorder(script(Reply(503), Reply())) as api,
    ):
        metadata = ServerMetadata(token_endpoint=server.url("/token"), revocation_endpoint=server.url("/revoke"))
        prover = Prover(dpop.generate_key(), events=lambda _: now("event"))
        adapter = dpop.requests.DPoPAdapter(
            prover, origins=api.origin, access_token=source, max_retries=Retry(2, status_forcelist=[503])
        )
        options = {"client_id": "client", "client_secret": "secret"}
        with dpop.requests.TokenEndpoint(prover, metadata, **options) as endpoint, requests.Session() as session:
            session.mount(api.origin, adapter)
            session.get(api.url())
            session.post(api.url(), data=body() if when == "body" else None)
        assert server.requests
        for request in server.requests:
            assert request.one("Authorization").startswith("Basic ")
            assert request.all("DPoP") == []
        assert_fresh(api.requests)
        assert {request.nonce for request in api.requests} == {None}


@pytest.mark.parametrize("kind", ["bytes", "stream"])
def test_a_source_that_cannot_refresh_gives_the_connection_back(
    name: str, client: Callable[..., Any], kind: str
) -> None:
    """What refused() raises comes out, and the answer nobody gets does not keep its connection."""

    class Source:
        def __call__(self) -> str:
            return "token"

        def refused(self, _token: str, /) -> None:
            raise OSError("no refresh")

    with Recorder(script(INVALID_TOKEN, Reply(200))) as server:
        one = client(origins=server.origin, access_token=Source(), **pool_of_one(name))
        with pytest.raises(OSError, match="no refresh") as kept:
            one.send("POST", server.url("/r"), body=getattr(one, f"{kind}_body")(BODY))
        replies: list[int] = []

        def again() -> None:
            replies.append(one.send("GET", server.url("/r"), timeout=60).status)

        if name in ASYNCHRONOUS:
            again()
        else:
            thread = threading.Thread(target=again, daemon=True)
            thread.start()
            thread.join(60)
        assert replies == [200]
        assert kept.value is not None


def test_a_body_that_tells_and_cannot_go_back_is_sent_once() -> None:
    """A download handed on as an upload: requests notes its position, but the 401 is returned, not an error."""

    class Download(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_where: int) -> int:
            raise io.UnsupportedOperation("seek")

    with Recorder(script(challenge("n1"), Reply(200))) as server:
        with make("requests", origins=server.origin, access_token=TOKEN) as one:
            assert one.send("POST", server.url("/r"), body={"data": Download(BODY)}).status == 401
        assert [request.body for request in server.requests] == [BODY]


def test_a_huge_nonce_is_not_kept(client: Callable[..., Any]) -> None:
    """A nonce that would make every later proof too large for a header is ignored."""
    with Recorder(script(Reply(200, [("DPoP-Nonce", "n" * 5000)]))) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        for _ in range(2):
            one.send("GET", server.url("/r"))
        assert [request.nonce for request in server.requests] == [None, None]


# -- answers that break off ------------------------------------------------------------------------


def cut_short(client: Any) -> Any:
    """The error of each library for a body that ends before its end."""
    if client.name == "requests":
        return requests.exceptions.ChunkedEncodingError
    return client.library.ClientPayloadError if client.name == "aiohttp" else client.library.RemoteProtocolError


def test_a_cut_off_400_fails_as_the_library_fails(client: Callable[..., Any]) -> None:
    """A 400 whose body breaks off while it is looked into: the library's own error, and the nonce is kept."""
    cut = Reply(400, [("DPoP-Nonce", "n1"), ("Connection", "close")], b'{"error":"use_dp', content_length=100)
    with Recorder(script(cut, Reply(200))) as server:
        one = client(origins=server.origin)
        expected = cut_short(one)
        with pytest.raises(expected):
            one.send("POST", server.url("/token"), body=one.form_body({"a": "b"}), headers={"Connection": "close"})
        one.send("POST", server.url("/token"), body=one.form_body({"a": "b"}))
        assert [request.nonce for request in server.requests] == [None, "n1"]


def test_a_400_whose_chunks_break_off_is_not_taken_for_whole(client: Callable[..., Any]) -> None:
    """A chunked 400 that ends too early while it is looked into: the caller gets the library's error, not a part."""

    def body() -> Iterator[bytes]:
        yield b'{"error":"use_dp'
        raise ConnectionAbortedError

    with Recorder(script(Reply(400, [("DPoP-Nonce", "n1")], body()))) as server:
        one = client(origins=server.origin)
        expected = cut_short(one)
        with pytest.raises(expected):
            one.send("POST", server.url("/token"), body=one.form_body({"a": "b"}))


def test_a_nonce_survives_the_failure_of_its_retry(client: Callable[..., Any]) -> None:
    """The retry's connection drops: the next call still carries the nonce the challenge gave."""
    with Recorder(script(challenge("n1"), Reply(drop=True), Reply(200))) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        with pytest.raises(Exception, match=r"(?i)disconnect|abort|closed|reset|remote"):
            one.send("POST", server.url("/r"), body=one.bytes_body(BODY))
        assert one.send("GET", server.url("/r")).status == 200
        assert [request.nonce for request in server.requests] == [None, "n1", "n1"]


def test_a_stalled_challenge_that_closes_its_connection(client: Callable[..., Any]) -> None:
    """Connection: close and a body that does not end: the retry does not wait for it, whatever the timeout."""
    retried = threading.Event()
    in_time: list[bool] = []

    def body() -> Iterator[bytes]:
        yield b"x"
        in_time.append(retried.wait(60))

    def handler(request: Received) -> Reply:
        if request.nonce == "n1":
            retried.set()
            return Reply(200)
        return Reply(401, [*challenge("n1").headers, ("Connection", "close")], body())

    with Recorder(handler) as server:
        assert client(origins=server.origin, access_token=TOKEN).send("GET", server.url("/r")).status == 200
    assert False not in in_time  # empty, where the client was gone before the body began to wait


def test_a_content_length_of_5000_digits() -> None:
    """A length that Python refuses to read as a number is no reason to fail."""
    answer = challenge("n1")
    answer.content_length = "9" * 5000  # type: ignore[assignment]
    with Recorder(script(answer, Reply(200))) as server:
        with make("requests", origins=server.origin, access_token=TOKEN) as one:
            assert one.send("GET", server.url("/r"), timeout=60).status == 200


# -- what HTTP/2 sends again -------------------------------------------------------------------------


@pytest.mark.parametrize("name", HTTPX, indirect=True)
def test_a_stream_refused_by_goaway_is_signed_again(
    name: str, client: Callable[..., Any], authority: Authority
) -> None:
    """A server ends its connection gracefully: the library sends the stream again, with another proof."""
    for kind in ("bytes", "file", "multipart"):
        responses = script(Reply(200), Reply(drop=True), Reply(200))
        with Http2Recorder(responses, tls=authority.server_context(http2=True)) as server:
            one = client(origins=server.origin, access_token=TOKEN, http2=True, **tls_options(name, authority))
            for _ in range(2):
                body = getattr(one, f"{kind}_body")(BODY)
                assert one.send("POST", server.url("/r"), body=body).status == 200
            assert [request.connection for request in server.requests] == [1, 1, 2]
            assert [BODY in request.body for request in server.requests] == [True] * 3
            assert_fresh(server.requests, "https")


# -- the caller's own settings of one request --------------------------------------------------------


@pytest.mark.parametrize("name", HTTPX, indirect=True)
def test_a_callers_trace_hears_of_every_request(name: str, client: Callable[..., Any]) -> None:
    """The library's trace extension tells of both requests on the wire, from their headers to their end."""
    heard: list[str] = []

    def trace(event: str, _info: Any) -> None:
        heard.append(event)

    async def async_trace(event: str, info: Any) -> None:
        trace(event, info)

    with Recorder(script(challenge("n1"), Reply(200))) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        extensions = {"trace": async_trace if name in ASYNCHRONOUS else trace}
        assert one.send("GET", server.url("/r"), extensions=extensions).status == 200
    for event in ("send_request_headers.started", "receive_response_headers.complete", "response_closed.complete"):
        assert heard.count(f"http11.{event}") == 2


@pytest.mark.parametrize("name", ["aiohttp", *HTTPX], indirect=True)
def test_to_drop_a_challenge_shortens_no_timeout_of_the_retry(name: str, client: Callable[..., Any]) -> None:
    """A second is enough to drain a challenge; the answer to the retry may take as long as the caller allows."""

    def handler(request: Received) -> Reply:
        if request.nonce is None:
            return challenge("n1")
        time.sleep(1.3)
        return Reply(200)

    with Recorder(handler) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        assert one.send("GET", server.url("/r"), timeout=60).status == 200


def test_a_400_is_not_looked_into_beyond_its_limit(name: str) -> None:
    """Ten kilobytes are looked at: a 400 that goes on reaches the caller while the server still sends it."""
    handed_over = threading.Event()
    in_time: list[bool] = []

    def endless() -> Iterator[bytes]:
        yield b"x" * 20_000
        in_time.append(handed_over.wait(60))
        yield b"x"

    answer = Reply(400, [("DPoP-Nonce", "n1")], endless())
    with Recorder(lambda _: answer) as server:
        with make(name, origins=server.origin) as one:
            assert first_bytes(one, server.url("/token")) == b"x"
            handed_over.set()
    assert False not in in_time


class OneWayFile(io.RawIOBase):
    """A file that is read once and tells nobody where it is."""

    def __init__(self, payload: bytes) -> None:
        self.payload = payload

    def read(self, size: int = -1) -> bytes:
        size = len(self.payload) if size < 0 else size
        taken, self.payload = self.payload[:size], self.payload[size:]
        return taken

    def readable(self) -> bool:
        return True


def test_a_multipart_body_that_cannot_go_back_is_sent_once(client: Callable[..., Any], name: str) -> None:
    """A challenge to a form with a pipe in it reaches the caller, and the nonce is kept."""
    with Recorder(script(challenge("n1"), Reply(200))) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        body = one.multipart_of(OneWayFile(BODY))
        # requests reads the file into memory before, and so can send it again.
        expected = [401, 200] if name == "requests" else [401]
        assert one.send("POST", server.url("/r"), body=body).status == expected[-1]
        assert len(server.requests) == len(expected)
        assert BODY in server.requests[0].body


@pytest.mark.parametrize("name", HTTPX, indirect=True)
def test_a_request_is_gone_when_it_is_over(name: str, client: Callable[..., Any]) -> None:
    """Nothing that is sent, body and all, waits for the garbage collector."""
    library = CLIENTS[name].library
    sent: list[weakref.ref[Any]] = []

    class Inner(library.BaseTransport, library.AsyncBaseTransport):  # type: ignore[misc, name-defined]
        def handle_request(self, request: Any) -> Any:
            sent.append(weakref.ref(request))
            return library.Response(200)

        async def handle_async_request(self, request: Any) -> Any:
            return self.handle_request(request)

    one = client(origins="https://api.example", access_token=TOKEN, transport=Inner())
    gc.disable()
    try:
        for trace in ({}, {"extensions": {"trace": print}}):
            assert one.send("POST", "https://api.example/", body=one.bytes_body(BODY), **trace).status == 200
        assert [request() for request in sent] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("name", HTTPX, indirect=True)  # the others have one Host, whatever they are given
def test_a_request_that_names_two_hosts_is_not_sent(name: str, client: Callable[..., Any]) -> None:
    """No proof can name both, and to name one of them would be a guess."""
    with Recorder(lambda _: Reply()) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        with pytest.raises(InvalidTargetError):
            one.send("GET", server.url("/r"), headers=[("Host", "a.example"), ("host", f"127.0.0.1:{server.port}")])
        assert server.requests == []
