# SPDX-License-Identifier: Apache-2.0
"""Bodies that aiohttp sends: which can be sent again, by it or by us, and which are sent once."""

from __future__ import annotations

import asyncio
import io
import tempfile
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from support.aiohttp_sessions import BODY, KEY, TOKEN, demanding, fresh, status_of, with_session
from support.recorder import Received, Recorder, Response, challenge, script

import dpop
from dpop.aiohttp import DPoPClientMiddleware

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
