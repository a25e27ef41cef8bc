# SPDX-License-Identifier: Apache-2.0
"""What only aiohttp has: WebSockets, sockets without a port, other middlewares, traces, URLs written as they are."""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aioresponses import aioresponses
from support.aiohttp_sessions import KEY, TOKEN, demanding, fresh, status_of, with_session
from support.recorder import Received, Recorder, Response, challenge, script
from yarl import URL

import dpop
from dpop.aiohttp import DPoPClientMiddleware
from dpop.client import BearerToken
from dpop.errors import InvalidTargetError, UsageError
from dpop.server import InvalidProof, MemoryReplayCache, ProofVerifier, ProtectedResource, ResourceRequest

# -- WebSockets, sockets -----------------------------------------------------------------------------


async def with_site(use: Callable[[list[web.Request]], Awaitable[None]], site: Callable[[Any], Any]) -> None:
    """Run a server of aiohttp that echoes, and wants a nonce from those who bring a proof."""
    seen: list[web.Request] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(request)
        proof = request.headers.get("DPoP")
        if proof is not None and Received("", [("DPoP", proof)], b"", True, 0, "").nonce is None:
            fields = {"WWW-Authenticate": 'DPoP error="use_dpop_nonce"', "DPoP-Nonce": "n1"}
            return web.Response(status=401, headers=fields)
        if "Upgrade" not in request.headers:
            return web.Response(text="done")
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(f"echo {message.data}")
        return socket

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await site(runner).start()
        await use(seen)
    finally:
        await runner.cleanup()


def test_a_server_of_aiohttp_takes_a_proof_once() -> None:
    """It has no integration, and checks by ``aadmit``: of a hundred requests with one proof it admits one."""
    jkt = KEY.thumbprint
    resource: ProtectedResource
    proofs: list[str] = []
    reasons: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers]
        asked = ResourceRequest(request.method, request.raw_path, request.path, fields)
        if not proofs:  # the proof is stolen before a server has seen it
            proofs.extend(value for name, value in fields if name.lower() == "dpop")
            return web.Response(status=418)
        try:
            access = await resource.aadmit(asked)
        except InvalidProof as error:
            reasons.append(error.reason)
            refusal = resource.refusal(asked, error)
            return web.Response(status=refusal.status, headers=refusal.headers, body=refusal.body)
        return web.Response(text=access.claims["sub"])

    async def work() -> list[int]:
        nonlocal resource
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            origin = f"http://127.0.0.1:{runner.addresses[0][1]}"
            resource = ProtectedResource(
                ProofVerifier(replay=MemoryReplayCache()),
                url=origin,
                token=lambda _: {"sub": "alice", "cnf": {"jkt": jkt}},
            )
            signing = DPoPClientMiddleware(KEY, origins=origin, access_token=TOKEN)
            async with aiohttp.ClientSession() as session:
                url = f"{origin}/items?n=1"
                async with session.get(url, middlewares=[signing]) as response:
                    assert response.status == 418
                fields = {"Authorization": f"DPoP {TOKEN}", "DPoP": proofs[0]}
                responses = await asyncio.gather(*(session.get(url, headers=fields) for _ in range(100)))
                for response in responses:
                    response.release()
                return [response.status for response in responses]
        finally:
            await runner.cleanup()

    statuses = asyncio.run(work())
    assert sorted(statuses) == [200] + [401] * 99
    assert reasons == ["replayed"] * 99


def claims(request: web.Request) -> dict[str, Any]:
    """The claims of the one proof of a request."""
    return Received("", list(request.headers.items()), b"", True, 0, "").claims


@pytest.mark.parametrize("scheme", ["ws", "http"])
def test_the_handshake_of_a_websocket(scheme: str) -> None:
    """It is signed with the http form of its URL, challenges included; another origin gets nothing."""

    async def run() -> None:
        import socket

        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        middleware = DPoPClientMiddleware(KEY, origins=f"http://127.0.0.1:{port}", access_token=TOKEN)

        async def use(seen: list[web.Request]) -> None:
            async with aiohttp.ClientSession(middlewares=[middleware]) as session:
                for host in ("127.0.0.1", "localhost"):
                    async with session.ws_connect(f"{scheme}://{host}:{port}/chat?x=1") as connection:
                        await connection.send_str("hello")
                        assert await connection.receive_str() == "echo hello"
            first, second, foreign = seen
            assert [claims(request)["htu"] for request in (first, second)] == [f"http://127.0.0.1:{port}/chat"] * 2
            assert [claims(request)["htm"] for request in (first, second)] == ["GET"] * 2
            assert second.headers["Authorization"] == f"DPoP {TOKEN}"
            assert claims(second)["nonce"] == "n1"
            assert not {"DPoP", "Authorization"} & set(foreign.headers)

        await with_site(use, lambda runner: web.SockSite(runner, listener))

    asyncio.run(run())


@pytest.mark.parametrize("scheme", ["http", "unix"])
def test_through_a_unix_socket(scheme: str, tmp_path: Path) -> None:
    """The proof names what Host and path say; the socket is no part of any URL."""
    path = os.path.relpath(tmp_path / "s")  # a path of a socket has 107 bytes at most

    async def use(seen: list[web.Request]) -> None:
        middleware = DPoPClientMiddleware(KEY, origins="http://localhost", access_token=TOKEN)
        connector = aiohttp.UnixConnector(path)
        async with aiohttp.ClientSession(connector=connector, middlewares=[middleware]) as session:
            assert await status_of("GET", f"{scheme}://localhost/things")(session) == 200
        assert [claims(request)["htu"] for request in seen] == ["http://localhost/things"] * 2

    asyncio.run(with_site(use, lambda runner: web.UnixSite(runner, path)))


# -- URLs and headers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/a b", "/a?x=b c", "/a/%2e%2e/b", "/caf\xe9", "/%zz"])
def test_what_no_request_line_can_hold_is_not_sent(target: str) -> None:
    """encoded=True makes aiohttp write a URL as it is."""
    with Recorder(script(Response(200))) as server:
        middleware = DPoPClientMiddleware(KEY, origins=server.origin, access_token=TOKEN)
        with pytest.raises(InvalidTargetError):
            with_session([middleware], status_of("GET", URL(server.origin + target, encoded=True)))
        assert server.requests == []


def test_a_callers_own_proof_does_not_travel() -> None:
    """aiohttp takes Authorization out of a redirect to another origin, and leaves DPoP in."""
    with Recorder(script(Response(200))) as other:
        with Recorder(lambda _: Response(307, [("Location", other.url("/there"))])) as server:
            middleware = DPoPClientMiddleware(KEY, origins=server.origin, access_token=TOKEN)
            headers = {"DPoP": "stale", "X-Own": "kept"}
            assert with_session([middleware], status_of("GET", server.url("/r"), headers=headers)) == 200
            assert server.requests[0].one("DPoP") != "stale"
        assert other.requests[0].all("DPoP") + other.requests[0].all("Authorization") == []
        assert other.requests[0].one("X-Own") == "kept"


def test_errors_and_responses_hold_neither_token_nor_proof() -> None:
    """aiohttp shows the headers of the request in the repr of its errors."""
    with Recorder(script(challenge("s3cret-nonce"), Response(500))) as server:
        middleware = DPoPClientMiddleware(KEY, origins=server.origin, access_token=TOKEN)

        async def use(session: aiohttp.ClientSession) -> str:
            async with session.get(server.url("/r")) as response:
                with pytest.raises(aiohttp.ClientResponseError) as raised:
                    response.raise_for_status()
                return repr(raised.value) + repr(response.request_info) + repr(response)

        shown = with_session([middleware], use)
        for secret in (TOKEN, "s3cret-nonce", *(request.one("DPoP") for request in server.requests)):
            assert secret not in shown
        assert "User-Agent" in shown


def test_an_unbound_token_is_sent_as_bearer() -> None:
    """With neither the proof of ours nor one that the caller had put there."""
    with Recorder(script(Response(200))) as server:
        middleware = DPoPClientMiddleware(KEY, origins=server.origin, access_token=lambda: BearerToken("plain"))
        with_session([middleware], status_of("GET", server.url("/r"), headers={"DPoP": "stale"}))
        assert server.requests[0].one("Authorization") == "Bearer plain"
        assert server.requests[0].all("DPoP") == []


# -- other middlewares ---------------------------------------------------------------------------------


def changing(**changes: Any) -> Any:
    """A middleware that makes another request of each."""

    async def middleware(request: Any, handler: Any) -> Any:
        for name, value in changes.items():
            setattr(request, name, value)
        return await handler(request)

    return middleware


def test_a_middleware_behind_may_change_the_path() -> None:
    """The proof names what is on the wire."""
    with Recorder(demanding) as server:
        middleware = DPoPClientMiddleware(KEY, origins=server.origin, access_token=TOKEN)
        other = changing(url=URL(server.url("/changed?x=1")))
        assert with_session([middleware, other], status_of("GET", server.url("/asked"))) == 200
        assert {request.target for request in server.requests} == {"/changed?x=1"}
        assert {request.claims["htu"] for request in server.requests} == {server.url("/changed")}


@pytest.mark.parametrize("what", ["server", "method", "role"])
def test_a_middleware_behind_must_not_make_another_request_of_it(what: str) -> None:
    """To another server, with another method, at a token endpoint: nothing is sent."""
    with Recorder(script(Response(200))) as server:
        middleware = DPoPClientMiddleware(
            KEY, origins=server.origin, access_token=TOKEN, as_endpoints=[server.url("/token")]
        )
        changes: dict[str, Any] = {
            "server": {"url": URL(server.other_origin)},
            "method": {"method": "PUT", "url": URL(server.url("/r"))},
            "role": {"url": URL(server.url("/token"))},
        }[what]
        with pytest.raises(UsageError, match=r"nothing was sent.*make DPoPClientMiddleware the last"):
            with_session([middleware, changing(**changes)], status_of("GET", server.url("/asked")))
        assert server.requests == []


def test_a_middleware_in_front_may_send_again() -> None:
    """Each try has a proof of its own, and the token that the caller put there himself."""

    async def again(request: Any, handler: Any) -> Any:
        for _ in range(2):
            response = await handler(request)
            if response.status != 503:
                break
            response.release()
        return response

    with Recorder(script(Response(503), Response(200))) as server:
        middleware = DPoPClientMiddleware(KEY, origins=server.origin, access_token=TOKEN)
        headers = {"Authorization": "DPoP mine"}
        assert with_session([again, middleware], status_of("GET", server.url("/r"), headers=headers)) == 200
        assert [request.one("Authorization") for request in server.requests] == ["DPoP mine"] * 2
        fresh(server)


def test_two_middlewares_for_two_servers() -> None:
    """Each signs for its own, in either order."""
    with Recorder(demanding) as one, Recorder(demanding) as two:
        first = DPoPClientMiddleware(KEY, origins=one.origin, access_token="t0ken-one")
        second = DPoPClientMiddleware(dpop.generate_key(), origins=two.origin, access_token="t0ken-two")
        for order in ([first, second], [second, first]):
            for server in (one, two):
                assert with_session(order, status_of("GET", server.url("/r"))) == 200
        assert {request.one("Authorization") for request in one.requests} == {"DPoP t0ken-one"}
        assert {request.one("Authorization") for request in two.requests} == {"DPoP t0ken-two"}


def test_what_was_answered_before_it_was_sent_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """A middleware behind ours that answers by itself: its response is returned, with a warning without a token."""

    async def behind(request: Any, handler: Any) -> Any:
        return await handler(request) if request.url.path == "/other" else remembered[0]

    remembered: list[Any] = []
    with Recorder(script(Response(200))) as server:
        middleware = DPoPClientMiddleware(KEY, origins=server.origin, access_token=TOKEN)

        async def use(session: aiohttp.ClientSession) -> int:
            async with session.get(server.url("/other")) as response:
                remembered.append(response)
                return int(await status_of("GET", server.url("/r"))(session))

        assert with_session([middleware, behind], use) == 200
        assert len(server.requests) == 1
    (record,) = [record for record in caplog.records if record.name == "dpop.aiohttp"]
    assert f"{server.origin} was answered before it was sent" in record.getMessage()
    assert TOKEN not in caplog.text


def test_with_aioresponses() -> None:
    """It replaces the whole request, so that no middleware runs: the test gets its response, and nothing is sent."""
    middleware = DPoPClientMiddleware(KEY, origins="https://api.example", access_token=TOKEN)

    async def use(session: aiohttp.ClientSession) -> Any:
        with warnings.catch_warnings(), aioresponses() as mock:
            warnings.simplefilter("ignore", DeprecationWarning)  # of aiohttp, about its own mock
            mock.get("https://api.example/r", payload={"a": 1})
            async with session.get("https://api.example/r") as response:
                return await response.json()

    assert with_session([middleware], use) == {"a": 1}


# -- responses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"auto_decompress": False}], ids=str)
def test_a_refusal_that_was_looked_into_can_still_be_streamed(options: dict[str, Any]) -> None:
    """In whichever way the caller reads it, compressed or not, without a warning."""
    import gzip

    refusal = b'{"error":"invalid_grant","padding":"' + b"x" * 300_000 + b'"}'
    wants = gzip.compress(b'{"error":"use_dpop_nonce"}')
    responses = script(
        Response(400, [("DPoP-Nonce", "n1"), ("Content-Encoding", "gzip")], wants),
        Response(400, [("DPoP-Nonce", "n2"), ("Content-Encoding", "gzip")], gzip.compress(refusal)),
    )
    with Recorder(responses) as server:
        middleware = DPoPClientMiddleware(KEY, origins=server.origin)

        async def use(session: aiohttp.ClientSession) -> bytes:
            async with session.post(server.url("/token"), data={"a": "b"}) as response:
                return b"".join([chunk async for chunk in response.content.iter_chunked(1000)])

        body = with_session([middleware], use, **options)
        assert (gzip.decompress(body) if options else body) == refusal
        assert [request.nonce for request in server.requests] == [None, "n1"]


def test_a_trace_hears_of_each_request_on_the_wire() -> None:
    """aiohttp's tracing tells of both, and the retry is no redirect."""
    heard: list[str] = []
    config = aiohttp.TraceConfig()

    async def headers_sent(_session: Any, _context: Any, params: Any) -> None:
        heard.append("proof" if "DPoP" in params.headers else "none")

    config.on_request_headers_sent.append(headers_sent)
    with Recorder(demanding) as server:
        middleware = DPoPClientMiddleware(KEY, origins=server.origin, access_token=TOKEN)

        async def use(session: aiohttp.ClientSession) -> int:
            async with session.get(server.url("/r")) as response:
                return len(response.history)

        assert with_session([middleware], use, trace_configs=[config]) == 0
    assert heard == ["proof", "proof"]
