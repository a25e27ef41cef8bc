# SPDX-License-Identifier: Apache-2.0
"""A token endpoint that sends one byte after the other, for ever, holds no caller longer than twice the timeout."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest
from support.endpoints import ENDPOINTS, Endpoint

import dpop
from dpop.errors import OutcomeUnknownError, TokenEndpointUnavailableError, TokenRequestError

KEY = dpop.generate_key()
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CHALLENGE = b'HTTP/1.1 400 X\r\nDPoP-Nonce: n\r\nTransfer-Encoding: chunked\r\n\r\n1a\r\n{"error":"use_dpop_nonce"}\r\n'

SLOW: dict[str, tuple[bytes, bytes]] = {
    "nothing but line breaks": (b"", b"\r\n"),
    "the status line": (b"HTTP/1.1 200 O", b"K"),
    "a field of the head": (b"HTTP/1.1 200 OK\r\nX: ", b"a"),
    "informational responses": (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    "a body with a length": (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b" "),
    "a body until the end of the connection": (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b" "),
    "chunks": (CHUNKED, b"1\r\n \r\n"),
    "a chunk's extension": (CHUNKED + b"1;", b"a"),
    "a trailer": (CHUNKED + b'2\r\n{"\r\n0\r\nX: ', b"a"),
}
"""What the server sends at once, and what it sends again and again afterwards."""

_TIMES = 300  # fifteen seconds


class SlowServer:
    """A server on 127.0.0.1 that drips; ``patient`` is the number of clients that stayed to the end."""

    def __init__(self, start: bytes, drop: bytes) -> None:
        self.start = start
        self.drop = drop
        self.patient = 0
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/token"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._drip, args=(connection,), daemon=True))
            self._threads[-1].start()

    def _drip(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.recv(65_536)
            connection.sendall(self.start)
            for _ in range(_TIMES):
                if self._over.wait(0.05):
                    return
                connection.sendall(self.drop)
            self.patient += 1

    def close(self) -> None:
        """End all threads."""
        self._over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(60)


@pytest.fixture
def slow(request: pytest.FixtureRequest) -> Iterator[SlowServer]:
    """A server that is slow at this place."""
    server = SlowServer(*SLOW[request.param])
    yield server
    server.close()


BOUNDS = [
    (name, place)
    for name in sorted(ENDPOINTS)
    for place in sorted(SLOW if name in {"httpx", "httpx2"} else {"a field of the head", "a trailer"})
]
"""Synchronous httpx has a timer of this package; the others, a bound on each read."""


@pytest.mark.parametrize(("name", "slow"), BOUNDS, indirect=["slow"])
def test_a_response_that_drips_is_left_after_twice_the_timeout(name: str, slow: SlowServer) -> None:
    """Each byte comes in time; all of them never do."""
    with Endpoint(name, KEY, slow.url, client_id="c", timeout=0.3) as endpoint:
        with pytest.raises(TokenRequestError):
            endpoint.refresh("r")
    assert slow.patient == 0


@pytest.mark.parametrize(("name", "slow"), [("httpx", "a trailer"), ("httpx2", "a trailer")], indirect=["slow"])
def test_requests_without_a_proof_have_the_same_bound(name: str, slow: SlowServer) -> None:
    """Discovery sends none."""
    with pytest.raises(TokenRequestError):
        Endpoint(name, KEY, slow.url.removesuffix("/token"), client_id="c", timeout=0.3, discover=True)
    assert slow.patient == 0


def test_such_a_response_may_have_used_up_the_refresh_token(request: pytest.FixtureRequest) -> None:
    """The caller learns that the outcome is unknown; the time is long enough for a busy machine to connect."""
    slow = SlowServer(*SLOW["a field of the head"])
    request.addfinalizer(slow.close)
    with Endpoint("httpx", KEY, slow.url, client_id="c", timeout=2) as endpoint:
        with pytest.raises(OutcomeUnknownError, match="did not respond in time"):
            endpoint.refresh("r")
    assert slow.patient == 0


@pytest.mark.parametrize("name", ["httpx", "httpx2"])
def test_a_challenge_that_drips_is_left_as_well(name: str) -> None:
    """It is dropped, and the rest of its body is not waited for."""
    slow = SlowServer(CHALLENGE + b"1;", b"a")
    try:
        with Endpoint(name, KEY, slow.url, client_id="c", timeout=0.2) as endpoint:
            with pytest.raises(TokenRequestError):
                endpoint.refresh("r")
    finally:
        slow.close()
    assert slow.patient == 0


@pytest.mark.parametrize("name", sorted(ENDPOINTS))
def test_a_proxy_that_drips_its_response_to_connect_is_left_and_nothing_was_sent(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tunnel is never there, so that the token endpoint has got nothing."""
    slow = SlowServer(*SLOW["a field of the head"])
    for variable in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, slow.url.removesuffix("/token"))
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    try:
        with Endpoint(name, KEY, "https://as.example/token", client_id="c", timeout=0.2) as endpoint:
            with pytest.raises(TokenEndpointUnavailableError, match="nothing was sent"):
                endpoint.refresh("r")
    finally:
        slow.close()
    assert slow.patient == 0
