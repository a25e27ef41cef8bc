# SPDX-License-Identifier: Apache-2.0
"""An API that takes JWT access tokens with DPoP: no question to the authorization server for each request.

    pip install dpop-toolkit flask
    export ISSUER=https://as.example API_URL=https://api.example
    flask --app api_jwt run --port 8000

The issuer's metadata and keys are found by themselves, kept, and fetched again when it changes them. The token must be
for this API (aud), be valid now, and be bound to the key of the proof. A challenge says what was wrong.
"""

from __future__ import annotations

import os
from typing import Any

from flask import Flask, Response, request

from dpop.server import REFUSALS, InvalidProof, JWTAccessTokens, MemoryReplayCache, ProofVerifier, ProtectedResource
from dpop.wsgi import DPoPMiddleware, access, refusal

url = os.environ["API_URL"]
tokens = JWTAccessTokens(issuer=os.environ["ISSUER"], audience=url)
api = ProtectedResource(ProofVerifier(replay=MemoryReplayCache()), url=url, token=tokens)
app = Flask(__name__)
app.wsgi_app = DPoPMiddleware(app.wsgi_app, api)  # type: ignore[method-assign]  # as Flask's documentation has it


@app.get("/me")
def me() -> dict[str, Any]:
    """For every good token."""
    return {"sub": access(request.environ).claims["sub"]}


@app.post("/notes")
def add_note() -> dict[str, Any]:
    """For tokens that may write."""
    access(request.environ).require_scope("write")
    return {"kept": len(request.get_data())}


def refused(error: InvalidProof) -> Response:
    """Answer a refusal inside a view with its challenge."""
    status, headers = refusal(request.environ, error)
    return Response(status=status, headers=headers)


for kind in REFUSALS:
    app.register_error_handler(kind, refused)
