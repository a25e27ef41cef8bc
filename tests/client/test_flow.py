# SPDX-License-Identifier: Apache-2.0
"""The brain, fed with answers: no HTTP library, no server, every decision it makes."""

from __future__ import annotations

import json
import logging
import time
from base64 import urlsafe_b64decode
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

import dpop
from dpop.client._flow import Attempt, ProofFlow, Step
from dpop.client._nonces import NonceCache, NonceKey, Role
from dpop.client._policy import Policy
from dpop.client._prover import Prover
from dpop.client._request import BearerToken, OutgoingRequest
from dpop.errors import CredentialError, InvalidTargetError, UnrewindableBodyError
from dpop.htu import Origin
from dpop.profiles import GOOGLE, RFC9449

KEY = dpop.generate_key()
ORIGIN = "https://api.example"
NOW = 1_800_000_000
RS_CHALLENGE = ("WWW-Authenticate", 'DPoP error="use_dpop_nonce", algs="ES256"')
AS_CHALLENGE = b'{"error":"use_dpop_nonce"}'
FORM = "application/x-www-form-urlencoded"


def policy(**options: Any) -> Policy:
    """A policy for one origin, with a clock that stands still."""
    prover = options.pop("prover", None) or Prover(KEY, clock=lambda: NOW)
    return Policy(prover, **{"origins": ORIGIN, **options})


@dataclass
class Exchange:
    """Drives a flow as an adapter does, and keeps what would be on the wire."""

    policy: Policy
    request: OutgoingRequest
    proofs: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        flow = ProofFlow.open(self.policy, self.request)
        assert flow is not None
        self.flow: ProofFlow = flow

    def send(self, token: str | None = "asked") -> dict[str, Any]:
        """One attempt; returns the claims of its proof."""
        own = self.flow.access_token
        if token == "asked":
            token = own if own is None or isinstance(own, str) else own()  # type: ignore[assignment]
        assert not isinstance(token, bytes)
        self.flow.ready(give_up=True)
        attempt: Attempt = self.flow.attempt("https", "api.example", "/things?x=1", token)
        headers = dict(attempt.headers(KEY.sign(attempt.signing_input)))
        self.headers.append(headers)
        claims = payload(headers["DPoP"])
        self.proofs.append(claims)
        return claims

    def response(self, status: int, *fields: tuple[str, str], body: bytes = b"") -> Step:
        """One answer, and what the flow says to it."""
        step = self.flow.received(status, fields)
        return self.flow.judged(body) if step is Step.PEEK else step


def payload(proof: str) -> dict[str, Any]:
    """The claims of a proof."""
    part = proof.split(".")[1]
    claims: dict[str, Any] = json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return claims


def resource(method: str = "GET", **options: Any) -> Exchange:
    """A request to a resource server."""
    rules = {key: options.pop(key) for key in list(options) if key not in OutgoingRequest.__slots__}
    rules.setdefault("access_token", "token")
    return Exchange(policy(**rules), OutgoingRequest(method, f"{ORIGIN}/things?x=1", **options))


def token_request(form: str = "grant_type=refresh_token", **options: Any) -> Exchange:
    """A request to a token endpoint."""
    rules = {key: options.pop(key) for key in list(options) if key not in OutgoingRequest.__slots__}
    options = {"content": form.encode(), "content_type": FORM, **options}
    return Exchange(policy(**rules), OutgoingRequest("POST", f"{ORIGIN}/things", **options))


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


def replace_flow(exchange: Exchange, **changes: Any) -> Exchange:
    """The next request with the same policy."""
    facts = {name: getattr(exchange.request, name) for name in OutgoingRequest.__slots__}
    return Exchange(exchange.policy, OutgoingRequest(**{**facts, **changes}))


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


class Source:
    """A token source that makes a new token when one is refused."""

    def __init__(self) -> None:
        self.number = 1
        self.told: list[str] = []

    def __call__(self) -> str:
        return f"token{self.number}"

    def refused(self, token: str, /) -> None:
        self.told.append(token)
        self.number += 1


def test_a_sent_token_is_refreshed_once() -> None:
    """invalid_token: the source is told, and the request is sent once more, not twice."""
    source = Source()
    exchange = resource(access_token=source)
    invalid = ("WWW-Authenticate", 'DPoP error="invalid_token"')
    exchange.send()
    assert exchange.response(401, invalid, ("DPoP-Nonce", "n1")) is Step.REFRESH
    assert exchange.flow.sent_token == "token1"
    source.refused("token1")
    claims = exchange.send()
    assert claims["ath"] == dpop.access_token_hash("token2")
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
    late.flow.asked_at = time.monotonic() + 1
    late.send("token")
    assert late.response(401, dead) is Step.DONE


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


# -- clocks ------------------------------------------------------------------------------------

INVALID_PROOF = ("WWW-Authenticate", 'DPoP error="invalid_dpop_proof"')
DATE_90_S_AHEAD = ("Date", "Fri, 15 Jan 2027 08:01:30 GMT")


def test_a_wrong_clock_is_explained(caplog: pytest.LogCaptureFixture) -> None:
    """invalid_dpop_proof with a far-off Date: the log names the difference; nothing is changed."""
    exchange = resource()
    exchange.send()
    with caplog.at_level(logging.WARNING, "dpop.client"):
        assert exchange.response(401, INVALID_PROOF, DATE_90_S_AHEAD) is Step.DONE
    assert "90 s ahead of" in caplog.text
    assert replace_flow(exchange).send()["iat"] == NOW


@pytest.mark.parametrize(
    ("date", "offset"),
    [
        (DATE_90_S_AHEAD, 90),
        (("Date", "Fri, 15 Jan 2027 12:00:00 GMT"), 300),
        (("Date", "Thu, 01 Jan 1970 00:00:00 GMT"), -300),
    ],
)
def test_learn_clock_corrects_the_next_call(date: tuple[str, str], offset: int) -> None:
    """With learn_clock the next proof follows the server's clock, five minutes at most, and never this one."""
    exchange = resource(learn_clock=True)
    exchange.send()
    assert exchange.response(401, INVALID_PROOF, date) is Step.DONE
    assert replace_flow(exchange).send()["iat"] == NOW + offset


def test_a_token_endpoints_wrong_clock_is_explained_too(caplog: pytest.LogCaptureFixture) -> None:
    """A 400 with a far-off Date is looked into even without a nonce."""
    exchange = token_request(learn_clock=True)
    exchange.send()
    with caplog.at_level(logging.WARNING, "dpop.client"):
        assert exchange.response(400, DATE_90_S_AHEAD, body=b'{"error":"invalid_dpop_proof"}') is Step.DONE
    assert "90 s ahead of" in caplog.text
    assert replace_flow(exchange).send()["iat"] == NOW + 90


def test_a_correction_is_corrected_when_our_clock_is_set() -> None:
    """Learnt from a clock that was wrong, the offset does not outlive it: the next refusal takes it back."""
    now = [NOW - 90.0]
    exchange = resource(learn_clock=True, prover=Prover(KEY, clock=lambda: now[0]))
    date = ("Date", "Fri, 15 Jan 2027 08:00:00 GMT")
    exchange.send()
    exchange.response(401, INVALID_PROOF, date)
    assert replace_flow(exchange).send()["iat"] == NOW
    now[0] = NOW
    late = replace_flow(exchange)
    assert late.send()["iat"] == NOW + 90
    late.response(401, INVALID_PROOF, date)
    assert replace_flow(exchange).send()["iat"] == NOW


def test_a_correction_is_corrected_at_a_token_endpoint_too() -> None:
    """A Date that agrees with our clock and not with the proof is worth a look into the 400."""
    exchange = token_request(learn_clock=True)
    assert exchange.policy.clocks is not None
    exchange.policy.clocks.learn(exchange.flow.origin, 90)
    assert exchange.send()["iat"] == NOW + 90
    date = ("Date", "Fri, 15 Jan 2027 08:00:00 GMT")
    exchange.response(400, date, body=b'{"error":"invalid_dpop_proof"}')
    assert replace_flow(exchange).send()["iat"] == NOW


@pytest.mark.parametrize("date", [None, ("Date", "yesterday"), ("Date", "Fri, 15 Jan 2027 08:00:04 GMT")])
def test_no_date_or_a_near_one_teaches_nothing(date: tuple[str, str] | None) -> None:
    """Without a far-off Date the clock stays as it is."""
    exchange = resource(learn_clock=True)
    exchange.send()
    exchange.response(401, INVALID_PROOF, *([date] if date else []))
    assert replace_flow(exchange).send()["iat"] == NOW


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
