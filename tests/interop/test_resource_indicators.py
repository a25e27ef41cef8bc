# SPDX-License-Identifier: Apache-2.0
"""Tokens for one resource among several (RFC 8707): bound to the same key, and good nowhere else."""

from __future__ import annotations

import pytest
from interop.application import Application, json_of
from interop.peers import OidcProvider
from joserfc.jwk import ECKey
from support.clients import CLIENTS


@pytest.mark.parametrize("name", sorted(CLIENTS))
def test_one_grant_for_userinfo_and_an_api(name: str, oidc_provider: OidcProvider, assertion_key: ECKey) -> None:
    """The code gives a token for userinfo, the refresh an opaque one for the API, which userinfo refuses."""
    api = oidc_provider["api"]
    with Application(name, "post", oidc_provider, assertion_key) as one:
        tokens = one.redeem(scope="openid offline_access things", resource=api)
        reply = one.client(access_token=tokens["access_token"]).send("GET", oidc_provider["userinfo_endpoint"])
        assert (reply.status, json_of(reply)) == (200, {"sub": "alice"})

        form = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"], "resource": api}
        token = json_of(one.post("token", form))["access_token"]
        about = json_of(one.post("introspection", {"token": token}))
        assert (about["aud"], about["scope"]) == (api, "things")
        assert about["cnf"] == {"jkt": one.prover.thumbprint}
        reply = one.client(access_token=token).send("GET", oidc_provider["userinfo_endpoint"])
        assert (reply.status, json_of(reply)["error"]) == (403, "insufficient_scope")


def test_an_unknown_resource_is_refused(oidc_provider: OidcProvider, assertion_key: ECKey) -> None:
    """The server gives tokens for its own resources alone."""
    with Application("requests", "post", oidc_provider, assertion_key) as one:
        reply = one.post("token", {"grant_type": "client_credentials", "resource": "https://other.example/"})
        assert (reply.status, json_of(reply)["error"]) == (400, "invalid_target")
