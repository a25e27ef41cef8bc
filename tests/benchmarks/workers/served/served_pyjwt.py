# SPDX-License-Identifier: Apache-2.0
"""The API with PyJWT and the checks of RFC 9449 §4.3 by hand, as a careful user would write them."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from typing import Annotated, Any

import jwt
from facts import ISSUER, KEYS, URL
from fastapi import Depends, FastAPI, HTTPException, Request
from jwt.algorithms import ECAlgorithm

keys = {key.key_id: key for key in jwt.PyJWKSet.from_dict(KEYS).keys}
seen: dict[str, float] = {}
app = FastAPI()


def digest(text: str) -> str:
    """SHA-256 as OAuth writes it."""
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


async def authorized(request: Request) -> dict[str, Any]:
    """The claims of a token whose holder has proven that it has the key."""
    try:
        scheme, _, token = request.headers["authorization"].partition(" ")
        (proof,) = request.headers.getlist("dpop")
        if scheme.lower() != "dpop":
            raise ValueError
        key = keys[jwt.get_unverified_header(token)["kid"]]
        claims: dict[str, Any] = jwt.decode(token, key, algorithms=["RS256"], audience=URL, issuer=ISSUER)
        header = jwt.get_unverified_header(proof)
        jwk = header["jwk"]
        if header.get("typ") != "dpop+jwt" or header["alg"] != "ES256" or "d" in jwk:
            raise ValueError
        told = jwt.decode(proof, ECAlgorithm.from_jwk(jwk), algorithms=["ES256"], options={"verify_aud": False})
        members = {name: jwk[name] for name in ("crv", "kty", "x", "y")}
        if digest(json.dumps(members, separators=(",", ":"))) != claims["cnf"]["jkt"]:
            raise ValueError
        wanted = {"htm": request.method, "htu": f"{URL}{request.url.path}", "ath": digest(token)}
        if any(told.get(name) != value for name, value in wanted.items()):
            raise ValueError
        now = time.time()
        if abs(now - told["iat"]) > 60 or told["jti"] in seen:
            raise ValueError
        seen[told["jti"]] = now
        if "read" not in claims["scope"].split():
            raise HTTPException(403, headers={"WWW-Authenticate": 'DPoP error="insufficient_scope"'})
    except (KeyError, ValueError, jwt.InvalidTokenError):
        raise HTTPException(401, headers={"WWW-Authenticate": 'DPoP error="invalid_token"'}) from None
    return claims


@app.get("/me")
async def me(claims: Annotated[dict[str, Any], Depends(authorized)]) -> dict[str, str]:
    """For those whose token may read."""
    return {"sub": claims["sub"]}
