# SPDX-License-Identifier: Apache-2.0
"""Token exchange (RFC 8693) and assertions of another issuer (RFC 7523 §2.1), by name."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import parse_qsl

import pytest
from support.endpoints import ENDPOINTS, Endpoint
from support.recorder import Recorder, Response

import dpop
from dpop.errors import ReauthorizationError, TokenRefusedError, UsageError
from dpop.testing import DPoPTestServer
from dpop.tokens import ServerMetadata, TokenSet

KEY = dpop.generate_key()
TYPE = "urn:ietf:params:oauth:token-type:"


@pytest.fixture(params=sorted(ENDPOINTS))
def name(request: pytest.FixtureRequest) -> str:
    """Each integration in turn."""
    return str(request.param)


@pytest.fixture
def server() -> Iterator[DPoPTestServer]:
    """A server that knows both grants."""
    with DPoPTestServer() as running:
        yield running


def endpoint_of(name: str, server: DPoPTestServer) -> Endpoint:
    """The confidential client."""
    metadata = ServerMetadata(token_endpoint=server.token_endpoint, issuer=server.issuer)
    return Endpoint(name, KEY, metadata, client_id=server.client_id, client_secret=server.client_secret)


def test_a_token_is_exchanged(name: str, server: DPoPTestServer) -> None:
    """For one that is bound to this key, also if it was bound to another."""
    foreign = server.issue_access_token(jkt=dpop.generate_key().thumbprint)
    with endpoint_of(name, server) as endpoint:
        tokens = endpoint.exchange_token(foreign, scope="read")
        assert (tokens.jkt, tokens.is_bound) == (KEY.thumbprint, True)
        assert tokens.extra["issued_token_type"] == TYPE + "access_token"
        assert endpoint.exchange_token(tokens).access_token != tokens.access_token
        with pytest.raises(TokenRefusedError):
            endpoint.exchange_token("unknown")


def test_an_assertion_is_redeemed(name: str, server: DPoPTestServer) -> None:
    """For tokens that are bound to this key."""
    with endpoint_of(name, server) as endpoint:
        tokens = endpoint.redeem_assertion(server.issue_assertion(), scope="read")
        assert (tokens.jkt, tokens.scope) == (KEY.thumbprint, "read")
        with pytest.raises(ReauthorizationError):
            endpoint.redeem_assertion("a.b.c")


def test_what_is_sent() -> None:
    """Types by their short names, or by a URI; of a token set the token of that type."""
    held = TokenSet(access_token="a", refresh_token="r", id_token="i")
    body = b'{"access_token":"x","token_type":"DPoP"}'
    with Recorder(lambda _: Response(200, [], body)) as recorder:
        server = ServerMetadata(token_endpoint=recorder.url("/token"))
        with Endpoint("requests", KEY, server, client_id="c") as endpoint:
            endpoint.exchange_token(held, subject_type="id_token", actor=held, wanted_type="jwt", audience=["a", "b"])
            endpoint.exchange_token(held, subject_type=TYPE + "refresh_token")
            endpoint.exchange_token("t", subject_type="urn:example:odd")
        forms = [parse_qsl(request.body.decode()) for request in recorder.requests]
    grant = ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange")
    assert forms[0] == [
        grant,
        ("subject_token", "i"),
        ("subject_token_type", TYPE + "id_token"),
        ("actor_token", "a"),
        ("actor_token_type", TYPE + "access_token"),
        ("requested_token_type", TYPE + "jwt"),
        ("audience", "a"),
        ("audience", "b"),
        ("client_id", "c"),
    ]
    assert forms[1][1:3] == [("subject_token", "r"), ("subject_token_type", TYPE + "refresh_token")]
    assert forms[2][1:3] == [("subject_token", "t"), ("subject_token_type", "urn:example:odd")]


def test_what_cannot_be_exchanged() -> None:
    """Nothing is sent."""
    with Endpoint("requests", KEY, "https://as.example/token", client_id="c") as endpoint:
        for token in ("", 5, "t\n", TokenSet(access_token="a")):
            with pytest.raises(UsageError):
                endpoint.exchange_token(token, subject_type="refresh_token")
        for assertion in ("", 5, "t\n"):
            with pytest.raises(UsageError):
                endpoint.redeem_assertion(assertion)
