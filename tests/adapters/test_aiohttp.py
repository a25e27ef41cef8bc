# SPDX-License-Identifier: Apache-2.0
"""What only aiohttp has: WebSockets, its own retries, kinds of bodies, other middlewares, sockets without a port."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aioresponses import aioresponses
from support.clients import close_all
from support.forking import in_child
from support.recorder import Received, Recorder, Response, challenge, script
from yarl import URL

import dpop
from dpop.aiohttp import AsyncTokenEndpoint, DPoPClientMiddleware
from dpop.aiohttp._threads import asyncio_tools
from dpop.client import BearerToken
from dpop.errors import InvalidTargetError, KeyAccessDeniedError, UsageError
from dpop.server import InvalidProof, MemoryReplayCache, ProofVerifier, ProtectedResource, ResourceRequest
from dpop.testing import DPoPTestServer
from dpop.tokens import MemoryTokenStore

KEY = dpop.generate_key()
TOKEN = "acc3ss-t0ken"
BODY = b"0123456789" * 1000
Use = Callable[[aiohttp.ClientSession], Awaitable[Any]]


def with_session(middlewares: Any, use: Use, **options: Any) -> Any:
    """Run a function with a session of its own, on an event loop of its own."""

    async def run() -> Any:
        options.setdefault("timeout", aiohttp.ClientTimeout(total=60))
        made = {name: value() if name in {"connector", "cookie_jar"} else value for name, value in options.items()}
        session = aiohttp.ClientSession(middlewares=middlewares, **made)
        try:
            return await use(session)
        finally:
            await close_all(session)

    return asyncio.run(run())


def status_of(method: str, url: str | URL, **options: Any) -> Use:
    """Send one request and read the whole response."""

    async def use(session: aiohttp.ClientSession) -> int:
        given = {name: value() if callable(value) else value for name, value in options.items()}
        async with session.request(method, url, **given) as response:
            await response.read()
            return response.status

    return use


def demanding(request: Received) -> Response:
    """A resource server that takes one nonce only."""
    return Response(200) if request.nonce == "n1" else challenge("n1", b"not yet")


def fresh(server: Recorder) -> None:
    """Each request has a proof of its own, for its own method."""
    assert len({request.claims["jti"] for request in server.requests}) == len(server.requests)
    assert [request.claims["htm"] for request in server.requests] == [request.method for request in server.requests]


# -- bodies ------------------------------------------------------------------------------------------


async def pieces() -> AsyncIterator[bytes]:
    """An asynchronous generator, in two pieces."""
    yield BODY[:10]
    yield BODY[10:]


def stream_reader() -> aiohttp.StreamReader:
    """A download that is handed on as an upload."""
    from aiohttp.base_protocol import BaseProtocol

    loop = asyncio.get_running_loop()
    reader = aiohttp.StreamReader(BaseProtocol(loop), 2**16, loop=loop)
    reader.feed_data(BODY)
    reader.feed_eof()
    return reader


class Pipe(io.RawIOBase):
    """A file that can be read once."""

    def __init__(self) -> None:
        self.left = BODY

    def readinto(self, buffer: Any) -> int:
        taken, self.left = self.left[: len(buffer)], self.left[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)

    def readable(self) -> bool:
        return True


def form(value: Any) -> aiohttp.FormData:
    """A multipart body."""
    data = aiohttp.FormData()
    data.add_field("text", "x")
    data.add_field("file", value, filename="name.bin", content_type="application/octet-stream")
    return data


def from_an_offset() -> io.BytesIO:
    """A file that stands behind its beginning."""
    file = io.BytesIO(b"skipped" + BODY)
    file.seek(7)
    return file


def file_on_disk() -> Any:
    """A file of the file system; aiohttp closes it."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - see above
    file.write(BODY)
    file.seek(0)
    return file


ONCE: dict[str, Callable[[], Any]] = {
    "an asynchronous generator": pieces,
    "a StreamReader": stream_reader,
    "a pipe": lambda: io.BufferedReader(Pipe()),
    "a form with an asynchronous generator": lambda: form(pieces()),
    "a form with a pipe": lambda: form(io.BufferedReader(Pipe())),
}
AGAIN: dict[str, Callable[[], Any]] = {
    "bytes": lambda: BODY,
    "a bytearray": lambda: bytearray(BODY),
    "text": BODY.decode,
    "a file in memory, from an offset": from_an_offset,
    "a file": file_on_disk,
    "a file of text": lambda: io.TextIOWrapper(io.BytesIO(BODY)),
    "a form with a file": lambda: form(io.BytesIO(BODY)),
}


@pytest.mark.parametrize("kind", ONCE)
def test_a_body_that_can_be_read_once_is_sent_once(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """aiohttp would send it empty the second time: the challenge is the response, and prime() helps."""
    middleware = DPoPClientMiddleware(KEY, origins="http://127.0.0.1", access_token=TOKEN)
    with Recorder(demanding) as server:
        middleware.add_origins(server.origin)
        url = server.url("/r")

        async def use(session: aiohttp.ClientSession) -> list[int]:
            first = await status_of("POST", url, data=ONCE[kind])(session)
            return [first, await status_of("POST", url, data=ONCE[kind])(session)]

        assert with_session([middleware], use) == [401, 200]
        assert [BODY in request.body for request in server.requests] == [True, True]
        assert "only once" in caplog.text
        other = DPoPClientMiddleware(dpop.generate_key(), origins=server.origin, access_token=TOKEN)

        async def primed(session: aiohttp.ClientSession) -> int:
            assert await other.prime(session, url)
            return int(await status_of("POST", url, data=ONCE[kind])(session))

        assert with_session([other], primed) == 200


@pytest.mark.parametrize("options", [{}, {"compress": "deflate"}, {"chunked": True}], ids=str)
@pytest.mark.parametrize("kind", AGAIN)
def test_a_body_that_can_be_read_again_is_sent_again_whole(kind: str, options: dict[str, Any]) -> None:
    """From where it stood, compressed and in chunks too."""
    with Recorder(demanding) as server:
        middleware = DPoPClientMiddleware(KEY, origins=server.origin, access_token=TOKEN)
        assert with_session([middleware], status_of("POST", server.url("/r"), data=AGAIN[kind], **options)) == 200
        first, second = server.requests
        assert first.body == second.body
        assert (BODY in second.body) is ("compress" not in options)
        fresh(server)


@pytest.mark.parametrize("data", [None, BODY])
def test_a_challenge_before_the_100(data: bytes | None) -> None:
    """The retry of a request with Expect: 100-continue waits for another 100, which this server does not send."""

    def handler(request: Received) -> Response:
        return demanding(request)

    class Continuing(Recorder):
        """A server that asks for the body of its second request."""

        def _body(self, request: Received, stream: Any) -> tuple[bytes, bool]:
            if request.nonce is None:
                return b"", True
            with self._lock:
                for connection in self._open:
                    connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            return super()._body(request, stream)

    with Continuing(lambda r: Response(200) if r.nonce else close(challenge("n1"))) as server:
        middleware = DPoPClientMiddleware(KEY, origins=server.origin, access_token=TOKEN)
        assert with_session([middleware], status_of("PUT", server.url("/r"), data=data, expect100=True)) == 200
        assert [request.body for request in server.requests] == [b"", data or b""]
        assert [request.one("Expect") for request in server.requests] == ["100-continue"] * 2


def close(response: Response) -> Response:
    """A response after which the server closes the connection."""
    response.headers.append(("Connection", "close"))
    return response


def test_a_challenge_while_a_large_body_is_written() -> None:
    """The writer has stopped before the retry begins with the same file."""

    class Hasty(Recorder):
        """A server that responds to the first request before it has read its body."""

        def _body(self, request: Received, stream: Any) -> tuple[bytes, bool]:
            return super()._body(request, stream) if request.nonce else (b"", True)

    body = BODY * 800
    with Hasty(lambda r: Response(200) if r.nonce else close(challenge("n1"))) as server:
        middleware = DPoPClientMiddleware(KEY, origins=server.origin, access_token=TOKEN)

        async def use(session: aiohttp.ClientSession) -> int:
            async with session.put(server.url("/r"), data=io.BytesIO(body)) as response:
                return response.status

        try:
            assert with_session([middleware], use) == 200
        except aiohttp.ClientError:
            return  # the connection was reset before the 401 could be read
        assert server.requests[-1].body == body


# -- what aiohttp sends again itself ---------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_dropped_connection_is_retried_with_a_fresh_proof(method: str) -> None:
    """aiohttp sends an idempotent request again, once: body and all, with another proof."""
    with Recorder(script(Response(200), Response(drop=True), Response(200))) as server:
        middleware = DPoPClientMiddleware(KEY, origins=server.origin, access_token=TOKEN)

        async def use(session: aiohttp.ClientSession) -> list[int]:
            data = [io.BytesIO(BODY) if method == "PUT" else None for _ in range(2)]
            return [await status_of(method, server.url("/r"), data=each)(session) for each in data]

        assert with_session([middleware], use) == [200, 200]
        assert [request.body for request in server.requests] == [BODY if method == "PUT" else b""] * 3
        fresh(server)


def test_a_stream_on_a_dropped_connection_is_an_error() -> None:
    """It is not sent again empty, with a 200 for nothing."""
    with Recorder(script(Response(200), Response(drop=True), Response(200))) as server:
        middleware = DPoPClientMiddleware(KEY, origins=server.origin, access_token=TOKEN)

        async def use(session: aiohttp.ClientSession) -> None:
            await status_of("GET", server.url("/r"))(session)
            with pytest.raises(aiohttp.ClientConnectionError):
                await status_of("PUT", server.url("/r"), data=pieces)(session)

        with_session([middleware], use)
        assert [request.body for request in server.requests] == [b"", BODY]


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


# -- loops, threads, keys ----------------------------------------------------------------------------


def test_a_key_that_fails_gives_the_connection_back() -> None:
    """Nothing is sent, and a pool of one goes on."""

    class Locked:
        alg, public_jwk, thumbprint, blocking = "ES256", KEY.public_jwk, KEY.thumbprint, False
        fails = True

        def sign(self, data: bytes, /) -> bytes:
            if self.fails:
                raise KeyAccessDeniedError("the device is locked")
            return KEY.sign(data)

    key = Locked()
    with Recorder(script(Response(200))) as server:
        middleware = DPoPClientMiddleware(key, origins=server.origin, access_token=TOKEN)

        async def use(session: aiohttp.ClientSession) -> int:
            with pytest.raises(KeyAccessDeniedError):
                await status_of("GET", server.url("/r"))(session)
            key.fails = False
            return int(await status_of("GET", server.url("/r"))(session))

        assert with_session([middleware], use, connector=lambda: aiohttp.TCPConnector(limit=1)) == 200
        assert len(server.requests) == 1


def test_no_event_loop_is_kept_for_the_threads_of_its_keys() -> None:
    """More signatures at once than there are threads for, in one event loop after another."""
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def many() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await asyncio.gather(*(asyncio_tools.to_thread(bytes) for _ in range(80)))

    for _ in range(5):
        asyncio.run(many())
    deadline = time.monotonic() + 60  # the last threads may still have to end
    while sum(loop() is not None for loop in loops) > 1:
        assert time.monotonic() < deadline
        gc.collect()


def test_a_blocking_key_is_abandoned_on_cancellation() -> None:
    """A task that is cancelled does not wait for the device, and the program's own worker threads are free."""

    class BlockingKey:
        alg, public_jwk, thumbprint, blocking = "ES256", KEY.public_jwk, KEY.thumbprint, True

        def __init__(self) -> None:
            self.answers = threading.Event()
            self.asked = threading.Semaphore(0)

        def sign(self, data: bytes, /) -> bytes:
            self.asked.release()
            self.answers.wait(30)
            return KEY.sign(data)

    key = BlockingKey()
    with Recorder(script(Response(200))) as server:
        middleware = DPoPClientMiddleware(key, origins=server.origin)

        async def use(session: aiohttp.ClientSession) -> int:
            key.answers.set()  # the first request goes alone
            await status_of("GET", server.url("/r"))(session)
            key.asked.acquire()
            key.answers.clear()
            tasks = [asyncio.ensure_future(status_of("GET", server.url("/r"))(session)) for _ in range(8)]
            for _ in tasks:
                await asyncio.to_thread(key.asked.acquire)
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(each, asyncio.CancelledError) for each in ended)
            assert len(server.requests) == 1
            key.answers.set()
            return int(await status_of("GET", server.url("/r"))(session))

        try:
            assert with_session([middleware], use) == 200
        finally:
            key.answers.set()


def test_one_middleware_in_many_event_loops() -> None:
    """A session for each thread, one middleware for all; it can be hashed, and does not travel."""
    with Recorder(demanding) as server:
        middleware = DPoPClientMiddleware(KEY, origins=server.origin, access_token=TOKEN, nonces="required")
        statuses: list[int] = []

        def work() -> None:
            statuses.extend(with_session([middleware], status_of("GET", server.url("/r"))) for _ in range(5))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses == [200] * 20
        fresh(server)
    assert hash(middleware) == hash(middleware)
    for travelling in (middleware, middleware.with_credentials(KEY, TOKEN)):
        with pytest.raises(UsageError, match="must not travel"):
            pickle.dumps(travelling)
        assert TOKEN not in repr(travelling) + repr(vars(travelling))


def test_a_session_that_was_closed_says_so() -> None:
    """By aiohttp's own error."""
    middleware = DPoPClientMiddleware(KEY, origins="http://127.0.0.1:1", access_token=TOKEN)

    async def use(session: aiohttp.ClientSession) -> None:
        await session.close()
        with pytest.raises(RuntimeError, match="closed"):
            await session.get("http://127.0.0.1:1/")

    with_session([middleware], use)


# -- the token endpoint --------------------------------------------------------------------------------


def test_what_of_a_session_goes_to_the_token_endpoint() -> None:
    """Its headers and cookies; neither its Authorization nor its middlewares, and it stays open. Its jar is filled."""
    nonce = Response(400, [("DPoP-Nonce", "n1"), ("Set-Cookie", "a=1; Path=/")], b'{"error":"use_dpop_nonce"}')
    tokens = Response(200, [("Set-Cookie", "b=2; Path=/")], b'{"access_token":"new","token_type":"DPoP"}')
    called: list[int] = []

    async def own(request: Any, handler: Any) -> Any:
        called.append(1)
        return await handler(request)

    with Recorder(script(nonce, tokens)) as server:

        async def use(session: aiohttp.ClientSession) -> list[str]:
            url = server.url("/token?tenant=1")
            async with AsyncTokenEndpoint(KEY, url, client_id="c", client_secret="s", http=session) as endpoint:
                for _ in range(2):
                    await endpoint.grant("client_credentials")
            assert not session.closed
            return sorted(cookie.key for cookie in session.cookie_jar)

        headers = {"X-Own": "1", "Authorization": "Basic own"}
        jar = lambda: aiohttp.CookieJar(unsafe=True)  # noqa: E731 - it is made on the event loop
        options = {"headers": headers, "raise_for_status": True, "cookie_jar": jar}
        assert with_session([own], use, **options) == ["a", "b"]
        assert called == []
        assert {request.target for request in server.requests} == {"/token?tenant=1"}
        assert {request.one("X-Own") for request in server.requests} == {"1"}
        assert {request.one("Authorization") for request in server.requests} == {"Basic Yzpz"}
        fresh(server)


def test_a_session_that_was_given_is_refused_in_a_child() -> None:
    """Nothing is sent, and the error says what to do."""
    with Recorder(script(Response(200, [], b'{"access_token":"new","token_type":"DPoP"}'))) as server:

        async def use(session: aiohttp.ClientSession) -> bytes:
            endpoint = AsyncTokenEndpoint(KEY, server.url("/token"), client_id="c", http=session)
            await endpoint.grant("client_credentials")

            async def refused() -> None:
                with pytest.raises(UsageError, match=r"http=lambda: ClientSession\(\.\.\.\)"):
                    await endpoint.grant("client_credentials")

            def in_a_child() -> bytes:
                thread = threading.Thread(target=asyncio.run, args=(refused(),))
                thread.start()
                thread.join()
                return b"refused"

            return in_child(in_a_child)

        assert with_session([], use) == b"refused"
        assert len(server.requests) == 1


LOOPS = """
import asyncio, sys
import dpop
from dpop.aiohttp import AsyncTokenEndpoint
from support.endpoints import open_sockets

endpoint = AsyncTokenEndpoint(dpop.generate_key(), sys.argv[1], client_id="c")

async def call():
    await endpoint.grant("client_credentials")

def once(ends):
    if ends == "asyncio.run":
        asyncio.run(call())
        return
    loop = asyncio.new_event_loop()
    loop.run_until_complete(call())
    loop.close()

for ends in ("asyncio.run", "closed at once"):
    once(ends)
    before = open_sockets()
    for _ in range(10):
        once(ends)
    assert open_sockets() <= before + 1, ends
    assert len(endpoint._sessions._by_loop) <= 1, ends
asyncio.run(call())
"""


def test_the_session_of_a_loop_that_ended_is_closed() -> None:
    """One endpoint for the program, a loop for each call: no socket, session or loop is left."""
    with Recorder(script(Response(200, [], b'{"access_token":"new","token_type":"DPoP"}'))) as server:
        path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        shown = subprocess.run(  # asyncio warns of what is left on the loops that are closed at once
            [sys.executable, "-W", "ignore", "-c", LOOPS, server.url("/token")],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert shown.returncode == 0, shown.stderr
        assert len(server.requests) == 23


def test_a_source_of_an_endpoint_feeds_the_middleware() -> None:
    """One refresh for many requests, each with a proof for its own server."""
    with DPoPTestServer() as server:

        async def use(session: aiohttp.ClientSession) -> set[int]:
            store = MemoryTokenStore()
            async with AsyncTokenEndpoint(
                KEY, server.token_endpoint, client_id=server.client_id, client_secret=server.client_secret, http=session
            ) as endpoint:
                source = endpoint.source(store, grant="client_credentials")
                middleware = DPoPClientMiddleware(KEY, origins=server.origin, access_token=source)
                calls = [session.get(server.resource, middlewares=[middleware]) for _ in range(10)]
                statuses = set()
                for response in await asyncio.gather(*calls):
                    statuses.add(response.status)
                    response.release()
                return statuses

        assert with_session([], use) == {200}
        assert len([request for request in server.requests if request.path == "/token" and request.status == 200]) == 1
