# SPDX-License-Identifier: Apache-2.0
"""JWT access tokens of the test server, their keys, and its grants for devices, exchange and assertions."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests

import dpop
from dpop.errors import InvalidProof, TokenRefusedError
from dpop.requests import DPoPAdapter, TokenEndpoint
from dpop.server import Introspection, JWTAccessTokens
from dpop.testing import DPoPTestServer

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
SUBJECT = "urn:ietf:params:oauth:token-type:access_token"


def endpoint(server: DPoPTestServer, key: Any, **settings: Any) -> TokenEndpoint:
    """The confidential client of the server, with all that its metadata says."""
    secret = server.client_secret
    return TokenEndpoint.discover(key, server.issuer, client_id=server.client_id, client_secret=secret, **settings)


def looking_up(server: DPoPTestServer, **settings: Any) -> JWTAccessTokens:
    """An API beside the server's own."""
    return JWTAccessTokens(issuer=server.issuer, audience=server.resource, **{"timeout": 60, **settings})


def test_jwt_access_tokens_are_those_of_the_standard() -> None:
    """Another API verifies them with the published keys, and this server's API and introspection know them too."""
    key = dpop.generate_key()
    with DPoPTestServer(tokens="jwt") as server, endpoint(server, key) as asking:
        tokens = asking.grant("client_credentials", scope="read")
        claims = looking_up(server)(tokens.access_token)
        assert claims["cnf"] == {"jkt": key.thumbprint}
        assert (claims["scope"], claims["client_id"]) == ("read", server.client_id)
        told = Introspection(
            server.introspection_endpoint,
            client_id=server.client_id,
            client_secret=server.client_secret,
            audience=server.resource,
        )(tokens.access_token)
        assert told["sub"] == claims["sub"]
        session = requests.Session()
        session.mount(server.origin, DPoPAdapter(key, origins=server.origin, access_token=tokens.access_token))
        with session:
            assert session.get(server.resource).status_code == 200
        assert looking_up(server)(server.issue_access_token(jkt="x" * 43, sub="bob"))["sub"] == "bob"


def test_keys_are_rotated() -> None:
    """A new key signs at once; old ones stay published, or go, and their tokens with them."""
    with DPoPTestServer(tokens="jwt") as server:
        first = server.issue_access_token()
        server.levers.rotate_keys()
        second = server.issue_access_token()
        keys = requests.get(server.jwks_uri).json()["keys"]
        assert [key["kid"] for key in keys] == ["key-2", "key-1"]
        assert all("d" not in key for key in keys)
        tokens = looking_up(server)
        assert tokens(first)
        assert tokens(second)
        requests.post(f"{server.issuer}/levers", data=json.dumps({"rotate_keys": False})).raise_for_status()
        third = server.issue_access_token()
        assert looking_up(server)(third)
        for old in (first, second):
            with pytest.raises(InvalidProof):
                looking_up(server)(old)
        assert requests.post(f"{server.issuer}/levers", data=json.dumps({"rotate_keys": 3})).status_code == 400


def test_token_exchange() -> None:
    """A bearer token becomes one that is bound to the key of the proof, with no more scopes (RFC 8693)."""
    key = dpop.generate_key()
    with DPoPTestServer(tokens="jwt") as server, endpoint(server, key) as asking:
        subject = server.issue_access_token(sub="bob", scope="read write")
        form = {"subject_token": subject, "subject_token_type": SUBJECT, "scope": "read"}
        tokens = asking.grant(EXCHANGE, **form)
        claims = looking_up(server)(tokens.access_token)
        assert (claims["sub"], claims["scope"], claims["cnf"]) == ("bob", "read", {"jkt": key.thumbprint})
        for changes, error in (
            ({"scope": "admin"}, "invalid_scope"),
            ({"subject_token": "unknown"}, "invalid_request"),
            ({"subject_token_type": "urn:x"}, "invalid_request"),
        ):
            with pytest.raises(TokenRefusedError) as caught:
                asking.grant(EXCHANGE, **(form | changes))
            assert caught.value.error == error


def test_assertions() -> None:
    """One that the server made is worth a bound token; any other, an old one or one for another server is not."""
    key = dpop.generate_key()
    with DPoPTestServer() as server, endpoint(server, key) as asking:
        tokens = asking.grant(JWT_BEARER, assertion=server.issue_assertion(sub="carol"))
        session = requests.Session()
        session.mount(server.origin, DPoPAdapter(key, origins=server.origin, access_token=tokens.access_token))
        with session:
            assert session.get(server.resource).json()["sub"] == "carol"
        good = server.issue_assertion()
        for bad in (
            "x",
            "a.b.c",
            good[:-4] + "AAAA",
            server.issue_assertion(lifetime=-1),
            server.issue_assertion(audience="https://other.example"),
        ):
            with pytest.raises(TokenRefusedError) as caught:
                asking.grant(JWT_BEARER, assertion=bad)
            assert caught.value.error == "invalid_grant"


def test_a_device_and_its_user() -> None:
    """It waits until the page was visited, and gets tokens bound to its key."""
    key = dpop.generate_key()
    with DPoPTestServer(device_interval=0) as server, endpoint(server, key) as asking:
        device = asking.start_device(scope="read")
        form = {"device_code": device.device_code}
        grant = "urn:ietf:params:oauth:grant-type:device_code"
        with pytest.raises(TokenRefusedError, match="authorization_pending"):
            asking.grant(grant, **form)
        assert requests.get(f"{server.issuer}/device?user_code=WRONG").status_code == 404
        assert requests.get(str(device.verification_uri_complete)).json() == {"agreed": True}
        tokens = asking.poll_device(device)
        assert tokens.refresh_token is not None
        with pytest.raises(TokenRefusedError, match="used up"):
            asking.grant(grant, **form)
        server.levers.device_interval = 60
        server.levers.device_user = "agrees"
        second = asking.start_device(scope="read")
        assert asking.grant(grant, device_code=second.device_code).access_token
        third = asking.start_device(scope="read")
        server.levers.device_user = "visits"
        for error in ("authorization_pending", "slow_down"):
            with pytest.raises(TokenRefusedError, match=error):
                asking.grant(grant, device_code=third.device_code)
        server.levers.device_user = "refuses"
        with pytest.raises(TokenRefusedError, match="access_denied"):
            asking.grant(grant, device_code=third.device_code)
        code = server._store.device_code(third.device_code)
        assert code is not None
        code.expires_at = 0
        with pytest.raises(TokenRefusedError, match="expired"):
            asking.grant(grant, device_code=third.device_code)


def test_googles_device_endpoint() -> None:
    """Its path, the name of its page, and 428 for a user who has not decided."""
    key = dpop.generate_key()
    with DPoPTestServer(mode="google", device_interval=0) as server:
        assert server.device_authorization_endpoint == f"{server.issuer}/device/code"
        client = {"client_id": server.client_id, "client_secret": server.client_secret}
        codes = requests.post(server.device_authorization_endpoint, data=client).json()
        assert codes["verification_url"] == f"{server.issuer}/device"
        assert "verification_uri" not in codes
        form = client | {
            "grant_type": "urn:ietf:params:oauth:grant-type:device_code",
            "device_code": codes["device_code"],
        }
        session = requests.Session()
        session.mount(server.origin, DPoPAdapter(key, origins=server.origin))
        with session:
            pending = session.post(server.token_endpoint, data=form)
            assert (pending.status_code, pending.json()["error"]) == (428, "authorization_pending")
            requests.get(f"{codes['verification_url']}?user_code={codes['user_code']}").raise_for_status()
            tokens = session.post(server.token_endpoint, data=form).json()
            assert tokens["token_type"] == "Bearer"
            assert tokens["refresh_token"]
            server.levers.device_user = "refuses"
            codes = requests.post(server.device_authorization_endpoint, data=client).json()
            denied = session.post(server.token_endpoint, data=form | {"device_code": codes["device_code"]})
            assert (denied.status_code, denied.json()["error"]) == (403, "access_denied")


@pytest.mark.dpop_server(tokens="jwt")
def test_the_fixture_issues_jwts_too(dpop_server: DPoPTestServer) -> None:
    """By its marker."""
    assert looking_up(dpop_server)(dpop_server.issue_access_token())["iss"] == dpop_server.issuer
