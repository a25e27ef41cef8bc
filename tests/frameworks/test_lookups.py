# SPDX-License-Identifier: Apache-2.0
"""What becomes of a look-up that cannot tell, of one access for each request, and of what browsers may read."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import trio
from support.in_process import Response, ask_asgi, ask_wsgi
from support.resource import PUBLIC_URL, asgi_application, look_up, resource, wsgi_application

import dpop
from dpop import asgi, wsgi
from dpop.errors import InvalidProof, LookupUnavailableError, ReplayCacheError
from dpop.server import Access, MemoryReplayCache, NonceIssuer, ProofVerifier, ProtectedResource

KEY = dpop.generate_key()
TOKEN = f"bound.{KEY.thumbprint}"


def good() -> list[tuple[str, str]]:
    """The fields of a request that is admitted."""
    proof = dpop.create_proof(KEY, "GET", PUBLIC_URL + "/items", access_token=TOKEN)
    return [("Authorization", f"DPoP {TOKEN}"), ("DPoP", proof)]


def by_asgi(decides: ProtectedResource, fields: list[tuple[str, str]]) -> Response:
    """One request behind ASGI."""
    return ask_asgi(asgi.DPoPMiddleware(asgi_application, decides), "GET", "/items", fields)


def by_wsgi(decides: ProtectedResource, fields: list[tuple[str, str]]) -> Response:
    """One request behind WSGI."""
    return ask_wsgi(wsgi.DPoPMiddleware(wsgi_application, decides), "GET", "/items", fields)


BOTH = pytest.mark.parametrize("ask", [by_asgi, by_wsgi])
Ask = Callable[[ProtectedResource, list[tuple[str, str]]], Response]


class Outage(Exception):  # noqa: N818 - as HTTP libraries have it
    """What an HTTP library raises."""


@BOTH
@pytest.mark.parametrize("found", [False, True, "active", [], 0, (("active", True),)])
def test_a_lookup_of_the_wrong_type(found: object, ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    """It is a fault of the server, which is named in its log, and no verdict on the token."""
    status, headers, _ = ask(resource(nonces=False, token=lambda _token: found), good())
    assert (status, dict(headers)["retry-after"]) == (503, "1")
    assert f"not {type(found).__name__}" in caplog.records[-1].getMessage()


@BOTH
def test_a_lookup_that_cannot_tell(ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    """An introspection endpoint or a key set that is down: the token may be good, and the client keeps it."""

    def unavailable(_token: str) -> None:
        raise LookupUnavailableError("the introspection endpoint does not respond", retry_after=12.2)

    def down(_token: str) -> None:
        raise Outage("secret-token-in-the-message")

    status, headers, _ = ask(resource(nonces=False, token=unavailable), good())
    assert (status, dict(headers)["retry-after"], dict(headers)["cache-control"]) == (503, "13", "no-store")
    status, headers, _ = ask(resource(nonces=False, token=down), good())
    assert (status, dict(headers)["retry-after"]) == (503, "1")
    assert "the token look-up raised Outage" in caplog.text
    assert "secret-token" not in caplog.text
    assert {record.levelno for record in caplog.records} == {logging.ERROR}
    # It is asked for requests with a good proof only.
    assert ask(resource(nonces=False, token=down), good()[:1])[0] == 401


def test_an_awaited_lookup_that_cannot_tell() -> None:
    """The same where it is awaited; a cancellation is none of that."""

    async def down(_token: str) -> None:
        await asyncio.sleep(0)
        raise Outage

    async def cancelled(_token: str) -> None:
        raise asyncio.CancelledError

    assert by_asgi(resource(nonces=False, token=down), good())[0] == 503
    with pytest.raises(asyncio.CancelledError):
        by_asgi(resource(nonces=False, token=cancelled), good())


@BOTH
def test_a_full_cache_tells_when_there_is_room(ask: Ask) -> None:
    """The client is not asked to come every second for two minutes."""
    now = 1_700_000_000.0
    cache = MemoryReplayCache(max_entries=1, clock=lambda: now)
    cache.add("another.1", now + 90)
    decides = resource(nonces=False, replay=cache)
    status, headers, _ = ask(decides, good())
    assert (status, dict(headers)["retry-after"]) == (503, "90")
    with pytest.raises(ReplayCacheError) as caught:
        cache.add("a.1", now + 90)
    assert caught.value.retry_after == 90


# --- one access for each request


def test_two_tasks_of_one_request_share_its_access() -> None:
    """The proof is good for one request, and not for one question about it."""
    looked_up = []

    async def slow(token: str) -> Any:
        looked_up.append(token)
        await asyncio.sleep(0.01)
        return look_up(token)

    async def twice(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        first = asyncio.ensure_future(asgi.access(scope))
        await asyncio.sleep(0)
        first.cancel()  # as by a timeout of its own
        one, other = await asyncio.gather(asgi.access(scope), asgi.access(scope))
        assert one is other or one == other
        assert (await asgi.access(scope)).proof is one.proof
        await asgi_application(scope, receive, send)

    app = asgi.DPoPMiddleware(twice, resource(nonces=False, token=slow, public=lambda _path: True))
    assert ask_asgi(app, "GET", "/items", good())[0] == 200
    assert len(looked_up) == 1


@pytest.mark.parametrize("fields", [True, False], ids=["admitted", "refused"])
def test_two_tasks_on_trio_share_one_admission(*, fields: bool) -> None:
    """The same on trio's event loop, where the first task is cancelled while the look-up is under way."""
    looked_up, got = [], []

    async def slow(token: str) -> Any:
        looked_up.append(token)
        await trio.sleep(0.05)
        return look_up(token)

    async def ask_for(scope: asgi.Scope) -> None:
        try:
            got.append((await asgi.access(scope)).proof)
        except InvalidProof as error:
            got.append(error)

    async def twice(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        with trio.move_on_after(0.01), contextlib.suppress(InvalidProof):
            await asgi.access(scope)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_for, scope)
            nursery.start_soon(ask_for, scope)
        await asgi.access(scope)
        await asgi_application(scope, receive, send)

    app = asgi.DPoPMiddleware(twice, resource(nonces=False, token=slow, public=lambda _path: True))
    status, _, _ = ask_asgi(app, "GET", "/items", good() if fields else [], on_trio=True)
    assert status == (200 if fields else 401)
    assert len(got) == 2
    assert got[0] is got[1]
    assert len(looked_up) == (1 if fields else 0)


def test_two_tasks_of_one_request_share_its_refusal() -> None:
    """Both hear the same."""

    async def twice(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        refused = await asyncio.gather(asgi.access(scope), asgi.access(scope), return_exceptions=True)
        assert [type(error) for error in refused] == [InvalidProof, InvalidProof]
        await asgi.access(scope)

    app = asgi.DPoPMiddleware(twice, resource(nonces=False, public=lambda _path: True))
    assert ask_asgi(app, "GET", "/items", [])[0] == 401


def test_two_threads_of_one_request_share_its_access() -> None:
    """The same behind WSGI."""

    def twice(environ: Any, start_response: Any) -> Any:
        start = threading.Barrier(4)

        def ask(_: int) -> Access:
            start.wait()
            return wsgi.access(environ)

        with ThreadPoolExecutor(4) as pool:
            assert len({id(access.proof) for access in pool.map(ask, range(4))}) == 1
        return wsgi_application(environ, start_response)

    app = wsgi.DPoPMiddleware(twice, resource(nonces=False, public=lambda _path: True))
    assert ask_wsgi(app, "GET", "/items", good())[0] == 200


# --- routes for those with a token and those without


@BOTH
def test_an_optional_access(ask: Ask) -> None:
    """Nobody has to catch anything: None without a token, and a token that is refused is refused."""

    async def asgi_view(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        who = await asgi.access(scope, optional=True)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"nobody" if who is None else who.claims["sub"].encode()})

    def wsgi_view(environ: Any, start_response: Any) -> Any:
        who = wsgi.access(environ, optional=True)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"nobody" if who is None else who.claims["sub"].encode()]

    decides = resource(nonces=False, public=lambda _path: True)
    apps: dict[Ask, Callable[[list[tuple[str, str]]], Response]] = {
        by_asgi: lambda fields: ask_asgi(asgi.DPoPMiddleware(asgi_view, decides), "GET", "/items", fields),
        by_wsgi: lambda fields: ask_wsgi(wsgi.DPoPMiddleware(wsgi_view, decides), "GET", "/items", fields),
    }
    assert apps[ask]([])[::2] == (200, b"nobody")
    assert apps[ask](good())[::2] == (200, b"alice")
    assert apps[ask](good()[:1])[0] == 401
    used = good()
    assert [apps[ask](used)[0] for _ in range(2)] == [200, 401]


# --- what a browser may read


@pytest.mark.parametrize("own", ["X-Total", "*"])
def test_a_refusal_of_an_error_handler_is_readable_behind_a_cors_middleware(own: str) -> None:
    """A CORS middleware inside of ours, such as Flask-CORS, replaces the names that the refusal exposes."""
    verifier = ProofVerifier(replay=MemoryReplayCache(), nonces=NonceIssuer())
    decides = ProtectedResource(verifier, url=PUBLIC_URL, token=look_up, public=lambda _path: True)

    def replaced(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return [(name, own if name.lower() == "access-control-expose-headers" else value) for name, value in headers]

    async def asgi_view(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        try:
            await asgi.access(scope)
        except InvalidProof as error:
            response = asgi.refusal(scope, error)
        headers = [(name.lower().encode(), value.encode()) for name, value in replaced(response.headers)]
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    def wsgi_view(environ: Any, start_response: Any) -> Any:
        try:
            wsgi.access(environ)
        except InvalidProof as error:
            response = wsgi.refusal(environ, error)
        start_response("401 Unauthorized", [*replaced(response.headers), ("Content-Type", "text/plain")])
        return [b""]

    def fields() -> list[tuple[str, str]]:
        proof = dpop.create_proof(KEY, "GET", PUBLIC_URL + "/items", access_token=TOKEN)
        return [("Authorization", f"DPoP {TOKEN}"), ("DPoP", proof)]

    for status, headers, _ in (
        ask_asgi(asgi.DPoPMiddleware(asgi_view, decides), "GET", "/items", fields()),
        ask_wsgi(wsgi.DPoPMiddleware(wsgi_view, decides), "GET", "/items", fields()),
    ):
        assert status == 401
        assert [name for name, _ in headers].count("dpop-nonce") == 1
        (exposed,) = [value for name, value in headers if name == "access-control-expose-headers"]
        assert {"WWW-Authenticate", "DPoP-Nonce", own} == set(exposed.split(", "))


@pytest.mark.parametrize("own", [[], ["X-Total"], ["*"], ["X-Total", "X-Page"]])
def test_the_next_nonce_is_readable_whatever_the_application_exposes(own: list[str]) -> None:
    """Its own list of exposed fields is kept, and these are added (Fetch Standard, CORS protocol)."""
    nonces = NonceIssuer(single_use=MemoryReplayCache())
    verifier = ProofVerifier(replay=MemoryReplayCache(), nonces=nonces)
    decides = ProtectedResource(verifier, url=PUBLIC_URL, token=look_up)
    exposing = [("Access-Control-Expose-Headers", value) for value in own]

    async def asgi_view(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        headers = [(name.lower().encode(), value.encode()) for name, value in exposing]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    def wsgi_view(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain"), *exposing])
        return [b""]

    def fields() -> list[tuple[str, str]]:
        proof = dpop.create_proof(KEY, "GET", PUBLIC_URL + "/items", access_token=TOKEN, nonce=nonces.issue())
        return [("Authorization", f"DPoP {TOKEN}"), ("DPoP", proof)]

    for status, headers, _ in (
        ask_asgi(asgi.DPoPMiddleware(asgi_view, decides), "GET", "/items", fields()),
        ask_wsgi(wsgi.DPoPMiddleware(wsgi_view, decides), "GET", "/items", fields()),
    ):
        assert status == 200
        (exposed,) = [value for name, value in headers if name == "access-control-expose-headers"]
        assert {"WWW-Authenticate", "DPoP-Nonce", *own} == set(exposed.split(", "))
