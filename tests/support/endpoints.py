# SPDX-License-Identifier: Apache-2.0
"""The token endpoints of all integrations under one interface: asynchronous ones run on a separate event loop.

With them the servers that tests ask, and what these saw.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import inspect
import json
import os
from pathlib import Path
from typing import Any, Self

from support.recorder import Recorder, Response, script

import dpop
import dpop.aiohttp
import dpop.httpx
import dpop.httpx2
import dpop.requests
from dpop.testing import DPoPTestServer
from dpop.tokens import ServerMetadata

__all__ = [
    "ENDPOINTS",
    "KEY",
    "TOKENS",
    "Endpoint",
    "answered",
    "claims_of",
    "endpoint_of",
    "metadata",
    "open_sockets",
    "refusal",
    "wire",
]

ENDPOINTS: dict[str, Any] = {
    "aiohttp": dpop.aiohttp.AsyncTokenEndpoint,
    "requests": dpop.requests.TokenEndpoint,
    "httpx": dpop.httpx.TokenEndpoint,
    "httpx-async": dpop.httpx.AsyncTokenEndpoint,
    "httpx2": dpop.httpx2.TokenEndpoint,
    "httpx2-async": dpop.httpx2.AsyncTokenEndpoint,
}
KEY = dpop.generate_key()
TOKENS = Response(200, [], b'{"access_token":"a","token_type":"DPoP","expires_in":0,"refresh_token":"r2"}')


class Endpoint:
    """One endpoint, whose methods can all be called synchronously: awaitables are awaited."""

    def __init__(self, name: str, *arguments: Any, discover: bool = False, **options: Any) -> None:
        self.runner, self.process = asyncio.Runner(), os.getpid()
        self.inherited: list[asyncio.Runner] = []
        kind = ENDPOINTS[name]
        try:
            made = (kind.discover if discover else kind)(*arguments, **options)
            self.it: Any = self.wait(made) if inspect.isawaitable(made) else made
        except BaseException:
            self.runner.close()
            raise

    def wait(self, awaitable: Any) -> Any:
        async def waiting() -> Any:
            return await awaitable

        if self.process != os.getpid() and isinstance(self.it, dpop.aiohttp.AsyncTokenEndpoint):
            # aiohttp waits for worker threads of the event loop, of which the child of a fork has none.
            self.inherited.append(self.runner)
            self.runner, self.process = asyncio.Runner(), os.getpid()

        return self.runner.run(waiting())

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.it, name)
        if not callable(attribute):
            return attribute

        def call(*arguments: Any, **options: Any) -> Any:
            result = attribute(*arguments, **options)
            return self.wait(result) if inspect.isawaitable(result) else result

        return call

    def close(self) -> None:
        if hasattr(self.it, "aclose"):
            self.wait(self.it.aclose())
        else:
            self.it.close()
        self.runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def open_sockets() -> int:
    """How many sockets this process has open."""
    count = 0
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            count += str(path.readlink()).startswith("socket:")
    return count


def metadata(server: DPoPTestServer) -> ServerMetadata:
    """The server's endpoints, by hand."""
    return ServerMetadata(
        issuer=server.issuer,
        token_endpoint=server.token_endpoint,
        authorization_endpoint=server.authorization_endpoint,
        pushed_authorization_request_endpoint=server.par_endpoint,
        revocation_endpoint=server.revocation_endpoint,
        introspection_endpoint=server.introspection_endpoint,
    )


def endpoint_of(name: str, server: DPoPTestServer, **options: Any) -> Endpoint:
    """An endpoint of the confidential client."""
    known = {"client_id": server.client_id, "client_secret": server.client_secret, "timeout": 5}
    return Endpoint(name, options.pop("key", KEY), options.pop("at", metadata(server)), **{**known, **options})


def wire(server: DPoPTestServer) -> list[tuple[str, int, bool]]:
    """Path, status and whether there was a proof, of each request."""
    return [
        (entry.path, entry.status, any(field.lower() == "dpop" for field, _ in entry.headers))
        for entry in server.requests
    ]


def claims_of(proof: str | None) -> dict[str, Any]:
    """What a proof says."""
    assert proof is not None
    said: dict[str, Any] = json.loads(base64.urlsafe_b64decode(proof.split(".")[1] + "=="))
    return said


def answered(name: str, *responses: Response) -> tuple[Recorder, Endpoint]:
    """An endpoint whose server gives these responses, the last one again and again."""
    recorder = Recorder(script(*responses))
    server = ServerMetadata(
        token_endpoint=recorder.url("/token"),
        authorization_endpoint=recorder.url("/authorize"),
        pushed_authorization_request_endpoint=recorder.url("/par"),
        revocation_endpoint=recorder.url("/revoke"),
    )
    return recorder, Endpoint(name, KEY, server, client_id="c")


def refusal(status: int, error: str, **members: str) -> Response:
    """An OAuth error."""
    return Response(status, [], json.dumps({"error": error, **members}).encode())
