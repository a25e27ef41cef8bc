# SPDX-License-Identifier: Apache-2.0
"""Every HTTP client the project supports, behind one face, so that one table of tests judges them all.

A ``Client`` sends requests the way a user of the library would; what it must do is asserted on what a
server recorded, never on what the library says it sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp
import anyio
import httpx
import httpx2
import requests
from support.agents import agent_running, rules_of, socket_folder
from support.authority import Authority
from support.recorder import Received

import dpop.aiohttp
import dpop.httpx
import dpop.httpx2
import dpop.requests
from dpop.client._prover import Prover
from dpop.origin import Origin

__all__ = [
    "ASYNCHRONOUS",
    "BODY",
    "CLIENTS",
    "HTTPX",
    "SYNCHRONOUS",
    "TOKEN",
    "WITH_AGENT",
    "Client",
    "Reply",
    "assert_fresh",
    "close_all",
    "make",
    "pool_of_one",
    "tls_options",
]

TOKEN = "access-token-1"
BODY = b"0123456789" * 1000


@dataclass
class Reply:
    """What the caller got."""

    status: int
    headers: dict[str, str]
    body: bytes
    history: list[int] = field(default_factory=list)


class Client(ABC):
    """One client of one library, with a DPoP adapter for some origins."""

    name: str
    library: Any
    transport: Any

    @abstractmethod
    def send(
        self, method: str, url: str, *, body: Any = None, user: tuple[Any, Any] | None = None, **options: Any
    ) -> Reply:
        """One call by a user, redirects followed; ``user`` is a prover and token for this request alone."""

    @abstractmethod
    def prime(self, url: str) -> bool:
        """Fetch a nonce."""

    @abstractmethod
    def close(self) -> None:
        """Close everything."""

    # Bodies of the kinds the library's users send.

    def bytes_body(self, data: bytes) -> Any:
        return {"content": data}

    def file_body(self, data: bytes) -> Any:
        """A file-like body that can be rewound."""
        return {"content": io.BytesIO(data)}

    def stream_body(self, data: bytes) -> Any:
        """A body that can be read once."""
        return {"content": one_shot(data)}

    def multipart_body(self, data: bytes) -> Any:
        return self.multipart_of(io.BytesIO(data))

    def multipart_of(self, file: Any) -> Any:
        """A multipart body with this file."""
        return {"files": {"file": ("name.bin", file)}}

    def form_body(self, fields: dict[str, str]) -> Any:
        return {"data": fields}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return self.name


def one_shot(data: bytes) -> Iterator[bytes]:
    """A generator body, in two chunks."""
    yield data[: len(data) // 2]
    yield data[len(data) // 2 :]


async def async_one_shot(data: bytes) -> AsyncIterator[bytes]:
    """An async generator body, in two chunks."""
    yield data[: len(data) // 2]
    yield data[len(data) // 2 :]


class RequestsClient(Client):
    """requests, the adapter mounted for everything, as a careless user might."""

    name = "requests"
    library = requests

    def __init__(
        self,
        prover: Any,
        *,
        origins: Any,
        verify: Any = True,
        cert: Any = None,
        proxy: str | None = None,
        **options: Any,
    ) -> None:
        self.session = requests.Session()
        self.session.trust_env = options.pop("trust_env", False)
        self.session.verify = verify
        self.session.cert = cert
        if proxy:
            self.session.proxies = {"http": proxy, "https": proxy}
        self.transport = dpop.requests.DPoPAdapter(prover, origins=origins, **options)
        self.session.mount("https://", self.transport)
        self.session.mount("http://", self.transport)

    def send(
        self, method: str, url: str, *, body: Any = None, user: tuple[Any, Any] | None = None, **options: Any
    ) -> Reply:
        options.setdefault("timeout", 300)
        if user:
            options["auth"] = dpop.requests.DPoPAuth(*user)
        with self.session.request(method, url, **(body or {}), **options) as response:
            return Reply(
                response.status_code,
                dict(response.headers),
                response.content,
                [r.status_code for r in response.history],
            )

    def bytes_body(self, data: bytes) -> Any:
        return {"data": data}

    def file_body(self, data: bytes) -> Any:
        return {"data": io.BytesIO(data)}

    def stream_body(self, data: bytes) -> Any:
        return {"data": one_shot(data)}

    def prime(self, url: str) -> bool:
        return bool(self.transport.prime(url))

    def close(self) -> None:
        self.session.close()


class HttpxClient(Client):
    """httpx or httpx2, synchronous."""

    integration: Any

    def __init__(self, prover: Any, *, origins: Any, **options: Any) -> None:
        trust_env = options.get("trust_env", False)
        if "transport" not in options:
            options["trust_env"] = trust_env
        self.transport = self.integration.DPoPTransport(prover, origins=origins, **options)
        self.client = self.library.Client(
            transport=self.transport, follow_redirects=True, trust_env=trust_env, timeout=300
        )

    def send(
        self, method: str, url: str, *, body: Any = None, user: tuple[Any, Any] | None = None, **options: Any
    ) -> Reply:
        if user:
            options["auth"] = self.integration.DPoPAuth(*user)
        response = self.client.request(method, url, **(body or {}), **options)
        return Reply(
            response.status_code, dict(response.headers), response.content, [r.status_code for r in response.history]
        )

    def prime(self, url: str) -> bool:
        return bool(self.transport.prime(url))

    def close(self) -> None:
        self.client.close()


class AsyncHttpxClient(Client):
    """httpx or httpx2, asynchronous, driven from a loop of its own."""

    integration: Any

    def __init__(self, prover: Any, *, origins: Any, **options: Any) -> None:
        trust_env = options.get("trust_env", False)
        if "transport" not in options:
            options["trust_env"] = trust_env
        self.runner = asyncio.Runner()
        self.transport = self.integration.AsyncDPoPTransport(prover, origins=origins, **options)
        self.client = self.library.AsyncClient(
            transport=self.transport, follow_redirects=True, trust_env=trust_env, timeout=300
        )

    def send(self, method: str, url: str, **options: Any) -> Reply:
        return self.runner.run(self.asend(method, url, **options))

    async def asend(
        self, method: str, url: str, *, body: Any = None, user: tuple[Any, Any] | None = None, **options: Any
    ) -> Reply:
        """The same call for tests that run many tasks at once."""
        if user:
            options["auth"] = self.integration.DPoPAuth(*user)
        response = await self.client.request(method, url, **(body or {}), **options)
        return Reply(
            response.status_code, dict(response.headers), response.content, [r.status_code for r in response.history]
        )

    def file_body(self, data: bytes) -> Any:
        return {"content": anyio.wrap_file(io.BytesIO(data))}

    def stream_body(self, data: bytes) -> Any:
        return {"content": async_one_shot(data)}

    def prime(self, url: str) -> bool:
        return bool(self.runner.run(self.transport.prime(url)))

    def close(self) -> None:
        self.runner.run(self.client.aclose())
        self.runner.close()


class AiohttpClient(Client):
    """aiohttp, driven from a loop of its own."""

    name = "aiohttp"
    library = aiohttp

    def __init__(
        self,
        prover: Any,
        *,
        origins: Any,
        verify: Any = True,
        proxy: str | None = None,
        trust_env: bool = False,
        connections: int = 100,
        **options: Any,
    ) -> None:
        self.runner = asyncio.Runner()
        self.transport = dpop.aiohttp.DPoPClientMiddleware(prover, origins=origins, **options)
        self.session = self.runner.run(self._open(verify, proxy, connections, trust_env=trust_env))

    async def _open(self, verify: Any, proxy: str | None, connections: int, *, trust_env: bool) -> Any:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections, ssl=verify),
            cookie_jar=aiohttp.CookieJar(unsafe=True),  # hosts of tests are addresses
            middlewares=[self.transport],
            proxy=proxy,
            trust_env=trust_env,
            timeout=aiohttp.ClientTimeout(total=300),
        )

    def send(self, method: str, url: str, **options: Any) -> Reply:
        return self.runner.run(self.asend(method, url, **options))

    async def asend(
        self, method: str, url: str, *, body: Any = None, user: tuple[Any, Any] | None = None, **options: Any
    ) -> Reply:
        """The same call for tests that run many tasks at once."""
        if user:
            options["middlewares"] = [self.transport.with_credentials(*user)]
        if "auth" in options:
            login = aiohttp.encode_basic_auth(*options.pop("auth"))
            options["headers"] = {"Authorization": login}
        if "timeout" in options:
            options["timeout"] = aiohttp.ClientTimeout(total=options["timeout"])
        if body is None:
            options["skip_auto_headers"] = ["Content-Type"]  # aiohttp describes the body that is not there, too
        async with self.session.request(method, url, **(body or {}), **options) as response:
            history = [each.status for each in response.history]
            return Reply(response.status, dict(response.headers), await response.read(), history)

    def bytes_body(self, data: bytes) -> Any:
        return {"data": data if len(data) < 1_000_000 else io.BytesIO(data)}  # aiohttp warns of more

    def file_body(self, data: bytes) -> Any:
        return {"data": io.BytesIO(data)}

    def stream_body(self, data: bytes) -> Any:
        return {"data": async_one_shot(data)}

    def multipart_of(self, file: Any) -> Any:
        form = aiohttp.FormData()
        form.add_field("file", file, filename="name.bin")
        return {"data": form}

    def prime(self, url: str) -> bool:
        return self.runner.run(self.transport.prime(self.session, url))

    def close(self) -> None:
        self.runner.run(close_all(self.session))
        self.runner.close()


async def close_all(session: aiohttp.ClientSession) -> None:
    """Close a session of aiohttp, and connections that wait for a server to read what it never will."""
    with contextlib.suppress(AttributeError):  # asyncio's, for a connection whose last bytes were written just now
        await session.close()
    transports: Any = getattr(asyncio.get_running_loop(), "_transports", {})
    for transport in list(transports.values()):
        with contextlib.suppress(AttributeError):  # one that has closed has no event loop any more
            transport.abort()
    await asyncio.sleep(0)


CLIENTS: dict[str, type[Client]] = {
    "aiohttp": AiohttpClient,
    "requests": RequestsClient,
    "httpx": type("HttpxSync", (HttpxClient,), {"name": "httpx", "library": httpx, "integration": dpop.httpx}),
    "httpx2": type("Httpx2Sync", (HttpxClient,), {"name": "httpx2", "library": httpx2, "integration": dpop.httpx2}),
    "httpx-async": type(
        "HttpxAsync", (AsyncHttpxClient,), {"name": "httpx-async", "library": httpx, "integration": dpop.httpx}
    ),
    "httpx2-async": type(
        "Httpx2Async", (AsyncHttpxClient,), {"name": "httpx2-async", "library": httpx2, "integration": dpop.httpx2}
    ),
}

ASYNCHRONOUS = sorted(name for name, kind in CLIENTS.items() if hasattr(kind, "asend"))
SYNCHRONOUS = sorted(CLIENTS.keys() - set(ASYNCHRONOUS))
HTTPX = sorted(name for name in CLIENTS if name.startswith("httpx"))
"""The clients with transports, and with HTTP/2."""


WITH_AGENT = " with an agent's key"
"""Ends the name of a client whose key is in a signing agent, which runs as long as the client is open."""


def make(name: str, prover: Any = None, **options: Any) -> Any:
    """A client by name, with a new software key if none is given.

    :param options: its own, and ``later_origins``, those that are added while it is open.
    """
    factory: Any = CLIENTS[name.removesuffix(WITH_AGENT)]
    later = options.pop("later_origins", ())
    if name.endswith(WITH_AGENT) and prover is None:
        return _with_agent(factory, options, later)
    return factory(Prover(dpop.generate_key()) if prover is None else prover, **options)


def _with_agent(factory: Any, options: dict[str, Any], later: Iterable[str]) -> Any:
    """A client whose key is in an agent, with rules for the client's own origins."""
    named = options["origins"]
    origins = {*later, *([named] if isinstance(named, str) else named)}
    origins |= {str(Origin.of_url(url)) for url in options.get("as_endpoints", ())}
    with ExitStack() as stack:
        folder = stack.enter_context(socket_folder())
        running = stack.enter_context(agent_running(folder, rules_of(folder, origins=origins)))
        made = factory(running.key(), **options)
        close, ending = made.close, stack.pop_all()

    def close_both() -> None:
        with ending:
            close()

    made.close = close_both
    return made


def tls_options(name: str, authority: Authority) -> dict[str, Any]:
    """How each client is told what to trust and what to show."""
    if name == "requests":
        return {"verify": authority.ca, "cert": authority.client}
    return {"verify": authority.client_context()}


def pool_of_one(name: str) -> dict[str, Any]:
    """Options for a single connection, which is waited for."""
    if name == "requests":
        return {"pool_connections": 1, "pool_maxsize": 1, "pool_block": True}
    if name == "aiohttp":
        return {"connections": 1}
    return {"limits": CLIENTS[name].library.Limits(max_connections=1)}


def assert_fresh(received: list[Received], scheme: str = "http") -> None:
    """One proof on each, no identifier twice, each for its own method and target."""
    assert len({request.claims["jti"] for request in received}) == len(received)
    for request in received:
        assert request.claims["htm"] == request.method
        path = request.target.partition("?")[0]
        host = "" if "://" in path else f"{scheme}://{request.one('Host')}"
        assert request.claims["htu"] == host + path
