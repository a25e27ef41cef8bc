# SPDX-License-Identifier: Apache-2.0
"""Applications that make a 500 of every exception that their views raise."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import fastapi
import flask
import quart
from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from frameworks.web_frameworks import ASGI_APPLICATIONS, WSGI_APPLICATIONS, asked, asked_wsgi
from starlette.requests import Request
from starlette.responses import PlainTextResponse

__all__ = ["CATCH_ALL"]


def flask_for_all() -> Any:
    """Flask with an error handler for every exception."""
    app = WSGI_APPLICATIONS["Flask"](handled=False)
    app.register_error_handler(Exception, lambda _: ("sorry", 500))
    return app


def flask_after_request() -> Any:
    """Flask that asks in a function behind its views."""
    app = flask.Flask(__name__)
    app.get("/<path>")(lambda path: path)

    def asks(response: flask.Response) -> flask.Response:
        response.set_data(asked_wsgi(flask.request.path.strip("/"), flask.request.environ))
        return response

    app.after_request(asks)
    return app


def quart_for_all() -> Any:
    """Quart with an error handler for every exception."""
    app = ASGI_APPLICATIONS["Quart"](handled=False)

    async def sorry(_: Exception) -> tuple[str, int]:
        return "sorry", 500

    app.register_error_handler(Exception, sorry)
    return app


def quart_in_tests() -> Any:
    """Quart with TESTING, which sends a 500 with a traceback."""
    app = quart.Quart(__name__)
    app.config["TESTING"] = True

    @app.get("/<path>")
    async def view(path: str) -> str:
        return await asked(path, quart.request.scope)  # type: ignore[arg-type]

    return app


def fastapi_around_all() -> Any:
    """FastAPI with a middleware that makes a 500 of every exception."""
    app = ASGI_APPLICATIONS["FastAPI"](handled=False)

    async def sorry(request: Request, call_next: Any) -> Any:
        try:
            return await call_next(request)
        except Exception:  # noqa: BLE001 - as such functions do
            return PlainTextResponse("sorry", 500)

    app.middleware("http")(sorry)
    return app


def fastapi_dependency() -> Any:
    """FastAPI with a dependency that makes a 500 of what the view raises, after a rollback."""

    def session() -> Iterator[str]:
        try:
            yield "session"
        except Exception as error:
            raise fastapi.HTTPException(500, "rolled back") from error

    app = fastapi.FastAPI()

    async def view(path, request, session):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        return await asked(path, request.scope)

    view.__annotations__ = {"path": str, "request": Request, "session": Annotated[str, fastapi.Depends(session)]}
    app.get("/{path}")(view)
    return app


class CatchesAll:
    """A middleware of Django whose process_exception takes every exception."""

    sync_capable = async_capable = True

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: Any) -> Any:
        return self.get_response(request)

    def process_exception(self, request: Any, error: Exception) -> Any:
        from django.http import HttpResponse

        return HttpResponse("sorry", status=500)


DJANGO: Any = {"handled": False, "middleware": [f"{__name__}.CatchesAll"]}


def puts_it_into_exc_info(environ: Any, start_response: Any) -> list[bytes]:
    """A WSGI application that hands on what it caught, as Bottle does, after it has handled it."""
    caught = None
    try:
        status, body = "200 OK", asked_wsgi(environ["PATH_INFO"].strip("/"), environ)
    except Exception:  # noqa: BLE001 - as such frameworks do
        caught = sys.exc_info()
        status, body = "500 Internal Server Error", "sorry"
    start_response(status, [("Content-Type", "text/plain")], caught)
    return [body.encode()]


CATCH_ALL: dict[str, Callable[[], Any]] = {
    "an error handler of Flask, WSGI": flask_for_all,
    "after_request of Flask, WSGI": flask_after_request,
    "exc_info, WSGI": lambda: puts_it_into_exc_info,
    "process_exception of Django, WSGI": lambda: WSGI_APPLICATIONS["Django"](**DJANGO),
    "process_exception of Django, ASGI": lambda: ASGI_APPLICATIONS["Django (async views)"](**DJANGO),
    "an error handler of Quart, ASGI": quart_for_all,
    "TESTING of Quart, ASGI": quart_in_tests,
    "a middleware of FastAPI, ASGI": fastapi_around_all,
    "a dependency of FastAPI, ASGI": fastapi_dependency,
}
