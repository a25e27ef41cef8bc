# SPDX-License-Identifier: Apache-2.0
"""Tokens that come where no token response has them: with a status that is no success, or in an encoded body.

The server has used up the refresh token for them, so they are taken, or the error carries them.
"""

from __future__ import annotations

import base64
import json
import pickle
import traceback
import urllib.parse
from typing import Any

import pytest
from google.auth.exceptions import RefreshError
from google.auth.transport.requests import Request
from support.endpoints import ENDPOINTS, Endpoint
from support.recorder import Recorder, Response, script

import dpop
from dpop.errors import (
    InvalidTokenResponseError,
    ReauthorizationError,
    TokenEndpointUnavailableError,
    TokenRefusedError,
    TokenRequestError,
)
from dpop.google import Credentials
from dpop.requests import TokenEndpoint
from dpop.tokens import MemoryTokenStore, TokenSet

KEY = dpop.generate_key()
OLD = "0ld-refresh-t0ken"
ACCESS = "n3w.access-t0ken"
NEW = "n3w-refresh-t0ken"


def said(**more: Any) -> bytes:
    """A token response, with more members or without those that are ``...``."""
    members = {"access_token": ACCESS, "token_type": "DPoP", "expires_in": 3600, "refresh_token": NEW, **more}
    return json.dumps({name: value for name, value in members.items() if value is not ...}).encode()


def stored() -> MemoryTokenStore:
    """A store with tokens that have expired."""
    store = MemoryTokenStore()
    store.save(TokenSet(access_token="old", refresh_token=OLD, issued_at=0, expires_at=1, jkt=KEY.thumbprint))
    return store


IN_BASE64 = base64.b64encode(said())
ENCODED = {
    "base64": IN_BASE64,
    "base64 on lines": base64.encodebytes(said()),
    "base64 without padding, in the alphabet of URLs": base64.urlsafe_b64encode(said(x="?~?~?~")).rstrip(b"="),
    "base64 in quotation marks": b'"' + IN_BASE64 + b'"',
    "base64 in a member": json.dumps({"isBase64Encoded": True, "body": IN_BASE64.decode()}).encode(),
    "base64 with escaped slashes": json.dumps({"body": base64.b64encode(said(x="???>>>")).decode()})
    .replace("/", "\\/")
    .encode(),
    "base64 twice": base64.b64encode(json.dumps({"body": IN_BASE64.decode()}).encode()),
    "a string in base64": base64.b64encode(json.dumps({"body": said().decode()}).encode()),
    "a string": json.dumps(said().decode()).encode(),
    "a string in a string": json.dumps(json.dumps(said().decode())).encode(),
    "percent-encoded": urllib.parse.quote(said()).encode(),
    "percent-encoded in a form": b"payload=" + urllib.parse.quote_plus(said()).encode(),
}


@pytest.mark.parametrize("name", sorted(ENCODED))
def test_tokens_in_an_encoded_body_are_stored(name: str) -> None:
    """As a gateway may hand on what it should have decoded."""
    store = stored()
    with Recorder(script(Response(200, [], ENCODED[name]))) as server:
        with TokenEndpoint(KEY, server.url("/token"), client_id="c") as endpoint:
            assert endpoint.source(store)() == ACCESS
    kept = store.load()
    assert kept is not None
    assert (kept.refresh_token, kept.token_type) == (NEW, "DPoP")


@pytest.mark.parametrize("status", [300, 302, 307, 400, 401, 403, 404, 409, 429, 500, 502, 503])
def test_tokens_with_another_status_are_in_the_error(status: int) -> None:
    """They are not used, but not lost either, and the refresh token that they replace is not sent again."""
    store = stored()
    with Recorder(script(Response(status, [("Location", "/elsewhere")], said()))) as server:
        with TokenEndpoint(KEY, server.url("/token"), client_id="c") as endpoint:
            source = endpoint.source(store)
            with pytest.raises(
                InvalidTokenResponseError, match=f"its status is {status}; .* in error.tokens"
            ) as caught:
                source()
            error = caught.value
            assert (error.status, error.tokens.access_token, error.tokens.refresh_token) == (status, ACCESS, NEW)
            with pytest.raises(ReauthorizationError, match="has replaced the refresh token") as later:
                source()
            assert later.value.tokens is error.tokens
            store.save(error.tokens)
            assert source() == ACCESS
        assert len(server.requests) == 1
    trace = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    shown = f"{error}{error!r}{vars(error)}{trace}{pickle.dumps(error)!r}"
    assert ACCESS not in shown
    assert NEW not in shown


@pytest.mark.parametrize("name", sorted(ENDPOINTS))
def test_tokens_with_a_redirect_are_in_the_error_of_each_integration(name: str) -> None:
    """No integration follows the redirect or drops the body."""
    with Recorder(script(Response(303, [("Location", "/elsewhere")], said()))) as server:
        with Endpoint(name, KEY, server.url("/token"), client_id="c", timeout=60) as endpoint:
            with pytest.raises(InvalidTokenResponseError) as caught:
                endpoint.redeem_code("code")
    assert caught.value.tokens.refresh_token == NEW
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "body",
    [
        said()[:-1] + b',"error":"server_error"}',
        said()[:-12] + b'"',
        IN_BASE64,
        json.dumps(said().decode()).encode(),
        b"access_token=n3w.access-t0ken&refresh_token=n3w-refresh-t0ken&token_type=DPoP",
    ],
)
def test_tokens_of_any_form_with_another_status_are_in_the_error(body: bytes) -> None:
    """What is read with 200 is read with 500 as well."""
    with Recorder(script(Response(500, [], body))) as server:
        with TokenEndpoint(KEY, server.url("/token"), client_id="c") as endpoint:
            with pytest.raises(InvalidTokenResponseError) as caught:
                endpoint.refresh(OLD)
    assert caught.value.tokens.access_token == ACCESS


REPEATED: dict[str, tuple[int, bytes, type[TokenRequestError]]] = {
    "the refresh token that was sent": (
        400, json.dumps({"error": "invalid_request", "refresh_token": OLD}).encode(), TokenRefusedError,
    ),
    "the refresh token that was sent, masked": (
        400, json.dumps({"error": "invalid_request", "refresh_token": "0ld-…", "scope": "a"}).encode(),
        TokenRefusedError,
    ),
    "the form that was sent": (
        502, f"<p>POST grant_type=refresh_token&refresh_token={OLD}&client_id=c failed".encode(),
        TokenEndpointUnavailableError,
    ),
    "a page about tokens": (
        503, b'<script>var access_token = "", refresh_token = "abc";</script>', TokenEndpointUnavailableError,
    ),
    "an access token alone": (
        400, b'{"error":"invalid_request","access_token":"(masked)"}', TokenRefusedError,
    ),
    "a lifetime": (503, b'{"error":"temporarily_unavailable","expires_in":5}', TokenEndpointUnavailableError),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(REPEATED))
def test_a_refusal_that_repeats_what_was_sent_brings_no_tokens(name: str) -> None:
    """The stored refresh token is not taken for a replaced one: the next refresh sends it."""
    status, body, kind = REPEATED[name]
    store = stored()
    with Recorder(script(Response(status, [], body), Response(200, [], said()))) as server:
        with TokenEndpoint(KEY, server.url("/token"), client_id="c") as endpoint:
            with pytest.raises(kind) as caught:
                endpoint.source(store)()
            assert not isinstance(caught.value, ReauthorizationError)
            assert endpoint.source(store)() == ACCESS
    assert [OLD.encode() in request.body for request in server.requests] == [True, True]


def test_three_such_responses_still_carry_their_tokens() -> None:
    """Three refusals in a row mean a dead refresh token; a response with tokens is no refusal."""
    with Recorder(script(Response(400, [], said(refresh_token=...)))) as server:
        with TokenEndpoint(KEY, server.url("/token"), client_id="c") as endpoint:
            for _ in range(4):
                with pytest.raises(InvalidTokenResponseError) as caught:
                    endpoint.refresh(OLD)
                assert caught.value.tokens.access_token == ACCESS


@pytest.mark.parametrize("status", [400, 500])
def test_google_auth_neither_shows_them_nor_asks_again(status: int) -> None:
    """google-auth would put the body into its error, and repeat the request after 500."""
    with Recorder(script(Response(status, [], said(token_type="Bearer")))) as server:
        credentials = Credentials(
            None, refresh_token=OLD, client_id="c", client_secret="s", token_uri=server.url("/token"), key=KEY
        )
        with pytest.raises(RefreshError) as caught:
            credentials.refresh(Request())
    assert len(server.requests) == 1
    cause = caught.value.__cause__
    assert isinstance(cause, InvalidTokenResponseError)
    assert cause.tokens.refresh_token == NEW
    assert NEW not in f"{caught.value.args}"
    assert not caught.value.retryable
