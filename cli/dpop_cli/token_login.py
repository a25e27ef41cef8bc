# SPDX-License-Identifier: Apache-2.0
"""The way through the browser and back: a redirect to a port of this machine (RFC 8252 §7.3).

Only the response to this login ends the wait; any other request is turned away.
"""

from __future__ import annotations

import html
import http.server
import time
from collections.abc import Callable
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import click

from dpop.errors import InvalidTokenResponseError, ReauthorizationError, TokenRefusedError
from dpop.origin import Origin
from dpop.tokens import AuthorizationRequest, ServerMetadata

__all__ = ["Loopback"]

_T = TypeVar("_T")
_LOOK_SECONDS = 1.0
_MAX_TARGET = 16_384


class Loopback:
    """Listens for the user's browser, as a context manager.

    :param redirect_uri: ``http://127.0.0.1/...``: a port of 0 or none means one that is free.
    :raises click.UsageError: it is not one of this machine's.
    """

    def __init__(self, redirect_uri: str) -> None:
        origin = Origin.of_url(redirect_uri)
        parts = urlsplit(redirect_uri)
        if origin.scheme != "http" or not origin.is_loopback:
            raise click.UsageError(
                "--redirect-uri must be http://127.0.0.1/..., to come back to this machine; for another, log in by"
                " hand and use dpop token redeem"
            )
        self._path = parts.path or "/"
        host = parts.hostname or "127.0.0.1"
        try:
            self._server = _Server(("127.0.0.1" if host == "localhost" else host, parts.port or 0), self)
        except OSError as error:
            raise click.UsageError(
                f"port {parts.port} of this machine cannot be listened on ({error.strerror}); name another"
            ) from None
        shown = f"[{host}]" if ":" in host else host
        self._authority = f"{shown}:{self._server.server_port}"
        self.redirect_uri = f"http://{self._authority}{parts.path}"
        self._accept: Callable[[str], Any] = lambda _: None
        self._outcome: tuple[Any, Exception | None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._server.server_close()

    def wait(
        self,
        request: AuthorizationRequest,
        server: ServerMetadata,
        redeem: Callable[[str], _T],
        *,
        timeout: float,
    ) -> _T:
        """Wait for the response to a request, redeem its code, and tell the user in the browser how that went.

        :param redeem: gets the query of the callback, which was found to belong to the request.
        :raises DPoPError: what ``redeem`` raises, or the user said no.
        :raises click.ClickException: the browser did not come back in time.
        """

        def accept(query: str) -> _T:
            request.code_of(query, issuer=server.issuer, iss_required=server.iss_in_responses)
            return redeem(query)

        self._accept = accept
        deadline = time.monotonic() + timeout
        while self._outcome is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise click.ClickException(f"the browser did not come back within {timeout:.0f} s; log in again")
            self._server.timeout = min(left, _LOOK_SECONDS)
            self._server.handle_request()
        result, error = self._outcome
        if error is not None:
            raise error
        done: _T = result
        return done

    def response(self, host: str, target: str) -> tuple[int, str]:
        """Status and sentence for a request to the port."""
        path, _, query = target.partition("?")
        if host not in {self._authority, f"localhost:{self._server.server_port}"} or len(target) > _MAX_TARGET:
            return 400, "This is not the place you are looking for."
        if path != self._path or not query:
            return 404, "There is nothing here."
        if self._outcome is not None:
            return 400, "This login is over."
        try:
            self._outcome = (self._accept(query), None)
        except InvalidTokenResponseError as error:
            if error.status is None:
                return 400, "This is not the response to the login that is waiting here."  # it goes on waiting
            self._outcome = (None, error)
        except (ReauthorizationError, TokenRefusedError) as error:
            self._outcome = (None, error)
            return 200, "The login was refused. The terminal says more; you can close this window."
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends the wait
            self._outcome = (None, error)
        if self._outcome[1] is not None:
            return 200, "The login failed. The terminal says why; you can close this window."
        return 200, "You are logged in. You can close this window."


class _Server(http.server.HTTPServer):
    """One request at a time, and none may take long."""

    def __init__(self, address: tuple[str, int], loopback: Loopback) -> None:
        self.loopback = loopback
        if ":" in address[0]:
            import socket  # noqa: PLC0415 - for IPv6 only

            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that hangs up is no event."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    timeout = 5.0  # a browser opens connections it then does not use
    server_version = "dpop"
    sys_version = ""

    def do_GET(self) -> None:
        status, text = self.server.loopback.response(self.headers.get("Host", ""), self.path)
        body = f"<!doctype html><meta charset=utf-8><title>dpop</title><p>{html.escape(text)}</p>\n".encode()
        self.send_response(status)
        for name, value in (
            ("Content-Type", "text/html; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("Content-Security-Policy", "default-src 'none'"),
            ("Referrer-Policy", "no-referrer"),
            ("Connection", "close"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: Any) -> None:
        """Nothing: the target holds the code."""
