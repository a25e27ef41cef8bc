# SPDX-License-Identifier: Apache-2.0
"""Scopes, resources and other parameters of grants: which refreshes repeat them, and what is remembered."""

from __future__ import annotations

import json
import urllib.parse
from typing import Any

import pytest
from support.endpoints import KEY, TOKENS, Endpoint, answered, endpoint_of
from support.recorder import Recorder, Response

from dpop.errors import TokenRequestError, UsageError
from dpop.testing import DPoPTestServer
from dpop.tokens import MemoryTokenStore, TokenSet


def test_parameters_of_the_endpoints_own_are_not_overwritten(name: str, server: DPoPTestServer) -> None:
    """client_id and grant_type cannot be smuggled in; other parameters may be repeated."""
    with endpoint_of(name, server, client_auth="client_secret_post") as endpoint:
        with pytest.raises(UsageError):
            endpoint.grant("client_credentials", client_id="other")
        with pytest.raises(UsageError):
            endpoint.grant("client_credentials", scope=7)
        with pytest.raises(TokenRequestError):
            endpoint.grant("urn:example:unheard-of", resource=["https://a.example/", "https://b.example/"])
    last = urllib.parse.parse_qs(server.requests[-1].body.decode())
    assert last["resource"] == ["https://a.example/", "https://b.example/"]


def forms_of(recorder: Recorder) -> list[dict[str, list[str]]]:
    """What was asked for, without what every request has."""
    forms = [urllib.parse.parse_qs(request.body.decode()) for request in recorder.requests]
    return [{name: form[name] for name in ("grant_type", "scope", "resource") if name in form} for form in forms]


def test_a_source_refreshes_with_its_parameters(name: str) -> None:
    """Scope and resources given to source() go with each refresh (RFC 8707), and nothing else does."""
    resources = ["https://a.example/", "https://b.example/"]
    recorder, endpoint = answered(name, TOKENS)
    store = MemoryTokenStore()
    store.save(TokenSet(access_token="old", refresh_token="r", expires_at=1))
    with recorder, endpoint:
        source = endpoint.it.source(store, scope="read", resource=resources)
        assert endpoint.wait(source.atoken()) == "a"
        endpoint.refresh("r")
    refresh = {"grant_type": ["refresh_token"]}
    assert forms_of(recorder) == [{**refresh, "scope": ["read"], "resource": resources}, refresh]


def test_the_scope_asked_for_is_granted_if_the_response_does_not_say(name: str) -> None:
    """RFC 6749 §3.3: a server names the scope that it granted if that is another one."""
    recorder, endpoint = answered(name, TOKENS)
    with recorder, endpoint:
        assert endpoint.grant("client_credentials", scope="read write").scope == "read write"
        assert endpoint.grant("client_credentials").scope is None


def test_resources_are_remembered(name: str) -> None:
    """Those of a code or another grant are asked for again, unless others are given."""
    recorder, endpoint = answered(name, TOKENS)
    a, b = "https://a.example/", "https://b.example/"
    store = MemoryTokenStore()
    with recorder, endpoint:
        tokens = endpoint.redeem_code("code", resource=a)
        assert tokens.resource == (a,)
        again = TokenSet.from_dict(json.loads(tokens.to_json()))
        assert again == tokens
        assert endpoint.refresh(again).resource == (a,)
        assert endpoint.refresh(again, resource=[a, b]).resource == (a, b)
        store.save(again.replace(issued_at=0, expires_at=1))
        endpoint.wait(endpoint.it.source(store).atoken())
        stored = store.load()
        assert stored is not None
        assert stored.resource == (a,)
    assert [form.get("resource") for form in forms_of(recorder)] == [[a], [a], [a, b], [a]]


def test_a_grant_without_user_gets_them_too(name: str) -> None:
    """With grant= the parameters go with the grant, and with refreshes only scope and resource."""
    tokens = Response(200, [], b'{"access_token":"a","token_type":"DPoP","expires_in":0}')
    recorder, endpoint = answered(name, tokens)
    with recorder, endpoint:
        source = endpoint.it.source(
            MemoryTokenStore(), grant="client_credentials", scope="read", resource="https://a.example/", audience="x"
        )
        endpoint.wait(source.atoken())
    (form,) = forms_of(recorder)
    assert form == {"grant_type": ["client_credentials"], "scope": ["read"], "resource": ["https://a.example/"]}
    assert b"audience=x" in recorder.requests[0].body


@pytest.mark.parametrize(
    ("store", "options", "said"),
    [
        (MemoryTokenStore, {}, r"MemoryTokenStore\(\.\.\.\)"),
        ({}, {}, "another TokenStore"),
        (MemoryTokenStore(), {"audience": "x"}, "audience"),
        (MemoryTokenStore(), {"resource": 7}, "resource"),
    ],
)
def test_sources_that_cannot_work(name: str, store: Any, options: dict[str, Any], said: str) -> None:
    """A class in place of a store, and parameters of no grant, are refused when the source is made."""
    with Endpoint(name, KEY, "https://as.example/token", client_id="c") as endpoint:
        with pytest.raises(UsageError, match=said):
            endpoint.it.source(store, **options)
