# SPDX-License-Identifier: Apache-2.0
"""The modes of the test server: refusals and times, as the sources of each profile have them."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest
from support.testing_client import KEY, OTHER_KEY, Response, call, post, send

import dpop
from dpop.profiles import NAMES, Profile
from dpop.testing import DPoPTestServer
from dpop.tokens import PrivateKeyJWT

NOW = 1_800_000_000


def server_of(mode: Any, **settings: Any) -> DPoPTestServer:
    """A server whose clock stands still."""
    return DPoPTestServer(mode=mode, clock=lambda: NOW, **settings)


def refresh(server: DPoPTestServer, token: str, **options: Any) -> Response:
    """A refresh by the public client, at that moment."""
    form = {"grant_type": "refresh_token", "refresh_token": token}
    return post(server, server.token_endpoint, form, public=True, **{"iat": NOW, **options})


@pytest.mark.parametrize(
    ("mode", "past", "future"),
    [
        ("rfc9449", 60, 30),
        ("okta", 300, 0),
        ("keycloak", 25, 15),
        ("duende", 300, 300),
        ("spring", 30, 30),
        ("atproto", 190, 180),
        ("mcp", 300, 300),
    ],
)
def test_the_times_that_a_server_accepts(mode: str, past: int, future: int) -> None:
    """``iat`` up to the limits, and not a second more."""
    with server_of(mode, nonces="none") as server:
        for iat in (NOW - past, NOW + future):
            token = server.issue_refresh_token(jkt=KEY.thumbprint, client_id=server.public_client_id)
            assert refresh(server, token, iat=iat).status == 200, iat - NOW
        for iat in (NOW - past - 1, NOW + future + 1):
            token = server.issue_refresh_token(jkt=KEY.thumbprint, client_id=server.public_client_id)
            assert refresh(server, token, iat=iat).status == 400, iat - NOW


@pytest.mark.parametrize(
    ("mode", "missing", "bad", "other_key"),
    [
        ("rfc9449", "invalid_grant", "invalid_dpop_proof", "invalid_grant"),
        ("okta", "invalid_grant", "invalid_dpop_proof", "invalid_dpop_proof"),
        ("keycloak", "invalid_request", "invalid_request", "invalid_request"),
        ("duende", "invalid_request", "invalid_dpop_proof", "invalid_dpop_proof"),
        ("spring", "invalid_grant", "invalid_dpop_proof", "invalid_dpop_proof"),
    ],
)
def test_the_words_of_a_refusal(mode: str, missing: str, bad: str, other_key: str) -> None:
    """A refresh of a public client without a proof, with one that is too old, with one by another key."""
    with server_of(mode, nonces="none") as server:
        token = server.issue_refresh_token(jkt=KEY.thumbprint, client_id=server.public_client_id)
        refused = [
            refresh(server, token, key=None),
            refresh(server, token, iat=NOW - 1000),
            refresh(server, token, key=OTHER_KEY),
        ]
        assert [response.status for response in refused] == [400] * 3
        assert [response.json["error"] for response in refused] == [missing, bad, other_key]
        assert [refusal.error for refusal in server.refusals] == [missing, bad, other_key]


@pytest.mark.parametrize(
    ("mode", "status", "other_key", "bearer"),
    [
        ("rfc9449", 401, "invalid_token", (401, "invalid_token")),
        ("okta", 400, "invalid_dpop_proof", (400, "invalid_request")),
    ],
)
def test_the_refusals_of_an_api(mode: str, status: int, other_key: str, bearer: tuple[int, str]) -> None:
    """Okta's APIs answer 400, where RFC 9449 has 401."""
    with server_of(mode, nonces="none") as server:
        token = server.issue_access_token(jkt=KEY.thumbprint)
        old = call(server, token, iat=NOW - 1000)
        assert (old.status, 'error="invalid_dpop_proof"' in old.challenge) == (status, True)
        other = call(server, token, key=OTHER_KEY, iat=NOW)
        assert (other.status, f'error="{other_key}"' in other.challenge) == (status, True)
        plain = send("GET", server.resource, [("Authorization", f"Bearer {token}")])
        assert (plain.status, f'error="{bearer[1]}"' in plain.challenge) == (bearer[0], True)


def test_an_api_may_be_stricter_than_its_authorization_server() -> None:
    """HelseID's sample API takes a proof for six seconds."""
    with server_of("helseid") as server:
        token = server.issue_access_token(jkt=KEY.thumbprint)
        assert [call(server, token, iat=NOW - age).status for age in (6, 7)] == [200, 401]


def test_keycloak_reads_the_scheme_in_one_spelling() -> None:
    """``dpop`` is no scheme there, although RFC 9110 says that case does not matter."""
    with server_of("keycloak") as server:
        token = server.issue_access_token(jkt=KEY.thumbprint)
        for scheme, status in (("DPoP", 200), ("dpop", 401)):
            proof = dpop.create_proof(KEY, "GET", server.resource, access_token=token, iat=NOW)
            headers = [("Authorization", f"{scheme} {token}"), ("DPoP", proof)]
            assert send("GET", server.resource, headers).status == status


def test_metadata_never_name_the_mode() -> None:
    """A client has to find out by the behaviour; several differ in nothing else."""
    documents = {}
    for mode in NAMES:
        with server_of(mode) as server:
            text = send("GET", f"{server.issuer}/.well-known/oauth-authorization-server").body
            documents[mode] = text.replace(server.issuer.encode(), b"")
            assert mode.encode() not in text.lower()
            assert Profile.load(mode).name.lower().encode() not in text.lower()
    assert documents["rfc9449"] == documents["keycloak"] == documents["mcp"]


def test_a_profile_is_a_mode() -> None:
    """One's own, with what differs from a server by the book."""
    profile = Profile.load("keycloak")
    own = profile._replace(name="ours")
    with server_of(own) as server:
        assert (server.mode, server.profile.server.max_age, server.levers.as_nonces) == ("ours", 25, "none")


def test_a_client_with_a_key() -> None:
    """Its assertion is accepted once, and only with the audience and typ that the server wants."""
    key = dpop.generate_key()
    with server_of("fapi2", client_key=key.public_jwk) as server:
        url, form = server.token_endpoint, {"grant_type": "client_credentials"}

        def ask(**options: Any) -> tuple[int, str | None]:
            auth = PrivateKeyJWT(server.client_id, options.pop("key", key), **options)
            parameters = auth.parameters(options.get("audience", server.issuer), NOW)
            return told({**form, **parameters})

        def told(fields: dict[str, str]) -> tuple[int, str | None]:
            proof = dpop.create_proof(KEY, "POST", url, iat=NOW)
            headers = [("Content-Type", "application/x-www-form-urlencoded"), ("DPoP", proof)]
            response = send("POST", url, headers, urlencode(fields).encode())
            return response.status, response.json.get("error")

        assert ask() == (200, None)
        assert ask(audience=url) == (401, "invalid_client")
        assert ask(key=OTHER_KEY) == (401, "invalid_client")
        assert ask(typ="at+jwt") == (401, "invalid_client")
        assert ask(lifetime=7200) == (401, "invalid_client")
        assert ask(lifetime=0) == (401, "invalid_client")
        once = {**form, **PrivateKeyJWT(server.client_id, key).parameters(server.issuer, NOW)}
        assert [told(once)[0] for _ in range(2)] == [200, 401]
        assert told({**once, "client_assertion_type": "x"})[0] == 401
        assert told({**once, "client_id": "another"})[0] == 401
        assert "private_key_jwt" in send("GET", f"{server.issuer}/.well-known/openid-configuration").body.decode()
    with server_of("rfc9449") as server:
        assertion = PrivateKeyJWT(server.client_id, key).parameters(server.issuer, NOW)
        response = post(server, server.token_endpoint, {**form, **assertion}, iat=NOW)
        assert (response.status, response.json["error"]) == (401, "invalid_client")
