# SPDX-License-Identifier: Apache-2.0
"""A signing agent on a real socket, in a thread of this process, and raw connections to it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import requests

import dpop
from dpop.agent import Agent, AgentClient, AgentKey, AgentLogins, AgentRules, AgentTokens, KeyRules, listen
from dpop.requests import DPoPAdapter, TokenEndpoint
from dpop.testing import DPoPTestServer
from dpop.tokens import FileTokenStore

__all__ = ["API", "Place", "Running", "Wire", "agent_running", "rules_of", "socket_folder"]

API = "https://api.example"


@contextlib.contextmanager
def socket_folder() -> Iterator[Path]:
    """A private folder whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="dpop-") as folder:
        yield Path(folder)


def rules_of(folder: Path, name: str = "work", **more: Any) -> KeyRules:
    """Rules for a key in a file, which is made."""
    path = folder / f"{name}.pem"
    if not path.exists():
        dpop.generate_key(more.pop("alg", "ES256")).save(path)
    return KeyRules(name, str(path), more.pop("origins", [API]), **more)


class Running:
    """An agent that runs, and its socket."""

    def __init__(self, agent: Agent, path: Path, audited: list[Mapping[str, Any]]) -> None:
        self.agent = agent
        self.path = path
        self.audited = audited

    def client(self) -> AgentClient:
        """A client of this agent."""
        return AgentClient(self.path)

    def key(self, name: str = "work", **more: Any) -> AgentKey:
        """A key of this agent."""
        return AgentKey.open(name, client=self.client(), **more)

    def connect(self) -> Wire:
        """A connection that sends what it likes."""
        return Wire(self.path)


@contextlib.contextmanager
def agent_running(folder: Path, *keys: KeyRules, rules: AgentRules | None = None, **more: Any) -> Iterator[Running]:
    """Run an agent in a thread, at ``agent.sock`` in a folder below this one."""
    audited: list[Mapping[str, Any]] = []
    more.setdefault("audit", audited.append)
    agent = Agent(rules or keys, **more)
    with listen(folder / "run" / "agent.sock") as listener:
        thread = threading.Thread(target=agent.serve, args=(listener,))
        thread.start()
        try:
            yield Running(agent, folder / "run" / "agent.sock", audited)
        finally:
            agent.stop()
            thread.join(30)
            assert not thread.is_alive()


class Wire:
    """A connection to the agent, byte by byte."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(os.fspath(path))  # without a timeout, or Linux would refuse while the queue is full
        self.socket.settimeout(30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes; the agent may have hung up already."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(data)

    def receive(self) -> dict[str, Any] | None:
        """One response; None at the end of the connection."""
        head = self._exactly(4)
        if head is None:
            return None
        body = self._exactly(int.from_bytes(head, "big"))
        return None if body is None else dict(json.loads(body))

    def ask(self, **members: Any) -> dict[str, Any]:
        """Send a request in version 1 and return the response."""
        text = json.dumps({"v": 1, **members}).encode()
        self.send(len(text).to_bytes(4, "big") + text)
        response = self.receive()
        assert response is not None
        return response

    def _exactly(self, count: int) -> bytes | None:
        data = b""
        while len(data) < count:
            try:
                chunk = self.socket.recv(count - len(data))
            except ConnectionResetError:
                return None
            if not chunk:
                return None
            data += chunk
        return data


class Place:
    """A server, a folder, and the rules and logins of an agent."""

    def __init__(self, folder: Path, server: DPoPTestServer) -> None:
        self.folder = folder
        self.server = server
        self.rules = rules_of(folder, origins=[server.origin])

    @property
    def logins(self) -> AgentLogins:
        """The logins, as a new agent reads them."""
        return AgentLogins(self.folder / "logins", TokenEndpoint)

    def store(self) -> FileTokenStore:
        """What the agent keeps."""
        return FileTokenStore(self.folder / "logins" / "tokens.json")

    def running(self, *rules: KeyRules, **more: Any) -> Any:
        """The agent."""
        return agent_running(self.folder, *rules or (self.rules,), **{"logins": self.logins, **more})

    def log_in(self, running: Running, account: str = "work", *, sub: str = "alice", **more: Any) -> str:
        """Hand a login to the agent, whose access token has expired; return its refresh token."""
        client = more.get("client_id", self.server.public_client_id)
        refresh_token = self.server.issue_refresh_token(jkt=running.key().thumbprint, sub=sub, client_id=client)
        members = {
            "account": account,
            "key": "work",
            "token_endpoint": self.server.token_endpoint,
            "client_id": client,
            "access_token": "expired",
            "token_type": "DPoP",
            "issued_at": 0,
            "expires_at": 1,
            "refresh_token": refresh_token,
        }
        given = {name: value for name, value in (members | more).items() if value is not None}
        with running.client() as agent:
            agent.request("login", **given)
        return refresh_token

    @property
    def refreshes(self) -> int:
        """How many refreshes the server served."""
        return sum(
            request.endpoint == "token" and request.status == 200 and b"grant_type=refresh_token" in request.body
            for request in self.server.requests
        )

    def sub(self, tokens: AgentTokens, key: AgentKey) -> str:
        """Whose token it is, as the API sees it."""
        with requests.Session() as session:
            session.mount(
                self.server.origin,
                DPoPAdapter(key, origins=self.server.origin, access_token=tokens, renew_refused=True),
            )
            return str(session.get(self.server.resource, timeout=30).json()["sub"])
