# SPDX-License-Identifier: Apache-2.0
"""What a token endpoint sends: every grant through every integration, asserted on what the server saw."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import urllib.parse
from typing import Any

import pytest
import requests
from joserfc import jwt
from joserfc.jwk import ECKey
from support.endpoints import ENDPOINTS, KEY, TOKENS, Endpoint, answered, claims_of, endpoint_of, wire
from support.recorder import Recorder, Response, script
from support.shy import Shy

import dpop
from dpop.errors import (
    AlgorithmError,
    InsecureOriginError,
    KeyMismatchError,
    ReauthorizationError,
    SigningError,
    UsageError,
)
from dpop.keys import ExternalKey
from dpop.testing import DPoPTestServer
from dpop.tokens import ClientSecretBasic, PrivateKeyJWT, ServerMetadata, TokenSet


def test_a_whole_life(name: str, server: DPoPTestServer) -> None:
    """Pushed request, code, refresh, introspection, revocation: one challenge, and proofs only where they belong."""
    with endpoint_of(name, server, discover=True, at=server.issuer, key_reference="/keys/app.pem") as endpoint:
        asked = endpoint.start_authorization("http://127.0.0.1/callback", scope="read write")
        back = requests.get(asked.url, allow_redirects=False, timeout=60).headers["Location"]
        tokens = endpoint.finish_authorization(asked, back)
        assert (tokens.token_type, tokens.jkt, tokens.key_reference) == ("DPoP", KEY.thumbprint, "/keys/app.pem")
        assert (tokens.token_endpoint, tokens.client_id) == (server.token_endpoint, server.client_id)
        assert tokens.scopes == {"read", "write"}
        assert tokens.expires_at == tokens.issued_at + 3600
        fresh = endpoint.refresh(tokens)
        assert fresh.refresh_token not in {None, tokens.refresh_token}
        assert fresh.scope == "read write"
        about = endpoint.introspect(fresh.access_token)
        assert about["cnf"] == {"jkt": KEY.thumbprint}
        endpoint.revoke(fresh)
        with pytest.raises(ReauthorizationError):
            endpoint.refresh(fresh)
    assert wire(server) == [
        ("/.well-known/oauth-authorization-server", 200, False),
        ("/par", 400, True),
        ("/par", 201, True),
        ("/authorize", 302, False),
        ("/token", 200, True),
        ("/token", 200, True),
        ("/introspect", 200, False),
        ("/revoke", 200, False),
        ("/token", 400, True),
    ]


@pytest.mark.parametrize("settings", [{"profile": dpop.profiles.ATPROTO}, {"signed_endpoints": ["revocation"]}])
def test_a_revocation_with_a_proof(name: str, server: DPoPTestServer, settings: dict[str, Any]) -> None:
    """The server of the AT Protocol hides in a 200 that it wants a proof; it gets one, without an ath."""
    server.reset()
    key = dpop.generate_key("ES256")
    with endpoint_of(name, server, key=key, **settings) as endpoint:
        endpoint.revoke("r1")
        endpoint.introspect("a1")
    assert wire(server) == [("/revoke", 400, True), ("/revoke", 200, True), ("/introspect", 200, False)]
    assert "ath" not in claims_of(server.requests[1].proof)
    assert claims_of(server.requests[1].proof)["htu"] == server.revocation_endpoint


def test_a_profile_that_signs_revocations_can_be_overruled(name: str, server: DPoPTestServer) -> None:
    """An empty signed_endpoints leaves the proof to token and pushed requests."""
    with endpoint_of(name, server, profile=dpop.profiles.ATPROTO, signed_endpoints=()) as endpoint:
        endpoint.revoke("r1")
    assert wire(server) == [("/revoke", 200, False)]


@pytest.mark.parametrize("named", [["userinfo"], "token"])
def test_an_endpoint_that_is_never_signed(name: str, named: Any) -> None:
    """The message names what can be signed."""
    with pytest.raises(UsageError, match="revocation, introspection, device_authorization"):
        Endpoint(name, KEY, "https://as.example/token", client_id="c", signed_endpoints=named)


def test_proofs_at_the_authorization_server_have_no_ath(name: str, server: DPoPTestServer) -> None:
    """Client authentication in the header is no token: no proof has an ath."""
    with endpoint_of(name, server, client_auth="client_secret_basic") as endpoint:
        endpoint.grant("client_credentials", scope="read")
        endpoint.start_authorization("http://127.0.0.1/callback")
    proofs = [claims_of(entry.proof) for entry in server.requests]
    assert all("ath" not in claims for claims in proofs)
    assert len({claims["jti"] for claims in proofs}) == len(proofs) == 3


@pytest.mark.parametrize("how", ["client_secret_basic", "client_secret_post"])
def test_secrets_that_do_not_show_themselves(server: DPoPTestServer, how: str) -> None:
    """A subclass of str is sent as it is: stars in place of a refresh token look like the end of the grant."""
    refresh_token = Shy(server.issue_refresh_token(jkt=KEY.thumbprint))
    client, secret = Shy(server.client_id), Shy(server.client_secret)
    with endpoint_of("requests", server, client_id=client, client_secret=secret, client_auth=how) as endpoint:
        assert endpoint.refresh(refresh_token).token_type == "DPoP"
        asked = endpoint.start_authorization("http://127.0.0.1/callback", scope=Shy("read"), push=False)
    assert "scope=read&" in asked.url
    assert "*" not in asked.url


@pytest.mark.parametrize("how", ["client_secret_basic", "client_secret_post", "none"])
def test_client_authentication(name: str, server: DPoPTestServer, how: str) -> None:
    """The secret travels in the header, in the form, or there is none."""
    client = server.public_client_id if how == "none" else server.client_id
    refresh_token = server.issue_refresh_token(jkt=KEY.thumbprint, client_id=client)
    secret = None if how == "none" else server.client_secret
    with endpoint_of(name, server, client_id=client, client_secret=secret, client_auth=how) as endpoint:
        assert endpoint.refresh(refresh_token).token_type == "DPoP"


def test_google(name: str) -> None:
    """The jti of an exchange is made from the code, also on the retry; a nonce from it may be refused at refresh."""
    with DPoPTestServer(mode="google", exchange_needs_nonce=True, isolate_exchange_nonces=True) as server:
        with endpoint_of(name, server, profile=dpop.profiles.GOOGLE) as endpoint:
            code = server.issue_code(redirect_uri="http://127.0.0.1/")
            tokens = endpoint.redeem_code(code, redirect_uri="http://127.0.0.1/")
            assert (tokens.token_type, tokens.is_bound, tokens.jkt) == ("Bearer", False, KEY.thumbprint)
            again = endpoint.refresh(tokens)
            assert again.refresh_token == tokens.refresh_token
            endpoint.refresh(again)
        jtis = [claims_of(entry.proof)["jti"] for entry in server.requests]
        assert jtis[:2] == [dpop.code_jti(code)] * 2
        assert len(set(jtis)) == len(jtis) - 1
        assert [entry.status for entry in server.requests] == [400, 200, 400, 200, 200]


def test_nonces_that_change_with_every_answer_cost_one_request(name: str) -> None:
    """N refreshes cost N + 1 requests."""
    with DPoPTestServer(nonces="single-use", nonce_on_success="always", rotate_refresh_tokens=True) as server:
        tokens = TokenSet(access_token="a", refresh_token=server.issue_refresh_token(jkt=KEY.thumbprint))
        with endpoint_of(name, server) as endpoint:
            for _ in range(10):
                tokens = endpoint.refresh(tokens)
        assert len(server.requests) == 11


def test_a_foreign_key_sends_nothing(name: str, server: DPoPTestServer) -> None:
    """Tokens of another key, server or client, or none: an error, and no request."""
    own = TokenSet(access_token="a", refresh_token="r", jkt=KEY.thumbprint)
    with endpoint_of(name, server, key=dpop.generate_key()) as endpoint:
        with pytest.raises(KeyMismatchError) as caught:
            endpoint.refresh(own.replace(key_reference="/keys/app.pem"))
        assert caught.value.expected == KEY.thumbprint
        assert "/keys/app.pem" in str(caught.value)
    with endpoint_of(name, server) as endpoint:
        with pytest.raises(UsageError, match="another server"):
            endpoint.refresh(own.replace(token_endpoint="https://other.example/token"))
        with pytest.raises(UsageError, match="another client_id"):
            endpoint.refresh(own.replace(client_id="other"))
        with pytest.raises(ReauthorizationError):
            endpoint.refresh(own.replace(refresh_token=None))
    assert server.requests == []


def test_a_confidential_client_may_change_its_key(name: str, server: DPoPTestServer) -> None:
    """With rebind, the refresh goes out with the new key, and the answer is bound to that."""
    old = TokenSet(
        access_token="a", refresh_token=server.issue_refresh_token(jkt=None), jkt="old", key_reference="/old"
    )
    with endpoint_of(name, server, key_reference="/new") as endpoint:
        tokens = endpoint.refresh(old, rebind=True)
    assert (tokens.jkt, tokens.key_reference) == (KEY.thumbprint, "/new")


def test_an_assertion_is_made_anew_for_the_retry(name: str) -> None:
    """The second request with private_key_jwt holds another assertion, signed by the client's own key."""
    own = dpop.generate_key("ES384")
    challenge = Response(400, [("DPoP-Nonce", "n1")], b'{"error":"use_dpop_nonce"}')
    with Recorder(script(challenge, Response(200, [], b'{"access_token":"a","token_type":"DPoP"}'))) as recorder:
        server = ServerMetadata(token_endpoint=recorder.url("/token"), issuer="https://as.example")
        auth = PrivateKeyJWT("c", own, kid="k1")
        with Endpoint(name, KEY, server, client_auth=auth) as endpoint:
            endpoint.refresh("r", audience="")
        forms = [
            dict(urllib.parse.parse_qsl(request.body.decode(), keep_blank_values=True)) for request in recorder.requests
        ]
    assert [(form.pop("refresh_token"), form.pop("audience")) for form in forms] == [("r", ""), ("r", "")]
    public = ECKey.import_key(dict(own.public_jwk))
    decoded = [jwt.decode(form["client_assertion"], public, algorithms=["ES384"]) for form in forms]
    assert decoded[0].header == {"alg": "ES384", "typ": "client-authentication+jwt", "kid": "k1"}
    claims = [token.claims for token in decoded]
    assert claims[0].pop("jti") != claims[1].pop("jti")
    assert all(claim["aud"] == "https://as.example" and claim["iss"] == claim["sub"] == "c" for claim in claims)
    assert [request.nonce for request in recorder.requests] == [None, "n1"]


def test_an_assertion_by_a_slow_key_stops_no_event_loop(name: str) -> None:
    """A key in a token or a cloud is asked in a worker thread, for the retry and for PAR too, and once for each."""
    inner, signed = dpop.generate_key(), []

    def sign(data: bytes) -> bytes:
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop()
            raise SigningError("the event loop was stopped")
        signed.append(data)
        return inner.sign(data)

    auth = PrivateKeyJWT("c", ExternalKey(inner.public_jwk, sign, signature_format="raw"))
    challenge = Response(400, [("DPoP-Nonce", "n1")], b'{"error":"use_dpop_nonce"}')
    tokens = Response(200, [], b'{"access_token":"a","token_type":"DPoP"}')
    par = Response(201, [], b'{"request_uri":"urn:x","expires_in":60}')
    with Recorder(script(challenge, tokens, par)) as recorder:
        server = ServerMetadata(
            token_endpoint=recorder.url("/token"),
            issuer="https://as.example",
            authorization_endpoint=recorder.url("/authorize"),
            pushed_authorization_request_endpoint=recorder.url("/par"),
        )
        with Endpoint(name, KEY, server, client_auth=auth) as endpoint:
            endpoint.refresh("r")
            endpoint.start_authorization(redirect_uri="https://client.example/cb")
        forms = [urllib.parse.parse_qsl(request.body.decode()) for request in recorder.requests]
    assert len(signed) == len(forms) == 3
    assert [[name for name, _ in form].count("client_id") for form in forms] == [1, 1, 1]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, UsageError),
        ({"client_id": ""}, UsageError),
        ({"client_id": "c", "client_secret": ""}, UsageError),
        ({"client_id": "c", "client_auth": "client_secret_post"}, UsageError),
        ({"client_id": "c", "client_secret": "s", "client_auth": "none"}, UsageError),
        ({"client_id": "c", "client_auth": "client_secret_jwt"}, UsageError),
        ({"client_id": "c", "client_auth": PrivateKeyJWT("c", KEY), "client_secret": "s"}, UsageError),
        ({"client_auth": PrivateKeyJWT("c", KEY)}, UsageError),
        ({"client_id": "c", "timeout": 0}, UsageError),
        ({"client_id": "c", "profile": "gogle"}, UsageError),
        ({"client_id": "c", "key_reference": "-----BEGIN PRIVATE KEY-----"}, UsageError),
        ({"client_id": "c", "profile": dpop.profiles.Profile("x", algs=("PS256",))}, AlgorithmError),
    ],
)
def test_settings_that_do_not_fit(name: str, options: dict[str, Any], error: type[Exception]) -> None:
    """What cannot work is refused when the endpoint is made."""
    with pytest.raises(error):
        ENDPOINTS[name](KEY, "https://as.example/token", **options)


def test_http_is_refused(name: str) -> None:
    """No token travels unencrypted, unless someone said why that is safe."""
    with pytest.raises(InsecureOriginError):
        ENDPOINTS[name](KEY, "http://as.example/token", client_id="c")
    with pytest.raises(InsecureOriginError):
        server = ServerMetadata(
            token_endpoint="https://as.example/token", revocation_endpoint="http://as.example/revoke"
        )
        ENDPOINTS[name](KEY, server, client_id="c")
    Endpoint(name, KEY, "http://as.example/token", client_id="c", insecure_origins="http://as.example").close()


def test_an_endpoint_shows_no_secret_and_does_not_travel(name: str) -> None:
    """Neither repr has the secret, and neither can be pickled."""
    with Endpoint(name, KEY, "https://as.example/token?key=hidden", client_id="c", client_secret="s3cret") as endpoint:
        shown = f"{endpoint.it!r}{endpoint.it.grants!r}{endpoint.it.grants.client_auth!r}"
        assert "s3cret" not in shown
        assert "hidden" not in shown
        with pytest.raises(UsageError):
            pickle.dumps(endpoint.it)


def test_a_pushed_request_names_the_client_although_its_header_does(name: str) -> None:
    """RFC 9126 §2.1: the form has every parameter of an authorization request, client_id among them."""
    with Recorder(script(Response(201, [], b'{"request_uri":"urn:x","expires_in":60}'))) as recorder:
        server = ServerMetadata(
            token_endpoint=recorder.url("/token"),
            authorization_endpoint=recorder.url("/authorize"),
            pushed_authorization_request_endpoint=recorder.url("/par"),
        )
        secret = {"client_id": "c", "client_secret": "s", "client_auth": "client_secret_basic"}
        with Endpoint(name, KEY, server, **secret) as endpoint:
            endpoint.start_authorization(redirect_uri="https://client.example/cb")
        (pushed,) = recorder.requests
    assert urllib.parse.parse_qs(pushed.body.decode())["client_id"] == ["c"]


def test_the_token_of_a_set_that_is_revoked(name: str) -> None:
    """The refresh token, with which the server revokes the others (RFC 7009 §2.1); without one the access token."""
    recorder, endpoint = answered(name, Response(200))
    with recorder, endpoint:
        endpoint.revoke(TokenSet(access_token="a", refresh_token="r"))
        endpoint.revoke(TokenSet(access_token="a"))
    forms = [dict(urllib.parse.parse_qsl(request.body.decode())) for request in recorder.requests]
    sent = [(form["token"], form["token_type_hint"]) for form in forms if form]
    assert sent == [("r", "refresh_token"), ("a", "access_token")]


def test_a_pushed_request_names_the_client(name: str) -> None:
    """Also if the client authenticates in the header, where no ``client_id`` would be needed (RFC 9126 §2.1)."""
    body = b'{"request_uri":"urn:ietf:params:oauth:request_uri:1","expires_in":60}'
    recorder, public = answered(name, Response(201, [], body))
    with recorder, public, Endpoint(name, KEY, public.server, client_auth=ClientSecretBasic("c", "s")) as endpoint:
        endpoint.start_authorization("http://127.0.0.1/callback", push=True)
    (request,) = recorder.requests
    assert request.one("Authorization").startswith("Basic ")
    assert urllib.parse.parse_qs(request.body.decode())["client_id"] == ["c"]


@pytest.mark.parametrize(
    ("text", "said"), [("r\n", "line break"), (" r", "white space"), ('"r"', "quotes"), ("'r'", "quotes")]
)
def test_what_was_copied_along_is_not_sent(name: str, text: str, said: str) -> None:
    """A line break behind a refresh token or code would be sent as %0A, and refused as a dead token."""
    recorder, endpoint = answered(name, TOKENS)
    with recorder, endpoint:
        for call in (endpoint.refresh, endpoint.redeem_code):
            with pytest.raises(UsageError, match=said):
                call(text)
    assert recorder.requests == []
