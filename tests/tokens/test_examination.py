# SPDX-License-Identifier: Apache-2.0
"""Finding out what a server is: against each mode of the test server, and against servers that are odd."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, Literal

import pytest

import dpop
from dpop.errors import UsageError
from dpop.profiles import NAMES
from dpop.testing import DPoPTestServer
from dpop.tokens import ClientSecretPost, Examination, HTTPRequest, HTTPResponse, NoResponse, PublicClient, examine

NOW = 1_800_000_000
KEY = dpop.generate_key()
AS = "https://as.example"
# Both are as Singpass's documentation describes it; with a client's secret the two differ in nothing to be seen.
ALIKE = {"singpass": ("singpass", "corppass"), "corppass": ("singpass", "corppass")}


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Hands a redirect out as the response that it is."""

    def redirect_request(self, *_: Any) -> None:
        """Follow none."""


OPENER = urllib.request.build_opener(NoRedirect, urllib.request.ProxyHandler({}))


def send(request: HTTPRequest) -> HTTPResponse:
    """Send a request by the standard library."""
    asked = urllib.request.Request(request.url, request.body, dict(request.headers), method=request.method)
    try:
        with OPENER.open(asked, timeout=30) as response:
            return HTTPResponse(response.status, fields(response.headers), response.read())
    except urllib.error.HTTPError as error:
        with error:
            return HTTPResponse(error.code, fields(error.headers), error.read())


def fields(headers: Any) -> tuple[tuple[str, str], ...]:
    """Header fields as a response has them."""
    return tuple((name.lower(), value) for name, value in headers.items())


def examined(url: str, respond: Callable[[HTTPRequest], HTTPResponse] = send, **options: Any) -> Examination:
    """Go through the questions."""
    questions = examine(url, KEY, clock=lambda: NOW, **options)
    try:
        question = next(questions)
        while True:
            try:
                response = respond(question)
            except NoResponse as failure:
                question = questions.throw(failure)
            else:
                question = questions.send(response)
    except StopIteration as end:
        found: Examination = end.value
        return found


@pytest.mark.parametrize("mode", NAMES)
def test_each_mode_is_found(mode: str) -> None:
    """By its metadata, which do not name it, and by what it does; no secret is sent, and nothing is changed."""
    with DPoPTestServer(mode=mode, clock=lambda: NOW) as server:
        public = server.profile.server.public_clients
        client_auth = PublicClient(server.public_client_id) if public else None
        found = examined(server.issuer, client_auth=client_auth)
        assert found.profiles == ALIKE.get(mode, (mode,)), found
        assert found.clock == 0
        assert found.fits[0].differs == ()
        assert len(server.requests) < 20
        assert not any(b"secret" in request.body for request in server.requests)


@pytest.mark.parametrize("mode", ["google", "helseid", "auth0"])
def test_a_client_with_a_secret_sees_more(mode: str) -> None:
    """If it is asked to, it authenticates."""
    with DPoPTestServer(mode=mode, clock=lambda: NOW) as server:
        found = examined(server.issuer, client_auth=ClientSecretPost(server.client_id, server.client_secret))
        assert (found.profiles, found.odd) == ((mode,), [])
        assert found.seen["asks for a nonce"] is (mode != "auth0")


@pytest.mark.parametrize("nonces", ["rotating", "per-answer", "single-use"])
def test_how_long_nonces_are_good(nonces: Literal["rotating", "per-answer", "single-use"]) -> None:
    """The second use of a nonce tells, and whether a response brings another one."""
    with DPoPTestServer(nonces=nonces, nonce_grace=1, clock=lambda: NOW) as server:
        assert examined(server.issuer, client_auth=PublicClient(server.public_client_id)).seen["nonces"] == nonces


def test_an_api_leads_to_its_authorization_server() -> None:
    """By its metadata (RFC 9728)."""
    with DPoPTestServer(mode="keycloak", clock=lambda: NOW) as server:
        found = examined(server.resource, client_auth=PublicClient(server.public_client_id))
        assert (found.issuer, found.resource, found.profiles) == (server.issuer, server.resource, ("keycloak",))


def test_the_clock_is_measured() -> None:
    """And taken into account: the proofs are made for the server's time."""
    with DPoPTestServer(clock=lambda: NOW + 100) as server:
        found = examined(server.issuer, client_auth=PublicClient(server.public_client_id))
        assert (found.clock, found.profiles) == (100, ("rfc9449",))
        assert found.odd == ["its clock is 100 s ahead of this machine's; one of the two is wrong"]


def scripted(documents: dict[str, Any]) -> Callable[[HTTPRequest], HTTPResponse]:
    """A server that has these documents by URL; an exception is raised, a response returned as it is."""

    def respond(request: HTTPRequest) -> HTTPResponse:
        given = documents.get(request.url, HTTPResponse(404, (), b""))
        if isinstance(given, Exception):
            raise given
        if isinstance(given, HTTPResponse):
            return given
        return HTTPResponse(200, (), given if isinstance(given, bytes) else json.dumps(given).encode())

    return respond


METADATA = f"{AS}/.well-known/oauth-authorization-server"
REFUSED = HTTPResponse(400, (), b'{"error": "invalid_grant"}')


@pytest.mark.parametrize(
    ("documents", "remark"),
    [
        ({}, "no metadata was found"),
        ({METADATA: NoResponse("as.example cannot be reached", sent=False)}, "no response: as.example cannot be"),
        ({METADATA: b"<html>"}, "has something else than metadata"),
        ({METADATA: HTTPResponse(302, (("location", "https://x.example"),), b"")}, "redirects, which is not followed"),
        ({METADATA: {"issuer": "https://b.example", "token_endpoint": f"{AS}/t"}}, "of another issuer .*b.example"),
        ({METADATA: {"issuer": AS, "token_endpoint": "http://as.example/t"}}, "the token endpoint has no TLS"),
        ({METADATA: {"issuer": AS, "token_endpoint": f"{AS}/t"}}, "lists no dpop_signing_alg_values_supported"),
        (
            {METADATA: {"token_endpoint": f"{AS}/t", "dpop_signing_alg_values_supported": ["none", "ES256"]}},
            "lists none, which no proof may use",
        ),
        (
            {METADATA: {"issuer": AS, "token_endpoint": f"{AS}/t"}, f"{AS}/t": REFUSED},
            "a proof for another method was accepted",
        ),
        (
            {
                METADATA: {"issuer": AS, "token_endpoint": f"{AS}/t"},
                f"{AS}/t": HTTPResponse(400, (("dpop-nonce", "a\x00b"),), b'{"error": "invalid_grant"}'),
            },
            "a DPoP-Nonce that cannot stand in a proof",
        ),
        (
            {METADATA: {"issuer": AS, "token_endpoint": f"{AS}/t"}, f"{AS}/t": HTTPResponse(500, (), b"oops")},
            "is answered without an error",
        ),
        (
            {
                METADATA: {"issuer": AS, "token_endpoint": f"{AS}/t"},
                f"{AS}/t": HTTPResponse(401, (), b'{"error": "invalid_client"}'),
            },
            "asks who the client is .*--client-id",
        ),
        (
            {f"{AS}/.well-known/oauth-protected-resource": {"authorization_servers": ["http://b.example"]}},
            "names an authorization server that is not asked",
        ),
        (
            {f"{AS}/.well-known/oauth-protected-resource": {"authorization_servers": ["https://b", "c"]}},
            "names 2 authorization servers",
        ),
        ({AS: HTTPResponse(401, (("www-authenticate", 'DPoP a="'),), b"")}, "WWW-Authenticate cannot be read"),
    ],
)
def test_what_is_odd_is_told(documents: dict[str, Any], remark: str) -> None:
    """In one sentence each, and the examination goes on."""
    found = examined(AS, scripted(documents))
    assert any(re.search(remark, odd) for odd in found.odd), found.odd


def test_a_challenge_names_the_metadata() -> None:
    """An API whose metadata are elsewhere says so in its challenge (RFC 9728 §5.1)."""
    place = "https://api.example/elsewhere"
    documents = {
        "https://api.example/me": HTTPResponse(401, (("www-authenticate", f'DPoP resource_metadata="{place}"'),), b""),
        place: {"resource": "https://api.example/me", "authorization_servers": [AS]},
        METADATA: {"issuer": AS, "token_endpoint": f"{AS}/t", "dpop_signing_alg_values_supported": ["ES256"]},
        f"{AS}/t": HTTPResponse(401, (), b'{"error": "invalid_client"}'),
    }
    found = examined("https://api.example/me", scripted(documents))
    assert (found.issuer, found.resource, found.seen["API's schemes"]) == (AS, "https://api.example/me", ["dpop"])
    documents[place] = {"resource": "https://api.example", "authorization_servers": [AS]}
    found = examined("https://api.example/me", scripted(documents))
    assert (found.resource, found.odd[0]) == (
        "https://api.example",
        "the API calls itself 'https://api.example' (RFC 9728 §3.3)",
    )


def test_a_server_is_known_by_its_issuer() -> None:
    """What it does then counts less."""
    issuer = "https://example.okta.com/oauth2/default"
    place = "https://example.okta.com/.well-known/oauth-authorization-server/oauth2/default"
    found = examined(issuer, scripted({place: {"issuer": issuer, "token_endpoint": f"{issuer}/v1/token"}}))
    assert found.profiles == ("okta",)


@pytest.mark.parametrize("url", ["http://as.example", "as.example", ""])
def test_only_safe_urls_are_asked(url: str) -> None:
    """Without TLS anybody in between could say what the server is."""
    with pytest.raises(UsageError):
        examined(url)
