# SPDX-License-Identifier: Apache-2.0
"""Clients of the command line that authenticate by a key or a certificate of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from support.authority import make_authority
from support.cli_process import invoke
from support.recorder import Received, Recorder, Response

import dpop
from dpop.encoding import b64url_decode, json_object
from dpop.keys import PublicKey

TOKENS = b'{"access_token":"a","token_type":"DPoP","refresh_token":"r"}'
LOGIN = ("login", "--client-credentials", "-k", "key.pem")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dpop.generate_key().save("key.pem")
    Path("app").mkdir()
    dpop.generate_key("Ed25519").save("app/own.pem")
    Path("password").write_text("hush", "ascii")
    dpop.generate_key("ES384").save("sealed.pem", password="hush")


@pytest.fixture
def server() -> Iterator[Recorder]:
    """A server that gives tokens to everybody."""
    with Recorder(lambda _: Response(200, [], TOKENS)) as recorder:
        yield recorder


def client_file(server: Recorder, **members: Any) -> tuple[str, str]:
    """The options that name a client, in a folder of its own."""
    Path("app/client.json").write_text(
        json.dumps({"client_id": "c", "token_endpoint": server.url("/token"), **members}), "ascii"
    )
    return "--client", "app/client.json"


def claims_of(request: Received, key_file: str, password: str | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims of the assertion in a request, whose signature verifies."""
    key = dpop.load_key(key_file, password=password)
    form = dict(parse_qsl(request.body.decode()))
    data, _, signature = form["client_assertion"].rpartition(".")
    assert PublicKey.from_jwk(key.public_jwk).verify(key.alg, data.encode(), b64url_decode(signature))
    header, claims = (json_object(b64url_decode(part)) for part in data.split("."))
    return header, claims


def test_the_client_file_names_key_and_claims(server: Recorder) -> None:
    """The key's path counts from the folder of the file; exp and nbf are seconds from now."""
    details = [{"type": "account"}]
    assertion = {"typ": "JWT", "kid": "k1", "aud": ["a", "b"], "exp": 30, "nbf": -10, "authorization_details": details}
    options = client_file(
        server, token_endpoint_auth_method="private_key_jwt", client_key="own.pem", client_assertion=assertion
    )
    done = invoke(*LOGIN, *options)
    assert done.exit_code == 0, done.stderr
    header, claims = claims_of(server.requests[0], "app/own.pem")
    assert header == {"alg": "Ed25519", "typ": "JWT", "kid": "k1"}
    assert (claims["aud"], claims["authorization_details"]) == (["a", "b"], details)
    assert (claims["exp"] - claims["iat"], claims["nbf"] - claims["iat"]) == (30, -10)
    # So it goes on: a refresh, and the end, with assertions of their own.
    assert invoke("token", "refresh", *options).exit_code == 0
    assert claims_of(server.requests[1], "app/own.pem")[1]["jti"] != claims["jti"]


def test_options_name_key_and_claims(server: Recorder) -> None:
    """Options count more than the file; a value is JSON, or text."""
    options = client_file(server, client_key="own.pem", client_assertion={"aud": "a", "x": 1})
    done = invoke(
        *LOGIN, *options, "--client-key", "sealed.pem", "--client-key-password-file", "password",
        "--client-claim", "aud=https://as.example", "--client-claim", 'cnf={"jkt": "t"}', "--client-claim", "kid=7a",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    header, claims = claims_of(server.requests[0], "sealed.pem", "hush")
    assert (header["alg"], header["kid"]) == ("ES384", "7a")
    assert (claims["aud"], claims["cnf"], claims["x"]) == ("https://as.example", {"jkt": "t"}, 1)


def test_a_certificate(tmp_path: Path) -> None:
    """It is shown in the handshake, by an option or by the file, to the server's alias."""
    authority = make_authority(tmp_path / "app")
    env = {"REQUESTS_CA_BUNDLE": authority.ca}
    with Recorder(lambda _: Response(200, [], TOKENS), tls=authority.server_context(want_client=True)) as server:
        endpoint = ("--token-endpoint", server.url("/token"), "--client-id", "c")
        done = invoke(*LOGIN, *endpoint, "--client-certificate", authority.client, env=env)
        assert done.exit_code == 0, done.stderr
        options = client_file(
            server,
            token_endpoint_auth_method="self_signed_tls_client_auth",
            client_certificate=Path(authority.client).name,
        )
        assert invoke(*LOGIN, *options, env=env).exit_code == 0
        assert invoke(*LOGIN, *endpoint, env=env).exit_code == 1  # without one the server hangs up
        forms = [dict(parse_qsl(request.body.decode())) for request in server.requests]
    assert forms == [{"grant_type": "client_credentials", "client_id": "c"}] * 2


@pytest.mark.parametrize(
    ("members", "options", "words"),
    [
        ({"token_endpoint_auth_method": "private_key_jwt"}, [], "needs the client's key"),
        ({"token_endpoint_auth_method": "tls_client_auth"}, [], "needs the client's certificate"),
        ({"client_key": 5}, [], "must be a path"),
        ({"client_assertion": "x"}, [], "must be an object of claims"),
        ({"client_key": "own.pem", "client_assertion": {"exp": "x"}}, [], "a number of seconds from now"),
        ({"client_key": "own.pem", "client_assertion": {"typ": 5}}, [], "must be text"),
        ({"client_key": "own.pem", "client_secret": "s"}, [], "a secret and a key of its own"),
        ({"client_certificate": "nowhere.pem"}, [], "there is no file app/nowhere.pem"),
        ({}, ["--client-claim", "aud=x"], "belong to --client-key"),
        ({}, ["--client-key", "app/own.pem", "--client-claim", "aud"], "expects NAME=VALUE"),
        ({}, ["--client-key", "key.pem"], "use another"),
        ({}, ["--client-key", "app/own.pem", "--client-certificate", "x"], "use one"),
        ({}, ["--client-certificate-key", "x"], "which is missing"),
    ],
)
def test_what_contradicts_itself(server: Recorder, members: dict[str, Any], options: list[str], words: str) -> None:
    """It is said, and nothing is sent."""
    done = invoke(*LOGIN, *client_file(server, **members), *options)
    assert done.exit_code == 2
    assert words in " ".join(done.stderr.split())
    assert server.requests == []


def test_the_password_of_the_clients_key_is_named_by_its_option(server: Recorder) -> None:
    """Where nobody can be asked, the error names the options for this key, and not those of the other."""
    done = invoke(*LOGIN, *client_file(server), "--client-key", "sealed.pem")
    assert done.exit_code == 3
    assert "--client-key-password-file" in done.stderr
