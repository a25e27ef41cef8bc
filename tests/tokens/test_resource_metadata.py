# SPDX-License-Identifier: Apache-2.0
"""The metadata of a protected resource: where it is, and what of it is believed (RFC 9728)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from frameworks.resource import resource

from dpop.errors import InvalidTokenResponseError
from dpop.tokens import ResourceMetadata, read_resource_metadata, resource_metadata_url

API = "https://api.example"


@pytest.mark.parametrize(
    ("of", "url"),
    [
        (API, f"{API}/.well-known/oauth-protected-resource"),
        (f"{API}/v1", f"{API}/.well-known/oauth-protected-resource/v1"),
        (f"{API}/v1/", f"{API}/.well-known/oauth-protected-resource/v1"),
    ],
)
def test_where_it_is(of: str, url: str) -> None:
    """Between the host and the path of the resource (RFC 9728 §3.1)."""
    assert resource_metadata_url(of) == url


def test_what_this_package_publishes() -> None:
    """A client reads what a protected resource serves."""
    serving = resource(
        authorization_servers=["https://as.example"], published={"scopes_supported": ["read"]}, bearer=False
    )
    read = read_resource_metadata(API, json.dumps(serving.metadata()).encode())
    assert read == ResourceMetadata(
        API,
        authorization_servers=("https://as.example",),
        scopes=("read",),
        dpop_algs=("ES256", "Ed25519", "EdDSA", "PS256", "RS256"),
        dpop_required=True,
    )


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"resource": "https://other.example"}, "another resource"),
        ({"authorization_servers": ["https://as.example"]}, "another resource"),
        ({"resource": API, "authorization_servers": "https://as.example"}, "no list"),
        ({"resource": API, "authorization_servers": ["http://as.example"]}, "without TLS"),
        ({"resource": API, "authorization_servers": ["as"]}, "no URL"),
        ([], "not metadata"),
    ],
)
def test_what_is_not_believed(body: Any, problem: str) -> None:
    """Another resource's document, or one that sends tokens over plain http (RFC 9728 §3.3)."""
    with pytest.raises(InvalidTokenResponseError, match=problem):
        read_resource_metadata(API, json.dumps(body).encode())


def test_members_that_are_missing() -> None:
    """Most are optional."""
    assert read_resource_metadata(API, b'{"resource":"https://api.example"}') == ResourceMetadata(API)
