# SPDX-License-Identifier: Apache-2.0
"""The WSGI integration; with real servers it is in tests/frameworks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pytest
from support.in_process import ask_wsgi
from support.resource import PUBLIC_URL, look_up, resource, wsgi_application

import dpop
from dpop.errors import InvalidProof, UsageError
from dpop.server import MemoryReplayCache, NonceIssuer, ProofVerifier, ProtectedResource, ResourceRequest
from dpop.wsgi import DPoPMiddleware, access, refusal

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

KEY = dpop.generate_key()
TOKEN = f"bound.{KEY.thumbprint}"
AUTHORIZATION = ("Authorization", f"DPoP {TOKEN}")


def proof(url: str = PUBLIC_URL + "/items", nonce: str | None = None) -> tuple[str, str]:
    """The header field of one."""
    return "DPoP", dpop.create_proof(KEY, "GET", url, access_token=TOKEN, nonce=nonce)


@pytest.fixture
def app() -> DPoPMiddleware:
    """The application of the tests behind an integration, without nonces."""
    return DPoPMiddleware(wsgi_application, resource(nonces=False))


def single_use() -> ProtectedResource:
    """An API that hands out a nonce with each answer."""
    nonces = NonceIssuer(single_use=MemoryReplayCache())
    return ProtectedResource(ProofVerifier(replay=MemoryReplayCache(), nonces=nonces), url=PUBLIC_URL, token=look_up)


def test_the_next_nonce_replaces_what_the_application_says() -> None:
    """One DPoP-Nonce and no caching, on a success and on a refusal by the application."""
    app = DPoPMiddleware(wsgi_application, single_use())
    headers = dict(ask_wsgi(app, "GET", "/items", [])[1])
    nonces = [headers["dpop-nonce"]]
    for fields, status in (([], 200), ([("X-Scope", "write")], 403), ([], 200)):
        got, fields_back, _ = ask_wsgi(app, "GET", "/items", [AUTHORIZATION, proof(nonce=nonces[-1]), *fields])
        assert got == status
        (nonce,) = [value for name, value in fields_back if name == "dpop-nonce"]
        assert [value for name, value in fields_back if name == "cache-control"] == ["no-store"]
        nonces.append(nonce)
    assert len(set(nonces)) == 4


@pytest.mark.parametrize("path", ["/a%20b", "/caf%C3%A9", "/a;b=c,d:e@f", "/100%25", "/~user", "/%D0%BA"])
def test_a_server_without_the_request_target(app: DPoPMiddleware, path: str) -> None:
    """PATH_INFO is encoded anew: enough for all but an encoded slash, which is refused."""
    fields = [AUTHORIZATION, proof(PUBLIC_URL + path)]
    assert ask_wsgi(app, "GET", path + "?q=1", fields, REQUEST_URI=None)[0] == 200
    slash = [AUTHORIZATION, proof(PUBLIC_URL + "/a%2Fb")]
    assert ask_wsgi(app, "GET", "/a%2Fb", slash, REQUEST_URI=None)[0] == 401


def test_a_mounted_application() -> None:
    """SCRIPT_NAME belongs to the URL and not to the path that routes see."""
    seen = []

    def public(path: str) -> bool:
        seen.append(path)
        return False

    app = DPoPMiddleware(wsgi_application, resource(nonces=False, public=public))
    fields = [AUTHORIZATION, proof(PUBLIC_URL + "/mounted/caf%C3%A9")]
    assert ask_wsgi(app, "GET", "/caf%C3%A9", fields, SCRIPT_NAME="/mounted", REQUEST_URI=None)[0] == 200
    assert seen == ["/caf\u00e9"]


def test_a_token_in_the_query_is_refused_without_the_request_target_too(app: DPoPMiddleware) -> None:
    """QUERY_STRING is all there is then."""
    assert ask_wsgi(app, "GET", f"/items?access_token={TOKEN}", [AUTHORIZATION, proof()], REQUEST_URI=None)[0] == 400


def test_what_the_client_sent_counts_and_not_what_the_application_made_of_it() -> None:
    """Some frameworks take fields out of the environ, and put others in, before a route asks for the access."""
    seen = []

    def rewrites(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        del environ["HTTP_AUTHORIZATION"]
        environ["HTTP_DPOP"] = "x"
        access(environ)
        start_response("200 OK", [])
        return [b""]

    def certificate(request: ResourceRequest) -> None:
        seen.extend(request.headers)

    api = resource(nonces=False, public=lambda _: True, certificate=certificate, token=doubly_bound)
    sent = proof()
    assert (
        ask_wsgi(DPoPMiddleware(rewrites, api), "GET", "/items", [AUTHORIZATION, sent, ("X-Two-Words", "w")])[0] == 401
    )
    fields = {str(name).lower(): value for name, value in seen}
    assert fields | {"authorization": AUTHORIZATION[1], "dpop": sent[1], "x-two-words": "w"} == fields


def doubly_bound(token: str) -> dict[str, Any]:
    """What a look-up says of a token that is bound to a certificate, too."""
    return {"cnf": {"jkt": token.partition(".")[2], "x5t#S256": "A" * 43}}


def test_a_public_path_asks_for_nothing() -> None:
    """Until its route does."""
    app = DPoPMiddleware(wsgi_application, resource(nonces=False, public=lambda path: path != "/private"))
    assert ask_wsgi(app, "GET", "/public", [])[::2] == (200, b"hello")
    assert ask_wsgi(app, "GET", "/items", [])[0] == 401
    assert ask_wsgi(app, "GET", "/items", [AUTHORIZATION, proof()])[0] == 200


def test_an_application_that_had_announced_another_response(app: DPoPMiddleware) -> None:
    """As long as nothing was sent, a refusal takes its place."""

    def announces(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        access(environ).require_scope("write")
        return [b""]

    app = DPoPMiddleware(announces, resource(nonces=False))
    assert ask_wsgi(app, "GET", "/items", [AUTHORIZATION, proof()])[0] == 403


def test_an_error_handler_gets_the_answer() -> None:
    """For frameworks that catch what their handlers raise."""

    def catches(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            access(environ).require_scope("write")
        except InvalidProof as error:
            status, headers = refusal(environ, error)
            start_response(f"{status} Forbidden", [*headers, ("Content-Type", "text/plain")])
        return [b""]

    app = DPoPMiddleware(catches, single_use())
    nonce = dict(ask_wsgi(app, "GET", "/items", [])[1])["dpop-nonce"]
    status, headers, _ = ask_wsgi(app, "GET", "/items", [AUTHORIZATION, proof(nonce=nonce)])
    assert status == 403
    for name in ("www-authenticate", "dpop-nonce", "cache-control", "access-control-expose-headers"):
        assert len([value for field, value in headers if field == name]) == 1, name


def test_without_the_middleware_nobody_is_let_in() -> None:
    """A forgotten middleware is an error, not an unprotected application."""
    with pytest.raises(UsageError, match="not wrapped"):
        ask_wsgi(wsgi_application, "GET", "/items", [AUTHORIZATION, proof()])


def test_what_must_be_awaited_is_refused_at_the_start() -> None:
    """A look-up or a cache that WSGI cannot wait for."""

    async def look_up_elsewhere(_token: str) -> None: ...

    class Awaited:
        async def __call__(self, token: str) -> None: ...

        async def add(self, key: str, expires_at: float) -> bool:
            return True

    for settings in ({"token": look_up_elsewhere}, {"token": Awaited()}):
        with pytest.raises(UsageError, match="await"):
            DPoPMiddleware(wsgi_application, resource(**settings))
    verifier = ProofVerifier(replay=Awaited())
    with pytest.raises(UsageError, match="await"):
        DPoPMiddleware(wsgi_application, ProtectedResource(verifier, url=PUBLIC_URL, token=look_up))


def test_a_lookup_that_hides_that_it_is_async(app: DPoPMiddleware) -> None:
    """A coroutine is not taken for claims."""

    async def later(token: str) -> Any:
        return look_up(token)

    def hidden(token: str) -> Any:
        return later(token)

    app = DPoPMiddleware(wsgi_application, resource(nonces=False, token=hidden))
    with pytest.raises(UsageError, match="async"):
        ask_wsgi(app, "GET", "/items", [AUTHORIZATION, proof()])


@pytest.mark.parametrize("kind", ["a generator", "an iterator"])
def test_the_status_is_known_when_the_application_has_returned(kind: str) -> None:
    """A server such as granian reads it then, and would make a 200 of every other status and drop the header fields."""

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        def begin() -> None:
            access(environ).require_scope("read")
            start_response("404 Not Found", [("X-Own", "1")])

        def body() -> Iterable[bytes]:
            if kind == "a generator":
                begin()
            yield b"a"
            yield b"b"

        if kind == "an iterator":
            begin()
        return body()

    for fields, status in (([AUTHORIZATION, proof()], "404 Not Found"), ([], "401 Unauthorized")):
        started: list[str] = []
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/items"} | {
            f"HTTP_{name.upper()}": value for name, value in fields
        }
        app = DPoPMiddleware(application, resource(nonces=False, public=lambda _: True))
        body: Any = app(environ, lambda line, *_, to=started: to.append(line))  # type: ignore[arg-type,misc]
        assert started == [status]
        assert list(body) == ([b"a", b"b"] if fields else [b""])


def test_a_body_that_fails_at_once_is_closed() -> None:
    """The server gets nothing to close, so the middleware closes what the application has given it."""
    closed = []

    class Body:
        def __iter__(self) -> Any:
            return self

        def __next__(self) -> bytes:
            raise KeyError("of the application")

        def close(self) -> None:
            closed.append(self)

    app = DPoPMiddleware(lambda *_: Body(), resource(nonces=False, public=lambda _: True))
    with pytest.raises(KeyError, match="of the application"):
        app({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, lambda *_: None)  # type: ignore[arg-type,return-value]
    assert len(closed) == 1
