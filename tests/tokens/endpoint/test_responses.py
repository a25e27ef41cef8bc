# SPDX-License-Identifier: Apache-2.0
"""What a token endpoint makes of responses: unusual, unusable, cut off, late, or none at all."""

from __future__ import annotations

import pickle
import socket
import threading

import pytest
from support.endpoints import KEY, Endpoint, answered, endpoint_of
from support.recorder import Received, Recorder, Response, script

from dpop.errors import (
    InvalidTokenResponseError,
    OutcomeUnknownError,
    TokenEndpointUnavailableError,
    TokenRefusedError,
    TokenRequestError,
    UnboundTokenError,
)
from dpop.testing import DPoPTestServer


def test_bearer_in_response_to_a_proof_is_refused(name: str, server: DPoPTestServer) -> None:
    """A downgrade is an error, unless it is allowed."""
    server.levers.bound_tokens = False
    refresh_token = server.issue_refresh_token(jkt=KEY.thumbprint)
    with endpoint_of(name, server) as endpoint, pytest.raises(UnboundTokenError):
        endpoint.refresh(refresh_token)
    refresh_token = server.issue_refresh_token(jkt=KEY.thumbprint)
    with endpoint_of(name, server, allow_bearer=True) as endpoint:
        assert not endpoint.refresh(refresh_token).is_bound


def test_out_of_order(name: str, server: DPoPTestServer) -> None:
    """5xx, with or without JSON, is not final, and Retry-After is kept."""
    server.levers.fail_next(1, status=503, retry_after=7)
    server.levers.fail_next(1, status=500, body={"error": "server_error"})
    server.levers.fail_next(1, status=429)
    with endpoint_of(name, server) as endpoint:
        for retry_after in (7, None, None):
            with pytest.raises(TokenEndpointUnavailableError) as caught:
                endpoint.refresh("r")
            assert caught.value.retry_after == retry_after


def test_out_of_reach(name: str) -> None:
    """A server that cannot be connected to got nothing: not final."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/token"
        with Endpoint(name, KEY, url, client_id="c") as endpoint, pytest.raises(TokenEndpointUnavailableError):
            endpoint.refresh("r")


def test_no_answer(name: str, server: DPoPTestServer) -> None:
    """A request without an answer has an unknown outcome, and the error says what to do."""
    server.levers.drop_next(2, after=True)
    with endpoint_of(name, server) as endpoint:
        with pytest.raises(OutcomeUnknownError, match="refresh once more"):
            endpoint.refresh(server.issue_refresh_token(jkt=KEY.thumbprint))
        with pytest.raises(OutcomeUnknownError, match="begin a new authorization"):
            endpoint.redeem_code("code")


def test_a_redirect_is_not_followed(name: str, server: DPoPTestServer) -> None:
    """Neither tokens nor proof go where a redirect points."""
    with Recorder(script(Response(200))) as elsewhere:
        server.levers.redirect_next(f"{elsewhere.origin}/token", status=307)
        with endpoint_of(name, server) as endpoint, pytest.raises(InvalidTokenResponseError, match="redirect"):
            endpoint.refresh("r")
        assert elsewhere.requests == []


def test_what_a_hostile_server_repeats_is_masked(name: str, server: DPoPTestServer) -> None:
    """An error that quotes the refresh token does not get it into a message."""
    secret = "1//0gRefreshTokenOfAlice"
    body = {"error": "invalid_request", "error_description": f"bad {secret}\x00\n<b>", "error_subtype": secret}
    server.levers.fail_next(1, status=400, body=body)
    with endpoint_of(name, server) as endpoint, pytest.raises(TokenRefusedError) as caught:
        endpoint.refresh(secret)
    error = caught.value
    assert secret not in f"{error!r}{error}{vars(error)}{pickle.dumps(error)!r}"
    assert error.description == "bad [redacted]  <b>"


BAD_ANSWERS: dict[str, bytes] = {
    "html": b"<!DOCTYPE html><title>Welcome</title>",
    "empty": b"",
    "array": b"[]",
    "two tokens": b'{"access_token":"a","access_token":"b","token_type":"DPoP"}',
    "no token": b'{"token_type":"DPoP"}',
    "token is no string": b'{"access_token":true,"token_type":"DPoP"}',
    "no type": b'{"access_token":"a"}',
    "unknown type": b'{"access_token":"a","token_type":"mac"}',
    "deep": b'{"access_token":' + b"[" * 100_000,
    "10 MB": b'{"access_token":"a","token_type":"DPoP","x":"' + b"x" * 10_000_000 + b'"}',
}


@pytest.mark.parametrize("what", sorted(BAD_ANSWERS))
def test_bad_answers(name: str, what: str) -> None:
    """A response without usable tokens is one typed error, after one request; nothing of it is in the message."""
    with Recorder(script(Response(200, [], BAD_ANSWERS[what]))) as recorder:
        with Endpoint(name, KEY, recorder.url("/token"), client_id="c") as endpoint:
            with pytest.raises(InvalidTokenResponseError) as caught:
                endpoint.refresh("r")
        assert len(recorder.requests) == 1
    assert type(caught.value) is InvalidTokenResponseError


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        (b'"token_type":"dpop"', ("DPoP", None)),
        (b'"token_type":"DPOP","expires_in":0', ("DPoP", 0)),
        (b'"token_type":"DPoP","expires_in":299.5', ("DPoP", 299.5)),
        (b'"token_type":"N_A"', ("N_A", None)),
    ],
)
def test_unusual_answers(name: str, members: bytes, expected: tuple[str, float | None]) -> None:
    """The type in any case, no expires_in, a fraction: all that RFC 6749 allows."""
    body = b'{"access_token":"a",' + members + b"}"
    with Recorder(script(Response(200, [], body))) as recorder:
        with Endpoint(name, KEY, recorder.url("/token"), client_id="c", clock=lambda: 1000) as endpoint:
            tokens = endpoint.refresh("r")
    assert (tokens.token_type, tokens.seconds_left(1000)) == expected
    assert tokens.refresh_token == "r"


def test_a_body_that_breaks_off_is_an_unknown_outcome(name: str) -> None:
    """The server acted, and what it said got lost."""
    cut = Response(200, [("Connection", "close")], b'{"access_token":"a"', content_length=500)

    def response(request: Received) -> Response:
        request.headers.append(("Connection", "close"))
        return cut

    with Recorder(response) as recorder:
        with Endpoint(name, KEY, recorder.url("/token"), client_id="c") as endpoint:
            with pytest.raises(OutcomeUnknownError):
                endpoint.refresh("r")


def test_a_body_that_never_ends_is_left(name: str) -> None:
    """Octets that trickle in for longer than twice the timeout are not waited for."""
    over = threading.Event()
    trickle = iter(lambda: b" " if not over.wait(0.05) else b"", b"")
    with Recorder(script(Response(200, [], trickle))) as recorder:
        with Endpoint(name, KEY, recorder.url("/token"), client_id="c", timeout=0.3) as endpoint:
            with pytest.raises(TokenRequestError) as caught:
                endpoint.refresh("r")
        over.set()
    # A busy machine may not even send the request in that time.
    assert isinstance(caught.value, OutcomeUnknownError) or not recorder.requests


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_a_revocation_succeeds_with_any_2xx(name: str, status: int) -> None:
    """Several servers answer 204, which has no body."""
    recorder, endpoint = answered(name, Response(status))
    with recorder, endpoint:
        endpoint.revoke("token")


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}"])
def test_401_without_words(name: str, body: bytes) -> None:
    """An empty 401 is most often a wrong client authentication, and the message says so."""
    recorder, endpoint = answered(name, Response(401, [], body))
    with recorder, endpoint, pytest.raises(InvalidTokenResponseError, match="client authentication") as caught:
        endpoint.refresh("r")
    assert "character 0" not in str(caught.value)


def test_a_proxy_that_wants_authentication(name: str) -> None:
    """407 is a proxy's: the server got nothing."""
    recorder, endpoint = answered(name, Response(407, [("Proxy-Authenticate", "Basic")], b"<html>"))
    with (
        recorder,
        endpoint,
        pytest.raises(TokenEndpointUnavailableError, match=r"the proxy .* wants authentication.*nothing was sent"),
    ):
        endpoint.refresh("r")


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ([("Retry-After", "Fri, 31 Dec 2027 23:59:59 GMT"), ("Date", "Fri, 31 Dec 2027 23:59:29 GMT")], 30),
        ([("Retry-After", "Fri, 31 Dec 2027 23:59:59 GMT"), ("Date", "Sat, 01 Jan 2028 00:00:00 GMT")], 0),
        ([("Retry-After", "Fri, 31 Dec 2027 23:59:59 GMT")], None),
        ([("Retry-After", "1.5")], 1.5),
        ([("Retry-After", "-1")], None),
        ([("Retry-After", "soon"), ("Date", "Fri, 31 Dec 2027 23:59:29 GMT")], None),
    ],
)
def test_how_long_a_server_asks_to_wait(name: str, fields: list[tuple[str, str]], seconds: float | None) -> None:
    """Seconds or a date, which counts from the server's own clock (RFC 9110 §10.2.3)."""
    recorder, endpoint = answered(name, Response(503, fields))
    with recorder, endpoint, pytest.raises(TokenEndpointUnavailableError) as caught:
        endpoint.refresh("r")
    assert caught.value.retry_after == seconds
