# SPDX-License-Identifier: Apache-2.0
"""WSGI middleware that enforces the decisions of a :class:`dpop.server.ProtectedResource`.

::

    resource = ProtectedResource(ProofVerifier(replay=cache), url="https://api.example", token=look_up)
    app.wsgi_app = DPoPMiddleware(app.wsgi_app, resource)      # Flask

    @app.get("/items")
    def items():
        access(request.environ).require_scope("items:read")

    @app.errorhandler(InvalidProof)
    def refused(error):
        return Response(None, *refusal(request.environ, error))

A framework without error handlers may let InvalidProof through: the middleware turns it into the same response.

The path is taken from ``REQUEST_URI`` or ``RAW_URI`` if the server gives one. ``PATH_INFO`` is decoded: if it is all
there is, it is encoded again, and a URL with an encoded slash is refused.
"""

from __future__ import annotations

import http
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain
from types import TracebackType
from typing import Literal, overload
from urllib.parse import quote
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

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
from dpop.server._jws import FieldsByName
from dpop.server._unhandled import TOO_LATE, refusal_in

__all__ = ["DPoPMiddleware", "access", "refusal"]

_KEY = "dpop.request"
_NO_BODY = [("Content-Type", "text/plain"), ("Content-Length", "0")]  # wsgiref.validate wants both
# RFC 3986 §3.3: characters that a path may contain unescaped.
_PATH_SAFE = "/:@!$&'(),;=~*+"
_log = logging.getLogger("dpop.server")
_ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]


class DPoPMiddleware:
    """Admits requests, refuses the others, and adds the next nonce to responses.

    :param app: any WSGI application.
    :param resource: decides which requests are admitted.
    :param replace_500: send the refusal in place of the "500 Internal Server Error" that most frameworks make of an
        InvalidProof for which they have no error handler. The first time, a WARNING says so: better register one.
    :raises UsageError: its token look-up or a cache is async.
    """

    def __init__(self, app: WSGIApplication, resource: ProtectedResource, *, replace_500: bool = True) -> None:
        if not isinstance(resource, ProtectedResource):
            raise ArgumentTypeError("resource", "a ProtectedResource", resource)
        if resource.is_async:
            raise UsageError("WSGI cannot await the token look-up or the replay cache; use synchronous ones")
        self._app = app
        self._resource = resource
        self._replace_500 = replace_500
        self._has_warned = False

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request (PEP 3333)."""
        try:
            return self._serve(environ, start_response)
        except BaseException as error:
            # The traceback of the application's error begins here, and the request holds token and proof.
            del environ, start_response
            clear_frames(error)
            raise

    def _serve(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = environ[_KEY] = _Request(self._resource, environ)
        reply = _Reply(request, start_response, self._instead_of_500)
        published = self._resource.publication(request.described)
        if published is not None:
            return reply.respond(published)
        try:
            if self._resource.needs_token(request.described):
                request.access()
            chunks = self._app(environ, reply.start)
        except Exception as error:  # noqa: BLE001 - refuse() raises what is not a refusal
            return reply.refuse(error)
        if isinstance(chunks, (list, tuple, _file_wrapper(environ))):
            return chunks if reply.begin() else [reply.replacement]  # nothing can be refused any more
        return _Chunks(reply, chunks)

    def _instead_of_500(self, request: _Request, handled: BaseException | None) -> Response | None:
        error = refusal_behind_500(request.refused, handled) if self._replace_500 else None
        if error is None:
            return None
        if not self._has_warned:
            self._has_warned = True
            _log.warning(
                "the framework made a 500 of a refusal, and dpop.wsgi sends the refusal instead; register an error "
                "handler for dpop.server.REFUSALS that returns dpop.wsgi.refusal(environ, error)"
            )
        return request.refusal(error)


@overload
def access(environ: WSGIEnvironment) -> Access: ...
@overload
def access(environ: WSGIEnvironment, *, optional: Literal[False]) -> Access: ...
@overload
def access(environ: WSGIEnvironment, *, optional: Literal[True]) -> Access | None: ...
@hide_frames
def access(environ: WSGIEnvironment, *, optional: bool = False) -> Access | None:
    """The access that the middleware gave this request. On a public path, this call admits the request, once.

    :param optional: return None for a request without a token. One with a token that is refused raises all the same.
    :raises InvalidProof: the request is refused; see :func:`refusal`.
    :raises ReplayCacheError: the cache cannot tell whether the proof is a replay; see :func:`refusal`.
    :raises LookupUnavailableError: the look-up cannot tell whether the token is valid; see :func:`refusal`.
    :raises UsageError: the application is not wrapped in the middleware.
    """
    request = _request_of(environ)
    try:
        return request.access()
    except InvalidProof as error:
        if optional and error.reason == Reason.NO_CREDENTIALS:
            return None
        request.refused = error
        raise
    except REFUSALS as error:
        request.refused = error
        raise


@hide_frames
def refusal(environ: WSGIEnvironment, error: Refusal) -> Response:
    """The response to an InvalidProof, status and header fields, for the error handler of a framework.

    :raises UsageError: the application is not wrapped in the middleware.
    """
    return _request_of(environ).refusal(error)


class _Request:
    """One request, and its access once it is admitted."""

    def __init__(self, resource: ProtectedResource, environ: WSGIEnvironment) -> None:
        self._resource = resource
        self._lock = threading.RLock()
        self.described = _described(environ)
        self.admitted: Access | None = None
        self.refused: Refusal | None = None

    def access(self) -> Access:
        """Admit the request unless that is done; all threads of a request get one result."""
        with self._lock:
            if self.admitted is None:
                self.admitted = replace(self._resource.admit(self.described), on_refusal=self._note)
            return self.admitted

    def refusal(self, error: Refusal) -> Response:
        return self._resource.refusal(self.described, error, self.admitted)

    def _note(self, error: InvalidProof) -> None:
        self.refused = error


class _Reply:
    """Starts the application's response as late as possible, with the next nonce, or starts a refusal."""

    def __init__(
        self,
        request: _Request,
        start_response: StartResponse,
        instead_of_500: Callable[[_Request, BaseException | None], Response | None],
    ) -> None:
        self._request = request
        self._start_response = start_response
        self._instead_of_500 = instead_of_500
        self._announced: tuple[str, list[tuple[str, str]], _ExcInfo | None] | None = None
        self._write: Callable[[bytes], object] | None = None
        self._replaced: Response | None = None
        self.begun = False

    def start(
        self, status: str, headers: list[tuple[str, str]], exc_info: _ExcInfo | None = None, /
    ) -> Callable[[bytes], object]:
        """The ``start_response`` for the application: the response starts only when there is a body (PEP 3333)."""
        if self.begun:
            return self._start_response(status, headers, exc_info)  # raises what the application gives
        if self._announced is not None and exc_info is None:
            raise AssertionError("start_response was called a second time without exc_info")
        self._announced = status, headers, exc_info
        # Here, not later, because the framework may still be handling the error behind its response.
        handled = None if exc_info is None else exc_info[1]
        self._replaced = self._instead_of_500(self._request, handled) if status.startswith("500") else None
        return self.write

    def write(self, data: bytes) -> None:
        """Send a part of the body by the legacy ``write`` callable (PEP 3333)."""
        if self.begin() and self._write is not None:
            self._write(data)

    def begin(self) -> bool:
        """Begin the announced response. False if a refusal took its place."""
        if self._replaced is not None:
            self._respond(self._replaced)
            return False
        if not self.begun and self._announced is not None:
            self.begun = True
            status, headers, exc_info = self._announced
            admitted = self._request.admitted
            fields = with_nonce(headers, None if admitted is None else admitted.next_nonce)
            self._write = self._start_response(status, fields, *(() if exc_info is None else (exc_info,)))
        return True

    def refuse(self, error: Exception) -> list[bytes]:
        """Begin a refusal.

        :raises: the error itself, if it is not a refusal or the application has begun a response.
        """
        refused = refusal_in(error)
        if refused is None:
            raise error
        if self.begun:
            error.add_note(TOO_LATE)
            raise error
        return self.respond(self._request.refusal(refused))

    def respond(self, response: Response) -> list[bytes]:
        """Send a response of the integration's own."""
        self._respond(response)
        return [b"" if self._request.described.method == "HEAD" else response.body]

    @property
    def replacement(self) -> bytes:
        """The body of the refusal that took the place of the application's response."""
        return b"" if self._replaced is None or self._request.described.method == "HEAD" else self._replaced.body

    def _respond(self, response: Response) -> None:
        if not self.begun:
            self.begun = True
            line = f"{response.status} {http.HTTPStatus(response.status).phrase}"
            self._start_response(line, [*response.headers, *(body_fields(response.body) or _NO_BODY)])


class _Chunks:
    """The body of an application that makes it in chunks, and may refuse the request before the first one.

    So the first one is made at once: only then is the status known, and some servers, such as granian, read it as soon
    as the application has returned.
    """

    def __init__(self, reply: _Reply, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        try:
            self._body = self._begun(reply, iter(chunks))
        except BaseException:
            self.close()  # the server gets nothing that it could close
            raise

    def __iter__(self) -> Iterator[bytes]:
        return self._body

    def close(self) -> None:
        """Close the application's iterable, as a server does (PEP 3333)."""
        close = getattr(self._chunks, "close", None)
        if close is not None:
            close()

    @staticmethod
    def _begun(reply: _Reply, chunks: Iterator[bytes]) -> Iterator[bytes]:
        try:
            first = next(chunks, b"")
        except Exception as error:  # noqa: BLE001 - as above
            return iter(reply.refuse(error))
        return chain((first,), chunks) if reply.begin() else iter((reply.replacement,))


def _request_of(environ: WSGIEnvironment) -> _Request:
    request = environ.get(_KEY)
    if not isinstance(request, _Request):
        raise UsageError("the application is not wrapped in dpop.wsgi.DPoPMiddleware")
    return request


def _file_wrapper(environ: WSGIEnvironment) -> type:
    """The class of file bodies that a server sends in an optimised way; it must get them unwrapped."""
    wrapper = environ.get("wsgi.file_wrapper")
    return wrapper if isinstance(wrapper, type) else _Chunks


def _described(environ: WSGIEnvironment) -> ResourceRequest:
    target = environ.get("REQUEST_URI") or environ.get("RAW_URI")
    root, path = environ.get("SCRIPT_NAME", "").rstrip("/"), environ.get("PATH_INFO", "")
    if target is None:
        query = environ.get("QUERY_STRING", "")
        target = quote(root + path, safe=_PATH_SAFE, encoding="latin-1", errors="replace")
        target += f"?{query}" if query else ""
    fields = _Fields(environ.copy())  # what an application changes there is not what the client sent
    return ResourceRequest(environ["REQUEST_METHOD"], target, _text(path), fields, _text(root), environ)


class _Fields(FieldsByName):
    """The header fields of a request, which a server joins where a name came twice (PEP 3333)."""

    def __init__(self, environ: WSGIEnvironment) -> None:
        self._environ = environ

    def named(self, name: str) -> list[str]:
        value = self._environ.get("HTTP_" + name.upper().replace("-", "_"))
        return [] if value is None else [value]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for name, value in self._environ.items():
            if name.startswith("HTTP_"):
                yield name[5:].replace("_", "-"), value


def _text(path: str) -> str:
    """Decode a WSGI path, in which each character stands for one byte (PEP 3333)."""
    return path.encode("latin-1", "replace").decode("utf-8", "replace")


def __dir__() -> list[str]:
    return sorted(__all__)
