# SPDX-License-Identifier: Apache-2.0
"""After a fork no connection is shared: a fork around each public call, and what was given to another process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
import httpx
import httpx2
import pytest
from support.clients import CLIENTS, make
from support.endpoints import ENDPOINTS, Endpoint
from support.forking import in_child
from support.recorder import Received, Recorder, Response

import dpop
import dpop.aiohttp
import dpop.httpx
import dpop.httpx2
from dpop.errors import UsageError
from dpop.tokens import ServerMetadata, TokenSet

KEY = dpop.generate_key()
OLD = TokenSet(access_token="old", refresh_token="r", jkt=KEY.thumbprint)
CALLS: dict[str, Callable[[Any], object]] = {
    "grant": lambda endpoint: endpoint.grant("client_credentials"),
    "introspect": lambda endpoint: endpoint.introspect("token"),
    "pushed request": lambda endpoint: endpoint.start_authorization("http://127.0.0.1/back"),
    "device": lambda endpoint: endpoint.start_device(),
    "redeem_code": lambda endpoint: endpoint.redeem_code("code"),
    "refresh": lambda endpoint: endpoint.refresh(OLD),
    "revoke": lambda endpoint: endpoint.revoke("token"),
}
ANSWERS = {
    "/token": (200, b'{"access_token":"new","token_type":"DPoP"}'),
    "/introspect": (200, b'{"active":true}'),
    "/par": (201, b'{"request_uri":"urn:x","expires_in":60}'),
    "/device": (200, b'{"device_code":"d","user_code":"u","verification_uri":"https://as.example/","expires_in":60}'),
}


def handler(request: Received) -> Response:
    """A token endpoint and all that goes with it."""
    status, body = ANSWERS.get(request.target, (200, b""))
    return Response(status, [("Content-Type", "application/json")], body)


def metadata(server: Recorder) -> ServerMetadata:
    """Its endpoints."""
    return ServerMetadata(
        token_endpoint=server.url("/token"),
        authorization_endpoint=server.url("/authorize"),
        introspection_endpoint=server.url("/introspect"),
        revocation_endpoint=server.url("/revoke"),
        pushed_authorization_request_endpoint=server.url("/par"),
        device_authorization_endpoint=server.url("/device"),
    )


def check_that_none_is_shared(server: Recorder, call: Callable[[], object]) -> None:
    """A parent calls, its child calls, the parent calls again: none of them on a connection of the other."""
    start = len(server.requests)

    def in_a_child() -> bytes:
        call()
        return b"done"

    call()
    before = len(server.requests)
    assert before > start
    assert in_child(in_a_child) == b"done"
    between = len(server.requests)
    call()
    parents = {request.connection for request in server.requests[start:before] + server.requests[between:]}
    childs = {request.connection for request in server.requests[before:between]}
    assert childs
    assert not parents & childs


@pytest.mark.parametrize("name", sorted(ENDPOINTS))
@pytest.mark.parametrize("call", sorted(CALLS))
def test_a_fork_around_each_call_of_an_endpoint(name: str, call: str) -> None:
    """Signed or not, parent and child never write to one connection."""
    with Recorder(handler) as server, Endpoint(name, KEY, metadata(server), client_id="c") as endpoint:
        check_that_none_is_shared(server, lambda: CALLS[call](endpoint))


@pytest.mark.parametrize("name", sorted(CLIENTS.keys() - {"aiohttp"}))
@pytest.mark.parametrize("call", ["signed", "foreign", "prime"])
def test_a_fork_around_each_call_of_an_adapter(name: str, call: str) -> None:
    """A request that passes through unsigned too. A session of aiohttp is refused in a child; see below."""
    with Recorder(lambda _request: Response(200, [("DPoP-Nonce", "n1")])) as server:
        origin = "https://api.example" if call == "foreign" else server.origin
        with make(name, origins=origin, access_token="t0ken") as client:
            check_that_none_is_shared(
                server,
                lambda: client.prime(server.url()) if call == "prime" else client.send("GET", server.url()),
            )


LIBRARIES: list[tuple[Any, Any]] = [(httpx, dpop.httpx), (httpx2, dpop.httpx2)]


@pytest.mark.parametrize(("library", "integration"), LIBRARIES, ids=["httpx", "httpx2"])
def test_a_transport_that_was_given_is_refused_in_a_child(library: Any, integration: Any) -> None:
    """Nothing is sent, and the error says what to do; a function that makes one is called in each process."""
    with Recorder(handler) as server:
        given = integration.DPoPTransport(KEY, origins=server.origin, transport=library.HTTPTransport())
        made = integration.DPoPTransport(KEY, origins=server.origin, transport=library.HTTPTransport)
        with library.Client(transport=given, timeout=60) as first, library.Client(transport=made, timeout=60) as second:

            def in_a_child() -> bytes:
                for url in (server.url(), "http://other.invalid/"):
                    with pytest.raises(UsageError, match=r"transport=lambda: HTTPTransport\(\.\.\.\)"):
                        first.get(url)
                return b"refused"

            first.get(server.url())
            assert in_child(in_a_child) == b"refused"
            assert len(server.requests) == 1
            check_that_none_is_shared(server, lambda: second.get(server.url()))


@pytest.mark.parametrize(("library", "integration"), LIBRARIES, ids=["httpx", "httpx2"])
def test_a_client_that_was_given_is_refused_in_a_child(library: Any, integration: Any) -> None:
    """For signed and unsigned requests; a function that makes one is called in each process."""
    with Recorder(handler) as server, library.Client(timeout=60) as client:
        given = integration.TokenEndpoint(KEY, metadata(server), client_id="c", http=client)
        made = integration.TokenEndpoint(KEY, metadata(server), client_id="c", http=library.Client)

        def in_a_child() -> bytes:
            for call in CALLS.values():
                with pytest.raises(UsageError, match=r"http=lambda: Client\(\.\.\.\)"):
                    call(given)
            return b"refused"

        given.refresh(OLD)
        assert in_child(in_a_child) == b"refused"
        assert len(server.requests) == 1
        check_that_none_is_shared(server, lambda: made.introspect("token"))
        made.close()


@pytest.mark.parametrize(("library", "integration"), LIBRARIES, ids=["httpx", "httpx2"])
def test_what_is_no_transport_is_refused(library: Any, integration: Any) -> None:
    """Neither a transport nor a function that makes one."""
    with pytest.raises(
        UsageError,
        match=rf"transport must be a transport or client of {library.__name__} \(BaseTransport\), or a function",
    ):
        integration.DPoPTransport(KEY, origins="https://api.example", transport=library.Limits())
    with pytest.raises(
        UsageError, match=rf"the result of transport\(\) must be a transport or client of {library.__name__} "
    ):
        integration.DPoPTransport(KEY, origins="https://api.example", transport=library.Limits)


@pytest.mark.parametrize("call", ["signed", "foreign", "prime"])
def test_a_session_of_aiohttp_is_refused_in_a_child(call: str) -> None:
    """Its connections are its parent's: nothing is sent, signed or not, and the error says what to do."""
    with Recorder(lambda _request: Response(200, [("DPoP-Nonce", "n1")])) as server:
        origin = "https://api.example" if call == "foreign" else server.origin
        with make("aiohttp", origins=origin, access_token="t0ken") as client:

            def in_a_child() -> bytes:
                with pytest.raises(UsageError, match=r"nothing was sent\. Make a session in each process"):
                    client.prime(server.url()) if call == "prime" else client.send("GET", server.url())
                return b"refused"

            if call == "prime":
                client.prime(server.url())
            else:
                client.send("GET", server.url())
            before = len(server.requests)
            assert in_child(in_a_child) == b"refused"
            assert len(server.requests) == before


def test_a_middleware_of_aiohttp_serves_the_sessions_of_a_child() -> None:
    """The middleware stays; a session in each process, with connections and nonces of its own."""
    with Recorder(lambda _request: Response(200, [("DPoP-Nonce", "n1")])) as server:
        middleware = dpop.aiohttp.DPoPClientMiddleware(KEY, origins=server.origin, access_token="t0ken")

        async def once() -> None:
            async with aiohttp.ClientSession(middlewares=[middleware]) as session, session.get(server.url()):
                pass

        check_that_none_is_shared(server, lambda: asyncio.run(once()))
        assert all(request.claims["ath"] for request in server.requests)
