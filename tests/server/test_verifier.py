# SPDX-License-Identifier: Apache-2.0
"""The verifier as its users meet it; the table of single proofs is in test_vectors.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwk as jose_jwk
from joserfc import jws as jose_jws

from dpop.encoding import access_token_hash, b64url_encode
from dpop.errors import AlgorithmError, ArgumentTypeError, InvalidProof, ReplayCacheError, UsageError
from dpop.keys import generate_key
from dpop.keys._software import SoftwareKey
from dpop.server import (
    MemoryReplayCache,
    NonceIssuer,
    ProofVerifier,
    VerifiedProof,
)
from dpop.server._checks import read_claims

NOW = 1_700_000_040
URL = "https://api.example/items"
TOKEN_URL = "https://as.example/token"
TOKEN = "an-access.token~1"
KEY = generate_key()
OTHER_KEY = generate_key()


class Clock:
    """A clock that a test sets."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


@pytest.fixture
def verifier(clock: Clock) -> ProofVerifier:
    """A verifier with the default policy and a fresh cache."""
    return ProofVerifier(replay=MemoryReplayCache(clock=clock), clock=clock)


def sign(header: Any, payload: Any, key: SoftwareKey = KEY) -> str:
    """A compact JWS of whatever header and payload."""
    data = ".".join(b64url_encode(json.dumps(part).encode("utf-8", "surrogatepass")) for part in (header, payload))
    return f"{data}.{b64url_encode(key.sign(data.encode()))}"


def proof(key: SoftwareKey = KEY, **changes: Any) -> str:
    """An honest proof for the resource, with changed claims."""
    claims = {"jti": "1", "htm": "GET", "htu": URL, "iat": NOW, "ath": access_token_hash(TOKEN)} | changes
    return sign({"typ": "dpop+jwt", "alg": key.alg, "jwk": dict(key.public_jwk)}, claims, key)


def token_proof(key: SoftwareKey = KEY, **changes: Any) -> str:
    """An honest proof for the token endpoint, with changed claims."""
    claims = {"jti": "1", "htm": "POST", "htu": TOKEN_URL, "iat": NOW} | changes
    return sign({"typ": "dpop+jwt", "alg": key.alg, "jwk": dict(key.public_jwk)}, claims, key)


def ask(verifier: ProofVerifier, text: str, **changes: Any) -> VerifiedProof:
    """Verify a proof for the resource, with the honest token unless changed."""
    asked: dict[str, Any] = {"method": "GET", "url": URL, "access_token": TOKEN, "bound_jkt": KEY.thumbprint}
    asked |= changes
    return verifier.verify_resource([("DPoP", text)], asked.pop("method"), asked.pop("url"), **asked)


def ask_token(verifier: ProofVerifier, text: str, **changes: Any) -> VerifiedProof:
    """Verify a proof for the token endpoint."""
    return verifier.verify_token_request([("DPoP", text)], "POST", TOKEN_URL, **changes)


def refusal(verify: Callable[[], object]) -> InvalidProof:
    """The refusal that a call ends with."""
    with pytest.raises(InvalidProof) as caught:
        verify()
    return caught.value


# --- what a verified proof tells


def test_a_verified_proof_tells_who_and_what(verifier: ProofVerifier) -> None:
    """Key, claims and request are all there, the key without anything optional."""
    seen = ask(verifier, proof(extra=[1]), url=URL + "?q=1")
    assert (seen.jkt, seen.jti, seen.iat, seen.nonce) == (KEY.thumbprint, "1", NOW, None)
    assert (seen.alg, seen.htm, seen.htu, seen.next_nonce) == ("ES256", "GET", URL, None)
    assert seen.claims["extra"] == [1]
    assert seen.public_jwk == KEY.public_jwk


def test_its_repr_can_be_logged(verifier: ProofVerifier) -> None:
    """The key and the request, nothing that helps to rebuild the proof."""
    seen = ask(verifier, proof(jti="a-secret-jti"))
    assert repr(seen) == f"<VerifiedProof ES256 key {KEY.thumbprint}, GET {URL}>"


def test_a_long_query_is_no_reason_to_refuse(verifier: ProofVerifier) -> None:
    """The htu does not count it (RFC 9449 §4.2)."""
    assert ask(verifier, proof(), url=f"{URL}?{'q' * 20_000}")


@pytest.mark.parametrize(
    "alg", ["ES256", "ES384", "ES512", "Ed25519", "EdDSA", "PS256", "RS256", "PS384", "PS512", "RS384", "RS512"]
)
def test_every_algorithm_verifies_when_allowed(clock: Clock, alg: str) -> None:
    """A proof by a key of this package, for each algorithm it knows."""
    key = generate_key(alg)
    verifier = ProofVerifier(replay=MemoryReplayCache(clock=clock), algs=[alg], clock=clock)
    assert ask(verifier, proof(key), bound_jkt=key.thumbprint).alg == alg


def test_a_header_that_passed_at_one_verifier_is_checked_at_another(verifier: ProofVerifier, clock: Clock) -> None:
    """The same bytes, with other algorithms allowed; and again where they passed."""
    strict = ProofVerifier(replay=MemoryReplayCache(clock=clock), algs=["PS256"], clock=clock)
    for number in range(2):
        assert ask(verifier, proof(jti=f"{number}")).jkt == KEY.thumbprint
        assert refusal(lambda: ask(strict, proof())).reason == "alg_refused"


def test_a_point_that_is_not_on_the_curve_is_refused_each_time(verifier: ProofVerifier) -> None:
    """The header passes its checks and is kept; OpenSSL refuses the key when it loads it for the signature."""
    off = dict(KEY.public_jwk) | {"x": b64url_encode(bytes(31) + b"\x05"), "y": b64url_encode(bytes(31) + b"\x01")}
    text = sign(
        {"typ": "dpop+jwt", "alg": "ES256", "jwk": off}, {"jti": "1", "htm": "POST", "htu": TOKEN_URL, "iat": NOW}
    )
    assert [refusal(lambda: ask(verifier, text)).reason for _ in range(3)] == ["jwk_invalid"] * 3


@pytest.mark.parametrize(
    ("alg", "declared", "accepted"),
    [
        ("Ed25519", "EdDSA", True),
        ("EdDSA", "Ed25519", True),
        ("PS256", "RS256", False),
        ("PS256", "PS256", True),
    ],
)
def test_a_key_that_declares_an_algorithm(verifier: ProofVerifier, alg: str, declared: str, accepted: bool) -> None:
    """It is used with that one only, where EdDSA and Ed25519 are one (RFC 9864)."""
    key = generate_key(alg)
    claims = {"jti": "1", "htm": "POST", "htu": TOKEN_URL, "iat": NOW}
    text = sign({"typ": "dpop+jwt", "alg": alg, "jwk": dict(key.public_jwk) | {"alg": declared}}, claims, key)
    if accepted:
        assert ask_token(verifier, text).jkt == key.thumbprint
    else:
        assert refusal(lambda: ask_token(verifier, text)).reason == "jwk_alg_mismatch"


def test_a_proof_made_by_another_library_verifies(verifier: ProofVerifier) -> None:
    """Another signs, this verifies, and both compute the same thumbprint."""
    key = jose_jwk.ECKey.generate_key("P-256")
    claims = {"jti": "1", "htm": "POST", "htu": TOKEN_URL, "iat": NOW}
    header = {"typ": "dpop+jwt", "alg": "ES256", "jwk": key.as_dict(private=False)}
    text = jose_jws.serialize_compact(
        header, json.dumps(claims), key, registry=jose_jws.JWSRegistry(strict_check_header=False)
    )
    assert ask_token(verifier, text).jkt == key.thumbprint()


# --- requests


@pytest.mark.parametrize("url", [f"{URL}/100%", f"{URL}/{'x' * 5000}", "https://user@api.example/", "/items"])
def test_a_url_that_no_proof_can_name(verifier: ProofVerifier, url: str) -> None:
    """A request-target the client made up is a refusal, not an exception of another kind."""
    assert refusal(lambda: ask(verifier, proof(), url=url)).reason == "request_url_invalid"


@pytest.mark.parametrize(
    "wrong",
    [{"access_token": None}, {"access_token": b"x"}, {"method": b"GET"}, {"url": b"https://api.example/"}],
)
def test_a_wrong_type_is_the_callers_fault(verifier: ProofVerifier, wrong: dict[str, Any]) -> None:
    """It is told as such, and no proof is to blame."""
    with pytest.raises(ArgumentTypeError):
        ask(verifier, proof(), **wrong)


@pytest.mark.parametrize("token", ["", "two tokens", "caf\u00e9", "a,b", "x\r\n"])
def test_a_token_that_is_none_is_invalid_token(verifier: ProofVerifier, token: str) -> None:
    """What stands behind the scheme was written by the client."""
    refused = refusal(lambda: ask(verifier, proof(), access_token=token))
    assert (refused.error, refused.reason) == ("invalid_token", "token_malformed")


@pytest.mark.parametrize(
    ("bound", "reason"),
    [(None, "token_unbound"), ("", "token_binding_malformed"), (7, "token_binding_malformed")],
)
def test_a_token_without_a_key_is_never_accepted(verifier: ProofVerifier, bound: Any, reason: str) -> None:
    """An unbound token and a malformed cnf.jkt fail closed."""
    refused = refusal(lambda: ask(verifier, proof(), bound_jkt=bound))
    assert (refused.error, refused.reason) == ("invalid_token", reason)


def test_a_stranger_cannot_write_into_the_log(verifier: ProofVerifier) -> None:
    """What came is escaped and cut short in the refusal."""
    refused = refusal(lambda: ask(verifier, proof(htm="GET\r\nfake: line \x1b[31m" + "x" * 1000)))
    assert refused.expected == "GET"
    assert refused.got is not None
    assert refused.got.isprintable()
    assert len(refused.got) < 220


def test_a_missing_proof_for_a_bound_grant_is_invalid_grant(verifier: ProofVerifier) -> None:
    """Without a bound grant the answer is invalid_dpop_proof."""
    bound = refusal(lambda: verifier.verify_token_request([], "POST", TOKEN_URL, bound_jkt=KEY.thumbprint))
    unbound = refusal(lambda: verifier.verify_token_request([], "POST", TOKEN_URL))
    assert (bound.error, unbound.error) == ("invalid_grant", "invalid_dpop_proof")
    assert bound.reason == unbound.reason == "proof_missing"


# --- settings


def test_a_class_in_place_of_an_object_is_refused() -> None:
    """When the server is set up, with what to write instead, and not at its first request."""
    with pytest.raises(UsageError, match=r"replay is the class MemoryReplayCache; make one: MemoryReplayCache\("):
        ProofVerifier(replay=MemoryReplayCache)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="nonces is the class NonceIssuer"):
        ProofVerifier(replay=MemoryReplayCache(), nonces=NonceIssuer)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="single_use is the class MemoryReplayCache"):
        NonceIssuer(single_use=MemoryReplayCache)  # type: ignore[arg-type]


@pytest.mark.parametrize("algs", [["none"], ["HS256"], ["ES256", "es256"], [], ["ES256K"]])
def test_algorithms_that_are_none_are_refused(algs: list[str]) -> None:
    """At the start, not at the first request."""
    with pytest.raises(AlgorithmError):
        ProofVerifier(replay=MemoryReplayCache(), algs=algs)


@pytest.mark.parametrize("algs", [None, b"ES256", 5])
def test_algorithms_of_another_type_are_refused(algs: object) -> None:
    """With what they should be."""
    with pytest.raises(ArgumentTypeError, match="algs must be names"):
        ProofVerifier(replay=MemoryReplayCache(), algs=algs)  # type: ignore[arg-type]


def test_a_long_list_of_wrong_names_makes_a_short_error() -> None:
    """The first of them will do."""
    with pytest.raises(AlgorithmError) as refused:
        ProofVerifier(replay=MemoryReplayCache(), algs=["x" * 1000] * 1000)
    assert len(str(refused.value)) < 200


def test_algs_can_be_read_back() -> None:
    """For the challenge and the metadata."""
    assert ProofVerifier(replay=MemoryReplayCache(), algs="ES256 PS256").algs == ("ES256", "PS256")


@pytest.mark.parametrize(
    "setting",
    [
        {"max_age": 301},
        {"max_age": 0},
        {"skew": -1},
        {"skew": 301},
        {"max_age": float("nan")},
        {"max_jti": 0},
    ],
)
def test_limits_that_make_no_sense_are_refused(setting: dict[str, Any]) -> None:
    """A proof lives seconds to minutes, whoever configures it."""
    with pytest.raises(UsageError):
        ProofVerifier(replay=MemoryReplayCache(), **setting)


@pytest.mark.parametrize(
    ("setting", "changes", "reason"),
    [
        ({"max_length": 200}, {}, "proof_too_long"),
        ({"max_jti": 3}, {"jti": "1234"}, "jti_too_long"),
        ({"max_htu": 20}, {}, "htu_invalid"),
        ({"max_depth": 3}, {"x": [[[]]]}, "payload_malformed"),
        ({"max_age": 5}, {"iat": NOW - 6}, "iat_too_old"),
        ({"skew": 0}, {"iat": NOW + 1}, "iat_in_future"),
    ],
)
def test_each_limit_can_be_set(clock: Clock, setting: Any, changes: dict[str, Any], reason: str) -> None:
    """What the default allows is refused under a tighter limit."""
    assert ask(ProofVerifier(replay=MemoryReplayCache(), clock=clock), proof(**({} if "iat" in changes else changes)))
    assert (
        refusal(lambda: ask(ProofVerifier(replay=MemoryReplayCache(), clock=clock, **setting), proof(**changes))).reason
        == reason
    )


# --- anything at all

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
HEADER_NAMES = st.sampled_from(["typ", "alg", "jwk", "crit", "b64", "kid"])
JWK_NAMES = st.sampled_from(["kty", "crv", "x", "y", "d", "n", "e", "use", "key_ops", "alg", "k"])
CLAIM_NAMES = st.sampled_from(["jti", "htm", "htu", "iat", "ath", "nonce", "exp", "nbf"])


def accepted_or_refused(text: str) -> None:
    """Whatever a verifier is given, it accepts it or raises InvalidProof."""
    clock = Clock()
    for nonces in (None, NonceIssuer(b"0" * 16, clock=clock)):
        verifier = ProofVerifier(replay=MemoryReplayCache(clock=clock), nonces=nonces, clock=clock)
        error = None
        try:
            ask(verifier, text)
        except InvalidProof as refused:
            error = refused.error
        assert error in {None, "invalid_dpop_proof", "use_dpop_nonce", "invalid_token"}


@given(
    st.dictionaries(HEADER_NAMES, JSON, max_size=2),
    st.dictionaries(JWK_NAMES, JSON, max_size=2),
    st.dictionaries(CLAIM_NAMES, JSON, max_size=2),
)
def test_any_signed_json_is_accepted_or_refused(header: Any, jwk: Any, claims: Any) -> None:
    """Members of any value, in the header, the key and the claims, under a good signature."""
    honest = {"typ": "dpop+jwt", "alg": "ES256", "jwk": dict(KEY.public_jwk) | jwk}
    standard = {"jti": "1", "htm": "GET", "htu": URL, "iat": NOW, "ath": access_token_hash(TOKEN)}
    accepted_or_refused(sign(honest | header, standard | claims))


@given(st.data())
def test_any_damaged_proof_is_refused(data: st.DataObject) -> None:
    """No single change of a character leaves a good proof good, or raises anything else."""
    text = proof()
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(max_codepoint=255).filter(lambda character: character != text[at]))
    damaged = text[:at] + other + text[at + 1 :]
    clock = Clock()
    verifier = ProofVerifier(replay=MemoryReplayCache(clock=clock), clock=clock)
    if damaged.strip(" \t") != text:
        assert refusal(lambda: ask(verifier, damaged)).error == "invalid_dpop_proof"


@given(st.text())
def test_any_htu_is_accepted_or_refused(claim: str) -> None:
    """The claim that is a language of its own."""
    accepted_or_refused(proof(htu=claim))
    accepted_or_refused(proof(htu=URL + claim))


def test_a_used_nonce_is_remembered_for_the_skew_as_well() -> None:
    """Processes that share a store of used nonces may differ by the skew: one that is behind must not accept it."""
    kept: dict[str, float] = {}

    class Store:
        def add(self, key: str, expires_at: float) -> bool:
            kept[key] = expires_at
            return True

    issuer = NonceIssuer(single_use=Store(), slot=60, window=3, clock=lambda: NOW)
    judge = ProofVerifier(replay=None, nonces=issuer, skew=17, clock=lambda: NOW)
    nonce = issuer.issue()
    ask(judge, proof(nonce=nonce))
    verdict = issuer.check(nonce, KEY.thumbprint)
    assert verdict is not None
    assert list(kept.values()) == [verdict.expires_at + 17]


def test_requests_for_resources_are_not_those_of_strangers(clock: Clock) -> None:
    """The share of the cache for proofs without a bound key limits token requests only."""
    judge = ProofVerifier(replay=MemoryReplayCache(max_entries=10, unbound_share=0.1, clock=clock), clock=clock)
    for number in range(5):
        ask(judge, proof(jti=f"resource {number}"))
    ask_token(judge, token_proof(jti="first"))
    with pytest.raises(ReplayCacheError, match="their share"):
        ask_token(judge, token_proof(jti="second"))


def test_a_refusal_says_what_came(verifier: ProofVerifier) -> None:
    """The whole value, if it is short."""
    refused = refusal(lambda: ask(verifier, proof(htm="PATCH")))
    assert (refused.reason, refused.got) == ("htm_mismatch", "PATCH")


def test_a_late_expiry_does_not_lengthen_the_life_of_a_proof(clock: Clock) -> None:
    """A proof that is recorded later must still be recent, although its own ``exp`` has not come."""
    judge = ProofVerifier(replay=MemoryReplayCache(clock=clock), max_age=60, skew=10, clock=clock)
    headers = [("DPoP", token_proof(exp=NOW + 60))]
    checked = judge.check_token_request(headers, "POST", TOKEN_URL)
    clock.now += 65
    assert refusal(lambda: checked.accept(bound_jkt=None)).reason == "iat_too_old"


def test_the_next_nonce_is_that_of_the_proof(clock: Clock) -> None:
    """A response carries the nonce that was found for its request, and a first one if there was no proof."""
    nonces = NonceIssuer(b"s" * 32, clock=clock)
    judge = ProofVerifier(replay=MemoryReplayCache(clock=clock), nonces=nonces, clock=clock)
    old = nonces.issue(KEY.thumbprint)
    clock.now += 70
    good = proof(iat=clock.now, nonce=old)
    seen = judge.verify_resource([("DPoP", good)], "GET", URL, access_token=TOKEN, bound_jkt=KEY.thumbprint)
    assert seen.next_nonce is not None
    assert judge.next_nonce(seen) == seen.next_nonce
    assert judge.next_nonce(None) is not None


@pytest.mark.parametrize(("characters", "why"), [(683, "key"), (684, "4096 bits at most")])
def test_an_rsa_modulus_has_4096_bits_at_most(verifier: ProofVerifier, characters: int, why: str) -> None:
    """683 characters of base64url are 4096 bits; one more is refused before the key is loaded."""
    number = b64url_encode(b"\xff" * 513)[:characters]
    header = {"typ": "dpop+jwt", "alg": "RS256", "jwk": {"kty": "RSA", "n": number, "e": "AQAB"}}
    with pytest.raises(InvalidProof, match=why) as caught:
        verifier.verify_resource([("DPoP", sign(header, {}))], "GET", URL, access_token=TOKEN, bound_jkt=None)
    assert ("4096 bits at most" in str(caught.value)) is (characters == 684)


def test_claims_show_no_identifier() -> None:
    """Together with the key, ``jti`` and ``nonce`` would be most of a proof."""
    claims = read_claims({"jti": "j-1", "htm": "GET", "htu": URL, "iat": 1, "nonce": "n-1"}, max_jti=9, max_htu=99)
    assert repr(claims) == f"<ProofClaims GET {URL}>"
