# SPDX-License-Identifier: Apache-2.0
"""Public keys: every check on a JWK, signatures, thumbprints."""

from __future__ import annotations

import base64
import contextlib
import copy
import json
from collections.abc import Mapping
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from support.paths import DATA

from dpop.encoding import b64url_decode, b64url_encode
from dpop.errors import AlgorithmError, ArgumentTypeError, InvalidKeyError, SignatureFormatError
from dpop.keys import SoftwareKey
from dpop.keys._public import PublicKey, thumbprint, unloaded_key
from dpop.signature import raw_to_der

Jwk = dict[str, Any]

PUBLISHED: dict[str, Any] = {
    case["id"]: case["facts"]
    for case in json.loads((DATA / "public-vectors.json").read_text(encoding="ascii"))["cases"]
}
DPOP_PROOFS = ["rfc9449-fig2-fig5-token-code", "rfc9449-fig7-token-refresh", "rfc9449-fig13-resource"]

P256_PRIME = 2**256 - 2**224 + 2**192 + 2**96 - 1
ED25519_PRIME = 2**255 - 19

EC: Jwk = PUBLISHED["rfc9449-jkt"]["jwk"]
ED: Jwk = {"kty": "OKP", "crv": "Ed25519", "x": PUBLISHED["rfc8037-A.2-key"]["jwk"]["x"]}
RSA: Jwk = {name: PUBLISHED["rfc7638-3.1"]["jwk"][name] for name in ("kty", "n", "e")}
P384: Jwk = SoftwareKey.generate("ES384").public_jwk
P521: Jwk = SoftwareKey.generate("ES512").public_jwk
ALL = [EC, P384, P521, ED, RSA]
IDS = ["P-256", "P-384", "P-521", "Ed25519", "RSA"]

ABSENT = object()


def changed(jwk: Mapping[str, Any], **members: Any) -> Jwk:
    """A JWK with some members replaced, or left out."""
    return {name: value for name, value in {**jwk, **members}.items() if value is not ABSENT}


def number(value: int) -> str:
    """Base64urlUInt (RFC 7518 §2)."""
    return b64url_encode(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def point(x: int, y: int) -> Jwk:
    """A P-256 JWK of two coordinates, good or not."""
    return {"kty": "EC", "crv": "P-256", "x": b64url_encode(x.to_bytes(32, "big")), "y": b64url_encode(y.to_bytes(32))}


# --- what is accepted


@pytest.mark.parametrize(
    ("jwk", "algs"),
    [
        (EC, ("ES256",)),
        (P384, ("ES384",)),
        (P521, ("ES512",)),
        (ED, ("Ed25519", "EdDSA")),
        (RSA, ("PS256", "RS256", "PS384", "PS512", "RS384", "RS512")),
    ],
    ids=IDS,
)
def test_each_kind_of_key_knows_its_algorithms(jwk: Jwk, algs: tuple[str, ...]) -> None:
    """A key is for the algorithms of its type and curve, and no others (RFC 8725 §3.1)."""
    key = PublicKey.from_jwk(jwk)
    assert key.algs == algs
    assert key.jwk == jwk
    assert key.declared_alg is None


def test_optional_members_are_ignored_but_for_alg() -> None:
    """kid, x5t and unknown members change neither key nor thumbprint; alg is kept for the caller."""
    extra = {"use": "sig", "key_ops": ["verify"], "alg": "ES384", "kid": "1", "x5t": 5, "ext": True, "?": None}
    key = PublicKey.from_jwk({**EC, **extra})
    assert key.declared_alg == "ES384"
    assert key.jwk == EC
    assert key.thumbprint == PUBLISHED["rfc9449-jkt"]["jkt"]


def test_the_jwk_of_a_key_is_the_callers_own() -> None:
    """Changing the dict that came out, or the one that went in, does not change the key."""
    given_jwk = dict(EC)
    key = PublicKey.from_jwk(given_jwk)
    given_jwk["x"] = "other"
    key.jwk["x"] = "another"
    assert key.jwk == EC


def test_equal_keys_are_equal() -> None:
    """Keys compare by thumbprint, and can be in sets."""
    key, same, other = PublicKey.from_jwk(EC), PublicKey.from_jwk({**EC, "kid": "1"}), PublicKey.from_jwk(ED)
    assert key == same
    assert key != other
    assert key != EC
    assert len({key, same, other}) == 2


def test_repr_names_the_key() -> None:
    """The repr has what one wants in a log: the algorithm and the thumbprint."""
    assert repr(PublicKey.from_jwk(EC)) == f"<PublicKey ES256 {PUBLISHED['rfc9449-jkt']['jkt']}>"


# --- what is refused


def _low_x_point() -> tuple[int, int]:
    """A P-256 point whose x + p still fits 32 bytes."""
    b = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
    x = 1
    while True:
        square = (pow(x, 3, P256_PRIME) - 3 * x + b) % P256_PRIME
        y = pow(square, (P256_PRIME + 1) // 4, P256_PRIME)
        if y * y % P256_PRIME == square:
            return x, y
        x += 1


LOW_X, LOW_Y = _low_x_point()
N = int.from_bytes(b64url_decode(RSA["n"]), "big")
SLOPPY_X = EC["x"][:-1] + "t"  # "s" with an unused bit set

REFUSED: list[tuple[str, object, str]] = [
    ("not a mapping", [EC], "must be a JSON object, not list"),
    ("a str", json.dumps(EC), "must be a JSON object, not str"),
    ("None", None, "must be a JSON object, not NoneType"),
    ("empty", {}, '"kty" of the JWK is missing'),
    ("JWK Set", {"keys": [EC]}, "JWK Set"),
    ("private", changed(EC, d="AAAA"), 'has "d"'),
    ("RSA prime", changed(RSA, p="AAAA"), 'has "p"'),
    ("RSA qi", changed(RSA, qi=7), 'has "qi"'),
    ("RSA oth", changed(RSA, oth=[{}]), 'has "oth"'),
    ("private after an empty one", changed(EC, p=None, d="AAAA"), 'has "d"'),
    ("private false", changed(EC, d=False), 'has "d"'),
    ("symmetric", {"kty": "oct", "k": "AAAA"}, 'has "k"'),
    ("symmetric member in EC", changed(EC, k="AAAA"), 'has "k"'),
    ("symmetric without k", {"kty": "oct"}, "symmetric key"),
    ("no kty", changed(EC, kty=ABSENT), '"kty" of the JWK is missing'),
    ("kty in lower case", changed(EC, kty="ec"), '"kty" of the JWK is not one'),
    ("kty null", changed(EC, kty=None), '"kty" of the JWK is not one'),
    ("kty list", changed(EC, kty=["EC"]), '"kty" of the JWK is not one'),
    ("kty AKP", {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA"}, '"kty" of the JWK is not one'),
    ("no crv", changed(EC, crv=ABSENT), '"crv" of the JWK is missing'),
    ("crv number", changed(EC, crv=256), '"crv" of the JWK is not a string'),
    ("secp256k1", changed(EC, crv="secp256k1"), "expected P-256, P-384 or P-521"),
    ("crv lower case", changed(EC, crv="p-256"), "expected P-256, P-384 or P-521"),
    ("crv of another length", changed(EC, crv="P-384"), "must be 64 characters"),
    ("Ed25519 as EC", changed(EC, crv="Ed25519"), "expected P-256, P-384 or P-521"),
    ("no x", changed(EC, x=ABSENT), '"x" of the JWK is missing'),
    ("no y", changed(EC, y=ABSENT), '"y" of the JWK is missing'),
    ("x null", changed(EC, x=None), '"x" of the JWK is not a string'),
    ("x number", changed(EC, x=7), '"x" of the JWK is not a string'),
    ("x bytes", changed(EC, x=EC["x"].encode()), '"x" of the JWK is not a string'),
    ("x empty", changed(EC, x=""), "must be 43 characters"),
    ("x short", changed(EC, x=EC["x"][:-1]), "must be 43 characters"),
    ("x with a leading zero", changed(EC, x=b64url_encode(b"\0" + b64url_decode(EC["x"]))), "must be 43 characters"),
    ("x padded", changed(EC, x=EC["x"] + "="), "must be 43 characters"),
    ("x trailing bits", changed(EC, x=SLOPPY_X), "unused bits"),
    ("x in standard base64", changed(EC, x="+" + EC["x"][1:]), "only A-Z a-z 0-9 - _"),
    ("x not ASCII", changed(EC, x="é" + EC["x"][1:]), "outside ASCII"),
    ("x with a newline", changed(EC, x=EC["x"][:-1] + "\n"), "only A-Z a-z 0-9 - _"),
    ("not on the curve", changed(EC, y=b64url_encode(bytes(31) + b"\x05")), "not a point of its curve"),
    ("origin", point(0, 0), "not a point of its curve"),
    ("x above p", point(LOW_X + P256_PRIME, LOW_Y), "not a point of its curve"),
    ("y above p", point(LOW_X, 2**256 - 1), "not a point of its curve"),
    ("X25519", changed(ED, crv="X25519"), "expected Ed25519"),
    ("Ed448", changed(ED, crv="Ed448"), "expected Ed25519"),
    ("Ed25519 without crv", changed(ED, crv=ABSENT), '"crv" of the JWK is missing'),
    ("Ed25519 short", changed(ED, x=b64url_encode(bytes(31))), "must be 43 characters"),
    ("Ed25519 long", changed(ED, x=b64url_encode(bytes(33))), "must be 43 characters"),
    ("RSA 1024", changed(RSA, n=number((1 << 1023) + 1)), "has 1024 bits"),
    ("RSA 2047", changed(RSA, n=number((1 << 2046) + 1)), "has 2047 bits"),
    ("RSA 8193", changed(RSA, n=number((1 << 8192) + 1)), "longer than 8192 bits"),
    ("RSA 16384", changed(RSA, n=number((1 << 16383) + 1)), "longer than 8192 bits"),
    ("RSA of a megabyte", changed(RSA, n="A" * 2**20), "longer than 8192 bits"),
    ("RSA n with a leading zero", changed(RSA, n=b64url_encode(b"\0" + b64url_decode(RSA["n"]))), "leading zero"),
    ("RSA n empty", changed(RSA, n=""), "is empty"),
    ("RSA n even", changed(RSA, n=number(N + 1)), "weak"),
    ("RSA n missing", changed(RSA, n=ABSENT), '"n" of the JWK is missing'),
    ("RSA n number", changed(RSA, n=N), '"n" of the JWK is not a string'),
    ("RSA e missing", changed(RSA, e=ABSENT), '"e" of the JWK is missing'),
    ("RSA e 65537 as a number", changed(RSA, e=65537), '"e" of the JWK is not a string'),
    ("RSA e zero", changed(RSA, e="AA"), "leading zero"),
    ("RSA e 1", changed(RSA, e=number(1)), "weak"),
    ("RSA e 2", changed(RSA, e=number(2)), "weak"),
    ("RSA e even", changed(RSA, e=number(65536)), "weak"),
    ("RSA e above 2^32", changed(RSA, e=number(2**32 + 1)), "weak"),
    ("RSA e of 35 bits", changed(RSA, e=number(2**34 + 1)), "longer than 33 bits"),
    ("RSA e huge", changed(RSA, e=number(2**64 + 13)), "longer than 33 bits"),
    ("RSA e with a leading zero", changed(RSA, e="AAEAAQ"), "leading zero"),
    ("use enc", changed(EC, use="enc"), '"use"'),
    ("key_ops sign", changed(EC, key_ops=["sign"]), '"key_ops"'),
    ("key_ops a string", changed(EC, key_ops="verify"), '"key_ops"'),
    ("alg number", changed(EC, alg=256), '"alg" of the JWK is not a string'),
]


@pytest.mark.parametrize("crv", ["P-256", "P-384", "P-521"])
def test_a_key_read_without_openssl_is_checked_before_it_verifies(crv: str) -> None:
    """What the agent says of its key is read without loading OpenSSL; a wrong point verifies nothing all the same."""
    size = {"P-256": 32, "P-384": 48, "P-521": 66}[crv]
    one = b64url_encode((1).to_bytes(size, "big"))
    key = unloaded_key({"kty": "EC", "crv": crv, "x": one, "y": one})
    with pytest.raises(InvalidKeyError, match="not a point of its curve"):
        key.verify(key.algs[0], b"", b"\1" * 2 * size)
    with pytest.raises(InvalidKeyError, match="not a point of its curve"):
        key.to_cryptography()


@pytest.mark.parametrize(("jwk", "says"), [pytest.param(jwk, says, id=name) for name, jwk, says in REFUSED])
def test_a_bad_jwk_is_refused_with_a_reason(jwk: Any, says: str) -> None:
    """Each fault has its own sentence, and no value of the JWK is in it (RFC 8725 §3.4)."""
    with pytest.raises(InvalidKeyError) as caught:
        PublicKey.from_jwk(jwk)
    message = str(caught.value)
    assert says in message
    assert len(message) < 200
    assert EC["x"][:10] not in message
    assert "AAAA" not in message


EMPTY_MEMBERS = {
    **dict.fromkeys(("use", "alg", "kid", "d", "p", "q", "dp", "dq", "qi", "k", "x5t", "x5u")),
    "key_ops": [],
    "x5c": [],
    "oth": [],
}


@pytest.mark.parametrize("jwk", [EC, ED, RSA], ids=["EC", "Ed25519", "RSA"])
@pytest.mark.parametrize("empty", [None, "", [], {}], ids=["null", "text", "list", "object"])
def test_members_without_a_value_are_absent(jwk: Jwk, empty: object) -> None:
    """A library may write all members that it knows; a private one that is empty gives nothing away."""
    for more in (EMPTY_MEMBERS, dict.fromkeys(EMPTY_MEMBERS, empty)):
        key = PublicKey.from_jwk({**more, **jwk})
        assert (key.thumbprint, key.declared_alg) == (PublicKey.from_jwk(jwk).thumbprint, None)


def _torsion_points() -> list[tuple[int, int]]:
    """The eight points of Ed25519 whose order divides 8, from the curve's equation."""
    p = ED25519_PRIME
    d = -121665 * pow(121666, -1, p) % p
    root = pow(2, (p - 1) // 4, p)  # a square root of -1

    def add(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
        product = d * a[0] * b[0] * a[1] * b[1]
        return (
            (a[0] * b[1] + b[0] * a[1]) * pow(1 + product, -1, p) % p,
            (a[1] * b[1] + a[0] * b[0]) * pow(1 - product, -1, p) % p,
        )

    def times(k: int, a: tuple[int, int]) -> tuple[int, int]:
        total = (0, 1)
        for bit in f"{k:b}":
            total = add(total, total)
            total = add(total, a) if bit == "1" else total
        return total

    order = 2**252 + 27742317777372353535851937790883648493
    y = 2
    while True:  # a point times the large prime is one of the eight; look for one that makes them all
        square = (y * y - 1) * pow(d * y * y + 1, -1, p) % p
        x = pow(square, (p + 3) // 8, p)
        for candidate in (x, x * root % p):
            if candidate * candidate % p == square:
                point = times(order, (candidate, y))
                points = [times(k, point) for k in range(8)]
                if len(set(points)) == 8:
                    return points
        y += 1


SMALL_ORDER = sorted(
    {
        (y + shift | sign << 255).to_bytes(32, "little")
        for _, y in _torsion_points()
        for shift in (0, ED25519_PRIME)
        for sign in (0, 1)
        if y + shift < 2**255
    }
)


def test_the_small_order_encodings_are_all_there() -> None:
    """Five values of y, two of which have a second spelling below 2^255, each with either sign."""
    assert len(SMALL_ORDER) == 14


@pytest.mark.parametrize("data", SMALL_ORDER, ids=bytes.hex)
def test_ed25519_points_of_small_order_are_refused(data: bytes) -> None:
    """With such a key anyone can sign, and OpenSSL lets it pass; the spellings RFC 8032 forbids are refused too."""
    assert isinstance(ed25519.Ed25519PublicKey.from_public_bytes(data), ed25519.Ed25519PublicKey)
    with pytest.raises(InvalidKeyError, match=r"small order|not the canonical encoding"):
        PublicKey.from_jwk(changed(ED, x=b64url_encode(data)))


@pytest.mark.parametrize("excess", range(19))
@pytest.mark.parametrize("sign", [0, 1])
def test_ed25519_has_no_second_spelling(excess: int, sign: int) -> None:
    """y at or above the prime is another name for another key (RFC 8032 §5.1.3)."""
    data = (ED25519_PRIME + excess | sign << 255).to_bytes(32, "little")
    with pytest.raises(InvalidKeyError, match="not the canonical encoding"):
        PublicKey.from_jwk(changed(ED, x=b64url_encode(data)))


def test_ed25519_bytes_that_are_no_point_verify_nothing() -> None:
    """Half of all values of x are no point; such a key is found out at its first signature."""
    key = PublicKey.from_jwk(changed(ED, x=b64url_encode(b"\x02" + bytes(31))))
    assert key.verify("Ed25519", b"anything", bytes(64)) is False


_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=50),
    st.text("ABab01-_=+/", min_size=40, max_size=90),
    st.lists(st.text(max_size=5), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
    st.sampled_from([EC["x"], EC["y"], ED["x"], RSA["n"], "AQAB", "P-256", "P-384", "Ed25519", "EC", "OKP", "RSA"]),
)
_NAMES = st.sampled_from(["kty", "crv", "x", "y", "n", "e", "d", "k", "use", "key_ops", "alg", "keys", "kid"])


@st.composite
def _mutated(draw: st.DrawFn) -> Jwk:
    jwk: Jwk = dict(draw(st.sampled_from(ALL)))
    for name in draw(st.lists(st.sampled_from(sorted(jwk)), max_size=2)):
        jwk.pop(name, None)
    jwk.update(draw(st.dictionaries(st.one_of(_NAMES, st.text(max_size=5)), _VALUES, max_size=3)))
    for name, value in list(jwk.items()):
        if isinstance(value, str) and value and draw(st.integers(0, 9)) == 0:
            at = draw(st.integers(0, len(value) - 1))
            jwk[name] = value[:at] + draw(st.characters()) + value[at + 1 :]
    return jwk


@given(st.one_of(_mutated(), st.dictionaries(st.text(max_size=5), _VALUES)))
def test_any_jwk_is_a_key_or_an_invalid_key_error(jwk: Jwk) -> None:
    """No other exception comes out, the input stays as it was, and what is accepted has one spelling."""
    before = copy.deepcopy(jwk)
    try:
        key = PublicKey.from_jwk(jwk)
    except InvalidKeyError:
        pass
    else:
        assert key.jwk.items() <= jwk.items()
        assert PublicKey.from_jwk(key.jwk) == key
        assert not jwk.get("d")
        assert thumbprint(jwk) == key.thumbprint
    assert repr(jwk) == repr(before)


# --- from the cryptography package


def test_two_thousand_p256_keys_have_43_characters_each_way() -> None:
    """Coordinates keep their leading zeros (RFC 7518 §6.2.1.2), and both ways in give one key."""
    leading_zeros = 0
    for scalar in range(1, 2001):
        native = ec.derive_private_key(scalar, ec.SECP256R1()).public_key()
        key = PublicKey.from_cryptography(native)
        x, y = key.jwk["x"], key.jwk["y"]
        assert len(x) == len(y) == 43
        point = native.public_numbers()
        assert int.from_bytes(b64url_decode(x), "big") == point.x
        assert int.from_bytes(b64url_decode(y), "big") == point.y
        leading_zeros += not point.x >> 248 or not point.y >> 248
    assert leading_zeros > 0


@pytest.mark.parametrize(
    "native",
    [
        pytest.param(ec.generate_private_key(ec.SECP256K1()).public_key(), id="secp256k1"),
        pytest.param(ec.generate_private_key(ec.SECP224R1()).public_key(), id="secp224r1"),
        pytest.param(ed448.Ed448PrivateKey.generate().public_key(), id="Ed448"),
        pytest.param(x25519.X25519PrivateKey.generate().public_key(), id="X25519"),
        pytest.param(ec.generate_private_key(ec.SECP256R1()), id="private"),
        pytest.param("a key", id="str"),
        pytest.param(None, id="None"),
    ],
)
def test_other_key_objects_are_refused(native: object) -> None:
    """Other curves, other key types and private keys are no public keys of DPoP."""
    with pytest.raises(InvalidKeyError, match="use "):
        PublicKey.from_cryptography(native)


def test_a_weak_rsa_key_object_is_refused() -> None:
    """The bounds hold whichever way a key comes in."""
    with pytest.raises(InvalidKeyError, match="1024 bits"):
        PublicKey.from_cryptography(rsa.generate_private_key(65537, 1024).public_key())


@pytest.mark.parametrize("jwk", ALL, ids=IDS)
def test_what_a_file_holds(jwk: Jwk) -> None:
    """PEM, with text around it too, DER and JSON are the same key."""
    key = PublicKey.from_jwk(jwk)
    native = key.to_cryptography()
    pem = native.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    der = native.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for data in (pem, b"the API's key\r\n" + pem.replace(b"\n", b"\r\n"), der, b"\n " + json.dumps(jwk).encode()):
        assert PublicKey.from_bytes(data) == key


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a public key"),
        (b"\x30\x03\x02\x01\x00", "not a public key"),
        (b"-----BEGIN CERTIFICATE-----", "not a public key"),
        pytest.param(
            ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            "pkey -pubout",
            id="a private key",  # each process of pytest-xdist has another one, and must collect the same tests
        ),
        (b'{"kty":', "JWK"),
        (b'{"kty":"oct","k":"AAAA"}', "symmetric"),
    ],
)
def test_a_file_that_holds_no_public_key(data: bytes, words: str) -> None:
    """The message says what was expected; a private key is refused, and nothing of it is in the message."""
    with pytest.raises(InvalidKeyError, match=words):
        PublicKey.from_bytes(data)


def test_a_path_is_no_bytes() -> None:
    """A str is not opened."""
    with pytest.raises(ArgumentTypeError):
        PublicKey.from_bytes("key.pem")  # type: ignore[arg-type]


@given(st.binary())
def test_any_bytes_are_a_public_key_or_refused(data: bytes) -> None:
    """No other exception."""
    with contextlib.suppress(InvalidKeyError):
        PublicKey.from_bytes(data)


# --- signatures


@pytest.mark.parametrize(
    "example",
    ["rfc7515-A.3-jws", "rfc7515-A.4-jws", "rfc7515-A.2-jws", "rfc8037-A.4-A.5-jws", *DPOP_PROOFS],
)
def test_published_signatures_verify(example: str) -> None:
    """The examples of the RFCs, among them high-S signatures, and not a single flipped bit of theirs."""
    facts = PUBLISHED[example]
    signing_input, _, encoded = (facts.get("jws") or facts["proof"]).rpartition(".")
    header = json.loads(b64url_decode(signing_input.partition(".")[0]))
    jwk = facts.get("jwk") or header.get("jwk") or ED
    key = PublicKey.from_jwk({name: jwk[name] for name in ("kty", "crv", "x", "y", "n", "e") if name in jwk})
    signature = b64url_decode(encoded)
    assert key.verify(header["alg"], signing_input.encode(), signature) is True
    assert key.verify(header["alg"], signing_input.encode() + b"x", signature) is False
    flipped = signature[:30] + bytes([signature[30] ^ 1]) + signature[31:]
    assert key.verify(header["alg"], signing_input.encode(), flipped) is False


def test_rfc6979_signatures_verify_high_or_low_s() -> None:
    """JOSE has no low-S rule: the RFC's high-S signature is as good as the other (RFC 7518 §3.4)."""
    key = PublicKey.from_jwk(changed(PUBLISHED["rfc6979-A.2.5-key"]["jwk"], d=ABSENT))
    kinds = set()
    for example in ("rfc6979-A.2.5-sha256-sample", "rfc6979-A.2.5-sha256-test"):
        facts = PUBLISHED[example]
        kinds.add(facts["high_s"])
        assert key.verify("ES256", facts["message"].encode(), b64url_decode(facts["raw_b64u"])) is True
    assert kinds == {True, False}


ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
SIGNER = SoftwareKey.generate("ES256")
GOOD = SIGNER.sign(b"bytes")


@pytest.mark.parametrize(
    ("signature", "says"),
    [
        pytest.param(b"", "64 bytes, not 0", id="empty"),
        pytest.param(GOOD[:-1], "64 bytes, not 63", id="short"),
        pytest.param(GOOD + b"\0", "64 bytes, not 65", id="long"),
        pytest.param(b"\0" + GOOD[:32] + b"\0" + GOOD[32:], "64 bytes, not 66", id="padded"),
        pytest.param(bytes(96), "64 bytes, not 96", id="P-384"),
        pytest.param(raw_to_der(GOOD), "der_to_raw", id="DER"),
        pytest.param(bytes(64), "r is zero", id="zero"),
        pytest.param(bytes(32) + GOOD[32:], "r is zero", id="r zero"),
        pytest.param(GOOD[:32] + bytes(32), "s is zero", id="s zero"),
        pytest.param(ORDER.to_bytes(32, "big") * 2, "r is not below the order", id="n"),
    ],
)
def test_an_es256_signature_out_of_shape_is_an_error_of_its_own(signature: bytes, says: str) -> None:
    """DER, padding and zeros are told from signatures that are merely wrong (RFC 7518 §3.4)."""
    with pytest.raises(SignatureFormatError, match=says):
        PublicKey.from_jwk(SIGNER.public_jwk).verify("ES256", b"bytes", signature)


@pytest.mark.parametrize(
    ("jwk", "alg", "size"),
    [
        (P384, "ES384", 96),
        (P521, "ES512", 132),
        (ED, "Ed25519", 64),
        (ED, "EdDSA", 64),
        (RSA, "PS256", 256),
        (RSA, "RS512", 256),
    ],
)
def test_every_algorithm_has_one_signature_length(jwk: Jwk, alg: str, size: int) -> None:
    """One byte more or less is refused before any arithmetic; the right length is judged."""
    key = PublicKey.from_jwk(jwk)
    for wrong in (size - 1, size + 1, 0):
        with pytest.raises(SignatureFormatError, match=str(size)):
            key.verify(alg, b"bytes", b"\x01" * wrong)
    assert key.verify(alg, b"bytes", (b"\x00" + b"\x01" * (size // 2 - 1)) * 2) is False


@pytest.mark.parametrize("alg", ["ES384", "none", "HS256", "es256", "", "RS256", "x" * 1000])
def test_a_key_verifies_its_own_algorithms_only(alg: str) -> None:
    """The algorithm comes from the proof, the key decides whether it fits (RFC 8725 §3.1)."""
    with pytest.raises(AlgorithmError, match="ES256") as caught:
        PublicKey.from_jwk(EC).verify(alg, b"bytes", GOOD)
    assert len(str(caught.value)) < 100


def test_only_bytes_are_verified() -> None:
    """A str for the signing input or the signature is the caller's mistake, and said so."""
    key: Any = PublicKey.from_jwk(EC)
    with pytest.raises(ArgumentTypeError, match="signing_input"):
        key.verify("ES256", "bytes", GOOD)
    with pytest.raises(ArgumentTypeError, match="signature"):
        key.verify("ES256", b"bytes", "signature")


def test_ps256_needs_a_salt_as_long_as_the_hash() -> None:
    """Another salt length is another algorithm (RFC 7518 §3.5), and PKCS #1 v1.5 is RS256, not PS256."""
    native = rsa.generate_private_key(65537, 2048)
    key = PublicKey.from_cryptography(native.public_key())
    for salt, good in ((32, True), (20, False), (0, False)):
        pss = padding.PSS(padding.MGF1(hashes.SHA256()), salt)
        assert key.verify("PS256", b"bytes", native.sign(b"bytes", pss, hashes.SHA256())) is good
    v15 = native.sign(b"bytes", padding.PKCS1v15(), hashes.SHA256())
    assert key.verify("RS256", b"bytes", v15) is True
    assert key.verify("PS256", b"bytes", v15) is False


@given(st.binary(max_size=300), st.binary(min_size=64, max_size=64))
def test_random_bytes_are_no_signature(signing_input: bytes, signature: bytes) -> None:
    """Whatever 64 bytes come, they do not verify, and nothing but our own error comes out."""
    with contextlib.suppress(SignatureFormatError):
        assert PublicKey.from_jwk(EC).verify("ES256", signing_input, signature) is False
    assert PublicKey.from_jwk(ED).verify("Ed25519", signing_input, signature) is False


# --- thumbprints


@pytest.mark.parametrize(
    ("jwk", "jkt"),
    [
        (PUBLISHED["rfc9449-jkt"]["jwk"], PUBLISHED["rfc9449-jkt"]["jkt"]),
        (PUBLISHED["rfc7638-3.1"]["jwk"], PUBLISHED["rfc7638-3.1"]["jkt"]),
        (PUBLISHED["rfc8037-A.2-key"]["jwk"], PUBLISHED["rfc8037-A.3-thumbprint"]["jkt"]),
        (PUBLISHED["rfc7515-A.3-jws"]["jwk"], PUBLISHED["rfc7515-A.3-jws"]["jkt_derived"]),
        (PUBLISHED["rfc7517-A.2-key"]["jwk"], PUBLISHED["rfc7517-A.2-key"]["jkt_derived"]),
    ],
    ids=["RFC 9449 6.1", "RFC 7638 3.1", "RFC 8037 A.3", "RFC 7515 A.3", "RFC 7517 A.2"],
)
def test_published_thumbprints(jwk: Jwk, jkt: str) -> None:
    """Public and private JWKs, with optional members or without, have the published thumbprint."""
    assert thumbprint(jwk) == jkt
    assert thumbprint({**jwk, "use": "enc", "kid": "x", "d": "AQ", "key_ops": []}) == jkt
    assert thumbprint(dict(reversed(jwk.items()))) == jkt


@pytest.mark.parametrize(
    "jwk",
    [
        {"kty": "oct", "k": "AAAA"},
        {"keys": [EC]},
        {},
        {"kty": ["EC"]},
        changed(EC, x=EC["x"] + "="),
        changed(EC, x=SLOPPY_X),
        changed(RSA, n=b64url_encode(b"\0" + b64url_decode(RSA["n"]))),
        changed(EC, y=ABSENT),
        "EC",
    ],
)
def test_what_is_no_key_has_no_thumbprint(jwk: Any) -> None:
    """Symmetric keys, second spellings and incomplete keys are refused (RFC 7638 §7)."""
    with pytest.raises(InvalidKeyError):
        thumbprint(jwk)


@pytest.mark.parametrize("jwk", ALL, ids=IDS)
def test_thumbprints_are_43_characters_of_base64url(jwk: Jwk) -> None:
    """All keys have a SHA-256 thumbprint, whatever the hash of their signatures."""
    assert len(base64.urlsafe_b64decode(thumbprint(jwk) + "=")) == 32
    assert PublicKey.from_jwk(jwk).thumbprint == thumbprint(jwk)
