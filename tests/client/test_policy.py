# SPDX-License-Identifier: Apache-2.0
"""What an adapter accepts as its settings, and what it makes of a request."""

from __future__ import annotations

from typing import Any

import pytest

import dpop
from dpop.client._flow import ProofFlow
from dpop.client._nonces import Role
from dpop.client._policy import Policy, headers_to_withhold
from dpop.client._prover import Prover
from dpop.client._request import OutgoingRequest, RequestCredentials
from dpop.errors import (
    AlgorithmError,
    ArgumentTypeError,
    CredentialError,
    DPoPError,
    InsecureOriginError,
    InvalidTargetError,
    UsageError,
)

KEY = dpop.generate_key()


@pytest.mark.parametrize(
    "origins",
    [
        "https://api.example",
        ["https://api.example/", "https://b.example:8443"],
        "http://127.0.0.1:8080",
        "http://[::1]",
        "http://localhost:1",
    ],
)
def test_origins_that_are_accepted(origins: Any) -> None:
    """https, and this machine's own http."""
    Policy(KEY, origins=origins)


@pytest.mark.parametrize(
    ("origins", "error"),
    [
        ([], UsageError),
        ("", InvalidTargetError),
        ("api.example", InvalidTargetError),
        ("https://api.example/path", InvalidTargetError),
        ("https://user@api.example", InvalidTargetError),
        ("https://*.example", InvalidTargetError),
        ("ftp://api.example", InvalidTargetError),
        ("http://api.example", InsecureOriginError),
        ("http://127.0.0.1.evil.test", InsecureOriginError),
        (None, ArgumentTypeError),
        (5, ArgumentTypeError),
        ([5], ArgumentTypeError),
        (b"https://api.example", ArgumentTypeError),
    ],
)
def test_origins_that_are_refused(origins: Any, error: type[DPoPError]) -> None:
    """A path, userinfo, a wildcard, plain http elsewhere, or a wrong type: an error that says what to do."""
    with pytest.raises(error):
        Policy(KEY, origins=origins)


def test_insecure_origins_are_named_one_by_one() -> None:
    """Plain http is allowed only for the origin that is listed."""
    Policy(KEY, origins="http://api.internal", insecure_origins="http://api.internal")
    with pytest.raises(InsecureOriginError):
        Policy(KEY, origins="http://other.internal", insecure_origins="http://api.internal")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"access_token": "to ken"}, CredentialError),
        ({"access_token": b"token"}, ArgumentTypeError),
        ({"access_token": 5}, ArgumentTypeError),
        ({"profile": "GOOGLE"}, UsageError),
        ({"profile": 5}, ArgumentTypeError),
        ({"nonces": "always"}, UsageError),
        ({"algs": ["RS256"]}, AlgorithmError),
        ({"algs": []}, AlgorithmError),
        ({"algs": "HS256 none"}, AlgorithmError),
        ({"profile": dpop.profiles.Profile("x", algs=("PS256",))}, AlgorithmError),
        ({"as_endpoints": ["/token"]}, InvalidTargetError),
        ({"unknown": 1}, TypeError),
    ],
)
def test_settings_that_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    """A setting that cannot work is refused when it is made, not when a request is on its way."""
    with pytest.raises(error):
        Policy(KEY, origins="https://api.example", **options)


@pytest.mark.parametrize("prover", [None, "key.pem", object(), {"kty": "EC"}])
def test_what_is_no_key(prover: Any) -> None:
    """A path or a JWK is not a key yet: the error says what is."""
    with pytest.raises(ArgumentTypeError, match="load_key"):
        Policy(prover, origins="https://api.example")


def test_a_key_takes_the_name_the_server_lists() -> None:
    """Ed25519 under its old name, RSA under the padding the server wants; nonces stay shared."""
    prover = Prover(dpop.generate_key("Ed25519"))
    policy = Policy(prover, origins="https://api.example", algs=["RS256", "EdDSA"])
    assert policy.prover.key.alg == "EdDSA"
    assert policy.prover.nonces is prover.nonces
    assert Policy(prover, origins="https://api.example", algs="EdDSA Ed25519").prover is prover


@pytest.mark.parametrize(
    ("authorization", "withheld"),
    [
        (None, {"dpop"}),
        ("Basic eDp5", {"dpop"}),
        ("Bearer x", {"dpop"}),
        ("DPoP x", {"dpop", "authorization"}),
        ("dpop  x", {"dpop", "authorization"}),
    ],
)
def test_what_a_foreign_origin_does_not_get(authorization: str | None, withheld: set[str]) -> None:
    """A proof or a bound token never goes to a foreign origin; other credentials are the caller's business."""
    assert headers_to_withhold(authorization) == withheld


def test_a_policy_shows_its_origins_only() -> None:
    """The repr names the servers and no token."""
    assert repr(Policy(KEY, origins="https://api.example", access_token="secret")) == "<Policy for https://api.example>"


def test_only_our_own_servers_are_primed() -> None:
    """A nonce cannot be fetched from an origin that would get no proof."""
    policy = Policy(KEY, origins="https://api.example")
    assert policy.priming_role("https://api.example/x") is Role.AS
    with pytest.raises(UsageError, match="not among origins="):
        policy.priming_role("https://other.example/x")


def test_priming_is_for_the_role_of_the_requests_to_come() -> None:
    """No token: AS; as_endpoints: AS; else RS; and what the caller says is not doubted."""
    api, endpoint = "https://api.example/x", "https://api.example/token"
    bare = Policy(KEY, origins="https://api.example")
    both = Policy(KEY, origins="https://api.example", access_token="t", as_endpoints=[endpoint])
    own = RequestCredentials(KEY)
    assert [bare.priming_role(api), bare.priming_role(api, credentials=own)] == [Role.AS, Role.RS]
    assert [both.priming_role(api), both.priming_role(endpoint)] == [Role.RS, Role.AS]
    assert [bare.priming_role(api, Role.RS), both.priming_role(api, Role.AS)] == [Role.RS, Role.AS]


@pytest.mark.parametrize(
    "options", [{"nonces": []}, {"nonces": 10**9}, {"rebuild": "body"}, {"algs": 5}, {"nonces": "x" * 9999}]
)
def test_settings_of_the_wrong_type_are_refused(options: dict[str, Any]) -> None:
    """With the name of the setting, in a sentence."""
    with pytest.raises(UsageError, match=f"{next(iter(options))} must be|server_algs must be") as refused:
        Policy(KEY, origins="https://api.example", **options)
    assert len(str(refused.value)) < 200


def test_a_list_of_algorithms_may_be_an_iterator() -> None:
    """It serves the provers of all requests, not the first alone."""
    policy = Policy(KEY, origins="https://api.example", access_token="t", algs=iter(["ES256"]))
    for _ in range(2):
        credentials = RequestCredentials(Prover(dpop.generate_key()), "theirs")
        assert (
            ProofFlow.open(policy, OutgoingRequest("GET", "https://api.example/", credentials=credentials)) is not None
        )


def test_a_request_with_its_own_key_signs_with_a_listed_algorithm() -> None:
    """The list that the server gave is true of every key, not only of the adapter's."""
    rsa = RequestCredentials(dpop.generate_key("PS256"), "theirs")
    request = OutgoingRequest("GET", "https://api.example/", credentials=rsa)
    assert ProofFlow.open(Policy(KEY, origins="https://api.example"), request) is not None
    with pytest.raises(AlgorithmError):
        ProofFlow.open(Policy(KEY, origins="https://api.example", algs=["ES256"]), request)


@pytest.mark.parametrize("response", [None, "text", bytearray(b"body")])
def test_a_rebuilt_body_is_bytes(response: Any) -> None:
    """None would go out as no body at all."""
    policy = Policy(KEY, origins="https://api.example", rebuild=lambda _body: response)
    assert policy.rebuild is not None
    with pytest.raises(ArgumentTypeError, match=r"rebuild\(\) returned must be bytes"):
        policy.rebuild(b"body")
