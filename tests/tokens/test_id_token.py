# SPDX-License-Identifier: Apache-2.0
"""ID tokens are verified at the login; a bad one is an error that has the tokens, and none costs a refresh."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

import pytest
from joserfc import jwe, jwk
from support.endpoints import ENDPOINTS, Endpoint
from support.jwt_issuer import JWTIssuer, forged
from support.recorder import Received, Recorder, Response

import dpop
from dpop.encoding import b64url_decode, b64url_encode
from dpop.errors import InsecureOriginError, InvalidIDTokenError, TokenEndpointUnavailableError, UsageError
from dpop.keys import Key
from dpop.testing import DPoPTestServer
from dpop.tokens import ClientSecretBasic, ClientSecretPost, PublicClient, ServerMetadata, TokenSet
from dpop.tokens._id_token import BadIDToken, Expected, read_id_token

KEY = dpop.generate_key()
ACCESS = "acc3ss-t0ken"
CODE = "c0de"


@pytest.fixture(params=sorted(ENDPOINTS))
def name(request: pytest.FixtureRequest) -> str:
    """Each integration in turn."""
    return str(request.param)


def half_hash(value: str, kind: Callable[..., Any] = hashlib.sha256) -> str:
    """The value of at_hash and c_hash."""
    digest = kind(value.encode()).digest()
    return b64url_encode(digest[: len(digest) // 2])


class Provider:
    """An OpenID provider whose ID tokens a test makes.

    :param change: gets header and claims of a good ID token, to change them.
    """

    def __init__(
        self, change: Callable[[dict[str, Any], dict[str, Any]], None] = lambda _header, _claims: None
    ) -> None:
        self.key: Key = dpop.generate_key()
        self.signer: Key | None = None
        self.published = [JWTIssuer.jwk(self.key, "k1")]
        self.keys_down = False
        self.change = change
        self.wrap: Callable[[str], str] = lambda text: text
        self.metadata: dict[str, Any] = {}
        self.nonce: str | None = None
        self._recorder = Recorder(self._respond)

    def __enter__(self) -> Self:
        self._recorder.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._recorder.__exit__(*exc)

    @property
    def issuer(self) -> str:
        return self._recorder.origin

    @property
    def asked(self) -> list[str]:
        """The paths that were asked for, in order."""
        return [request.target.partition("?")[0] for request in self._recorder.requests]

    def server(self, **more: Any) -> ServerMetadata:
        """Its endpoints, by hand."""
        facts = {
            "issuer": self.issuer,
            "token_endpoint": f"{self.issuer}/token",
            "authorization_endpoint": f"{self.issuer}/authorize",
            "device_authorization_endpoint": f"{self.issuer}/device",
            "jwks_uri": f"{self.issuer}/jwks",
        }
        return ServerMetadata(**{**facts, **more})

    def _respond(self, request: Received) -> Response:
        path = request.target.partition("?")[0]
        if path == "/jwks":
            body: Any = {"keys": self.published}
            return Response(503) if self.keys_down else Response(200, [], json.dumps(body).encode())
        if path == "/.well-known/oauth-authorization-server":
            body = {"issuer": self.issuer, "token_endpoint": f"{self.issuer}/token", **self.metadata}
        elif path == "/device":
            body = {"device_code": "d", "user_code": "U", "verification_uri": f"{self.issuer}/u", "interval": 0}
        else:
            body = {"access_token": ACCESS, "token_type": "DPoP", "refresh_token": "r", "id_token": self.id_token()}
        return Response(200, [], json.dumps(body).encode())

    def id_token(self) -> str:
        """A good ID token, but for what the test changes."""
        now = int(time.time())
        header: dict[str, Any] = {"alg": self.key.alg, "kid": "k1", "typ": "JWT"}
        claims: dict[str, Any] = {"iss": self.issuer, "aud": "c", "sub": "alice", "iat": now, "exp": now + 60}
        claims |= {} if self.nonce is None else {"nonce": self.nonce}
        claims |= {"at_hash": half_hash(ACCESS)}
        self.change(header, claims)
        return self.wrap(forged(header, claims, self.signer or self.key))


def login(endpoint: Endpoint, provider: Provider, **options: Any) -> TokenSet:
    """Log in with a code, as a browser would bring it."""
    request = endpoint.start_authorization("http://127.0.0.1/", scope="openid read")
    query = dict(parse_qsl(urlsplit(request.url).query))
    assert query["nonce"] == request.nonce
    assert len(query["nonce"]) > 20
    provider.nonce = query["nonce"]
    callback = f"http://127.0.0.1/?code={CODE}&state={request.state}&iss={provider.issuer}"
    tokens: TokenSet = endpoint.finish_authorization(request, callback, **options)
    return tokens


def outcome(provider: Provider, **options: Any) -> TokenSet:
    """What comes of a login with requests."""
    with provider, Endpoint("requests", KEY, provider.server(), client_id="c") as endpoint:
        return login(endpoint, provider, **options)


@pytest.fixture(autouse=True)
def _warnings(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.WARNING, "dpop.tokens"):
        yield


# --- a good one


def test_a_login_with_a_code(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """The keys are fetched before the code is sent, and the ID token is verified."""
    with Provider() as provider, Endpoint(name, KEY, provider.server(), client_id="c") as endpoint:
        tokens = login(endpoint, provider)
        assert provider.asked == ["/jwks", "/token"]
        claims = endpoint.verify_id_token(tokens, nonce=provider.nonce)
    assert tokens.id_token_verified
    assert tokens.id_token_claims == claims
    assert (claims["sub"], caplog.records) == ("alice", [])
    assert TokenSet.from_dict(tokens.to_dict()) == tokens


def test_a_login_on_a_device(name: str) -> None:
    """It has no nonce, and is verified all the same; the scope that was asked for is noted."""
    with Provider() as provider, Endpoint(name, KEY, provider.server(), client_id="c") as endpoint:
        tokens = endpoint.poll_device(endpoint.start_device(scope="openid"))
        assert (tokens.id_token_verified, tokens.scope) == (True, "openid")
        provider.signer = dpop.generate_key()
        with pytest.raises(InvalidIDTokenError):
            endpoint.poll_device(endpoint.start_device(scope="openid"))
        assert not endpoint.poll_device(endpoint.start_device(scope="read")).id_token_verified


def test_a_code_from_elsewhere(name: str) -> None:
    """With the nonce of its request the ID token is verified; without it, it is not, and no keys are fetched."""
    with Provider() as provider, Endpoint(name, KEY, provider.server(), client_id="c") as endpoint:
        provider.nonce = "n"
        assert not endpoint.redeem_code(CODE, redirect_uri="http://127.0.0.1/").id_token_verified
        assert provider.asked == ["/token"]
        assert endpoint.redeem_code(CODE, redirect_uri="http://127.0.0.1/", nonce="n").id_token_verified


def test_without_openid_there_is_no_nonce() -> None:
    """And nobody asks for keys."""
    with Provider() as provider, Endpoint("requests", KEY, provider.server(), client_id="c") as endpoint:
        request = endpoint.start_authorization("http://127.0.0.1/", scope="read opened")
        assert (request.nonce, "nonce" in request.url) == (None, False)
        endpoint.finish_authorization(request, f"?code=c&state={request.state}")
        assert provider.asked == ["/token"]
        # A nonce of the caller's own is kept.
        request = endpoint.start_authorization("http://127.0.0.1/", scope="openid", nonce="mine")
        assert (request.nonce, request.url.count("nonce=")) == ("mine", 1)


@pytest.mark.parametrize("alg", ["ES384", "RS256", "Ed25519"])
def test_kinds_of_keys(alg: str) -> None:
    """The hash of at_hash and c_hash goes by the algorithm."""
    provider = Provider()
    provider.key = dpop.generate_key(alg)
    provider.published = [JWTIssuer.jwk(provider.key, "k1")]
    kind = {"ES384": hashlib.sha384, "RS256": hashlib.sha256, "Ed25519": hashlib.sha512}[alg]
    provider.change = lambda _header, claims: claims.update(
        at_hash=half_hash(ACCESS, kind), c_hash=half_hash(CODE, kind)
    )
    assert outcome(provider).id_token_verified


@pytest.mark.parametrize(
    "change",
    [
        lambda header, claims: claims.update(aud=["c"]),
        lambda header, claims: claims.update(aud=["c", "d"], azp="c"),
        lambda header, claims: claims.pop("at_hash"),
        lambda header, claims: claims.update(iat=time.time() + 200),
        lambda header, claims: claims.update(exp=time.time() - 200),
        lambda header, claims: claims.update(groups=["group"] * 30_000),
        lambda header, claims: header.pop("kid"),
        lambda header, claims: header.pop("typ"),
    ],
    ids=["aud in a list", "several aud", "no at_hash", "a slow clock", "a fast clock", "long", "no kid", "no typ"],
)
def test_other_good_ones(change: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    """Servers differ."""
    assert outcome(Provider(change)).id_token_verified
    assert caplog.records == []


def test_a_key_that_came_after_the_keys_were_fetched() -> None:
    """The keys are fetched once more."""
    provider, newer = Provider(), dpop.generate_key()

    def change(header: dict[str, Any], _claims: dict[str, Any]) -> None:
        header["kid"] = "k2"
        provider.published.append(JWTIssuer.jwk(newer, "k2"))

    provider.change, provider.signer = change, newer
    assert outcome(provider).id_token_verified
    assert provider.asked == ["/jwks", "/token", "/jwks"]


def test_a_newer_key_that_cannot_be_fetched(caplog: pytest.LogCaptureFixture) -> None:
    """The login goes on, as if no keys had come at all."""
    provider = Provider()

    def change(header: dict[str, Any], _claims: dict[str, Any]) -> None:
        header["kid"] = "k2"
        provider.keys_down = True

    provider.change = change
    assert not outcome(provider).id_token_verified
    assert ["answered 503" in record.getMessage() for record in caplog.records] == [True]
    assert provider.asked == ["/jwks", "/token", "/jwks"]


# --- a bad one


def _changed(what: str, **values: Any) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def change(header: dict[str, Any], claims: dict[str, Any]) -> None:
        (header if what == "header" else claims).update(values)
        for part in (header, claims):
            for member in [member for member, value in part.items() if value is None]:
                del part[member]

    return change


BAD = {
    "another issuer's": (_changed("claims", iss="https://other.example"), "its iss is"),
    "no iss": (_changed("claims", iss=None), "its iss is"),
    "another client's": (_changed("claims", aud="d"), "its aud does not name"),
    "no aud": (_changed("claims", aud=None), "its aud does not name"),
    "no azp beside several": (_changed("claims", aud=["c", "d"]), "its azp"),
    "azp of another": (_changed("claims", azp="d"), "its azp"),
    "expired": (_changed("claims", exp=1_500_000_000), "expired [0-9]+ s ago"),
    "no exp": (_changed("claims", exp=None), "its exp"),
    "exp as text": (_changed("claims", exp="9999999999"), "its exp"),
    "exp as true": (_changed("claims", exp=True), "its exp"),
    "of the future": (_changed("claims", iat=9_999_999_999), "in the future"),
    "no iat": (_changed("claims", iat=None), "its iat"),
    "no sub": (_changed("claims", sub=None), "no sub"),
    "no nonce": (_changed("claims", nonce=None), "its nonce is missing"),
    "another nonce": (_changed("claims", nonce="x"), "its nonce is that of another login"),
    "nonce as a number": (_changed("claims", nonce=5), "its nonce is that of another login"),
    "another access token": (_changed("claims", at_hash=half_hash("x")), "its at_hash"),
    "another code": (_changed("claims", c_hash=half_hash("x")), "its c_hash"),
    "no signature": (_changed("header", alg="none"), "its algorithm is 'none'"),
    "no alg": (_changed("header", alg=None), "its algorithm is None"),
    "crit": (_changed("header", crit=["x"]), "crit"),
    "an unknown key": (_changed("header", kid="k9"), "no key of that name"),
    "kid as a number": (_changed("header", kid=5), "its kid"),
    "an algorithm that is not the key's": (_changed("header", alg="RS256"), "no key of that name and algorithm"),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_one_is_an_error_that_has_the_tokens(bad: str) -> None:
    """It says what is wrong, and the grant is not lost."""
    change, words = BAD[bad]
    with pytest.raises(InvalidIDTokenError, match=words) as caught:
        outcome(Provider(change))
    _check_carried(caught.value)


def _check_carried(error: InvalidIDTokenError) -> None:
    assert (error.tokens.refresh_token, error.tokens.access_token) == ("r", ACCESS)
    assert not error.tokens.id_token_verified
    assert error.code == "id_token"
    assert pickle.loads(pickle.dumps(error)).tokens is None
    for secret in (ACCESS, "alice", error.tokens.id_token):
        assert secret not in f"{error} {error!r}"


def test_a_bad_signature(name: str) -> None:
    """In each integration: signed by another key under the same name."""
    with Provider() as provider, Endpoint(name, KEY, provider.server(), client_id="c") as endpoint:
        provider.signer = dpop.generate_key()
        with pytest.raises(InvalidIDTokenError, match="signature does not verify") as caught:
            login(endpoint, provider)
        _check_carried(caught.value)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda text: text[:-4],
        lambda text: text + ".x",
        lambda text: "x",
        lambda text: text.replace(".", ".!", 1),
        lambda text: "e30.e30.AAAA",
        lambda text: "é.e30.e30",
    ],
    ids=["cut off", "four parts", "one part", "odd characters", "empty parts", "not ASCII"],
)
def test_what_is_no_id_token(wrap: Callable[[str], str]) -> None:
    """Cut off, in odd parts, or with odd characters."""
    provider = Provider()
    provider.wrap = wrap
    with pytest.raises(InvalidIDTokenError) as caught:
        outcome(provider)
    assert caught.value.tokens.refresh_token == "r"


def test_claims_count_even_where_the_keys_cannot_be_had() -> None:
    """A server that is down for keys lets no ID token of another login in."""
    provider = Provider(_changed("claims", nonce="x"))
    provider.keys_down = True
    with pytest.raises(InvalidIDTokenError, match="nonce"):
        outcome(provider)


# --- one that cannot be verified


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ({}, "answered 503"),
        ({"issuer": None}, "the issuer is not known"),
        ({"jwks_uri": "http://127.0.0.1:1/jwks"}, "cannot be fetched"),
        ({"jwks_uri": None}, "names no jwks_uri"),
    ],
    ids=["503", "no issuer", "out of reach", "no jwks_uri"],
)
def test_without_keys_it_is_kept(
    name: str, server: dict[str, Any], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The login goes on with one WARNING, and the ID token is marked."""
    with Provider() as provider:
        provider.keys_down = True
        with Endpoint(name, KEY, provider.server(**server), client_id="c") as endpoint:
            tokens = login(endpoint, provider)
            with pytest.raises((UsageError, TokenEndpointUnavailableError), match="cannot be verified"):
                endpoint.verify_id_token(tokens)
    assert (tokens.id_token is not None, tokens.id_token_verified) == (True, False)
    assert [words in record.getMessage() for record in caplog.records] == [True]
    assert "id_token_verified" not in tokens.to_dict()


def test_the_keys_are_found_by_the_issuer() -> None:
    """Where the endpoints were given by hand, the metadata of the issuer names the keys."""
    with Provider() as provider:
        provider.metadata = {"jwks_uri": f"{provider.issuer}/jwks"}
        with Endpoint("requests", KEY, provider.server(jwks_uri=None), client_id="c") as endpoint:
            assert login(endpoint, provider).id_token_verified


def test_metadata_of_another_issuer_name_no_keys(caplog: pytest.LogCaptureFixture) -> None:
    """The login goes on, and the warning says why the ID token could not be verified."""
    with Provider() as provider:
        provider.metadata = {"issuer": "https://other.example"}
        with Endpoint("requests", KEY, provider.server(jwks_uri=None), client_id="c") as endpoint:
            assert not login(endpoint, provider).id_token_verified
    assert ["https://other.example" in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize("uri", ["http://as.example/jwks", "nowhere", 5, None])
def test_metadata_with_keys_that_cannot_be_used(uri: object) -> None:
    """Whoever asks for no ID token need not care."""
    with Provider() as provider:
        provider.metadata = {"jwks_uri": uri}
        with Endpoint("requests", KEY, provider.issuer, discover=True, client_id="c") as endpoint:
            assert endpoint.server.jwks_uri is None


SECRET = "geheimnis-" * 7  # as long as HS512 takes


def _by_secret(alg: str, secret: str) -> Callable[[str], str]:
    """An ID token signed with a secret."""

    def wrap(text: str) -> str:
        claims = json.loads(b64url_decode(text.split(".")[1]))
        claims["at_hash"] = half_hash(ACCESS, getattr(hashlib, f"sha{alg[2:]}"))
        data = ".".join(b64url_encode(json.dumps(part).encode()) for part in ({"alg": alg}, claims))
        return f"{data}.{b64url_encode(hmac.digest(secret.encode(), data.encode(), 'sha' + alg[2:]))}"

    return wrap


def _outcome_by_secret(alg: str, signed_with: str, auth: Any) -> TokenSet:
    provider = Provider()
    provider.wrap = _by_secret(alg, signed_with)
    with provider, Endpoint("requests", KEY, provider.server(), client_auth=auth) as endpoint:
        return login(endpoint, provider)


@pytest.mark.parametrize("auth", [ClientSecretBasic, ClientSecretPost])
@pytest.mark.parametrize("alg", ["HS256", "HS384", "HS512"])
def test_a_signature_with_the_secret_of_the_client(auth: Any, alg: str, caplog: pytest.LogCaptureFixture) -> None:
    """Some servers sign so unless told otherwise (OpenID Connect Core §3.1.3.7, 8)."""
    assert _outcome_by_secret(alg, SECRET, auth("c", SECRET)).id_token_verified
    assert not caplog.records


def test_a_signature_with_another_secret() -> None:
    """Somebody else made it; the tokens that came with it are in the error."""
    with pytest.raises(InvalidIDTokenError, match="signature does not verify") as caught:
        _outcome_by_secret("HS256", SECRET + "x", ClientSecretBasic("c", SECRET))
    assert caught.value.tokens.refresh_token == "r"


@pytest.mark.parametrize(
    ("auth", "secret", "words"),
    [
        (PublicClient("c"), SECRET, "this client has none"),
        (ClientSecretBasic("c", "x" * 31), "x" * 31, "under 32 bytes"),
    ],
    ids=["a public client", "a short secret"],
)
def test_a_secret_that_verifies_nothing(auth: Any, secret: str, words: str, caplog: pytest.LogCaptureFixture) -> None:
    """The login goes on with one WARNING: the tokens are bound to the key whoever signed the ID token."""
    assert not _outcome_by_secret("HS256", secret, auth).id_token_verified
    assert [words in record.getMessage() for record in caplog.records] == [True]


def test_a_published_key_is_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    """An ID token whose HS256 was made with the bytes of the server's public key is not verified with that key."""
    provider = Provider()
    provider.wrap = _by_secret("HS256", json.dumps(provider.published[0]))
    assert not outcome(provider).id_token_verified
    assert ["this client has none" in record.getMessage() for record in caplog.records] == [True]


# --- encrypted


def _encrypted(public: Any, **header: Any) -> Callable[[str], str]:
    return lambda text: jwe.encrypt_compact(
        {"alg": "ECDH-ES+A256KW", "enc": "A256GCM", "cty": "JWT", **header},
        text.encode(),
        public,
        algorithms=["ECDH-ES+A256KW", "RSA-OAEP", "RSA-OAEP-256", "A256GCM", "A128CBC-HS256", "A128KW", "DEF"],
    )


def test_an_encrypted_one(name: str) -> None:
    """The key is a JWK or PEM; what is inside is verified like any other."""
    own = jwk.ECKey.generate_key("P-256")
    public = jwk.ECKey.import_key(own.as_dict(private=False))
    with Provider() as provider, Endpoint(name, KEY, provider.server(), client_id="c") as endpoint:
        provider.wrap = _encrypted(public)
        pem = own.as_pem(private=True)
        for key in (own.as_dict(private=True), pem, pem.decode()):
            tokens = login(endpoint, provider, id_token_key=key)
            assert tokens.id_token_verified
        assert endpoint.verify_id_token(tokens, nonce=provider.nonce, id_token_key=pem)["sub"] == "alice"
        assert tokens.id_token_claims is None
        provider.signer = dpop.generate_key()
        with pytest.raises(InvalidIDTokenError, match="signature"):
            login(endpoint, provider, id_token_key=pem)


def test_an_encrypted_one_for_an_rsa_key() -> None:
    """Of a length that groups bring with them."""
    own = jwk.RSAKey.generate_key(2048)
    provider = Provider(_changed("claims", groups=["group"] * 20_000))
    provider.wrap = _encrypted(own, alg="RSA-OAEP-256", enc="A128CBC-HS256")
    assert outcome(provider, id_token_key=own.as_pem(private=True)).id_token_verified


def test_an_encrypted_one_without_a_key(caplog: pytest.LogCaptureFixture) -> None:
    """It is kept, and the WARNING names the argument."""
    provider = Provider()
    provider.wrap = _encrypted(jwk.ECKey.generate_key("P-256"))
    assert not outcome(provider).id_token_verified
    assert ["id_token_key" in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize("header", [{"zip": "DEF"}, {"alg": "A128KW"}])
def test_encryption_that_is_not_supported(header: Mapping[str, Any]) -> None:
    """Compression can be a bomb, and a shared key is none for one side alone."""
    own = jwk.ECKey.generate_key("P-256")
    provider = Provider()
    provider.wrap = _encrypted(jwk.OctKey.generate_key(128) if "alg" in header else own, **header)
    with pytest.raises(InvalidIDTokenError, match="not supported"):
        outcome(provider, id_token_key=own.as_pem(private=True))


def test_one_that_is_encrypted_for_another() -> None:
    """The key does not fit."""
    provider = Provider()
    provider.wrap = _encrypted(jwk.ECKey.generate_key("P-256"))
    with pytest.raises(InvalidIDTokenError, match="cannot be decrypted"):
        outcome(provider, id_token_key=jwk.ECKey.generate_key("P-256").as_pem(private=True))


@pytest.mark.parametrize(
    "key",
    [
        5,
        b"hush-hush",
        "hush-hush",
        {"kty": "oct", "k": "aHVzaC1odXNo"},
        {"kty": "EC"},
        dict(KEY.public_jwk),
        jwk.ECKey.generate_key("P-256").as_pem(private=True, password="hush"),
    ],
    ids=["a number", "bytes", "text", "a shared key", "half a key", "a public key", "a key with a password"],
)
def test_a_key_that_cannot_decrypt(key: object) -> None:
    """It is refused before the code is sent."""
    provider = Provider()
    with pytest.raises(UsageError, match="id_token_key must be") as caught:
        outcome(provider, id_token_key=key)
    assert "hush" not in str(caught.value)
    assert provider.asked == []


# --- at a refresh


def test_a_refresh_waits_for_no_keys(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Its ID token is kept and marked; one of another user or client is a WARNING, and costs nothing."""
    with Provider() as provider, Endpoint(name, KEY, provider.server(), client_id="c") as endpoint:
        tokens = login(endpoint, provider)
        before = len(provider.asked)
        provider.change = _changed("claims", extra=1)
        refreshed = endpoint.refresh(tokens)
        assert (refreshed.id_token_verified, caplog.records) == (False, [])
        assert endpoint.verify_id_token(refreshed)["extra"] == 1
        for changes in ({"sub": "mallory"}, {"aud": "d"}, {"iss": "https://other.example"}):
            provider.change = _changed("claims", **changes)
            assert endpoint.refresh(tokens).refresh_token == "r"
        assert provider.asked[before:] == ["/token", "/jwks", "/token", "/token", "/token"]
    assert ["must not be believed" in record.getMessage() for record in caplog.records] == [True] * 3
    assert "mallory" not in caplog.text


def test_a_refresh_without_an_id_token_keeps_the_old_one(name: str) -> None:
    """And that it was verified."""
    with (
        DPoPTestServer() as server,
        Endpoint(name, KEY, server.issuer, discover=True, client_id=server.public_client_id) as endpoint,
    ):
        tokens = TokenSet(
            access_token="a",
            refresh_token=server.issue_refresh_token(jkt=KEY.thumbprint, client_id=server.public_client_id),
            id_token="x",
            id_token_verified=True,
        )
        refreshed = endpoint.refresh(tokens)
    assert (refreshed.id_token, refreshed.id_token_verified) == ("x", True)


def test_there_is_nothing_to_verify() -> None:
    """Without an ID token."""
    with (
        Endpoint("requests", KEY, ServerMetadata(token_endpoint="https://as.example/t"), client_id="c") as endpoint,
        pytest.raises(UsageError, match="no ID token"),
    ):
        endpoint.verify_id_token(TokenSet(access_token="a"))


def test_googles_issuer_has_two_names() -> None:
    """As Google documents; no other issuer does."""
    now = int(time.time())
    text = forged(
        {"alg": "RS256"}, {"iss": "accounts.google.com", "aud": "c", "sub": "1", "iat": now, "exp": now + 60}, KEY
    )
    google = Expected("https://accounts.google.com", "c", None, None)
    assert read_id_token(text, google, now).claims["sub"] == "1"
    with pytest.raises(BadIDToken):
        read_id_token(text, google._replace(issuer="https://accounts.example"), now)


def test_keys_are_not_fetched_over_plain_http() -> None:
    """Whoever is in between could sign ID tokens."""
    server = ServerMetadata(token_endpoint="https://as.example/t", jwks_uri="http://as.example/keys")
    with pytest.raises(InsecureOriginError, match=r"as\.example"):
        Endpoint("requests", KEY, server, client_id="c")
