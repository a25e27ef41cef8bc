# SPDX-License-Identifier: Apache-2.0
"""ASGI middleware that enforces the decisions of a :class:`dpop.server.ProtectedResource`.

::

    resource = ProtectedResource(ProofVerifier(replay=cache), url="https://api.example", token=look_up)
    app = DPoPMiddleware(app, resource)                        # Starlette, FastAPI:
    app.add_middleware(DPoPMiddleware, resource=resource)

    async def items(scope, receive, send):
        (await access(scope)).require_scope("items:read")

The application may raise InvalidProof itself, as ``require_scope`` does, until it has sent something; the middleware
makes the response. Put a CORS middleware around this one, or browsers cannot read the refusals; it must allow the
request headers Authorization and DPoP. A WebSocket handshake is treated like a GET.

The path is taken from ``raw_path``. If a server leaves that out, ``path`` is encoded again, and a URL with an encoded
slash is refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import quote

from dpop._tracebacks import hide_frames
from dpop.errors import InvalidProof, ReplayCacheError, UsageError
from dpop.server import Access, ProtectedResource, ResourceRequest, Response, with_nonce

__all__ = ["Application", "DPoPMiddleware", "Message", "Receive", "Scope", "Send", "access"]

Scope = MutableMapping[str, Any]
"""The scope of one ASGI connection."""
Message = MutableMapping[str, Any]
"""An ASGI event."""
Receive = Callable[[], Awaitable[Message]]
"""Awaits the next event from the server."""
Send = Callable[[Message], Awaitable[None]]
"""Sends an event to the server."""
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
"""An ASGI 3 application."""

_KEY = "dpop.gate"
_MAX_DRAINED = 65536
# RFC 3986 §3.3: what may stand in a path as it is.
_PATH_SAFE = "/:@!$&'(),;=~*+"


class DPoPMiddleware:
    """Admits requests, refuses the others, and adds the next nonce to responses.

    :param app: any ASGI application.
    :param resource: decides which requests are admitted.
    """

    def __init__(self, app: Application, resource: ProtectedResource) -> None:
        self._app = app
        self._resource = resource

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection (ASGI 3)."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        gate = _Gate(self._resource, scope)
        reply = _Reply(gate, scope, receive, send)
        try:
            if self._resource.needs_token(gate.request):
                await gate.access()
            await self._app({**scope, _KEY: gate}, reply.receive, reply.send)
        except (InvalidProof, ReplayCacheError) as error:
            if reply.started:
                raise
            await reply.refuse(self._resource.refusal(gate.request, error, gate.admitted))


@hide_frames
async def access(scope: Scope) -> Access:
    """The access that this request was given. On a public path, the request is admitted now.

    :raises InvalidProof: the request is refused; the middleware turns that into a response.
    :raises ReplayCacheError: the cache cannot tell whether the proof is a replay; the middleware responds to that too.
    :raises UsageError: the application is not wrapped in the middleware.
    """
    gate = scope.get(_KEY)
    if not isinstance(gate, _Gate):
        raise UsageError("the application is not wrapped in dpop.asgi.DPoPMiddleware")
    return await gate.access()


class _Gate:
    """One request, and the access it was given."""

    def __init__(self, resource: ProtectedResource, scope: Scope) -> None:
        self._resource = resource
        self.request = _request(scope)
        self.admitted: Access | None = None

    async def access(self) -> Access:
        if self.admitted is None:
            self.admitted = await self._resource.aadmit(self.request)
        return self.admitted


class _Reply:
    """Sends the application's response with the next nonce, or a refusal."""

    def __init__(self, gate: _Gate, scope: Scope, receive: Receive, send: Send) -> None:
        self._gate = gate
        self._is_http = scope["type"] == "http"
        self._can_refuse_in_http = self._is_http or "websocket.http.response" in (scope.get("extensions") or {})
        self._waits_for_100 = any(name.lower() == b"expect" for name, _ in scope["headers"])
        self._receive = receive
        self._send = send
        self._more_body = True
        self._handshake_taken = self._is_http
        self.started = False

    async def receive(self) -> Message:
        message = await self._receive()
        self._more_body = message["type"] == "http.request" and message.get("more_body", False)
        self._handshake_taken = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] in {"http.response.start", "websocket.accept", "websocket.http.response.start"}:
            self.started = True
            admitted = self._gate.admitted
            if admitted is not None and admitted.next_nonce is not None:
                fields = [
                    (name.decode("latin-1"), value.decode("latin-1")) for name, value in message.get("headers") or ()
                ]
                message = {**message, "headers": _encoded(with_nonce(fields, admitted.next_nonce))}
        elif message["type"] == "websocket.close":
            self.started = True
        await self._send(message)

    async def refuse(self, response: Response) -> None:
        if self._is_http:
            await self._drain()
        elif not self._handshake_taken:
            await self.receive()
        if not self._can_refuse_in_http:
            await self._send({"type": "websocket.close"})  # the server makes a 403 of it
            return
        kind = "http.response" if self._is_http else "websocket.http.response"
        headers = _encoded([*response.headers, ("Content-Length", "0")])
        await self._send({"type": f"{kind}.start", "status": response.status, "headers": headers})
        await self._send({"type": f"{kind}.body", "body": b""})

    async def _drain(self) -> None:
        """Read the rest of a short request, because some servers close a connection with an unread body.

        A client that is asked for a nonce would find the connection closed when it sends the request again.
        """
        left = _MAX_DRAINED
        while self._more_body and left > 0 and not self._waits_for_100:
            left -= len((await self.receive()).get("body", b""))


def _encoded(fields: list[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in fields]


def _request(scope: Scope) -> ResourceRequest:
    raw = scope.get("raw_path")
    target = quote(scope["path"], safe=_PATH_SAFE, errors="replace") if raw is None else raw.decode("latin-1")
    query = scope.get("query_string", b"").decode("latin-1")
    # Some servers put root_path in front of path, and routers take it away again.
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    return ResourceRequest(
        method=scope.get("method", "GET"),
        target=f"{target}?{query}" if query else target,
        path=path.removeprefix(root) if path == root or path.startswith(f"{root}/") else path,
        headers=scope["headers"],
        root_path=root,
    )


def __dir__() -> list[str]:
    return sorted(__all__)
