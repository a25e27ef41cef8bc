# SPDX-License-Identifier: Apache-2.0
"""Both integrations on real servers, each of which hands over paths and headers in its own way."""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
import requests
from support.redis_server import running_redis
from support.resource import PUBLIC_URL
from support.servers import ASGI, START_SECONDS, WSGI, Reply, ask, running

import dpop
from dpop.httpx2 import DPoPTransport
from dpop.requests import DPoPAdapter

KEY = dpop.generate_key()
TOKEN = f"bound.{KEY.thumbprint}"
AUTHORIZATION = ("Authorization", f"DPoP {TOKEN}")
# wsgiref gives no request-target, only what is left of it after decoding.
# These servers decode the path and keep no other.
DECODED = {"wsgiref": {"/a%2Fb", "/a%2fb", "//double//slash"}, "granian-wsgi": {"/a%2Fb", "/a%2fb"}}
# These put the whole URL of an absolute-form request-target into the path.
WHOLE_URL_IS_THE_PATH = {"uvicorn-h11", "hypercorn", "wsgiref"}


@pytest.fixture(scope="module", params=[*ASGI, *WSGI])
def served(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    """The name of a server and its port, behind a proxy that nobody tells it about."""
    with running(request.param) as port:
        yield request.param, port


@pytest.fixture(scope="module")
def port(served: tuple[str, int]) -> int:
    """The port alone."""
    return served[1]


@pytest.fixture(scope="module")
def nonce(port: int) -> str:
    """The nonce of that server."""
    (nonce,) = ask(port, "/items").all("DPoP-Nonce")
    return nonce


def proof(url: str, nonce: str | None, method: str = "GET") -> tuple[str, str]:
    """The header field of one."""
    return "DPoP", dpop.create_proof(KEY, method, url, nonce=nonce, access_token=TOKEN)


def told(reply: Reply) -> dict[str, Any]:
    """What the application said of who came in."""
    assert reply.status == 200, reply.fields
    said: dict[str, Any] = json.loads(reply.body)
    return said


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/items",
        "/~user",
        "/a%20b",
        "/caf%C3%A9",
        "//double//slash",
        "/a;v=1/b,c@d:e",
        "/%7Euser",
        "/a%252Fb",
        "/trailing/",
        "/a%2Fb",
        "/a%2fb",
        "/100%25",
    ],
)
def test_the_path_counts_as_it_was_on_the_wire(served: tuple[str, int], nonce: str, path: str) -> None:
    """Each spelling is let in with a proof of the same, and the query is no part of it."""
    name, port = served
    reply = ask(port, path + "?q=%2F", AUTHORIZATION, proof(PUBLIC_URL + path, nonce))
    if path in DECODED.get(name, ()):
        assert (reply.status, "htu claim" in str(reply.fields)) == (401, True)
        return
    if name == "waitress" and path.startswith("//"):
        assert reply.status == 400  # the application sees one slash there
        return
    assert told(reply)["jkt"] == KEY.thumbprint
    other = ask(port, path + "x", AUTHORIZATION, proof(PUBLIC_URL + path, nonce))
    assert other.status == 401


def test_a_whole_url_as_request_target(served: tuple[str, int], nonce: str) -> None:
    """A client may send one (RFC 9112 §3.2.2); the origin in it does not count, the configuration's does.

    Where the application sees the whole URL as its path, the request is refused.
    """
    name, port = served
    target = "http://internal.example:8080/items?q=1"
    reply = ask(port, target, AUTHORIZATION, proof(PUBLIC_URL + "/items", nonce))
    if name in WHOLE_URL_IS_THE_PATH:
        assert reply.status == 400
        return
    assert (told(reply)["htu"], told(reply)["path"]) == (PUBLIC_URL + "/items", "/items")
    assert ask(port, target, AUTHORIZATION, proof("http://internal.example:8080/items", nonce)).status == 401


@pytest.mark.parametrize(
    "field",
    [
        ("Host", "evil.example"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Proto", "http"),
        ("Forwarded", 'host="evil.example";proto=http'),
        ("X-Forwarded-Prefix", "/evil"),
        ("X-Original-URL", "/evil"),
        ("X-Script-Name", "/evil"),
        ("X-Raw-Uri", "/evil"),
        ("Raw-Uri", "/evil"),
        ("Request-Uri", "/evil"),
    ],
)
def test_nothing_a_client_sends_changes_the_origin(port: int, nonce: str, field: tuple[str, str]) -> None:
    """A proof for elsewhere is not let in by any header, nor is one for here refused because of it."""
    fields = [field, AUTHORIZATION]
    if field[0] != "Host":  # a second Host is a bad request to most servers
        assert told(ask(port, "/items", *fields, proof(PUBLIC_URL + "/items", nonce)))
    for url in ("https://evil.example/items", "http://api.example/items", f"{PUBLIC_URL}/evil"):
        assert ask(port, "/items", *fields, proof(url, nonce)).status in {400, 401}


def test_two_dpop_headers_are_seen(port: int, nonce: str) -> None:
    """Also where the server joins them into one, and though each would do."""
    fields = [proof(PUBLIC_URL + "/items", nonce) for _ in range(2)]
    reply = ask(port, "/items", AUTHORIZATION, *fields)
    assert reply.status == 401
    assert 'error="invalid_dpop_proof"' in reply.all("WWW-Authenticate")[-1]


@pytest.mark.parametrize("second", ["Bearer unbound", f"DPoP {TOKEN}"], ids=["Bearer", "DPoP"])
def test_two_authorization_headers_are_seen(port: int, nonce: str, second: str) -> None:
    """The answer is a bad request, in both challenges (RFC 9449 Figure 19)."""
    reply = ask(port, "/items", AUTHORIZATION, ("Authorization", second), proof(PUBLIC_URL + "/items", nonce))
    assert reply.status == 400
    assert ['error="invalid_request"' in challenge for challenge in reply.all("WWW-Authenticate")] == [True, True]


def test_a_nonce_challenge_has_its_shape(port: int) -> None:
    """One field for each scheme, the nonce in its own, for no cache, readable by browsers."""
    reply = ask(port, "/items", AUTHORIZATION, proof(PUBLIC_URL + "/items", None))
    assert reply.status == 401
    bearer, challenge = reply.all("WWW-Authenticate")
    assert bearer == "Bearer"
    assert challenge.startswith('DPoP error="use_dpop_nonce", error_description="')
    assert challenge.endswith(', algs="ES256 Ed25519 EdDSA PS256 RS256"')
    assert len(reply.all("DPoP-Nonce")) == 1
    assert reply.all("Cache-Control") == ["no-store"]
    assert reply.all("Access-Control-Expose-Headers") == ["WWW-Authenticate, DPoP-Nonce"]
    assert json.loads(reply.body)["error"] == "use_dpop_nonce"


def test_a_bound_token_as_bearer_is_refused(port: int, nonce: str) -> None:
    """With a proof or without one; an unbound token is let in, for this API takes those too."""
    for fields in ([], [proof(PUBLIC_URL + "/items", nonce)]):
        reply = ask(port, "/items", ("Authorization", f"Bearer {TOKEN}"), *fields)
        assert reply.status == 401
        bearer, challenge = reply.all("WWW-Authenticate")
        assert bearer.startswith('Bearer error="invalid_token"')
        assert "error=" not in challenge
    assert told(ask(port, "/items", ("Authorization", "Bearer unbound")))["scheme"] == "Bearer"


def test_a_scope_the_token_lacks(port: int, nonce: str) -> None:
    """The application's own refusal is answered in the same shape."""
    reply = ask(port, "/items", AUTHORIZATION, proof(PUBLIC_URL + "/items", nonce), ("X-Scope", "write"))
    assert reply.status == 403
    assert 'error="insufficient_scope"' in reply.all("WWW-Authenticate")[1]
    assert 'scope="write"' in reply.all("WWW-Authenticate")[1]


def test_a_replay_is_refused(port: int, nonce: str) -> None:
    """The second request with one proof does not reach the application."""
    fields = [AUTHORIZATION, proof(PUBLIC_URL + "/items", nonce)]
    assert [ask(port, "/items", *fields).status for _ in range(2)] == [200, 401]


@pytest.mark.parametrize("name", [*ASGI, "gunicorn-threads", "waitress"])
def test_a_refusal_keeps_the_connection(name: str) -> None:
    """Whoever is asked for a nonce amid a request can finish it and come again on the same connection."""
    head = f"POST /items HTTP/1.1\r\nHost: x\r\nAuthorization: DPoP {TOKEN}\r\nContent-Length: 100\r\n\r\n".encode()
    with running(name) as port, socket.create_connection(("127.0.0.1", port), timeout=START_SECONDS) as connection:
        for _ in range(2):
            connection.sendall(head)
            select.select([connection], [], [], 0.2)  # a server that answers now has not seen the body
            connection.sendall(b"x" * 100)
        content = b""
        while content.count(b"HTTP/1.1 401") < 2 and (more := connection.recv(65536)):
            content += more
    assert content.count(b"HTTP/1.1 401") == 2


@pytest.mark.parametrize("name", [*ASGI, *WSGI])
def test_real_clients_come_in(name: str) -> None:
    """This package's adapters, with nonces, against each server at its own address."""
    with running(name, url="own") as port:
        origin = f"http://127.0.0.1:{port}"
        with requests.Session() as session:
            session.trust_env = False
            session.mount(origin, DPoPAdapter(KEY, origins=origin, access_token=TOKEN))
            assert [session.post(f"{origin}/a%20b?{n}", data=b"x" * 100).status_code for n in range(3)] == [200] * 3
        with httpx2.Client(transport=DPoPTransport(KEY, origins=origin, access_token=TOKEN), timeout=60) as client:
            assert [client.get(f"{origin}/items/{n}").status_code for n in range(3)] == [200] * 3


def test_a_proof_passes_once_among_processes(redis_url: str) -> None:
    """Four workers of gunicorn share a Redis; of fifty requests with one proof, one comes in."""
    path = redis_url.removeprefix("unix://")
    with running("gunicorn", workers=4, redis=f"unix://{path}") as port:
        (nonce,) = ask(port, "/items").all("DPoP-Nonce")
        for _ in range(3):
            fields = [AUTHORIZATION, proof(PUBLIC_URL + "/items", nonce)]
            with ThreadPoolExecutor(50) as pool:
                replies = list(pool.map(lambda _: ask(port, "/items", *fields), range(50)))  # noqa: B023
            assert sorted(reply.status for reply in replies) == [200] + [401] * 49


def test_a_lost_redis_is_a_503() -> None:
    """Nobody is let in while proofs cannot be remembered, and somebody is when they can be again."""
    with running_redis() as server, running("gunicorn", redis=server.url) as port:
        (nonce,) = ask(port, "/items").all("DPoP-Nonce")
        asked = AUTHORIZATION, proof(PUBLIC_URL + "/items", nonce)
        server.stop()
        reply = ask(port, "/items", *asked)
        assert (reply.status, reply.all("Retry-After"), reply.all("Cache-Control")) == (503, ["1"], ["no-store"])
        server.start()
        assert ask(port, "/items", *asked).status == 200
        assert ask(port, "/items", *asked).status == 401


def test_a_websocket() -> None:
    """Its handshake is a GET: let in with a token and a proof, answered like any other without."""
    asked = (
        "GET /items HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    )
    asked += "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

    def shake(*fields: tuple[str, str]) -> Reply:
        with socket.create_connection(("127.0.0.1", port), timeout=START_SECONDS) as connection:
            connection.sendall((asked + "".join(f"{name}: {value}\r\n" for name, value in fields) + "\r\n").encode())
            return Reply(connection.recv(65536))

    with running("hypercorn") as port:
        refused = shake()
        assert refused.status == 401
        (nonce,) = refused.all("DPoP-Nonce")
        assert shake(AUTHORIZATION, proof(PUBLIC_URL + "/items", nonce)).status == 101


def test_http_2() -> None:
    """Over one connection with prior knowledge, where the path and the fields come in frames."""
    with running("hypercorn") as port, httpx2.Client(http1=False, http2=True, timeout=60) as client:
        url = f"http://127.0.0.1:{port}/a%2Fb?q=1"
        refused = client.get(url)
        assert (refused.http_version, refused.status_code) == ("HTTP/2", 401)
        nonce = refused.headers["DPoP-Nonce"]
        fields = [AUTHORIZATION, proof(PUBLIC_URL + "/a%2Fb", nonce)]
        assert client.get(url, headers=fields).status_code == 200
        doubled = [AUTHORIZATION, *(proof(PUBLIC_URL + "/a%2Fb", nonce) for _ in range(2))]
        assert client.get(url, headers=doubled).status_code == 401
