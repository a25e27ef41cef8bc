# SPDX-License-Identifier: Apache-2.0
"""A whole OAuth life against oidc-provider, which demands a nonce with every proof, through every client."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from adapters.clients import CLIENTS, Client, make
from joserfc import jwt
from joserfc.jwk import ECKey

import dpop
from dpop.client.prover import Prover

AUTHENTICATION = ["public", "basic", "post", "assertion"]


@pytest.fixture(params=sorted(CLIENTS))
def name(request: pytest.FixtureRequest) -> str:
    """Each client in turn."""
    return str(request.param)


class App:
    """An application of one kind of client authentication, with one key."""

    def __init__(
        self, name: str, kind: str, peer: dict[str, str], key: ECKey, prover: Prover | None = None, **options: Any
    ) -> None:
        self.kind, self.peer, self.key = kind, peer, key
        self.prover = prover or Prover(dpop.generate_key())
        if kind == "assertion":
            options.setdefault("rebuild", self.rebuild)
        self.tokens: Client = make(name, self.prover, origins=peer["issuer"], **options)
        self.name = name

    def api(self, token: str, prover: Prover | None = None) -> Client:
        """A client for the userinfo endpoint."""
        return make(self.name, prover or self.prover, origins=self.peer["issuer"], access_token=token)

    def assertion(self) -> str:
        """A new private_key_jwt assertion (RFC 7523)."""
        now = int(time.time())
        claims = {
            "iss": "assertion",
            "sub": "assertion",
            "aud": self.peer["issuer"],
            "jti": secrets.token_urlsafe(16),
            "iat": now,
            "exp": now + 60,
        }
        return jwt.encode({"alg": "ES256", "kid": "assertion"}, claims, self.key)

    def rebuild(self, body: bytes) -> bytes:
        """The same form with a new assertion."""
        fields = dict(urllib.parse.parse_qsl(body.decode()))
        return urllib.parse.urlencode({**fields, "client_assertion": self.assertion()}).encode()

    def post(self, endpoint: str, fields: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """A request to the authorization server, authenticated in this application's way."""
        options: dict[str, Any] = {}
        if self.kind == "public":
            fields = {**fields, "client_id": "public"}
        elif self.kind == "basic":
            options["auth"] = ("basic", "basic-secret")
        elif self.kind == "post":
            fields = {**fields, "client_id": "post", "client_secret": "post-secret"}
        else:
            kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
            fields = {**fields, "client_assertion_type": kind, "client_assertion": self.assertion()}
        reply = self.tokens.send("POST", self.peer[endpoint], body=self.tokens.form_body(fields), **options)
        return reply.status, json.loads(reply.body) if reply.body else {}

    def authorize(self) -> tuple[str, str]:
        """A code by PAR and PKCE, without a browser; returns it with its verifier."""
        verifier = secrets.token_urlsafe(32)
        digest = hashlib.sha256(verifier.encode()).digest()
        fields = {
            "response_type": "code",
            "client_id": self.kind,
            "redirect_uri": self.peer["redirect_uri"],
            "scope": "openid offline_access",
            "prompt": "consent",
            "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        status, pushed = self.post("pushed_authorization_request_endpoint", fields)
        assert status == 201, pushed
        browser = requests.Session()
        browser.trust_env = False
        query = {"client_id": self.kind, "request_uri": pushed["request_uri"]}
        url = self.peer["authorization_endpoint"] + "?" + urllib.parse.urlencode(query)
        while not url.startswith(self.peer["redirect_uri"] + "?"):
            answer = browser.get(url, allow_redirects=False, timeout=20)
            assert answer.is_redirect, answer.text
            url = urllib.parse.urljoin(url, answer.headers["Location"])
        browser.close()
        return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(url).query))["code"], verifier

    def redeem(self) -> dict[str, Any]:
        """Tokens for a new code."""
        code, verifier = self.authorize()
        status, tokens = self.post("token_endpoint", self.exchange(code, verifier))
        assert status == 200, tokens
        return tokens

    def exchange(self, code: str, verifier: str) -> dict[str, str]:
        """The form of a code exchange."""
        return {
            "grant_type": "authorization_code",
            "code": code,
            "code_verifier": verifier,
            "redirect_uri": self.peer["redirect_uri"],
        }

    def refresh(self, tokens: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """A refresh with the key of this application."""
        return self.post("token_endpoint", {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]})

    def seen(self) -> list[tuple[str, int, str | None]]:
        """Requests with a proof that reached the server since the last look."""
        answer = requests.get(self.peer["seen"], timeout=20)
        return [(one["path"], one["status"], one["error"]) for one in answer.json()]


@pytest.fixture
def app(name: str, oidc_provider: dict[str, str], assertion_key: ECKey) -> Iterator[Callable[..., App]]:
    """Makes applications, and closes their clients."""
    made: list[App] = []

    def build(kind: str = "public", **options: Any) -> App:
        made.append(App(name, kind, oidc_provider, assertion_key, **options))
        made[-1].seen()
        return made[-1]

    yield build
    for one in made:
        one.tokens.close()


@pytest.mark.parametrize("kind", AUTHENTICATION)
def test_a_whole_life(app: Callable[..., App], kind: str) -> None:
    """PAR, code, userinfo, refresh with rotation: every request challenged at most once, all bound to the key."""
    one = app(kind)
    tokens = one.redeem()
    assert tokens["token_type"] == "DPoP"
    assert [status for path, status, _ in one.seen() if path == "/token"] == [200]
    with one.api(tokens["access_token"]) as api:
        for method in ("GET", "POST"):
            reply = api.send(method, one.peer["userinfo_endpoint"])
            assert (reply.status, json.loads(reply.body)) == (200, {"sub": "alice"})
    assert [status for path, status, _ in one.seen() if path == "/me"] == [401, 200, 200]
    status, again = one.refresh(tokens)
    assert status == 200, again
    assert again["refresh_token"] != tokens["refresh_token"]
    assert [status for path, status, _ in one.seen()] == [200]


@pytest.mark.parametrize("kind", AUTHENTICATION[1:])
def test_client_credentials(app: Callable[..., App], kind: str) -> None:
    """The first request is challenged and answered; later ones need no second try."""
    one = app(kind)
    for expected in ([400, 200], [200]):
        status, tokens = one.post("token_endpoint", {"grant_type": "client_credentials"})
        assert (status, tokens["token_type"]) == (200, "DPoP")
        assert [status for _, status, _ in one.seen()] == expected


def test_another_key_cannot_refresh_or_call(app: Callable[..., App]) -> None:
    """A stolen refresh token or access token is worth nothing with another key."""
    one = app()
    tokens = one.redeem()
    thief = app()
    status, refused = thief.refresh(tokens)
    assert (status, refused["error"]) == (400, "invalid_grant")
    with one.api(tokens["access_token"], thief.prover) as api:
        reply = api.send("GET", one.peer["userinfo_endpoint"])
        assert reply.status == 401
    assert one.refresh(tokens)[0] == 200


def test_no_proof_and_a_replayed_one_are_refused(oidc_provider: dict[str, str], app: Callable[..., App]) -> None:
    """The peer is strict: what it accepts elsewhere in these tests, it accepts for a reason."""
    one = app()
    tokens = one.redeem()
    form = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"], "client_id": "public"}
    url = oidc_provider["token_endpoint"]
    assert requests.post(url, data=form, timeout=20).json()["error"] == "invalid_grant"
    challenged = requests.post(
        url, data=form, headers={"DPoP": dpop.create_proof(one.prover.key, "POST", url)}, timeout=20
    )
    assert challenged.json()["error"] == "use_dpop_nonce"
    proof = dpop.create_proof(one.prover.key, "POST", url, nonce=challenged.headers["DPoP-Nonce"])
    first = requests.post(url, data=form, headers={"DPoP": proof}, timeout=20)
    assert first.status_code == 200
    form["refresh_token"] = first.json()["refresh_token"]
    assert requests.post(url, data=form, headers={"DPoP": proof}, timeout=20).json()["error"] == "invalid_grant"


def test_an_assertion_is_not_sent_twice(app: Callable[..., App]) -> None:
    """Without rebuild= the challenge is handed on after one request; the next call has the nonce."""
    one = app("assertion", rebuild=None)
    status, refused = one.post("token_endpoint", {"grant_type": "client_credentials"})
    assert (status, refused["error"]) == (400, "use_dpop_nonce")
    assert len(one.seen()) == 1
    assert one.post("token_endpoint", {"grant_type": "client_credentials"})[0] == 200


@pytest.mark.parametrize("alg", ["ES256", "ES384", "ES512", "Ed25519", "EdDSA", "PS256", "RS256"])
def test_every_algorithm(oidc_provider: dict[str, str], assertion_key: ECKey, alg: str) -> None:
    """Keys of every algorithm the server lists get bound tokens and can use them."""
    one = App("httpx2", "public", oidc_provider, assertion_key, Prover(dpop.generate_key(alg)))
    with one.tokens, one.api(one.redeem()["access_token"]) as api:
        assert api.send("GET", one.peer["userinfo_endpoint"]).status == 200
