# SPDX-License-Identifier: Apache-2.0
"""DPoP for aiohttp's client: a middleware that signs, and a token endpoint.

::

    from dpop.aiohttp import DPoPClientMiddleware

    middleware = DPoPClientMiddleware(key, origins="https://api.example", access_token=token)
    async with aiohttp.ClientSession(middlewares=[middleware]) as session:
        ...

Handshakes of WebSockets (``session.ws_connect``) are signed, too. Middlewares of servers are in :mod:`dpop.asgi`.
"""

from dpop._extras import extra

with extra("aiohttp"):
    from dpop.aiohttp._endpoint import AsyncTokenEndpoint
    from dpop.aiohttp._middleware import DPoPClientMiddleware

__all__ = ["AsyncTokenEndpoint", "DPoPClientMiddleware"]

# Tracebacks, reprs and help show the public module of these classes.
for _name in __all__:
    globals()[_name].__module__ = __name__


def __dir__() -> list[str]:
    return sorted(__all__)
