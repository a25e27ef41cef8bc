# SPDX-License-Identifier: Apache-2.0
"""DPoP for clients and servers of the Model Context Protocol that use its Python SDK.

- :func:`http_client` makes the HTTP client of a session: the SDK's OAuth provider gets the tokens, they are bound to a
  key, and each request carries a proof.
- :func:`protect` puts the checks of :mod:`dpop.asgi` in front of the SDK's server, and :class:`VerifiedAccess` tells
  the server who is calling.

The guide is docs/mcp.md.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dpop._faces import lazy

if TYPE_CHECKING:
    from dpop.mcp._client import http_client
    from dpop.mcp._server import VerifiedAccess, protect

__all__ = ["VerifiedAccess", "http_client", "protect"]

__getattr__: Callable[[str], Any]
__dir__: Callable[[], list[str]]
__getattr__, __dir__ = lazy(
    __name__,
    {"dpop.mcp._client": ("http_client",), "dpop.mcp._server": ("VerifiedAccess", "protect")},
    needs="mcp",
)
