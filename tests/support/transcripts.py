# SPDX-License-Identifier: Apache-2.0
"""Transcripts of real servers, written by hand from their documentation, and a client that has to satisfy them.

A transcript, ``tests/data/transcripts/*.toml``, does not look at the profile's record: what it expects of a request,
and what the server responds, was written down from the source that it names. :func:`played` lets the library speak to a
server that does as the transcript says; :func:`rehearsed` makes the same steps at the test server of that mode, which
has to respond with the same statuses and errors.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
import tomllib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import requests
from support.paths import ROOT
from support.recorder import Received, Recorder, Response, script

import dpop
from dpop.errors import DPoPError
from dpop.keys import PublicKey
from dpop.requests import DPoPAdapter, TokenEndpoint
from dpop.testing import DPoPTestServer
from dpop.tokens import PrivateKeyJWT, ServerMetadata, TokenSet

__all__ = ["TRANSCRIPTS", "played", "read", "rehearsed"]

TRANSCRIPTS = sorted((ROOT / "tests" / "data" / "transcripts").glob("*.toml"))
_REDIRECT_URI = "http://127.0.0.1/callback"
_VERIFIER = "v" * 43
_CLIENT_KEY = dpop.generate_key()


def read(path: Path) -> dict[str, Any]:
    """A transcript."""
    return tomllib.loads(path.read_text("utf-8"))


def _digest(text: str) -> str:
    return urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def _decoded(part: str) -> dict[str, Any]:
    return dict(json.loads(urlsafe_b64decode(part + "==")))


def _verified(jws: str, jwk: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims, after the signature was verified."""
    head, payload, signature = jws.split(".")
    header = _decoded(head)
    key = PublicKey.from_jwk(jwk)
    assert key.verify(header["alg"], f"{head}.{payload}".encode(), urlsafe_b64decode(signature + "=="))
    return header, _decoded(payload)


class _Judge:
    """Compares requests with a transcript, and responds as it says.

    :param moved: turns a URL of the real server into one of this machine.
    """

    def __init__(self, transcript: dict[str, Any], moved: Callable[[str], str]) -> None:
        self.transcript = transcript
        self.moved = moved
        self.expected: list[dict[str, Any]] = []
        self.faults: list[str] = []
        self.thumbprints: set[str] = set()
        self.identifiers: list[str] = []

    def respond(self, request: Received) -> Response:
        """Judge one request."""
        if not self.expected:
            self.faults.append(f"one request more than in the transcript: {request.line}")
            return Response(500)
        exchange = self.expected.pop(0)
        try:
            self._check(exchange, request)
        except AssertionError as error:
            self.faults.append(f"{exchange['request']}: {error}")
        body = json.dumps(exchange["json"]).encode() if "json" in exchange else exchange.get("body", "").encode()
        headers = [("Content-Type", "application/json"), *exchange.get("headers", {}).items()]
        return Response(exchange["status"], headers, body)

    def _check(self, exchange: dict[str, Any], request: Received) -> None:
        method, url = exchange["request"].split(" ")
        assert (request.method, request.target) == (method, urlsplit(url).path), request.line
        for name, value in exchange.get("sends", {}).items():
            assert request.one(name) == value, f"{name}: {request.all(name)}"
        form = dict(parse_qsl(request.body.decode()))
        for name, value in exchange.get("form", {}).items():
            assert form.get(name) == value, f"{name} is {form.get(name)}"
        for name in exchange.get("without", []):
            assert name not in form, name
        if exchange.get("proof", True):
            self._check_proof(exchange, request)
        else:
            assert request.all("DPoP") == [], "a proof"
        if "assertion" in exchange:
            self._check_assertion(exchange["assertion"], form["client_assertion"])

    def _check_proof(self, exchange: dict[str, Any], request: Received) -> None:
        proof = request.one("DPoP")
        header, claims = _verified(proof, request.jwk)
        assert header["typ"] == "dpop+jwt"
        assert header["alg"] in self.transcript["algs"], header["alg"]
        assert set(request.jwk) == {"kty", "crv", "x", "y"}
        self.thumbprints.add(PublicKey.from_jwk(request.jwk).thumbprint)
        assert len(self.thumbprints) == 1, "another key"
        method, url = exchange["request"].split(" ")
        assert (claims["htm"], claims["htu"]) == (method, self.moved(url)), claims["htu"]
        assert isinstance(claims["iat"], int)
        assert abs(claims["iat"] - time.time()) < 60
        expected = dict(exchange.get("claims", {}))
        code = expected.pop("jti_of_code", None)
        if code is None:
            assert claims["jti"] not in self.identifiers, "a jti twice"
        else:
            assert claims["jti"] == _digest(code), "another jti than that of the code"
        self.identifiers.append(claims["jti"])
        assert claims.get("nonce") == expected.pop("nonce", None), claims.get("nonce")
        token = expected.pop("ath_of", None)
        assert claims.get("ath") == (None if token is None else _digest(token)), "ath"
        life = expected.pop("life", None)
        assert ("exp" in claims) == (life is not None), "exp"
        assert life is None or claims["exp"] - claims["iat"] == life, claims["exp"]
        assert not expected, expected

    def _check_assertion(self, expected: dict[str, Any], assertion: str) -> None:
        header, claims = _verified(assertion, dict(_CLIENT_KEY.public_jwk))
        assert claims["iss"] == claims["sub"] == "client", claims
        assert claims["aud"] == self.moved(expected["aud"]), claims["aud"]
        assert header.get("typ") == expected["typ"], header
        assert 0 < claims["exp"] - claims["iat"] <= expected["longest"], claims
        assert ("nbf" in claims) == expected.get("nbf", False), claims
        assert claims["jti"] not in self.identifiers, "an assertion twice"
        self.identifiers.append(claims["jti"])


class _Client:
    """The library, set up with a profile, which makes the steps of a transcript.

    :param urls: the server's addresses.
    """

    def __init__(
        self, profile: str, urls: dict[str, str], secret: str | None, client_id: str, key_client: bool
    ) -> None:
        key = dpop.generate_key()
        if key_client:
            settings: dict[str, Any] = {"client_auth": PrivateKeyJWT(client_id, _CLIENT_KEY, kid="client-key")}
        else:
            settings = {"client_id": client_id, "client_secret": secret}
            if secret is not None:
                settings["client_auth"] = "client_secret_post"
        self.api = urls.pop("api", "")
        self.endpoint = TokenEndpoint(key, ServerMetadata(**urls), profile=profile, **settings)
        self.session = requests.Session()
        self.session.trust_env = False
        self.tokens = TokenSet(access_token="none")
        origin = "{0.scheme}://{0.netloc}".format(urlsplit(self.api)) if self.api else "http://127.0.0.1:9"
        adapter = DPoPAdapter(
            self.endpoint.prover, origins=origin, access_token=lambda: self.tokens.access_token, profile=profile
        )
        self.session.mount("http://", adapter)
        self.url = ""

    def do(self, step: dict[str, Any]) -> str:
        """Make one step; return what came of it, as the transcript says it."""
        try:
            return str(getattr(self, step["do"])(step))
        except DPoPError as error:
            return type(error).__name__

    def authorize(self, step: dict[str, Any]) -> str:
        request = self.endpoint.start_authorization(_REDIRECT_URI, scope="read")
        self.url = request.url
        asked = parse_qs(urlsplit(request.url).query)
        for name, present in step.get("url", {}).items():
            assert (name in asked) == present, f"{name}: {request.url}"
        self.verifier = request.code_verifier
        return "a URL"

    def code(self, step: dict[str, Any]) -> str:
        self.tokens = self.endpoint.redeem_code(
            step["code"], redirect_uri=_REDIRECT_URI, code_verifier=step.get("verifier", _VERIFIER)
        )
        return self.tokens.token_type

    def refresh(self, step: dict[str, Any]) -> str:
        self.tokens = self.endpoint.refresh(step.get("token") or self.tokens)
        return self.tokens.token_type

    def grant(self, _: dict[str, Any]) -> str:
        self.tokens = self.endpoint.grant("client_credentials", scope="read")
        return self.tokens.token_type

    def call(self, _: dict[str, Any]) -> str:
        if self.tokens.token_type == "Bearer":
            headers = {"Authorization": f"Bearer {self.tokens.access_token}"}
            plain = requests.Session()
            plain.trust_env = False
            with plain:
                return str(plain.get(self.api, headers=headers, timeout=60).status_code)
        return str(self.session.get(self.api, timeout=60).status_code)

    def revoke(self, _: dict[str, Any]) -> str:
        self.endpoint.revoke(self.tokens)
        return "None"

    def close(self) -> None:
        self.session.close()
        self.endpoint.close()


def played(transcript: dict[str, Any]) -> Iterator[str]:
    """Speak to a server that does as the transcript says; yield each difference from it."""
    with Recorder(script(Response(500))) as recorder:

        def moved(url: str) -> str:
            parts = urlsplit(url)
            return recorder.origin + parts.path if parts.path not in {"", "/"} else recorder.origin

        judge = _Judge(transcript, moved)
        recorder.handler = judge.respond
        urls = {name: moved(url) for name, url in transcript["server"].items()}
        kind = transcript["client"]
        secret = "client-secret" if kind == "secret" else None
        client = _Client(transcript["profile"], urls, secret, "client", kind == "key")
        with contextlib.closing(client):
            for number, step in enumerate(transcript["step"], 1):
                judge.expected = [*step.get("exchange", [])]
                came = client.do(step)
                if came != step["gives"]:
                    yield f"step {number}, {step['do']}: {came} instead of {step['gives']}"
                yield from (f"step {number}, {step['do']}: {fault}" for fault in judge.faults)
                yield from (f"step {number}, {step['do']}: not sent: {each['request']}" for each in judge.expected)
                judge.faults = []


def rehearsed(
    transcript: dict[str, Any],
) -> Iterator[tuple[list[tuple[int, str | None]], list[tuple[int, str | None]]]]:
    """Make the same steps at the test server of that mode; yield the expected and the seen responses of each."""
    kind = transcript["client"]
    levers = transcript.get("levers", {})
    jwk = dict(_CLIENT_KEY.public_jwk)
    with DPoPTestServer(mode=transcript["profile"], client_key=jwk, **levers) as server:
        client_id = server.public_client_id if kind == "public" else server.client_id
        places = {
            "issuer": server.issuer,
            "api": server.resource,
            "token_endpoint": server.token_endpoint,
            "authorization_endpoint": server.authorization_endpoint,
            "pushed_authorization_request_endpoint": server.par_endpoint,
            "revocation_endpoint": server.revocation_endpoint,
        }
        urls = {name: places[name] for name in transcript["server"]}
        secret = server.client_secret if kind == "secret" else None
        client = _Client(transcript["profile"], urls, secret, client_id, kind == "key")
        with contextlib.closing(client):
            for step in transcript["step"]:
                if not step.get("rehearse", True):
                    continue
                expected = [(each["status"], each.get("json", {}).get("error")) for each in step.get("exchange", [])]
                done = dict(step)
                if step["do"] == "code":
                    done |= _code(server, client, client_id)
                server.reset()
                before = client.tokens.refresh_token
                came = client.do(done)
                if step["do"] == "refresh" and step.get("exchange"):  # whether a new refresh token came
                    rotates = "refresh_token" in step["exchange"][-1].get("json", {})
                    assert (client.tokens.refresh_token != before) == rotates, "rotation"
                refusals = [refusal.error for refusal in server.refusals]
                seen = [
                    (request.status, refusals.pop(0) if request.status >= 400 else None) for request in server.requests
                ]
                if step["do"] == "call":  # the challenge says it, and not the body
                    seen = [(status, None) for status, _ in seen]
                yield [*expected, (0, step["gives"])], [*seen, (0, came)]


def _code(server: DPoPTestServer, client: _Client, client_id: str) -> dict[str, str]:
    """The code of a user who agrees to the authorization request made before, or of one who has agreed already."""
    if not client.url:
        return {"code": server.issue_code(redirect_uri=_REDIRECT_URI, client_id=client_id)}
    with requests.Session() as browser:
        browser.trust_env = False
        back = browser.get(client.url, allow_redirects=False, timeout=60).headers["Location"]
    return {"code": parse_qs(urlsplit(back).query)["code"][0], "verifier": client.verifier}
