# SPDX-License-Identifier: Apache-2.0
"""The keys of the vectors, and a signature by each that has one answer only."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from dpop.testing.defects._forge import ED, P384, RSA_2048, A, B, b64u, rsa_2048, thumbprint

__all__ = ["keys"]

Case = dict[str, Any]

# RFC 6979 A.2.5 to A.2.7: private number, algorithm, curve, its name, hash.
PUBLISHED: dict[str, tuple[int, str, ec.EllipticCurve, str, hashes.HashAlgorithm]] = {
    "rfc6979-A.2.5": (
        0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721,
        "ES256",
        ec.SECP256R1(),
        "P-256",
        hashes.SHA256(),
    ),
    "rfc6979-A.2.6": (
        0x6B9D3DAD2E1B8C1C05B19875B6659F4DE23C3B667BF297BA9AA47740787137D896D5724E4C70A825F872C9EA60D2EDF5,
        "ES384",
        ec.SECP384R1(),
        "P-384",
        hashes.SHA384(),
    ),
    "rfc6979-A.2.7": (
        int(
            "fad06daa62ba3b25d2fb40133da757205de67f5bb0018fee8c86e1b68c7e75caa896eb32f1f47c70855836a6d16fcc1466f6"
            "d8fbec67db89ec0c08b0e996b83538",
            16,
        ),
        "ES512",
        ec.SECP521R1(),
        "P-521",
        hashes.SHA512(),
    ),
}


def _published(name: str, signed: str) -> Case:
    number, alg, curve, crv, digest = PUBLISHED[name]
    key = ec.derive_private_key(number, curve)
    size = (curve.key_size + 7) // 8
    point = key.public_key().public_numbers()
    x, y, d = (b64u(value.to_bytes(size, "big")) for value in (point.x, point.y, number))
    r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(digest, deterministic_signing=True)))
    signature = r.to_bytes(size, "big") + s.to_bytes(size, "big")
    return _case(
        f"{name}-{signed}", alg, {"kty": "EC", "crv": crv, "x": x, "y": y}, {"d": d}, signed=signed, signature=signature
    )


def _case(
    name: str, alg: str, public: dict[str, str], private: dict[str, str], *, signed: str, signature: bytes
) -> Case:
    return {
        "id": name,
        "alg": alg,
        "jwk": public | private,
        "thumbprint": thumbprint(public),
        "signing_input": signed,
        "signature": b64u(signature),
    }


def _ours(name: str, alg: str, key: Any, private: dict[str, str]) -> Case:
    signed = "header.payload"
    return _case(name, alg, key.public_jwk, private, signed=signed, signature=key.sign(signed.encode()))


def _rsa_members() -> dict[str, str]:
    d = RSA_2048._d  # noqa: SLF001 - published here
    p, q = sorted(rsa.rsa_recover_prime_factors(RSA_2048.n, RSA_2048.e, d), reverse=True)
    numbers = {"d": d, "p": p, "q": q, "dp": d % (p - 1), "dq": d % (q - 1), "qi": pow(q, -1, p)}
    return {name: b64u(value.to_bytes((value.bit_length() + 7) // 8, "big")) for name, value in numbers.items()}


def keys() -> dict[str, Any]:
    """The file keys.json."""
    return {
        "about": [
            "The private keys of these vectors, published and so worth nothing, and a signature by each.",
            "A signs most proofs of proofs.json; B is the thief and other clients.",
            "jwk: private (RFC 7517, 7518, 8037). thumbprint: of its public half (RFC 7638, SHA-256).",
            "signature: of the octets of signing_input, in base64url; R||S for ECDSA.",
            "It has one answer only: ECDSA with the nonce of RFC 6979; RSASSA-PKCS1-v1_5 and Ed25519 choose nothing.",
        ],
        "cases": [
            _ours("A", "ES256", A, {"d": A.d}),
            _ours("B", "ES256", B, {"d": B.d}),
            _ours("P-384", "ES384", P384, {"d": P384.d}),
            _ours("Ed25519", "Ed25519", ED, {"d": b64u(ED.key.private_bytes_raw())}),
            _ours("RSA-2048", "RS256", RSA_2048, _rsa_members()),
            _ours("RSA-2048-RS384", "RS384", rsa_2048("RS384"), _rsa_members()),
            _ours("RSA-2048-RS512", "RS512", rsa_2048("RS512"), _rsa_members()),
            _published("rfc6979-A.2.5", "sample"),
            _published("rfc6979-A.2.5", "test"),
            _published("rfc6979-A.2.6", "sample"),
            _published("rfc6979-A.2.7", "sample"),
        ],
    }
