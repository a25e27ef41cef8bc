# SPDX-License-Identifier: Apache-2.0
"""The HTTP side of the playground: it lets in only the browser that the user opened, and only its own page."""

from __future__ import annotations

import hmac
import http.server
import json
import secrets
import sys
import threading
from collections.abc import Mapping
from http import HTTPStatus
from importlib.resources import files
from types import TracebackType
from typing import Any, Final, Protocol, Self

import click

from dpop.encoding import json_object
from dpop.errors import UsageError

__all__ = ["OWN_HEADER", "Actions", "PlaygroundServer"]

OWN_HEADER: Final = "X-DPoP-Playground"
"""The header field of requests that change something. A page of another origin cannot send it without CORS."""

_COOKIE = "dpop_playground"
_MAX_BODY = 4096
_IDLE_SECONDS = 30
_FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
_ALWAYS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# Not a redirect: a navigation from a file is cross-site, and a browser would not send the strict cookie after one.
_STARTED = '<!doctype html><meta charset="utf-8"><title>dpop</title><meta http-equiv="refresh" content="0; url=/">\n'
_LOGGED_IN = (
    '<!doctype html><html lang="en"><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1"><title>Logged in</title>'
    '<link rel="stylesheet" href="/page.css"><h1>You are logged in</h1>'
    "<p>Close this tab and go back to the playground: there, redeem the code.</p>\n"
)


class Actions(Protocol):
    """The object that does the actions of the page."""

    def act(self, name: str, arguments: Mapping[str, object]) -> Mapping[str, Any]:
        """Do one action, and return what to show as JSON.

        :raises UsageError: there is no such action.
        """

    def served_at(self, origin: str) -> None:
        """Take the origin of the page."""

    def called_back(self, query: str) -> bool:
        """Take the query with which a server sent the browser back; return whether it belongs to a waiting login."""


class PlaygroundServer:
    """Serves the page on 127.0.0.1 while it is used as a context manager.

    :param port: 0 for one that is free.
    :raises click.UsageError: the port is not free.
    """

    def __init__(self, actions: Actions, port: int = 0) -> None:
        self._actions = actions
        self._code: str | None = secrets.token_urlsafe(32)
        self._cookie = secrets.token_urlsafe(32)
        self._lock = threading.Lock()
        page = self

        class Handler(_Handler):
            server_page = page

        try:
            self._http = _HTTPServer(("127.0.0.1", port), Handler)
        except OSError as error:
            raise click.UsageError(f"port {port} of this machine cannot be listened on ({error.strerror})") from None
        self.origin = f"http://127.0.0.1:{self._http.server_address[1]}"
        actions.served_at(self.origin)
        self.start_url = f"{self.origin}/start?code={self._code}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def cookie_for(self, query: str) -> str | None:
        """Exchange the one-time code for the cookie; None if it is wrong or was used before."""
        with self._lock:
            if self._code is None or not hmac.compare_digest(query.encode(), f"code={self._code}".encode()):
                return None
            self._code = None
        return f"{_COOKIE}={self._cookie}; Path=/; HttpOnly; SameSite=Strict"

    def knows(self, cookies: str) -> bool:
        """Whether a Cookie field has our cookie."""
        own = f"{_COOKIE}={self._cookie}".encode()
        return any(hmac.compare_digest(each.strip().encode(), own) for each in cookies.split(";"))

    def called_back(self, query: str) -> bool:
        """Whether the query belongs to a login that waits, which then goes on."""
        with self._lock:
            return self._actions.called_back(query)

    def act(self, name: str, body: bytes) -> tuple[int, Mapping[str, Any]]:
        """Do an action, one at a time; return a status and an object."""
        with self._lock:
            try:
                return 200, self._actions.act(name, json_object(body))
            except UsageError as error:
                return 400, {"problem": str(error)}


class _HTTPServer(http.server.ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing about a browser that went away before its response; a closed tab is no fault."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    server_page: PlaygroundServer
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_SECONDS

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if not self._is_at_home():
            return
        if path == "/start":
            cookie = self.server_page.cookie_for(query)
            if cookie is None:
                self._refuse(403, "This link was used before, or is not complete. Run dpop playground again.")
            else:
                self._reply(200, _STARTED.encode(), "text/html; charset=utf-8", {"Set-Cookie": cookie})
        elif path == "/callback":
            self._end_login(query)
        elif self._is_our_page():
            if self.path not in _FILES:
                self._refuse(404, "There is nothing here.")
                return
            name, kind = _FILES[self.path]
            self._reply(200, (files("dpop_cli.commands.playground") / "files" / name).read_bytes(), kind)

    def _end_login(self, query: str) -> None:
        """Take the response to a login, which belongs to it by its ``state``: another site sends the browser here."""
        if self.server_page.called_back(query):
            self._reply(200, _LOGGED_IN.encode(), "text/html; charset=utf-8")
        else:
            self._refuse(403, "No login of the playground waits for this, or the server refused it.")

    def do_POST(self) -> None:
        if not self._is_at_home() or not self._is_our_page():
            return
        if self.headers.get_all(OWN_HEADER) != ["1"]:
            self._refuse(403, f"This request lacks the header field {OWN_HEADER}.")
            return
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or int(length) > _MAX_BODY:
            self._refuse(413, f"The body must have at most {_MAX_BODY} bytes, and a Content-Length.")
            return
        if not self.path.startswith("/do/"):
            self._refuse(404, "There is nothing here.")
            return
        status, found = self.server_page.act(self.path.removeprefix("/do/"), self.rfile.read(int(length)))
        self._reply(status, json.dumps(found).encode(), "application/json")

    def _is_at_home(self) -> bool:
        """Refuse another Host, such as an attacker's name that leads to this machine (DNS rebinding)."""
        if self.headers.get_all("Host") == [self.server_page.origin.removeprefix("http://")]:
            return True
        self._refuse(403, "This is not the address of the playground.")
        return False

    def _is_our_page(self) -> bool:
        """Refuse requests of other pages, and of browsers that did not begin with the one-time code."""
        sites = self.headers.get_all("Sec-Fetch-Site") or []
        origins = self.headers.get_all("Origin") or []
        allowed = {"same-origin", "none"} if self.command == "GET" else {"same-origin"}
        if not allowed.issuperset(sites) or not {self.server_page.origin}.issuperset(origins):
            self._refuse(403, "This request comes from another page.")
            return False
        if not self.server_page.knows(self.headers.get("Cookie", "")):
            self._refuse(403, "This browser was not let in. Open the file that dpop playground names.")
            return False
        return True

    def _refuse(self, status: int, text: str) -> None:
        self.close_connection = True  # the body was not read
        self._reply(status, f"{text}\n".encode(), "text/plain; charset=utf-8")

    def _reply(self, status: int, body: bytes, kind: str, headers: Mapping[str, str] | None = None) -> None:
        self.send_response_only(status, HTTPStatus(status).phrase)
        fields = {**_ALWAYS, "Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}
        if self.close_connection:
            fields["Connection"] = "close"
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that http.server uses
        """Print nothing: a request line may hold the one-time code."""
