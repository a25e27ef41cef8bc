# SPDX-License-Identifier: Apache-2.0
"""A server that means harm: answers no HTTP library would write, byte by byte, to every client.

Whatever comes, a call ends: with an answer, or with an error of the HTTP library's own. No token and no proof goes
where it should not, a proof is never sent twice, and the next call works.
"""

from __future__ import annotations

import contextlib
import gzip
import re
import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Self

import aiohttp
import httpx
import httpx2
import pytest
import requests
from support.clients import CLIENTS, SYNCHRONOUS, Client, Reply, make
from support.endpoints import ENDPOINTS, Endpoint

import dpop
import dpop.httpx
import dpop.httpx2
import dpop.requests
from dpop.client._prover import Prover
from dpop.errors import InvalidTokenResponseError, OutcomeUnknownError, TokenRequestError
from dpop.tokens import ServerMetadata

KEY = dpop.generate_key()
TOKEN = "to.ken-4711"
FINE = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"
CHALLENGE = b'HTTP/1.1 401 No\r\nWWW-Authenticate: DPoP error="use_dpop_nonce"\r\nDPoP-Nonce: n-1\r\n'
REFUSAL = b"HTTP/1.1 400 No\r\nContent-Type: application/json\r\nDPoP-Nonce: n-1\r\n"
WANTS_NONCE = b'{"error":"use_dpop_nonce"}'
CALM = (
    *(Reply, requests.RequestException, dpop.DPoPError, httpx.InvalidURL, httpx2.InvalidURL),
    *(httpx.HTTPError, httpx2.HTTPError, httpx.StreamError, httpx2.StreamError, aiohttp.ClientError),
)
PATIENCE = 60


class RawServer:
    """Answers requests with bytes, in turn; behind the last, everything is fine.

    :param responses: each the bytes to send, or None to close the connection without a word.
    :param reads_body: if not, it answers as soon as it has seen the head, and closes.
    """

    def __init__(self, *responses: bytes | None, reads_body: bool = True) -> None:
        self._answers = list(responses)
        self._reads_body = reads_body
        self.heads: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self.origin = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def field(self, name: str) -> list[list[str]]:
        """The values of a header field, for each request."""
        return [re.findall(rf"(?im)^{name}: *(.*?)\r?$", head) for head in self.heads]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with self._lock:
                    self._open.add(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as stream:
            connection.settimeout(PATIENCE)
            while head := self._head(stream):
                with self._lock:
                    self.heads.append(head)
                    answer = self._answers.pop(0) if self._answers else FINE
                if self._reads_body and (length := re.search(r"(?im)^content-length: *(\d+)", head)):
                    stream.read(int(length[1]))
                if answer is None:
                    return
                connection.sendall(answer[:-4] if answer is FINE and head.startswith("HEAD") else answer)
                if answer is not FINE and (b"Connection: close" in answer or not self._reads_body):
                    return

    @staticmethod
    def _head(stream: Any) -> str:
        lines = b""
        while (line := stream.readline(65_536)) not in {b"\r\n", b""}:
            lines += line
        return lines.decode("latin-1")


@pytest.fixture(params=sorted(CLIENTS))
def client(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Makes clients of each library in turn, and closes them."""
    made: list[Client] = []

    def build(**options: Any) -> Any:
        made.append(make(request.param, Prover(KEY), **options))
        return made[-1]

    yield build
    for one in made:
        one.close()


def outcome(call: Callable[[], Reply]) -> Reply | Exception:
    """What a call ends with, which it must within a minute."""
    ended: list[Reply | Exception] = []

    def run() -> None:
        try:
            ended.append(call())
        except Exception as error:  # noqa: BLE001 - whatever it is, is judged
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert ended, "the call did not end"
    return ended[0]


def assert_calm(server: RawServer, ended: Reply | Exception, most: int = 2) -> None:
    """An answer or the library's own error, and each proof once."""
    assert isinstance(ended, CALM), repr(ended)
    assert TOKEN not in str(ended)
    proofs = [proof for proofs in server.field("DPoP") for proof in proofs]
    assert len(set(proofs)) == len(proofs) <= most


CHALLENGES = {
    "a chunk size that is none": CHALLENGE + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\nbody\r\n0\r\n\r\n",
    "a chunk without an end": CHALLENGE + b"Transfer-Encoding: chunked\r\n\r\n5;" + b"x" * 200_000,
    "a chunk larger than all": CHALLENGE + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nbody",
    "a negative chunk": CHALLENGE + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nbody\r\n0\r\n\r\n",
    "trailers": CHALLENGE + b"Transfer-Encoding: chunked\r\n\r\n0\r\nDPoP-Nonce: n-2\r\n\r\n",
    "no gzip": CHALLENGE + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nbody",
    "half a gzip": CHALLENGE + b"Content-Encoding: gzip\r\nContent-Length: 12\r\n\r\n" + gzip.compress(b"x" * 99)[:12],
    "an unknown coding": CHALLENGE + b"Content-Encoding: zstd, br, x\r\nContent-Length: 4\r\n\r\nbody",
    "less than it says, and closed": CHALLENGE + b"Connection: close\r\nContent-Length: 10\r\n\r\nbod",
    "less than it says, and open": CHALLENGE + b"Content-Length: 10\r\n\r\nbod",
    "more than it says": CHALLENGE + b"Content-Length: 4\r\n\r\nbody and more of it",
    "two answers": CHALLENGE + b"Content-Length: 0\r\n\r\n" + FINE,
    "a length that is none": CHALLENGE + b"Content-Length: -1\r\n\r\nbody",
    "two lengths": CHALLENGE + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nbody!",
    "length and chunks": CHALLENGE + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    "an unknown transfer coding": CHALLENGE + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "no length, closed": CHALLENGE + b"Connection: close\r\n\r\nbody",
    "HTTP/1.0": CHALLENGE.replace(b"1.1", b"1.0") + b"Connection: close\r\n\r\nbody",
    "HTTP/1.0, kept open": CHALLENGE.replace(b"1.1", b"1.0")
    + b"Content-Length: 4\r\nConnection: keep-alive\r\n\r\nbody",
    "a folded nonce": CHALLENGE.replace(b"n-1", b"n\r\n -1") + b"Content-Length: 0\r\n\r\n",
    # http.client takes all behind it for the body.
    "a blank before the colon": CHALLENGE.replace(b"Nonce:", b"Nonce :") + b"Connection: close\r\n\r\n",
    "a nonce of 60,000": CHALLENGE.replace(b"n-1", b"n" * 60_000) + b"Content-Length: 0\r\n\r\n",
    "a nonce of 4,000": CHALLENGE.replace(b"n-1", b"n" * 4_000) + b"Content-Length: 0\r\n\r\n",
    "a nul": CHALLENGE.replace(b"n-1", b"n\0-1") + b"Content-Length: 0\r\n\r\n",
    "ninety challenges": CHALLENGE + b"WWW-Authenticate: Basic realm=x\r\n" * 90 + b"Content-Length: 0\r\n\r\n",
    "a thousand fields": CHALLENGE + b"X: y\r\n" * 1_000 + b"Content-Length: 0\r\n\r\n",
    "dates": CHALLENGE + b"Date: Fri, 99 Foo 99999 99:99:99 GMT\r\nDate: 0\r\nContent-Length: 0\r\n\r\n",
    "no reason": CHALLENGE.replace(b" No", b"") + b"Content-Length: 0\r\n\r\n",
    "no header names": CHALLENGE + b": x\r\n:\r\nContent-Length: 0\r\n\r\n",
    "no HTTP": b"\0" * 1_000 + b"\r\n\r\n",
    "early hints": b"HTTP/1.1 103 Early\r\nDPoP-Nonce: early\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "many a continue": b"HTTP/1.1 100 Continue\r\n\r\n" * 500 + CHALLENGE + b"Content-Length: 0\r\n\r\n",
    "a switch of protocols": b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nx",
    "a challenge without a body to 204": CHALLENGE.replace(b"401", b"204") + b"\r\n",
}


@pytest.mark.parametrize("what", CHALLENGES)
@pytest.mark.parametrize("method", ["HEAD", "POST"])
def test_an_odd_challenge(client: Callable[..., Any], what: str, method: str) -> None:
    """One retry at most, and the next call works."""
    with RawServer(CHALLENGES[what]) as server:
        one = client(origins=server.origin, access_token=TOKEN, learn_clock=True)
        body = one.bytes_body(b"body") if method == "POST" else None
        assert_calm(server, outcome(lambda: one.send(method, server.origin + "/r", body=body)))
        again = outcome(lambda: one.send("GET", server.origin + "/r"))
        if isinstance(again, Exception):
            # What was left on the connection spoiled one more call, and the connection is closed.
            assert_calm(server, again, most=3)
            again = outcome(lambda: one.send("GET", server.origin + "/r"))
        assert isinstance(again, Reply)
        assert again.status in {200, 401}
        assert len({proof for proofs in server.field("DPoP") for proof in proofs}) <= 4


INFORMATIONAL = {
    "early hints": b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\nDPoP-Nonce: early\r\n\r\n",
    "processing, and early hints": b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n",
    "an unknown one": b"HTTP/1.1 199 Wait\r\n\r\n",
}


@pytest.mark.parametrize("what", INFORMATIONAL)
def test_informational_responses_are_not_the_final_one(client: Callable[..., Any], what: str) -> None:
    """The response after them belongs to the same request, and none is left for the next (RFC 9110 §15.2)."""
    answers = [INFORMATIONAL[what] + b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number for number in range(3)]
    with RawServer(*answers) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        replies = [one.send("GET", server.origin + "/r") for _ in answers]
    assert [(reply.status, reply.body) for reply in replies] == [(200, b"0"), (200, b"1"), (200, b"2")]


@pytest.mark.parametrize("name", sorted(ENDPOINTS))
@pytest.mark.parametrize("what", INFORMATIONAL)
def test_informational_responses_cost_no_tokens(name: str, what: str) -> None:
    """The tokens behind them are taken, and a request without a proof works as well."""
    tokens = b'{"access_token":"a","token_type":"DPoP","refresh_token":"new"}'
    answer = INFORMATIONAL[what] + b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(tokens) + tokens
    revoked = INFORMATIONAL[what] + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    with RawServer(answer, revoked) as server:
        metadata = ServerMetadata(
            token_endpoint=server.origin + "/token", revocation_endpoint=server.origin + "/revoke"
        )
        with Endpoint(name, KEY, metadata, client_id="c", timeout=60) as endpoint:
            assert endpoint.refresh("old").refresh_token == "new"
            endpoint.revoke("new")
    assert len(server.heads) == 2


BOMB = gzip.compress(bytes(1_000_000)) * 20
REFUSALS = {
    "a bomb": REFUSAL + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB) + BOMB,
    "a bomb in a bomb": REFUSAL
    + b"Content-Encoding: gzip, gzip\r\nContent-Length: %d\r\n\r\n" % len(gzip.compress(BOMB))
    + gzip.compress(BOMB),
    "many codings": REFUSAL + b"Content-Encoding: " + b"gzip, " * 50 + b"gzip\r\nContent-Length: 4\r\n\r\nbody",
    "no gzip": REFUSAL + b"Content-Encoding: gzip\r\nContent-Length: 26\r\n\r\n" + WANTS_NONCE,
    "an empty gzip": REFUSAL + b"Content-Encoding: gzip\r\nContent-Length: 0\r\n\r\n",
    "an unknown coding": REFUSAL + b"Content-Encoding: x\r\nContent-Length: 26\r\n\r\n" + WANTS_NONCE,
    "a broken chunk": REFUSAL + b"Transfer-Encoding: chunked\r\n\r\nZ\r\n" + WANTS_NONCE,
    "a cut chunk": REFUSAL + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n1a\r\n" + WANTS_NONCE[:9],
    "less than it says, and closed": REFUSAL + b"Connection: close\r\nContent-Length: 99\r\n\r\n" + WANTS_NONCE,
    "another charset": REFUSAL.replace(b"json", b"json; charset=utf-16")
    + b"Content-Length: 54\r\n\r\n"
    + WANTS_NONCE.decode().encode("utf-16"),
    "deep JSON": REFUSAL + b"Content-Length: 10000\r\n\r\n" + b"[" * 10_000,
    "JSON of numbers": REFUSAL + b"Content-Length: 10011\r\n\r\n" + b'{"error":' + b"9" * 10_001 + b"}",
}


@pytest.mark.parametrize("what", REFUSALS)
def test_an_odd_refusal_of_a_token_request(client: Callable[..., Any], what: str) -> None:
    """One retry at most; an answer that is not understood reaches the caller, or fails as the library fails."""
    with RawServer(REFUSALS[what]) as server:
        one = client(origins=server.origin)
        form = one.form_body({"grant_type": "client_credentials"})
        assert_calm(server, outcome(lambda: one.send("POST", server.origin + "/token", body=form)))
        again = outcome(lambda: one.send("POST", server.origin + "/token", body=form))
        assert isinstance(again, Reply)
        assert again.status == 200


def test_an_answer_before_the_body(client: Callable[..., Any]) -> None:
    """A challenge to the head of a large upload, and the connection closed: it ends, and no half of it is a whole."""
    refusal = CHALLENGE + b"Connection: close\r\nContent-Length: 0\r\n\r\n"
    with RawServer(refusal, reads_body=False) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        ended = outcome(lambda: one.send("POST", server.origin + "/r", body=one.bytes_body(bytes(8_000_000))))
        assert_calm(server, ended)


REDIRECTS = {
    "user": "http://user@{other}/steal",
    "our host as user": "http://{ours}@{other}/steal",
    "our host as user and password": "http://127.0.0.1:80@{other}/steal",
    "a backslash": "http://{other}\\@{ours}/steal",
    "a backslash before the user": "http://{ours}\\@{other}/steal",
    "a fragment as user": "http://{other}#@{ours}/steal",
    "a query as user": "http://{other}?@{ours}/steal",
    "no scheme": "//{other}/steal",
    "three slashes": "///{other}/steal",
    "slash and backslash": "/\\{other}/steal",
    "blanks before": " http://{other}/steal",
    "a tab inside": "ht\ttp://{other}/steal",
    "upper case": "HTTP://{other}/steal",
    "a tab in the host": "http://127.0.0.1:80\t@{other}/steal",
    "another name of this machine": "http://localhost:{port}/steal",
    "another number of this machine": "http://127.1:{port}/steal",
    "another form of this machine": "http://2130706433:{port}/steal",
    "a dot behind the host": "http://127.0.0.1.:{port}/steal",
    "full width digits": "http://\uff11\uff12\uff17.0.0.1:{port}/steal",
    "a port too many": "http://{other}:80/steal",
    "a port of many digits": "http://127.0.0.1:000000{port}/steal",
    "a file": "file:///etc/passwd",
    "nothing": "",
    "a path of bad bytes": "/\x80\xff%zz",
    "dot segments": "/a/../../steal",
    "encoded dot segments": "/a/%2e%2e/steal",
    "a long path": "/" + "x" * 60_000,
    "an IPv6 address with a zone": "http://[::1%25lo]:{port}/steal",
}


@pytest.mark.parametrize("what", REDIRECTS)
def test_a_redirect_to_who_knows_where(client: Callable[..., Any], what: str) -> None:
    """The other server gets neither token nor proof, however its URL is written; ours gets each proof once."""
    with RawServer() as other, RawServer() as server:
        ours, port = server.origin.removeprefix("http://"), other.origin.rpartition(":")[2]
        location = REDIRECTS[what].format(ours=ours, other=other.origin.removeprefix("http://"), port=port)
        server._answers = [
            b"HTTP/1.1 307 Go\r\nContent-Length: 0\r\nLocation: %b\r\n\r\n"
            % location.encode("utf-8", "surrogateescape")
        ]
        one = client(origins=server.origin, access_token=TOKEN)
        ended = outcome(lambda: one.send("GET", server.origin + "/r"))
        for fields in [*other.field("DPoP"), *other.field("Authorization")]:
            assert not any(value for value in fields if "eyJ" in value or TOKEN in value)
        proofs = [proof for proofs in server.field("DPoP") for proof in proofs]
        assert len(set(proofs)) == len(proofs) <= 2
        assert isinstance(ended, CALM), repr(ended)
        assert TOKEN not in str(ended)
        again = outcome(lambda: one.send("GET", server.origin + "/r"))
        assert isinstance(again, Reply)
        assert again.status == 200


@cache
def bomb(layers: int) -> bytes:
    """Thirty megabytes of nothing."""
    content = bytes(30_000_000)
    for _ in range(layers):
        content = gzip.compress(content)
    return content


def only_the_head(one: Any, url: str) -> int:
    """Send a form, and leave the body of the answer alone."""
    form = {"grant_type": "client_credentials"}
    if one.name == "requests":
        with one.session.post(url, data=form, stream=True) as response:
            return int(response.status_code)
    if one.name == "aiohttp":

        async def post() -> int:
            async with one.session.post(url, data=form) as response:
                return int(response.status)

        return int(one.runner.run(post()))
    if one.name in SYNCHRONOUS:
        with one.client.stream("POST", url, data=form) as response:
            return int(response.status_code)

    async def send() -> int:
        async with one.client.stream("POST", url, data=form) as response:
            return int(response.status_code)

    return int(one.runner.run(send()))


@pytest.mark.parametrize("layers", [1, 2])
def test_looking_at_a_refusal_fills_no_memory(client: Callable[..., Any], layers: int) -> None:
    """A 400 that was compressed twice, and is looked at before anybody asked for its body."""
    content, coding = bomb(layers), b", ".join([b"gzip"] * layers)
    answer = REFUSAL + b"Content-Encoding: %b\r\nContent-Length: %d\r\n\r\n" % (coding, len(content)) + content
    with RawServer(answer) as server:
        one = client(origins=server.origin)
        tracemalloc.start()
        try:
            assert only_the_head(one, server.origin + "/token") == 400
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 8_000_000


@pytest.mark.parametrize("library", [dpop.requests, dpop.httpx, dpop.httpx2], ids=lambda module: str(module.__name__))
@pytest.mark.parametrize("what", [*CHALLENGES, *(f"a refusal with {name}" for name in REFUSALS)])
def test_a_token_endpoint_that_means_harm(library: Any, what: str) -> None:
    """An error of ours for every answer, and as long as the body is looked at, no memory for what is not."""
    answer = CHALLENGES.get(what) or REFUSALS[what.removeprefix("a refusal with ")]
    with RawServer(answer) as server:
        endpoint = library.TokenEndpoint(
            Prover(KEY), server.origin + "/token", client_id="c", client_secret="sec", timeout=1
        )
        ended = outcome(lambda: endpoint.grant("client_credentials"))
        endpoint.close()
    assert isinstance(ended, dpop.DPoPError), repr(ended)
    assert len(server.heads) <= 2


@pytest.mark.parametrize("library", [dpop.requests, dpop.httpx, dpop.httpx2], ids=lambda module: str(module.__name__))
@pytest.mark.parametrize("status", [b"200", b"400"])
def test_a_token_endpoint_fills_no_memory(library: Any, status: bytes) -> None:
    """A gigabyte in a kilobyte is no answer."""
    content = bomb(2)
    head = REFUSAL.replace(b"400", status) + b"Content-Encoding: gzip, gzip\r\n"
    with RawServer(head + b"Content-Length: %d\r\n\r\n" % len(content) + content) as server:
        endpoint = library.TokenEndpoint(
            Prover(KEY), server.origin + "/token", client_id="c", client_secret="sec", timeout=1
        )
        tracemalloc.start()
        try:
            with contextlib.closing(endpoint), pytest.raises(InvalidTokenResponseError):
                endpoint.grant("client_credentials")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 8_000_000


class Dribbler:
    """A server that begins a response and sends one piece after the other, until the client goes away.

    :param begins: the beginning.
    :param piece: sent again and again, for ten seconds at most; after that come tokens.
    """

    def __init__(self, begins: bytes, piece: bytes) -> None:
        self._begins, self._piece = begins, piece
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/token"
        self.asked = self.left = False
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._thread.join(PATIENCE)
        self._listener.close()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection, connection.makefile("rb") as stream:
            while (line := stream.readline()) not in {b"\r\n", b""}:
                pass
            self.asked = line != b""
            try:
                connection.sendall(self._begins)
                for _ in range(200):
                    connection.settimeout(0.05)
                    with contextlib.suppress(TimeoutError):
                        self.left = connection.recv(65_536) == b""
                    if self.left:
                        return
                    connection.sendall(self._piece)
            except OSError:
                self.left = True


BOUNDED = ["requests", "httpx-async", "httpx2-async"]
WITHOUT_END = {
    "informational responses": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a header field": (b"HTTP/1.1 200 OK\r\nX: ", b"y"),
    "a chunk extension": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x"),
}


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("what", WITHOUT_END)
def test_a_response_that_never_ends_is_left(name: str, what: str) -> None:
    """Each byte comes in time, and the response does not: nobody waits for it with the lock of a store held."""
    with Dribbler(*WITHOUT_END[what]) as server:
        with Endpoint(name, KEY, server.url, client_id="c", timeout=0.5) as endpoint:
            with pytest.raises(TokenRequestError) as caught:
                endpoint.refresh("old")
    assert server.left
    # A busy machine may not even send the request in that time.
    assert isinstance(caught.value, OutcomeUnknownError) or not server.asked


@pytest.mark.parametrize("name", BOUNDED[:2])
def test_trailers_that_never_end_cost_no_tokens(name: str) -> None:
    """The object has come whole; what follows is not waited for."""
    tokens = b'{"access_token":"a","token_type":"DPoP"}'
    begins = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n" % (len(tokens), tokens)
    with Dribbler(begins, b"X: y\r\n") as server:
        with Endpoint(name, KEY, server.url, client_id="c", timeout=2) as endpoint:
            assert endpoint.refresh("old").access_token == "a"
    assert server.left
