# SPDX-License-Identifier: Apache-2.0
"""Refusals on the wire: what the RFC shows, nothing a stranger wrote."""

from __future__ import annotations

import json
import re
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpop.errors import CredentialError, InvalidProof, UsageError
from dpop.server._challenge import resource_challenge, token_error, with_nonce

ALGS = ("ES256", "EdDSA")
NO_STORE = ("Cache-Control", "no-store")
EXPOSE = ("Access-Control-Expose-Headers", "WWW-Authenticate, DPoP-Nonce")
STALE = InvalidProof("use_dpop_nonce", "nonce_missing", "this server requires a nonce", nonce="n-1")
BAD_TOKEN = InvalidProof("invalid_token", "key_mismatch", "the proof was made with another key")


def challenges(fields: list[tuple[str, str]]) -> list[str]:
    """The values of the WWW-Authenticate fields."""
    return [value for name, value in fields if name == "WWW-Authenticate"]


def test_a_refusal_of_the_applications_own_stays_readable() -> None:
    """Its list of readable fields is extended where there is something to read, and left alone elsewhere."""
    listed = ("access-control-expose-headers", "X-Total")
    plain = [("content-type", "text/plain"), listed]
    assert with_nonce(plain, None) == plain
    refused = [*plain, ("www-authenticate", "DPoP")]
    fields = with_nonce(refused, None)
    assert fields[:2] == [plain[0], refused[2]]
    assert fields[2:] == [(EXPOSE[0], f"{EXPOSE[1]}, X-Total")]


def test_no_credentials_no_error() -> None:
    """A request without credentials is told what to use and nothing else."""
    assert resource_challenge(None, algs=ALGS) == (
        401,
        [("WWW-Authenticate", 'DPoP algs="ES256 EdDSA"'), NO_STORE, EXPOSE],
    )


def test_algs_may_be_one_text() -> None:
    """As they stand in a configuration file."""
    assert resource_challenge(None, algs="ES256 EdDSA") == resource_challenge(None, algs=ALGS)


def test_bearer_comes_first_in_its_own_field() -> None:
    """A server of both schemes names both, one field each."""
    _, fields = resource_challenge(None, algs=ALGS, bearer=True)
    assert challenges(fields) == ["Bearer", 'DPoP algs="ES256 EdDSA"']


def test_a_nonce_challenge() -> None:
    """The nonce is in its own field, once, and no cache keeps the answer."""
    status, fields = resource_challenge(STALE, algs=ALGS)
    assert status == 401
    assert fields == [
        (
            "WWW-Authenticate",
            'DPoP error="use_dpop_nonce", error_description="this server requires a nonce", algs="ES256 EdDSA"',
        ),
        ("DPoP-Nonce", "n-1"),
        NO_STORE,
        EXPOSE,
    ]


def test_the_error_is_only_in_the_scheme_that_was_tried() -> None:
    """A bad DPoP token leaves the Bearer challenge bare (RFC 9449 §7.2)."""
    _, fields = resource_challenge(BAD_TOKEN, algs=ALGS, bearer=True)
    bearer, dpop = challenges(fields)
    assert bearer == "Bearer"
    assert dpop.startswith('DPoP error="invalid_token", ')


def test_a_bound_token_sent_as_bearer() -> None:
    """The error goes into the Bearer challenge, the DPoP challenge says what to use."""
    _, fields = resource_challenge(BAD_TOKEN, algs=ALGS, tried="Bearer")
    bearer, dpop = challenges(fields)
    assert bearer.startswith('Bearer error="invalid_token", ')
    assert dpop == 'DPoP algs="ES256 EdDSA"'


def test_both_schemes_at_once() -> None:
    """Two tokens in one request are a bad request, in both challenges (RFC 9449 Figure 19)."""
    both = InvalidProof("invalid_request", "token_repeated", "multiple methods used to include access token")
    status, fields = resource_challenge(both, algs=ALGS, tried="both")
    assert status == 400
    assert all('error="invalid_request"' in value for value in challenges(fields))


def test_a_missing_scope_is_403() -> None:
    """The scope needed is a parameter of the challenge."""
    short = InvalidProof("insufficient_scope", "scope", "the token does not allow this")
    status, fields = resource_challenge(short, algs=ALGS, parameters={"scope": "read write"})
    assert status == 403
    assert 'scope="read write"' in challenges(fields)[0]


@pytest.mark.parametrize("tried", ["DPoP", "Bearer", "both"])
def test_the_realm_is_in_every_challenge_and_escaped(tried: Literal["DPoP", "Bearer", "both"]) -> None:
    """Quotes and backslashes in a realm do not end it."""
    _, fields = resource_challenge(None, algs=ALGS, realm='a "b" \\ c', bearer=True, tried=tried)
    assert [value.split(" ", 1)[0] for value in challenges(fields)] == ["Bearer", "DPoP"]
    assert all('realm="a \\"b\\" \\\\ c"' in value for value in challenges(fields))


@pytest.mark.parametrize("parameters", [{"a b": "x"}, {"": "x"}, {"x": "a\r\nb"}, {"x": "caf\u00e9"}])
def test_what_no_header_can_hold_is_refused(parameters: dict[str, str]) -> None:
    """A line break in a parameter would be a header of its own."""
    with pytest.raises(UsageError):
        resource_challenge(BAD_TOKEN, algs=ALGS, parameters=parameters)


def test_a_nonce_no_header_can_hold_is_refused() -> None:
    """An issuer of one's own cannot break the header either, and its nonce is not in the error."""
    with pytest.raises(CredentialError) as caught:
        token_error(InvalidProof("use_dpop_nonce", "nonce_missing", "x", nonce="new\r\nline"))
    assert "line" not in str(caught.value)


@given(st.text())
def test_descriptions_keep_to_their_characters(detail: str) -> None:
    """Whatever is in the sentence, the header has one quoted-string and the body one JSON object."""
    error = InvalidProof("invalid_dpop_proof", "x", detail)
    allowed = r"[\x20-\x21\x23-\x5b\x5d-\x7e]*"
    (value,) = challenges(resource_challenge(error, algs=ALGS)[1])
    assert re.fullmatch(f'DPoP error="invalid_dpop_proof", error_description="{allowed}", algs="ES256 EdDSA"', value)
    document = json.loads(token_error(error)[2])
    assert re.fullmatch(allowed, document["error_description"])


def test_what_came_and_what_was_expected_stays_at_home() -> None:
    """Both may name internal addresses, so neither is in the answer."""
    error = InvalidProof("invalid_dpop_proof", "htu_mismatch", "another URL", expected="http://10.0.0.5/", got="x-y-z")
    responses = str(resource_challenge(error, algs=ALGS)) + str(token_error(error))
    assert "10.0.0.5" not in responses
    assert "x-y-z" not in responses


def test_the_answer_of_an_authorization_server() -> None:
    """Status 400 and JSON as RFC 6749 wants it, with the nonce in its field."""
    status, fields, body = token_error(STALE)
    assert status == 400
    assert fields == [("Content-Type", "application/json"), ("DPoP-Nonce", "n-1"), NO_STORE, EXPOSE]
    assert json.loads(body) == {
        "error": "use_dpop_nonce",
        "error_description": "this server requires a nonce",
    }


def test_no_nonce_no_field() -> None:
    """An error without a nonce has no DPoP-Nonce field."""
    assert "DPoP-Nonce" not in dict(token_error(BAD_TOKEN)[1])
