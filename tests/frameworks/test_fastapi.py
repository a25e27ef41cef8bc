# SPDX-License-Identifier: Apache-2.0
"""The dependency that FastAPI documents: the scopes that a route names in either way are needed, all of them."""

from __future__ import annotations

from typing import Annotated

import pytest
from fastapi import APIRouter, FastAPI, Security
from fastapi.security import HTTPBearer
from support.in_process import ask_asgi
from support.resource import PUBLIC_URL, resource

import dpop
from dpop.asgi import DPoPMiddleware
from dpop.fastapi import DPoPAccess
from dpop.server import Access

KEY = dpop.generate_key()
SHARED = DPoPAccess()

app = FastAPI()
app.add_middleware(
    DPoPMiddleware,
    resource=resource(
        nonces=False,
        public=lambda _path: True,
        token=lambda token: {"cnf": {"jkt": KEY.thumbprint}, "scope": token.replace("+", " ")},
    ),
)


@app.get("/named")
async def named(access: Annotated[Access, Security(DPoPAccess("write"))]) -> str:
    """In the dependency itself."""
    return str(access.claims["scope"])


@app.get("/listed")
async def listed(access: Annotated[Access, Security(SHARED, scopes=["write"])]) -> str:
    """As FastAPI's own documentation does it."""
    return str(access.claims["scope"])


@app.get("/both")
async def both(access: Annotated[Access, Security(DPoPAccess("read"), scopes=["write"])]) -> str:
    """Both."""
    return str(access.claims["scope"])


@app.get("/twice")
async def twice(
    _: Annotated[Access, Security(SHARED)], access: Annotated[Access, Security(SHARED, scopes=["read", "write"])]
) -> str:
    """One dependency twice, with other scopes: FastAPI must not keep the result of the first."""
    return str(access.claims["scope"])


@app.get("/bearer", dependencies=[Security(HTTPBearer(), scopes=["write"])])
async def bearer() -> None:
    """With a scheme of FastAPI, to compare the documents."""


router = APIRouter(prefix="/router", dependencies=[Security(SHARED, scopes=["write"])])


@router.get("/")
async def routed() -> str:
    """For the whole router."""
    return "in"


app.include_router(router)


def status(path: str, token: str) -> int:
    """Of a good request with this token, which names its scopes."""
    proof = dpop.create_proof(KEY, "GET", PUBLIC_URL + path, access_token=token)
    return ask_asgi(app, "GET", path, [("Authorization", f"DPoP {token}"), ("DPoP", proof)])[0]


@pytest.mark.parametrize("path", ["/named", "/listed", "/both", "/twice", "/router/"])
def test_a_token_needs_the_scopes_of_its_route(path: str) -> None:
    """One that lacks them is 403, wherever they are named."""
    assert status(path, "read+write") == 200
    assert status(path, "read") == 403
    assert status(path, "write") == (403 if path in {"/both", "/twice"} else 200)


def test_the_scopes_are_in_the_document() -> None:
    """And the parameter that FastAPI fills in is not."""
    listed = app.openapi()["paths"]["/listed"]["get"]
    # FastAPI 0.115 lists the scopes of OAuth2 schemes alone: a scheme of its own shows what this version does.
    (bearer,) = app.openapi()["paths"]["/bearer"]["get"]["security"]
    assert listed["security"] == [{"DPoP": bearer["HTTPBearer"]}]
    assert "parameters" not in listed
