# SPDX-License-Identifier: Apache-2.0
"""Introspection: how the API authenticates, what it believes and for how long, and how many questions it asks."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from support.authority import make_authority
from support.forking import in_child
from support.introspection_endpoint import IntrospectionEndpoint
from support.jwt_issuer import AUDIENCE, JWTIssuer, Timer, forged
from support.recorder import Received, Recorder, Response, script

import dpop
from dpop.errors import InsecureOriginError, InvalidProof, LookupUnavailableError, UsageError
from dpop.server import (
    Introspection,
    LookupRequest,
    LookupResponse,
    MemoryReplayCache,
    ProofVerifier,
    ProtectedResource,
    ResourceRequest,
)
from dpop.server._key_sets import IssuerKeys
from dpop.server._lookups import run
from dpop.testing import DPoPTestServer
from dpop.tokens import PrivateKeyJWT


@pytest.fixture
def endpoint() -> Iterator[IntrospectionEndpoint]:
    """An introspection endpoint of this test."""
    with IntrospectionEndpoint() as running:
        yield running


def asking(endpoint: IntrospectionEndpoint, **settings: Any) -> Introspection:
    """The look-up of an API."""
    return Introspection(
        endpoint.url("/introspect"), **{"client_id": "api", "client_secret": "s", "timeout": 60} | settings
    )


# --- questions


def test_it_plugs_into_a_protected_resource() -> None:
    """At a real authorization server: a bound token comes in, in threads and tasks, a revoked one does not."""
    key = dpop.generate_key()
    with DPoPTestServer() as server:
        tokens = Introspection(
            server.introspection_endpoint, client_id=server.client_id, client_secret=server.client_secret
        )
        api = ProtectedResource(ProofVerifier(replay=MemoryReplayCache()), url=AUDIENCE, token=tokens)

        def request(token: str) -> ResourceRequest:
            proof = dpop.create_proof(key, "GET", f"{AUDIENCE}/items", access_token=token)
            return ResourceRequest("GET", "/items", "/items", [("Authorization", f"DPoP {token}"), ("DPoP", proof)])

        bound = server.issue_access_token(jkt=key.thumbprint)
        assert api.admit(request(bound)).claims["active"] is True
        assert asyncio.run(api.aadmit(request(bound))).claims["active"] is True
        for refused, reason in (("unknown", "token_inactive"), (server.issue_access_token(), "token_unbound")):
            with pytest.raises(InvalidProof) as caught:
                api.admit(request(refused))
            assert caught.value.reason == reason


def test_how_the_api_authenticates(endpoint: IntrospectionEndpoint) -> None:
    """A secret in the header or the form, an assertion for the issuer, or nothing; and never a proof."""
    key = dpop.generate_key()
    asking(endpoint)("t1")
    asking(endpoint, client_auth="client_secret_post")("t1")
    asking(endpoint, client_secret=None)("t1")
    asking(
        endpoint, client_id=None, client_secret=None, client_auth=PrivateKeyJWT("api", key), issuer="https://as.example"
    )("t1")
    basic, post, none, assertion = endpoint.requests
    forms = [parse_qs(request.body.decode()) for request in endpoint.requests]
    assert basic.one("Authorization") == "Basic YXBpOnM="
    assert forms[0] == {"token": ["t1"], "token_type_hint": ["access_token"]}
    assert (forms[1]["client_id"], forms[1]["client_secret"], post.all("Authorization")) == (["api"], ["s"], [])
    assert (forms[2]["client_id"], none.all("Authorization")) == (["api"], [])
    claims = json.loads(_decoded(forms[3]["client_assertion"][0].split(".")[1]))
    assert (claims["aud"], claims["iss"]) == ("https://as.example", "api")
    for request in endpoint.requests:
        assert (request.method, request.all("DPoP"), request.one("Accept")) == ("POST", [], "application/json")
    assert "s" not in repr(asking(endpoint)).replace("introspect", "").split()
    assert assertion.all("Authorization") == []


def test_an_api_with_a_certificate(tmp_path: Path) -> None:
    """It shows it in the handshake, and names itself in the form (RFC 8705 §2)."""
    authority = make_authority(tmp_path)
    says = Response(200, [("Content-Type", "application/json")], b'{"active":true}')
    with Recorder(script(says), tls=authority.server_context(want_client=True)) as server:
        settings: dict[str, Any] = {"client_id": "api", "client_auth": "tls_client_auth", "timeout": 60}
        url = server.url("/introspect")
        assert Introspection(url, tls=authority.client_context(), **settings)("t1") == {"active": True}
        assert asyncio.run(Introspection(url, tls=authority.client_context(), **settings).acall("t2"))["active"]
        without = ssl.create_default_context(cafile=authority.ca)
        with pytest.raises(LookupUnavailableError):
            Introspection(url, tls=without, **settings)("t3")
    assert [parse_qs(request.body.decode()) for request in server.requests] == [
        {"client_id": ["api"], "token": [token], "token_type_hint": ["access_token"]} for token in ("t1", "t2")
    ]


def _decoded(text: str) -> bytes:
    from dpop.encoding import b64url_decode

    return b64url_decode(text)


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        ({"active": False}, "token_inactive"),
        ({"active": True, "exp": 1}, "token_expired"),
        ({"active": True, "nbf": 99999999999}, "token_inactive"),
        ({"active": True}, "token_inactive"),
        ({"active": True, "aud": "https://other.example"}, "token_inactive"),
        ({"active": True, "aud": AUDIENCE, "iss": "https://other.example"}, "token_inactive"),
        ({"active": True, "aud": [AUDIENCE], "iss": "https://as.example"}, None),
    ],
)
def test_what_is_accepted(endpoint: IntrospectionEndpoint, says: dict[str, Any], reason: str | None) -> None:
    """Active, now, for this API, of this issuer."""
    endpoint.says = says
    tokens = asking(endpoint, audience=AUDIENCE, issuer="https://as.example")
    if reason is None:
        assert tokens("t") == says
        return
    for _ in range(2):  # asked and remembered alike
        with pytest.raises(InvalidProof) as caught:
            tokens("t")
        assert (caught.value.reason, caught.value.error) == (reason, "invalid_token")


def test_documents_with_a_byte_order_mark(endpoint: IntrospectionEndpoint) -> None:
    """Some servers write one before a response, their metadata and their keys."""

    def marked(request: LookupRequest) -> LookupResponse:
        found = {"issuer": "https://as.example", "jwks_uri": "https://as.example/jwks", "keys": [], "active": True}
        return LookupResponse(200, {}, json.dumps(found).encode("utf-8-sig"))

    assert asking(endpoint, fetch=marked)("t")["active"] is True
    keys = IssuerKeys(
        "https://as.example", jwks_uri=None, fetch=marked, refresh_after=300, ask_again_after=10, timeout=5
    )
    assert run(keys.candidates("k1", "ES256")) == ()


# --- memory


def test_responses_are_remembered_as_copies(endpoint: IntrospectionEndpoint) -> None:
    """One question in thirty seconds; what an application changes stays its own."""
    timer = Timer(100)
    endpoint.says["cnf"] = {"jkt": "x"}
    tokens = asking(endpoint, monotonic=timer)
    for found in (tokens("t"), tokens("t"), asyncio.run(tokens.acall("t"))):
        assert found["cnf"] == {"jkt": "x"}
        found["cnf"]["jkt"] = "y"  # type: ignore[index]
    timer.now += 29
    tokens("t")
    assert endpoint.asked == ["t"]
    timer.now += 2
    endpoint.says = {"active": False}
    with pytest.raises(InvalidProof):
        tokens("t")
    assert endpoint.asked == ["t", "t"]
    assert b"t" not in tokens._active._entries


def test_expiry_is_respected(endpoint: IntrospectionEndpoint) -> None:
    """A remembered response ends with its token."""
    clock = Timer(1000)
    endpoint.says = {"active": True, "exp": 1010}
    tokens = asking(endpoint, clock=clock, skew=0)
    assert tokens("t")
    clock.now = 1011
    with pytest.raises(InvalidProof) as caught:
        tokens("t")
    assert caught.value.reason == "token_expired"


def test_a_refusal_is_remembered_for_five_seconds(endpoint: IntrospectionEndpoint) -> None:
    """A token that becomes active is accepted soon, and a client that insists costs one question in five seconds."""
    timer = Timer(100)
    tokens = asking(endpoint, monotonic=timer)
    endpoint.says = {"active": False}
    for _ in range(3):
        with pytest.raises(InvalidProof):
            tokens("t")
    assert endpoint.asked == ["t"]
    endpoint.says = {"active": True}
    timer.now += 5
    assert tokens("t")


def test_strangers_cannot_push_out_good_tokens(endpoint: IntrospectionEndpoint) -> None:
    """Tokens that nobody knows have a memory of their own, which is bounded."""
    tokens = asking(endpoint, max_remembered=5)
    tokens("good")
    endpoint.says = {"active": False}
    for number in range(20):
        with pytest.raises(InvalidProof):
            tokens(f"stranger-{number}")
    assert tokens("good")
    assert len(tokens._refused) == 5
    forgetful = asking(endpoint, remember_for=0)
    for _ in range(2):
        with pytest.raises(InvalidProof):
            forgetful("u")
    assert endpoint.asked[-2:] == ["u", "u"]


# --- many at once


def test_one_question_for_all_who_wait(endpoint: IntrospectionEndpoint) -> None:
    """Threads and tasks with one token share it; a task that is cancelled takes it from nobody."""
    release = threading.Event()
    endpoint.down = _holding(release)
    tokens = asking(endpoint, timeout=60)
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(tokens("t"))) for _ in range(5)]
    for thread in threads:
        thread.start()

    async def tasks() -> list[Any]:
        asked = [asyncio.ensure_future(tokens.acall("t")) for _ in range(5)]
        await asyncio.sleep(0.05)
        asked[0].cancel()
        release.set()
        return await asyncio.gather(*asked, return_exceptions=True)

    results = asyncio.run(tasks())
    for thread in threads:
        thread.join()
    assert isinstance(results[0], asyncio.CancelledError)
    assert [each["sub"] for each in [*results[1:], *found]] == ["alice"] * 9
    assert endpoint.asked == ["t"]


def _holding(release: threading.Event) -> Callable[[Received], None]:
    def hold(_request: Received) -> None:
        release.wait(60)

    return hold


def test_a_flood_of_unknown_tokens(endpoint: IntrospectionEndpoint) -> None:
    """Three questions are open at once; the rest gets a 503 at once, and a token that is known is served."""
    release = threading.Event()
    tokens = asking(endpoint, max_pending=3, timeout=60)
    tokens("good")
    endpoint.down = _holding(release)
    threads = [threading.Thread(target=tokens, args=(f"t{number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 30
    while len(endpoint.asked) < 4 and time.monotonic() < deadline:
        time.sleep(0.002)
    for number in range(50):
        with pytest.raises(LookupUnavailableError) as caught:
            tokens(f"more-{number}")
        assert caught.value.retry_after == 1
    assert tokens("good")
    release.set()
    for thread in threads:
        thread.join()
    assert len(endpoint.asked) == 4
    assert tokens("more-1")


# --- an endpoint that is down, or lies


DOWN: dict[str, Callable[[Received], Response]] = {
    "401": lambda _: Response(401),
    "500": lambda _: Response(500),
    "302": lambda _: Response(302, [("Location", "/elsewhere")]),
    "dropped": lambda _: Response(drop=True),
    "html": lambda _: Response(200, [], b"<html>"),
    "no-active": lambda _: Response(200, [], b'{"sub":"alice"}'),
    "active-text": lambda _: Response(200, [], b'{"active":"true"}'),
    "twice": lambda _: Response(200, [], b'{"active":false,"active":true}'),
    "exp-text": lambda _: Response(200, [], b'{"active":true,"exp":"soon"}'),
    "huge": lambda _: Response(200, [], b'{"active":true,"x":"' + b"y" * 70_000 + b'"}'),
    "jwt": lambda _: Response(200, [("Content-Type", "application/token-introspection+jwt")], b"a.b.c"),
}


@pytest.mark.parametrize("fault", DOWN)
def test_an_endpoint_that_does_not_tell(endpoint: IntrospectionEndpoint, fault: str) -> None:
    """Nothing is known of the token: a 503, and the next request asks again."""
    tokens = asking(endpoint)
    endpoint.down = DOWN[fault]
    with pytest.raises(LookupUnavailableError) as caught:
        tokens("t")
    assert ("check this API's client_id and credentials" in str(caught.value)) == (fault == "401")
    endpoint.down = lambda _request: None
    assert asyncio.run(tokens.acall("t"))["sub"] == "alice"
    assert len(endpoint.requests) == 2


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_followed(endpoint: IntrospectionEndpoint, status: int) -> None:
    """Nobody is asked before, and the client hears of it; a minute at most."""
    timer = Timer(100)
    tokens = asking(endpoint, monotonic=timer)
    endpoint.down = lambda _request: Response(status, [("Retry-After", "999999")])
    for token in ("t", "u"):
        with pytest.raises(LookupUnavailableError) as caught:
            tokens(token)
        assert caught.value.retry_after == 60
    assert endpoint.asked == ["t"]
    timer.now += 60
    endpoint.down = lambda _request: None
    assert tokens("u")


def test_a_slow_endpoint_holds_few_threads(endpoint: IntrospectionEndpoint) -> None:
    """After a question without a response in time there is a second without any."""
    release, timer = threading.Event(), Timer(100)
    endpoint.down = _holding(release)
    tokens = asking(endpoint, timeout=1, monotonic=timer)
    began = time.monotonic()
    for token in ("t", "u", "v"):
        with pytest.raises(LookupUnavailableError):
            tokens(token)
    assert time.monotonic() - began < 20
    assert len(endpoint.asked) == 1
    release.set()
    timer.now += 1
    tokens._timeout = 60  # the response that must come has more time
    assert tokens("u")


def test_a_forked_process_asks_for_itself(endpoint: IntrospectionEndpoint) -> None:
    """A question that was open in the parent is asked anew."""
    release = threading.Event()
    endpoint.down = _holding(release)
    tokens = asking(endpoint, timeout=60)
    waiting = threading.Thread(target=tokens, args=("t",))
    waiting.start()
    deadline = time.monotonic() + 30
    while not endpoint.requests and time.monotonic() < deadline:
        time.sleep(0.002)
    endpoint.down = lambda _request: None
    assert in_child(lambda: str(tokens("t")["sub"]).encode()) == b"alice"
    release.set()
    waiting.join()


# --- signed responses


def signed(issuer: JWTIssuer, *, header: Any = None, **changes: Any) -> Callable[[Received], Response]:
    """A response as RFC 9701 has it."""
    head = {"alg": issuer.key.alg, "kid": "k1", "typ": "token-introspection+jwt"} | (header or {})
    said = {"active": True, "sub": "alice"}
    claims = {"iss": issuer.url, "aud": "api", "iat": int(time.time()), "token_introspection": said} | changes
    text = forged(head, claims, issuer.key)
    return lambda _: Response(200, [("Content-Type", "application/token-introspection+jwt")], text.encode())


@pytest.mark.parametrize(
    ("header", "changes"),
    [
        (None, {}),
        ({"typ": "JWT"}, {}),
        ({"typ": "at+jwt"}, {}),
        ({"alg": "none"}, {}),
        ({"alg": "RS256"}, {}),
        ({"kid": "k2"}, {}),
        ({"crit": ["x"]}, {}),
        (None, {"iss": "https://other.example"}),
        (None, {"aud": "another"}),
        (None, {"iat": 1}),
        (None, {"iat": None}),
        (None, {"token_introspection": None}),
        (None, {"token_introspection": {"active": "yes"}}),
    ],
)
def test_signed_responses(endpoint: IntrospectionEndpoint, header: Any, changes: dict[str, Any]) -> None:
    """Only one by the issuer, for this client, made now, is believed (RFC 9701 §5)."""
    with JWTIssuer() as issuer:
        tokens = asking(endpoint, signed=True, issuer=issuer.url)
        endpoint.down = signed(issuer, header=header, **changes)
        if header is None and not changes:
            assert tokens("t")["sub"] == "alice"
            assert endpoint.requests[0].one("Accept") == "application/token-introspection+jwt"
            issuer.key = dpop.generate_key()
            endpoint.down = signed(issuer)
            with pytest.raises(LookupUnavailableError, match="signature"):
                tokens("u")
            endpoint.down = lambda _: None
            with pytest.raises(LookupUnavailableError, match="not signed"):
                tokens("v")
            return
        with pytest.raises(LookupUnavailableError):
            tokens("t")


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"signed": True}, UsageError),
        ({"client_id": None, "client_secret": None}, UsageError),
        ({"max_pending": 0}, UsageError),
        ({"audience": []}, UsageError),
        ({"issuer": "http://as.example"}, InsecureOriginError),
        ({"endpoint": "http://as.example/introspect"}, InsecureOriginError),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], error: type[Exception]) -> None:
    """They are found when the program starts."""
    with pytest.raises(error):
        Introspection(
            **{"endpoint": "https://as.example/introspect", "client_id": "api", "client_secret": "s"} | settings
        )
