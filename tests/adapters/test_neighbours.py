# SPDX-License-Identifier: Apache-2.0
"""Beside other libraries: those that record or replace connections, forks, the other httpx, copies of responses."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
import requests
import responses
import urllib3.connectionpool
from support.endpoints import ENDPOINTS, Endpoint
from support.paths import ROOT
from support.recorder import Recorder, Response, challenge, script
from urllib3.connection import HTTPConnection

import dpop
import dpop.httpx
import dpop.httpx2
import dpop.requests
from dpop.errors import InvalidTargetError, UsageError

KEY = dpop.generate_key()
TOKEN = "acc3ss-t0ken"
LIBRARIES: list[tuple[Any, Any]] = [(httpx, dpop.httpx), (httpx2, dpop.httpx2)]


# -- requests ------------------------------------------------------------------------------------


def session_for(origin: Any, **options: Any) -> requests.Session:
    """A session that signs for some servers."""
    session = requests.Session()
    session.trust_env = False
    session.mount("http://", dpop.requests.DPoPAdapter(KEY, origins=origin, access_token=TOKEN, **options))
    return session


def test_connections_put_in_place_of_urllib3s_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """As vcrpy does it, while an adapter is in use: its connections are used from then on, and signed; then no more."""
    made: list[int] = []

    class Recording(HTTPConnection):
        def connect(self) -> None:
            made.append(self.port)
            super().connect()

    with (
        Recorder(script(Response(200))) as first,
        Recorder(script(Response(200))) as second,
        Recorder(script(Response(200))) as third,
        session_for([first.origin, second.origin, third.origin]) as session,
    ):
        session.get(first.url("/"), timeout=60)
        with monkeypatch.context() as patch:
            patch.setattr(urllib3.connectionpool.HTTPConnectionPool, "ConnectionCls", Recording)
            session.get(second.url("/"), timeout=60)
        session.get(third.url("/"), timeout=60)
        assert made == [second.port]
        requests_ = [*first.requests, *second.requests, *third.requests]
        assert len({request.claims["jti"] for request in requests_}) == 3


def test_an_exchange_that_went_out_unsigned_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """responses replaces what signs: the test gets its response, and a warning that names no token."""
    with responses.RequestsMock() as mock, session_for("http://127.0.0.1:1") as session:
        mock.get("http://127.0.0.1:1/r", json={})
        assert session.get("http://127.0.0.1:1/r", timeout=60).status_code == 200
    (record,) = [record for record in caplog.records if record.name == "dpop.requests"]
    assert record.levelname == "WARNING"
    assert "a response for http://127.0.0.1:1 came without a connection of dpop.requests" in record.getMessage()
    assert TOKEN not in caplog.text


def test_a_response_with_auth_can_be_copied() -> None:
    """Pickled and deep-copied, without key and token; a copied request is not sent as somebody else's."""
    with Recorder(script(Response(200, [], b"hello"))) as server, session_for(server.origin) as session:
        auth = dpop.requests.DPoPAuth(dpop.Prover(KEY), "us3rs-t0ken")
        response = session.get(server.url("/r"), auth=auth, timeout=60)
        pickled = pickle.dumps(response)
        assert b"us3rs-t0ken" not in pickled
        assert b"prover" not in pickled
        for copied in (pickle.loads(pickled), copy.deepcopy(response)):
            assert copied.content == b"hello"
            with pytest.raises(UsageError, match="credentials are not copied"):
                session.send(copied.request, timeout=60)
        assert len(server.requests) == 1


@pytest.fixture(scope="session")
def urllib3_future() -> Path:
    """A folder with urllib3-future in the place of urllib3."""
    folder = Path(sys.prefix) / "urllib3-future"
    assert (folder / "urllib3").is_dir(), "run: scripts/setup test"
    return folder


def test_with_urllib3_future_in_the_place_of_urllib3(urllib3_future: Path) -> None:
    """niquests brings it along: its connections take more arguments and return something."""
    program = f"""
import requests, urllib3, dpop, dpop.requests
assert int(urllib3.__version__.split(".")[2]) >= 900, urllib3.__version__
import sys
origin = sys.argv[1]
key = dpop.generate_key()
with requests.Session() as session:
    session.mount(origin, dpop.requests.DPoPAdapter(key, origins=origin, access_token={TOKEN!r}))
    print(session.post(origin + "/r?x=1", data=b"hello", timeout=60).status_code)
with dpop.requests.TokenEndpoint(key, origin + "/token", client_id="c") as endpoint:
    print(endpoint.grant("client_credentials").access_token)
"""
    tokens = Response(200, [], b'{"access_token":"new","token_type":"DPoP"}')
    with Recorder(script(challenge("n1"), Response(200), tokens)) as server:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(urllib3_future), str(ROOT)])}
        shown = subprocess.run(
            [sys.executable, "-c", program, server.origin],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert shown.stdout.split() == ["200", "new"], shown.stderr
        assert [request.nonce for request in server.requests[:2]] == [None, "n1"]
        assert [request.body for request in server.requests[:2]] == [b"hello"] * 2
        assert {request.claims["htu"] for request in server.requests[:2]} == {server.url("/r")}
        assert server.requests[1].one("Authorization") == f"DPoP {TOKEN}"


# -- httpx ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("library", "integration"), [(httpx, dpop.httpx2), (httpx2, dpop.httpx)])
def test_a_transport_of_the_other_library_says_so(library: Any, integration: Any) -> None:
    """Signed or not, nothing is sent, and the error says which import is meant."""
    with Recorder(script(Response(200))) as server:
        transport = integration.DPoPTransport(KEY, origins=server.origin)
        with library.Client(transport=transport, timeout=60) as client:
            for url in (server.url("/"), server.other_origin):
                with pytest.raises(UsageError, match=rf"import DPoPTransport from dpop\.{library.__name__}$"):
                    client.get(url)
        assert server.requests == []


@pytest.mark.parametrize(("library", "integration"), LIBRARIES, ids=["httpx", "httpx2"])
def test_the_handshake_of_a_websocket(library: Any, integration: Any) -> None:
    """To one of our origins it is signed with the http form of its URL; to another it passes through unsigned."""
    with Recorder(script(challenge("n1"), Response(200))) as server:
        transport = integration.DPoPTransport(KEY, origins=server.origin, access_token=TOKEN)
        with library.Client(transport=transport, timeout=60) as client:
            fields = {"Upgrade": "websocket", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
            assert client.get(server.url("/chat?x=1").replace("http", "ws"), headers=fields).status_code == 200
            assert client.get(server.other_origin.replace("http", "ws"), headers=fields).status_code == 200
        ours, foreign = server.requests[:2], server.requests[2]
        assert [request.claims["htu"] for request in ours] == [server.url("/chat")] * 2
        assert [request.nonce for request in ours] == [None, "n1"]
        assert foreign.all("DPoP") == foreign.all("Authorization") == []


@pytest.mark.parametrize(("library", "integration"), LIBRARIES, ids=["httpx", "httpx2"])
def test_a_response_of_httpx_can_be_copied(library: Any, integration: Any) -> None:
    """Pickled and deep-copied, without key and token."""
    with Recorder(script(Response(200, [], b"hello"))) as server:
        transport = integration.DPoPTransport(KEY, origins=server.origin)
        with library.Client(transport=transport, timeout=60) as client:
            response = client.get(server.url("/r"), auth=integration.DPoPAuth(KEY, "us3rs-t0ken"))
            pickled = pickle.dumps(response)
            assert b"us3rs-t0ken" not in pickled
            for copied in (pickle.loads(pickled), copy.deepcopy(response)):
                assert copied.content == b"hello"


# -- sessions and clients of token endpoints -----------------------------------------------------


def given_client(name: str) -> Any:
    """A session or client with parameters, cookies and headers of its own."""
    library: Any = {"requests": requests, "httpx": httpx, "httpx2": httpx2}[name.partition("-")[0]]
    kind = library.Session if name == "requests" else library.AsyncClient if "async" in name else library.Client
    client = kind()
    client.params = {"api_key": "s3cret"}
    client.headers["X-Own"] = "1"
    client.headers["Authorization"] = "Basic own"
    client.cookies.set("sticky", "7", domain="127.0.0.1", path="/")
    return client


@pytest.mark.parametrize("name", sorted(ENDPOINTS.keys() - {"aiohttp"}))  # it has a test of its own
def test_what_of_a_client_goes_to_the_token_endpoint(name: str) -> None:
    """Its headers and cookies; neither its parameters nor its Authorization. Cookies that come are in its jar."""
    nonce = Response(400, [("DPoP-Nonce", "n1"), ("Set-Cookie", "a=1; Path=/")], b'{"error":"use_dpop_nonce"}')
    tokens = Response(200, [("Set-Cookie", "b=2; Path=/")], b'{"access_token":"new","token_type":"DPoP"}')
    client = given_client(name)
    with Recorder(script(nonce, tokens)) as server:
        with Endpoint(name, KEY, server.url("/token?tenant=1"), client_id="c", http=client) as endpoint:
            endpoint.grant("client_credentials")
            endpoint.grant("client_credentials")
            if hasattr(client, "aclose"):
                endpoint.wait(client.aclose())
            else:
                client.close()
        assert {request.target for request in server.requests} == {"/token?tenant=1"}
        assert {request.one("X-Own") for request in server.requests} == {"1"}
        assert [request.all("Authorization") for request in server.requests] == [[], [], []]
        sent = [sorted(request.one("Cookie").split("; ")) for request in server.requests]
        assert sent == [["sticky=7"], ["a=1", "sticky=7"], ["a=1", "b=2", "sticky=7"]]


def test_other_schemes_are_refused_as_before() -> None:
    """A proof has a target of HTTP."""
    with pytest.raises(InvalidTargetError):
        dpop.requests.DPoPAdapter(KEY, origins="https://api.example").prime("ftp://api.example/")
