# SPDX-License-Identifier: Apache-2.0
"""joserfc, as a careful user would write DPoP with it: the key and its public JWK are made once."""

from __future__ import annotations

import base64
import hashlib
import time
import uuid
from collections.abc import Callable
from typing import Any

from joserfc import jws, jwt
from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

_REGISTRY = JWSRegistry(algorithms=["ES256", "Ed25519", "EdDSA", "PS256"], strict_check_header=False)


def _hash(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def mint(*, key: str, alg: str, method: str, url: str, nonce: str | None, token: str | None) -> Callable[[], object]:
    """A proof."""
    kind: Any = {"ES256": ECKey, "Ed25519": OKPKey, "PS256": RSAKey}[alg]
    private = kind.import_key(key)
    header = {"typ": "dpop+jwt", "alg": alg, "jwk": private.as_dict(private=False)}

    def one() -> str:
        claims: dict[str, Any] = {
            "jti": str(uuid.uuid4()),
            "htm": method,
            "htu": url,
            "iat": int(time.time()),
        }
        if token is not None:
            claims |= {"ath": _hash(token), "nonce": nonce}
        return jwt.encode(header, claims, private, registry=_REGISTRY)

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
        header = jws.extract_compact(proof.encode()).headers()
        if header.get("typ") != "dpop+jwt" or header["alg"] != "ES256" or "d" in header["jwk"]:
            raise ValueError
        public = ECKey.import_key(header["jwk"])
        claims = jwt.decode(proof, public, registry=_REGISTRY).claims
        if public.thumbprint() != jkt:
            raise ValueError
        wanted = {"htm": method, "htu": url, "ath": ath, "nonce": nonce}
        if any(claims.get(name) != value for name, value in wanted.items()):
            raise ValueError
        if abs(time.time() - claims["iat"]) > 60 or claims["jti"] in seen:
            raise ValueError
        seen.add(claims["jti"])

    return one
