# SPDX-License-Identifier: Apache-2.0
"""Keys kept elsewhere: what they sign is converted, checked, and verified before anyone gets it."""

from __future__ import annotations

import copy
import json
import pickle
import traceback
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

import dpop
from dpop.errors import (
    AlgorithmError,
    ArgumentTypeError,
    InvalidKeyError,
    KeyUnavailableError,
    SigningError,
    UsageError,
)
from dpop.keys import ExternalKey, Key, SoftwareKey
from dpop.keys._public import PublicKey
from dpop.signature import raw_to_der

KEYS = {alg: SoftwareKey.generate(alg) for alg in ("ES256", "ES384", "ES512", "Ed25519", "PS256")}
KEYS |= {alg: KEYS["PS256"].with_alg(alg) for alg in ("RS256", "PS384", "PS512", "RS384", "RS512")}
KEY = KEYS["ES256"]
NATIVE: Any = PublicKey.from_jwk(KEY.public_jwk).to_cryptography()
HIDDEN = "inside is 0xSECRET"


def der(data: bytes) -> bytes:
    """KEY's signature, as a service writes it."""
    return raw_to_der(KEY.sign(data))


def certificate() -> bytes:
    """A certificate of KEY, signed by nobody in particular."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "key")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(NATIVE).serial_number(1)
    builder = builder.not_valid_before(now).not_valid_after(now + timedelta(days=1))
    return builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.PEM)


@pytest.mark.parametrize(
    "public",
    [
        KEY.public_jwk,
        PublicKey.from_jwk(KEY.public_jwk),
        NATIVE,
        NATIVE.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        NATIVE.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        certificate(),
        json.dumps(KEY.public_jwk).encode("utf-8-sig"),
    ],
    ids=["JWK", "PublicKey", "cryptography", "PEM", "DER", "certificate", "JWK in a file"],
)
def test_a_public_key_in_any_form(public: object) -> None:
    """Whichever way the public key is written, the key has its thumbprint and makes good proofs."""
    key: Key = ExternalKey(public, der, signature_format="der")
    assert (key.alg, key.thumbprint, key.public_jwk) == ("ES256", KEY.thumbprint, KEY.public_jwk)
    assert key.blocking is True
    assert len(dpop.create_proof(key, "GET", "https://api.example/").rpartition(".")[2]) == 86


@pytest.mark.parametrize("alg", KEYS)
def test_every_algorithm(alg: str) -> None:
    """Each kind of key signs through a function; those that are not ECDSA know only one format."""
    inner = KEYS[alg]
    for signature_format in ("der", "raw"):
        sign = inner.sign
        if signature_format == "der" and alg.startswith("ES"):
            sign = lambda data: raw_to_der(inner.sign(data))  # noqa: E731
        key = ExternalKey(inner.public_jwk, sign, signature_format=signature_format, alg=alg, blocking=False)  # type: ignore[arg-type]
        assert key.alg == alg
        assert key.blocking is False
        assert PublicKey.from_jwk(inner.public_jwk).verify(alg, b"bytes", key.sign(b"bytes"))


@given(st.binary(max_size=200))
def test_every_signature_verifies(data: bytes) -> None:
    """Whatever the bytes: 64 bytes that verify, short r and s included."""
    signature = ExternalKey(NATIVE, der, signature_format="der").sign(data)
    assert len(signature) == 64
    assert PublicKey.from_jwk(KEY.public_jwk).verify("ES256", data, signature)


def _raise(error: BaseException) -> Any:
    raise error


@pytest.mark.parametrize(
    ("sign", "signature_format", "says"),
    [
        pytest.param(der, "raw", "expected|has 64 bytes", id="DER for raw"),
        pytest.param(KEY.sign, "der", "not DER", id="raw for DER"),
        pytest.param(
            lambda data: der(hashes_twice(data)), "der", "does not verify with its public key", id="hashed twice"
        ),
        pytest.param(lambda _: der(b"other"), "der", "does not verify", id="other bytes"),
        pytest.param(KEYS["ES384"].sign, "raw", "64 bytes", id="another curve"),
        pytest.param(lambda data: KEY.sign(data)[:-1], "raw", "64 bytes, not 63", id="cut"),
        pytest.param(lambda _: utils.encode_dss_signature(0, 1), "der", "r is zero", id="zero"),
        pytest.param(lambda _: b"", "der", "empty", id="nothing"),
        pytest.param(lambda _: None, "der", "bytes, not NoneType", id="None"),
        pytest.param(lambda data: bytearray(KEY.sign(data)), "raw", "bytes, not bytearray", id="bytearray"),
        pytest.param(lambda _: _raise(RuntimeError(HIDDEN)), "der", "failed to sign with ES256: RuntimeE", id="fails"),
        pytest.param(lambda _: _raise(SigningError("touch the token")), "der", "^touch the token$", id="our own"),
    ],
)
def test_a_bad_signer_is_found_out(sign: Any, signature_format: Any, says: str) -> None:
    """Nothing that does not verify leaves, and what the signer said stays inside: it may hold anything."""
    key = ExternalKey(NATIVE, sign, signature_format=signature_format)
    with pytest.raises(SigningError, match=says) as caught:
        key.sign(b"bytes")
    assert HIDDEN not in "".join(traceback.format_exception(caught.value))
    assert not isinstance(caught.value.__context__, RuntimeError)


def hashes_twice(data: bytes) -> bytes:
    """What a service signs that hashes a digest again."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(data)
    return digest.finalize()


def test_the_signers_own_key_errors_go_through() -> None:
    """A signer that says its service is away says so to the caller."""
    key = ExternalKey(NATIVE, lambda _: _raise(KeyUnavailableError("the service is away")), signature_format="der")
    with pytest.raises(KeyUnavailableError, match="the service is away"):
        key.sign(b"bytes")


def test_interrupts_go_through() -> None:
    """Ctrl-C while a person looks for the token is not turned into an error about the key."""
    with pytest.raises(KeyboardInterrupt):
        ExternalKey(NATIVE, lambda _: _raise(KeyboardInterrupt()), signature_format="der").sign(b"bytes")


@pytest.mark.parametrize("data", ["bytes", None, bytearray(b"x")], ids=["str", "None", "bytearray"])
def test_only_bytes_are_signed(data: Any) -> None:
    """The signer is not asked for anything else."""
    key = ExternalKey(NATIVE, lambda _: pytest.fail("was asked"), signature_format="der")
    with pytest.raises(ArgumentTypeError, match="signing_input must be bytes"):
        key.sign(data)


@pytest.mark.parametrize(
    ("public", "says"),
    [
        (b"", "not a public key: expected PEM"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "not a public key: expected PEM"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "the certificate cannot be read"),
        (
            ec.generate_private_key(ec.SECP256K1())
            .public_key()
            .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            "secp256k1",
        ),
        (ed25519.Ed25519PrivateKey.generate(), "PrivateKey cannot sign proofs"),
        (KEY.to_jwk(private=True), "a member of private"),
        ("key.pem", "a str cannot"),
        (None, "a NoneType cannot"),
    ],
    ids=["empty", "PEM", "certificate", "secp256k1", "private", "private JWK", "str", "None"],
)
def test_what_is_no_public_key(public: object, says: str) -> None:
    """The sentence says what came."""
    with pytest.raises(InvalidKeyError, match=says):
        ExternalKey(public, der, signature_format="der")


def test_arguments_that_do_not_fit() -> None:
    """Formats are named, signers are functions, and the algorithm is one of the key's."""
    with pytest.raises(UsageError, match='must be "der" or "raw", not \'asn1\''):
        ExternalKey(NATIVE, der, signature_format="asn1")  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="sign must be a function"):
        ExternalKey(NATIVE, None, signature_format="der")  # type: ignore[arg-type]
    with pytest.raises(AlgorithmError, match="can sign with ES256, not with 'RS256'"):
        ExternalKey(NATIVE, der, signature_format="der", alg="RS256")


def test_what_it_shows_and_what_it_refuses() -> None:
    """Its repr has the thumbprint; a copy is the key itself; it cannot be pickled or changed."""
    key = ExternalKey(NATIVE, der, signature_format="der")
    assert repr(key) == f"<ExternalKey ES256 {KEY.thumbprint}>"
    assert key.reference is None
    assert ExternalKey(NATIVE, der, signature_format="der", reference="x:y").reference == "x:y"
    assert copy.deepcopy([key])[0] is key
    assert copy.copy(key) is key
    key.public_jwk["x"] = "other"
    assert key.public_jwk == KEY.public_jwk
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(UsageError, match="cannot be pickled"):
            pickle.dumps({"key": key}, protocol)
    with pytest.raises(AttributeError):
        key.alg = "RS256"  # type: ignore[misc]
