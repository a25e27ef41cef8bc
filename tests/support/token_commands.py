# SPDX-License-Identifier: Apache-2.0
"""What tests of the token commands put beside them, in the working directory: a client, a browser, tokens."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from dpop_cli.commands.serve import first_line

import dpop
from dpop.requests import TokenEndpoint
from dpop.testing import DPoPTestServer
from dpop.tokens import FileTokenStore, ServerMetadata, TokenSet

# A browser: its user agrees at once. webbrowser runs it as a command of BROWSER.
_BROWSER = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=30)"


def client_file(server: DPoPTestServer) -> dict[str, str]:
    """The first line of dpop serve --json describes the client; DPOP_CLIENT names it."""
    Path("client.json").write_text(json.dumps(first_line(server)), "ascii")
    return {"DPOP_CLIENT": "client.json"}


def browser() -> dict[str, str]:
    """The environment in which there is a browser."""
    Path("browser.py").write_text(_BROWSER, "ascii")
    return {"BROWSER": f"{sys.executable} browser.py %s"}


def stored(server: DPoPTestServer, account: str = "default", **changes: Any) -> TokenSet:
    """Tokens in tokens.json, as a program that uses the library would have stored them."""
    metadata = ServerMetadata(token_endpoint=server.token_endpoint)
    key = dpop.load_key("key.pem")
    with TokenEndpoint(
        key,
        metadata,
        client_id=server.client_id,
        client_secret=server.client_secret,
        profile=dpop.profiles.GOOGLE if server.mode == "google" else dpop.profiles.RFC9449,
    ) as endpoint:
        tokens = endpoint.refresh(server.issue_refresh_token(jkt=key.thumbprint, client_id=server.client_id))
    tokens = tokens.replace(**changes)
    FileTokenStore("tokens.json").save(tokens, account)
    return tokens


def load(account: str = "default") -> TokenSet:
    """What is in tokens.json."""
    tokens = FileTokenStore("tokens.json").load(account)
    assert tokens is not None
    return tokens


def secrets_in(text: str, tokens: TokenSet) -> list[str]:
    """The tokens that a text shows."""
    return [each for each in (tokens.access_token, tokens.refresh_token) if each and each in text]
