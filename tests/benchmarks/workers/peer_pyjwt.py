# SPDX-License-Identifier: Apache-2.0
"""PyJWT, as a careful user would write DPoP with it: the public JWK and the key object are made once."""

from __future__ import annotations

import base64
import hashlib
import json
import time
import uuid
from collections.abc import Callable
from typing import Any

import jwt
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm


def _hash(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def mint(*, key: str, alg: str, method: str, url: str, nonce: str | None, token: str | None) -> Callable[[], object]:
    """A proof."""
    private: Any = load_pem_private_key(key.encode(), None)
    kind: Any = {"ES256": ECAlgorithm, "Ed25519": OKPAlgorithm, "PS256": RSAAlgorithm}[alg]
    public = kind.to_jwk(private.public_key(), as_dict=True)
    headers = {"typ": "dpop+jwt", "jwk": {name: public[name] for name in public if name != "key_ops"}}
    named = "EdDSA" if alg == "Ed25519" else alg

    def one() -> str:
        claims: dict[str, Any] = {
            "jti": str(uuid.uuid4()),
            "htm": method,
            "htu": url,
            "iat": int(time.time()),
        }
        if token is not None:
            claims |= {"ath": _hash(token), "nonce": nonce}
        return jwt.encode(claims, private, algorithm=named, headers=headers)

    return one


def verify(
    *, proofs: list[str], method: str, url: str, nonce: str, token: str, jkts: list[str]
) -> Callable[[], object]:
    """The checks of RFC 9449 §4.3 by hand around jwt.decode."""
    seen: set[str] = set()
    ath = _hash(token)
    turns = iter(zip(proofs, jkts, strict=True))

    def one() -> None:
        proof, jkt = next(turns)
        header = jwt.get_unverified_header(proof)
        jwk = header["jwk"]
        if header.get("typ") != "dpop+jwt" or header["alg"] != "ES256" or "d" in jwk:
            raise ValueError
        claims = jwt.decode(proof, ECAlgorithm.from_jwk(jwk), algorithms=["ES256"], options={"verify_aud": False})
        members = {name: jwk[name] for name in ("crv", "kty", "x", "y")}
        if _hash(json.dumps(members, separators=(",", ":"))) != jkt:
            raise ValueError
        wanted = {"htm": method, "htu": url, "ath": ath, "nonce": nonce}
        if any(claims.get(name) != value for name, value in wanted.items()):
            raise ValueError
        if abs(time.time() - claims["iat"]) > 60 or claims["jti"] in seen:
            raise ValueError
        seen.add(claims["jti"])

    return one
