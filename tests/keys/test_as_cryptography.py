# SPDX-License-Identifier: Apache-2.0
"""A key of this package in the hands of other libraries: PyJWT and joserfc sign with it, and get no more."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc import jwk as joserfc_jwk
from joserfc import jwt as joserfc_jwt
from joserfc.jwk import import_key

from dpop.errors import DPoPKeyError
from dpop.keys import ExternalKey, SoftwareKey, as_cryptography_key
from dpop.keys._public import PublicKey

INNER = {alg: SoftwareKey.generate(alg) for alg in ("ES256", "ES384", "ES512", "Ed25519", "PS256")}
INNER["EdDSA"] = INNER["Ed25519"].with_alg("EdDSA")
INNER |= {alg: INNER["PS256"].with_alg(alg) for alg in ("RS256", "PS384", "PS512", "RS384", "RS512")}
# As a device has them: there is no private part to be had in this object.
KEYS = {alg: ExternalKey(inner.public_jwk, inner.sign, signature_format="raw", alg=alg) for alg, inner in INNER.items()}
CLAIMS = {"iss": "client", "jti": "1"}
PSS = padding.PSS(padding.MGF1(hashes.SHA256()), 32)


@pytest.mark.parametrize("alg", [alg for alg in KEYS if alg != "Ed25519"])
def test_pyjwt_signs_with_it(alg: str) -> None:
    """PyJWT takes the object as its key; what it makes verifies, for PyJWT and for joserfc."""
    token = jwt.encode(CLAIMS, as_cryptography_key(KEYS[alg]), algorithm=alg, headers={"kid": "1"})
    public: Any = PublicKey.from_jwk(KEYS[alg].public_jwk).to_cryptography()
    assert jwt.decode(token, public, algorithms=[alg]) == CLAIMS
    if alg != "EdDSA":  # which joserfc warns of
        other: Any = import_key(KEYS[alg].public_jwk)  # type: ignore[arg-type]
        assert joserfc_jwt.decode(token, other, algorithms=[alg]).claims == CLAIMS


@pytest.mark.parametrize("alg", [alg for alg in KEYS if alg != "EdDSA"])
def test_joserfc_signs_with_it(alg: str) -> None:
    """joserfc takes it with the public JWK beside it, and then never asks for the private part."""
    make: Callable[..., Any] = {"E": joserfc_jwk.ECKey, "P": joserfc_jwk.RSAKey, "R": joserfc_jwk.RSAKey}[alg[0]]
    if alg == "Ed25519":
        make = joserfc_jwk.OKPKey
    key = make(as_cryptography_key(KEYS[alg]), KEYS[alg].public_jwk)
    assert key.is_private
    assert key.thumbprint() == KEYS[alg].thumbprint
    token = joserfc_jwt.encode({"alg": alg, "kid": "1"}, dict(CLAIMS), key, algorithms=[alg])
    assert joserfc_jwt.decode(token, key, algorithms=[alg]).claims == CLAIMS
    if alg != "Ed25519":  # which PyJWT knows as EdDSA only
        public: Any = PublicKey.from_jwk(KEYS[alg].public_jwk).to_cryptography()
        assert jwt.decode(token, public, algorithms=[alg]) == CLAIMS
    assert key.as_dict(private=False) == {**KEYS[alg].public_jwk, "kty": key.key_type}
    assert "d" not in key.as_dict(private=True)


def test_joserfc_is_told_how_to_take_it() -> None:
    """Its import_key wants the private part; the refusal says what to write instead."""
    key = joserfc_jwk.ECKey.import_key(as_cryptography_key(KEYS["ES256"]))  # type: ignore[arg-type]
    with pytest.raises(DPoPKeyError, match=r"ECKey\(as_cryptography_key\(key\), key.public_jwk\)"):
        joserfc_jwt.encode({"alg": "ES256"}, dict(CLAIMS), key)


@pytest.mark.parametrize("alg", KEYS)
def test_it_goes_round(alg: str) -> None:
    """Wrapped once more as a key of this package it is the same key, and still signs."""
    key = SoftwareKey.from_private_key(as_cryptography_key(KEYS[alg]), alg=alg)
    assert (key.thumbprint, key.blocking) == (KEYS[alg].thumbprint, True)
    assert PublicKey.from_jwk(key.public_jwk).verify(alg, b"bytes", key.sign(b"bytes"))


@pytest.mark.parametrize("alg", ["ES256", "Ed25519", "PS256"])
def test_the_private_part_is_refused(alg: str) -> None:
    """By every way that cryptography's interface has, for a key in memory too."""
    for held in (KEYS[alg], INNER[alg]):
        key: Any = as_cryptography_key(held)
        ways: list[Callable[[], object]] = [
            lambda key=key: key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            lambda key=key: pickle.dumps(key),
        ]
        if alg == "Ed25519":
            ways.append(key.private_bytes_raw)
        else:
            ways.append(key.private_numbers)
        for way in ways:
            with pytest.raises(DPoPKeyError, match="cannot be exported"):
                way()
        assert copy.deepcopy([key])[0] is key
        assert copy.copy(key) is key
        assert repr(key) == f"<private key object of {held!r}>"


def test_it_does_nothing_but_sign() -> None:
    """No key agreement and no decryption."""
    elliptic, modular = as_cryptography_key(KEYS["ES256"]), as_cryptography_key(KEYS["PS256"])
    assert isinstance(elliptic, ec.EllipticCurvePrivateKey)
    assert isinstance(modular, rsa.RSAPrivateKey)
    assert (elliptic.key_size, elliptic.curve.name, modular.key_size) == (256, "secp256r1", 3072)
    with pytest.raises(DPoPKeyError, match="does not exchange"):
        elliptic.exchange(ec.ECDH(), elliptic.public_key())
    with pytest.raises(DPoPKeyError, match="does not decrypt"):
        modular.decrypt(b"", padding.PKCS1v15())


def test_another_hash_or_padding_is_refused() -> None:
    """The key signs by one algorithm; a digest made outside, another hash or padding would be another."""
    elliptic, edwards = as_cryptography_key(KEYS["ES256"]), as_cryptography_key(KEYS["Ed25519"])
    pss, pkcs1 = as_cryptography_key(KEYS["PS256"]), as_cryptography_key(KEYS["RS256"])
    assert isinstance(elliptic, ec.EllipticCurvePrivateKey)
    assert isinstance(edwards, ed25519.Ed25519PrivateKey)
    assert isinstance(pss, rsa.RSAPrivateKey)
    assert isinstance(pkcs1, rsa.RSAPrivateKey)
    assert len(edwards.sign(memoryview(b"bytes"))) == 64
    with pytest.raises(UnsupportedAlgorithm, match="sha256, not sha384"):
        elliptic.sign(b"bytes", ec.ECDSA(hashes.SHA384()))
    with pytest.raises(UnsupportedAlgorithm, match="sha256, not Prehashed"):
        elliptic.sign(bytes(32), ec.ECDSA(utils.Prehashed(hashes.SHA256())))
    by_digest = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
    assert len(pss.sign(b"bytes", by_digest, hashes.SHA256())) == 384
    long_salt = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.MAX_LENGTH)
    for wrong in (padding.PKCS1v15(), long_salt, padding.PSS(padding.MGF1(hashes.SHA1()), 32)):
        with pytest.raises(UnsupportedAlgorithm, match="signs PS256"):
            pss.sign(b"bytes", wrong, hashes.SHA256())
    with pytest.raises(UnsupportedAlgorithm, match="signs RS256"):
        pkcs1.sign(b"bytes", PSS, hashes.SHA256())
    with pytest.raises(UnsupportedAlgorithm, match="not sha512"):
        pkcs1.sign(b"bytes", padding.PKCS1v15(), hashes.SHA512())
