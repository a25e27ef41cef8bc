# SPDX-License-Identifier: Apache-2.0
"""A session whose streams end midway: each reconnect carries a proof of its own."""

from __future__ import annotations

import asyncio
import itertools
import json

from mcp import ClientSession
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from pydantic import AnyUrl
from support.recorder import Received, Recorder, Response

import dpop
from dpop.mcp import http_client

CALLBACK = AnyUrl("http://127.0.0.1:1/callback")


class Storage:
    """The tokens of an earlier run."""

    async def get_tokens(self) -> OAuthToken:
        return OAuthToken(access_token="at-1")

    async def set_tokens(self, tokens: OAuthToken) -> None:
        raise AssertionError(tokens)

    async def get_client_info(self) -> OAuthClientInformationFull:
        return OAuthClientInformationFull(client_id="c", redirect_uris=[CALLBACK])

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        raise AssertionError(client_info)


class Server:
    """Answers a question on a stream that ends before the answer, and drops the first reconnect."""

    def __init__(self) -> None:
        self.question = 0
        self.reconnects = itertools.count()

    def respond(self, request: Received) -> Response:
        """Play the MCP server."""
        session = [("Mcp-Session-Id", "s1")]
        stream = [("Content-Type", "text/event-stream"), *session]
        if request.method == "POST":
            asked = json.loads(request.body)
            if asked["method"] == "initialize":
                told = {
                    "protocolVersion": asked["params"]["protocolVersion"],
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": "x", "version": "1"},
                }
                body = json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": told}).encode()
                return Response(200, [("Content-Type", "application/json"), *session], body)
            if "id" not in asked:
                return Response(202, session)
            self.question = asked["id"]
            return Response(200, stream, b"id: e1\nretry: 20\ndata: \n\n")
        if request.all("Last-Event-ID") == ["e1"]:
            if next(self.reconnects) == 0:
                return Response(drop=True)
            result = {"tools": [], "ttlMs": 0, "cacheScope": "private"}
            answer = json.dumps({"jsonrpc": "2.0", "id": self.question, "result": result})
            return Response(200, stream, f"id: e2\ndata: {answer}\n\n".encode())
        return Response(405 if request.method == "GET" else 200, session)


def test_each_request_of_a_session_carries_one_proof() -> None:
    """Calls, the stream, reconnects with Last-Event-ID, and the end of the session."""
    server = Server()

    async def nobody(*_: object) -> None:
        raise AssertionError("a login began")

    async def work(url: str) -> int:
        metadata = OAuthClientMetadata(redirect_uris=[CALLBACK])
        provider = OAuthClientProvider(url, metadata, Storage(), nobody, nobody)  # type: ignore[arg-type]
        async with (
            http_client(dpop.generate_key(), provider) as http,
            streamable_http_client(url, http_client=http) as streams,
            ClientSession(*streams) as session,
        ):
            await session.initialize()
            return len((await asyncio.wait_for(session.list_tools(), 60)).tools)

    with Recorder(server.respond) as recorder:
        assert asyncio.run(work(f"{recorder.origin}/mcp")) == 0
        requests = list(recorder.requests)
        url = f"{recorder.origin}/mcp"
    assert {request.method for request in requests} == {"POST", "GET", "DELETE"}
    assert len([request for request in requests if request.all("Last-Event-ID")]) >= 2
    for request in requests:
        assert request.one("Authorization") == "DPoP at-1"
        assert (request.claims["htm"], request.claims["htu"]) == (request.method, url)
    assert len({request.claims["jti"] for request in requests}) == len(requests)
