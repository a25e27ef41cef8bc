# SPDX-License-Identifier: Apache-2.0
"""Through proxies: the proof is for the server behind them, and as young as the request."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.authority import Authority
from support.clients import ASYNCHRONOUS, BODY, CLIENTS, HTTPX, TOKEN, assert_fresh, make, pool_of_one, tls_options
from support.http2_recorder import Http2Recorder
from support.recorder import Received, Recorder, challenge, script
from support.recorder import Response as Reply
from support.relays import ForwardProxy, SocksProxy
from urllib3.util.retry import Retry

import dpop
from dpop.client._prover import Prover

PROXIES = {"aiohttp": [ForwardProxy]}
"""What a client has of the kinds of proxies, where it has not all."""


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
