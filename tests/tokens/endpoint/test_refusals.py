# SPDX-License-Identifier: Apache-2.0
"""Errors that a server names, in every spelling: which are final, and which are sent again."""

from __future__ import annotations

import time

import pytest
from support.endpoints import KEY, answered, endpoint_of, refusal
from support.recorder import Response

from dpop.errors import ReauthorizationError, TokenEndpointUnavailableError, TokenRefusedError, TokenRequestError
from dpop.testing import DPoPTestServer
from dpop.tokens import DeviceAuthorization


def test_invalid_grant_is_final_and_its_nonce_is_kept(name: str, server: DPoPTestServer) -> None:
    """One request, a terminal error; the nonce that came with it spares the next request a challenge."""
    server.levers.refuse_next(error="invalid_grant", with_nonce=True, path="/token")
    with endpoint_of(name, server) as endpoint:
        with pytest.raises(ReauthorizationError) as caught:
            endpoint.refresh(server.issue_refresh_token(jkt=KEY.thumbprint))
        assert (caught.value.error, caught.value.status) == ("invalid_grant", 400)
        assert len(server.requests) == 1
        endpoint.refresh(server.issue_refresh_token(jkt=KEY.thumbprint))
        assert len(server.requests) == 2


def test_an_endless_challenger_gets_three_requests(name: str, server: DPoPTestServer) -> None:
    """A server that asks for another nonce for ever ends in an error that is not final."""
    server.levers.as_nonces = "endless"
    with endpoint_of(name, server) as endpoint:
        with pytest.raises(TokenEndpointUnavailableError) as caught:
            endpoint.refresh(server.issue_refresh_token(jkt=KEY.thumbprint))
    assert caught.value.error == "use_dpop_nonce"
    assert len(server.requests) == 3


@pytest.mark.parametrize("subtype", ["invalid_rapt", "rapt_required"])
@pytest.mark.parametrize(("status", "error"), [(401, "invalid_token"), (400, "invalid_grant"), (403, "access_denied")])
def test_a_login_that_is_too_old(name: str, status: int, error: str, subtype: str) -> None:
    """Google asks for a new login by the subtype, whatever status and code stand beside it."""
    recorder, endpoint = answered(name, refusal(status, error, error_subtype=subtype))
    with recorder, endpoint, pytest.raises(ReauthorizationError) as caught:
        endpoint.refresh("r")
    assert (caught.value.subtype, caught.value.error) == (subtype, error)


@pytest.mark.parametrize("error", ["invalid_request", "invalid_token", "access_denied", "unheard_of"])
def test_a_dead_refresh_token_under_another_name(name: str, error: str) -> None:
    """The third refusal in a row of one refresh token says that the user has to authorise again."""
    recorder, endpoint = answered(name, refusal(400, error))
    with recorder, endpoint:
        for _ in range(2):
            with pytest.raises(TokenRefusedError) as refused:
                endpoint.refresh("r")
            assert type(refused.value) is TokenRefusedError
        with pytest.raises(TokenRefusedError) as another:
            endpoint.refresh("another")
        assert type(another.value) is TokenRefusedError
        with pytest.raises(ReauthorizationError, match="3 times in a row") as caught:
            endpoint.refresh("r")
        assert (caught.value.error, caught.value.status) == (error, 400)


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (refusal(401, "invalid_client"), TokenRefusedError),
        (refusal(400, "unauthorized_client"), TokenRefusedError),
        (refusal(400, "invalid_scope"), TokenRefusedError),
        (refusal(400, "temporarily_unavailable"), TokenEndpointUnavailableError),
        (refusal(503, "invalid_request"), TokenEndpointUnavailableError),
    ],
)
def test_refusals_of_other_things_stay_what_they_are(name: str, response: Response, kind: type[Exception]) -> None:
    """However often a client or its rights are refused, authorising again does not help."""
    recorder, endpoint = answered(name, response)
    with recorder, endpoint:
        for _ in range(5):
            with pytest.raises(kind) as caught:
                endpoint.refresh("r")
            assert type(caught.value) is kind


def test_a_success_ends_the_row(name: str) -> None:
    """Refusals that were followed by tokens are not counted."""
    tokens = Response(200, [], b'{"access_token":"a","token_type":"DPoP"}')
    bad = refusal(400, "invalid_request")
    recorder, endpoint = answered(name, bad, bad, tokens, bad, bad)
    with recorder, endpoint:
        for expected in (TokenRefusedError, TokenRefusedError, None, TokenRefusedError, TokenRefusedError):
            if expected is None:
                endpoint.refresh("r")
                continue
            with pytest.raises(expected) as caught:
                endpoint.refresh("r")
            assert type(caught.value) is expected


def test_a_proof_that_is_refused_again_and_again(name: str) -> None:
    """It is still not final, and the third message says where to look."""
    recorder, endpoint = answered(name, refusal(403, "invalid_dpop_proof"))
    with recorder, endpoint:
        for _ in range(2):
            with pytest.raises(TokenEndpointUnavailableError) as first:
                endpoint.refresh("r")
            assert "clock" not in str(first.value)
        with pytest.raises(TokenEndpointUnavailableError, match=r"this key.*clock"):
            endpoint.refresh("r")


def test_a_refused_proof_under_another_name_is_no_dead_grant(name: str) -> None:
    """A server that says invalid_request of a proof, of a wrong clock for one, does not cost the refresh token."""
    recorder, endpoint = answered(name, refusal(400, "invalid_request", error_description="DPoP proof is not active"))
    with recorder, endpoint:
        for count in range(5):
            with pytest.raises(TokenRefusedError) as caught:
                endpoint.refresh("r")
            assert type(caught.value) is TokenRefusedError
            assert ("clock" in str(caught.value)) == (count >= 2)


def test_a_pushed_request_that_is_refused(name: str) -> None:
    """There are no tokens yet that could be as they were."""
    recorder, endpoint = answered(name, refusal(400, "invalid_dpop_proof"))
    with recorder, endpoint, pytest.raises(TokenEndpointUnavailableError, match="push=False") as caught:
        endpoint.start_authorization("http://127.0.0.1/callback")
    assert "the tokens are unchanged" not in str(caught.value)


SPELLED: dict[str, bytes] = {
    "a byte order mark": b'\xef\xbb\xbf{"error":"use_dpop_nonce"}',
    "UTF-16": '{"error":"use_dpop_nonce"}'.encode("utf-16"),
    "Latin-1": b'{"error":"use_dpop_nonce","error_description":"f\xfcr"}',
    "text after the end": b'{"error":"use_dpop_nonce"}\n<!-- 3 ms -->',
    "nesting of 12": b'{"error":"use_dpop_nonce","more":' + b"[" * 12 + b"]" * 12 + b"}",
    "the same twice": b'{"error":"use_dpop_nonce","error":"use_dpop_nonce"}',
    "a form": b"error=use_dpop_nonce&error_description=once+more",
    "upper case": b'{"error":"USE_DPOP_NONCE"}',
    "an object": b'{"error":{"code":"use_dpop_nonce","message":"once more"}}',
    "an array of objects": b'{"success":false,"errors":[{"errorType":"use_dpop_nonce"}]}',
    "another name": b'{"errorCode":"use_dpop_nonce"}',
}


@pytest.mark.parametrize("spelling", SPELLED)
def test_a_nonce_refusal_in_an_odd_body_is_recognised(name: str, spelling: str) -> None:
    """As a token response is read, so is a refusal: the refresh is sent once more, with the nonce."""
    challenge = Response(400, [("DPoP-Nonce", "n1")], SPELLED[spelling])
    tokens = Response(200, [], b'{"access_token":"a","token_type":"DPoP"}')
    recorder, endpoint = answered(name, challenge, tokens)
    with recorder, endpoint:
        assert endpoint.refresh("r").access_token == "a"
    assert [request.nonce for request in recorder.requests] == [None, "n1"]


REFUSED: dict[str, bytes] = {
    "upper case": b'{"error":"INVALID_GRANT","error_description":"used before"}',
    "an object": b'{"error":{"code":"invalid_grant","message":"used before"}}',
    "an object with its kind": b'{"error":{"status":400,"type":"Invalid_Grant","message":"used before"}}',
    "an array of objects": b'{"success":false,"errors":[{"errorType":"invalid_grant","message":"used before"}]}',
    "an array": b'{"error":["invalid_grant"],"error_description":"used before"}',
    "another name": b'{"errorCode":"invalid_grant","errorSummary":"used before"}',
}


@pytest.mark.parametrize("spelling", REFUSED)
def test_a_dead_refresh_token_is_recognised_in_every_spelling(name: str, spelling: str) -> None:
    """At once, and not after three refusals in a row; the error has the code as the standard writes it."""
    recorder, endpoint = answered(name, Response(400, [], REFUSED[spelling]))
    with recorder, endpoint, pytest.raises(ReauthorizationError, match="authorise again") as caught:
        endpoint.refresh("r")
    assert caught.value.error == "invalid_grant"
    if spelling != "an array":
        assert caught.value.description == "used before"


def test_a_pending_device_code_in_upper_case_is_polled_again(name: str) -> None:
    """The user has not decided yet, and the codes stay good."""
    tokens = Response(200, [], b'{"access_token":"a","token_type":"DPoP"}')
    recorder, endpoint = answered(name, Response(400, [], b'{"error":"AUTHORIZATION_PENDING"}'), tokens)
    device = DeviceAuthorization("d", "u", "https://as.example/", None, time.time() + 60, 0)
    with recorder, endpoint:
        assert endpoint.poll_device(device).access_token == "a"


def test_two_different_errors_are_none(name: str) -> None:
    """It is not known which of them is meant, so nothing is sent again."""
    both = b'{"error":"invalid_grant","error":"use_dpop_nonce"}'
    recorder, endpoint = answered(name, Response(400, [("DPoP-Nonce", "n1")], both))
    with recorder, endpoint, pytest.raises(TokenRequestError):
        endpoint.refresh("r")
    assert len(recorder.requests) == 1
