# SPDX-License-Identifier: Apache-2.0
"""Private JWKs: published ones, joserfc's, round trips, and each fault with its sentence."""

from __future__ import annotations

import json
import subprocess
import sys
import traceback
from collections.abc import Mapping
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey, OKPKey, RSAKey, import_key
from support.paths import DATA

from dpop.encoding import b64url_decode, b64url_encode
from dpop.errors import InvalidKeyError
from dpop.keys import SoftwareKey, thumbprint
from dpop.keys._private_jwk import read_private_jwk, write_private_jwk

Jwk = dict[str, Any]

PUBLISHED: dict[str, Any] = {
    case["id"]: case["facts"]
    for case in json.loads((DATA / "public-vectors.json").read_text(encoding="ascii"))["cases"]
}
EC: Jwk = PUBLISHED["rfc7515-A.3-jws"]["jwk"]
ED: Jwk = PUBLISHED["rfc8037-A.2-key"]["jwk"]
RSA: Jwk = SoftwareKey.from_private_key(rsa.generate_private_key(65537, 2048)).to_jwk(private=True)
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

ABSENT = object()


def changed(jwk: Mapping[str, Any], **members: Any) -> Jwk:
    """A JWK with some members replaced, or left out."""
    return {name: value for name, value in {**jwk, **members}.items() if value is not ABSENT}


def flipped(text: str) -> str:
    """base64url of the same length and other bytes."""
    data = bytearray(b64url_decode(text))
    data[len(data) // 2] ^= 1
    return b64url_encode(bytes(data))


def said(error: BaseException) -> str:
    """All that a traceback would print, and the texts of every error it came from."""
    texts = traceback.format_exception(error)
    cause: BaseException | None = error
    while cause is not None:
        texts.append(repr(cause))
        cause = cause.__cause__ or cause.__context__
    return "".join(texts)


@pytest.mark.parametrize(
    "id_of", ["rfc7515-A.3-jws", "rfc7515-A.4-jws", "rfc7517-A.2-key", "rfc6979-A.2.5-key", "rfc8037-A.2-key"]
)
def test_published_private_keys_are_read(id_of: str) -> None:
    """The examples of the RFCs: their d makes their x and y."""
    jwk = PUBLISHED[id_of]["jwk"]
    key, public = read_private_jwk(jwk)
    assert write_private_jwk(key) == {name: jwk[name] for name in ("kty", "crv", "x", "y", "d") if name in jwk}
    assert public.jwk.items() <= jwk.items()
    assert public.thumbprint == thumbprint(jwk)


def test_the_rsa_example_is_read() -> None:
    """All members, or all but the primes, make the same key (RFC 7518 §6.3.2)."""
    key, public = read_private_jwk(RSA)
    bare = {name: RSA[name] for name in ("kty", "n", "e", "d")}
    without_primes, same_public = read_private_jwk(bare)
    assert isinstance(key, rsa.RSAPrivateKey)
    assert isinstance(without_primes, rsa.RSAPrivateKey)
    assert public == same_public
    assert without_primes.private_numbers().d == key.private_numbers().d
    assert set(write_private_jwk(without_primes)) == {"kty", "n", "e", "d", "p", "q", "dp", "dq", "qi"}


@pytest.mark.parametrize(
    "theirs",
    [
        ECKey.generate_key("P-256"),
        ECKey.generate_key("P-384"),
        ECKey.generate_key("P-521"),
        OKPKey.generate_key("Ed25519"),
        RSAKey.generate_key(2048),
    ],
    ids=["P-256", "P-384", "P-521", "Ed25519", "RSA"],
)
def test_joserfc_and_we_read_each_others_keys(theirs: Any) -> None:
    """A JWK of an independent library is read, and ours by it, with the same thumbprint."""
    key = SoftwareKey.from_jwk(theirs.as_dict(private=True))
    assert key.thumbprint == theirs.thumbprint()
    back: Any = import_key(key.to_jwk(private=True))  # type: ignore[arg-type]
    assert back.thumbprint() == key.thumbprint
    assert back.as_dict(private=True)["d"] == theirs.as_dict(private=True)["d"]


def test_a_strangers_proof_is_never_read_by_joserfc() -> None:
    """Nor is it loaded for a PEM key: only a private JWK, which our own user hands in, is worth its import."""
    code = (
        "import sys, dpop, dpop.server, dpop.keys\n"
        "key = dpop.generate_key()\n"
        "proof = dpop.create_proof(key, 'GET', 'https://a.example/')\n"
        "verifier = dpop.server.ProofVerifier(replay=dpop.server.MemoryReplayCache())\n"
        "verifier.verify_token_request({'DPoP': proof}, 'GET', 'https://a.example/')\n"
        "dpop.keys.PublicKey.from_jwk(key.public_jwk)\n"
        "print('joserfc' in sys.modules)\n"
        "dpop.load_key(key.to_jwk(private=True))\n"
        "print('joserfc' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False", "True"], done.stderr


@pytest.mark.parametrize("jwk", [EC, ED, RSA], ids=["EC", "Ed25519", "RSA"])
def test_members_without_a_value_are_absent(jwk: Jwk) -> None:
    """A library may write all members that it knows, as null or empty; the primes of RSA are then computed."""
    empty = {**dict.fromkeys(("use", "alg", "kid", "p", "q", "dp", "dq", "qi", "k")), "key_ops": [], "oth": []}
    bare = {name: jwk[name] for name in ("kty", "crv", "x", "y", "n", "e", "d") if name in jwk}
    assert SoftwareKey.from_jwk({**empty, **bare}).to_jwk(private=True)["d"] == jwk["d"]


def test_a_declared_algorithm_is_kept() -> None:
    """alg says which name the key signs by; kid, use and key_ops that fit are fine."""
    extra = {"kid": "1", "use": "sig", "key_ops": ["sign", "verify"], "ext": True}
    assert SoftwareKey.from_jwk({**ED, **extra}).alg == "Ed25519"
    assert SoftwareKey.from_jwk({**ED, **extra, "alg": "EdDSA"}).alg == "EdDSA"
    assert SoftwareKey.from_jwk({**RSA, "alg": "RS256"}).alg == "RS256"
    assert SoftwareKey.from_jwk(changed(RSA, alg=ABSENT)).alg == "PS256"


REFUSED = [
    pytest.param([EC], "JSON object, not list", id="list"),
    pytest.param(None, "JSON object, not NoneType", id="None"),
    pytest.param({}, '"kty" of the JWK is missing', id="empty"),
    pytest.param({"keys": [EC]}, "JWK Set", id="set"),
    pytest.param({"kty": "oct", "k": EC["d"]}, "symmetric key", id="symmetric"),
    pytest.param({"kty": ["EC"], "d": EC["d"]}, '"kty" of the JWK is not one', id="kty list"),
    pytest.param(changed(EC, d=ABSENT), "a public key, but a private key is needed", id="public EC"),
    pytest.param(changed(ED, d=ABSENT), "a public key, but a private key is needed", id="public Ed25519"),
    pytest.param({name: RSA[name] for name in ("kty", "n", "e")}, "a public key, but", id="public RSA"),
    pytest.param(changed(EC, d=ABSENT, key_ops=["verify"]), "a public key, but", id="public key_ops"),
    pytest.param(changed(EC, d=None), "a public key, but a private key is needed", id="d null"),
    pytest.param(changed(EC, d=7), '"d" of the JWK is not a string', id="d number"),
    pytest.param(changed(EC, d=""), "a public key, but a private key is needed", id="d empty"),
    pytest.param(changed(EC, d=EC["d"] + "="), "must be 43 characters", id="d padded"),
    pytest.param(changed(EC, d=b64url_encode(b"\0" + b64url_decode(EC["d"]))), "must be 43 characters", id="d long"),
    pytest.param(changed(EC, d="+" + EC["d"][1:]), '"d" of the JWK is not base64url', id="d standard base64"),
    pytest.param(changed(EC, d=flipped(EC["d"])), "do not belong together", id="d other"),
    pytest.param(changed(EC, d=b64url_encode(bytes(32))), "do not belong together", id="d zero"),
    pytest.param(changed(EC, d=b64url_encode(P256_ORDER.to_bytes(32, "big"))), "do not belong together", id="d n"),
    pytest.param(changed(EC, d=b64url_encode(b"\xff" * 32)), "do not belong together", id="d above n"),
    pytest.param(changed(EC, x=ABSENT), '"x" of the JWK is missing', id="no x"),
    pytest.param(changed(EC, y=ABSENT), '"y" of the JWK is missing', id="no y"),
    pytest.param(changed(EC, y=flipped(EC["y"])), "not a point of its curve", id="y off the curve"),
    pytest.param({**PUBLISHED["rfc7517-A.2-key"]["jwk"], "d": EC["d"]}, "do not belong together", id="other x and y"),
    pytest.param(changed(EC, crv="P-384"), "must be 64 characters", id="other curve"),
    pytest.param(changed(EC, crv="secp256k1"), "expected P-256, P-384 or P-521", id="secp256k1"),
    pytest.param(changed(EC, alg="ES384"), '"alg" of the JWK does not match', id="alg of another curve"),
    pytest.param(changed(EC, alg="ECDH-ES"), '"alg" of the JWK does not match', id="alg to encrypt"),
    pytest.param(changed(EC, alg=7), '"alg" of the JWK is not a string', id="alg number"),
    pytest.param(changed(EC, use="enc"), '"use"', id="use enc"),
    pytest.param(changed(EC, key_ops=["verify"]), '"key_ops"', id="key_ops verify"),
    pytest.param(changed(EC, key_ops="sign"), '"key_ops"', id="key_ops a string"),
    pytest.param(changed(ED, d=flipped(ED["d"])), "do not belong together", id="Ed25519 d other"),
    pytest.param(changed(ED, d=ED["d"] + ED["x"]), "must be 43 characters", id="Ed25519 d with x"),
    pytest.param(changed(ED, crv="X25519"), "expected Ed25519", id="X25519"),
    pytest.param(changed(RSA, oth=[{"r": "AAAA"}]), "more than two primes", id="RSA oth"),
    pytest.param(changed(RSA, p=ABSENT), '"p" of the JWK is missing', id="RSA no p"),
    pytest.param(changed(RSA, qi=ABSENT), '"qi" of the JWK is missing', id="RSA no qi"),
    pytest.param(changed(RSA, d=flipped(RSA["d"])), "do not belong together", id="RSA d other"),
    pytest.param(changed(RSA, qi=flipped(RSA["qi"])), "do not belong together", id="RSA qi other"),
    pytest.param(changed(RSA, n=flipped(RSA["n"])), "do not belong together", id="RSA n other"),
    pytest.param(changed(RSA, p="A" * 2000), "longer than 8192 bits", id="RSA p long"),
    pytest.param(
        {"kty": "RSA", "n": RSA["n"], "e": RSA["e"], "d": flipped(RSA["d"])}, "do not belong", id="RSA bare d other"
    ),
]


@pytest.mark.parametrize(("jwk", "says"), REFUSED)
def test_a_bad_private_jwk_is_refused_with_a_reason(jwk: Any, says: str) -> None:
    """Each fault has its own sentence, and neither d nor a prime is in it or in what led to it."""
    with pytest.raises(InvalidKeyError) as caught:
        read_private_jwk(jwk)
    assert says in str(caught.value)
    everything = said(caught.value)
    for secret in (EC["d"], ED["d"], RSA["d"], RSA["p"]):
        assert secret[8:24] not in everything
        assert str(int.from_bytes(b64url_decode(secret), "big"))[8:24] not in everything


def test_a_weak_rsa_key_is_refused() -> None:
    """1024 bits, with all members in order (RFC 7518 §3.3)."""
    native = rsa.generate_private_key(65537, 1024)
    public = native.public_key().public_numbers()
    members = {"n": b64url_encode(public.n.to_bytes(128, "big")), "e": "AQAB"}
    with pytest.raises(InvalidKeyError, match="1024 bits"):
        read_private_jwk({"kty": "RSA", **members, "d": b64url_encode(native.private_numbers().d.to_bytes(128, "big"))})


@given(st.integers(1, P256_ORDER - 1))
def test_ec_keys_survive_a_round_trip(scalar: int) -> None:
    """Leading zeros of d, x and y included: 43 characters each."""
    native = ec.derive_private_key(scalar, ec.SECP256R1())
    jwk = SoftwareKey.from_private_key(native).to_jwk(private=True)
    assert [len(jwk[name]) for name in ("x", "y", "d")] == [43, 43, 43]
    key, _ = read_private_jwk(json.loads(json.dumps(jwk)))
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.private_numbers() == native.private_numbers()


@given(st.binary(min_size=32, max_size=32))
def test_ed25519_keys_survive_a_round_trip(seed: bytes) -> None:
    """Any 32 bytes are a seed, and come back."""
    native = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
    key, _ = read_private_jwk(SoftwareKey.from_private_key(native).to_jwk(private=True))
    assert isinstance(key, ed25519.Ed25519PrivateKey)
    assert key.private_bytes_raw() == seed


_VALUES = st.one_of(
    st.none(),
    st.integers(),
    st.text(max_size=50),
    st.text("ABab01-_=", min_size=43, max_size=43),
    st.lists(st.text(max_size=5), max_size=2),
    st.sampled_from([EC["d"], ED["d"], RSA["d"], RSA["p"], "AQAB", "sign", "ES256", "P-256", "EC", "OKP", "RSA"]),
)
_NAMES = st.one_of(st.sampled_from(sorted({*EC, *RSA, "k", "use", "key_ops"})), st.text(max_size=4))


@given(
    st.sampled_from([EC, ED, RSA]),
    st.lists(st.sampled_from(sorted({*EC, *ED, *RSA})), max_size=2),
    st.dictionaries(_NAMES, _VALUES, max_size=3),
)
def test_any_private_jwk_is_a_key_or_an_invalid_key_error(jwk: Jwk, removed: list[str], added: Jwk) -> None:
    """No other exception comes out, whatever is left out, replaced or added."""
    mutant = {**{name: value for name, value in jwk.items() if name not in removed}, **added}
    try:
        _, public = read_private_jwk(mutant)
    except InvalidKeyError:
        return
    assert public.thumbprint == thumbprint(mutant)
