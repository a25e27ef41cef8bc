# SPDX-License-Identifier: Apache-2.0
"""An API in Falcon: uvicorn api_falcon:app."""

from typing import Any

import falcon.asgi

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


class Items:
    """For tokens that may read, or write."""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Read."""
        admitted = await access(req.scope)
        admitted.require_scope("read")
        resp.media = {"for": admitted.claims["sub"]}

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Write."""
        admitted = await access(req.scope)
        admitted.require_scope("write")
        resp.media = {"for": admitted.claims["sub"]}


class Health:
    """For everybody."""

    async def on_get(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Tell."""
        resp.media = {"status": "well"}


async def refused(req: Any, resp: Any, error: Refusal, _params: Any) -> None:
    """The response to a request that is refused in a route."""
    response = refusal(req.scope, error)
    resp.status, resp.data, resp.content_type = response.status, response.body, "application/json"
    for name, value in response.headers:
        resp.append_header(name, value)


application = falcon.asgi.App()
application.add_route("/items", Items())
application.add_route("/health", Health())
for kind in REFUSALS:
    application.add_error_handler(kind, refused)
app = DPoPMiddleware(application, resource)
