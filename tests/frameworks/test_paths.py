# SPDX-License-Identifier: Apache-2.0
"""The path that a proof names and the path that the application sees are one, on each server and behind prefixes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from support.in_process import ask_asgi, ask_wsgi
from support.resource import PUBLIC_URL, asgi_application, resource, wsgi_application
from support.servers import ASGI, FURTHER_ASGI, WSGI, Reply, ask, running

import dpop
from dpop import asgi, wsgi

KEY = dpop.generate_key()
TOKEN = f"bound.{KEY.thumbprint}"
AUTHORIZATION = ("Authorization", f"DPoP {TOKEN}")
DOTTED = [
    "/transfer/mallory/../../status",
    "/transfer/mallory/%2e%2e/%2E%2E/status",
    "/transfer/.%2e/status",
    "/transfer/%2e./status",
    "/./status",
    "/%2e/status",
    "/status/.",
    "/status/..",
    "/../v2/status",
    "/transfer%2F..%2Fstatus",
    "/transfer/..%2fstatus",
    "/transfer%5C..%5Cstatus",
]


def proof(path: str, origin: str = PUBLIC_URL) -> tuple[str, str]:
    """The header field with a proof for this path."""
    return "DPoP", dpop.create_proof(KEY, "GET", origin + path, access_token=TOKEN)


def said(reply: Reply) -> dict[str, Any]:
    """The body of a request that was admitted."""
    assert reply.status == 200, reply.fields
    body: dict[str, Any] = json.loads(reply.body)
    return body


@pytest.fixture(scope="module", params=[*ASGI, *FURTHER_ASGI, *WSGI])
def server(request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of each server; paths under /private need a token."""
    with running(request.param, nonces=False, private="/private") as port:
        yield port


@pytest.mark.parametrize("path", DOTTED)
def test_a_path_with_dot_segments_is_refused(server: int, path: str) -> None:
    """Before anything else: on public paths, for preflights, and with a proof for the path that it resolves to."""
    preflight = [("Origin", "https://page.example"), ("Access-Control-Request-Method", "GET")]
    for fields in ([], [AUTHORIZATION, proof("/status")], [AUTHORIZATION, proof("/transfer/status")]):
        reply = ask(server, path, *fields)
        # Some servers refuse these themselves, or have resolved them before anybody sees them.
        assert reply.status == 400
    assert ask(server, path, *preflight, method="OPTIONS").status == 400
    assert ask(server, "/private" + path).status == 400


def test_dots_that_are_no_segments(server: int) -> None:
    """They mean nothing."""
    for path in (
        "/private/...",
        "/private/.well-known/x",
        "/private/a..b",
        "/private/%2e%2e%2e",
        "/private/%252e%252e",
    ):
        assert said(ask(server, path, AUTHORIZATION, proof(path)))["path"].count(".") + path.count("%252e") >= 1


def test_a_whole_url_does_not_make_a_path_public(server: int) -> None:
    """A rule about paths must see the path that the application sees (RFC 9112 §3.2.2)."""
    assert ask(server, "http://evil.example/private").status in {400, 401}
    assert ask(server, "/private").status == 401


@pytest.mark.parametrize("name", ["hypercorn", "granian"])
def test_a_path_with_dot_segments_over_http2(name: str) -> None:
    """``:path`` goes another way through a server than the request-target of HTTP/1.1."""
    with running(name, nonces=False) as port, httpx.Client(http1=False, http2=True, timeout=60) as client:

        def status(target: str) -> int:
            fields = dict([AUTHORIZATION, proof("/status")])
            url = f"http://127.0.0.1:{port}/"
            return client.get(url, headers=fields, extensions={"target": target.encode()}).status_code

        assert status("/status") == 200
        for target in ("/a/../status", "/%2e%2e/status", "/a/%2E%2e/status", "/status/."):
            assert status(target) == 400


@pytest.mark.parametrize(
    "target", ["/a;/..;/status", "/..;/status", "/%c0%ae%c0%ae/status", "/.%00./status", "/%EF%BC%8E%EF%BC%8E/status"]
)
def test_what_only_other_servers_take_for_dots(server: int, target: str) -> None:
    """Dots with parameters, in overlong UTF-8, around a null byte or of full width lead nowhere."""
    for path in ("/status", "/a/status"):
        assert ask(server, target, AUTHORIZATION, proof(path)).status in {400, 401}


def test_with_the_front_that_a_proxy_removes() -> None:
    """No request-target leads out of it."""
    with running("uvicorn-h11", nonces=False, url=PUBLIC_URL + "/v1") as port:
        assert said(ask(port, "/items", AUTHORIZATION, proof("/v1/items")))["htu"] == PUBLIC_URL + "/v1/items"
        for target in ("/../v2/items", "/%2e%2e/v2/items"):
            assert ask(port, target, AUTHORIZATION, proof("/v2/items")).status == 400


PREFIX = ("X-Forwarded-Prefix", "/v1")
# Server, its settings, the request-target that the proxy sends on, and header fields of the proxy. The client's URL is
# https://api.example/v1/items in each.
PREFIXES: dict[str, tuple[str, dict[str, Any], str, list[tuple[str, str]]]] = {
    "uvicorn (h11)": ("uvicorn-h11", {}, "/items", []),
    "uvicorn (httptools)": ("uvicorn-httptools", {}, "/items", []),
    "hypercorn": ("hypercorn", {}, "/items", []),
    "gunicorn": ("gunicorn", {}, "/items", []),
    "waitress": ("waitress", {}, "/items", []),
    "wsgiref": ("wsgiref", {}, "/items", []),
    "uvicorn (h11) --root-path /v1": ("uvicorn-h11", {"root_path": "/v1"}, "/items", []),
    "uvicorn (httptools) --root-path /v1": ("uvicorn-httptools", {"root_path": "/v1"}, "/items", []),
    "daphne": ("daphne", {}, "/items", []),
    "daphne --root-path /v1": ("daphne", {"root_path": "/v1"}, "/items", []),
    "granian": ("granian", {}, "/items", []),
    "granian --url-path-prefix /v1, prefix kept": ("granian", {"root_path": "/v1"}, "/v1/items", []),
    "granian --url-path-prefix /v1": ("granian", {"root_path": "/v1"}, "/items", []),
    "granian --interface wsgi": ("granian-wsgi", {}, "/items", []),
    "granian --interface wsgi --url-path-prefix /v1, prefix kept": (
        "granian-wsgi", {"root_path": "/v1"}, "/v1/items", [],
    ),
    "hypercorn --root-path /v1": ("hypercorn", {"root_path": "/v1"}, "/items", []),
    "gunicorn, ProxyFix(x_prefix=1)": ("gunicorn", {"trusts_prefix": True}, "/items", [PREFIX]),
    "waitress, ProxyFix(x_prefix=1)": ("waitress", {"trusts_prefix": True}, "/items", [PREFIX]),
    "wsgiref, ProxyFix(x_prefix=1)": ("wsgiref", {"trusts_prefix": True}, "/items", [PREFIX]),
    "gunicorn, SCRIPT_NAME=/v1, prefix kept": ("gunicorn", {"root_path": "/v1"}, "/v1/items", []),
    "waitress --url-prefix /v1, prefix kept": ("waitress", {"root_path": "/v1"}, "/v1/items", []),
    "waitress --url-prefix /v1": ("waitress", {"root_path": "/v1"}, "/items", []),
}  # fmt: skip


@pytest.mark.parametrize("row", PREFIXES)
def test_a_prefix_of_the_public_url(row: str) -> None:
    """``url=`` names the whole prefix; it counts once, whatever the server knows of it."""
    name, settings, target, fields = PREFIXES[row]
    with running(name, nonces=False, url=PUBLIC_URL + "/v1", **settings) as port:
        reply = said(ask(port, target, AUTHORIZATION, proof("/v1/items"), *fields))
        assert (reply["htu"], reply["path"]) == (PUBLIC_URL + "/v1/items", "/items")
        for elsewhere in ("/items", "/v1/v1/items", "/v2/items"):
            assert ask(port, target, AUTHORIZATION, proof(elsewhere), *fields).status == 401


def test_an_application_mounted_behind_a_prefix() -> None:
    """The place where it is mounted is part of the URL as well, and the prefix still counts once."""
    decides = resource(nonces=False, url=PUBLIC_URL + "/v1")
    app = asgi.DPoPMiddleware(asgi_application, decides)
    ours = wsgi.DPoPMiddleware(wsgi_application, decides)

    def fields() -> list[tuple[str, str]]:
        return [AUTHORIZATION, proof("/v1/api/items")]

    for more in (
        {"root_path": "/api", "path": "/api/items", "raw_path": b"/api/items"},
        {"root_path": "/api", "path": "/items", "raw_path": b"/api/items"},  # of older mounts
        {"root_path": "/v1/api", "path": "/v1/api/items", "raw_path": b"/v1/api/items"},
    ):
        assert ask_asgi(app, "GET", "/", fields(), **more)[0] == 200, more
    for environ in (
        {"SCRIPT_NAME": "/api", "PATH_INFO": "/items", "REQUEST_URI": "/api/items"},
        {"SCRIPT_NAME": "/v1/api", "PATH_INFO": "/items", "REQUEST_URI": "/v1/api/items"},
        {"SCRIPT_NAME": "/v1/api", "PATH_INFO": "/items", "REQUEST_URI": "/api/items"},
        {"SCRIPT_NAME": "/v1/api", "PATH_INFO": "/items", "REQUEST_URI": None},
    ):
        assert ask_wsgi(ours, "GET", "/", fields(), **environ)[0] == 200, environ


@pytest.mark.parametrize(
    ("path", "raw"), [("/private", b"/public"), ("/a", b"//a"), ("http://evil/a", b"http://evil/a"), ("/a/b", b"/b")]
)
def test_a_server_that_hands_over_two_paths(path: str, raw: bytes) -> None:
    """The proof would be checked for one and the application would serve the other: refused, public or not."""
    for public in (None, lambda _path: True):
        app = asgi.DPoPMiddleware(asgi_application, resource(nonces=False, public=public))
        assert ask_asgi(app, "GET", raw.decode(), [], path=path, raw_path=raw)[0] == 400
        ours = wsgi.DPoPMiddleware(wsgi_application, resource(nonces=False, public=public))
        assert ask_wsgi(ours, "GET", "/", [], PATH_INFO=path, REQUEST_URI=raw.decode(), check=False)[0] == 400
