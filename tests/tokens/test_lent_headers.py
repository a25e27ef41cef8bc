# SPDX-License-Identifier: Apache-2.0
"""Requests of a token endpoint carry the header fields of the user's client, except those about another message."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator
from typing import Any

import aiohttp
import httpx
import httpx2
import pytest
import requests
from support.endpoints import ENDPOINTS, Endpoint
from support.recorder import Received, Recorder, Response

import dpop
from dpop.errors import UsageError
from dpop.tokens import MemoryTokenStore, ServerMetadata, TokenSet

KEY = dpop.generate_key()
OF_OTHER_MESSAGES = {
    "Host": "other.example",
    "Content-Length": "5",
    "Transfer-Encoding": "chunked",
    "Content-Encoding": "gzip",
    "Content-MD5": "none",
    "Content-Type": "application/json",
    "Expect": "100-continue",
    "Trailer": "DPoP",
    "TE": "trailers",
    "Connection": "DPoP, Upgrade",
    "Upgrade": "h2c",
    "Range": "bytes=0-1",
    "If-None-Match": '"x"',
    "DPoP": "stale",
    "Authorization": "Bearer other",
}
LENT = {"User-Agent": "program/1", "X-Tenant": "t1", "Cookie": "own=1"}


@pytest.fixture(params=sorted(ENDPOINTS))
def name(request: pytest.FixtureRequest) -> str:
    """Each integration in turn."""
    return str(request.param)


def client_with(name: str, headers: dict[str, str]) -> Any:
    """A function that makes a client of the integration's library with header fields of its own."""
    kinds: dict[str, Any] = {
        "httpx": httpx.Client,
        "httpx2": httpx2.Client,
        "httpx-async": httpx.AsyncClient,
        "httpx2-async": httpx2.AsyncClient,
        "aiohttp": aiohttp.ClientSession,
    }
    return functools.partial(kinds[name], headers=headers)


@contextlib.contextmanager
def endpoint_with(name: str, at: Any, headers: dict[str, str], **options: Any) -> Iterator[Endpoint]:
    """An endpoint whose client has header fields of its own."""
    options |= {"client_id": "c", "timeout": 60}
    if name != "requests":
        with Endpoint(name, KEY, at, http=client_with(name, headers), **options) as endpoint:
            yield endpoint
        return
    with requests.Session() as session:  # a function that makes one is not taken
        session.headers.update(headers)
        with Endpoint(name, KEY, at, http=session, **options) as endpoint:
            yield endpoint


def responding(request: Received) -> Response:
    """Tokens, the metadata of a server, or an empty response."""
    if request.target == "/token":
        return Response(200, [], b'{"access_token":"a","token_type":"DPoP","refresh_token":"r2"}')
    if request.target.startswith("/.well-known"):
        origin = f"http://{request.one('Host')}"
        return Response(200, [], b'{"issuer":"%b","token_endpoint":"%b/token"}' % ((origin.encode(),) * 2))
    return Response(200)


def test_header_fields_about_another_message_are_not_sent(name: str) -> None:
    """The body has its own length, the Host is that of the URL, and no Connection names the proof; others are sent."""
    headers = {**OF_OTHER_MESSAGES, **LENT}
    with Recorder(responding) as server:
        at = ServerMetadata(token_endpoint=server.url("/token"), revocation_endpoint=server.url("/revoke"))
        with endpoint_with(name, at, headers) as endpoint:
            assert endpoint.refresh("r").refresh_token == "r2"
            endpoint.revoke("r2")
        signed, unsigned = server.requests
    assert signed.body == b"grant_type=refresh_token&refresh_token=r&client_id=c"
    assert signed.claims["htu"] == server.url("/token")
    assert b"token=r2" in unsigned.body
    assert unsigned.all("DPoP") == []
    for request in (signed, unsigned):
        assert request.one("Host") == f"127.0.0.1:{server.port}"
        assert request.one("Content-Length") == str(len(request.body))
        assert request.one("Content-Type") == "application/x-www-form-urlencoded"
        assert {field: request.one(field) for field in LENT} == LENT
        left = OF_OTHER_MESSAGES.keys() - {"Host", "Content-Length", "Content-Type", "DPoP"}
        assert {field: request.all(field) for field in left} == {field: [] for field in left}


def test_header_fields_about_another_message_are_not_sent_to_fetch_metadata(name: str) -> None:
    """A request without a body announces none: the server would wait for it."""
    with Recorder(responding) as server:
        with endpoint_with(name, server.origin, OF_OTHER_MESSAGES, discover=True) as endpoint:
            assert endpoint.server.token_endpoint == server.url("/token")
    (request,) = server.requests
    assert request.one("Host") == f"127.0.0.1:{server.port}"
    sent = {field for field in OF_OTHER_MESSAGES if request.all(field)}
    assert sent == {"Host"}


def test_the_client_may_ask_for_new_connections(name: str) -> None:
    """Connection: close is a wish of the user's that holds for requests for tokens, too."""
    with Recorder(responding) as server:
        with endpoint_with(name, server.url("/token"), {"Connection": "close"}) as endpoint:
            endpoint.refresh("r")
    assert [request.one("Connection") for request in server.requests] == ["close"]


def test_a_header_field_that_cannot_be_sent_costs_no_grant(name: str) -> None:
    """The error names the field before anything is sent, and the refresh token is still good."""
    headers = {"X-Own": "a\r\nDPoP: b"}
    store = MemoryTokenStore()
    store.save(TokenSet(access_token="old", refresh_token="r", jkt=KEY.thumbprint, issued_at=0, expires_at=1))
    with Recorder(responding) as server:
        with endpoint_with(name, server.url("/token"), headers) as endpoint:
            with pytest.raises(UsageError, match=r"nothing was sent.*x.own"):
                token_of(endpoint, store)
        assert server.requests == []
        with endpoint_with(name, server.url("/token"), {}) as endpoint:
            assert token_of(endpoint, store) == "a"
    assert [request.body for request in server.requests] == [b"grant_type=refresh_token&refresh_token=r&client_id=c"]


def token_of(endpoint: Endpoint, store: MemoryTokenStore) -> str:
    """The access token of a new source."""
    token = endpoint.source(store)()
    text: str = endpoint.wait(token) if inspect.isawaitable(token) else token
    return text
