# SPDX-License-Identifier: Apache-2.0
"""Server metadata: where it is looked for, what of it is believed."""

from __future__ import annotations

import json

import pytest
from support.endpoints import ENDPOINTS, Endpoint
from support.recorder import Received, Recorder, Response

import dpop
from dpop._well_known import metadata_urls
from dpop.errors import (
    InsecureOriginError,
    InvalidTargetError,
    InvalidTokenResponseError,
    TokenEndpointUnavailableError,
    UsageError,
)
from dpop.tokens import ServerMetadata
from dpop.tokens._metadata import read_metadata

ISSUER = "https://as.example/tenant"
GOOD = {"issuer": ISSUER, "token_endpoint": "https://as.example/token"}


@pytest.mark.parametrize(
    ("issuer", "urls"),
    [
        (
            "https://as.example",
            (
                "https://as.example/.well-known/oauth-authorization-server",
                "https://as.example/.well-known/openid-configuration",
            ),
        ),
        (
            "https://as.example/a/b/",
            (
                "https://as.example/.well-known/oauth-authorization-server/a/b",
                "https://as.example/a/b/.well-known/openid-configuration",
            ),
        ),
    ],
)
def test_where_it_is(issuer: str, urls: tuple[str, ...]) -> None:
    """RFC 8414 puts the path behind, OpenID Connect before."""
    assert metadata_urls(issuer) == urls


def test_what_it_says() -> None:
    """Endpoints, methods, algorithms; what is not known is left out."""
    body = {
        **GOOD,
        "revocation_endpoint": "https://as.example/revoke",
        "dpop_signing_alg_values_supported": ["ES256"],
        "token_endpoint_auth_methods_supported": ["none"],
        "authorization_response_iss_parameter_supported": True,
        "require_pushed_authorization_requests": "yes",
        "claims_supported": [{"deep": {"er": []}}],
    }
    metadata = read_metadata(ISSUER, json.dumps(body).encode())
    assert (metadata.dpop_algs, metadata.client_auth_methods) == (("ES256",), ("none",))
    assert (metadata.iss_in_responses, metadata.requires_par) == (True, False)
    assert metadata.endpoint("revocation") == "https://as.example/revoke"
    with pytest.raises(UsageError, match="introspection_endpoint"):
        metadata.endpoint("introspection")


@pytest.mark.parametrize("true", [True, "true", " TRUE", 1, "1"], ids=ascii)
def test_a_promise_in_a_string_is_one(true: object) -> None:
    """A server that says in a string that it names itself in callbacks is held to it: else its absence would pass."""
    flags = ("authorization_response_iss_parameter_supported", "require_pushed_authorization_requests")
    metadata = read_metadata(ISSUER, json.dumps({**GOOD, **dict.fromkeys(flags, true)}).encode())
    assert metadata.iss_in_responses
    assert metadata.requires_par


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"[]",
        json.dumps({**GOOD, "issuer": "https://evil.example"}).encode(),
        json.dumps({"token_endpoint": "https://as.example/token"}).encode(),
        json.dumps({"issuer": ISSUER}).encode(),
        json.dumps({**GOOD, "issuer": 5}).encode(),
        json.dumps({**GOOD, "issuer": ""}).encode(),
        json.dumps({**GOOD, "token_endpoint": 7}).encode(),
        json.dumps({**GOOD, "token_endpoint": "as.example/token"}).encode(),
    ],
)
def test_what_is_not_believed(body: bytes) -> None:
    """Another issuer's, or not metadata at all."""
    with pytest.raises(InvalidTokenResponseError):
        read_metadata(ISSUER, body)


@pytest.mark.parametrize(
    "odd",
    [
        5,
        False,
        ["https://as.example/r"],
        "/r",
        "none",
        "n/a",
        "https://",
        "https://as.example/\x1b[2J",
        "https://a/b\nc",
    ],
)
def test_an_endpoint_that_is_odd_does_not_cost_the_others(odd: object, caplog: pytest.LogCaptureFixture) -> None:
    """A client that logs in and refreshes does not need it; who needs it is told that it is not there."""
    aliases = {"token_endpoint": odd, "revocation_endpoint": "https://mtls.as.example/r"}
    aliases |= {"issuer": ISSUER, "jwks_uri": f"{ISSUER}/jwks"}  # which have no alias
    odd_ones: dict[str, object] = {"introspection_endpoint": odd, "mtls_endpoint_aliases": aliases}
    metadata = read_metadata(ISSUER, json.dumps({**GOOD, **odd_ones}).encode())
    assert metadata.endpoint("token") == GOOD["token_endpoint"]
    assert metadata.mtls_endpoint_aliases == {"revocation_endpoint": "https://mtls.as.example/r"}
    assert "no URL in introspection_endpoint and token_endpoint" in caplog.text
    with pytest.raises(UsageError, match="introspection_endpoint"):
        metadata.endpoint("introspection")


def test_white_space_around_an_endpoint_is_not_part_of_it() -> None:
    """A template of a configuration adds it."""
    metadata = read_metadata(ISSUER, json.dumps({**GOOD, "token_endpoint": " https://as.example/token\n"}).encode())
    assert metadata.token_endpoint == "https://as.example/token"


@pytest.mark.parametrize(
    ("said", "read"),
    [("ES256", ("ES256",)), ("ES256 PS256", ("ES256", "PS256")), (["ES256", None], ("ES256",)), (True, ()), ({}, ())],
)
def test_a_list_in_another_form(said: object, read: tuple[str, ...]) -> None:
    """One string, or a member that is none, says as much as there is to read."""
    metadata = read_metadata(ISSUER, json.dumps({**GOOD, "dpop_signing_alg_values_supported": said}).encode())
    assert metadata.dpop_algs == read


def test_endpoints_by_hand_must_be_urls() -> None:
    """A path alone goes nowhere."""
    with pytest.raises(InvalidTargetError):
        ServerMetadata(token_endpoint="/token")


@pytest.mark.parametrize("name", sorted(ENDPOINTS))
@pytest.mark.parametrize(
    ("status", "error"),
    [(404, InvalidTokenResponseError), (429, TokenEndpointUnavailableError), (503, TokenEndpointUnavailableError)],
)
def test_discovery_that_finds_nothing(name: str, status: int, error: type[Exception]) -> None:
    """Both places are asked, without a proof; then it is an error that says what to do."""

    def response(_request: Received) -> Response:
        return Response(status)

    with Recorder(response) as recorder:
        with pytest.raises(error):
            Endpoint(name, dpop.generate_key(), recorder.origin, discover=True, client_id="c")
        assert [request.target for request in recorder.requests] == [
            "/.well-known/oauth-authorization-server",
            "/.well-known/openid-configuration",
        ]
        assert not any(request.all("DPoP") for request in recorder.requests)


@pytest.mark.parametrize("name", sorted(ENDPOINTS))
def test_discovered_endpoints_must_be_safe(name: str) -> None:
    """Metadata cannot send tokens over plain http."""

    def response(request: Received) -> Response:
        issuer = f"http://{request.one('Host')}"
        return Response(200, [], json.dumps({"issuer": issuer, "token_endpoint": "http://as.example/token"}).encode())

    with Recorder(response) as recorder, pytest.raises(InsecureOriginError):
        Endpoint(name, dpop.generate_key(), recorder.origin, discover=True, client_id="c")


@pytest.mark.parametrize("name", sorted(ENDPOINTS))
def test_a_key_the_server_does_not_take(name: str) -> None:
    """The metadata's algorithms are compared before anything is sent."""
    server = ServerMetadata(token_endpoint="https://as.example/token", dpop_algs=("ES384",))
    with pytest.raises(dpop.DPoPError, match="ES384"):
        ENDPOINTS[name](dpop.generate_key(), server, client_id="c")


WELL_KNOWN = "/.well-known/oauth-authorization-server"


@pytest.mark.parametrize("name", sorted(ENDPOINTS))
@pytest.mark.parametrize(
    "first",
    [
        Response(200, [], b"<!DOCTYPE html>"),
        Response(200, [], b"{}"),
        Response(200, [], b""),
        Response(200, [], b'{"issuer":"https://other.example","token_endpoint":"https://other.example/token"}'),
        Response(302, [("Location", "https://login.example/")]),
        Response(500),
    ],
    ids=["HTML", "an empty object", "nothing", "another issuer", "a redirect", "out of order"],
)
def test_the_second_address_is_asked(name: str, first: Response) -> None:
    """Whatever is at the first one, if it is not the metadata."""

    def response(request: Received) -> Response:
        if request.target == WELL_KNOWN:
            return first
        issuer = f"http://{request.one('Host')}"
        body = {
            "issuer": issuer,
            "token_endpoint": f"{issuer}/token",
            "revocation_endpoint": None,
            "introspection_endpoint": "",
            "dpop_signing_alg_values_supported": None,
        }
        return Response(200, [], b"\xef\xbb\xbf" + json.dumps(body).encode())

    with Recorder(response) as recorder:
        with Endpoint(name, dpop.generate_key(), recorder.origin, discover=True, client_id="c") as endpoint:
            assert endpoint.server.token_endpoint == recorder.url("/token")
            assert endpoint.server.revocation_endpoint is endpoint.server.introspection_endpoint is None


def test_discovery_says_what_it_found() -> None:
    """A redirect with its target, and the issuer that the server calls itself."""

    def response(request: Received) -> Response:
        if request.target == WELL_KNOWN:
            return Response(301, [("Location", "https://login.example/")])
        issuer = f"http://{request.one('Host')}/"
        return Response(200, [], json.dumps({"issuer": issuer, "token_endpoint": f"{issuer}token"}).encode())

    with Recorder(response) as recorder:
        with pytest.raises(InvalidTokenResponseError) as caught:
            Endpoint("requests", dpop.generate_key(), recorder.origin, discover=True, client_id="c")
        assert f"{WELL_KNOWN} is redirected to https://login.example/" in str(caught.value)
        assert f"'{recorder.origin}/', with a slash less or more" in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/token", "http://as.example/token", "HTTP://127.0.0.1:9/token", "Http://localhost/token"]
)
def test_an_https_issuer_has_no_http_endpoints(url: str) -> None:
    """Not even on this machine: another user's program may listen there."""
    with pytest.raises(InsecureOriginError, match="without TLS"):
        read_metadata(ISSUER, json.dumps({**GOOD, "revocation_endpoint": url}).encode())


@pytest.mark.parametrize(
    ("body", "why"), [(b"\n <html>", "not metadata but an HTML page"), (b"hello", "not metadata but (?!an HTML)")]
)
def test_what_is_not_metadata_is_named(body: bytes, why: str) -> None:
    """A login page in the way is the most frequent of these."""
    with pytest.raises(InvalidTokenResponseError, match=why):
        read_metadata(ISSUER, body)
