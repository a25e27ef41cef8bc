# SPDX-License-Identifier: Apache-2.0
"""Proofs: what is in them, that others verify them, and what is refused."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import ECKey, OKPKey, RSAKey
from support.paths import DATA
from support.shy import Shy

import dpop
from dpop.errors import (
    AlgorithmError,
    ArgumentTypeError,
    CredentialError,
    EncodingError,
    InvalidKeyError,
    InvalidTargetError,
    SigningError,
    UsageError,
)
from dpop.proof import compact, random_jti, signing_input

ALGS = ["ES256", "ES384", "ES512", "Ed25519", "EdDSA", "PS256", "RS256", "PS384", "PS512", "RS384", "RS512"]
URL = "https://server.example.com/token"
KEY = dpop.generate_key()
PUBLIC = json.loads((DATA / "public-vectors.json").read_text("utf-8"))["cases"]


def parts(proof: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims."""
    header, payload = (json.loads(urlsafe_b64decode(part + "==")) for part in proof.split(".")[:2])
    return header, payload


def verified(proof: str) -> dict[str, Any]:
    """The claims, after joserfc has verified the signature with the embedded key."""
    header, claims = parts(proof)
    kinds: dict[str, Any] = {"EC": ECKey, "OKP": OKPKey, "RSA": RSAKey}
    registry = jws.JWSRegistry(algorithms=ALGS)
    registry.max_header_length = 4096
    key = kinds[header["jwk"]["kty"]].import_key(header["jwk"])
    jws.deserialize_compact(proof, key, registry=registry)
    return claims


@pytest.fixture(scope="module")
def keys() -> dict[str, Any]:
    """One key per algorithm."""
    return {alg: dpop.generate_key(alg) for alg in ALGS}


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
@pytest.mark.parametrize("alg", ALGS)
def test_another_implementation_verifies_every_algorithm(alg: str, keys: dict[str, Any]) -> None:
    """joserfc verifies a proof in each algorithm, and its header has three members, all public."""
    proof = dpop.create_proof(keys[alg], "POST", URL)
    assert verified(proof)["htu"] == URL
    header, _ = parts(proof)
    assert sorted(header) == ["alg", "jwk", "typ"]
    assert (header["typ"], header["alg"]) == ("dpop+jwt", alg)
    members = {"EC": ["crv", "kty", "x", "y"], "OKP": ["crv", "kty", "x"], "RSA": ["e", "kty", "n"]}
    assert sorted(header["jwk"]) == members[header["jwk"]["kty"]]


@pytest.mark.parametrize(
    "name", ["rfc9449-fig2-fig5-token-code", "rfc9449-fig7-token-refresh", "rfc9449-fig13-resource"]
)
def test_the_rfcs_own_proofs_have_our_claims(name: str) -> None:
    """The claims of RFC 9449's examples are those we make for the same request."""
    facts = next(vector["facts"] for vector in PUBLIC if vector["id"] == name)
    theirs = facts["payload"]
    token = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU" if "ath" in theirs else None
    proof = dpop.create_proof(
        KEY, theirs["htm"], theirs["htu"], jti=theirs["jti"], iat=theirs["iat"], access_token=token
    )
    assert verified(proof) == theirs


def test_everything_that_can_be_said() -> None:
    """nonce, ath and further claims are in the proof as given, iat is an int, the URL's query is not."""
    claims = verified(
        dpop.create_proof(
            KEY,
            "PATCH",
            "HTTPS://Server.Example.COM:443/a?secret=1#f",
            nonce="a,b=c.d",
            access_token="token",
            jti='"\\é',
            iat=1,
            claims={"custom": [1, {"deep": None}]},
        )
    )
    assert claims == {
        "jti": '"\\é',
        "htm": "PATCH",
        "htu": "https://server.example.com/a",
        "iat": 1,
        "ath": dpop.access_token_hash("token"),
        "nonce": "a,b=c.d",
        "custom": [1, {"deep": None}],
    }


def test_the_clock_is_an_argument() -> None:
    """iat is the clock's time in whole seconds."""
    assert parts(dpop.create_proof(KEY, "GET", URL, clock=lambda: 1234.9))[1]["iat"] == 1234


def test_identifiers_do_not_repeat() -> None:
    """100,000 identifiers are distinct, 32 hexadecimal digits each."""
    seen = {random_jti() for _ in range(100_000)}
    assert len(seen) == 100_000
    assert all(len(jti) == 32 and int(jti, 16) >= 0 for jti in seen)


@pytest.mark.parametrize("method", ["", "GE T", "GET\r\n", "GÉT", "GET,", "a" * 10_000])
def test_bad_methods(method: str) -> None:
    """A method is an RFC 9110 token."""
    with pytest.raises(InvalidTargetError):
        dpop.create_proof(KEY, method, URL)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "token",
        "/token",
        "ftp://a/b",
        "https://user:pw@a.example/",
        "https://a.example/\r\n",
        "https://a b/",
        "https://a.example/" + "a" * 100_000,
    ],
)
def test_bad_urls(url: str) -> None:
    """A URL that cannot be named without doubt is refused, and its password is not repeated."""
    with pytest.raises(InvalidTargetError) as refused:
        dpop.create_proof(KEY, "GET", url)
    assert "pw" not in str(refused.value)


@pytest.mark.parametrize("nonce", ["", "a b", 'a"b', "a\\b", "a\n", "é"])
def test_bad_nonces(nonce: str) -> None:
    """A nonce outside NQCHAR is refused without repeating it."""
    with pytest.raises(CredentialError):
        dpop.create_proof(KEY, "GET", URL, nonce=nonce)


@pytest.mark.parametrize("token", ["", "a b", "a\r\nX: y", "a,b", "é"])
def test_bad_tokens(token: str) -> None:
    """A token that an Authorization header cannot carry is refused without repeating it."""
    with pytest.raises(CredentialError) as refused:
        dpop.create_proof(KEY, "GET", URL, access_token=token)
    assert not token or token not in str(refused.value)


def nested(depth: int) -> list[Any]:
    """A list in a list in a list, and so on."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"jti": 5}, ArgumentTypeError),
        ({"jti": ""}, UsageError),
        ({"jti": "a" * 257}, UsageError),
        ({"jti": "a\nb"}, UsageError),
        ({"iat": 1.5}, ArgumentTypeError),
        ({"iat": True}, ArgumentTypeError),
        ({"iat": -1}, UsageError),
        ({"iat": 1_800_000_000_000}, UsageError),
        ({"iat": 10**5000}, UsageError),
        ({"claims": 5}, ArgumentTypeError),
        ({"claims": ["a"]}, ArgumentTypeError),
        ({"claims": {"a": nested(10_000)}}, EncodingError),
        ({"nonce": 5}, ArgumentTypeError),
        ({"access_token": b"token"}, ArgumentTypeError),
        ({"claims": {"jti": "x"}}, UsageError),
        ({"claims": {"x": {1}}}, EncodingError),
        ({"claims": {"x": float("nan")}}, EncodingError),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception]) -> None:
    """Every argument of a wrong type or value has a typed error."""
    with pytest.raises(error):
        dpop.create_proof(KEY, "GET", URL, **arguments)


def test_claims_may_be_nested_32_levels_deep_on_every_python() -> None:
    """The bound does not depend on the json module, whose depth differs between Pythons and with the caller's stack."""
    dpop.create_proof(KEY, "GET", URL, claims={"a": nested(31)})
    with pytest.raises(EncodingError, match="nested at most 32 levels"):
        dpop.create_proof(KEY, "GET", URL, claims={"a": nested(32)})
    ring: list[Any] = []
    ring += [ring, {"a": ring}]
    with pytest.raises(EncodingError, match="nested at most 32 levels"):
        dpop.create_proof(KEY, "GET", URL, claims={"a": ring})


@pytest.mark.parametrize(
    "arguments", [(None, "GET", URL), (KEY, None, URL), (KEY, "GET", None), ("key.pem", "GET", URL)]
)
def test_wrong_types(arguments: tuple[Any, Any, Any]) -> None:
    """None and strings where objects belong: a typed error that names the argument."""
    with pytest.raises(ArgumentTypeError):
        dpop.create_proof(*arguments)


class ForeignKey:
    """Somebody's own signer, with one thing wrong."""

    blocking = False

    def __init__(self, **wrong: Any) -> None:
        self.alg = wrong.get("alg", "ES256")
        self.public_jwk: Mapping[str, str] = wrong.get("public_jwk", KEY.public_jwk)
        self.thumbprint = wrong.get("thumbprint", KEY.thumbprint)
        self._signature = wrong.get("signature")

    def sign(self, data: bytes) -> bytes:
        return KEY.sign(data) if self._signature is None else self._signature


def test_a_foreign_key_signs() -> None:
    """Any object with the protocol is a key."""
    verified(dpop.create_proof(ForeignKey(), "GET", URL))


@pytest.mark.parametrize("signature", [b"", b"\x30" + b"\x00" * 70, b"\x00" * 63, "text", None])
def test_a_signature_of_the_wrong_size_is_not_sent(signature: Any) -> None:
    """DER from a device, or nothing at all, is stopped before it reaches a server."""
    key = ForeignKey()
    key._signature = signature if signature is not None else ()
    with pytest.raises(SigningError):
        dpop.create_proof(key, "GET", URL)


def test_a_foreign_keys_private_member_never_gets_out() -> None:
    """A key that hands out a private JWK is refused; nothing private is in a header."""
    private = {**KEY.public_jwk, "d": "AAAA"}
    with pytest.raises(InvalidKeyError):
        dpop.create_proof(ForeignKey(public_jwk=private, thumbprint="another1"), "GET", URL)


def test_a_foreign_keys_contradictions_are_found() -> None:
    """An algorithm that is not the JWK's, or a wrong thumbprint, is refused before signing."""
    with pytest.raises(AlgorithmError):
        dpop.create_proof(ForeignKey(alg="ES384", thumbprint="another2"), "GET", URL)
    with pytest.raises(UsageError):
        dpop.create_proof(ForeignKey(thumbprint="another3"), "GET", URL)


class CountedKey:
    """A software key that counts how often its public JWK is read."""

    def __init__(self) -> None:
        self._key = dpop.generate_key()
        self.alg, self.thumbprint, self.blocking = self._key.alg, self._key.thumbprint, False
        self.sign = self._key.sign
        self.reads = 0

    @property
    def public_jwk(self) -> Mapping[str, str]:
        self.reads += 1
        return self._key.public_jwk


def test_a_process_with_many_keys_makes_each_header_once() -> None:
    """One process may sign for thousands of users in turn: no key's header is made again for another proof."""
    keys = [CountedKey() for _ in range(1100)]
    for _ in range(2):
        for key in keys:
            assert parts(dpop.create_proof(key, "GET", URL))[0]["jwk"] == key._key.public_jwk
    assert {key.reads for key in keys} == {1}


def test_a_key_that_changes_gets_another_header() -> None:
    """A key object that stands for a new key signs with the header of that key."""
    key = ForeignKey()
    dpop.create_proof(key, "GET", URL)
    other = dpop.generate_key()
    key.public_jwk, key.thumbprint = other.public_jwk, other.thumbprint
    assert parts(dpop.create_proof(key, "GET", URL))[0]["jwk"] == other.public_jwk


def test_a_key_that_cannot_be_remembered_signs_too() -> None:
    """A key object that is neither hashable nor weakly referable."""
    own = dpop.generate_key()

    class Slotted(list[str]):
        __slots__ = ()
        alg, thumbprint, public_jwk, blocking = own.alg, own.thumbprint, own.public_jwk, False
        sign = staticmethod(own.sign)

    verified(dpop.create_proof(Slotted(), "GET", URL))


@given(
    jti=st.text(st.characters(codec="utf-8", exclude_categories=("C",)), min_size=1, max_size=50).filter(
        str.isprintable
    ),
    nonce=st.none() | st.text([chr(c) for c in range(0x21, 0x7F) if chr(c) not in '"\\'], min_size=1),
    extra=st.dictionaries(
        st.text(max_size=9).filter(lambda name: name not in {"jti", "htm", "htu", "iat", "ath", "nonce"}),
        st.integers() | st.text(),
    ),
)
def test_what_goes_in_comes_out(jti: str, nonce: str | None, extra: dict[str, Any]) -> None:
    """The hand-made JSON is JSON, whatever the identifiers, nonces and claims hold."""
    try:
        claims = parts(dpop.create_proof(KEY, "GET", URL, jti=jti, nonce=nonce, claims=extra, iat=7))[1]
    except EncodingError:
        return  # lone surrogates and the like
    expected = {"jti": jti, "htm": "GET", "htu": URL, "iat": 7, **({"nonce": nonce} if nonce else {}), **extra}
    assert claims == expected


def test_signing_elsewhere() -> None:
    """The two halves make the same proof: bytes out, signature in."""
    data = signing_input(KEY, "GET", URL, jti="j", iat=1)
    assert verified(compact(data, KEY.sign(data)))["jti"] == "j"


@pytest.mark.parametrize("method", ["GET", "SHY-METHOD"])
def test_subclasses_of_str(method: str) -> None:
    """They stand in the proof as they are; and no cache keeps what they show for those who write the same."""
    url, nonce, token = Shy(URL + "/shy"), Shy("shy-nonce"), Shy("shy-token")
    for made in (
        dpop.create_proof(KEY, Shy(method), url, nonce=nonce, access_token=token, jti=Shy("shy-jti")),
        dpop.create_proof(KEY, method, URL + "/shy", nonce="shy-nonce", access_token="shy-token", jti="shy-jti"),
    ):
        claims = parts(made)[1]
        assert (claims["htm"], claims["htu"], claims["nonce"]) == (method, URL + "/shy", "shy-nonce")
        assert claims["jti"] == "shy-jti"
        assert claims["ath"] == dpop.access_token_hash("shy-token")
