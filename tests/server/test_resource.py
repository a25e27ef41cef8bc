# SPDX-License-Identifier: Apache-2.0
"""Who may use an API, without a server; the table of whole requests is in tests/frameworks."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from support.resource import PUBLIC_URL, look_up, resource

import dpop
from dpop import asgi, wsgi
from dpop.errors import (
    ArgumentTypeError,
    InsecureOriginError,
    InvalidProof,
    InvalidTargetError,
    ReplayCacheError,
    UsageError,
)
from dpop.server import (
    Access,
    MemoryReplayCache,
    NonceIssuer,
    ProofVerifier,
    ProtectedResource,
    ResourceRequest,
)

KEY = dpop.generate_key()
TOKEN = f"bound.{KEY.thumbprint}"


def request(target: str = "/items", *, signed: str | None = "/items", token: str = TOKEN) -> ResourceRequest:
    """A GET with a proof for another target if told so."""
    fields = [("Authorization", f"DPoP {token}")]
    if signed is not None:
        fields.append(("DPoP", dpop.create_proof(KEY, "GET", PUBLIC_URL + signed, access_token=token)))
    return ResourceRequest("GET", target, target.partition("?")[0], fields)


def refusal(decides: ProtectedResource, asked: ResourceRequest) -> InvalidProof:
    """Why a request may not come in, by both methods."""
    with pytest.raises(InvalidProof) as caught:
        decides.admit(asked)
    with pytest.raises(InvalidProof) as awaited:
        asyncio.run(decides.aadmit(asked))
    assert awaited.value.reason in {caught.value.reason, "replayed"}
    return caught.value


@pytest.fixture
def api() -> ProtectedResource:
    """An API for bound tokens only, without nonces."""
    return resource(nonces=False, bearer=False)


def test_who_comes_in(api: ProtectedResource) -> None:
    """The claims of the token, and whose proof it was, by both methods."""
    for access in (api.admit(request()), asyncio.run(api.aadmit(request()))):
        assert access.claims["sub"] == "alice"
        assert access.proof is not None
        assert access.proof.jkt == KEY.thumbprint
        assert repr(access) == f"<Access DPoP key {KEY.thumbprint}>"


def test_an_api_that_takes_no_bearer_tokens(api: ProtectedResource) -> None:
    """Bound or not, it does not look; the challenge names both schemes, the error in the one that was tried."""
    asked = ResourceRequest("GET", "/items", "/items", [("Authorization", "Bearer unbound")])
    error = refusal(api, asked)
    assert error.reason == "bearer_refused"
    challenges = [value for name, value in api.refusal(asked, error).headers if name == "WWW-Authenticate"]
    assert challenges[0].startswith('Bearer error="invalid_token"')
    assert challenges[1] == 'DPoP algs="ES256 Ed25519 EdDSA PS256 RS256"'


def test_an_inactive_token_with_a_perfect_proof() -> None:
    """``active`` wins over everything, whatever is in it (RFC 7662 §2.2)."""
    for active in (False, None, "true", 1):
        claims = {"active": active, "cnf": {"jkt": KEY.thumbprint}}
        assert refusal(resource(nonces=False, token=lambda _: claims), request()).reason == "token_inactive"  # noqa: B023
    assert refusal(resource(nonces=False, token=lambda _: None), request()).reason == "token_inactive"


def test_a_refused_request_costs_no_question_and_no_memory() -> None:
    """The look-up is asked for good proofs only, and only an accepted proof is remembered."""
    asked, replay = [], MemoryReplayCache()

    def counts(token: str) -> Any:
        asked.append(token)
        return look_up(token)

    api = resource(nonces=False, token=counts, replay=replay)
    refusal(api, request(signed=None))
    refusal(api, request(signed="/other"))
    assert (asked, len(replay)) == ([], 0)
    refusal(api, request(token="bound.of-another-key"))
    assert (len(asked), len(replay)) == (2, 0)
    api.admit(request())
    assert len(replay) == 1


@pytest.mark.parametrize(
    "target", ["*", "items", "", "/a#b", "https://", "//", "http://x y/", "ftp://x/y", "@e/", "/\xe9"]
)
def test_a_target_that_is_none(api: ProtectedResource, target: str) -> None:
    """Whatever stands in the request line, no other exception, and no URL made of it by accident."""
    assert refusal(api, request(target)).reason in {"request_url_invalid", "htu_mismatch"}


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("https://api.example/", UsageError),
        ("https://api.example/v1/", UsageError),
        ("https://API.example", UsageError),
        ("https://api.example:443", UsageError),
        ("https://api.example?q", UsageError),
        ("https://api.example/a/../b", UsageError),
        ("https://user@api.example", InvalidTargetError),
        ("api.example", InvalidTargetError),
        ("wss://api.example", InvalidTargetError),
        ("http://api.example", InsecureOriginError),
    ],
)
def test_a_url_that_clients_cannot_know_it_by(url: str, error: type[Exception]) -> None:
    """Refused at the start, with what to write instead."""
    with pytest.raises(error):
        ProtectedResource(ProofVerifier(replay=MemoryReplayCache()), url=url, token=look_up)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8080", "http://localhost", "https://api.example/v1", "https://[::1]"]
)
def test_a_url_that_they_can(url: str) -> None:
    """With or without a prefix; plain http on this machine, or where the operator says so."""
    verifier = ProofVerifier(replay=MemoryReplayCache())
    assert repr(ProtectedResource(verifier, url=url, token=look_up)) == f"<ProtectedResource {url}>"
    ProtectedResource(verifier, url="http://api.internal", token=look_up, insecure=True)


@pytest.mark.parametrize(
    ("claim", "wanted", "enough"),
    [
        ("read write", "write", True),
        ("read write", "write read", True),
        ("read", "write", False),
        ("readwrite", "read", False),
        (["read", "write"], "write", True),
        (["read"], "write", False),
        (None, "read", False),
        (7, "read", False),
        ("read", "", True),
    ],
)
def test_scopes(claim: object, wanted: str, enough: bool) -> None:
    """All that are wanted, each as a whole word."""
    access = Access("DPoP", {"scope": claim}, None, None)
    if enough:
        access.require_scope(wanted)
        return
    with pytest.raises(InvalidProof) as caught:
        access.require_scope(wanted)
    assert (caught.value.error, caught.value.parameters) == ("insufficient_scope", {"scope": wanted})


@pytest.mark.parametrize(
    ("root", "path", "target"),
    [
        ("/v1", "/items", "/v1/items"),  # the server has put the prefix in front
        ("/v1", "/items", "/items"),  # it was told of the prefix, and left the target as the proxy sent it
        ("", "/items", "/items"),
        ("", "/v1/items", "/v1/items"),  # the application's own path begins like the prefix
    ],
)
def test_a_prefix_that_the_proxy_removes(root: str, path: str, target: str) -> None:
    """The client's URL has the prefix once, whether or not the server knows it as its root path."""
    api = resource(nonces=False, bearer=False, url=f"{PUBLIC_URL}/v1")
    url = f"{PUBLIC_URL}/v1{path}"
    fields = [
        ("Authorization", f"DPoP {TOKEN}"),
        ("DPoP", dpop.create_proof(KEY, "GET", url, access_token=TOKEN)),
    ]
    assert api.admit(ResourceRequest("GET", target, path, fields, root_path=root)).proof is not None


def test_a_challenge_without_credentials_brings_a_nonce() -> None:
    """So that a client can ask for one before it sends anything of worth; not where nonces are bound to keys."""
    asked = ResourceRequest("HEAD", "/items", "/items", [])
    for bound, expected in ((False, 1), (True, 0)):
        nonces = NonceIssuer(bind_key=bound)
        verifier = ProofVerifier(replay=MemoryReplayCache(), nonces=nonces)
        api = ProtectedResource(verifier, url=PUBLIC_URL, token=look_up, realm="r", metadata=PUBLIC_URL + "/meta")
        status, headers = api.refusal(asked, refusal(api, asked))
        assert status == 401
        assert len([value for name, value in headers if name == "DPoP-Nonce"]) == expected
        (challenge,) = [value for name, value in headers if name == "WWW-Authenticate"]
        assert challenge.startswith(f'DPoP realm="r", resource_metadata="{PUBLIC_URL}/meta", algs=')


def test_each_refusal_is_a_response_of_its_own() -> None:
    """A response of which the fields were changed, or which had a nonce, leaves nothing in the next one."""
    api = resource(nonces=False, bearer=False)
    asked = request(signed=None)
    first = api.refusal(asked, InvalidProof("invalid_token", "mine", "a" * 100_000, nonce="n1"))
    first.headers.append(("X-Mine", "1"))
    second = api.refusal(asked, InvalidProof("invalid_token", "mine", "a" * 100_000, parameters={"scope": "read"}))
    assert ("DPoP-Nonce", "n1") in first.headers
    assert {name for name, _ in second.headers} == {
        "WWW-Authenticate",
        "Cache-Control",
        "Access-Control-Expose-Headers",
    }
    assert 'scope="read"' in dict(second.headers)["WWW-Authenticate"]
    assert 'scope="read"' not in dict(first.headers)["WWW-Authenticate"]
    assert len(second.body) < 2_000  # what is remembered is bounded, and so it is cut


def test_a_cache_that_cannot_tell(api: ProtectedResource, caplog: pytest.LogCaptureFixture) -> None:
    """The client is told to come again, the operator what is wrong."""
    caplog.set_level(logging.INFO, "dpop.server")
    status, headers = api.refusal(request(), ReplayCacheError("the replay cache holds its 9 entries"))
    assert (status, dict(headers)) == (503, {"Retry-After": "1", "Cache-Control": "no-store"})
    assert caplog.records[0].levelname == "ERROR"
    assert "9 entries" in caplog.text


def test_the_log_tells_refusals_and_no_secrets(api: ProtectedResource, caplog: pytest.LogCaptureFixture) -> None:
    """A fault of the issuer is a warning; token, proof and nonce are in none."""
    caplog.set_level(logging.INFO, "dpop.server")
    issuer = resource(nonces=False, token=lambda _: {"cnf": {"jkt": "short"}})
    for decides, asked in ((api, request(signed="/other")), (issuer, request())):
        decides.refusal(asked, refusal(decides, asked))
        assert TOKEN not in caplog.text
        assert str(dict(asked.headers)["DPoP"]) not in caplog.text  # type: ignore[call-overload]
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    assert repr(request()) == "<ResourceRequest GET>"


def test_a_part_of_another_kind_is_refused_at_once() -> None:
    """A verifier in the place of the resource, and the other way round."""
    verifier = ProofVerifier(replay=MemoryReplayCache())
    with pytest.raises(ArgumentTypeError, match="verifier must be a ProofVerifier, not MemoryReplayCache"):
        ProtectedResource(MemoryReplayCache(), url="https://api.example", token=lambda _: None)  # type: ignore[arg-type]
    for middleware in (asgi.DPoPMiddleware, wsgi.DPoPMiddleware):
        with pytest.raises(ArgumentTypeError, match="resource must be a ProtectedResource, not ProofVerifier"):
            middleware(None, verifier)  # type: ignore[arg-type]


@pytest.mark.parametrize("setting", ["token", "public", "certificate"])
def test_a_setting_that_is_no_function_is_refused_at_once(setting: str) -> None:
    """A path in place of a function would be noticed only at the first request."""
    settings: Any = {"token": lambda _: None, setting: "/public"}
    with pytest.raises(UsageError, match=f"{setting} must be a function"):
        ProtectedResource(ProofVerifier(replay=MemoryReplayCache()), url="https://api.example", **settings)
