# SPDX-License-Identifier: Apache-2.0
"""Keys and pens (signing functions) for the defects; some sign correctly, some do not.

Everything is deterministic: keys are derived from their names in this file, ECDSA follows RFC 6979, and the salt of
RSASSA-PSS is always the same. So every programming language can generate the same bytes. This module does not use the
code that the defects test: neither this package's encoders, nor its keys or signatures.

The private keys are public, because they are written here. They protect nothing.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

Members = dict[str, Any]
Pen = Callable[[bytes], bytes]

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
P256_PRIME = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
P256_B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B


def b64u(content: bytes) -> str:
    """base64url without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def unb64u(text: str) -> bytes:
    """Decode base64url without padding, without checking its form."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def sha256(content: bytes) -> bytes:
    """SHA-256."""
    return hashlib.sha256(content).digest()


def to_json(value: Any) -> bytes:
    """Compact JSON in the order given."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def stream(name: str, size: int) -> bytes:
    """Make ``size`` bytes that depend on the name only."""
    return b"".join(sha256(f"{name}/{i}".encode()) for i in range(size // 32 + 1))[:size]


def thumbprint(jwk: Members) -> str:
    """RFC 7638 SHA-256."""
    required = {"EC": ("crv", "kty", "x", "y"), "RSA": ("e", "kty", "n"), "OKP": ("crv", "kty", "x")}[jwk["kty"]]
    return b64u(sha256(to_json({name: jwk[name] for name in required})))


class ECKey:
    """An EC key whose scalar is the hash of its name."""

    def __init__(
        self,
        name: str,
        alg: str = "ES256",
        curve: ec.EllipticCurve | None = None,
        crv: str = "P-256",
        digest: hashes.HashAlgorithm | None = None,
    ) -> None:
        curve = curve or ec.SECP256R1()
        self.alg = alg
        self.size: int = (curve.key_size + 7) // 8
        self.digest: hashes.HashAlgorithm = digest or hashes.SHA256()
        scalar = int.from_bytes(sha256(b"dpop-toolkit vectors: " + name.encode()), "big") % (P256_ORDER - 1) + 1
        self.key: ec.EllipticCurvePrivateKey = ec.derive_private_key(scalar, curve)
        point = self.key.public_key().public_numbers()
        self.d: str = b64u(scalar.to_bytes(self.size, "big"))
        self.xy: tuple[int, int] = point.x, point.y
        self.public_jwk: Members = {
            "kty": "EC",
            "crv": crv,
            "x": b64u(point.x.to_bytes(self.size, "big")),
            "y": b64u(point.y.to_bytes(self.size, "big")),
        }

    def der(self, data: bytes) -> bytes:
        """An ASN.1 DER signature, as OpenSSL and most hardware give it."""
        return self.key.sign(data, ec.ECDSA(self.digest, deterministic_signing=True))

    def pair(self, data: bytes) -> tuple[int, int]:
        """The signature as two integers."""
        return decode_dss_signature(self.der(data))

    def sign(self, data: bytes) -> bytes:
        """R || S (RFC 7518 §3.4)."""
        r, s = self.pair(data)
        return r.to_bytes(self.size, "big") + s.to_bytes(self.size, "big")


class EdKey:
    """An Ed25519 or Ed448 key whose seed depends on its name."""

    def __init__(self, name: str, crv: str = "Ed25519") -> None:
        self.alg = "EdDSA"
        seed = stream(f"dpop-toolkit vectors: {name}", 57 if crv == "Ed448" else 32)
        self.key: ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey
        if crv == "Ed448":
            self.key = ed448.Ed448PrivateKey.from_private_bytes(seed)
        else:
            self.key = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
        raw = self.key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        self.public_jwk: Members = {"kty": "OKP", "crv": crv, "x": b64u(raw)}

    def sign(self, data: bytes) -> bytes:
        """The raw signature (RFC 8037 §3.1)."""
        return self.key.sign(data)


# The prefix of the hash in a signature: RFC 8017 §9.2, note 1.
_DIGEST_INFO = {
    "RS256": "3031300d060960864801650304020105000420",
    "RS384": "3041300d060960864801650304020205000430",
    "RS512": "3051300d060960864801650304020305000440",
}


class RSAKey:
    """An RSA key whose primes are two hashes of its name plus the given distances.

    :param salt_size: bytes of salt in a signature by PS256 and so on; that of the hash by default (RFC 7518 §3.5).
    :param mask: the hash inside MGF1, likewise.
    """

    def __init__(
        self,
        name: str,
        bits: int,
        distances: tuple[int, int],
        e: int = 65537,
        *,
        alg: str = "RS256",
        salt_size: int | None = None,
        mask: str | None = None,
    ) -> None:
        self.alg = alg
        p, q = (_prime(f"{name}/{letter}", bits // 2, far) for letter, far in zip("pq", distances, strict=True))
        self.e = e
        self.n: int = p * q
        self.size: int = bits // 8
        self._d = 1 if e == 1 else pow(e, -1, (p - 1) * (q - 1))
        self._salt_size = int(alg[2:]) // 8 if salt_size is None else salt_size
        self._mask = mask or f"sha{alg[2:]}"
        self.public_jwk: Members = {"kty": "RSA", "n": b64u(_bytes(self.n)), "e": b64u(_bytes(e))}

    def sign(self, data: bytes) -> bytes:
        """RSASSA-PKCS1-v1_5 or RSASSA-PSS (RFC 8017 §8.2.1, §8.1.1). With e = 1 it needs no private key."""
        digest = hashlib.new(f"sha{self.alg[2:]}", data).digest()
        block = self._pss(digest) if self.alg.startswith("PS") else self._pkcs1(digest)
        return pow(int.from_bytes(block, "big"), self._d, self.n).to_bytes(self.size, "big")

    def _pkcs1(self, digest: bytes) -> bytes:
        tail = b"\x00" + bytes.fromhex(_DIGEST_INFO[self.alg]) + digest
        return b"\x00\x01" + b"\xff" * (self.size - 2 - len(tail)) + tail

    def _pss(self, digest: bytes) -> bytes:
        """EMSA-PSS (RFC 8017 §9.1.1)."""
        salt = stream("dpop-toolkit vectors: salt", self._salt_size)
        seed = hashlib.new(f"sha{self.alg[2:]}", bytes(8) + digest + salt).digest()
        clear = (b"\x01" + salt).rjust(self.size - len(seed) - 1, b"\x00")
        counters = (seed + number.to_bytes(4, "big") for number in range(len(clear)))
        mask = b"".join(hashlib.new(self._mask, counter).digest() for counter in counters)
        masked = bytes(one ^ other for one, other in zip(clear, mask, strict=False))
        # The modulus has a multiple of 8 bits, and what is signed one bit less.
        return bytes([masked[0] & 0x7F]) + masked[1:] + seed + b"\xbc"


def _prime(name: str, bits: int, distance: int) -> int:
    start = int.from_bytes(stream(f"dpop-toolkit vectors: {name}", bits // 8), "big")
    candidate = (start | (3 << (bits - 2))) + distance
    if pow(2, candidate - 1, candidate) != 1:
        raise ValueError(f"{name}: no prime at distance {distance}")
    return candidate


def _bytes(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def mac(secret: bytes) -> Pen:
    """Make a pen (signing function) for HS256."""
    return lambda data: hmac.digest(secret, data, hashlib.sha256)


def ed25519_identity() -> tuple[Members, bytes]:
    """A small-order public key, and the one signature by it that fits every message."""
    point = b"\x01" + bytes(31)
    return {"kty": "OKP", "crv": "Ed25519", "x": b64u(point)}, point + bytes(32)


def small_x_point() -> tuple[int, int]:
    """The P-256 point with the smallest x: x + p still fits 32 bytes, a second name for the point."""
    x = 1
    while True:
        square = (pow(x, 3, P256_PRIME) - 3 * x + P256_B) % P256_PRIME
        y = pow(square, (P256_PRIME + 1) // 4, P256_PRIME)
        if y * y % P256_PRIME == square:
            return x, y
        x += 1


A = ECKey("key A")
B = ECKey("key B")
SHORT_X = next(key for key in (ECKey(f"short x {i}") for i in range(10_000)) if not key.xy[0] >> 248)
P384 = ECKey("P-384", "ES384", ec.SECP384R1(), "P-384", hashes.SHA384())
K256 = ECKey("secp256k1", "ES256K", ec.SECP256K1(), "secp256k1")
ED = EdKey("Ed25519")
ED448 = EdKey("Ed448", "Ed448")


def make(header: Any, payload: Any, pen: Pen) -> str:
    """A compact JWS of a header and a payload; bytes are taken as they are."""
    parts = [b64u(part if isinstance(part, bytes) else to_json(part)) for part in (header, payload)]
    data = ".".join(parts)
    return f"{data}.{b64u(pen(data.encode()))}"


RSA_2048 = RSAKey("RSA 2048", 2048, (274, 155))
RSA_1024 = RSAKey("RSA 1024", 1024, (375, 218))
RSA_E1 = RSAKey("RSA 2048", 2048, (274, 155), e=1)
RSA_E_HUGE = RSAKey("RSA 2048", 2048, (274, 155), e=2**64 + 13)


def rsa_2048(alg: str, **how: Any) -> RSAKey:
    """Return ``RSA_2048`` for another of its algorithm names."""
    return RSAKey("RSA 2048", 2048, (274, 155), alg=alg, **how)
