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

import asyncio
import contextvars
import logging
import sys
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal, overload
from urllib.parse import quote

from dpop._tracebacks import clear_frames, hide_frames
from dpop.errors import ArgumentTypeError, InvalidProof, UsageError
from dpop.server import (
    REFUSALS,
    Access,
    ProtectedResource,
    Reason,
    Refusal,
    ResourceRequest,
    Response,
    body_fields,
    refusal_behind_500,
    with_nonce,
)
from dpop.server._unhandled import TOO_LATE, refusal_in

__all__ = ["Application", "DPoPMiddleware", "Message", "Receive", "Scope", "Send", "access", "refusal"]

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

_KEY = "dpop.request"
_MAX_DRAINED = 65536
_DRAIN_SECONDS = 5.0
# RFC 3986 §3.3: characters that a path may contain unescaped.
_PATH_SAFE = "/:@!$&'(),;=~*+"
_log = logging.getLogger("dpop.server")


class DPoPMiddleware:
    """Admits requests, refuses the others, and adds the next nonce to responses.

    :param app: any ASGI application.
    :param resource: decides which requests are admitted.
    :param replace_500: send the refusal in place of the "500 Internal Server Error" that most frameworks make of an
        InvalidProof for which they have no error handler. The first time, a WARNING says so: better register one.
    """

    def __init__(self, app: Application, resource: ProtectedResource, *, replace_500: bool = True) -> None:
        if not isinstance(resource, ProtectedResource):
            raise ArgumentTypeError("resource", "a ProtectedResource", resource)
        self._app = app
        self._resource = resource
        self._replace_500 = replace_500
        self._has_warned = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection (ASGI 3)."""
        try:
            await self._serve(scope, receive, send)
        except BaseException as error:
            # The traceback of the application's error begins here, and the request holds token and proof.
            del scope, receive, send
            clear_frames(error)
            raise

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        request = _Request(self._resource, scope)
        reply = _Reply(request, scope, receive, send, self._instead_of_500)
        published = self._resource.publication(request.described)
        if published is not None:
            await reply.refuse(published)
            return
        try:
            if self._resource.needs_token(request.described):
                request.admitted = await self._resource.aadmit(request.described)
            await self._app({**scope, _KEY: request}, reply.receive, reply.send)
        except Exception as error:
            refused = refusal_in(error)
            if refused is not None and reply.replaced:
                return  # the framework sent its response and raised the error again
            if refused is None:
                raise
            if reply.started:
                error.add_note(TOO_LATE)
                raise
            await reply.refuse(request.refusal(refused))

    def _instead_of_500(self, request: _Request) -> Response | None:
        error = refusal_behind_500(request.refused) if self._replace_500 else None
        if error is None:
            return None
        if not self._has_warned:
            self._has_warned = True
            _log.warning(
                "the framework made a 500 of a refusal, and dpop.asgi sends the refusal instead; register an error "
                "handler for dpop.server.REFUSALS that returns dpop.asgi.refusal(scope, error)"
            )
        return request.refusal(error)


@overload
async def access(scope: Scope) -> Access: ...
@overload
async def access(scope: Scope, *, optional: Literal[False]) -> Access: ...
@overload
async def access(scope: Scope, *, optional: Literal[True]) -> Access | None: ...
@hide_frames
async def access(scope: Scope, *, optional: bool = False) -> Access | None:
    """The access that the middleware gave this request. On a public path, this call admits the request, once.

    :param optional: return None for a request without a token. One with a token that is refused raises all the same.
    :raises InvalidProof: the request is refused; the middleware turns that into a response.
    :raises ReplayCacheError: the cache cannot tell whether the proof is a replay; the middleware responds to that too.
    :raises LookupUnavailableError: the look-up cannot tell whether the token is valid; likewise.
    :raises UsageError: the application is not wrapped in the middleware.
    """
    request = _request_of(scope)
    try:
        return await request.access()
    except InvalidProof as error:
        if optional and error.reason == Reason.NO_CREDENTIALS:
            return None
        request.refused = error
        raise
    except REFUSALS as error:
        request.refused = error
        raise


@hide_frames
def refusal(scope: Scope, error: Refusal) -> Response:
    """The response to an InvalidProof, status and header fields, for the error handler of a framework.

    :raises UsageError: the application is not wrapped in the middleware.
    """
    return _request_of(scope).refusal(error)


class _Request:
    """One request, and its access once it is admitted."""

    def __init__(self, resource: ProtectedResource, scope: Scope) -> None:
        self._resource = resource
        self.described = _described(scope)
        self.admitted: Access | None = None
        self.refused: Refusal | None = None
        self._admission: asyncio.Future[Access] | None = None
        self._on_trio: _OnTrio | None = None

    async def access(self) -> Access:
        """Admit the request unless that is done; tasks that ask at the same time get one result."""
        if self.admitted is None:
            self.admitted = await self._admit()
        if self.admitted.on_refusal is None:
            self.admitted = replace(self.admitted, on_refusal=self._note)
        return self.admitted

    async def _admit(self) -> Access:
        if self._admission is None:
            # A separate task: if the first caller is cancelled, the proof has been used and other callers still wait.
            try:
                asyncio.get_running_loop()
            except RuntimeError:  # the other event loop for which ASGI servers exist
                if self._on_trio is None:
                    self._on_trio = _OnTrio(self._resource.aadmit(self.described))
                return await self._on_trio.result()
            self._admission = asyncio.ensure_future(self._resource.aadmit(self.described))
            self._admission.add_done_callback(_retrieve)
        return await asyncio.shield(self._admission)

    def refusal(self, error: Refusal) -> Response:
        return self._resource.refusal(self.described, error, self.admitted)

    def _note(self, error: InvalidProof) -> None:
        self.refused = error


class _OnTrio:
    """An admission in a task of its own on trio's event loop."""

    def __init__(self, admission: Coroutine[Any, Any, Access]) -> None:
        trio: Any = sys.modules["trio"]
        self._over = trio.Event()
        self._access: Access | None = None
        self._error: BaseException | None = None
        trio.lowlevel.spawn_system_task(self._run, admission, context=contextvars.copy_context())

    async def _run(self, admission: Coroutine[Any, Any, Access]) -> None:
        try:
            self._access = await admission
        except Exception as error:  # noqa: BLE001 - raised by all who wait
            self._error = error
        finally:
            self._over.set()

    async def result(self) -> Access:
        """Wait until the request is admitted or refused."""
        await self._over.wait()
        if self._error is not None:
            raise self._error
        assert self._access is not None  # noqa: S101 - one of the two is set; if not, trio has cancelled this task too
        return self._access


def _retrieve(admission: asyncio.Future[Access]) -> None:
    """Retrieve the error of an admission that no task waits for any more, so that asyncio does not log it."""
    if not admission.cancelled():
        admission.exception()


def _request_of(scope: Scope) -> _Request:
    request = scope.get(_KEY)
    if not isinstance(request, _Request):
        raise UsageError("the application is not wrapped in dpop.asgi.DPoPMiddleware")
    return request


class _Reply:
    """Sends the application's response with the next nonce, or a refusal."""

    def __init__(
        self,
        request: _Request,
        scope: Scope,
        receive: Receive,
        send: Send,
        instead_of_500: Callable[[_Request], Response | None],
    ) -> None:
        self._request = request
        self._is_http = scope["type"] == "http"
        self._can_refuse_in_http = self._is_http or "websocket.http.response" in (scope.get("extensions") or {})
        self._scope = scope
        self._receive = receive
        self._send = send
        self._instead_of_500 = instead_of_500
        self._more_body = True
        self._handshake_taken = self._is_http
        self.started = False
        self.replaced = False

    async def receive(self) -> Message:
        message = await self._receive()
        self._more_body = message["type"] == "http.request" and message.get("more_body", False)
        self._handshake_taken = True
        return message

    async def send(self, message: Message) -> None:
        if self.replaced:
            return
        if message["type"] in {"http.response.start", "websocket.accept", "websocket.http.response.start"}:
            if message.get("status") == 500 and (response := self._instead_of_500(self._request)) is not None:
                self.replaced = True
                await self.refuse(response)
                return
            self.started = True
            admitted = self._request.admitted
            nonce = None if admitted is None else admitted.next_nonce
            if nonce is not None or self._request.refused is not None:
                fields = [
                    (name.decode("latin-1"), value.decode("latin-1")) for name, value in message.get("headers") or ()
                ]
                message = {**message, "headers": _encoded(with_nonce(fields, nonce))}
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
        headers = _encoded([*response.headers, *(body_fields(response.body) or [("Content-Length", "0")])])
        await self._send({"type": f"{kind}.start", "status": response.status, "headers": headers})
        await self._send({"type": f"{kind}.body", "body": response.body})

    async def _drain(self) -> None:
        """Read the rest of a short request, because some servers close a connection with an unread body.

        A client that is asked for a nonce would find the connection closed when it sends the request again.
        """
        # HTTP/2 and HTTP/3 need no header field to announce a body.
        has_body = not self._scope.get("http_version", "1.1").startswith("1")
        for name, _ in self._scope["headers"]:
            length = len(name)
            if length == 6 and name.lower() == b"expect":
                return  # the client waits for 100 Continue, so no body is on its way
            if (length == 14 and name.lower() == b"content-length") or (
                length == 17 and name.lower() == b"transfer-encoding"
            ):
                has_body = True
        if not has_body:
            await self._read_rest()  # which is there at once
            return
        # A stranger may send the body as slowly as it likes.
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            with sys.modules["trio"].move_on_after(_DRAIN_SECONDS):
                await self._read_rest()
        else:
            with suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_SECONDS):
                    await self._read_rest()

    async def _read_rest(self) -> None:
        left = _MAX_DRAINED
        while self._more_body and left > 0:
            left -= len((await self.receive()).get("body", b""))


def _encoded(fields: list[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in fields]


def _described(scope: Scope) -> ResourceRequest:
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
        context=scope,
    )


def __dir__() -> list[str]:
    return sorted(__all__)
