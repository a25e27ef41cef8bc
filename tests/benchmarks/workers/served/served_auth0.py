# SPDX-License-Identifier: Apache-2.0
"""The API with auth0-fastapi-api, as its README says."""

from __future__ import annotations

from typing import Annotated, Any

from facts import ISSUER, JWKS_URI, KEYS, METADATA, URL
from fastapi import Depends, FastAPI
from fastapi_plugin import Auth0FastAPI


async def fetch(url: str) -> dict[str, Any]:
    """The issuer's documents, at hand."""
    return KEYS if url == JWKS_URI else METADATA


auth0 = Auth0FastAPI(
    domain=ISSUER.removeprefix("https://").rstrip("/"), audience=URL, dpop_required=True, custom_fetch=fetch
)
app = FastAPI()


@app.get("/me")
async def me(claims: Annotated[dict[str, Any], Depends(auth0.require_auth(scopes="read"))]) -> dict[str, str]:
    """For those whose token may read."""
    return {"sub": claims["sub"]}
