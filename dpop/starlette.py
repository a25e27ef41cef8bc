# SPDX-License-Identifier: Apache-2.0
"""A dependency for single routes of Starlette and FastAPI, behind the middleware of :mod:`dpop.asgi`.

::

    resource = ProtectedResource(verifier, url="https://api.example", token=look_up, public=lambda path: True)
    app.add_middleware(DPoPMiddleware, resource=resource)

    @app.get("/items")
    async def items(access: Annotated[Access, Depends(require_access("items:read"))]): ...

In Starlette: ``access = await require_access("items:read")(request)``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from dpop._extras import extra
from dpop.asgi import access
from dpop.server import Access

with extra("starlette"):
    from starlette.requests import HTTPConnection

__all__ = ["require_access"]


def require_access(scope: str = "") -> Callable[[HTTPConnection], Awaitable[Access]]:
    """Return a dependency that admits the request, or raises an error that the middleware turns into a response.

    :param scope: space-separated scopes that the token must have. It does not see those of FastAPI's
        ``Security(..., scopes=[...])``: for these take :class:`dpop.fastapi.DPoPAccess`.
    :returns: a function that takes the request and returns its :class:`~dpop.server.Access`.
    """

    async def dependency(connection: HTTPConnection) -> Access:
        admitted = await access(connection.scope)
        admitted.require_scope(scope)
        return admitted

    return dependency


def __dir__() -> list[str]:
    return sorted(__all__)
