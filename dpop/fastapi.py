# SPDX-License-Identifier: Apache-2.0
"""A dependency for routes of FastAPI that appears in the OpenAPI document: the lock in Swagger, 401 and 403.

::

    app.add_middleware(DPoPMiddleware, resource=resource)      # of dpop.asgi; resource with public=lambda path: True

    @app.get("/items", responses=REFUSALS_IN_OPENAPI)
    async def items(access: Annotated[Access, Security(DPoPAccess("items:read"))]): ...

In Starlette, or if you need no OpenAPI document, use :func:`dpop.starlette.require_access`.
"""

from __future__ import annotations

from typing import Any, Final

from dpop._extras import extra
from dpop.server import Access

with extra("fastapi"):
    from fastapi.openapi.models import HTTPBase
    from fastapi.security import SecurityScopes
    from fastapi.security.base import SecurityBase
    from starlette.requests import HTTPConnection

    from dpop.starlette import require_access

__all__ = ["REFUSALS_IN_OPENAPI", "DPoPAccess"]

_BODY: Final = {
    "application/json": {
        "schema": {
            "type": "object",
            "properties": {"error": {"type": "string"}, "error_description": {"type": "string"}},
        }
    }
}
REFUSALS_IN_OPENAPI: Final[dict[int | str, dict[str, Any]]] = {
    401: {
        "description": "The access token or proof is missing or invalid, or a nonce is needed: see WWW-Authenticate",
        "headers": {"WWW-Authenticate": {"schema": {"type": "string"}}, "DPoP-Nonce": {"schema": {"type": "string"}}},
        "content": _BODY,
    },
    403: {"description": "The access token lacks a scope", "content": _BODY},
}
"""The 401 and 403 responses, for ``responses=`` of a route, a router or the application."""


class DPoPAccess(SecurityBase):
    """A dependency that admits the request, or raises an error that the middleware turns into a response.

    :param scope: space-separated scopes that the token must have, besides those of ``Security(..., scopes=[...])``.
    """

    def __init__(self, scope: str = "") -> None:
        description = "An access token bound to a key, with a proof (RFC 9449)"
        self.model: HTTPBase = HTTPBase(scheme="DPoP", description=description)
        self.scheme_name: str = "DPoP"
        self._scope = scope

    async def __call__(self, connection: HTTPConnection, security_scopes: SecurityScopes | None = None) -> Access:
        """Return the access of the request.

        :param security_scopes: FastAPI gives it; further scopes that the token must have.
        """
        further = "" if security_scopes is None else security_scopes.scope_str
        return await require_access(f"{self._scope} {further}".strip())(connection)

    # The types themselves: older versions of FastAPI look up no names if the dependency is an object.
    __call__.__annotations__.update(connection=HTTPConnection, security_scopes=SecurityScopes)


def __dir__() -> list[str]:
    return sorted(__all__)
