# SPDX-License-Identifier: Apache-2.0
"""A client for the conformance suite: logs in without a person, and calls each tool of the server."""

from __future__ import annotations

import asyncio
import sys
from urllib.parse import parse_qs, urlsplit

import httpx2
from mcp import ClientSession
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from pydantic import AnyUrl

import dpop
from dpop.mcp import http_client


class Storage:
    """The SDK's storage, in memory."""

    tokens: OAuthToken | None = None
    client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


class Browser:
    """A user who agrees to everything."""

    came_back: dict[str, str]

    async def ask(self, url: str) -> None:
        """Take the code from the redirect."""
        async with httpx2.AsyncClient(timeout=60) as client:
            location = (await client.get(url)).headers["location"]
        self.came_back = {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}

    async def wait(self) -> AuthorizationCodeResult:
        """Hand it over."""
        told = self.came_back
        return AuthorizationCodeResult(code=told["code"], state=told.get("state"), iss=told.get("iss"))


async def main(url: str) -> None:
    """Log in, and call everything."""
    browser = Browser()
    metadata = OAuthClientMetadata(redirect_uris=[AnyUrl("http://localhost:3000/callback")])
    provider = OAuthClientProvider(url, metadata, Storage(), browser.ask, browser.wait)
    async with (
        http_client(dpop.generate_key(), provider) as http,
        streamable_http_client(url, http_client=http) as streams,
        ClientSession(*streams) as session,
    ):
        await session.initialize()
        for tool in (await session.list_tools()).tools:
            await session.call_tool(tool.name, {})


asyncio.run(main(sys.argv[-1]))
