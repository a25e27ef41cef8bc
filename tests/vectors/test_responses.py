# SPDX-License-Identifier: Apache-2.0
"""The vectors of whole requests: the test server responds as each says, over the wire, and clients react so."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
from support.paths import VECTORS

import dpop
from dpop.client._challenge import _challenges
from dpop.errors import ReplayCacheError
from dpop.httpx2 import DPoPTransport
from dpop.server import InvalidProof, MemoryReplayCache, NonceVerdict, ProofVerifier, resource_challenge
from dpop.testing import DPoPTestServer
from dpop.testing._store import AccessToken, Code, RefreshToken

DOCUMENT: dict[str, Any] = json.loads((VECTORS / "responses.json").read_text(encoding="ascii"))
CASES: dict[str, dict[str, Any]] = {case["id"]: case for case in DOCUMENT["cases"]}
OF_SERVERS = [name for name, case in CASES.items() if case["role"] != "client"]
OF_CLIENTS = [name for name, case in CASES.items() if case["role"] == "client"]
NOW, ORIGIN = DOCUMENT["now"], DOCUMENT["origin"]


class ListedNonces:
    """The nonces of a case, in place of those the test server makes."""

    used = None

    def __init__(self, listed: list[str]) -> None:
        self._listed = listed

    def issue(self, jkt: str | None = None) -> str:
        """One that is listed."""
        return self._listed[0]

    def check(self, nonce: str, jkt: str) -> NonceVerdict | None:
        """Whether it is listed."""
        return NonceVerdict(None, NOW + 60) if nonce in self._listed else None

    def next_for(self, nonce: str | None, jkt: str | None) -> str | None:
        """No other."""
        return None

    def accepted(self) -> None:
        """It stays the same."""


class NoReplayCache:
    """A replay cache that cannot be reached."""

    def add(self, key: str, expires_at: float) -> bool:
        """Fail closed."""
        raise ReplayCacheError("the replay cache cannot be reached")


@contextmanager
def server_of(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[DPoPTestServer]:
    """A server that has issued what the document lists, and is as the case says."""
    special = case.get("server", {})
    if "nonces" in special:
        listed = ListedNonces(special["nonces"])
        monkeypatch.setattr("dpop.testing._gate.NonceBook", lambda *_args, **_more: listed)
    if special.get("replay_cache") == "down":
        monkeypatch.setattr("dpop.testing._server.SteeredReplayCache", lambda *_: NoReplayCache())
    client_id = DOCUMENT["client_id"]
    server = DPoPTestServer(
        public_origin=ORIGIN,
        client_id=client_id.removesuffix("-public"),
        algs=DOCUMENT["limits"]["algs"],
        clock=lambda: NOW,
        nonces="rotating" if "nonces" in special else "none",
        required_scope=special.get("scope"),
        require_proof=special.get("dpop_bound_access_tokens", False),
    )
    for value, token in DOCUMENT["tokens"].items():
        if not token.get("revoked") and token.get("audience", ORIGIN) == ORIGIN:
            expires_at = token.get("expires_at", NOW + 600)
            server._store.add_access_token(
                AccessToken(value, client_id, "alice", "read", value, NOW - 60, expires_at, token.get("cnf"))
            )
    for value, grant in DOCUMENT["grants"].items():
        if grant["kind"] == "code":
            server._store.add_code(Code(value, client_id, "alice", "read", value, jkt=grant.get("jkt")))
        else:
            server._store.add_refresh_token(RefreshToken(value, client_id, "alice", "read", value, grant["jkt"]))
    with server:
        yield server


def ask(server: DPoPTestServer, request: dict[str, Any]) -> tuple[int, list[tuple[str, str]], bytes]:
    """Send a request as it stands: its fields, and those without which there is no HTTP."""
    assert server._http is not None
    host, _, port = server._http.authority.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    try:
        connection.putrequest(
            request["method"], request["url"].removeprefix(ORIGIN), skip_host=True, skip_accept_encoding=True
        )
        body = request["body"].encode()
        fields = [["Host", ORIGIN.removeprefix("https://")], *request["headers"]]
        for name, value in [*fields, ["Content-Length", str(len(body))]]:
            connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        return response.status, response.getheaders(), response.read()
    finally:
        connection.close()


def check(expected: dict[str, Any], status: int, headers: list[tuple[str, str]], body: bytes) -> None:
    """Compare a response with what the vector says of it."""
    assert status == expected["status"]
    assert status < 500 or len(expected) == 1
    if "challenges" in expected:
        lines = [value for name, value in headers if name.lower() == "www-authenticate"]
        challenges = {scheme.lower(): dict(parameters) for scheme, parameters in _challenges(", ".join(lines))}
        assert sorted(challenges) == sorted(entry["scheme"].lower() for entry in expected["challenges"])
        for entry in expected["challenges"]:
            parameters = challenges[entry["scheme"].lower()]
            for name, value in entry.items():
                assert name == "scheme" or parameters.get(name) == value
        assert "ES256" in challenges["dpop"]["algs"].split()  # RFC 9449 §7.1
        assert ("Cache-Control", "no-store") in headers
    if "error" in expected:
        assert json.loads(body)["error"] == expected["error"]
    if "token_type" in expected:
        assert json.loads(body)["token_type"] == expected["token_type"]
    if "nonce" in expected:
        assert any(name.lower() == "dpop-nonce" for name, _ in headers) == expected["nonce"]


@pytest.mark.parametrize("name", OF_SERVERS)
def test_the_server_responds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request gets the status, the challenges and the error of its case."""
    case = CASES[name]
    if name == "rs-step-up":
        return  # the next test
    with server_of(case, monkeypatch) as server:
        for step in case["steps"]:
            check(step["response"], *ask(server, step["request"]))


def test_step_up_has_the_shape_of_its_case() -> None:
    """Which user authentication is enough is for an API to decide; the response is this package's."""
    case = CASES["rs-step-up"]
    (step,) = case["steps"]
    fields = [(name, value) for name, value in step["request"]["headers"] if name == "DPoP"]
    verifier = ProofVerifier(replay=MemoryReplayCache(clock=lambda: NOW), clock=lambda: NOW)
    jkt = DOCUMENT["tokens"]["token.bound"]["cnf"]["jkt"]
    verifier.verify_resource(fields, "GET", step["request"]["url"], access_token="token.bound", bound_jkt=jkt)
    error = InvalidProof("insufficient_user_authentication", "acr", "a stronger authentication is needed")
    check(
        step["response"],
        *resource_challenge(error, algs=verifier.algs, bearer=True, parameters=case["server"]),
        b"",
    )


@pytest.mark.parametrize("name", OF_CLIENTS)
def test_a_client_reacts(name: str) -> None:
    """The request that follows a response, if any: where to, with a proof of its own or none."""
    case, sent = CASES[name], []

    def respond(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        first = case["response"] if len(sent) == 1 else {"status": 200, "headers": []}
        return httpx2.Response(first["status"], headers=[tuple(field) for field in first["headers"]])

    key, token = dpop.generate_key(), case["request"]["access_token"]
    transport = DPoPTransport(key, origins=ORIGIN, access_token=token, transport=httpx2.MockTransport(respond))
    with httpx2.Client(transport=transport, follow_redirects=True, timeout=60) as client:
        client.request(case["request"]["method"], case["request"]["url"])
    following = case["next"]
    assert len(sent) == (1 if following is None else 2)
    if following is None:
        return
    first, second = sent
    assert (second.method, str(second.url)) == (following["method"], following["url"])
    assert ("Authorization" in second.headers) == following["token"]
    assert ("DPoP" in second.headers) == following["proof"]
    if following["proof"]:
        nonce = following.get("nonce")
        verifier = ProofVerifier(replay=MemoryReplayCache(), nonces=ListedNonces([nonce]) if nonce else None)
        verifier.verify_resource(
            second.headers.items(),
            following["method"],
            following["url"],
            access_token=token,
            bound_jkt=key.thumbprint,
        )
        assert first.headers["DPoP"] != second.headers["DPoP"]
