# SPDX-License-Identifier: Apache-2.0
"""The face of the package: the integration in its documentation is run as it stands."""

from __future__ import annotations

import contextlib
import textwrap
from http.client import HTTPConnection
from typing import Any

import pytest
from support.recorder import Received, Recorder, Response, challenge

import dpop
import dpop.client
from dpop.client import Policy


@pytest.fixture(scope="module")
def send() -> Any:
    """The function of the example."""
    documentation = dpop.client.__doc__ or ""
    block = documentation.partition("::\n\n")[2].partition("\n\nData flows")[0]
    names: dict[str, Any] = {}
    exec(textwrap.dedent(block), names)
    return names["send"]


class Source:
    """A token source with two tokens."""

    token = "token-1"

    def __call__(self) -> str:
        return self.token

    def refused(self, token: str, /) -> None:
        assert token == self.token
        self.token = "token-2"


def test_the_example_is_an_integration(send: Any) -> None:
    """It signs, answers a challenge, renews a dead token, and leaves other servers alone."""

    def handler(request: Received) -> Response:
        if not request.all("DPoP") or request.one("Authorization") == "DPoP token-2":
            return Response(200, body=b"done")
        return Response(401) if request.nonce == "n1" else challenge("n1", b"no")

    with Recorder(handler) as server:
        policy = Policy(dpop.generate_key(), origins=server.origin, access_token=Source())
        with contextlib.closing(HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
            response = send(policy, connection, "GET", server.url("/things?x=1"))
            assert (response.status, response.read()) == (200, b"done")
            assert send(policy, connection, "GET", server.other_origin + "/").read() == b"done"
        assert [request.nonce for request in server.requests[:3]] == [None, "n1", "n1"]
        assert {request.target for request in server.requests[:3]} == {"/things?x=1"}
        assert {request.claims["htu"] for request in server.requests[:3]} == {server.url("/things")}
        assert server.requests[3].all("DPoP") == []


def test_the_example_reads_the_body_of_a_token_endpoint(send: Any) -> None:
    """use_dpop_nonce in JSON leads to a retry, and the caller can read the body of another refusal."""
    bodies = [b'{"error":"use_dpop_nonce"}', b'{"error":"invalid_grant"}']
    with Recorder(lambda request: Response(400, [("DPoP-Nonce", f"n{len(bodies)}")], bodies.pop(0))) as server:
        policy = Policy(dpop.generate_key(), origins=server.origin)
        with contextlib.closing(HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
            response = send(policy, connection, "POST", server.url("/token"))
            assert response.read() == b'{"error":"invalid_grant"}'
        assert [request.nonce for request in server.requests] == [None, "n2"]
