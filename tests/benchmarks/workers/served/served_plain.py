# SPDX-License-Identifier: Apache-2.0
"""An API for everybody."""

from __future__ import annotations

from fastapi import FastAPI

app = FastAPI()


@app.get("/health")
async def health() -> dict[str, str]:
    """For a load balancer."""
    return {}


@app.get("/me")
async def me() -> dict[str, str]:
    """A response without a look at the request."""
    return {"sub": "alice"}
