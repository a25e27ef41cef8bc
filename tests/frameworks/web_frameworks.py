# SPDX-License-Identifier: Apache-2.0
"""One application in each web framework, with and without its error handler for refusals.

``/items`` needs the scope ``read``, ``/write`` one that the tokens lack. ``/crash`` catches a refusal and fails later.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import types
from typing import Any

from support.paths import DOCS

from dpop import asgi, wsgi
from dpop.errors import InvalidProof
from dpop.server import REFUSALS, Refusal

__all__ = ["ASGI_APPLICATIONS", "WSGI_APPLICATIONS", "Crash", "asked", "asked_wsgi", "recipe"]


class Crash(Exception):  # noqa: N818 - it is none of ours
    """A fault of the application."""


async def asked(path: str, scope: asgi.Scope) -> str:
    """What each view does, behind ASGI."""
    if path == "crash":
        with contextlib.suppress(InvalidProof):
            await asgi.access(scope)
        raise Crash
    access = await asgi.access(scope)
    access.require_scope("write" if path == "write" else "read")
    return str(access.claims["sub"])


def asked_wsgi(path: str, environ: Any) -> str:
    """The same behind WSGI."""
    if path == "crash":
        with contextlib.suppress(InvalidProof):
            wsgi.access(environ)
        raise Crash
    access = wsgi.access(environ)
    access.require_scope("write" if path == "write" else "read")
    return str(access.claims["sub"])


def joined(headers: list[tuple[str, str]]) -> dict[str, str]:
    """For frameworks that know one field of each name: challenges may share one (RFC 9110 §11.6.1)."""
    fields: dict[str, str] = {}
    for name, value in headers:
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields


# --- ASGI


def starlette(*, handled: bool) -> Any:
    """Starlette."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse, Response
    from starlette.routing import Route

    async def view(request: Request) -> Response:
        return PlainTextResponse(await asked(request.path_params["path"], request.scope))

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, REFUSALS)
        status, headers = asgi.refusal(request.scope, error)
        response = Response(status_code=status)
        for name, value in headers:
            response.headers.append(name, value)
        return response

    handlers: Any = dict.fromkeys(REFUSALS, refused) if handled else {}
    return Starlette(routes=[Route("/{path}", view)], exception_handlers=handlers)


def fastapi(*, handled: bool) -> Any:
    """FastAPI, with a view that is no coroutine."""
    from fastapi import Depends, FastAPI, Request
    from fastapi.responses import Response

    app = FastAPI()

    async def sub(request):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        return await asked(request.path_params["path"], request.scope)

    sub.__annotations__["request"] = Request  # which is not a name of this module

    @app.get("/{path}")  # noqa: FAST003
    def view(of: str = Depends(sub)) -> str:  # noqa: FAST002
        return of

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, REFUSALS)
        status, headers = asgi.refusal(request.scope, error)
        return Response(status_code=status, headers=joined(headers))

    for kind in REFUSALS if handled else ():
        app.add_exception_handler(kind, refused)
    return app


def quart(*, handled: bool) -> Any:
    """Quart."""
    from quart import Quart, Response, request

    app = Quart(__name__)

    @app.get("/<path>")
    async def view(path: str) -> str:
        return await asked(path, request.scope)  # type: ignore[arg-type]

    async def refused(error: Refusal) -> Response:
        status, headers = asgi.refusal(request.scope, error)  # type: ignore[arg-type]
        return Response(b"", status, headers)

    for kind in REFUSALS if handled else ():
        app.register_error_handler(kind, refused)
    return app


def litestar(*, handled: bool) -> Any:
    """Litestar."""
    from litestar import Litestar, Request, Response, get

    async def view(request: Request) -> str:  # type: ignore[type-arg]
        return await asked(request.scope["path"].strip("/"), request.scope)  # type: ignore[arg-type]

    def refused(request: Request, error: Any) -> Response:  # type: ignore[type-arg]
        status, headers = asgi.refusal(request.scope, error)  # type: ignore[arg-type]
        return Response(None, status_code=status, headers=joined(headers))

    view.__annotations__ = {"request": Request, "return": str}  # Request is not a name of this module
    handlers: Any = dict.fromkeys(REFUSALS, refused) if handled else {}
    return Litestar([get(["/items", "/write", "/crash"])(view)], exception_handlers=handlers, logging_config=None)


def falcon_asgi(*, handled: bool) -> Any:
    """Falcon's ASGI side."""
    import falcon.asgi

    class View:
        async def on_get(self, req: Any, resp: Any, path: str) -> None:
            resp.text = await asked(path, req.scope)

    async def refused(req: Any, resp: Any, error: Any, params: Any) -> None:
        status, headers = asgi.refusal(req.scope, error)
        resp.status = status
        for name, value in headers:
            resp.append_header(name, value)

    app = falcon.asgi.App()
    app.add_route("/{path}", View())
    for kind in REFUSALS if handled else ():
        app.add_error_handler(kind, refused)
    return app


# --- WSGI


def flask(*, handled: bool) -> Any:
    """Flask."""
    from flask import Flask, Response, request

    app = Flask(__name__)

    @app.get("/<path>")
    def view(path: str) -> str:
        return asked_wsgi(path, request.environ)

    def refused(error: Refusal) -> Response:
        status, headers = wsgi.refusal(request.environ, error)
        return Response(None, status, headers)

    for kind in REFUSALS if handled else ():
        app.register_error_handler(kind, refused)
    return app


def falcon_wsgi(*, handled: bool) -> Any:
    """Falcon's WSGI side."""
    import falcon

    class View:
        def on_get(self, req: Any, resp: Any, path: str) -> None:
            resp.text = asked_wsgi(path, req.env)

    def refused(req: Any, resp: Any, error: Any, params: Any) -> None:
        status, headers = wsgi.refusal(req.env, error)
        resp.status = status
        for name, value in headers:
            resp.append_header(name, value)

    app = falcon.App()
    app.add_route("/{path}", View())
    for kind in REFUSALS if handled else ():
        app.add_error_handler(kind, refused)
    return app


def generator(*, handled: bool) -> Any:
    """A bare application that is a generator: nothing runs before its first bytes are asked for."""

    def app(environ: Any, start_response: Any) -> Any:
        try:
            body = asked_wsgi(environ["PATH_INFO"].strip("/"), environ).encode()
        except REFUSALS as error:
            if not handled:
                raise
            status, headers = wsgi.refusal(environ, error)
            start_response(f"{status} Refused", headers)
            yield b""
            return
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield body

    return app


# --- Django, which has one configuration for a process


def recipe() -> types.ModuleType:
    """The snippet of the guide, as a module that settings can name."""
    (block,) = re.findall(
        r"^```python\n(# Django: .*?)^```$", (DOCS / "servers.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    module = types.ModuleType("recipe_of_the_guide")
    exec(compile(block, "servers.md", "exec"), module.__dict__)
    sys.modules[module.__name__] = module
    return module


def _django(*, handled: bool, middleware: list[str] | None = None) -> Any:
    import django
    from django.conf import settings
    from django.http import HttpResponse
    from django.test.utils import override_settings
    from django.urls import path

    urls = types.ModuleType("urls_of_the_tests")
    sys.modules[urls.__name__] = urls

    async def view(request: Any, path: str) -> HttpResponse:
        return HttpResponse(await asked(path, request.scope))

    def sync_view(request: Any, path: str) -> HttpResponse:
        if hasattr(request, "scope"):
            return HttpResponse(asyncio.run(asked(path, request.scope)))
        return HttpResponse(asked_wsgi(path, request.environ))

    urls.urlpatterns = [path("<str:path>", sync_view), path("async/<str:path>", view)]  # type: ignore[attr-defined]
    if not settings.configured:
        settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=urls.__name__, SECRET_KEY="x", LOGGING_CONFIG=None)
        django.setup()
    return override_settings(
        MIDDLEWARE=[f"{recipe().__name__}.Refusals"] if handled else (middleware or []),
    )


def django_wsgi(*, handled: bool, middleware: list[str] | None = None) -> Any:
    """Django behind WSGI."""
    with _django(handled=handled, middleware=middleware):
        from django.core.handlers.wsgi import WSGIHandler

        return WSGIHandler()


def django_asgi(*, handled: bool, middleware: list[str] | None = None) -> Any:
    """Django behind ASGI."""
    with _django(handled=handled, middleware=middleware):
        from django.core.handlers.asgi import ASGIHandler

        return ASGIHandler()


def django_asgi_async(*, handled: bool, middleware: list[str] | None = None) -> Any:
    """Django behind ASGI with views that are coroutines."""
    app = django_asgi(handled=handled, middleware=middleware)

    async def to_async_view(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        await app({**scope, "path": "/async" + scope["path"]}, receive, send)

    return to_async_view


ASGI_APPLICATIONS = {
    "Starlette": starlette,
    "FastAPI": fastapi,
    "Quart": quart,
    "Litestar": litestar,
    "Falcon": falcon_asgi,
    "Django": django_asgi,
    "Django (async views)": django_asgi_async,
}
WSGI_APPLICATIONS = {"Flask": flask, "Falcon": falcon_wsgi, "Django": django_wsgi, "a generator": generator}
