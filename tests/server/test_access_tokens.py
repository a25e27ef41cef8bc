# SPDX-License-Identifier: Apache-2.0
"""JWT access tokens: which are accepted, how long, with which keys, and what strangers and issuers may do."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.forking import in_child
from support.jwt_issuer import AUDIENCE, JWTIssuer, Timer, forged
from support.recorder import Received, Response

import dpop
from dpop.encoding import b64url_encode
from dpop.errors import AlgorithmError, InsecureOriginError, InvalidProof, LookupUnavailableError, UsageError
from dpop.server import (
    JWTAccessTokens,
    MemoryReplayCache,
    ProofVerifier,
    ProtectedResource,
    ResourceRequest,
)
from dpop.server._lookups import default_fetch


@pytest.fixture
def issuer() -> Iterator[JWTIssuer]:
    """An authorization server of this test."""
    with JWTIssuer() as running:
        yield running


def verifier(issuer: JWTIssuer, **settings: Any) -> JWTAccessTokens:
    """The look-up of an API that trusts one issuer."""
    return JWTAccessTokens(**{"issuer": issuer.url, "audience": AUDIENCE} | settings)


def why(tokens: JWTAccessTokens, token: str) -> InvalidProof:
    """The refusal of a token, the same in threads and tasks."""
    with pytest.raises(InvalidProof) as caught:
        tokens(token)
    with pytest.raises(InvalidProof) as awaited:
        asyncio.run(tokens.acall(token))
    assert str(awaited.value) == str(caught.value)
    assert caught.value.error == "invalid_token"
    return caught.value


def settled(tokens: JWTAccessTokens) -> None:
    """Wait until no fetch is running."""
    deadline = time.monotonic() + 30
    while any(keys._lookup is not None for keys in tokens._issuers.values()):
        assert time.monotonic() < deadline
        time.sleep(0.002)


def holding(release: threading.Event) -> Callable[[Received], None]:
    """An issuer that responds when a test lets it."""

    def hold(_request: Received) -> None:
        release.wait(60)

    return hold


# --- which tokens


@pytest.mark.parametrize("alg", ["ES256", "ES384", "ES512", "Ed25519", "EdDSA", "PS256", "RS256", "RS384", "PS512"])
def test_tokens_of_every_algorithm(issuer: JWTIssuer, alg: str) -> None:
    """Each verifies with the published key, in a thread and in a task."""
    issuer.key = dpop.generate_key(alg)
    issuer.published = [issuer.jwk(issuer.key, "k1")]
    tokens = verifier(issuer)
    token = issuer.token()
    assert tokens(token)["sub"] == "alice"
    assert (
        asyncio.run(verifier(issuer).acall(token))
        == tokens(token)
        == issuer.claims(exp=tokens(token)["exp"]) | {"iat": tokens(token)["iat"]}
    )


def test_it_plugs_into_a_protected_resource(issuer: JWTIssuer) -> None:
    """The token's ``cnf`` must name the key of the proof; scope and expiry are judged."""
    key = dpop.generate_key()
    api = ProtectedResource(ProofVerifier(replay=MemoryReplayCache()), url=AUDIENCE, token=verifier(issuer))

    def request(token: str) -> ResourceRequest:
        proof = dpop.create_proof(key, "GET", f"{AUDIENCE}/items", access_token=token)
        return ResourceRequest("GET", "/items", "/items", [("Authorization", f"DPoP {token}"), ("DPoP", proof)])

    good = issuer.token(cnf={"jkt": key.thumbprint})
    for access in (api.admit(request(good)), asyncio.run(api.aadmit(request(good)))):
        assert access.claims["sub"] == "alice"
    assert not api.is_async
    for bad, reason in (
        (issuer.token(cnf={"jkt": dpop.generate_key().thumbprint}), "key_mismatch"),
        (issuer.token(), "token_unbound"),
        (issuer.token(cnf={"jkt": key.thumbprint}, exp=1), "token_expired"),
    ):
        with pytest.raises(InvalidProof) as caught:
            api.admit(request(bad))
        assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("changes", "because"),
    [
        ({"iss": "https://other.example"}, "issuer"),
        ({"iss": None}, "issuer"),
        ({"iss": ["x"]}, "issuer"),
        ({"aud": "https://other.example"}, "another API"),
        ({"aud": ["https://other.example"]}, "another API"),
        ({"aud": None}, "aud is missing"),
        ({"aud": [1]}, "aud is missing"),
        ({"aud": {"https://api.example": 1}}, "aud is missing"),
        ({"exp": None}, "no exp"),
        ({"exp": "9999999999"}, "exp is not a number"),
        ({"exp": True}, "exp is not a number"),
        ({"exp": 1}, "has expired"),
        ({"nbf": 99999999999}, "not valid yet"),
        ({"nbf": "1"}, "nbf is not a number"),
        ({"iat": 99999999999}, "issued in the future"),
    ],
)
def test_claims_that_are_refused(issuer: JWTIssuer, changes: dict[str, Any], because: str) -> None:
    """Issuer, audience and times are those of a token for this API (RFC 9068 §4)."""
    assert because in str(why(verifier(issuer), issuer.token(**changes)))


@pytest.mark.parametrize("aud", [AUDIENCE, [AUDIENCE], ["https://other.example", AUDIENCE]])
def test_an_audience_among_several(issuer: JWTIssuer, aud: Any) -> None:
    """One of this API's names in the token is enough (RFC 7519 §4.1.3)."""
    assert verifier(issuer, audience=[AUDIENCE, "api"])(issuer.token(aud=aud))


@pytest.mark.parametrize(
    "typ", ["at+jwt", "AT+JWT", "application/at+jwt", "JWT", "jwt", None, "dpop+jwt", "logout+jwt", 1, "", ["jwt"], {}]
)
def test_the_type_of_a_token(issuer: JWTIssuer, typ: Any) -> None:
    """An ID token or a proof is no access token; ``require_type=False`` is for issuers that write JWT or nothing."""
    token = issuer.token(header={"typ": typ})
    is_access = isinstance(typ, str) and typ.lower().endswith("at+jwt")
    if is_access:
        assert verifier(issuer)(token)
    else:
        assert "typ" in str(why(verifier(issuer), token))
    relaxed = verifier(issuer, require_type=False)
    if is_access or typ in ("JWT", "jwt", None):
        assert relaxed(token)
    else:
        assert "typ" in str(why(relaxed, token))


# --- hostile tokens


def test_a_signature_by_another_key(issuer: JWTIssuer) -> None:
    """Neither a stranger's key under a known name, nor one that the token brings along, verifies anything."""
    tokens, stranger = verifier(issuer), dpop.generate_key()
    brought: list[dict[str, Any]] = [
        {},
        {"jwk": dict(stranger.public_jwk)},
        {"jku": "https://evil.example/jwks", "x5u": "https://evil.example/x5"},
        {"x5c": ["AAAA"]},
    ]
    for header in brought:
        assert "signature" in str(why(tokens, issuer.token(key=stranger, header=header)))
    assert set(issuer.asked) == {"/.well-known/oauth-authorization-server", "/jwks"}


@pytest.mark.parametrize("alg", ["none", "NONE", "HS256", "ES256K", "Ed448", "RS256", "", None, 1, ["ES256"]])
def test_an_algorithm_that_is_not_the_key_s(issuer: JWTIssuer, alg: Any) -> None:
    """A token does not choose: not no signature, not a MAC with the public key, not another kind of key."""
    tokens = verifier(issuer)
    for token in (
        issuer.token(header={"alg": alg}),
        issuer.token(header={"alg": alg}).rpartition(".")[0] + ".",
    ):
        assert any(word in str(why(tokens, token)) for word in ("algorithm", "no key"))


def test_algorithms_are_fixed_by_configuration(issuer: JWTIssuer) -> None:
    """A token of another algorithm is refused even if a key of the set would verify it."""
    assert "algorithm" in str(why(verifier(issuer, algs="PS256 RS256"), issuer.token()))
    with pytest.raises(AlgorithmError):
        verifier(issuer, algs="HS256")


def test_a_signature_has_one_spelling(issuer: JWTIssuer) -> None:
    """Padding and unused bits make another token, with another hash, of the same one."""
    tokens, token = verifier(issuer), issuer.token()
    assert tokens(token)["sub"]
    for other in (token + "==", token[:-1] + chr(ord(token[-1]) + 1)):
        assert "signature" in str(why(tokens, other))


RUBBISH = [
    "",
    "opaque",
    "..",
    "a.b.c",
    "a.b.c.d.e",
    "A" * 20_000,
    "." * 16_000,
    forged(b"{}", b"{}"),
    forged(b'{"alg":"ES256","alg":"none"}', b"{}"),
    forged(b'{"alg":"ES256","typ":"at+jwt","crit":["exp"],"exp":1}', b"{}"),
    forged(b'{"alg":"ES256","typ":"at+jwt","crit":[]}', b"{}"),
    forged(b'{"alg":"ES256","typ":"at+jwt","b64":false}', b"{}"),
    forged(b'{"alg":"dir","enc":"A256GCM","zip":"DEF"}', b"{}") + "." + "A" * 50 + "." + "A" * 9000,
    forged(b'{"alg":"ES256","typ":"at+jwt"}', b"[" * 8000),
    forged(b'{"alg":"ES256","typ":"at+jwt"}', b'{"exp":1' + b"0" * 5000 + b"}"),
    forged(b'{"alg":"ES256","typ":"at+jwt"}', b"\xef\xbb\xbf{}"),
    forged(b'{"alg":"ES256","typ":"at+jwt"}', b'{"iss":"\\ud800"}'),
    forged(b"\xff\xfe{\x00}\x00", b"{}"),
    "eyJhbGciOiJFUzI1NiJ9=.e30.AAAA",
    "\udcff.\udcff.\udcff",
    "\u00e9.\u00e9.\u00e9",
]


@pytest.mark.parametrize("number", range(len(RUBBISH)))
def test_rubbish_is_refused_before_anybody_is_asked(issuer: JWTIssuer, number: int) -> None:
    """It costs no request to the issuer, is refused quickly, and is not remembered."""
    tokens = verifier(issuer)
    began = time.perf_counter()
    refusal = why(tokens, RUBBISH[number])
    assert time.perf_counter() - began < 5
    assert refusal.reason == "token_inactive"
    assert issuer.asked == []
    assert len(tokens._memory) == 0


@pytest.mark.parametrize(
    ("token", "told"), [("a.b.c.d.e", True), ("a.b", False), ("opaque", False), ("a.b.c.d", False)]
)
def test_a_token_that_may_be_encrypted(issuer: JWTIssuer, token: str, told: bool) -> None:
    """Five parts are those of a JWE (RFC 7516 §7.1), and the operator has to know that."""
    refusal = why(verifier(issuer), token)
    assert "not a JWT of three parts" in str(refusal)
    assert ("encrypted" in str(refusal)) == told


def test_duplicate_claims(issuer: JWTIssuer) -> None:
    """Two ``sub`` or ``cnf`` would mean one thing here and another behind a proxy."""
    claims = json.dumps(issuer.claims())[:-1] + ',"sub":"root"}'
    token = forged({"alg": "ES256", "typ": "at+jwt", "kid": "k1"}, claims.encode(), issuer.key)
    assert "duplicate" in str(why(verifier(issuer), token))


def test_issuers_do_not_vouch_for_each_other(issuer: JWTIssuer) -> None:
    """With several issuers, a token that names one and is signed by another's key is refused."""
    with JWTIssuer() as other:
        tokens = JWTAccessTokens(issuer=[issuer.url, other.url], audience=AUDIENCE)
        assert tokens(issuer.token())["iss"] == issuer.url
        assert tokens(other.token())["iss"] == other.url
        assert "signature" in str(why(tokens, issuer.token(key=other.key)))


# --- what is remembered


def test_a_token_is_verified_once(issuer: JWTIssuer) -> None:
    """Claims come from memory then, as a copy: an application that changes them changes no other request."""
    tokens = verifier(issuer)
    token = issuer.token(roles=["user"], cnf={"jkt": "x"})
    first = tokens(token)
    for changed in (first, tokens(token), asyncio.run(tokens.acall(token))):
        assert changed["roles"] == ["user"]
        changed["roles"].append("admin")  # type: ignore[attr-defined]
        changed["cnf"]["jkt"] = "y"  # type: ignore[index]
    assert len(tokens._memory._entries) == 1
    assert token not in repr(tokens._memory._entries)


def test_a_refused_token_is_not_remembered(issuer: JWTIssuer) -> None:
    """Strangers cannot fill the memory, and a token that becomes valid is accepted."""
    clock = Timer(time.time())
    tokens = verifier(issuer, clock=clock)
    token = issuer.token(nbf=clock.now + 60)
    why(tokens, token)
    why(tokens, issuer.token(key=dpop.generate_key()))
    assert len(tokens._memory) == 0
    clock.now += 60
    assert tokens(token)


def test_memory_is_bounded(issuer: JWTIssuer) -> None:
    """The oldest goes first; without memory every token is verified each time."""
    tokens, forgetful = verifier(issuer, max_remembered=2), verifier(issuer, max_remembered=0)
    for number in range(5):
        token = issuer.token(jti=str(number))
        assert tokens(token)
        assert tokens(token)
        assert forgetful(token)
    assert len(tokens._memory._entries) == 2
    assert len(forgetful._memory) == 0


def test_times_are_judged_at_each_use(issuer: JWTIssuer) -> None:
    """A remembered token expires on time, and one from before a step of the clock is not valid yet."""
    clock = Timer(time.time())
    tokens = verifier(issuer, clock=clock, skew=5)
    token = issuer.token(now=int(clock.now), nbf=int(clock.now), exp=int(clock.now) + 60)
    assert tokens(token)
    clock.now += 64
    assert tokens(token)
    clock.now += 2
    assert why(tokens, token).reason == "token_expired"
    clock.now -= 200
    assert "not valid yet" in str(why(tokens, token))


def test_a_token_is_verified_again_after_five_minutes(issuer: JWTIssuer) -> None:
    """So that nothing is believed for longer, however long the token lives."""
    timer = Timer(100)
    tokens = verifier(issuer, monotonic=timer, refresh_after=1e9)
    token = issuer.token(exp=int(time.time()) + 90_000)
    tokens(token)
    timer.now += 299
    before = dict(tokens._memory._entries)
    tokens(token)
    assert tokens._memory._entries == before
    timer.now += 2
    tokens(token)
    assert tokens._memory._entries != before


def test_a_withdrawn_key_ends_its_tokens(issuer: JWTIssuer) -> None:
    """From the moment at which the new set is there, a remembered token of an old key is refused."""
    timer, release = Timer(100), threading.Event()
    tokens = verifier(issuer, monotonic=timer, timeout=60)
    token = issuer.token()
    assert tokens(token)
    issuer.rotate("k2")
    timer.now += 301
    issuer.down = holding(release)
    assert tokens(token)  # starts the refresh, and does not wait for it
    release.set()
    settled(tokens)
    assert "no key" in str(why(tokens, token))
    release.clear()
    issuer.published = []
    timer.now += 301
    assert tokens(issuer.token(kid="k2"))
    release.set()
    settled(tokens)
    assert "no key" in str(why(tokens, issuer.token(kid="k2")))


def test_a_key_that_changes_under_its_name(issuer: JWTIssuer) -> None:
    """Old tokens are refused, and the first new one starts a fetch, so that the next is accepted."""
    timer = Timer(100)
    tokens = verifier(issuer, monotonic=timer)
    old = issuer.token()
    assert tokens(old)
    issuer.rotate("k1")
    timer.now += 11
    with pytest.raises(InvalidProof):
        tokens(issuer.token())
    settled(tokens)
    assert tokens(issuer.token())
    assert "signature" in str(why(tokens, old))


# --- keys


def test_a_new_key_is_found_at_once(issuer: JWTIssuer) -> None:
    """A token with an unknown ``kid`` waits for one fetch."""
    timer = Timer(100)
    tokens = verifier(issuer, monotonic=timer)
    assert tokens(issuer.token())
    issuer.rotate("k2", keep=True)
    timer.now += 11
    assert asyncio.run(tokens.acall(issuer.token(kid="k2")))
    assert issuer.fetches == 2


def test_unknown_keys_ask_once_for_each_interval(issuer: JWTIssuer) -> None:
    """Whatever strangers send, the issuer gets one request in ten seconds."""
    timer = Timer(100)
    tokens = verifier(issuer, monotonic=timer)
    assert tokens(issuer.token())
    for _ in range(3):
        timer.now += 11
        for number in range(20):
            why(tokens, issuer.token(kid=f"unknown-{number}"))
            why(tokens, issuer.token(key=dpop.generate_key()))
            settled(tokens)
    assert issuer.fetches == 4


def test_strangers_hold_few_threads(issuer: JWTIssuer) -> None:
    """While a slow issuer is asked for an unknown key, eight requests wait for it; good tokens do not wait at all.

    The others are told that nobody can tell yet: the key may be one that the issuer began to use a moment ago.
    """
    timer, release = Timer(100), threading.Event()
    tokens = verifier(issuer, monotonic=timer, timeout=60)
    good = issuer.token()
    assert tokens(good)
    timer.now += 11

    issuer.down = holding(release)
    refused: list[str] = []
    put_off: list[float | None] = []

    def ask(number: int) -> None:
        try:
            tokens(issuer.token(kid=f"unknown-{number}"))
        except InvalidProof as error:
            refused.append(str(error))
        except LookupUnavailableError as error:
            put_off.append(error.retry_after)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 30
    while len(put_off) < 12 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert (refused, put_off) == ([], [1.0] * 12)
    assert tokens(good)
    assert tokens(issuer.token(jti="another"))
    release.set()
    for thread in threads:
        thread.join()
    assert len(refused) == 8
    assert issuer.fetches == 2


def test_a_refresh_is_not_waited_for(issuer: JWTIssuer) -> None:
    """The old set serves while a slow issuer is asked, in threads and tasks, and no event loop is blocked."""
    timer, release = Timer(100), threading.Event()
    tokens = verifier(issuer, monotonic=timer, timeout=60)
    assert tokens(issuer.token())
    timer.now += 301
    issuer.down = holding(release)
    assert tokens(issuer.token(jti="2"))
    assert asyncio.run(tokens.acall(issuer.token(jti="3")))
    assert not release.is_set()
    release.set()
    settled(tokens)
    assert issuer.fetches == 2


def test_the_first_look_up_does_not_block_the_loop(issuer: JWTIssuer) -> None:
    """Other tasks run while it waits for the keys; all that wait share one fetch."""
    release = threading.Event()
    issuer.down = holding(release)
    tokens = verifier(issuer, timeout=60)

    async def both() -> int:
        asked = [asyncio.ensure_future(tokens.acall(issuer.token(jti=str(number)))) for number in range(20)]
        turns = 0
        while turns < 50:
            await asyncio.sleep(0)
            turns += 1
        assert not any(each.done() for each in asked)
        asked[0].cancel()
        release.set()
        done = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(done[0], asyncio.CancelledError)
        assert all(isinstance(each, dict) for each in done[1:])
        return turns

    assert asyncio.run(both()) == 50
    assert issuer.fetches == 1


def test_keys_without_names(issuer: JWTIssuer) -> None:
    """A token without ``kid`` is tried with every key of its algorithm, eight at most."""
    others = [issuer.jwk(dpop.generate_key(), None) for _ in range(7)]
    issuer.published = [*others, issuer.jwk(issuer.key, None), issuer.jwk(dpop.generate_key("RS256"), None)]
    assert verifier(issuer)(issuer.token(kid=None))
    issuer.published = [*others, issuer.jwk(dpop.generate_key(), None), issuer.jwk(issuer.key, None)]
    assert "signature" in str(why(verifier(issuer), issuer.token(kid=None)))


def test_two_keys_of_one_name(issuer: JWTIssuer) -> None:
    """Both are tried."""
    issuer.published.insert(0, issuer.jwk(dpop.generate_key(), "k1"))
    assert verifier(issuer)(issuer.token())


def test_bad_keys_are_skipped_one_by_one(issuer: JWTIssuer, caplog: pytest.LogCaptureFixture) -> None:
    """One WARNING names them; the good key beside them works, and nothing verifies with a bad one."""
    private = {**json.loads(_private_jwk()), "kid": "private"}
    weak = b64url_encode((2**1023 + 1).to_bytes(128, "big"))
    strong = b64url_encode((2**2047 + 1).to_bytes(256, "big"))
    huge = b64url_encode((2**16383 + 1).to_bytes(2048, "big"))
    bad: list[Any] = [
        private,
        {"kty": "oct", "k": "c2VjcmV0", "kid": "mac"},
        {"kty": "RSA", "n": weak, "e": "AQAB"},
        {"kty": "RSA", "n": huge, "e": "AQAB"},
        {"kty": "RSA", "n": strong, "e": "_____w"},
        {"kty": "OKP", "crv": "Ed25519", "x": b64url_encode(b"\1" + bytes(31))},
        {"kty": "OKP", "crv": "X25519", "x": b64url_encode(bytes(32))},
        {"kty": "EC", "crv": "P-999", "x": "AA", "y": "AA"},
        {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"},
        None,
        "key",
        issuer.jwk(dpop.generate_key(), None) | {"kid": 7},
    ]
    issuer.published = [*bad, *issuer.published, issuer.jwk(dpop.generate_key("RS256"), "enc", use="enc")]
    timer = Timer(100)
    tokens = verifier(issuer, monotonic=timer)
    with caplog.at_level(logging.WARNING):
        assert tokens(issuer.token())
        timer.now += 4000
        assert tokens(issuer.token())
        settled(tokens)
    assert issuer.fetches == 2
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "key 1: " in warning
    assert private["d"] not in warning
    (keys,) = tokens._issuers.values()
    assert len(keys.identities) == 1


def _private_jwk() -> str:
    from joserfc.jwk import ECKey

    return json.dumps(ECKey.generate_key("P-256").as_dict(private=True))


def test_a_hundred_keys_are_read(issuer: JWTIssuer, caplog: pytest.LogCaptureFixture) -> None:
    """Of a longer set the rest is left out, with a WARNING."""
    issuer.published = [issuer.jwk(issuer.key, f"k{number}") for number in range(150)]
    tokens = verifier(issuer)
    assert tokens(issuer.token(kid="k99"))
    assert "no key" in str(why(tokens, issuer.token(kid="k100")))
    assert "150 keys" in caplog.text


# --- issuers that are down, slow or hostile


def test_discovery(issuer: JWTIssuer) -> None:
    """By RFC 8414 or OpenID Connect, or without any: ``jwks_uri=``."""
    assert verifier(issuer)(issuer.token())
    assert issuer.asked == ["/.well-known/oauth-authorization-server", "/jwks"]
    with JWTIssuer(metadata_path="/.well-known/openid-configuration") as openid:
        openid.down = lambda request: Response(200, [], b"<html>") if "oauth" in request.target else None
        assert verifier(openid)(openid.token())
    with JWTIssuer(metadata_path="/nowhere") as bare:
        assert verifier(bare, jwks_uri=f"{bare.url}/jwks")(bare.token())
        with pytest.raises(LookupUnavailableError, match="give jwks_uri="):
            verifier(bare)(bare.token())


def _drip(_request: Received) -> Response:
    def body() -> Iterator[bytes]:
        while True:
            yield b" "
            time.sleep(0.05)

    return Response(200, [], body())


def _endless(_request: Received) -> Response:
    def body() -> Iterator[bytes]:
        while True:
            yield b" " * 65536

    return Response(200, [], body())


DOWN: dict[str, Callable[[Received], Response]] = {
    "status": lambda _: Response(503),
    "dropped": lambda _: Response(200, drop=True),
    "html": lambda _: Response(200, [], b"<html>"),
    "array": lambda _: Response(200, [], b"[]"),
    "keys": lambda _: Response(200, [], b'{"keys": {}}'),
    "issuer": lambda _: Response(200, [], b'{"issuer": "https://other.example"}'),
    "deep": lambda _: Response(200, [], b"[" * 100_000),
    "redirect-http": lambda _: Response(302, [("Location", "http://elsewhere.example/jwks")]),
    "redirect-file": lambda _: Response(302, [("Location", "file:///etc/passwd")]),
    "redirect-broken": lambda _: Response(302, [("Location", "https://[/")]),
    "redirect-loop": lambda _: Response(302, [("Location", "/again")]),
    "long-field": lambda _: Response(200, [("X", "y" * 70_000)], b"{}"),
    "many-fields": lambda _: Response(200, [(f"X{number}", "y") for number in range(200)], b"{}"),
    "endless": _endless,
    "drip": _drip,
}


@pytest.mark.parametrize("fault", DOWN)
def test_an_issuer_from_which_no_keys_come(issuer: JWTIssuer, fault: str) -> None:
    """Nothing is known of the token then, which is a 503 and no 401; after ten seconds the issuer is asked again."""
    timer = Timer(100)
    tokens = verifier(issuer, monotonic=timer, timeout=2 if fault == "drip" else 30)
    token = issuer.token()
    issuer.down = DOWN[fault]
    began = time.monotonic()
    with pytest.raises(LookupUnavailableError):
        tokens(token)
    asked = len(issuer.asked)
    with pytest.raises(LookupUnavailableError) as caught:
        asyncio.run(tokens.acall(token))
    assert caught.value.retry_after == 10
    assert "being fetched" not in str(caught.value)  # it says what went wrong
    assert time.monotonic() - began < 20
    assert len(issuer.asked) == asked
    issuer.down = lambda _request: None
    timer.now += 10
    assert tokens(token)
    # With keys that were there before, the same issuer harms nobody.
    issuer.down = DOWN[fault]
    timer.now += 301
    assert tokens(issuer.token(jti="2"))
    settled(tokens)
    assert tokens(issuer.token(jti="3"))
    with pytest.raises(LookupUnavailableError):
        tokens(issuer.token(kid="unknown"))


def test_a_fetch_function_that_fails(issuer: JWTIssuer) -> None:
    """Whatever it raises: the look-up cannot tell. Its message, which may hold secrets, goes nowhere."""

    def fetch(request: Any) -> Any:
        raise ValueError(f"secret of {request.url}")

    with pytest.raises(LookupUnavailableError) as caught:
        verifier(issuer, fetch=fetch)(issuer.token())
    assert "ValueError" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("raised", [SystemExit, asyncio.CancelledError, KeyboardInterrupt])
def test_a_fetch_that_is_interrupted(issuer: JWTIssuer, raised: type[BaseException]) -> None:
    """It fails like any other: it ends none of those who wait, and the next fetch is made."""
    interrupted = []
    fetch = default_fetch()

    def first_interrupted(request: Any) -> Any:
        if not interrupted:
            interrupted.append(request)
            raise raised
        return fetch(request)

    tokens = verifier(issuer, fetch=first_interrupted, ask_again_after=0)
    with pytest.raises(LookupUnavailableError, match=raised.__name__):
        tokens(issuer.token())
    assert tokens(issuer.token())["sub"]


def test_metadata_that_leads_to_this_machine() -> None:
    """An https issuer cannot make the API ask http servers, or services on its own host."""
    from dpop.server import LookupResponse

    for uri in (
        "http://as.example/jwks",
        "https://localhost/jwks",
        "https://127.0.0.1:8443/jwks",
        "https://[::1]/jwks",
    ):
        asked: list[str] = []

        def fetch(request: Any, uri: str = uri, asked: list[str] = asked) -> LookupResponse:
            asked.append(request.url)
            return LookupResponse(200, {}, json.dumps({"issuer": "https://as.example", "jwks_uri": uri}).encode())

        tokens = JWTAccessTokens(issuer="https://as.example", audience=AUDIENCE, fetch=fetch)
        token = forged({"alg": "ES256", "typ": "at+jwt"}, {"iss": "https://as.example", "aud": AUDIENCE, "exp": 9e9})
        with pytest.raises(LookupUnavailableError, match="leads to"):
            tokens(token)
        assert asked == ["https://as.example/.well-known/oauth-authorization-server"]


@pytest.mark.parametrize(
    "settings",
    [
        {"issuer": []},
        {"issuer": ""},
        {"audience": []},
        {"audience": [None]},
        {"audience": None},
        {"issuer": ["https://a.example", "https://b.example"], "jwks_uri": "https://a.example/jwks"},
        {"issuer": "as.example"},
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any]) -> None:
    """They are found when the program starts."""
    with pytest.raises(UsageError):
        JWTAccessTokens(**{"issuer": "https://as.example", "audience": AUDIENCE} | settings)


@pytest.mark.parametrize("url", ["http://as.example", "http://10.0.0.1"])
def test_plain_http_is_for_this_machine(url: str) -> None:
    """Anybody on the network could choose the keys."""
    for settings in ({"issuer": url}, {"issuer": "https://as.example", "jwks_uri": f"{url}/jwks"}):
        with pytest.raises(InsecureOriginError):
            JWTAccessTokens(audience=AUDIENCE, **settings)


def test_a_forked_process_asks_for_itself(issuer: JWTIssuer) -> None:
    """A preloaded application is forked while its parent fetches: the thread is gone, and the child starts another."""
    release = threading.Event()
    issuer.down = holding(release)
    tokens = verifier(issuer, timeout=60)
    token = issuer.token()
    waiting = threading.Thread(target=lambda: tokens(token))
    waiting.start()
    deadline = time.monotonic() + 30
    while not issuer.asked and time.monotonic() < deadline:
        time.sleep(0.002)

    def child() -> bytes:
        return str(tokens(token)["sub"]).encode()

    issuer.down = lambda _request: None
    assert in_child(child) == b"alice"
    release.set()
    waiting.join()
