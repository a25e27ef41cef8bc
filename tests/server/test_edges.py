# SPDX-License-Identifier: Apache-2.0
"""Metadata, step-up, two bindings, bodies of refusals, and events, by both integrations."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from support.in_process import Response, ask_asgi, ask_wsgi
from support.jwt_issuer import JWTIssuer
from support.resource import PUBLIC_URL, resource

import dpop
from dpop import asgi, wsgi
from dpop.encoding import b64url_encode
from dpop.errors import InvalidProof, LookupUnavailableError, UsageError
from dpop.server import Access, BearerReport, Event, Introspection, JWTAccessTokens, ProtectedResource

KEY = dpop.generate_key()
Fields = list[tuple[str, str]]
Ask = Callable[..., Response]


async def asgi_view(scope: Any, receive: Any, send: Any) -> None:
    """What an application does: it asks for what a header of the request says."""
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    demand(await asgi.access(scope), headers.get("x-demand"))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"well"})


def wsgi_view(environ: Any, start_response: Any) -> Any:
    """The same for WSGI."""
    demand(wsgi.access(environ), environ.get("HTTP_X_DEMAND"))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"well"]


def demand(access: Access, wanted: str | None) -> None:
    """Ask for an authentication."""
    if wanted is not None:
        access.require_auth(**json.loads(wanted))


def by_asgi(api: ProtectedResource, path: str, fields: Fields, method: str = "GET") -> Response:
    """One request behind ASGI."""
    return ask_asgi(asgi.DPoPMiddleware(asgi_view, api), method, path, fields)


def by_wsgi(api: ProtectedResource, path: str, fields: Fields, method: str = "GET") -> Response:
    """One request behind WSGI."""
    return ask_wsgi(wsgi.DPoPMiddleware(wsgi_view, api), method, path, fields)


BOTH = pytest.mark.parametrize("ask", [by_asgi, by_wsgi])


def signed(token: str = "t", **more: str) -> Fields:
    """The fields of a request with a token and its proof."""
    proof = dpop.create_proof(KEY, "GET", PUBLIC_URL + "/items", access_token=token)
    return [
        ("Authorization", f"DPoP {token}"),
        ("DPoP", proof),
        *((name.replace("_", "-"), v) for name, v in more.items()),
    ]


def api(claims: dict[str, Any] | None = None, **settings: Any) -> ProtectedResource:
    """An API whose tokens have these claims."""
    known = {"sub": "alice", "client_id": "app", "cnf": {"jkt": KEY.thumbprint}} | (claims or {})
    return resource(nonces=False, **{"token": lambda _: known, "bearer": False} | settings)


# --- metadata


@BOTH
def test_metadata_is_served(ask: Ask) -> None:
    """To everybody, at its place and nowhere else, and named by the challenge (RFC 9728 §3, §5.1)."""
    serving = api(authorization_servers=["https://as.example"], published={"scopes_supported": ["read"]})
    place = "/.well-known/oauth-protected-resource"
    status, headers, body = ask(serving, place, [])
    assert (status, dict(headers)["content-type"]) == (200, "application/json")
    assert json.loads(body) == serving.metadata()
    assert serving.metadata() == {
        "resource": PUBLIC_URL,
        "authorization_servers": ["https://as.example"],
        "scopes_supported": ["read"],
        "bearer_methods_supported": ["header"],
        "dpop_signing_alg_values_supported": ["ES256", "Ed25519", "EdDSA", "PS256", "RS256"],
        "dpop_bound_access_tokens_required": True,
    }
    status, headers, _ = ask(serving, "/items", [])
    challenge = dict(headers)["www-authenticate"]
    assert f'resource_metadata="{PUBLIC_URL}{place}"' in challenge
    for path, method in ((f"{place}/other", "GET"), (place, "POST"), (f"/x{place}", "GET")):
        assert ask(serving, path, [], method)[0] == 401
    assert ask(serving, place, [], "HEAD")[0] == 200
    assert ask(api(), place, [])[0] == 401


@BOTH
def test_metadata_of_a_resource_with_a_path(ask: Ask) -> None:
    """The path of the resource comes after the well-known one (RFC 9728 §3.1)."""
    serving = api(url=f"{PUBLIC_URL}/v1", authorization_servers=["https://as.example"])
    assert ask(serving, "/.well-known/oauth-protected-resource/v1", [])[0] == 200
    assert ask(serving, "/.well-known/oauth-protected-resource", [])[0] == 401


@pytest.mark.parametrize(
    "settings",
    [
        {"authorization_servers": "https://as.example"},
        {"authorization_servers": ["https://as.example"], "metadata": "https://api.example/m"},
        {"published": {"scopes_supported": []}},
        {"published": {"scopes_supported": []}, "metadata": "https://api.example/m"},
    ],
)
def test_settings_of_metadata_that_contradict(settings: dict[str, Any]) -> None:
    """Either the document is served here or its URL is given."""
    with pytest.raises(UsageError):
        api(**settings)
    with pytest.raises(UsageError, match="authorization_servers"):
        api().metadata()


# --- step-up


@BOTH
@pytest.mark.parametrize(
    ("claims", "wanted", "parameters"),
    [
        ({"acr": "gold"}, {"acr": "gold silver"}, None),
        ({"acr": "bronze"}, {"acr": "gold silver"}, {"acr_values": "gold silver"}),
        ({}, {"acr": ["gold"]}, {"acr_values": "gold"}),
        ({"auth_time": 4e9}, {"max_age": 300}, None),
        ({"auth_time": 1}, {"max_age": 300}, {"max_age": "300"}),
        ({}, {"max_age": 300}, {"max_age": "300"}),
        ({"auth_time": True}, {"max_age": 300}, {"max_age": "300"}),
        ({"auth_time": "4000000000"}, {"max_age": 300}, {"max_age": "300"}),
        ({"auth_time": float("nan")}, {"max_age": 300}, {"max_age": "300"}),
        ({"acr": "gold", "auth_time": 1}, {"acr": "gold", "max_age": 5}, {"acr_values": "gold", "max_age": "5"}),
    ],
)
def test_step_up(claims: Any, wanted: Any, parameters: Any, ask: Ask) -> None:
    """The challenge says what is needed, in its parameters and in the body (RFC 9470 §3)."""
    status, headers, body = ask(api(claims), "/items", signed(x_demand=json.dumps(wanted)))
    if parameters is None:
        assert (status, body) == (200, b"well")
        return
    assert status == 401
    told = json.loads(body)
    assert {name: told[name] for name in parameters} == parameters
    assert told["error"] == "insufficient_user_authentication"
    challenge = dict(headers)["www-authenticate"]
    assert all(f'{name}="{value}"' in challenge for name, value in parameters.items())


# --- a second binding

CERTIFICATE = b"the DER of a certificate"
X5T = b64url_encode(hashlib.sha256(CERTIFICATE).digest())


@BOTH
@pytest.mark.parametrize(
    ("seen", "bound", "status"),
    [
        (CERTIFICATE, X5T, 200),
        (b"another", X5T, 401),
        (None, X5T, 401),
        ("unset", X5T, 401),
        (CERTIFICATE, None, 401),
        (CERTIFICATE, 7, 401),
    ],
)
def test_a_token_bound_to_a_certificate_too(seen: Any, bound: Any, status: int, ask: Ask) -> None:
    """Both bindings count, and only the operator's function says what the request came with (RFC 8705 §3)."""
    claims = {"cnf": {"jkt": KEY.thumbprint, "x5t#S256": bound}}
    contexts: list[Any] = []

    def certificate(request: Any) -> Any:
        contexts.append(request.context)
        return seen

    settings = {} if seen == "unset" else {"certificate": certificate}
    forged = signed(X_Client_Cert="forged", X_Forwarded_Client_Cert="forged")
    answered, _, body = ask(api(claims, **settings), "/items", forged)
    assert answered == status
    assert status == 200 or json.loads(body)["error"] == "invalid_token"
    assert all(context["type" if ask is by_asgi else "REQUEST_METHOD"] for context in contexts)


# --- bodies


@BOTH
def test_refusals_have_a_small_body(ask: Ask) -> None:
    """As the challenge says it; none where nothing was tried, and none for HEAD (RFC 6750 §3, §3.1)."""
    status, headers, body = ask(api(), "/items", [("Authorization", "Bearer t")])
    assert (status, json.loads(body)["error"]) == (401, "invalid_token")
    assert dict(headers)["content-length"] == str(len(body))
    assert ask(api(), "/items", [])[2] == b""
    down = api(token=_down)
    status, _, body = ask(down, "/items", signed())
    assert (status, json.loads(body)["error"]) == (503, "temporarily_unavailable")
    assert "secret" not in body.decode()
    if ask is by_wsgi:
        assert ask(api(), "/items", [("Authorization", "Bearer t")], "HEAD")[2] == b""


def _down(_token: str) -> None:
    raise LookupUnavailableError("secret host of the authorization server")


@BOTH
@pytest.mark.parametrize(
    ("says", "told"),
    [
        (lambda request: request.context["the certificate"], "raised KeyError"),
        (lambda _request: "-----BEGIN CERTIFICATE-----", "PEM_cert_to_DER_cert"),
    ],
    ids=["raises", "PEM"],
)
def test_a_certificate_function_that_fails(ask: Ask, says: Any, told: str, caplog: pytest.LogCaptureFixture) -> None:
    """It says nothing about the token: 503 as for a failed look-up, not 500; the log says what is wrong."""
    status, _, body = ask(api({"cnf": {"jkt": KEY.thumbprint, "x5t#S256": X5T}}, certificate=says), "/items", signed())
    assert (status, json.loads(body)["error"]) == (503, "temporarily_unavailable")
    assert told in caplog.text


# --- events


@BOTH
def test_events_of_requests(ask: Ask) -> None:
    """One for each request: what became of it and why, with no token, proof or unbounded value."""
    events: list[Event] = []
    claims: dict[str, Any] = {"client_id": "c" * 500}
    ask(api(claims, events=events.append), "/items", signed("a-token-of-nobody"))
    ask(api(events=events.append), "/items", [])
    ask(api(events=events.append), "/items", [("Authorization", "Bearer x")])
    ask(api(events=events.append), "/items", signed(x_demand='{"acr":"gold"}'))
    ask(api(events=events.append, token=_down), "/items", signed())
    assert events == [
        Event("accepted", scheme="DPoP", client="c" * 64),
        Event("challenged", "no_credentials"),
        Event("refused", "bearer_refused"),
        Event("accepted", scheme="DPoP", client="app"),
        Event("refused", "authentication_insufficient"),
        Event("unavailable", "lookup_unavailable"),
    ]


@pytest.mark.parametrize("client", ["app\n2026 ERROR", "app\x1b[2J", "app\ud800", "app\u202e"])
def test_the_client_in_an_event_is_printable(client: str) -> None:
    """It goes into logs and names of metrics."""
    events: list[Event] = []
    by_wsgi(api({"client_id": client}, events=events.append), "/items", signed())
    (event,) = events
    assert event.client is not None
    assert event.client.isprintable()
    assert event.client.startswith("app?")


@BOTH
def test_a_hook_that_fails(ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    """It is a fault of the operator's code, and refuses no request; strangers cannot fill the log with tracebacks."""

    def hook(_event: Event) -> None:
        raise RuntimeError("the metrics are down")

    told = api(events=hook)
    with caplog.at_level(logging.ERROR):
        assert ask(told, "/items", signed())[0] == 200
        assert [ask(told, "/items", [])[0] for _ in range(3)] == [401] * 3
    assert caplog.text.count("hook failed") == 1


def test_a_hook_that_nothing_could_call() -> None:
    """Told at once, not at each request."""

    async def hook(_event: Event) -> None: ...

    with pytest.raises(UsageError, match="async"):
        api(events=hook)
    with pytest.raises(UsageError, match="async"):
        BearerReport(then=hook)
    with pytest.raises(UsageError, match="async"):
        JWTAccessTokens(issuer="https://as.example", audience="https://api.example", events=hook)
    with pytest.raises(UsageError, match="async"):
        Introspection("https://as.example/introspect", client_id="api", client_secret="s3cret", events=hook)
    with pytest.raises(UsageError, match="events must be a function"):
        api(events=[])


@BOTH
def test_who_still_sends_bearer_tokens(ask: Ask) -> None:
    """While an API moves to DPoP: by client, bounded, and other hooks get the events too."""
    events: list[Event] = []
    report = BearerReport(then=events.append)
    unbound = {"cnf": None}
    for number in range(3):
        moving = api(unbound | {"client_id": f"old-{min(number, 1)}"}, bearer=True, events=report)
        assert ask(moving, "/items", [("Authorization", "Bearer t")])[0] == 200
    assert ask(api(bearer=True, events=report), "/items", signed())[0] == 200
    assert report.bearer == {"old-0": 1, "old-1": 2}
    assert report.dpop == {"app": 1}
    assert len(events) == 4
    for number in range(1100):
        report(Event("accepted", scheme="Bearer", client=str(number)))
    assert len(report.bearer) == 1001


def test_events_of_lookups() -> None:
    """How long an authorization server took, whether it told, and what was known from before."""
    events: list[Event] = []
    with JWTIssuer() as issuer:
        tokens = JWTAccessTokens(issuer=issuer.url, audience=PUBLIC_URL, events=events.append)
        token = issuer.token()
        tokens(token)
        asyncio.run(tokens.acall(token))
        asking = Introspection(f"{issuer.url}/nowhere", client_id="c", client_secret="s", events=events.append)
        with pytest.raises(LookupUnavailableError):
            asking(token)
        with pytest.raises(InvalidProof):
            tokens("bad")
    assert [(event.kind, event.reason) for event in events] == [
        ("looked_up", None),
        ("remembered", None),
        ("looked_up", "lookup_unavailable"),
    ]
    assert all(event.seconds is None or 0 < event.seconds < 60 for event in events)
    assert token not in str(events)
