# SPDX-License-Identifier: Apache-2.0
"""How clients authenticate beyond a secret: assertions with claims of one's own, and certificates."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

import aiohttp
import httpx
import httpx2
import pytest
import requests
from support.authority import Authority, make_authority
from support.endpoints import ENDPOINTS, Endpoint
from support.recorder import Received, Recorder, Response

import dpop
from dpop.encoding import b64url_decode, json_object
from dpop.errors import InsecureOriginError, UsageError
from dpop.keys import Key, PublicKey
from dpop.tokens import PrivateKeyJWT, ServerMetadata, TLSClientAuth, TokenSet
from dpop.tokens._metadata import read_metadata

KEY = dpop.generate_key()
TOKENS = b'{"access_token":"a","token_type":"DPoP","refresh_token":"r"}'


@pytest.fixture(params=sorted(ENDPOINTS))
def name(request: pytest.FixtureRequest) -> str:
    """Each integration in turn."""
    return str(request.param)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Certificates of a server and a client."""
    return make_authority(tmp_path_factory.mktemp("authority"))


# --- assertions


def assertion_of(request: Received, key: Key) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims of the assertion in a request, whose signature verifies."""
    form = dict(parse_qsl(request.body.decode()))
    assert form["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    data, _, signature = form["client_assertion"].rpartition(".")
    assert PublicKey.from_jwk(key.public_jwk).verify(key.alg, data.encode(), b64url_decode(signature))
    header, claims = (json_object(b64url_decode(part)) for part in data.split("."))
    return header, claims


def sent_by(auth: PrivateKeyJWT) -> Received:
    """The token request of a client that authenticates so."""
    with Recorder(lambda _: Response(200, [], TOKENS)) as recorder:
        server = ServerMetadata(token_endpoint=recorder.url("/token"), issuer="https://as.example")
        with Endpoint("requests", KEY, server, client_auth=auth, clock=lambda: 1000.5) as endpoint:
            endpoint.grant("client_credentials")
        (request,) = recorder.requests
    return request


@pytest.mark.parametrize("alg", ["ES384", "RS256", "Ed25519"])
def test_claims_of_ones_own(alg: str) -> None:
    """The header's typ, and aud, nbf, exp, cnf and authorization_details, with a key of any kind."""
    key = dpop.generate_key(alg)
    more = {"cnf": {"jkt": KEY.thumbprint}, "authorization_details": [{"type": "x"}]}
    audience = ["https://as.example", "https://as.example/token"]
    auth = PrivateKeyJWT(
        "c", key, kid="k", typ="JWT", audience=audience, lifetime=10, valid_from=-5, claims={**more, "iat": None}
    )
    header, claims = assertion_of(sent_by(auth), key)
    assert header == {"alg": alg, "typ": "JWT", "kid": "k"}
    assert len(claims.pop("jti")) > 20
    assert claims == {"iss": "c", "sub": "c", "aud": audience, "exp": 1010, "nbf": 995, **more}


def test_the_claims_are_those_of_the_moment_they_were_given() -> None:
    """A mapping that is changed later changes no assertion."""
    details: list[dict[str, str]] = [{"type": "x"}]
    key = dpop.generate_key()
    auth = PrivateKeyJWT("c", key, claims={"authorization_details": details})
    details.clear()
    assert assertion_of(sent_by(auth), key)[1]["authorization_details"] == [{"type": "x"}]


@pytest.mark.parametrize("claims", [{"jti": "x"}, {"x": b"x"}, {"x": math.nan}, {"x": object()}, ["x"]])
def test_claims_that_cannot_be_used(claims: Any) -> None:
    """A jti that is not fresh, and what is no JSON."""
    with pytest.raises(UsageError):
        PrivateKeyJWT("c", KEY, claims=claims)


# --- certificates


def with_certificate(name: str, authority: Authority) -> Any:
    """The ``http=`` of an integration, with a client's certificate."""
    if name == "aiohttp":
        return lambda: aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=authority.client_context()))
    if name == "requests":
        session = requests.Session()
        session.cert = authority.client
        return session
    library = httpx2 if name.startswith("httpx2") else httpx
    return (library.AsyncClient if name.endswith("async") else library.Client)(verify=authority.client_context())


def respond(aliases: Callable[[], dict[str, str]]) -> Callable[[Received], Response]:
    """Metadata of a server with aliases, and endpoints that nobody should ask."""

    def response(request: Received) -> Response:
        if not request.target.startswith("/.well-known/"):
            return Response(500)
        origin = f"http://{dict(request.headers)['Host']}"
        members = {
            "issuer": origin,
            "token_endpoint": f"{origin}/token",
            "revocation_endpoint": f"{origin}/revoke",
            "authorization_endpoint": f"{origin}/authorize",
            "mtls_endpoint_aliases": aliases(),
        }
        return Response(200, [], json.dumps(members).encode())

    return response


@pytest.mark.parametrize("how", ["tls_client_auth", "self_signed_tls_client_auth", TLSClientAuth("c")])
def test_a_certificate_is_shown_to_the_aliases(
    name: str, how: Any, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session's certificate authenticates, the requests go to the aliases, and the proofs name those."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", authority.ca)
    tls = authority.server_context(want_client=True)
    http = with_certificate(name, authority)
    with (
        Recorder(lambda _: Response(200, [], TOKENS), tls=tls) as aliased,
        Recorder(
            respond(
                lambda: {
                    "token_endpoint": aliased.url("/mtls/token"),
                    "revocation_endpoint": aliased.url("/mtls/revoke"),
                    "authorization_endpoint": aliased.url("/never"),
                }
            )
        ) as plain,
        Endpoint(
            name,
            KEY,
            plain.origin,
            discover=True,
            client_id="c",
            client_auth=how,
            http=http,
        ) as endpoint,
    ):
        tokens = endpoint.refresh(endpoint.grant("client_credentials", scope="read"))
        endpoint.revoke(tokens)
        asked = [request.target for request in plain.requests]
        assert endpoint.start_authorization("http://127.0.0.1/").url.startswith(plain.url("/authorize?"))
        # Tokens that the client got while it authenticated in another way are its own, too.
        before = TokenSet(access_token="a", refresh_token="r", token_endpoint=plain.url("/token"))
        endpoint.refresh(before)
        if name.endswith("async"):
            endpoint.wait(http.aclose())
        elif name != "aiohttp":  # whose session the endpoint has made
            http.close()
    assert set(asked) == {"/.well-known/oauth-authorization-server"}
    assert [request.target for request in aliased.requests] == [
        "/mtls/token", "/mtls/token", "/mtls/revoke", "/mtls/token"
    ]  # fmt: skip
    forms = [dict(parse_qsl(request.body.decode())) for request in aliased.requests]
    assert forms[0] == {"grant_type": "client_credentials", "scope": "read", "client_id": "c"}
    assert all(request.claims["htu"] == aliased.url("/mtls/token") for request in aliased.requests[:2])
    assert tokens.token_endpoint == aliased.url("/mtls/token")


def test_other_clients_do_not_use_the_aliases() -> None:
    """A client without a certificate would be refused there."""
    server = ServerMetadata(
        token_endpoint="https://as.example/token", mtls_endpoint_aliases={"token_endpoint": "https://m.example/token"}
    )
    with Endpoint("requests", KEY, server, client_id="c") as endpoint:
        assert endpoint.server.token_endpoint == "https://as.example/token"
    with Endpoint("requests", KEY, server, client_id="c", client_auth="tls_client_auth") as endpoint:
        assert endpoint.server.token_endpoint == "https://m.example/token"


def test_a_secret_beside_a_certificate() -> None:
    """It contradicts the method."""
    with pytest.raises(UsageError, match="leave one of them out"):
        Endpoint(
            "requests", KEY, "https://as.example/t", client_id="c", client_secret="s", client_auth="tls_client_auth"
        )


def test_bad_aliases() -> None:
    """One without TLS is refused like such an endpoint; one that is no URL counts as absent."""
    members = {"issuer": "https://as.example", "token_endpoint": "https://as.example/token"}

    def aliases(value: object) -> Mapping[str, str]:
        body = json.dumps({**members, "mtls_endpoint_aliases": value}).encode()
        return read_metadata("https://as.example", body).mtls_endpoint_aliases

    with pytest.raises(InsecureOriginError):
        aliases({"token_endpoint": "http://as.example/token"})
    usable = {"revocation_endpoint": "https://m.example/revoke"}
    for odd in (5, "nowhere", None, ["https://m.example/token"]):
        assert aliases({"token_endpoint": odd, **usable}) == usable
    for harmless in ([], None, "x", {"unknown_endpoint": 5}):
        assert aliases(harmless) == {}


def test_metadata_with_aliases_can_be_hashed() -> None:
    """As any other."""
    server = ServerMetadata(token_endpoint="https://a.example/t", mtls_endpoint_aliases={"x": "https://b.example/t"})
    assert hash(server) == hash(ServerMetadata(token_endpoint="https://a.example/t"))
