# SPDX-License-Identifier: Apache-2.0
"""An API in Quart: hypercorn api_quart:app."""

from quart import Quart, Response, request

from dpop.asgi import DPoPMiddleware, access, refusal
from dpop.server import REFUSALS, JWTAccessTokens, MemoryReplayCache, ProofVerifier, ProtectedResource, Refusal

ISSUER, API = "https://as.example", "https://api.example"
resource = ProtectedResource(
    ProofVerifier(replay=MemoryReplayCache()),
    url=API,
    token=JWTAccessTokens(issuer=ISSUER, audience=API),
    public=lambda path: path == "/health",
    authorization_servers=[ISSUER],
)
app = Quart(__name__)
app.asgi_app = DPoPMiddleware(app.asgi_app, resource)


@app.route("/items", methods=["GET", "POST"])
async def items() -> dict[str, str]:
    """For tokens that may read, or write."""
    admitted = await access(request.scope)
    admitted.require_scope("read" if request.method in {"GET", "HEAD"} else "write")
    return {"for": admitted.claims["sub"]}


@app.get("/health")
async def health() -> dict[str, str]:
    """For everybody."""
    return {"status": "well"}


async def refused(error: Refusal) -> Response:
    """The response to a request that is refused in a route."""
    response = refusal(request.scope, error)
    made = Response(response.body, response.status, content_type="application/json")
    for name, value in response.headers:
        made.headers.add(name, value)
    return made


for kind in REFUSALS:
    app.register_error_handler(kind, refused)
