# SPDX-License-Identifier: Apache-2.0
"""The dependency for single routes, in FastAPI and in Starlette."""

from __future__ import annotations

import pytest
from frameworks.at_fastapi import app as fastapi_app
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from support.in_process import Response as Reply
from support.in_process import ask_asgi
from support.resource import PUBLIC_URL, resource

import dpop
from dpop.asgi import DPoPMiddleware
from dpop.starlette import require_access

KEY = dpop.generate_key()
TOKEN = f"bound.{KEY.thumbprint}"


async def whoami(request: Request) -> JSONResponse:
    """A route of Starlette."""
    access = await require_access("read")(request)
    return JSONResponse(access.claims["sub"])


class Within(BaseHTTPMiddleware):
    """A middleware that runs what is inside it in a task of its own."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        """Call it."""
        return await call_next(request)


starlette_app = Starlette(
    routes=[Mount("/api", routes=[Route("/items", whoami)])],
    middleware=[Middleware(DPoPMiddleware, resource=resource(public=lambda _path: True)), Middleware(Within)],
)


def ask(path: str, method: str = "GET", *, nonce: str | None = None, token: bool = True) -> Reply:
    """A request with a token and a proof, to the application that has that path."""
    app = starlette_app if path.startswith("/api") else fastapi_app
    fields = [("Origin", "https://page.example")]
    if token:
        proof = dpop.create_proof(KEY, method, PUBLIC_URL + path, access_token=TOKEN, nonce=nonce)
        fields += [("Authorization", f"DPoP {TOKEN}"), ("DPoP", proof)]
    return ask_asgi(app, method, path, fields)


@pytest.fixture
def nonce() -> str:
    """The nonce of the server, from its challenge."""
    status, headers, _ = ask("/items")
    assert status == 401
    return dict(headers)["dpop-nonce"]


def test_a_route_for_everybody() -> None:
    """It asks for nothing."""
    assert ask("/health", token=False)[0] == 200


@pytest.mark.parametrize("path", ["/items", "/api/items"])
def test_a_route_that_asks(path: str, nonce: str) -> None:
    """Without a token it is 401 in the shape of the RFC; with one the route knows who it is, even when mounted."""
    status, headers, body = ask(path, token=False)
    assert (status, body) == (401, b"")
    assert [value for name, value in headers if name == "www-authenticate"][1].startswith("DPoP algs=")
    status, _, body = ask(path, nonce=nonce)
    assert status == 200
    assert b"alice" in body


def test_a_route_that_asks_for_more(nonce: str) -> None:
    """A scope the token lacks, asked for by a route that is no coroutine."""
    status, headers, _ = ask("/items", "POST", nonce=nonce)
    assert status == 403
    assert 'scope="write"' in [value for name, value in headers if name == "www-authenticate"][1]


def test_a_response_of_the_routes_own(nonce: str) -> None:
    """Is sent as it is."""
    assert ask("/text", nonce=nonce)[2] == b"text"


def test_a_browser_can_read_the_refusal() -> None:
    """The CORS middleware around this one lets the page see it, with the nonce."""
    _, headers, _ = ask("/items")
    assert ("access-control-allow-origin", "https://page.example") in headers
    assert ("access-control-expose-headers", "WWW-Authenticate, DPoP-Nonce") in headers
    asks = [("Origin", "https://page.example"), ("Access-Control-Request-Method", "GET")]
    status, headers, _ = ask_asgi(
        fastapi_app, "OPTIONS", "/items", [*asks, ("Access-Control-Request-Headers", "authorization, dpop")]
    )
    assert status == 200
    assert "DPoP" in dict(headers)["access-control-allow-headers"]
