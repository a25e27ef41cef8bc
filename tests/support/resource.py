# SPDX-License-Identifier: Apache-2.0
"""The resource server behind every integration of these tests, and the two applications on it.

A token says what the look-up knows of it: ``bound.<jkt>`` has the scope ``read``, ``unbound`` is a bearer token.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from dpop import asgi, wsgi
from dpop.server import (
    Access,
    InvalidProof,
    MemoryReplayCache,
    NonceIssuer,
    ProofVerifier,
    ProtectedResource,
    ReplayCache,
)

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

__all__ = ["PUBLIC_URL", "asgi_application", "look_up", "resource", "told", "wsgi_application"]

PUBLIC_URL = "https://api.example"
SECRET = bytes(range(32))


def look_up(token: str) -> Mapping[str, Any] | None:
    """What an introspection endpoint would say."""
    kind, _, jkt = token.partition(".")
    if kind == "bound":
        return {"active": True, "scope": "read", "sub": "alice", "cnf": {"jkt": jkt}}
    return {"active": kind == "unbound", "scope": "read", "sub": "bob"}


def resource(*, nonces: bool = True, **settings: Any) -> ProtectedResource:
    """An API with nonces that takes bearer tokens as well, unless told otherwise."""
    replay: ReplayCache = settings.pop("replay") if "replay" in settings else MemoryReplayCache()
    clock = {"clock": settings.pop("clock")} if "clock" in settings else {}
    issuer = NonceIssuer(SECRET, slot=100) if nonces else None
    verifier = ProofVerifier(replay=replay, nonces=issuer, **clock)
    if "private" in settings:  # of a server in a process of its own, which gets JSON
        private = settings.pop("private")
        settings["public"] = lambda path: not path.startswith(private)
    told: dict[str, Any] = {"url": PUBLIC_URL, "token": look_up, "bearer": True} | settings
    return ProtectedResource(verifier, **told)


def told(access: Access, wanted: Callable[[str], str | None], path: str) -> bytes:
    """The body of both applications; ``wanted`` gives a request header, by which a test asks for more.

    :param path: the path that routes of the application see.
    """
    access.require_scope(wanted("x-scope") or "")
    if wanted("x-acr"):
        raise InvalidProof(
            "insufficient_user_authentication",
            "acr",
            "a stronger authentication is needed",
            parameters={"acr_values": str(wanted("x-acr")), "max_age": "300"},
        )
    jkt = None if access.proof is None else access.proof.jkt
    htu = None if access.proof is None else access.proof.htu
    said = {"sub": access.claims.get("sub"), "jkt": jkt, "htu": htu, "scheme": access.scheme, "path": path}
    return json.dumps(said).encode()


async def asgi_application(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
    """Tells who came in, with a nonce and a lifetime of its own that must not go out."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["type"] == "websocket":
        await receive()
        await asgi.access(scope)
        await send({"type": "websocket.accept", "headers": []})
        await send({"type": "websocket.close", "code": 1000})
        return
    headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
    body = b"hello" if scope["path"] == "/public" else told(await asgi.access(scope), headers.get, _routed(scope))
    fields = [(b"dpop-nonce", b"the-application's"), (b"cache-control", b"max-age=60"), (b"x-app", b"1")]
    fields.append((b"content-length", str(len(body)).encode()))
    # Hypercorn closes a connection whose request was not read to its end, and the client may already be using it.
    message = await receive()
    while message["type"] == "http.request" and message.get("more_body"):
        message = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": body})


def _routed(scope: asgi.Scope) -> str:
    from starlette._utils import get_route_path

    return get_route_path(scope)


def wsgi_application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The same for WSGI."""
    is_public = environ["PATH_INFO"] == "/public"
    body = (
        b"hello"
        if is_public
        else told(
            wsgi.access(environ),
            lambda name: _header(environ, name),
            environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace"),
        )
    )
    fields = [("DPoP-Nonce", "the-application's"), ("Cache-Control", "max-age=60"), ("X-App", "1")]
    start_response("200 OK", [*fields, ("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def _header(environ: WSGIEnvironment, name: str) -> str | None:
    value = environ.get("HTTP_" + name.upper().replace("-", "_"))
    return None if value is None else str(value)
