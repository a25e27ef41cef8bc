# SPDX-License-Identifier: Apache-2.0
"""Authorization requests and what comes back: only the answer to this request, of this server, is used."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

import dpop
from dpop.errors import (
    ArgumentTypeError,
    InvalidTokenResponseError,
    ReauthorizationError,
    TokenRefusedError,
    UsageError,
)
from dpop.requests import TokenEndpoint
from dpop.tokens import AuthorizationRequest, ServerMetadata
from dpop.tokens._authorization import pushed

KEY = dpop.generate_key()
SERVER = ServerMetadata(
    token_endpoint="https://as.example/token",
    authorization_endpoint="https://as.example/authorize?tenant=1",
    issuer="https://as.example",
)


def start(**options: Any) -> AuthorizationRequest:
    """A request that is not pushed."""
    with TokenEndpoint(KEY, SERVER, client_id="c") as endpoint:
        return endpoint.start_authorization("https://app.example/callback", **options)


def test_a_request_has_all_that_protects_it() -> None:
    """PKCE, state and the key's thumbprint are in the URL; the verifier is not, nor in the repr."""
    request = start(scope="a b", prompt="consent")
    asked = {name: values[0] for name, values in parse_qs(urlsplit(request.url).query).items()}
    digest = hashlib.sha256(request.code_verifier.encode()).digest()
    assert asked == {
        "tenant": "1",
        "client_id": "c",
        "response_type": "code",
        "redirect_uri": "https://app.example/callback",
        "state": request.state,
        "code_challenge": urlsafe_b64encode(digest).rstrip(b"=").decode(),
        "code_challenge_method": "S256",
        "scope": "a b",
        "dpop_jkt": KEY.thumbprint,
        "prompt": "consent",
    }
    assert request.code_verifier not in request.url + repr(request)
    assert request.state not in repr(request)
    other = start(dpop_jkt=False)
    assert "dpop_jkt" not in other.url
    assert (other.state, other.code_verifier) != (request.state, request.code_verifier)


def test_google_is_not_told_the_key() -> None:
    """Its documentation does not mention dpop_jkt, so it is left out there unless asked for."""
    with TokenEndpoint(KEY, SERVER, client_id="c", profile=dpop.profiles.GOOGLE) as endpoint:
        assert "dpop_jkt" not in endpoint.start_authorization("https://app.example/callback").url
        assert "dpop_jkt" in endpoint.start_authorization("https://app.example/callback", dpop_jkt=True).url


def test_what_is_set_here_cannot_be_given() -> None:
    """A caller's own state or challenge would take the protection away."""
    with pytest.raises(UsageError):
        start(state="fixed")


def test_the_code_comes_back() -> None:
    """From a whole URL, a path, or a query."""
    request = start()
    query = f"code=4%2Fx&state={request.state}&iss=https%3A%2F%2Fas.example"
    for callback in (f"https://app.example/callback?{query}", f"/callback?{query}", f"?{query}", query):
        assert request.code_of(callback, issuer="https://as.example", iss_required=True) == "4/x"


@pytest.mark.parametrize("around", ['"{}"', "<{}>", " {}\n", "'{}'"])
def test_a_callback_as_people_paste_it(around: str) -> None:
    """In quotes, from a page's source, or broken over the lines of a terminal."""
    request = start()
    url = f"https://app.example/callback?code=4%2Fx&state={request.state}"
    assert request.code_of(around.format(url)) == "4/x"
    assert request.code_of(around.format(url.replace("&", "&amp;"))) == "4/x"
    assert request.code_of(around.format(f"{url[:40]}\n  {url[40:]}")) == "4/x"


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("code=x", InvalidTokenResponseError),
        ("code=x&state=other", InvalidTokenResponseError),
        ("code=x&state=STATE&state=STATE", InvalidTokenResponseError),
        ("code=x&code=y&state=STATE&iss=https://as.example", InvalidTokenResponseError),
        ("code=x&state=STATE&iss=https://evil.example", InvalidTokenResponseError),
        ("code=x&state=STATE", InvalidTokenResponseError),
        ("state=STATE&iss=https://as.example", InvalidTokenResponseError),
        ("error=access_denied&state=STATE&iss=https://as.example", ReauthorizationError),
        ("error=invalid_scope&error_description=%0Ano&state=STATE&iss=https://as.example", TokenRefusedError),
        ("error=server_error&state=other&iss=https://as.example", InvalidTokenResponseError),
        # A browser goes wherever a page sends it: no such URL may end in an error of another kind.
        ("https://[::1/?code=x&state=STATE&iss=https://as.example", InvalidTokenResponseError),
        ("code=x&state=STATE&iss=https://as.example" + "&a=b" * 50, InvalidTokenResponseError),
        ("code=x&state=\udcff&iss=https://as.example", InvalidTokenResponseError),
    ],
)
def test_other_answers_are_not_used(query: str, error: type[Exception]) -> None:
    """Another request's state, another server's iss, anything twice: no code leaves."""
    request = start()
    with pytest.raises(error) as caught:
        request.code_of(query.replace("STATE", request.state), issuer="https://as.example", iss_required=True)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)


def test_a_server_without_iss_needs_none() -> None:
    """Where metadata does not promise iss, its absence is no fault; a wrong one is."""
    request = start()
    assert request.code_of(f"code=x&state={request.state}", issuer="https://as.example") == "x"
    with pytest.raises(InvalidTokenResponseError):
        request.code_of(f"code=x&state={request.state}&iss=https://evil.example", issuer="https://as.example")


@pytest.mark.parametrize(
    ("callback", "said"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("https://app.example/callback", "no parameters"),
        ("https://app.example/callback#code=x&state=STATE", "fragment"),
        ("#code=x&state=STATE", "fragment"),
        ("https://app.example/callback?response=eyJ.e30.c2ln", "JARM"),
        ("error=access_denied&error_description=no", "an error but no state.*access_denied: no"),
        ("code=x", "no state"),
        ("code=x&state=other", "older login"),
        ("code=x&state=STATE", "no iss"),
        ("code=x&state=STATE&iss=https://evil.example", "iss differs"),
        ("state=STATE&iss=https://as.example", "neither a code nor an error"),
        ("code=x&code=y&state=STATE", "twice"),
        ("https://[::1/?code=x", "not a URL"),
        ("4/0AbCdEf-GhIjK", "no parameters"),
        ("https://as.example/authorize?client_id=a&state=STATE&code_challenge=c", "URL of the login itself"),
        ("https://as.example/authorize?client_id=a&request_uri=urn:x", "URL of the login itself"),
    ],
)
def test_each_odd_callback_has_its_own_sentence(callback: str, said: str) -> None:
    """The message tells an empty callback from one of the fragment, of another login, or of another server."""
    request = start()
    with pytest.raises(InvalidTokenResponseError, match=said) as caught:
        request.code_of(callback.replace("STATE", request.state), issuer="https://as.example", iss_required=True)
    assert request.state not in str(caught.value)


@pytest.mark.parametrize("callback", [b"code=x", None, {"code": "x"}])
def test_a_callback_is_text(callback: Any) -> None:
    """Bytes, and parameters that a framework has parsed, are a wrong type and not an AttributeError."""
    with pytest.raises(ArgumentTypeError, match="callback"):
        start().code_of(callback)


@pytest.mark.parametrize("uri", [None, "", 5, ["urn:x"]])
def test_a_pushed_request_has_an_address(uri: object) -> None:
    """RFC 9126 §2.2: without a request_uri that is text, the user cannot be sent anywhere."""
    with pytest.raises(InvalidTokenResponseError, match="has no request_uri"):
        pushed(start(), "https://as.example/authorize", "client", {"request_uri": uri})
