# SPDX-License-Identifier: Apache-2.0
"""What cannot be beaten: the signature alone, by the cryptography package."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_private_key


def _parameters(private: Any, alg: str) -> tuple[Any, ...]:
    if alg == "PS256":
        return (padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
    return () if isinstance(private, ed25519.Ed25519PrivateKey) else (ec.ECDSA(hashes.SHA256()),)


def mint(*, key: str, alg: str, method: str, url: str, nonce: str | None, token: str | None) -> Callable[[], object]:
    """A signature of as many octets as a proof signs."""
    private: Any = load_pem_private_key(key.encode(), None)
    data, parameters = bytes(495 if token else 372), _parameters(private, alg)
    del method, url, nonce
    return lambda: private.sign(data, *parameters)


def verify(
    *, proofs: list[str], method: str, url: str, nonce: str, token: str, jkts: list[str]
) -> Callable[[], object]:
    """The check of each ES256 proof's signature, the key and the octets being at hand."""
    del method, url, nonce, token, jkts
    algorithm = ec.ECDSA(hashes.SHA256())
    ready = [(*_parts(proof), algorithm) for proof in proofs]
    turns = iter(ready)

    def one() -> None:
        public, signature, data, how = next(turns)
        public.verify(signature, data, how)

    return one


def _parts(proof: str) -> tuple[Any, bytes, bytes]:
    import json

    data, _, signature = proof.rpartition(".")
    jwk = json.loads(_decode(data.partition(".")[0]))["jwk"]
    x, y = (int.from_bytes(_decode(jwk[name])) for name in "xy")
    raw = _decode(signature)
    der = encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))
    return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key(), der, data.encode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
