# SPDX-License-Identifier: Apache-2.0
"""Token endpoints: every grant through every integration, asserted on what the server saw."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import pickle
import socket
import threading
import time
import urllib.parse
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import httpx2
import pytest
import requests
from joserfc import jwt
from joserfc.jwk import ECKey
from support.endpoints import ENDPOINTS, Endpoint
from support.forking import in_child
from support.recorder import Received, Recorder, Response, script

import dpop
from dpop.errors import (
    AlgorithmError,
    InsecureOriginError,
    InvalidTokenResponseError,
    KeyMismatchError,
    OutcomeUnknownError,
    ReauthorizationError,
    SigningError,
    TokenEndpointUnavailableError,
    TokenRefusedError,
    TokenRequestError,
    UnboundTokenError,
    UsageError,
)
from dpop.keys import ExternalKey
from dpop.testing import DPoPTestServer
from dpop.tokens import (
    ClientSecretBasic,
    DeviceAuthorization,
    MemoryTokenStore,
    PrivateKeyJWT,
    ServerMetadata,
    TokenSet,
)

KEY = dpop.generate_key()


@pytest.fixture(params=sorted(ENDPOINTS))
def name(request: pytest.FixtureRequest) -> str:
    """Each integration in turn."""
    return str(request.param)


@pytest.fixture
def server() -> Iterator[DPoPTestServer]:
    """A server that wants nonces and rotates refresh tokens."""
    with DPoPTestServer(nonces="rotating", rotate_refresh_tokens=True) as running:
        yield running


def metadata(server: DPoPTestServer) -> ServerMetadata:
    """The server's endpoints, by hand."""
    return ServerMetadata(
        issuer=server.issuer,
        token_endpoint=server.token_endpoint,
        authorization_endpoint=server.authorization_endpoint,
        pushed_authorization_request_endpoint=server.par_endpoint,
        revocation_endpoint=server.revocation_endpoint,
        introspection_endpoint=server.introspection_endpoint,
    )


def endpoint_of(name: str, server: DPoPTestServer, **options: Any) -> Endpoint:
    """An endpoint of the confidential client."""
    known = {"client_id": server.client_id, "client_secret": server.client_secret, "timeout": 5}
    return Endpoint(name, options.pop("key", KEY), options.pop("at", metadata(server)), **{**known, **options})


def wire(server: DPoPTestServer) -> list[tuple[str, int, bool]]:
    """Path, status and whether there was a proof, of each request."""
    return [
        (entry.path, entry.status, any(field.lower() == "dpop" for field, _ in entry.headers))
        for entry in server.requests
    ]


def claims_of(proof: str | None) -> dict[str, Any]:
    """What a proof says."""
    assert proof is not None
    said: dict[str, Any] = json.loads(base64.urlsafe_b64decode(proof.split(".")[1] + "=="))
    return said


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


def test_bearer_in_response_to_a_proof_is_refused(name: str, server: DPoPTestServer) -> None:
    """A downgrade is an error, unless it is allowed."""
    server.levers.bound_tokens = False
    refresh_token = server.issue_refresh_token(jkt=KEY.thumbprint)
    with endpoint_of(name, server) as endpoint, pytest.raises(UnboundTokenError):
        endpoint.refresh(refresh_token)
    refresh_token = server.issue_refresh_token(jkt=KEY.thumbprint)
    with endpoint_of(name, server, allow_bearer=True) as endpoint:
        assert not endpoint.refresh(refresh_token).is_bound


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


def test_the_users_client_lends_its_settings_and_not_its_credentials(server: DPoPTestServer) -> None:
    """Headers and cookies of a given client are sent; its auth and Authorization header are not."""
    session = requests.Session()
    session.headers.update({"Authorization": "Bearer other", "X-Own": "1"})
    session.auth = ("someone", "else")
    client = httpx.Client(headers={"Authorization": "Bearer other", "X-Own": "1"}, auth=("someone", "else"), timeout=60)
    with session, client:
        for name, http in (("requests", session), ("httpx", client)):
            with endpoint_of(name, server, http=http, client_auth="client_secret_post") as endpoint:
                endpoint.grant("client_credentials")
            assert not client.is_closed
    for entry in server.requests:
        fields = {field.lower(): value for field, value in entry.headers}
        assert "authorization" not in fields
        assert fields["x-own"] == "1"


def test_a_client_that_signs_already_signs_once(server: DPoPTestServer) -> None:
    """A given client with a DPoP transport lends what is below it."""
    with httpx.Client(
        transport=dpop.httpx.DPoPTransport(dpop.generate_key(), origins=server.origin), timeout=60
    ) as http:
        with endpoint_of("httpx", server, http=http) as endpoint:
            assert endpoint.grant("client_credentials").jkt == KEY.thumbprint
    assert [entry.status for entry in server.requests] == [400, 200]


def test_an_assertion_is_made_anew_for_the_retry(name: str) -> None:
    """The second request with private_key_jwt holds another assertion, signed by the client's own key."""
    own = dpop.generate_key("ES384")
    challenge = Response(400, [("DPoP-Nonce", "n1")], b'{"error":"use_dpop_nonce"}')
    with Recorder(script(challenge, Response(200, [], b'{"access_token":"a","token_type":"DPoP"}'))) as recorder:
        server = ServerMetadata(token_endpoint=recorder.url("/token"), issuer="https://as.example")
        auth = PrivateKeyJWT("c", own, kid="k1")
        with Endpoint(name, KEY, server, client_auth=auth) as endpoint:
            endpoint.refresh("r")
        forms = [dict(urllib.parse.parse_qsl(request.body.decode())) for request in recorder.requests]
    assert [form.pop("refresh_token") for form in forms] == ["r", "r"]
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


def test_parameters_of_the_endpoints_own_are_not_overwritten(name: str, server: DPoPTestServer) -> None:
    """client_id and grant_type cannot be smuggled in; other parameters may be repeated."""
    with endpoint_of(name, server, client_auth="client_secret_post") as endpoint:
        with pytest.raises(UsageError):
            endpoint.grant("client_credentials", client_id="other")
        with pytest.raises(UsageError):
            endpoint.grant("client_credentials", scope=7)
        with pytest.raises(TokenRequestError):
            endpoint.grant("urn:example:unheard-of", resource=["https://a.example/", "https://b.example/"])
    last = urllib.parse.parse_qs(server.requests[-1].body.decode())
    assert last["resource"] == ["https://a.example/", "https://b.example/"]


@pytest.mark.parametrize("name", ["requests", "httpx", "httpx2"], indirect=True)
def test_a_forked_child_has_connections_of_its_own(name: str, server: DPoPTestServer) -> None:
    """Parent and child go on with the same endpoint, and no byte of one is on a connection of the other."""
    with endpoint_of(name, server) as endpoint:
        endpoint.grant("client_credentials")
        parents = {entry.connection for entry in server.requests}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on: the server has threads
            said = in_child(lambda: str(endpoint.grant("client_credentials").token_type).encode())
        assert said == b"DPoP"
        endpoint.grant("client_credentials")
        connections = [entry.connection for entry in server.requests if entry.status == 200]
    assert len(connections) == 3
    assert connections[0] in parents
    assert connections[1] not in parents
    assert connections[2] in parents


@pytest.mark.parametrize("name", ["httpx-async", "httpx2-async"], indirect=True)
def test_several_event_loops(name: str, server: DPoPTestServer) -> None:
    """One endpoint serves tasks of one loop after the other, and of two at once."""
    endpoint = ENDPOINTS[name](
        KEY, server.token_endpoint, client_id=server.client_id, client_secret=server.client_secret
    )

    async def ask() -> str:
        tokens = await asyncio.gather(*(endpoint.grant("client_credentials") for _ in range(5)))
        await endpoint.aclose()
        return tokens[0].token_type

    assert [asyncio.run(ask()) for _ in range(3)] == ["DPoP"] * 3
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: asyncio.run(ask()), range(8))) == ["DPoP"] * 8


def answered(name: str, *responses: Response) -> tuple[Recorder, Endpoint]:
    """An endpoint whose server gives these responses, the last one again and again."""
    recorder = Recorder(script(*responses))
    server = ServerMetadata(
        token_endpoint=recorder.url("/token"),
        authorization_endpoint=recorder.url("/authorize"),
        pushed_authorization_request_endpoint=recorder.url("/par"),
        revocation_endpoint=recorder.url("/revoke"),
    )
    return recorder, Endpoint(name, KEY, server, client_id="c")


def refusal(status: int, error: str, **members: str) -> Response:
    """An OAuth error."""
    return Response(status, [], json.dumps({"error": error, **members}).encode())


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


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_a_revocation_succeeds_with_any_2xx(name: str, status: int) -> None:
    """Several servers answer 204, which has no body."""
    recorder, endpoint = answered(name, Response(status))
    with recorder, endpoint:
        endpoint.revoke("token")


def test_the_token_of_a_set_that_is_revoked(name: str) -> None:
    """The refresh token, with which the server revokes the others (RFC 7009 §2.1); without one the access token."""
    recorder, endpoint = answered(name, Response(200))
    with recorder, endpoint:
        endpoint.revoke(TokenSet(access_token="a", refresh_token="r"))
        endpoint.revoke(TokenSet(access_token="a"))
    forms = [dict(urllib.parse.parse_qsl(request.body.decode())) for request in recorder.requests]
    sent = [(form["token"], form["token_type_hint"]) for form in forms if form]
    assert sent == [("r", "refresh_token"), ("a", "access_token")]


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


def test_a_pushed_request_names_the_client(name: str) -> None:
    """Also if the client authenticates in the header, where no ``client_id`` would be needed (RFC 9126 §2.1)."""
    body = b'{"request_uri":"urn:ietf:params:oauth:request_uri:1","expires_in":60}'
    recorder, public = answered(name, Response(201, [], body))
    with recorder, public, Endpoint(name, KEY, public.server, client_auth=ClientSecretBasic("c", "s")) as endpoint:
        endpoint.start_authorization("http://127.0.0.1/callback", push=True)
    (request,) = recorder.requests
    assert request.one("Authorization").startswith("Basic ")
    assert urllib.parse.parse_qs(request.body.decode())["client_id"] == ["c"]


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


def forms_of(recorder: Recorder) -> list[dict[str, list[str]]]:
    """What was asked for, without what every request has."""
    forms = [urllib.parse.parse_qs(request.body.decode()) for request in recorder.requests]
    return [{name: form[name] for name in ("grant_type", "scope", "resource") if name in form} for form in forms]


TOKENS = Response(200, [], b'{"access_token":"a","token_type":"DPoP","expires_in":0,"refresh_token":"r2"}')


def test_a_source_refreshes_with_its_parameters(name: str) -> None:
    """Scope and resources given to source() go with each refresh (RFC 8707), and nothing else does."""
    resources = ["https://a.example/", "https://b.example/"]
    recorder, endpoint = answered(name, TOKENS)
    store = MemoryTokenStore()
    store.save(TokenSet(access_token="old", refresh_token="r", expires_at=1))
    with recorder, endpoint:
        source = endpoint.it.source(store, scope="read", resource=resources)
        assert endpoint.wait(source.atoken()) == "a"
        endpoint.refresh("r")
    refresh = {"grant_type": ["refresh_token"]}
    assert forms_of(recorder) == [{**refresh, "scope": ["read"], "resource": resources}, refresh]


def test_the_scope_asked_for_is_granted_if_the_response_does_not_say(name: str) -> None:
    """RFC 6749 §3.3: a server names the scope that it granted if that is another one."""
    recorder, endpoint = answered(name, TOKENS)
    with recorder, endpoint:
        assert endpoint.grant("client_credentials", scope="read write").scope == "read write"
        assert endpoint.grant("client_credentials").scope is None


def test_resources_are_remembered(name: str) -> None:
    """Those of a code or another grant are asked for again, unless others are given."""
    recorder, endpoint = answered(name, TOKENS)
    a, b = "https://a.example/", "https://b.example/"
    store = MemoryTokenStore()
    with recorder, endpoint:
        tokens = endpoint.redeem_code("code", resource=a)
        assert tokens.resource == (a,)
        again = TokenSet.from_dict(json.loads(tokens.to_json()))
        assert again == tokens
        assert endpoint.refresh(again).resource == (a,)
        assert endpoint.refresh(again, resource=[a, b]).resource == (a, b)
        store.save(again.replace(issued_at=0, expires_at=1))
        endpoint.wait(endpoint.it.source(store).atoken())
        stored = store.load()
        assert stored is not None
        assert stored.resource == (a,)
    assert [form.get("resource") for form in forms_of(recorder)] == [[a], [a], [a, b], [a]]


def test_a_grant_without_user_gets_them_too(name: str) -> None:
    """With grant= the parameters go with the grant, and with refreshes only scope and resource."""
    tokens = Response(200, [], b'{"access_token":"a","token_type":"DPoP","expires_in":0}')
    recorder, endpoint = answered(name, tokens)
    with recorder, endpoint:
        source = endpoint.it.source(
            MemoryTokenStore(), grant="client_credentials", scope="read", resource="https://a.example/", audience="x"
        )
        endpoint.wait(source.atoken())
    (form,) = forms_of(recorder)
    assert form == {"grant_type": ["client_credentials"], "scope": ["read"], "resource": ["https://a.example/"]}
    assert b"audience=x" in recorder.requests[0].body


@pytest.mark.parametrize(
    ("store", "options", "said"),
    [
        (MemoryTokenStore, {}, r"MemoryTokenStore\(\.\.\.\)"),
        ({}, {}, "another TokenStore"),
        (MemoryTokenStore(), {"audience": "x"}, "audience"),
        (MemoryTokenStore(), {"resource": 7}, "resource"),
    ],
)
def test_sources_that_cannot_work(name: str, store: Any, options: dict[str, Any], said: str) -> None:
    """A class in place of a store, and parameters of no grant, are refused when the source is made."""
    with Endpoint(name, KEY, "https://as.example/token", client_id="c") as endpoint:
        with pytest.raises(UsageError, match=said):
            endpoint.it.source(store, **options)


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


# -- what a client lends


LIBRARIES: dict[str, Any] = {"requests": requests, "httpx": httpx, "httpx2": httpx2}


def client_of(name: str, **settings: Any) -> Any:
    """A session or client of the endpoint's library, with these settings."""
    library = LIBRARIES[name.removesuffix("-async")]
    if name != "requests":
        return (library.AsyncClient if name.endswith("-async") else library.Client)(**settings)
    session = requests.Session()
    for setting, value in settings.items():
        getattr(session, setting).update(value)
    return session


def close(http: Any, endpoint: Endpoint) -> None:
    """Close a client on the loop that it was used on."""
    if hasattr(http, "aclose"):
        endpoint.wait(http.aclose())
    else:
        http.close()


def cookies_of(request: Received) -> list[str]:
    """The cookies of a request, in order of their names."""
    return sorted(pair for value in request.all("Cookie") for pair in value.split("; "))


@pytest.mark.parametrize(
    ("name", "lent"),
    [(name, lent) for name in sorted(ENDPOINTS) for lent in (False, True) if not lent or name != "aiohttp"],
    indirect=["name"],
)
def test_a_cookie_of_a_challenge_goes_with_the_retry(name: str, *, lent: bool) -> None:
    """A load balancer's cookie leads the retry to the server that knows the nonce, and stays in the jar."""
    challenge = Response(400, [("DPoP-Nonce", "n1"), ("Set-Cookie", "node=7; Path=/")], b'{"error":"use_dpop_nonce"}')
    own = ["old=1"] if lent else []
    http = client_of(name, cookies={"old": "1"}) if lent else None
    with Recorder(script(challenge, TOKENS)) as recorder:
        with Endpoint(name, KEY, recorder.url("/token"), client_id="c", http=http) as endpoint:
            endpoint.refresh("r")
            endpoint.refresh("r")
            if http is not None:
                assert dict(http.cookies) == {"old": "1", "node": "7"}
                close(http, endpoint)
        assert [cookies_of(request) for request in recorder.requests] == [own, *[["node=7", *own]] * 2]


@pytest.mark.parametrize("path", ["/token", "/revoke"])
def test_a_cookie_of_a_response_is_kept(name: str, path: str) -> None:
    """The next request of the endpoint has it, whatever either is for."""
    response = Response(200, [("Set-Cookie", "node=7; Path=/")], TOKENS.body)
    recorder, endpoint = answered(name, response)
    with recorder, endpoint:
        if path == "/token":
            endpoint.refresh("r")
        else:
            endpoint.revoke("r")
        endpoint.refresh("r")
        endpoint.revoke("r")
    assert [cookies_of(request) for request in recorder.requests] == [[], ["node=7"], ["node=7"]]


@pytest.mark.parametrize("name", sorted(ENDPOINTS.keys() - {"aiohttp"}), indirect=True)  # whose sessions have none
def test_parameters_of_a_client_stay_with_it(name: str) -> None:
    """``params`` that a client adds to its API's URLs, such as a key, do not go to the token endpoint."""
    settings = {"params": {"api_key": "s3cret"}, "headers": {"X-Office": "Berne"}}
    recorder = Recorder(script(TOKENS))
    server = ServerMetadata(token_endpoint=recorder.url("/token?a=1"), revocation_endpoint=recorder.url("/revoke"))
    http = client_of(name, **settings)
    with recorder, Endpoint(name, KEY, server, client_id="c", http=http) as endpoint:
        endpoint.refresh("r")
        endpoint.revoke("r")
        close(http, endpoint)
    assert [request.target for request in recorder.requests] == ["/token?a=1", "/revoke"]
    assert [request.one("X-Office") for request in recorder.requests] == ["Berne"] * 2
    assert recorder.requests[0].claims["htu"] == recorder.url("/token")


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


def test_two_different_errors_are_none(name: str) -> None:
    """It is not known which of them is meant, so nothing is sent again."""
    both = b'{"error":"invalid_grant","error":"use_dpop_nonce"}'
    recorder, endpoint = answered(name, Response(400, [("DPoP-Nonce", "n1")], both))
    with recorder, endpoint, pytest.raises(TokenRequestError):
        endpoint.refresh("r")
    assert len(recorder.requests) == 1
