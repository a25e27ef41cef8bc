# SPDX-License-Identifier: Apache-2.0
"""Keys of the agent that authenticate an OAuth client: what they sign, and logins of such clients."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from support.agents import Running, agent_running, rules_of
from support.cli_process import invoke
from support.recorder import Received, Recorder, Response

import dpop
from dpop.agent import AgentLogins, AgentTokens
from dpop.encoding import b64url_decode, json_object
from dpop.errors import AgentRefusedError, UsageError
from dpop.keys import Key, PublicKey
from dpop.requests import TokenEndpoint
from dpop.tokens import PrivateKeyJWT, ServerMetadata

AS = "https://as.example"
CLIENT = "my-app"


@pytest.fixture
def running(folder: Path) -> Iterator[Running]:
    """An agent with a key for proofs, ``work``, and one of a client, ``app``."""
    with agent_running(folder, rules_of(folder), rules_of(folder, "app", origins=[AS], client_id=CLIENT)) as made:
        yield made


def assertion_of(form: bytes) -> str:
    """The assertion in the body of a request."""
    fields = dict(parse_qsl(form.decode()))
    assert fields["client_assertion_type"].endswith("jwt-bearer")
    return fields["client_assertion"]


def opened(assertion: str, key: Key) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims of an assertion, whose signature verifies."""
    data, _, signature = assertion.rpartition(".")
    assert PublicKey.from_jwk(key.public_jwk).verify(key.alg, data.encode(), b64url_decode(signature))
    header, claims = (json_object(b64url_decode(part)) for part in data.split("."))
    return header, claims


def good() -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and payload of an assertion that the agent signs."""
    now = int(time.time())
    payload = {"iss": CLIENT, "sub": CLIENT, "aud": f"{AS}/token", "jti": "j" * 22, "iat": now, "exp": now + 60}
    return {"typ": "JWT", "alg": "ES256", "kid": "k1"}, payload


def signed(key: Key, header: object, payload: object) -> bytes:
    """Have these signed."""
    parts = (base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=") for each in (header, payload))
    return key.sign(b".".join(parts))


def test_an_assertion(running: Running) -> None:
    """The library's own class signs with it, and each assertion is on record."""
    key = running.key("app")
    auth = PrivateKeyJWT(CLIENT, key, kid="k1", audience=[AS, f"{AS}/token"])
    header, claims = opened(auth.parameters("", time.time())["client_assertion"], key)
    assert (header["kid"], claims["sub"], claims["aud"]) == ("k1", CLIENT, [AS, f"{AS}/token"])
    (event,) = running.audited
    assert (event["event"], event["client_id"], event["jti"]) == ("signed", CLIENT, claims["jti"])
    assert len(signed(key, *good())) == 64


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"iss": "other"}, "client"),
        ({"sub": "other"}, "client"),
        ({"aud": "https://evil.example/token"}, "origin"),
        ({"aud": [AS, "https://evil.example"]}, "origin"),
        ({"aud": "https://as.example@evil.example/"}, "origin"),
        ({"aud": []}, "no_assertion"),
        ({"aud": [AS] * 9}, "no_assertion"),
        ({"aud": {"a": AS}}, "no_assertion"),
        ({"aud": "my-app"}, "no_assertion"),
        ({"iat": 0}, "no_assertion"),
        ({"iat": 10**400}, "no_assertion"),
        ({"iat": True}, "no_assertion"),
        ({"exp": 4_000_000_000}, "no_assertion"),
        ({"exp": 1}, "no_assertion"),
        ({"nbf": 1}, "no_assertion"),
        ({"jti": ""}, "no_assertion"),
        ({"jti": ["j"]}, "no_assertion"),
        ({"scope": "admin"}, "no_assertion"),
        ({"cnf": {"jkt": "t"}}, "no_assertion"),
    ],
    ids=map(str, range(19)),
)
def test_a_payload_that_is_no_assertion_of_this_client(running: Running, change: dict[str, Any], reason: str) -> None:
    """For another client or server, for long, or with more in it than it needs: it is not signed."""
    header, payload = good()
    with pytest.raises(AgentRefusedError) as refused:
        signed(running.key("app"), header, payload | change)
    assert refused.value.reason == reason


@pytest.mark.parametrize("ahead", [-60, 60])
def test_an_assertion_for_another_time(running: Running, ahead: int) -> None:
    """It is made for now, as a proof is."""
    header, payload = good()
    moved = {name: payload[name] + ahead for name in ("iat", "exp")}
    with pytest.raises(AgentRefusedError) as refused:
        signed(running.key("app"), header, payload | moved)
    assert refused.value.reason == "iat"


@pytest.mark.parametrize(
    "header",
    [
        {"typ": "dpop+jwt"},
        {"typ": "at+jwt"},
        {"typ": ["JWT"]},
        {"kid": {"a": 1}},
        {"kid": ""},
        {"jwk": {"kty": "EC"}},
        {"crit": ["b64"], "b64": False},
        {"alg": "ES384"},
    ],
    ids=map(str, range(8)),
)
def test_a_header_of_no_assertion(running: Running, header: dict[str, Any]) -> None:
    """An access token or anything else by the key of the client is not signed."""
    usual, payload = good()
    with pytest.raises(AgentRefusedError) as refused:
        signed(running.key("app"), usual | header, payload)
    assert refused.value.reason in {"no_assertion", "key_mismatch"}


def test_neither_key_does_the_work_of_the_other(running: Running, folder: Path) -> None:
    """A key for proofs signs no assertion, one of a client no proof, and none can be both."""
    with pytest.raises(AgentRefusedError) as refused:
        dpop.create_proof(running.key("app"), "GET", f"{AS}/me")
    assert refused.value.reason == "no_assertion"
    with pytest.raises(AgentRefusedError) as refused:
        signed(running.key("work"), *good())
    assert refused.value.reason == "no_proof"
    both = rules_of(folder, "both", client_id=CLIENT)
    (folder / "both.pem").write_bytes((folder / "work.pem").read_bytes())
    with pytest.raises(UsageError, match="a key of its own"), agent_running(folder, rules_of(folder), both):
        pass


class Server:
    """An authorization server that takes nobody without an assertion, which it verifies, and each of them once."""

    def __init__(self, work: Key, app: Key) -> None:
        self.work = work
        self.app = app
        self.claims: list[dict[str, Any]] = []
        self.headers: list[dict[str, Any]] = []

    def __call__(self, request: Received) -> Response:
        header, claims = opened(assertion_of(request.body), self.app)
        assert dpop.thumbprint(request.jwk) == self.work.thumbprint
        assert claims["jti"] not in {each["jti"] for each in self.claims}
        self.headers.append(header)
        self.claims.append(claims)
        if request.nonce != "n1":
            return Response(400, [("DPoP-Nonce", "n1")], b'{"error": "use_dpop_nonce"}')
        number = len(self.claims)
        told = {"access_token": f"at-{number}", "token_type": "DPoP", "refresh_token": f"rt-{number}", "expires_in": 9}
        return Response(200, [], json.dumps(told).encode())


@pytest.fixture
def keys(folder: Path) -> tuple[Key, Key]:
    """Both keys, as files."""
    for name in ("work", "app"):
        rules_of(folder, name)
    return dpop.load_key(folder / "work.pem"), dpop.load_key(folder / "app.pem")


def test_a_login_whose_client_authenticates_by_assertions(folder: Path, keys: tuple[Key, Key]) -> None:
    """Each refresh, and each try of one, has an assertion of its own by the client's key, and a proof by the other."""
    server = Server(*keys)
    with Recorder(server) as recorder:
        rules = [rules_of(folder, origins=[recorder.origin])]
        rules.append(rules_of(folder, "app", origins=[recorder.origin], client_id=CLIENT))
        members = {
            "account": "work",
            "key": "work",
            "token_endpoint": recorder.url("/token"),
            "client_id": CLIENT,
            "access_token": "at-0",
            "token_type": "DPoP",
            "refresh_token": "rt-0",
            "expires_at": 1,
            "client_auth": "private_key_jwt",
            "client_key": "app",
            "client_assertion": {"kid": "k1", "typ": "JWT", "aud": recorder.origin, "exp": 30, "nbf": -5},
        }
        for wrong in ({"client_key": "none"}, {"client_key": "work"}, {"client_id": "other"}, {"key": "app"}):
            with agent_running(folder, *rules, logins=AgentLogins(folder / "logins", TokenEndpoint)) as running:
                with running.client() as agent, pytest.raises(dpop.DPoPError):
                    agent.request("login", **(members | wrong))
        with agent_running(folder, *rules, logins=AgentLogins(folder / "logins", TokenEndpoint)) as running:
            with running.client() as agent:
                agent.request("login", **members)
            assert AgentTokens("work", client=running.client())() == "at-2"
        # After a restart, too.
        with agent_running(folder, *rules, logins=AgentLogins(folder / "logins", TokenEndpoint)) as running:
            assert AgentTokens("work", client=running.client()).renew() == "at-4"
    assert [header["kid"] for header in server.headers] == ["k1"] * 4
    assert {(each["aud"], each["exp"] - each["iat"], each["nbf"] - each["iat"]) for each in server.claims} == {
        (recorder.origin, 30, -5)
    }


def test_dpop_login(folder: Path, keys: tuple[Key, Key], monkeypatch: pytest.MonkeyPatch) -> None:
    """The command logs in with the agent's two keys, has neither of them, and the agent goes on with both."""
    server = Server(*keys)
    with Recorder(server) as recorder:
        rules = [rules_of(folder, origins=[recorder.origin])]
        rules.append(rules_of(folder, "app", origins=[recorder.origin], client_id=CLIENT))
        facts = {"client_id": CLIENT, "token_endpoint": recorder.url("/token")}
        (folder / "client.json").write_text(json.dumps({**facts, "client_assertion": {"kid": "k7"}}), "ascii")
        with agent_running(folder, *rules, logins=AgentLogins(folder / "logins", TokenEndpoint)) as running:
            monkeypatch.setenv("DPOP_AGENT_SOCK", str(running.path))
            words = [
                "login",
                "--agent",
                "--client-credentials",
                "-k",
                "agent:work",
                "--client",
                f"{folder}/client.json",
            ]
            done = invoke(*words, "--client-key", "agent:app")
            assert done.exit_code == 0, done.stderr
            assert AgentTokens("work").renew() == f"at-{len(server.claims)}"
            wrong = invoke(*words, "--client-key", f"{folder}/app.pem")
            assert (wrong.exit_code, "--client-key agent:NAME" in " ".join(wrong.stderr.split())) == (2, True)
            wrong = invoke(*words, "--client-key", "agent:app", "--client-claim", "x=1")
            assert (wrong.exit_code, "can be told aud, exp, kid" in " ".join(wrong.stderr.split())) == (2, True)
    assert {header["kid"] for header in server.headers} == {"k7"}


def test_the_library_logs_in_with_both_keys(folder: Path, keys: tuple[Key, Key]) -> None:
    """Without a login in the agent: a program that has neither key authenticates, and gets bound tokens."""
    server = Server(*keys)
    with Recorder(server) as recorder:
        rules = [rules_of(folder, origins=[recorder.origin])]
        rules.append(rules_of(folder, "app", origins=[recorder.origin], client_id=CLIENT))
        metadata = ServerMetadata(token_endpoint=recorder.url("/token"), issuer=recorder.origin)
        with (
            agent_running(folder, *rules) as running,
            TokenEndpoint(running.key(), metadata, client_auth=PrivateKeyJWT(CLIENT, running.key("app"))) as endpoint,
        ):
            assert endpoint.grant("client_credentials").access_token == "at-2"
