# SPDX-License-Identifier: Apache-2.0
"""An API in Flask: gunicorn api_flask:app."""

from flask import Flask, Response, request

from dpop.server import REFUSALS, JWTAccessTokens, MemoryReplayCache, ProofVerifier, ProtectedResource, Refusal
from dpop.wsgi import DPoPMiddleware, access, refusal

ISSUER, API = "https://as.example", "https://api.example"
resource = ProtectedResource(
    ProofVerifier(replay=MemoryReplayCache()),
    url=API,
    token=JWTAccessTokens(issuer=ISSUER, audience=API),
    public=lambda path: path == "/health",
    authorization_servers=[ISSUER],
)
app = Flask(__name__)
app.wsgi_app = DPoPMiddleware(app.wsgi_app, resource)


@app.route("/items", methods=["GET", "POST"])
def items() -> dict[str, str]:
    """For tokens that may read, or write."""
    admitted = access(request.environ)
    admitted.require_scope("read" if request.method in {"GET", "HEAD"} else "write")
    return {"for": admitted.claims["sub"]}


@app.get("/health")
def health() -> dict[str, str]:
    """For everybody."""
    return {"status": "well"}


def refused(error: Refusal) -> Response:
    """The response to a request that is refused in a route."""
    response = refusal(request.environ, error)
    return Response(response.body, response.status, response.headers, content_type="application/json")


for kind in REFUSALS:
    app.register_error_handler(kind, refused)
