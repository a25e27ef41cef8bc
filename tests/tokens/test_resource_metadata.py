# SPDX-License-Identifier: Apache-2.0
"""The metadata of a protected resource: where it is, and what of it is believed (RFC 9728)."""

from __future__ import annotations

import asyncio
import inspect
import json
from typing import Any

import pytest
from support.endpoints import ENDPOINTS
from support.recorder import Received, Recorder, Response
from support.resource import resource

from dpop.errors import InsecureOriginError, InvalidTokenResponseError, TokenEndpointUnavailableError, UsageError
from dpop.testing import DPoPTestServer
from dpop.tokens import HTTPResponse, ResourceMetadata, read_resource_metadata, resource_metadata_url, run_steps
from dpop.tokens._discovery import resource_discovery

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
        ({"resource": API, "authorization_servers": "http://as.example"}, "without TLS"),
        ({"resource": API, "authorization_servers": ["http://as.example"]}, "without TLS"),
        ({"resource": API, "authorization_servers": ["as"]}, "no URL"),
        ([], "not metadata"),
    ],
)
def test_what_is_not_believed(body: Any, problem: str) -> None:
    """Another resource's document, or one that sends tokens over plain http (RFC 9728 §3.3)."""
    with pytest.raises(InvalidTokenResponseError, match=problem):
        read_resource_metadata(API, json.dumps(body).encode())


def test_one_server_that_is_no_list() -> None:
    """A string in place of an array of one is understood."""
    body = {"resource": API, "authorization_servers": "https://as.example", "scopes_supported": "read write"}
    read = read_resource_metadata(API, json.dumps(body).encode())
    assert read == ResourceMetadata(API, authorization_servers=("https://as.example",), scopes=("read", "write"))


def test_members_that_are_missing() -> None:
    """Most are optional."""
    assert read_resource_metadata(API, b'{"resource":"https://api.example"}') == ResourceMetadata(API)


# --- fetched


@pytest.fixture(params=sorted(ENDPOINTS))
def name(request: pytest.FixtureRequest) -> str:
    """Each integration's endpoint."""
    return str(request.param)


def fetched(name: str, resource: str, **options: Any) -> ResourceMetadata:
    """The metadata as an integration fetches it."""

    async def wait(found: Any) -> Any:
        return await found

    found: Any = ENDPOINTS[name].discover_resource(resource, **options)
    read = asyncio.run(wait(found)) if inspect.isawaitable(found) else found
    assert isinstance(read, ResourceMetadata)
    return read


def serving(**more: Any) -> Recorder:
    """An API that publishes its metadata."""

    def respond(request: Received) -> Response:
        host = next(value for field, value in request.headers if field.lower() == "host")
        return Response(200, [], json.dumps({"resource": f"http://{host}/v1"} | more).encode())

    return Recorder(respond)


def test_from_the_api_to_its_authorization_server(name: str) -> None:
    """The API of the test server names the issuer, whose metadata is then found."""
    with DPoPTestServer() as server:
        found = fetched(name, server.resource)
        assert found.authorization_servers == (server.issuer,)
        assert found.dpop_required
        assert [entry.path for entry in server.requests] == ["/.well-known/oauth-protected-resource/resource"]
        fields = {field.lower() for field, _ in server.requests[0].headers}
        assert fields.isdisjoint({"dpop", "authorization", "cookie"})


def test_the_place_that_a_challenge_names() -> None:
    """Anywhere at the API itself, and nowhere else: a challenge must not choose which servers are asked."""
    with serving(scopes_supported=["read"]) as api, serving() as other:
        url = api.url("/v1")
        assert fetched("requests", url, url=api.url("/elsewhere?of=v1")).scopes == ("read",)
        assert [request.target for request in api.requests] == ["/elsewhere?of=v1"]
        with pytest.raises(UsageError, match="another server"):
            fetched("requests", url, url=other.url("/.well-known/oauth-protected-resource/v1"))
        assert other.requests == []


def test_a_redirect_is_not_followed(name: str) -> None:
    """Whatever it leads to would be another server's document."""
    with serving() as other, Recorder(lambda _: Response(302, [("Location", other.url("/v1"))])) as api:
        with pytest.raises(InvalidTokenResponseError, match="which is not followed"):
            fetched(name, api.url("/v1"))
        assert other.requests == []
        assert len(api.requests) == 1


@pytest.mark.parametrize(
    ("response", "error", "problem"),
    [
        (Response(404), InvalidTokenResponseError, "responded 404"),
        (Response(503), TokenEndpointUnavailableError, "out of order"),
        (Response(429), TokenEndpointUnavailableError, "out of order"),
        (Response(drop=True), TokenEndpointUnavailableError, "cannot be fetched"),
        (Response(200, [], b"<html>"), InvalidTokenResponseError, "not metadata"),
        (Response(200, [], b'{"resource":"https://other.example"}'), InvalidTokenResponseError, "another resource"),
        (Response(200, [], [b"x" * 65536] * 40), InvalidTokenResponseError, "more than 1048576 bytes"),
    ],
    ids=["none", "down", "busy", "lost", "html", "another", "endless"],
)
def test_metadata_that_cannot_be_had(response: Response, error: type[Exception], problem: str) -> None:
    """Each fault is said to people, and what may pass is an error of its own."""
    with Recorder(lambda _: response) as api, pytest.raises(error, match=problem):
        fetched("requests", api.url("/v1"))


def test_plain_http_is_for_this_machine() -> None:
    """Nothing is sent to an http:// API elsewhere."""
    with pytest.raises(InsecureOriginError):
        fetched("requests", "http://api.example/v1")


@pytest.mark.parametrize(
    "place", [API, f"{API}?x", f"{API}#x", f"{API}/\r\nforged log line", f"{API}/" + "a" * 100_000]
)
def test_a_place_that_a_hostile_challenge_names_is_one_short_line_of_the_error(place: str) -> None:
    """The API chooses the URL: without a path, with control characters, or as long as a header field may be."""
    with pytest.raises(InvalidTokenResponseError, match="responded 404") as caught:
        run_steps(resource_discovery(API, place), lambda _: HTTPResponse(404, (), b""))
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()
