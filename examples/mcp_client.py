# SPDX-License-Identifier: Apache-2.0
"""An MCP client that logs in once, with tokens bound to its key, and calls a tool.

    pip install 'dpop-toolkit[mcp]'
    python mcp_client.py https://mcp.example/mcp CLIENT_ID

The server's metadata says where to log in. The key stays in mcp-key.pem; tokens stay in mcp-tokens.json, so that the
next run needs no login.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from mcp import ClientSession
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from pydantic import AnyUrl

import dpop
from dpop.mcp import http_client

KEY, TOKENS = Path("mcp-key.pem"), Path("mcp-tokens.json")


def read_tokens() -> OAuthToken | None:
    """Read the file."""
    return OAuthToken.model_validate_json(TOKENS.read_text("utf-8")) if TOKENS.exists() else None


def write_tokens(tokens: OAuthToken) -> None:
    """Write a new file, which only its owner can read, and put it in the place of the old one."""
    new = TOKENS.with_suffix(".new")
    new.unlink(missing_ok=True)
    new.touch(0o600)
    new.write_text(tokens.model_dump_json(), "utf-8")
    new.replace(TOKENS)


class Storage:
    """The SDK's place for tokens, and for what the authorization server calls this client."""

    def __init__(self, client: OAuthClientInformationFull) -> None:
        self._client = client

    async def get_tokens(self) -> OAuthToken | None:
        """Return the tokens of an earlier run."""
        return read_tokens()

    async def set_tokens(self, tokens: OAuthToken) -> None:
        """Keep them for the next run."""
        write_tokens(tokens)

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        """Return this client, which is registered at the authorization server."""
        return self._client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        """Take what the authorization server registered instead."""
        self._client = client_info


class Login:
    """The user's browser, which comes back to a port of this program."""

    def __init__(self) -> None:
        self._came_back: asyncio.Future[AuthorizationCodeResult] = asyncio.get_running_loop().create_future()

    async def listen(self) -> tuple[asyncio.Server, str]:
        """Begin to listen; return the server and the redirect URI."""
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/callback"

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = (await reader.readline()).split(b" ")[1].decode("ascii")
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\nYou can close this page.\n"
        )
        writer.close()
        given = {name: values[0] for name, values in parse_qs(urlsplit(target).query).items()}
        if "code" in given and not self._came_back.done():
            code = AuthorizationCodeResult(code=given["code"], state=given.get("state"), iss=given.get("iss"))
            self._came_back.set_result(code)

    async def ask(self, url: str) -> None:
        """Show the user where to log in."""
        print(f"Log in at: {url}", flush=True)

    async def wait(self) -> AuthorizationCodeResult:
        """Wait for the user."""
        return await self._came_back


async def main(key: dpop.Key, url: str, client_id: str) -> None:
    """Call two tools of the server."""
    login = Login()
    listening, redirect_uri = await login.listen()
    client = OAuthClientInformationFull(
        client_id=client_id,
        redirect_uris=[AnyUrl(redirect_uri)],
        token_endpoint_auth_method="none",
    )
    provider = OAuthClientProvider(
        url,
        OAuthClientMetadata(redirect_uris=[AnyUrl(redirect_uri)], token_endpoint_auth_method="none"),
        Storage(client),
        login.ask,
        login.wait,
    )
    async with (
        listening,
        http_client(key, provider) as http,
        streamable_http_client(url, http_client=http) as streams,
        ClientSession(*streams) as session,
    ):
        await session.initialize()
        print("tools:", ", ".join(sorted(tool.name for tool in (await session.list_tools()).tools)))
        for name, arguments in (("whoami", {}), ("add", {"a": 2, "b": 3})):
            result = await session.call_tool(name, arguments)
            print(f"{name}:", json.dumps([item.model_dump()["text"] for item in result.content]))


if __name__ == "__main__":
    if not KEY.exists():
        dpop.generate_key().save(KEY)
    asyncio.run(main(dpop.load_key(KEY), *sys.argv[1:]))
