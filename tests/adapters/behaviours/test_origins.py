# SPDX-License-Identifier: Apache-2.0
"""Servers, roles and redirects: each has its own nonces and proofs, and a stranger gets neither proof nor token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import httpx2
import pytest
import requests
from support.clients import BODY, CLIENTS, HTTPX, TOKEN, assert_fresh
from support.recorder import Handler, Received, Recorder, Response, challenge, demanding, script

import dpop
from dpop.client._prover import Prover
from dpop.errors import InsecureOriginError

# -- servers and roles keep their own nonces ---------------------------------------------------


def test_three_servers_three_nonces(client: Callable[..., Any]) -> None:
    """Two APIs and an AS: each nonce goes back to where it came from, and to no other."""

    def api(nonce: str) -> Handler:
        return lambda request: Response(200, [("DPoP-Nonce", nonce)])

    with Recorder(api("one")) as first, Recorder(api("two")) as second, Recorder(api("as")) as third:
        prover = Prover(dpop.generate_key())
        resources = client(prover, origins=[first.origin, second.origin], access_token=TOKEN)
        tokens = client(prover, origins=third.origin)
        for _ in range(2):
            for server in (first, second):
                resources.send("GET", server.url("/r"))
            tokens.send("POST", third.url("/token"), body=tokens.form_body({"a": "b"}))
        for server, nonce in ((first, "one"), (second, "two"), (third, "as")):
            assert [request.nonce for request in server.requests] == [None, nonce]


def test_one_origin_two_roles(client: Callable[..., Any]) -> None:
    """An AS and an API on one origin do not share nonces."""

    def handler(request: Received) -> Response:
        return Response(200, [("DPoP-Nonce", "as" if request.target == "/token" else "rs")])

    with Recorder(handler) as server:
        one = client(origins=server.origin, access_token=TOKEN, as_endpoints=[server.url("/token")])
        for _ in range(2):
            one.send("GET", server.url("/r"))
            one.send("POST", server.url("/token"), body=one.form_body({"a": "b"}))
        by_path = {path: [r.nonce for r in server.requests if r.target == path] for path in ("/r", "/token")}
        assert by_path == {"/r": [None, "rs"], "/token": [None, "as"]}


# -- redirects ---------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_hostile_redirect_gets_nothing(client: Callable[..., Any], status: int) -> None:
    """Another origin gets no token and no proof, its nonce is not kept, and the user sees its 401."""
    with Recorder(lambda request: challenge("evil")) as evil:
        home = Recorder(lambda request: Response(status, [("Location", evil.url("/steal"))]))
        with home:
            one = client(origins=home.origin, access_token=TOKEN)
            reply = one.send("GET", home.url("/r"))
            again = one.send("GET", home.url("/r"))
        assert (reply.status, again.status) == (401, 401)
        assert len(evil.requests) == 2
        for request in evil.requests:
            assert request.all("DPoP") == []
            assert request.all("Authorization") == []
        assert [request.nonce for request in home.requests] == [None, None]


def test_a_host_that_looks_alike_gets_nothing(client: Callable[..., Any]) -> None:
    """The same port under another host name is another origin."""
    with Recorder(lambda request: Response(200)) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        one.send("GET", server.other_origin + "/r")
        assert server.requests[0].all("DPoP") == []
        assert server.requests[0].all("Authorization") == []


def test_what_goes_unsigned_is_told_once(client: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    """localhost is not 127.0.0.1: one line at INFO says which origin got no proof, and which are listed."""
    caplog.set_level("INFO", "dpop.client")
    with Recorder(lambda request: Response(401)) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        for _ in range(3):
            assert one.send("GET", server.other_origin + "/r?secret=1").status == 401
    (record,) = [record for record in caplog.records if record.name == "dpop.client"]
    assert record.levelname == "INFO"
    assert record.getMessage() == (
        f"requests to {server.other_origin} are sent unsigned: it is not among origins= ({server.origin})"
    )


def test_origins_may_be_added_later(client: Callable[..., Any]) -> None:
    """What discovery finds out joins by add_origins(), and only so; http elsewhere is refused as at the start."""
    with Recorder(script(Response(200))) as first, Recorder(script(Response(200))) as second:
        one = client(origins=first.origin, later_origins=[second.origin], access_token=TOKEN)
        one.send("GET", second.url("/before"))
        one.transport.add_origins(second.origin)
        one.send("GET", second.url("/after"))
        one.send("GET", first.url("/still"))
        with pytest.raises(InsecureOriginError):
            one.transport.add_origins("http://api.example")
        one.transport.add_origins(["http://api.example"], insecure_origins=["http://api.example"])
        before, after = second.requests
        assert before.all("DPoP") + before.all("Authorization") == []
        assert_fresh([after, *first.requests])


def test_a_callers_bound_token_does_not_reach_a_foreign_origin(client: Callable[..., Any]) -> None:
    """Authorization: DPoP and a stray DPoP header are withheld from origins that are not ours."""
    with Recorder(lambda request: Response(200)) as server:
        one = client(origins="https://api.example", access_token=TOKEN)
        one.send("GET", server.url("/r"), headers={"Authorization": "DPoP mine", "DPoP": "stray", "X-Kept": "yes"})
        (request,) = server.requests
        assert request.all("DPoP") + request.all("Authorization") == []
        assert request.one("X-Kept") == "yes"


@pytest.mark.parametrize("name", HTTPX, indirect=True)
@pytest.mark.parametrize("inner_first", [False, True])
def test_a_transport_in_a_transport(name: str, client: Callable[..., Any], inner_first: bool) -> None:
    """Two APIs with a transport each: the inner one leaves the proof that the outer one made, and its token."""
    with Recorder(demanding()) as server:
        api = {"origins": server.origin, "access_token": TOKEN}
        other = {"origins": "https://other.example", "access_token": "other"}
        kind = "AsyncDPoPTransport" if "async" in name else "DPoPTransport"
        integration: Any = CLIENTS[name].integration
        below = getattr(integration, kind)(dpop.generate_key(), **(api if inner_first else other))
        one = client(**(other if inner_first else api), transport=below)
        assert one.send("POST", server.url("/r"), body=one.bytes_body(b"x")).status == 200
        assert_fresh(server.requests)
        assert {request.one("Authorization") for request in server.requests} == {f"DPoP {TOKEN}"}


@pytest.mark.parametrize("name", ["requests", "httpx", "httpx2"])
def test_a_users_token_does_not_follow_a_redirect_to_another_adapter(name: str) -> None:
    """DPoPAuth is for the origins of one adapter: the other API gets the token and the proof of its own adapter."""
    with Recorder(lambda _: Response(200)) as second:
        there = second.url("/there")
        with Recorder(lambda request: Response(307, [("Location", there)])) as first:
            integration: Any = getattr(dpop, name)
            kinds = {server: {"origins": server, "access_token": TOKEN} for server in (first.origin, second.origin)}
            user = integration.DPoPAuth(dpop.generate_key(), "of-a-user")
            if name == "requests":
                session = requests.Session()
                for server, options in kinds.items():
                    session.mount(server, integration.DPoPAdapter(dpop.generate_key(), **options))
                session.get(first.url("/r"), auth=user, timeout=60)
                session.close()
            else:
                made = {
                    server: integration.DPoPTransport(dpop.generate_key(), **options)
                    for server, options in kinds.items()
                }
                library = {"httpx": httpx, "httpx2": httpx2}[name]
                with library.Client(mounts=made, follow_redirects=True) as client:
                    client.get(first.url("/r"), auth=user)
        assert first.requests[0].one("Authorization") == "DPoP of-a-user"
        assert second.requests[0].one("Authorization") == f"DPoP {TOKEN}"
        assert_fresh(second.requests)


@pytest.mark.parametrize(
    ("status", "method", "then"),
    [(307, "POST", "POST"), (308, "PUT", "PUT"), (302, "POST", "GET"), (303, "POST", "GET")],
)
def test_each_hop_has_its_own_proof(client: Callable[..., Any], status: int, method: str, then: str) -> None:
    """Redirects within the origin: new identifier, the hop's own method and target."""

    def handler(request: Received) -> Response:
        return Response(200) if request.target.startswith("/there") else Response(status, [("Location", "/there?q=1")])

    with Recorder(handler) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        reply = one.send(method, server.url("/here"), body=one.bytes_body(BODY))
        assert reply.status == 200
        assert [request.method for request in server.requests] == [method, then]
        assert_fresh(server.requests)
        assert [request.one("Authorization") for request in server.requests] == [f"DPoP {TOKEN}"] * 2
        assert server.requests[1].body == (BODY if then == method else b"")


def test_a_redirect_and_a_challenge_together(client: Callable[..., Any]) -> None:
    """Each hop may be challenged once."""
    nonces = {"/here": "h", "/there": "t"}

    def handler(request: Received) -> Response:
        if request.nonce != nonces[request.target]:
            return challenge(nonces[request.target])
        return Response(200) if request.target == "/there" else Response(307, [("Location", "/there")])

    with Recorder(handler) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        assert one.send("POST", server.url("/here"), body=one.bytes_body(BODY)).status == 200
        assert [r.target for r in server.requests] == ["/here", "/here", "/there", "/there"]
        assert_fresh(server.requests)
