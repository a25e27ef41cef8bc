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
import sys
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from dpop._tracebacks import hide_frames
from dpop.errors import InvalidProof, ReplayCacheError, UsageError
from dpop.server import Access, ProtectedResource, ResourceRequest, Response, with_nonce

__all__ = ["DPoPMiddleware", "access", "refusal"]

_KEY = "dpop.gate"
_NO_BODY = [("Content-Type", "text/plain"), ("Content-Length", "0")]  # wsgiref.validate wants both
# RFC 3986 §3.3: what may stand in a path as it is.
_PATH_SAFE = "/:@!$&'(),;=~*+"


class DPoPMiddleware:
    """Admits requests, refuses the others, and adds the next nonce to responses.

    :param app: any WSGI application.
    :param resource: decides which requests are admitted.
    :raises UsageError: its token look-up or a cache is async.
    """

    def __init__(self, app: WSGIApplication, resource: ProtectedResource) -> None:
        if resource.is_async:
            raise UsageError("WSGI cannot await the token look-up or the replay cache; use synchronous ones")
        self._app = app
        self._resource = resource

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request (PEP 3333)."""
        gate = environ[_KEY] = _Gate(self._resource, environ)

        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Callable[[bytes], object]:
            nonce = None if gate.admitted is None else gate.admitted.next_nonce
            return start_response(status, with_nonce(headers, nonce), *exc_info)

        try:
            if self._resource.needs_token(gate.request):
                gate.access()
            return self._app(environ, start)
        except (InvalidProof, ReplayCacheError) as error:
            status, headers = gate.refusal(error)
            line = f"{status} {http.HTTPStatus(status).phrase}"
            # With the exception: the application may have announced another response, and not sent it.
            start_response(line, [*headers, *_NO_BODY], sys.exc_info())
            return [b""]


@hide_frames
def access(environ: WSGIEnvironment) -> Access:
    """The access that this request was given. On a public path, the request is admitted now.

    :raises InvalidProof: the request is refused; see :func:`refusal`.
    :raises ReplayCacheError: the cache cannot tell whether the proof is a replay; see :func:`refusal`.
    :raises UsageError: the application is not wrapped in the middleware.
    """
    return _gate(environ).access()


def refusal(environ: WSGIEnvironment, error: InvalidProof | ReplayCacheError) -> Response:
    """The response to such an error, status and header fields, for the error handler of a framework.

    :raises UsageError: the application is not wrapped in the middleware.
    """
    return _gate(environ).refusal(error)


class _Gate:
    """One request, and the access it was given."""

    def __init__(self, resource: ProtectedResource, environ: WSGIEnvironment) -> None:
        self._resource = resource
        self.request = _request(environ)
        self.admitted: Access | None = None

    def access(self) -> Access:
        if self.admitted is None:
            self.admitted = self._resource.admit(self.request)
        return self.admitted

    def refusal(self, error: InvalidProof | ReplayCacheError) -> Response:
        return self._resource.refusal(self.request, error, self.admitted)


def _gate(environ: WSGIEnvironment) -> _Gate:
    gate = environ.get(_KEY)
    if not isinstance(gate, _Gate):
        raise UsageError("the application is not wrapped in dpop.wsgi.DPoPMiddleware")
    return gate


def _request(environ: WSGIEnvironment) -> ResourceRequest:
    target = environ.get("REQUEST_URI") or environ.get("RAW_URI")
    root, path = environ.get("SCRIPT_NAME", "").rstrip("/"), environ.get("PATH_INFO", "")
    if target is None:
        query = environ.get("QUERY_STRING", "")
        target = quote(root + path, safe=_PATH_SAFE, encoding="latin-1", errors="replace")
        target += f"?{query}" if query else ""
    headers = [(name[5:].replace("_", "-"), value) for name, value in environ.items() if name.startswith("HTTP_")]
    return ResourceRequest(environ["REQUEST_METHOD"], target, _text(path), headers, _text(root))


def _text(path: str) -> str:
    """A path of WSGI, each character of which stands for one byte (PEP 3333)."""
    return path.encode("latin-1", "replace").decode("utf-8", "replace")


def __dir__() -> list[str]:
    return sorted(__all__)
