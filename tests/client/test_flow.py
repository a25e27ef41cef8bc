# SPDX-License-Identifier: Apache-2.0
"""The brain, fed with answers: no HTTP library, no server. What a proof carries, sources, codes and the cold start."""

from __future__ import annotations

import time
from typing import Any

import pytest
from support.flow import (
    AS_CHALLENGE,
    KEY,
    NOW,
    ORIGIN,
    RS_CHALLENGE,
    Exchange,
    policy,
    replace_flow,
    resource,
    token_request,
)
from support.token_source import Source

import dpop
from dpop.client._flow import ProofFlow, Step
from dpop.client._nonces import NonceCache, NonceKey, Role
from dpop.client._prover import Prover
from dpop.client._request import BearerToken, OutgoingRequest
from dpop.errors import CredentialError, InvalidTargetError
from dpop.htu import Origin

# -- what a proof carries ----------------------------------------------------------------------


def test_a_resource_request_carries_proof_token_and_hash() -> None:
    """At a resource server: Authorization: DPoP, ath, htu without query (RFC 9449 §7.1)."""
    exchange = resource()
    claims = exchange.send()
    assert claims["htm"] == "GET"
    assert claims["htu"] == "https://api.example/things"
    assert claims["iat"] == NOW
    assert claims["ath"] == dpop.access_token_hash("token")
    assert "nonce" not in claims
    assert exchange.headers[0]["Authorization"] == "DPoP token"


def test_a_token_request_carries_no_hash_and_no_authorization() -> None:
    """At an authorization server: no ath, and the caller's Authorization is not touched."""
    exchange = token_request(authorization="Basic Y2xpZW50OnNlY3JldA==")
    assert "ath" not in exchange.send()
    assert "Authorization" not in exchange.headers[0]
    assert exchange.flow.role is Role.AS


def test_an_as_endpoint_is_one_even_where_a_token_is_set() -> None:
    """URLs in as_endpoints= get no ath and no token."""
    exchange = resource(as_endpoints=[f"{ORIGIN}/things"])
    assert "ath" not in exchange.send()
    assert list(exchange.headers[0]) == ["DPoP"]


@pytest.mark.parametrize("scheme", ["DPoP", "dpop", "Bearer"])
def test_a_token_in_the_callers_own_header_makes_a_resource_request(scheme: str) -> None:
    """An adapter without a token takes the caller's; Bearer is rewritten to DPoP."""
    exchange = resource(access_token=None, authorization=f"{scheme} own")
    assert exchange.send()["ath"] == dpop.access_token_hash("own")
    assert exchange.headers[0]["Authorization"] == "DPoP own"


def test_a_callers_own_dpop_token_beats_the_default() -> None:
    """Authorization: DPoP set on a request is that request's token."""
    exchange = resource(authorization="DPoP own")
    assert exchange.send()["ath"] == dpop.access_token_hash("own")


@pytest.mark.parametrize("authorization", ["Basic bmV0cmM6c2VjcmV0", "Bearer other"])
def test_the_adapters_token_beats_other_schemes(authorization: str) -> None:
    """What .netrc puts into Authorization does not displace the adapter's token."""
    exchange = resource(authorization=authorization)
    exchange.send()
    assert exchange.headers[0]["Authorization"] == "DPoP token"


def test_a_request_may_bring_its_own_prover_and_token() -> None:
    """One client, many users: credentials of a request beat the adapter's."""
    other = dpop.generate_key()
    credentials = dpop.RequestCredentials(Prover(other), "theirs")
    exchange = resource(credentials=credentials)
    assert exchange.send()["ath"] == dpop.access_token_hash("theirs")
    assert exchange.flow.prover.key is other
    assert credentials.seen


def test_requests_to_other_origins_pass() -> None:
    """Another host, port or scheme is none of ours, and its credentials count as seen."""
    rules = policy(access_token="token")
    for url in (
        "https://api.example.evil.test/",
        "https://api.example:444/",
        "http://api.example/",
        "https://sub.api.example/",
    ):
        assert ProofFlow.open(rules, OutgoingRequest("GET", url)) is None


def test_a_token_that_cannot_stand_in_a_header_is_not_sent() -> None:
    """A source that returns a token with a newline is stopped before anything is on the wire."""
    exchange = resource(access_token=lambda: "to\r\nken")
    with pytest.raises(CredentialError):
        exchange.send()


def test_a_target_with_two_readings_is_not_sent() -> None:
    """A dot segment that survived into the target is refused (spec: ambiguous htu)."""
    exchange = resource()
    with pytest.raises(InvalidTargetError):
        exchange.flow.attempt("https", "api.example", "/a/%2e%2e/b", "token")


# -- Google's code exchange --------------------------------------------------------------------


CODE_FORM = "grant_type=authorization_code&code=4%2FP7q7W91a-oMsCeLvIaQm6bTrgtp7"


def test_googles_code_exchange_names_the_code_and_keeps_to_it() -> None:
    """jti is the hash of the decoded code, also on the nonce retry."""
    exchange = token_request(CODE_FORM, profile=dpop.profiles.GOOGLE)
    exchange.send()
    assert exchange.response(400, ("DPoP-Nonce", "n1"), body=AS_CHALLENGE) is Step.RETRY
    exchange.send()
    assert {proof["jti"] for proof in exchange.proofs} == {"3xbsgA0UB_TL-2wQicAwURmxtBIKPGNmnUFBhZtC0tc"}


def test_other_requests_have_fresh_identifiers_everywhere() -> None:
    """Refreshes at Google, and code exchanges elsewhere, have a fresh jti."""
    refreshes = [token_request(profile=dpop.profiles.GOOGLE).send()["jti"] for _ in range(2)]
    exchanges = [token_request(CODE_FORM).send()["jti"] for _ in range(2)]
    assert len({*refreshes, *exchanges}) == 4


# -- token sources -----------------------------------------------------------------------------


def test_a_sent_token_is_refreshed_once() -> None:
    """invalid_token: the source is told, and the request is sent once more, not twice."""
    source = Source()
    exchange = resource(access_token=source)
    invalid = ("WWW-Authenticate", 'DPoP error="invalid_token"')
    exchange.send()
    assert exchange.response(401, invalid, ("DPoP-Nonce", "n1")) is Step.REFRESH
    assert exchange.flow.sent_token == "token-1"
    source.refused("token-1")
    claims = exchange.send()
    assert claims["ath"] == dpop.access_token_hash("token-2")
    assert claims["nonce"] == "n1"
    assert exchange.response(401, invalid) is Step.DONE


def test_a_source_is_told_even_if_the_body_is_gone() -> None:
    """A one-shot body is not sent again, but the next request should have a good token."""
    exchange = resource("POST", access_token=Source(), repeatable=False)
    exchange.send()
    assert exchange.response(401, ("WWW-Authenticate", 'DPoP error="invalid_token"')) is Step.REPORT


@pytest.mark.parametrize("token", ["token", lambda: "token"])
def test_without_a_source_invalid_token_is_handed_on(token: Any) -> None:
    """A plain token or function cannot be refreshed: one request."""
    exchange = resource(access_token=token)
    exchange.send("token")
    assert exchange.response(401, ("WWW-Authenticate", 'DPoP error="invalid_token"')) is Step.DONE


def test_requests_with_one_dead_token_tell_the_source_once() -> None:
    """What had its token before the source was told is sent again; what got the same token later is not."""
    source = Source()
    rules = policy(access_token=source)
    early, late = (Exchange(rules, OutgoingRequest("GET", f"{ORIGIN}/things")) for _ in range(2))
    early.flow.asked_at = time.monotonic()
    first = Exchange(rules, OutgoingRequest("GET", f"{ORIGIN}/things"))
    first.flow.asked_at = time.monotonic()
    dead = ("WWW-Authenticate", 'Bearer error="invalid_token"')
    for exchange, step, tells in ((first, Step.REFRESH, True), (early, Step.REFRESH, False)):
        exchange.send("token")
        assert exchange.response(401, dead) is step
        assert exchange.flow.tells_source is tells
        exchange.flow._told_source()
    late.flow.asked_at = time.monotonic() + 1
    late.send("token")
    assert late.response(401, dead) is Step.DONE


def test_requests_are_sent_again_while_a_source_is_told() -> None:
    """It may still give the refused token then: that is no reason to hand on the refusal."""
    rules = policy(access_token=Source())
    requests = [Exchange(rules, OutgoingRequest("GET", f"{ORIGIN}/things")) for _ in range(3)]
    for exchange in requests:
        exchange.flow.asked_at = time.monotonic()  # one after the other, each after the refusal of the one before
        exchange.send("token")
        assert exchange.response(401, ("WWW-Authenticate", 'DPoP error="invalid_token"')) is Step.REFRESH
    assert [exchange.flow.tells_source for exchange in requests] == [True, False, False]


def test_a_request_without_a_proof_says_nothing_of_a_nonce() -> None:
    """A token that is bound to no key goes without a proof: it takes no nonce and no turn, and settles nothing."""
    token = BearerToken("unbound")
    rules = policy(access_token=lambda: token)
    key = NonceKey(KEY.thumbprint, Origin.parse(ORIGIN), Role.RS)
    rules.prover.nonces.learn(key, "a")
    first, second = (Exchange(rules, OutgoingRequest("GET", f"{ORIGIN}/things")) for _ in range(2))
    for exchange in (first, second):
        assert exchange.flow.ready() is None
        exchange.flow.attempt("https", "api.example", "/things", token)
    for exchange in (first, second):
        assert exchange.response(200) is Step.DONE
    for nonce in ("b", "c"):
        rules.prover.nonces.learn(key, nonce)
    bound = [Exchange(rules, OutgoingRequest("GET", f"{ORIGIN}/things")) for _ in range(2)]
    assert [exchange.send("token")["nonce"] for exchange in bound] == ["c", "b"]


@pytest.mark.parametrize(("status", "then"), [(200, ["c", "c"]), (500, ["c", "b"]), (403, ["c", "b"])])
def test_only_success_says_that_a_nonce_was_accepted(status: int, then: list[str]) -> None:
    """Two successes with one nonce show that it may be shared; what failed may have failed before it was looked at."""
    exchange = resource()
    nonces, key = exchange.policy.prover.nonces, NonceKey(KEY.thumbprint, exchange.flow.origin, Role.RS)
    nonces.learn(key, "a")
    for _ in range(2):
        exchange = replace_flow(exchange)
        assert exchange.send()["nonce"] == "a"
        exchange.response(status)
    for nonce in ("b", "c"):
        nonces.learn(key, nonce)
    assert [replace_flow(exchange).send()["nonce"] for _ in range(2)] == then


# -- cold start --------------------------------------------------------------------------------


def test_the_first_request_goes_alone_where_nonces_are_required() -> None:
    """The second request is told what to wait for, and goes on with the nonce."""
    prover = Prover(KEY, nonces=NonceCache())
    pilot = resource(prover=prover, nonces="required")
    assert pilot.flow.ready() is None
    second = resource(prover=prover, nonces="required")
    waiting = second.flow.ready()
    assert waiting is not None
    pilot.send()
    pilot.response(401, RS_CHALLENGE, ("DPoP-Nonce", "n1"))
    assert not waiting.granted
    pilot.send()
    pilot.response(200)
    assert waiting.granted
    assert second.flow.ready() is None
    assert second.send()["nonce"] == "n1"


def test_a_failed_first_request_lets_the_others_go() -> None:
    """An error or a cancellation of the first request does not hold up the rest."""
    prover = Prover(KEY)
    pilot = resource(prover=prover, nonces="required")
    pilot.flow.ready()
    waiting = resource(prover=prover, nonces="required").flow.ready()
    assert waiting is not None
    pilot.flow.failed()
    assert waiting.granted


def test_nothing_of_a_flow_shows_secrets() -> None:
    """No repr of a flow, its policy, its attempt or its request holds a token or a proof."""
    exchange = resource(access_token="very-secret-token", authorization="DPoP very-secret-token")
    exchange.send("very-secret-token")
    attempt = exchange.flow.attempt("https", "api.example", "/", "very-secret-token")
    shown = "".join(map(repr, (exchange.flow, exchange.policy, attempt, exchange.request, exchange.flow.prover)))
    assert "very-secret" not in shown
    assert "eyJ" not in shown


def test_a_redirect_says_nothing_of_a_nonce() -> None:
    """A server may send elsewhere before it looks at a proof: two redirects settle nothing about its nonces."""
    rules = policy(access_token="token")
    key = NonceKey(KEY.thumbprint, Origin.parse(ORIGIN), Role.RS)
    rules.prover.nonces.learn(key, "a")
    for _ in range(2):
        exchange = Exchange(rules, OutgoingRequest("GET", f"{ORIGIN}/things"))
        assert exchange.send()["nonce"] == "a"
        assert exchange.response(302, ("Location", "/elsewhere")) is Step.DONE
    for nonce in ("b", "c"):
        rules.prover.nonces.learn(key, nonce)
    # Not known to be shared, so each that nobody has sent is good for one request.
    sent = [Exchange(rules, OutgoingRequest("GET", f"{ORIGIN}/things")).send()["nonce"] for _ in range(2)]
    assert sent == ["c", "b"]
