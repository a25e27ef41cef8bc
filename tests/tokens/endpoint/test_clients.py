# SPDX-License-Identifier: Apache-2.0
"""The HTTP client of a token endpoint: what a client that is given lends, forks, and event loops."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import httpx2
import pytest
import requests
from support.endpoints import ENDPOINTS, KEY, TOKENS, Endpoint, answered, endpoint_of
from support.forking import in_child
from support.recorder import Received, Recorder, Response, script

import dpop
from dpop.testing import DPoPTestServer
from dpop.tokens import ServerMetadata


def test_the_users_client_lends_its_settings_and_not_its_credentials(server: DPoPTestServer) -> None:
    """Headers and cookies of a given client are sent; its auth and Authorization header are not."""
    session = requests.Session()
    session.headers.update({"Authorization": "Bearer other", "X-Own": "1"})
    session.auth = ("someone", "else")
    client = httpx.Client(headers={"Authorization": "Bearer other", "X-Own": "1"}, auth=("someone", "else"), timeout=60)
    with session, client:
        for name, http in (("requests", session), ("httpx", client)):
            with endpoint_of(name, server, http=http, client_auth="client_secret_post") as endpoint:
                endpoint.grant("client_credentials")
            assert not client.is_closed
    for entry in server.requests:
        fields = {field.lower(): value for field, value in entry.headers}
        assert "authorization" not in fields
        assert fields["x-own"] == "1"


def test_a_client_that_signs_already_signs_once(server: DPoPTestServer) -> None:
    """A given client with a DPoP transport lends what is below it."""
    with httpx.Client(
        transport=dpop.httpx.DPoPTransport(dpop.generate_key(), origins=server.origin), timeout=60
    ) as http:
        with endpoint_of("httpx", server, http=http) as endpoint:
            assert endpoint.grant("client_credentials").jkt == KEY.thumbprint
    assert [entry.status for entry in server.requests] == [400, 200]


@pytest.mark.parametrize("name", ["requests", "httpx", "httpx2"], indirect=True)
def test_a_forked_child_has_connections_of_its_own(name: str, server: DPoPTestServer) -> None:
    """Parent and child go on with the same endpoint, and no byte of one is on a connection of the other."""
    with endpoint_of(name, server) as endpoint:
        endpoint.grant("client_credentials")
        parents = {entry.connection for entry in server.requests}
        said = in_child(lambda: str(endpoint.grant("client_credentials").token_type).encode())
        assert said == b"DPoP"
        endpoint.grant("client_credentials")
        connections = [entry.connection for entry in server.requests if entry.status == 200]
    assert len(connections) == 3
    assert connections[0] in parents
    assert connections[1] not in parents
    assert connections[2] in parents


@pytest.mark.parametrize("name", ["httpx-async", "httpx2-async"], indirect=True)
def test_several_event_loops(name: str, server: DPoPTestServer) -> None:
    """One endpoint serves tasks of one loop after the other, and of two at once."""
    endpoint = ENDPOINTS[name](
        KEY, server.token_endpoint, client_id=server.client_id, client_secret=server.client_secret
    )

    async def ask() -> str:
        tokens = await asyncio.gather(*(endpoint.grant("client_credentials") for _ in range(5)))
        await endpoint.aclose()
        return tokens[0].token_type

    assert [asyncio.run(ask()) for _ in range(3)] == ["DPoP"] * 3
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: asyncio.run(ask()), range(8))) == ["DPoP"] * 8


LIBRARIES: dict[str, Any] = {"requests": requests, "httpx": httpx, "httpx2": httpx2}


def client_of(name: str, **settings: Any) -> Any:
    """A session or client of the endpoint's library, with these settings."""
    library = LIBRARIES[name.removesuffix("-async")]
    if name != "requests":
        return (library.AsyncClient if name.endswith("-async") else library.Client)(**settings)
    session = requests.Session()
    for setting, value in settings.items():
        getattr(session, setting).update(value)
    return session


def close(http: Any, endpoint: Endpoint) -> None:
    """Close a client on the loop that it was used on."""
    if hasattr(http, "aclose"):
        endpoint.wait(http.aclose())
    else:
        http.close()


def cookies_of(request: Received) -> list[str]:
    """The cookies of a request, in order of their names."""
    return sorted(pair for value in request.all("Cookie") for pair in value.split("; "))


@pytest.mark.parametrize(
    ("name", "lent"),
    [(name, lent) for name in sorted(ENDPOINTS) for lent in (False, True) if not lent or name != "aiohttp"],
    indirect=["name"],
)
def test_a_cookie_of_a_challenge_goes_with_the_retry(name: str, *, lent: bool) -> None:
    """A load balancer's cookie leads the retry to the server that knows the nonce, and stays in the jar."""
    challenge = Response(400, [("DPoP-Nonce", "n1"), ("Set-Cookie", "node=7; Path=/")], b'{"error":"use_dpop_nonce"}')
    own = ["old=1"] if lent else []
    http = client_of(name, cookies={"old": "1"}) if lent else None
    with Recorder(script(challenge, TOKENS)) as recorder:
        with Endpoint(name, KEY, recorder.url("/token"), client_id="c", http=http) as endpoint:
            endpoint.refresh("r")
            endpoint.refresh("r")
            if http is not None:
                assert dict(http.cookies) == {"old": "1", "node": "7"}
                close(http, endpoint)
        assert [cookies_of(request) for request in recorder.requests] == [own, *[["node=7", *own]] * 2]


@pytest.mark.parametrize("path", ["/token", "/revoke"])
def test_a_cookie_of_a_response_is_kept(name: str, path: str) -> None:
    """The next request of the endpoint has it, whatever either is for."""
    response = Response(200, [("Set-Cookie", "node=7; Path=/")], TOKENS.body)
    recorder, endpoint = answered(name, response)
    with recorder, endpoint:
        if path == "/token":
            endpoint.refresh("r")
        else:
            endpoint.revoke("r")
        endpoint.refresh("r")
        endpoint.revoke("r")
    assert [cookies_of(request) for request in recorder.requests] == [[], ["node=7"], ["node=7"]]


@pytest.mark.parametrize("name", sorted(ENDPOINTS.keys() - {"aiohttp"}), indirect=True)  # whose sessions have none
def test_parameters_of_a_client_stay_with_it(name: str) -> None:
    """``params`` that a client adds to its API's URLs, such as a key, do not go to the token endpoint."""
    settings = {"params": {"api_key": "s3cret"}, "headers": {"X-Office": "Berne"}}
    recorder = Recorder(script(TOKENS))
    server = ServerMetadata(token_endpoint=recorder.url("/token?a=1"), revocation_endpoint=recorder.url("/revoke"))
    http = client_of(name, **settings)
    with recorder, Endpoint(name, KEY, server, client_id="c", http=http) as endpoint:
        endpoint.refresh("r")
        endpoint.revoke("r")
        close(http, endpoint)
    assert [request.target for request in recorder.requests] == ["/token?a=1", "/revoke"]
    assert [request.one("X-Office") for request in recorder.requests] == ["Berne"] * 2
    assert recorder.requests[0].claims["htu"] == recorder.url("/token")
