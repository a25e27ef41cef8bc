# SPDX-License-Identifier: Apache-2.0
"""Login in the browser, with a redirect to a port of this machine (RFC 8252 §7.3).

Only the response to this login ends the wait; any other request is turned away. One loop serves all connections, so
that a connection which sends nothing, or one byte now and then, holds up neither the browser nor the end of the wait.
"""

from __future__ import annotations

import contextlib
import errno
import hmac
import html
import http.client
import io
import os
import secrets
import selectors
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, TypeVar
from urllib.parse import quote, urlsplit

import click

from dpop.errors import InvalidTokenResponseError, ReauthorizationError, TokenRefusedError
from dpop.origin import Origin
from dpop.tokens import AuthorizationRequest, ServerMetadata
from dpop_cli.console.output import hint

if TYPE_CHECKING:
    from dpop.profiles import Profile

__all__ = ["Loopback", "login_parameters", "open_login", "peer_users"]

_T = TypeVar("_T")
_LOOK_SECONDS: Final = 1.0  # on Windows a longer wait would not hear of Ctrl-C
_REQUEST_SECONDS: Final = 5.0  # a browser opens connections that it does not use
_MOST_CONNECTIONS: Final = 64
_MAX_HEAD: Final = 32_768
_MAX_TARGET: Final = 16_384
_FREE_PORT_TRIES: Final = 8
_COOKIE: Final = "dpop_login"


class _Reply(NamedTuple):
    """The response to one request: a sentence to show, or a redirect."""

    status: int
    text: str = ""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True, eq=False)
class _Connection:
    """A connection whose request is still being read."""

    socket: socket.socket
    ends_at: float
    head: bytes = b""


@dataclass(slots=True)
class _StartPage:
    """The page that sends the browser to the login; its path is in the browser's command line, the login's URL is not.

    :param cookie: of the browser that opened it first.
    """

    url: str = field(repr=False)
    path: str = field(default_factory=lambda: f"/{secrets.token_urlsafe(32)}", repr=False)
    cookie: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    opened: bool = False


class Loopback:
    """Listens for the user's browser, as a context manager.

    :param redirect_uri: ``http://127.0.0.1/...``: a port of 0 or none means one that is free.
    :param user: the user id whose browser may open the start page; by default the one of this process.
    :raises click.UsageError: it is not an address of this machine, or the port is taken.
    """

    def __init__(self, redirect_uri: str, *, user: int | None = None) -> None:
        origin = Origin.of_url(redirect_uri)
        parts = urlsplit(redirect_uri)
        if origin.scheme != "http" or not origin.is_loopback:
            raise click.UsageError(
                "--redirect-uri must be http://127.0.0.1/..., to come back to this machine; for another, log in by"
                " hand and use dpop token redeem"
            )
        self._path = parts.path or "/"
        host = parts.hostname or "127.0.0.1"
        self._listeners = _listen(host, parts.port or 0)
        port = int(self._listeners[0].getsockname()[1])
        self._authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._hosts = {self._authority, f"localhost:{port}"}
        self.redirect_uri = f"http://{self._authority}{parts.path}"
        self._user = os.getuid() if user is None and hasattr(os, "getuid") else user
        self._start: _StartPage | None = None
        self._connections: list[_Connection] = []
        self._code_of: Callable[[str], str] = lambda query: query
        self._redeem: Callable[[str], Any] = lambda query: query
        self._outcome: tuple[Any, Exception | None] | None = None
        self._told = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        for connection in [*self._connections]:
            self._close(connection)
        for listener in self._listeners:
            listener.close()

    def start_page(self, url: str) -> str:
        """Return a URL of this machine that redirects to the login.

        Every user of the machine can read the command line of a browser. Another user who opens the login's own URL
        first could log in as somebody else, so only this page's URL is given to the browser. If the system tells the
        owner of a connection, other users get nothing here; otherwise a second visitor ends the login.
        """
        self._start = _StartPage(url)
        return f"http://{self._authority}{self._start.path}"

    def wait(
        self,
        request: AuthorizationRequest,
        server: ServerMetadata,
        redeem: Callable[[str], _T],
        *,
        timeout: float,
    ) -> _T:
        """Wait for the callback of a request, redeem its code, and show the result in the browser.

        :param redeem: gets the query of the callback, which was found to belong to the request.
        :param timeout: seconds.
        :raises DPoPError: raised by ``redeem``, or the user said no.
        :raises click.ClickException: the browser did not come back in time.
        """
        self._code_of = lambda query: request.code_of(query, issuer=server.issuer, iss_required=server.iss_in_responses)
        self._redeem = redeem
        deadline = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            for listener in self._listeners:
                selector.register(listener, selectors.EVENT_READ)
            while self._outcome is None:
                now = time.monotonic()
                if now >= deadline:
                    raise click.ClickException(f"the browser did not come back within {timeout:.0f} s; log in again")
                for connection in [each for each in self._connections if each.ends_at <= now]:
                    self._close(connection, selector)
                for key, _ in selector.select(min(deadline - now, _LOOK_SECONDS)):
                    if isinstance(key.data, _Connection):
                        self._read(key.data, selector)
                    else:
                        self._accept(key.fileobj, selector)
        result, error = self._outcome
        if error is not None:
            raise error
        done: _T = result
        return done

    # --- connections

    def _accept(self, listener: object, selector: selectors.BaseSelector) -> None:
        assert isinstance(listener, socket.socket)  # noqa: S101 - only listeners have no data
        try:
            accepted, _ = listener.accept()
        except OSError:
            return  # the other side has gone already
        accepted.setblocking(False)
        connection = _Connection(accepted, time.monotonic() + _REQUEST_SECONDS)
        if len(self._connections) >= _MOST_CONNECTIONS:
            self._close(self._connections[0], selector)  # a browser sends its request at once; that one did not
        self._connections.append(connection)
        selector.register(accepted, selectors.EVENT_READ, connection)

    def _read(self, connection: _Connection, selector: selectors.BaseSelector) -> None:
        if self._outcome is not None or connection not in self._connections:
            return
        try:
            data = connection.socket.recv(_MAX_HEAD)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        connection.head += data
        if not data or len(connection.head) > _MAX_HEAD:
            self._close(connection, selector)
        elif b"\r\n\r\n" in connection.head:
            users = peer_users(connection.socket)
            selector.unregister(connection.socket)
            self._connections.remove(connection)
            with connection.socket, contextlib.suppress(OSError):
                reply = self._reply(connection.head, users)
                connection.socket.settimeout(_LOOK_SECONDS)
                connection.socket.sendall(_written(reply))

    def _close(self, connection: _Connection, selector: selectors.BaseSelector | None = None) -> None:
        if selector is not None:
            selector.unregister(connection.socket)
        self._connections.remove(connection)
        connection.socket.close()

    # --- requests

    def _reply(self, head: bytes, users: frozenset[int]) -> _Reply:
        line, _, fields = head.partition(b"\r\n")
        try:
            method, target, _ = line.decode("ascii").split(" ")
            headers = http.client.parse_headers(io.BytesIO(fields))
        except (ValueError, http.client.HTTPException):
            return _Reply(400, "This is not a request.")
        if method != "GET":
            return _Reply(501, "Only GET is answered here.")
        if headers.get("Host", "") not in self._hosts or len(target) > _MAX_TARGET:
            return _Reply(400, "This is not the place you are looking for.")
        path, _, query = target.partition("?")
        if self._start is not None and hmac.compare_digest(path.encode(), self._start.path.encode()):
            return self._started(self._start, users, headers.get("Cookie", ""))
        if path != self._path or not query:
            return _Reply(404, "There is nothing here.")
        return self._called_back(query)

    def _started(self, page: _StartPage, users: frozenset[int], cookies: str) -> _Reply:
        """Redirect to the login, but only the user's own browser."""
        if self._user is not None and users - {self._user}:
            return _Reply(404, "There is nothing here.")
        if page.opened and f"{_COOKIE}={page.cookie}" not in cookies:
            self._outcome = (
                None,
                click.ClickException(
                    "the page that leads to the login was opened a second time, and not by the browser that opened it"
                    " first. Another user of this machine may have taken over the login, so it ends here. Log in"
                    " again, and with --no-browser if this repeats"
                ),
            )
            return _Reply(400, "This page was opened before. The terminal says more; you can close this window.")
        page.opened = True
        cookie = f"{_COOKIE}={page.cookie}; Path={page.path}; HttpOnly; SameSite=Strict"
        # A server may publish its address with letters that a header field cannot have.
        location = quote(page.url, safe="%/:?#[]@!$&'(),;=~*+")
        return _Reply(303, headers=(("Location", location), ("Set-Cookie", cookie)))

    def _called_back(self, query: str) -> _Reply:
        try:
            self._code_of(query)
        except InvalidTokenResponseError as error:
            if not self._told:
                self._told = True  # once: any program on this machine can send such a request
                hint(f"a response that does not belong to this login came back, so the wait goes on: {error}")
            return _Reply(400, "This is not the response to the login that is waiting here.")
        except (ReauthorizationError, TokenRefusedError) as error:
            self._outcome = (None, error)
            return _Reply(200, "The login was refused. The terminal says more; you can close this window.")
        try:
            self._outcome = (self._redeem(query), None)
        except (ReauthorizationError, TokenRefusedError) as error:
            self._outcome = (None, error)
            return _Reply(200, "The login was refused. The terminal says more; you can close this window.")
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends the wait
            self._outcome = (None, error)
            return _Reply(200, "The login failed. The terminal says why; you can close this window.")
        return _Reply(200, "You are logged in. You can close this window.")


def login_parameters(profile: Profile) -> dict[str, str]:
    """Return the further parameters of a login at this kind of server, such as Google's ``prompt``."""
    pairs = (each.partition("=") for each in profile.login_parameters)
    return {name: value for name, _, value in pairs}


def open_login(loopback: Loopback, request: AuthorizationRequest, *, browser: bool) -> None:
    """Say where to log in, and open the user's browser there.

    :param browser: if not, only say it.
    """
    click.echo(f"Log in here:\n\n  {request.url}\n", err=True)
    click.echo(f"Your browser comes back to {loopback.redirect_uri}; this command waits for it.", err=True)
    if browser:
        # A browser in the terminal returns only when the user leaves it, after the callback.
        page = loopback.start_page(request.url)
        threading.Thread(target=_open_browser, args=(page,), daemon=True).start()


def _open_browser(url: str) -> None:
    if not webbrowser.open(url):
        hint("no browser could be opened; open the URL above yourself")


def _written(reply: _Reply) -> bytes:
    body = f"<!doctype html><meta charset=utf-8><title>dpop</title><p>{html.escape(reply.text)}</p>\n".encode()
    fields = (
        ("Content-Type", "text/html; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        ("Content-Security-Policy", "default-src 'none'"),
        ("Referrer-Policy", "no-referrer"),
        ("Connection", "close"),
        *reply.headers,
    )
    lines = [
        f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}",
        *(f"{name}: {value}" for name, value in fields),
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


# --- sockets


def _listen(host: str, port: int) -> list[socket.socket]:
    """Listen on an address; for localhost on both of its addresses, because browsers differ in which they try first.

    :param port: 0 for one that is free.
    :raises click.UsageError: it is taken.
    """
    if host != "localhost":
        return [_listener(socket.AF_INET6 if ":" in host else socket.AF_INET, host, port)]
    for _ in range(_FREE_PORT_TRIES):
        first = _listener(socket.AF_INET, "127.0.0.1", port)
        chosen = int(first.getsockname()[1])
        try:
            return [first, _bound(socket.AF_INET6, "::1", chosen)]
        except OSError as error:
            if error.errno not in {errno.EADDRINUSE, errno.EACCES}:
                return [first]  # this machine has no IPv6, and neither has its browser
            first.close()
        if port:
            break
    raise click.UsageError(
        f"another program listens on [::1]:{chosen}, and a browser may look for localhost there; use http://127.0.0.1"
        " in --redirect-uri, or another port"
    )


def _listener(family: int, host: str, port: int) -> socket.socket:
    try:
        return _bound(family, host, port)
    except OSError as error:
        raise click.UsageError(
            f"port {port} of this machine cannot be listened on ({error.strerror}); name another"
        ) from None


def _bound(family: int, host: str, port: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if os.name == "posix":
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(_MOST_CONNECTIONS)
        made.setblocking(False)
    except OSError:
        made.close()
        raise
    return made


def peer_users(connection: socket.socket) -> frozenset[int]:
    """User ids that the other end of a connection within this machine may belong to; empty if the system does not tell.

    Linux lists every TCP socket with its owner (proc(5)). Both ports are compared and no address: where another
    socket has the same two ports, its owner is in the set too.
    """
    if sys.platform != "linux":
        return frozenset()
    users = set()
    try:
        ports = (f":{connection.getpeername()[1]:04X}", f":{connection.getsockname()[1]:04X}")
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):
            for line in Path(table).read_text("ascii").splitlines()[1:]:
                columns = line.split()
                if columns[1].endswith(ports[0]) and columns[2].endswith(ports[1]):
                    users.add(int(columns[7]))
    except (OSError, ValueError, IndexError):
        return frozenset()
    return frozenset(users)
