# SPDX-License-Identifier: Apache-2.0
"""The brain and nonces: which answers are challenges, and how often a request is sent again."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

import pytest
from support.flow import (
    AS_CHALLENGE,
    DATE_90_S_AHEAD,
    INVALID_PROOF,
    KEY,
    NOW,
    ORIGIN,
    RS_CHALLENGE,
    replace_flow,
    resource,
    token_request,
)
from support.token_source import Source

import dpop
from dpop.client._flow import Step
from dpop.client._nonces import NonceCache, NonceKey, Role
from dpop.client._prover import Prover
from dpop.errors import UnrewindableBodyError
from dpop.htu import Origin
from dpop.profiles import GOOGLE, RFC9449

# -- nonces ------------------------------------------------------------------------------------


def test_a_challenge_is_answered_once_with_its_nonce() -> None:
    """401, DPoP, use_dpop_nonce and a new nonce: one retry with a new proof (RFC 9449 §9)."""
    exchange = resource()
    exchange.send()
    assert exchange.response(401, RS_CHALLENGE, ("DPoP-Nonce", "n1")) is Step.RETRY
    exchange.send()
    assert exchange.response(200, ("DPoP-Nonce", "n2")) is Step.DONE
    first, second = exchange.proofs
    assert second["nonce"] == "n1"
    assert first["jti"] != second["jti"]
    assert exchange.flow.prover.nonces.newest(NonceKey(KEY.thumbprint, Origin.parse(ORIGIN), Role.RS)) == "n2"


def test_the_token_endpoint_challenges_in_its_body() -> None:
    """400, a new nonce and use_dpop_nonce in JSON: one retry (RFC 9449 §8)."""
    exchange = token_request()
    exchange.send()
    assert exchange.response(400, ("DPoP-Nonce", "n1"), body=AS_CHALLENGE) is Step.RETRY
    assert exchange.send()["nonce"] == "n1"


@pytest.mark.parametrize(
    ("status", "fields", "body"),
    [
        (400, [("DPoP-Nonce", "n")], AS_CHALLENGE),
        (404, [RS_CHALLENGE, ("DPoP-Nonce", "n")], b""),
        (407, [("Proxy-Authenticate", 'DPoP error="use_dpop_nonce"'), ("DPoP-Nonce", "n")], b""),
        (401, [("WWW-Authenticate", 'Bearer error="use_dpop_nonce"'), ("DPoP-Nonce", "n")], b""),
        (401, [("WWW-Authenticate", 'DPoP error="invalid_token"'), ("DPoP-Nonce", "n")], b""),
        (401, [("WWW-Authenticate", 'Basic realm="DPoP error=use_dpop_nonce"'), ("DPoP-Nonce", "n")], b""),
        (401, [RS_CHALLENGE], b""),
        (401, [RS_CHALLENGE, ("DPoP-Nonce", "a b")], b""),
        (401, [RS_CHALLENGE, ("DPoP-Nonce", "n"), ("DPoP-Nonce", "m")], b""),
        (401, [RS_CHALLENGE, ("DPoP-Nonce", "n"), ("Age", "5")], b""),
        (500, [("DPoP-Nonce", "n")], b""),
        (200, [("DPoP-Nonce", "n")], b""),
    ],
)
def test_what_is_no_challenge_at_a_resource_server(status: int, fields: Sequence[tuple[str, str]], body: bytes) -> None:
    """Other statuses, schemes, errors, or no usable nonce: the answer is handed on after one request."""
    exchange = resource()
    exchange.send()
    assert exchange.response(status, *fields, body=body) is Step.DONE


@pytest.mark.parametrize(
    ("status", "fields", "body"),
    [
        (400, [], AS_CHALLENGE),
        (401, [], AS_CHALLENGE),
        (400, [("DPoP-Nonce", "n")], b'{"error":"invalid_grant"}'),
        (401, [("DPoP-Nonce", "n")], b'{"error":"invalid_client"}'),
        (401, [("WWW-Authenticate", "Basic realm=x"), ("DPoP-Nonce", "n")], b'{"error":"invalid_client"}'),
        (400, [("DPoP-Nonce", "n")], b"<html>use_dpop_nonce</html>"),
        (400, [("DPoP-Nonce", "n")], b'{"error":"use_dpop_nonce"'),
        (200, [("DPoP-Nonce", "n")], AS_CHALLENGE),
        (503, [("DPoP-Nonce", "n")], AS_CHALLENGE),
    ],
)
def test_what_is_no_challenge_at_a_token_endpoint(status: int, fields: Sequence[tuple[str, str]], body: bytes) -> None:
    """A challenge counts only in its own role's form."""
    exchange = token_request()
    exchange.send()
    assert exchange.response(status, *fields, body=body) is Step.DONE


@pytest.mark.parametrize("status", [200, 201, 204, 301, 400, 401, 403, 404, 429, 500, 503])
def test_every_status_brings_its_nonce(status: int) -> None:
    """A nonce is learnt from every answer, whatever its status (RFC 9449 §8, §8.2)."""
    exchange = resource()
    exchange.send()
    exchange.response(status, ("dpop-NONCE", "learnt"))
    following = replace_flow(exchange)
    assert following.send()["nonce"] == "learnt"


NONCE_ERRORS = ["use_dpop_nonce", "invalid_dpop_nonce", "invalid_dpop_proof", "USE_DPOP_NONCE"]


@pytest.mark.parametrize("status", [400, 401, 403])
@pytest.mark.parametrize("error", NONCE_ERRORS)
def test_an_api_asks_for_a_nonce_in_several_ways(status: int, error: str) -> None:
    """Some answer 400 or 403, or call a bad nonce an invalid proof: with a new nonce, the request is sent again."""
    exchange = resource()
    exchange.send()
    field = ("WWW-Authenticate", f'DPoP error="{error}"')
    assert exchange.response(status, field, ("DPoP-Nonce", "n1")) is Step.RETRY
    assert exchange.send()["nonce"] == "n1"


@pytest.mark.parametrize("status", [400, 401, 403])
@pytest.mark.parametrize("error", NONCE_ERRORS)
@pytest.mark.parametrize("where", ["body", "challenge"])
def test_a_token_endpoint_asks_for_a_nonce_in_several_ways(status: int, error: str, where: str) -> None:
    """The error stands in the JSON body or in a challenge, with any of three statuses."""
    exchange = token_request()
    exchange.send()
    fields = [("WWW-Authenticate", f'DPoP error="{error}"')] if where == "challenge" else []
    body = b"" if where == "challenge" else json.dumps({"error": error}).encode()
    assert exchange.response(status, *fields, ("DPoP-Nonce", "n1"), body=body) is Step.RETRY
    assert exchange.send()["nonce"] == "n1"


def test_an_api_that_answers_in_json_needs_a_profile() -> None:
    """The JSON body of an API counts only where the profile says that this server uses it."""
    profile = RFC9449._replace(api_json_errors=True)
    for options, step in (({}, Step.DONE), ({"profile": profile}, Step.RETRY)):
        exchange = resource(**options)
        exchange.send()
        assert exchange.response(400, ("DPoP-Nonce", "n1"), body=AS_CHALLENGE) is step


def test_an_endless_challenger_gets_three_requests() -> None:
    """The third challenge is handed to the caller, and its nonce is kept."""
    exchange = resource()
    for number in (1, 2):
        exchange.send()
        assert exchange.response(401, RS_CHALLENGE, ("DPoP-Nonce", f"n{number}")) is Step.RETRY
    exchange.send()
    assert exchange.response(401, RS_CHALLENGE, ("DPoP-Nonce", "n3")) is Step.DONE
    assert replace_flow(exchange).send()["nonce"] == "n3"


def test_a_profile_may_allow_one_nonce_retry() -> None:
    """Google's endpoint gets two requests at most."""
    exchange = token_request(profile=GOOGLE)
    exchange.send()
    assert exchange.response(400, ("DPoP-Nonce", "n1"), body=AS_CHALLENGE) is Step.RETRY
    exchange.send()
    assert exchange.response(400, ("DPoP-Nonce", "n2"), body=AS_CHALLENGE) is Step.DONE


def test_a_nonce_this_request_has_carried_is_no_reason_to_send_again() -> None:
    """A server that goes back to the first of two nonces is not asked a third time."""
    exchange = resource()
    for nonce, step in (("a", Step.RETRY), ("b", Step.RETRY), ("a", Step.DONE)):
        exchange.send()
        assert exchange.response(401, RS_CHALLENGE, ("DPoP-Nonce", nonce)) is step


def test_an_invalid_proof_is_sent_again_once() -> None:
    """After invalid_dpop_proof there is one retry, whatever nonce comes next."""
    exchange = resource()
    exchange.send()
    assert exchange.response(401, INVALID_PROOF, ("DPoP-Nonce", "n1")) is Step.RETRY
    exchange.send()
    assert exchange.response(401, INVALID_PROOF, ("DPoP-Nonce", "n2")) is Step.DONE


def test_the_clock_is_corrected_before_an_invalid_proof_is_sent_again() -> None:
    """With learn_clock, the retry follows the server's clock."""
    exchange = resource(learn_clock=True)
    exchange.send()
    assert exchange.response(401, INVALID_PROOF, DATE_90_S_AHEAD, ("DPoP-Nonce", "n1")) is Step.RETRY
    assert exchange.send()["iat"] == NOW + 90


def test_a_refresh_adds_one_request_and_no_nonce_retry() -> None:
    """Four requests at most: two nonce retries and one with a new token."""
    exchange = resource(access_token=Source())
    for fields, step in (
        ([RS_CHALLENGE, ("DPoP-Nonce", "n1")], Step.RETRY),
        ([("WWW-Authenticate", 'DPoP error="invalid_token"')], Step.REFRESH),
        ([RS_CHALLENGE, ("DPoP-Nonce", "n2")], Step.RETRY),
        ([RS_CHALLENGE, ("DPoP-Nonce", "n3")], Step.DONE),
    ):
        exchange.send()
        assert exchange.response(401, *fields) is step


@pytest.mark.parametrize(
    ("field", "where"),
    [
        ('DPoP error="use_dpop_nonce', "at character 6 of 26"),
        ('DPoP error="use_dpop_nonce" algs="ES256"', "expected a comma"),
        ('error="use_dpop_nonce"', "a scheme before"),
    ],
)
def test_a_challenge_outside_the_grammar_is_told(field: str, where: str, caplog: pytest.LogCaptureFixture) -> None:
    """With a DPoP-Nonce beside it, the log says that the challenge breaks RFC 9110, and where; never the nonce."""
    exchange = resource()
    exchange.send()
    with caplog.at_level(logging.WARNING, "dpop.client"):
        assert exchange.response(401, ("WWW-Authenticate", field), ("DPoP-Nonce", "secret-nonce")) is Step.DONE
    assert "breaks RFC 9110" in caplog.text
    assert where in caplog.text
    assert "secret-nonce" not in caplog.text


def test_a_challenge_outside_the_grammar_without_a_nonce_is_not_ours(caplog: pytest.LogCaptureFixture) -> None:
    """A server that sends no nonce may write what it likes."""
    exchange = resource()
    exchange.send()
    with caplog.at_level(logging.WARNING, "dpop.client"):
        assert exchange.response(401, ("WWW-Authenticate", "???")) is Step.DONE
    assert caplog.text == ""


def test_the_nonce_just_sent_is_no_reason_to_send_again() -> None:
    """A challenge that repeats the nonce of this attempt is handed on."""
    exchange = resource()
    exchange.flow.prover.nonces.learn(NonceKey(KEY.thumbprint, Origin.parse(ORIGIN), Role.RS), "same")
    assert exchange.send()["nonce"] == "same"
    assert exchange.response(401, RS_CHALLENGE, ("DPoP-Nonce", "same")) is Step.DONE


def test_a_nonce_another_thread_has_cached_is_still_new_to_this_attempt() -> None:
    """A challenge is judged against this attempt's nonce, not against the cache."""
    exchange = resource()
    exchange.send()
    exchange.flow.prover.nonces.learn(NonceKey(KEY.thumbprint, Origin.parse(ORIGIN), Role.RS), "n1")
    assert exchange.response(401, RS_CHALLENGE, ("DPoP-Nonce", "n1")) is Step.RETRY


def test_a_body_that_is_gone_is_not_sent_again(caplog: pytest.LogCaptureFixture) -> None:
    """A one-shot body: the challenge is handed on, with a warning, and its nonce serves the next request."""
    exchange = resource("POST", repeatable=False)
    exchange.send()
    with caplog.at_level(logging.WARNING, "dpop.client"):
        assert exchange.response(401, RS_CHALLENGE, ("DPoP-Nonce", "n1")) is Step.DONE
    assert "only once" in caplog.text
    assert "n1" not in caplog.text
    assert replace_flow(exchange).send()["nonce"] == "n1"


def test_a_transport_retry_of_a_body_that_is_gone_is_stopped() -> None:
    """An adapter that would send a consumed body again is stopped before an empty one is sent."""
    exchange = resource("POST", repeatable=False)
    exchange.send()
    with pytest.raises(UnrewindableBodyError, match="only once"):
        exchange.send()


def test_transport_retries_earn_no_third_nonce_retry() -> None:
    """503s retried below the adapter get fresh proofs, and still only two nonce retries."""
    exchange = resource()
    retried, done = (401, Step.RETRY), (503, Step.DONE)
    for status, step in (done, retried, done, retried, done, (401, Step.DONE)):
        exchange.send()
        nonce = f"n{len(exchange.proofs)}"
        fields = [("DPoP-Nonce", nonce)] + ([RS_CHALLENGE] if status == 401 else [])
        assert exchange.response(status, *fields) is step
    assert len({proof["jti"] for proof in exchange.proofs}) == 6


def test_a_transport_retry_carries_the_nonce_again() -> None:
    """A nonce that is good for many requests is good for the second attempt of one, too."""
    exchange = resource()
    exchange.flow.prover.nonces.learn(NonceKey(KEY.thumbprint, Origin.parse(ORIGIN), Role.RS), "shared")
    for _ in range(3):
        assert exchange.send()["nonce"] == "shared"
        assert exchange.response(503) is Step.DONE


def test_a_nonce_retry_without_a_response_is_sent_again_with_its_nonce() -> None:
    """The nonce of the challenge: the server may not have seen it, and without a nonce it would ask once more."""
    exchange = resource()
    assert "nonce" not in exchange.send()
    assert exchange.response(401, RS_CHALLENGE, ("DPoP-Nonce", "one")) is Step.RETRY
    assert [exchange.send()["nonce"] for _ in range(2)] == ["one", "one"]


def test_a_retry_never_carries_the_nonce_that_was_refused() -> None:
    """Not even if the server returned to that nonce meanwhile: the retry has the nonce of its own challenge."""
    prover = Prover(KEY, nonces=NonceCache())
    api = NonceKey(KEY.thumbprint, Origin.parse(ORIGIN), Role.RS)
    prover.nonces.learn(api, "one")
    assert resource(prover=prover, serial=True).flow.ready() is None  # this request is on its way
    exchange = resource(prover=prover, serial=True)
    assert exchange.send()["nonce"] == "one"
    prover.nonces.learn(api, "two")
    prover.nonces.learn(api, "one")
    assert exchange.response(401, RS_CHALLENGE, ("DPoP-Nonce", "two")) is Step.RETRY
    assert exchange.send()["nonce"] == "two"


def test_a_proof_that_waited_too_long_is_made_anew() -> None:
    """As for a free connection: a new proof has the nonce of the old one, which nobody has seen."""
    now = [NOW]
    exchange = resource(prover=Prover(KEY, clock=lambda: now[0], nonces=NonceCache()))
    exchange.flow.prover.nonces.learn(NonceKey(KEY.thumbprint, Origin.parse(ORIGIN), Role.RS), "one")
    first = exchange.send()
    assert not exchange.flow.outdated()
    now[0] += 60
    assert exchange.flow.outdated()
    second = exchange.send()
    assert (second["nonce"], second["iat"]) == ("one", first["iat"] + 60)
    assert second["jti"] != first["jti"]


def test_a_client_assertion_is_not_sent_twice(caplog: pytest.LogCaptureFixture) -> None:
    """A used private_key_jwt assertion would be refused: without rebuild= the challenge is handed on."""
    exchange = token_request("grant_type=client_credentials&client_assertion=eyJ.eyJ.sig")
    exchange.send()
    with caplog.at_level(logging.WARNING, "dpop.client"):
        assert exchange.response(400, ("DPoP-Nonce", "n1"), body=AS_CHALLENGE) is Step.DONE
    assert replace_flow(exchange).send()["nonce"] == "n1"


def test_a_client_assertion_is_rebuilt() -> None:
    """With rebuild= the retry is made, and the adapter is told to rebuild the body."""
    exchange = token_request("client_assertion=eyJ.eyJ.sig", rebuild=lambda body: body)
    exchange.send()
    assert exchange.response(400, ("DPoP-Nonce", "n1"), body=AS_CHALLENGE) is Step.RETRY
    assert exchange.flow.needs_rebuild


def test_priming_sends_once_and_without_a_token() -> None:
    """A request that only fetches a nonce keeps it for the request it was fetched for."""
    exchange = resource("HEAD", priming=Role.RS)
    claims = exchange.send()
    assert "ath" not in claims
    assert list(exchange.headers[0]) == ["DPoP"]
    assert exchange.response(401, RS_CHALLENGE, ("DPoP-Nonce", "n1")) is Step.DONE
    assert replace_flow(exchange, priming=None).send()["nonce"] == "n1"


def test_shared_nonces_serve_both_roles() -> None:
    """Some servers give nonces only at the token endpoint and want them in API proofs too."""
    profile = dpop.profiles.RFC9449._replace(share_nonces=True)
    exchange = token_request(profile=profile)
    exchange.send()
    exchange.response(200, ("DPoP-Nonce", "n1"))
    assert replace_flow(exchange, authorization="DPoP token").send()["nonce"] == "n1"


# -- answers on whose word a nonce is not taken -----------------------------------------------


def test_a_cache_that_says_age_0_is_believed() -> None:
    """Some caches add Age: 0 to what they have just fetched: the challenge in it is the server's."""
    exchange = resource()
    exchange.send()
    assert exchange.response(401, RS_CHALLENGE, ("DPoP-Nonce", "n1"), ("Age", "0")) is Step.RETRY
    assert exchange.send()["nonce"] == "n1"


@pytest.mark.parametrize(("status", "fields"), [(407, []), (200, [("Age", "1")]), (200, [("Age", "0"), ("Age", "7")])])
def test_a_nonce_of_a_proxy_or_a_cache_is_not_kept(status: int, fields: list[tuple[str, str]]) -> None:
    """407 is a proxy's own answer, and an aged one is old: neither says which nonce the server wants next."""
    exchange = resource()
    exchange.send()
    assert exchange.response(status, ("DPoP-Nonce", "n1"), *fields) is Step.DONE
    assert "nonce" not in replace_flow(exchange).send()
