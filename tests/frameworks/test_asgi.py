# SPDX-License-Identifier: Apache-2.0
"""The ASGI integration, message by message; with real servers it is in tests/frameworks."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import anyio
import pytest
import redis.asyncio
from support.in_process import ask_asgi
from support.resource import PUBLIC_URL, asgi_application, look_up, resource

import dpop
import dpop.asgi
from dpop.asgi import Application, DPoPMiddleware, Receive, Scope, Send, access
from dpop.errors import InvalidProof, UsageError
from dpop.redis import AsyncRedisReplayCache

KEY = dpop.generate_key()
TOKEN = f"bound.{KEY.thumbprint}"
AUTHORIZATION = ("Authorization", f"DPoP {TOKEN}")


def proof(url: str = PUBLIC_URL + "/items", method: str = "GET", nonce: str | None = None) -> tuple[str, str]:
    """The header field of one."""
    return "DPoP", dpop.create_proof(KEY, method, url, access_token=TOKEN, nonce=nonce)


@pytest.fixture
def app() -> Application:
    """The application of the tests behind an integration, without nonces."""
    return DPoPMiddleware(asgi_application, resource(nonces=False))


def test_the_next_nonce_replaces_what_the_application_says() -> None:
    """One DPoP-Nonce, no caching, and the application's other headers; without a new nonce they are all its own."""
    app = DPoPMiddleware(asgi_application, resource(nonces=True))
    (stale,) = [value for name, value in ask_asgi(app, "GET", "/items", [])[1] if name == "dpop-nonce"]
    status, headers, _ = ask_asgi(app, "GET", "/items", [AUTHORIZATION, proof(nonce=stale)])
    assert status == 200
    assert ("dpop-nonce", "the-application's") in headers  # the nonce used is still the newest
    assert ("cache-control", "max-age=60") in headers

    single = DPoPMiddleware(asgi_application, _single_use())
    (nonce,) = [value for name, value in ask_asgi(single, "GET", "/items", [])[1] if name == "dpop-nonce"]
    status, headers, _ = ask_asgi(single, "GET", "/items", [AUTHORIZATION, proof(nonce=nonce)])
    (after,) = [value for name, value in headers if name == "dpop-nonce"]
    assert status == 200
    assert after not in {nonce, "the-application's"}
    assert [value for name, value in headers if name == "cache-control"] == ["no-store"]
    assert ("access-control-expose-headers", "WWW-Authenticate, DPoP-Nonce") in headers
    assert ("x-app", "1") in headers
    again = ask_asgi(single, "GET", "/items", [AUTHORIZATION, proof(nonce=after), ("X-Scope", "write")])
    assert again[0] == 403
    assert len([value for name, value in again[1] if name == "dpop-nonce"]) == 1


def _single_use() -> Any:
    from dpop.server import MemoryReplayCache, NonceIssuer, ProofVerifier, ProtectedResource

    nonces = NonceIssuer(single_use=MemoryReplayCache())
    return ProtectedResource(ProofVerifier(replay=MemoryReplayCache(), nonces=nonces), url=PUBLIC_URL, token=look_up)


def test_a_server_without_raw_path(app: Application) -> None:
    """The path is encoded anew: enough for all but an encoded slash, which is refused."""
    for path in ("/a%20b", "/caf%C3%A9", "/a;b=c,d:e@f", "/100%25", "/~user"):
        fields = [AUTHORIZATION, proof(PUBLIC_URL + path)]
        assert ask_asgi(app, "GET", path + "?q", fields, raw_path=None)[0] == 200
    assert ask_asgi(app, "GET", "/a%2Fb", [AUTHORIZATION, proof(PUBLIC_URL + "/a%2Fb")], raw_path=None)[0] == 401


def test_a_prefix_that_a_proxy_cut_off() -> None:
    """The configuration gives it back; the path of a router is not concerned."""
    seen = []

    def public(path: str) -> bool:
        seen.append(path)
        return False

    app = DPoPMiddleware(asgi_application, resource(nonces=False, url=PUBLIC_URL + "/v1", public=public))
    assert ask_asgi(app, "GET", "/items", [AUTHORIZATION, proof(PUBLIC_URL + "/v1/items")])[0] == 200
    assert ask_asgi(app, "GET", "/items", [AUTHORIZATION, proof(PUBLIC_URL + "/items")])[0] == 401
    ask_asgi(app, "GET", "/mounted/items", [], root_path="/mounted")
    ask_asgi(app, "GET", "/mountedelsewhere", [], root_path="/mounted")
    assert seen == ["/items", "/items", "/items", "/mountedelsewhere"]


def test_a_public_path_asks_for_nothing() -> None:
    """Until its route does; then the request is let in, or refused, as any other."""
    app = DPoPMiddleware(asgi_application, resource(nonces=False, public=lambda _path: True))
    assert ask_asgi(app, "GET", "/public", [])[::2] == (200, b"hello")
    assert ask_asgi(app, "GET", "/items", [])[0] == 401
    assert ask_asgi(app, "GET", "/items", [AUTHORIZATION, proof()])[0] == 200


def test_a_browsers_question_is_let_through() -> None:
    """A preflight has no token; any other OPTIONS needs one."""
    called = []

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        called.append(scope["method"])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    app = DPoPMiddleware(inner, resource())
    asks = [("Origin", "https://page.example"), ("Access-Control-Request-Method", "GET")]
    assert ask_asgi(app, "OPTIONS", "/items", asks)[0] == 204
    assert ask_asgi(app, "OPTIONS", "/items", asks[:1])[0] == 401
    assert ask_asgi(app, "GET", "/items", asks)[0] == 401
    assert called == ["OPTIONS"]


def test_no_failing_request_reaches_the_application() -> None:
    """Not one, whatever is missing (RFC 9449 §7.1)."""

    async def never(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise AssertionError("the application was called")

    app = DPoPMiddleware(never, resource())
    for fields in (
        [],
        [proof()],
        [AUTHORIZATION],
        [AUTHORIZATION, proof()],
        [AUTHORIZATION, proof(), proof()],
        [("Authorization", f"Bearer {TOKEN}")],
        [("Authorization", "Basic YTpi"), proof()],
    ):
        assert ask_asgi(app, "GET", "/items", fields)[0] == 401


def test_a_lookup_may_be_awaited() -> None:
    """Such as a question to the introspection endpoint; it is asked only for requests with a good proof."""
    asked = []

    async def look_up_elsewhere(token: str) -> Any:
        asked.append(token)
        await asyncio.sleep(0)
        return look_up(token)

    app = DPoPMiddleware(asgi_application, resource(nonces=False, token=look_up_elsewhere))
    assert ask_asgi(app, "GET", "/items", [AUTHORIZATION, proof(PUBLIC_URL + "/other")])[0] == 401
    assert asked == []
    assert ask_asgi(app, "GET", "/items", [AUTHORIZATION, proof()])[0] == 200
    assert asked == [TOKEN]


def test_one_of_fifty_tasks_comes_in(redis_url: str) -> None:
    """With a Redis that is awaited, as one application serves fifty requests with one proof at once."""

    async def run() -> list[int]:
        async with redis.asyncio.Redis.from_url(redis_url) as client:
            cache = AsyncRedisReplayCache(client, when_down="refuse")
            app = DPoPMiddleware(asgi_application, resource(nonces=False, replay=cache))
            fields = [AUTHORIZATION, proof()]
            headers = [(name.lower().encode(), value.encode()) for name, value in fields]
            scope = {"type": "http", "method": "GET", "path": "/items", "raw_path": b"/items", "headers": headers}
            statuses = []

            async def receive() -> dict[str, Any]:
                return {"type": "http.request", "body": b""}

            async def send(message: Any) -> None:
                if message["type"] == "http.response.start":
                    statuses.append(message["status"])

            await asyncio.gather(*(app(dict(scope), receive, send) for _ in range(50)))
            return statuses

    assert sorted(asyncio.run(run())) == [200] + [401] * 49


def test_an_error_after_the_response_began_is_the_servers() -> None:
    """What was sent cannot be taken back."""

    async def late(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise InvalidProof("insufficient_scope", "late", "too late")

    with pytest.raises(InvalidProof, match="too late"):
        ask_asgi(DPoPMiddleware(late, resource(nonces=False)), "GET", "/items", [AUTHORIZATION, proof()])


def test_an_error_of_the_application_is_its_own(app: Application) -> None:
    """Only refusals are answered here."""

    async def broken(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise LookupError("broken")

    with pytest.raises(LookupError):
        ask_asgi(DPoPMiddleware(broken, resource(nonces=False)), "GET", "/items", [AUTHORIZATION, proof()])


def test_without_the_middleware_nobody_is_let_in() -> None:
    """A forgotten middleware is an error, not an unprotected application."""
    with pytest.raises(UsageError, match="not wrapped"):
        ask_asgi(asgi_application, "GET", "/items", [AUTHORIZATION, proof()])


def drained(sent: list[dict[str, Any]], *fields: tuple[str, str]) -> int:
    """How many pieces of a body are taken before a refusal; more than there are would wait for ever."""
    pieces = iter(sent)
    taken = []
    answered = []

    async def receive() -> dict[str, Any]:
        taken.append(next(pieces))
        return taken[-1]

    async def send(message: Any) -> None:
        answered.append(message)

    scope = {"type": "http", "method": "POST", "path": "/items", "raw_path": b"/items"}
    headers = [(name.lower().encode(), value.encode()) for name, value in fields]
    asyncio.run(DPoPMiddleware(asgi_application, resource())({**scope, "headers": headers}, receive, send))
    assert answered[0]["status"] == 401
    return len(taken)


def piece(size: int = 100, *, more: bool = True) -> dict[str, Any]:
    """Of a request's body."""
    return {"type": "http.request", "body": b"x" * size, "more_body": more}


def test_a_short_body_is_taken_before_a_refusal() -> None:
    """Not a long one, not one the client holds back until it is told to go on, not one that ends in between."""
    assert drained([piece(), piece(more=False)]) == 2
    assert drained([piece(65536), piece()]) == 1
    assert drained([piece(40_000)] * 9) == 2
    assert drained([piece()], ("Expect", "100-continue")) == 0
    assert drained([piece(), {"type": "http.disconnect"}]) == 2


def test_a_body_the_application_took_is_not_waited_for() -> None:
    """There is no more after its end."""

    async def reads(scope: Scope, receive: Receive, _send: Send) -> None:
        assert not (await receive())["more_body"]
        (await access(scope)).require_scope("write")

    pieces = iter([piece(more=False)])
    answered = []

    async def receive() -> dict[str, Any]:
        return next(pieces)

    async def send(message: Any) -> None:
        answered.append(message)

    scope = {"type": "http", "method": "GET", "path": "/items", "raw_path": b"/items"}
    headers = [(name.lower().encode(), value.encode()) for name, value in (AUTHORIZATION, proof())]
    app = DPoPMiddleware(reads, resource(nonces=False))
    asyncio.run(app({**scope, "headers": headers}, receive, send))
    assert answered[0]["status"] == 403


# --- WebSockets


def handshake(app: Application, fields: list[tuple[str, str]], **more: Any) -> list[Any]:
    """What a server is told after a WebSocket handshake."""
    sent: list[Any] = []
    scope = {
        "type": "websocket",
        "path": "/items",
        "raw_path": b"/items",
        "headers": [(name.lower().encode(), value.encode()) for name, value in fields],
    }

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope | more, receive, send))
    return sent


async def accepts(scope: Scope, receive: Receive, send: Send) -> None:
    """Takes the connection and tells who it is."""
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept", "headers": [(b"x-app", b"1")]})
    await send({"type": "websocket.send", "text": json.dumps((await access(scope)).claims["sub"])})
    await send({"type": "websocket.close"})


def test_a_handshake_is_let_in_like_a_get() -> None:
    """With a proof for the https URL; the nonce goes along with the acceptance."""
    app = DPoPMiddleware(accepts, _single_use())
    refused = handshake(app, [AUTHORIZATION, proof()], extensions={"websocket.http.response": {}})
    assert refused[0]["type"] == "websocket.http.response.start"
    assert refused[0]["status"] == 401
    nonce = dict(refused[0]["headers"])[b"dpop-nonce"].decode()
    sent = handshake(app, [AUTHORIZATION, proof(nonce=nonce)])
    assert sent[0]["type"] == "websocket.accept"
    assert {b"x-app", b"dpop-nonce"} <= set(dict(sent[0]["headers"]))
    assert sent[1]["text"] == '"alice"'


def test_a_refused_handshake_is_closed() -> None:
    """The server makes 403 of that, where it cannot send another answer."""
    assert handshake(DPoPMiddleware(accepts, resource()), []) == [{"type": "websocket.close"}]


def test_a_handshake_the_application_took_is_refused_all_the_same() -> None:
    """There is no second one to wait for."""

    async def takes(scope: Scope, receive: Receive, _send: Send) -> None:
        await receive()
        (await access(scope)).require_scope("write")

    connects = iter([{"type": "websocket.connect"}])
    sent = []

    async def receive() -> dict[str, Any]:
        return next(connects)

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(name.lower().encode(), value.encode()) for name, value in (AUTHORIZATION, proof())]
    scope = {"type": "websocket", "path": "/items", "raw_path": b"/items", "headers": headers}
    asyncio.run(DPoPMiddleware(takes, resource(nonces=False))(scope, receive, send))
    assert sent == [{"type": "websocket.close"}]


def test_other_connections_pass() -> None:
    """The server's own life cycle has no tokens."""
    types = []

    async def inner(scope: Scope, _receive: Receive, _send: Send) -> None:
        types.append(scope["type"])

    handshake(DPoPMiddleware(inner, resource()), [], type="lifespan")
    assert types == ["lifespan"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize(
    ("fields", "version"),
    [([(b"Content-Length", b"9")], "1.1"), ([(b"Transfer-Encoding", b"chunked")], "1.1"), ([], "2")],
)
def test_a_body_that_does_not_come_holds_no_refusal_back(
    fields: list[tuple[bytes, bytes]], version: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger may send a body as slowly as it likes, and would hold a task and a connection for each request."""
    monkeypatch.setattr(dpop.asgi, "_DRAIN_SECONDS", 0.01)
    sent = []

    async def receive() -> Any:
        await anyio.sleep_forever()

    async def send(message: Any) -> None:
        sent.append(message)

    async def serve() -> None:
        scope = {"type": "http", "method": "POST", "path": "/items", "headers": fields, "http_version": version}
        with anyio.fail_after(60):
            await DPoPMiddleware(asgi_application, resource(nonces=False))(scope, receive, send)

    anyio.run(serve, backend=backend)
    assert [message.get("status") for message in sent] == [401, None]
