# SPDX-License-Identifier: Apache-2.0
"""The test server's HTTP: what a client library may rely on, and what it refuses."""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.testing_client import KEY, call

import dpop
from dpop.testing import DPoPTestServer
from dpop.testing._http_server import HTTPServer
from dpop.testing._messages import Request, Response, empty, json_response


def echo(request: Request, connection: int) -> Response | None:
    """Tell what came; misbehave for some paths."""
    match request.path:
        case "/fail":
            raise RuntimeError("a bug")
        case "/drop":
            return None
        case "/empty":
            return empty(204)
        case "/odd":
            return Response(299)
        case "/chunks":
            return Response(200, (), iter([b"one", b"two"]))
    members = {
        "method": request.method,
        "target": request.target,
        "headers": list(request.headers),
        "length": request.body_length,
        "kept": len(request.body),
        "sha256": request.body_sha256,
        "connection": connection,
    }
    return json_response(200, members)


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    """A server that echoes."""
    with echoing() as running:
        yield running


@pytest.fixture(scope="module")
def lasting_server() -> Iterator[HTTPServer]:
    """One server for all examples of a property test."""
    with echoing() as running:
        yield running


@contextmanager
def echoing() -> Iterator[HTTPServer]:
    """A server that echoes, for as long as it is needed."""
    running = HTTPServer("127.0.0.1", 0)
    running.start(echo)
    try:
        yield running
    finally:
        running.stop()


def connect(server: HTTPServer) -> http.client.HTTPConnection:
    """A client connection."""
    return http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)


def exchange(server: HTTPServer, data: bytes) -> bytes:
    """Send bytes as they are and read to the end of the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        received = bytearray()
        while piece := connection.recv(65_536):
            received += piece
        return bytes(received)


def test_connections_are_kept_alive(server: HTTPServer) -> None:
    """Many requests go over one connection, until the client says close."""
    connection = connect(server)
    numbers = set()
    for _ in range(3):
        connection.request("GET", "/")
        numbers.add(json.loads(connection.getresponse().read())["connection"])
    assert numbers == {1}
    connection.request("GET", "/", headers={"Connection": "close"})
    response = connection.getresponse()
    assert response.getheader("Connection") == "close"
    response.read()
    connection.close()


def test_http_1_0_is_answered_and_closed(server: HTTPServer) -> None:
    """An old client needs no Host and gets no keep-alive."""
    answer = exchange(server, b"GET / HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Connection: close" in answer


def test_pipelined_requests_are_answered_in_order(server: HTTPServer) -> None:
    """Two requests in one segment get two answers."""
    one = b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = exchange(server, one % 1 + one % 2)
    assert answer.index(b'"target": "/1"') < answer.index(b'"target": "/2"')


def test_headers_come_as_they_were_sent(server: HTTPServer) -> None:
    """Names keep their case and order, repeated ones stay apart, blanks around values go."""
    answer = exchange(server, b"GET / HTTP/1.1\r\nHost: x\r\nA: 1\r\na:\t2 \r\nB:\r\nConnection: close\r\n\r\n")
    headers = json.loads(answer.partition(b"\r\n\r\n")[2])["headers"]
    assert headers[:4] == [["Host", "x"], ["A", "1"], ["a", "2"], ["B", ""]]


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 3_000_000])
def test_bodies_of_any_length_are_read(server: HTTPServer, size: int) -> None:
    """By Content-Length or in chunks; length and hash are of the whole, and the beginning is kept."""
    body = b"x" * size
    connection = connect(server)
    connection.request("POST", "/", body)
    by_length = json.loads(connection.getresponse().read())
    connection.request(
        "POST", "/", iter([body[:7], body[7:]]), encode_chunked=True, headers={"Transfer-Encoding": "chunked"}
    )
    in_chunks = json.loads(connection.getresponse().read())
    connection.close()
    expected = hashlib.sha256(body).hexdigest()
    for told in (by_length, in_chunks):
        assert (told["length"], told["kept"], told["sha256"]) == (size, min(size, 65_536), expected)


def test_chunk_extensions_and_trailers_are_dropped(server: HTTPServer) -> None:
    """RFC 9112 §7.1: both may be there, and the next request is found behind them."""
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = exchange(
        server, head + b"3;x=y\r\nabc\r\n0\r\nTrailer: x\r\n\r\n" + b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n"
    )
    assert b'"length": 3' in answer
    assert b'"target": "/next"' in answer


def test_expect_100_continue(server: HTTPServer) -> None:
    """A client that waits for leave to send its body gets it."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"abc")
        assert b'"length": 3' in connection.recv(10_000)


def test_absolute_form_is_understood(server: HTTPServer) -> None:
    """RFC 9112 §3.2.2: a target with our own origin is as good as a path; another server's is misdirected."""
    ours = f"GET HTTP://127.0.0.1:{server.port}/x?y HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    assert b'"target": "/x?y"' in exchange(server, ours)
    bare = f"GET http://127.0.0.1:{server.port} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    assert b'"target": "/"' in exchange(server, bare)
    assert exchange(server, b"GET http://other/ HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 421 ")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\nx", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nx", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
            400,
        ),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 2000, 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 140_000, 431),
    ],
)
def test_what_is_no_request_is_refused(server: HTTPServer, data: bytes, status: int) -> None:
    """And the connection is closed, for nobody knows where the next request would begin."""
    assert exchange(server, data).startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize("data", [b"", b"GET / HTT"])
def test_a_client_that_leaves_is_let_go(server: HTTPServer, data: bytes) -> None:
    """Half a head gets no answer."""
    assert exchange(server, data) == b""


@given(data=st.binary(max_size=300))
def test_garbage_never_breaks_the_server(lasting_server: HTTPServer, data: bytes) -> None:
    """Whatever comes, the answer is HTTP or nothing, and the server goes on."""
    answer = exchange(lasting_server, data)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 ")


def test_answers_without_a_body(server: HTTPServer) -> None:
    """HEAD tells the length only, 204 not even that, and the connection stays in step."""
    connection = connect(server)
    connection.request("HEAD", "/")
    response = connection.getresponse()
    assert int(response.getheader("Content-Length") or 0) > 0
    assert response.read() == b""
    connection.request("GET", "/empty")
    response = connection.getresponse()
    assert (response.status, response.read(), response.getheader("Content-Length")) == (204, b"", None)
    connection.request("GET", "/odd")
    response = connection.getresponse()
    assert (response.status, response.reason, response.read()) == (299, "", b"")
    connection.request("HEAD", "/chunks")
    assert connection.getresponse().read() == b""
    connection.request("GET", "/chunks")
    assert connection.getresponse().read() == b"onetwo"
    connection.close()


def test_a_dropped_request_gets_nothing(server: HTTPServer) -> None:
    """None as the answer closes the connection."""
    assert exchange(server, b"GET /drop HTTP/1.1\r\nHost: x\r\n\r\n") == b""


def test_a_bug_is_500_and_logged(server: HTTPServer, caplog: pytest.LogCaptureFixture) -> None:
    """The client gets a plain 500; the log has the traceback; the server goes on."""
    with caplog.at_level(logging.ERROR, logger="dpop.testing"):
        assert exchange(server, b"GET /fail HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 500 ")
    assert "this is a bug of the test server" in caplog.text
    assert exchange(server, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 200 ")


def test_sixty_four_clients_at_once() -> None:
    """64 threads with a connection each send requests with good proofs, and every one is served."""
    with DPoPTestServer(nonces="rotating", kept=10) as server:
        token = server.issue_access_token(jkt=KEY.thumbprint)
        nonce = call(server, token).nonce
        failures: list[int] = []

        def run() -> None:
            parts = urlsplit(server.issuer)
            connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
            for _ in range(20):
                proof = dpop.create_proof(KEY, "GET", server.resource, nonce=nonce, access_token=token)
                connection.request("GET", "/resource", headers={"Authorization": f"DPoP {token}", "DPoP": proof})
                response = connection.getresponse()
                response.read()
                if response.status != 200:
                    failures.append(response.status)
            connection.close()

        threads = [threading.Thread(target=run) for _ in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert server.stats.statuses == {401: 1, 200: 64 * 20}
        assert server.stats.connections == 65
