# SPDX-License-Identifier: Apache-2.0
"""A refusal that an application raises is answered as one in every framework, and a crash stays a crash."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import a2wsgi
import anyio
import apig_wsgi
import fastapi
import httpx
import pytest
import werkzeug.test
from frameworks.catch_all import CATCH_ALL
from frameworks.web_frameworks import ASGI_APPLICATIONS, WSGI_APPLICATIONS, Crash, recipe
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route
from support import in_process
from support.in_process import Response
from support.resource import PUBLIC_URL, resource

import dpop
from dpop import asgi, wsgi
from dpop.errors import InvalidProof
from dpop.server import refusal_behind_500

KEY = dpop.generate_key()
TOKEN = f"bound.{KEY.thumbprint}"


def public(path: str) -> bool:
    """Every path, so that each view asks itself."""
    return True


def fields(path: str) -> list[tuple[str, str]]:
    """Of a good request."""
    proof = dpop.create_proof(KEY, "GET", PUBLIC_URL + path, access_token=TOKEN)
    return [("Authorization", f"DPoP {TOKEN}"), ("DPoP", proof)]


def ask_asgi(app: Any, path: str, headers: list[tuple[str, str]]) -> Response:
    """A request through httpx's transport, which lets nothing escape."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://internal.example") as client:
            return await client.get(path, headers=headers)

    response = asyncio.run(ask())
    return response.status_code, response.headers.multi_items(), response.content


def ask_wsgi(app: Any, path: str, headers: list[tuple[str, str]]) -> Response:
    """A request through werkzeug's test client, which raises an exception that is handed to start_response."""
    response = werkzeug.test.Client(app).get(path, headers=headers)
    return response.status_code, [(name.lower(), value) for name, value in response.headers], response.data


Ask = Callable[[Any, str, list[tuple[str, str]]], Response]
ALL: dict[str, tuple[Callable[..., Any], Any, Ask]] = {
    **{f"{name}, ASGI": (made, asgi.DPoPMiddleware, ask_asgi) for name, made in ASGI_APPLICATIONS.items()},
    **{f"{name}, WSGI": (made, wsgi.DPoPMiddleware, ask_wsgi) for name, made in WSGI_APPLICATIONS.items()},
}


def challenges(response: Response) -> str:
    """The challenges, in one text."""
    return ", ".join(value for name, value in response[1] if name == "www-authenticate")


def assert_refuses(app: Any, ask: Ask) -> None:
    """It admits who may come in, and refuses the others in the words of the RFC."""
    assert ask(app, "/items", fields("/items"))[::2] == (200, b"alice") or ask(app, "/items", fields("/items"))[2] in {
        b'"alice"',
        b"alice",
    }
    nothing = ask(app, "/items", [])
    assert (nothing[0], "DPoP algs=" in challenges(nothing), nothing[2] in {b"", b"null"}) == (401, True, True)
    elsewhere = ask(app, "/items", fields("/elsewhere"))
    assert (elsewhere[0], 'error="invalid_dpop_proof"' in challenges(elsewhere)) == (401, True)
    lacks = ask(app, "/write", fields("/write"))
    assert (lacks[0], 'error="insufficient_scope"' in challenges(lacks)) == (403, True)


@pytest.mark.parametrize("name", ALL)
def test_an_error_handler_of_the_framework(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """The first choice: nothing is logged above INFO, so that nobody can fill the log with tracebacks."""
    made, middleware, ask = ALL[name]
    caplog.set_level(logging.INFO)
    assert_refuses(middleware(made(handled=True), resource(nonces=False, public=public)), ask)
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


@pytest.mark.parametrize("name", ALL)
def test_the_net_below(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Without one most frameworks make a 500 of it, which the middleware replaces; it warns once."""
    made, middleware, ask = ALL[name]
    app = middleware(made(handled=False), resource(nonces=False, public=public))
    assert_refuses(app, ask)
    warned = [record.getMessage() for record in caplog.records if record.name == "dpop.server"]
    assert len([text for text in warned if "made a 500 of a refusal" in text]) <= 1


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("handled", [False, True])
def test_a_crash_after_a_refusal_was_caught(name: str, handled: bool) -> None:
    """It is a fault of the application, and is shown as one."""
    made, middleware, ask = ALL[name]
    app = middleware(made(handled=handled), resource(nonces=False, public=public))
    if "generator" in name:
        with pytest.raises(Crash):
            ask(app, "/crash", [])
        return
    assert ask(app, "/crash", [])[0] == 500


@pytest.mark.parametrize("name", ALL)
def test_the_net_can_be_taken_away(name: str) -> None:
    """Then a 500 is a 500; frameworks that let the refusal through are answered as ever."""
    made, middleware, ask = ALL[name]
    app = middleware(made(handled=False), resource(nonces=False, public=public), replace_500=False)
    assert ask(app, "/items", [])[0] == (401 if "generator" in name else 500)


async def ask_in_a_task(scope: Any) -> None:
    """Ask for the access in a task group, which raises a group of what its tasks raise."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(asgi.access, scope)


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """An application without a framework."""
    await ask_in_a_task(scope)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"alice"})


async def in_starlette(request: Request) -> PlainTextResponse:
    """A view of Starlette."""
    await ask_in_a_task(request.scope)
    return PlainTextResponse("alice")


@pytest.mark.parametrize("where", ["bare", "around Starlette", "inside Starlette"])
def test_a_refusal_in_a_task_group(where: str) -> None:
    """It is a refusal all the same: a stranger must not get a 500, nor fill the log with tracebacks."""
    decides = resource(nonces=False, public=public)
    app: Any = bare if where == "bare" else Starlette(routes=[Route("/items", in_starlette)])
    if where == "inside Starlette":
        app.add_middleware(asgi.DPoPMiddleware, resource=decides)
    else:
        app = asgi.DPoPMiddleware(app, decides)
    assert ask_asgi(app, "/items", fields("/items"))[::2] == (200, b"alice")
    nothing = ask_asgi(app, "/items", [])
    assert (nothing[0], "DPoP algs=" in challenges(nothing)) == (401, True)


# --- applications that catch every exception themselves


@pytest.mark.parametrize("name", CATCH_ALL)
def test_an_application_that_makes_a_500_of_every_exception(name: str) -> None:
    """It cannot know a challenge, and a stranger or a client that lacks a nonce must get one all the same."""
    made = CATCH_ALL[name]
    middleware: Any = asgi.DPoPMiddleware if "ASGI" in name else wsgi.DPoPMiddleware
    ask = ask_asgi if "ASGI" in name else ask_wsgi
    assert_refuses(middleware(made(), resource(nonces=False, public=public)), ask)


def test_a_view_that_decides_on_a_500() -> None:
    """It caught the refusal itself, or says that something else is wrong: the middleware leaves its response alone."""
    app = fastapi.FastAPI()

    async def view(path: str, request: Request) -> PlainTextResponse:
        try:
            await asgi.access(request.scope)
        except InvalidProof as error:
            if path == "translated":
                raise Crash from error
        return PlainTextResponse("decided", 500)

    view.__annotations__ |= {"request": Request}
    app.get("/{path}", response_model=None)(view)
    guarded = asgi.DPoPMiddleware(app, resource(nonces=False, public=public))
    assert ask_asgi(guarded, "/decided", [])[::2] == (500, b"decided")
    assert ask_asgi(guarded, "/translated", [])[0] == 500


def test_an_error_that_is_its_own_cause() -> None:
    """``raise error from error`` makes a circle, through which nothing may go for ever."""
    crash = Crash()
    crash.__cause__ = crash
    assert refusal_behind_500(InvalidProof("invalid_token", "other", "refused"), crash) is None


@pytest.mark.parametrize("lazily", [False, True])
def test_a_refusal_in_a_task_group_behind_wsgi(lazily: bool) -> None:
    """An application without coroutines gets such a group from a library that has some."""

    def at_once(environ: Any, start_response: Any) -> list[bytes]:
        try:
            wsgi.access(environ)
        except InvalidProof as refused:
            raise ExceptionGroup("tasks", [refused]) from None
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"alice"]

    def later(environ: Any, start_response: Any) -> Iterator[bytes]:
        yield from at_once(environ, start_response)

    app = wsgi.DPoPMiddleware(later if lazily else at_once, resource(nonces=False, public=public))
    assert ask_wsgi(app, "/items", fields("/items"))[::2] == (200, b"alice")
    nothing = ask_wsgi(app, "/items", [])
    assert (nothing[0], "DPoP algs=" in challenges(nothing)) == (401, True)


def test_a_refusal_in_a_streamed_body() -> None:
    """The 200 is out, so the connection breaks; the traceback in the log says what to do."""

    async def stream(request: Request) -> StreamingResponse:
        async def body() -> AsyncIterator[str]:
            yield str((await asgi.access(request.scope)).claims["sub"])

        return StreamingResponse(body())

    app = asgi.DPoPMiddleware(Starlette(routes=[Route("/items", stream)]), resource(nonces=False, public=public))
    assert ask_asgi(app, "/items", fields("/items"))[::2] == (200, b"alice")
    # Older versions of Starlette send a streamed body in a task group, even without a second task.
    with pytest.raises((InvalidProof, ExceptionGroup)) as caught:
        in_process.ask_asgi(app, "GET", "/items", [])
    assert any("Call access() before that" in note for note in caught.value.__notes__)


def test_a_crash_beside_a_refusal_in_a_task_group() -> None:
    """A group that holds a fault of the application, too, goes on as it is."""

    async def crashes(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asgi.access(scope)
        except InvalidProof as refused:
            raise ExceptionGroup("tasks", [refused, ExceptionGroup("more tasks", [Crash()])]) from None

    app = asgi.DPoPMiddleware(crashes, resource(nonces=False, public=public))
    with pytest.raises(ExceptionGroup, match="tasks"):
        asyncio.run(app({"type": "http", "method": "GET", "path": "/items", "headers": []}, nobody, nobody))


async def nobody(*_: object) -> Any:
    """A server that nothing is sent to."""


def test_middleware_inside_of_fastapi() -> None:
    """Added to the application it is below what makes a 500, and the refusal reaches it as an exception."""
    app = ASGI_APPLICATIONS["FastAPI"](handled=False)
    app.add_middleware(asgi.DPoPMiddleware, resource=resource(nonces=False, public=public), replace_500=False)
    assert_refuses(app, ask_asgi)


# --- what runs WSGI applications without a server


def test_transports_that_raise_what_is_handed_to_start_response() -> None:
    """A refusal is an ordinary response: exc_info is for one that was begun already (PEP 3333)."""
    app = wsgi.DPoPMiddleware(WSGI_APPLICATIONS["Flask"](handled=False), resource(nonces=False))
    with httpx.Client(transport=httpx.WSGITransport(app=app), base_url="http://internal.example") as client:
        assert client.get("/items").status_code == 401
        assert client.get("/items", headers=fields("/items")).text == "alice"
    event = {
        "version": "2.0",
        "rawPath": "/items",
        "rawQueryString": "",
        "headers": {},
        "requestContext": {
            "http": {"method": "GET", "path": "/items", "sourceIp": "127.0.0.1", "protocol": "HTTP/1.1"}
        },
        "isBase64Encoded": False,
    }
    assert apig_wsgi.make_lambda_handler(app)(event, None)["statusCode"] == 401
    assert ask_asgi(a2wsgi.WSGIMiddleware(app), "/items", [])[0] == 401
    assert ask_asgi(a2wsgi.WSGIMiddleware(app), "/items", fields("/items"))[::2] == (200, b"alice")


def test_a_refusal_after_the_response_has_begun() -> None:
    """It is too late then: the error goes to the server."""

    def late(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"a"
        wsgi.access(environ).require_scope("write")

    app = wsgi.DPoPMiddleware(late, resource(nonces=False))
    with pytest.raises(dpop.errors.InvalidProof):
        ask_wsgi(app, "/items", fields("/items"))


def test_the_write_callable() -> None:
    """The old way to send a body begins the response, and a refusal before it takes its place."""

    def writes(environ: Any, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        wsgi.access(environ).require_scope("read" if environ["PATH_INFO"] == "/items" else "write")
        write(b"by ")
        write(b"hand")
        return []

    app = wsgi.DPoPMiddleware(writes, resource(nonces=False))
    assert ask_wsgi(app, "/items", fields("/items"))[::2] == (200, b"by hand")
    assert ask_wsgi(app, "/write", fields("/write"))[0] == 403


def test_error_reports_of_django_hold_no_proof() -> None:
    """Django sends the header fields of a failed request to its administrators; the guide's filter hides these."""
    WSGI_APPLICATIONS["Django"](handled=True)
    from django.test import RequestFactory

    request = RequestFactory().get("/items", headers=dict(fields("/items")))
    meta = recipe().WithoutProofs().get_safe_request_meta(request)
    assert (meta["HTTP_DPOP"], meta["HTTP_AUTHORIZATION"]) == ("********************",) * 2
