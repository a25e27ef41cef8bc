# SPDX-License-Identifier: Apache-2.0
"""A FastAPI application whose routes say what they need."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import PlainTextResponse
from support.resource import resource

from dpop.asgi import DPoPMiddleware
from dpop.server import Access
from dpop.starlette import require_access

app = FastAPI()
app.add_middleware(DPoPMiddleware, resource=resource(public=lambda _path: True))
app.add_middleware(
    CORSMiddleware, allow_origins=["https://page.example"], allow_headers=["Authorization", "DPoP"]
)  # added last, so that it is around the other


@app.get("/health")
async def health() -> dict[str, str]:
    """For everybody."""
    return {"status": "well"}


@app.get("/items")
async def items(access: Annotated[Access, Depends(require_access("read"))]) -> dict[str, str]:
    """For those with a token that may read."""
    return {"sub": access.claims["sub"]}


@app.post("/items")
def add_item(access: Annotated[Access, Depends(require_access("write"))]) -> None:
    """For those with a token that may write; not a coroutine."""


@app.get("/text")
async def text(_: Annotated[Access, Depends(require_access())]) -> PlainTextResponse:
    """A response of the route's own making."""
    return PlainTextResponse("text")
