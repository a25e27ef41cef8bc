# SPDX-License-Identifier: Apache-2.0
"""The token endpoints of all integrations under one interface: asynchronous ones run on a separate event loop."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
from pathlib import Path
from typing import Any, Self

import dpop.aiohttp
import dpop.httpx
import dpop.httpx2
import dpop.requests

__all__ = ["ENDPOINTS", "Endpoint", "open_sockets"]

ENDPOINTS: dict[str, Any] = {
    "aiohttp": dpop.aiohttp.AsyncTokenEndpoint,
    "requests": dpop.requests.TokenEndpoint,
    "httpx": dpop.httpx.TokenEndpoint,
    "httpx-async": dpop.httpx.AsyncTokenEndpoint,
    "httpx2": dpop.httpx2.TokenEndpoint,
    "httpx2-async": dpop.httpx2.AsyncTokenEndpoint,
}


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
