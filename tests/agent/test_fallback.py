# SPDX-License-Identifier: Apache-2.0
"""While the agent is away: its readers are told, or use what they have been given for that time."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

import pytest
from support.agents import Place, Running

import dpop
from dpop.agent import AgentClient, AgentTokens
from dpop.errors import AgentLockedError, AgentUnavailableError, ArgumentTypeError, UsageError
from dpop.tokens import FileTokenStore, MemoryTokenStore, TokenSet


def test_no_agent_and_no_fallback(folder: Path) -> None:
    """The reader is told where the agent was looked for, and how to start it."""
    tokens = AgentTokens("work", client=AgentClient(folder / "none.sock"))
    with pytest.raises(AgentUnavailableError, match=r"none\.sock; start it with: dpop agent start"):
        tokens()
    assert repr(tokens) == "<AgentTokens of 'work'>"
    assert tokens.account == "work"
    with pytest.raises(UsageError, match="name of an account"):
        AgentTokens("a/b")
    with pytest.raises(ArgumentTypeError, match="fallback"):
        AgentTokens("work", fallback="tokens.json")  # type: ignore[arg-type]


def test_the_fallback_is_a_store(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """While the agent is away its token is used, once with a warning; when the agent is back, it counts again."""
    store, now = MemoryTokenStore(), time.time()
    with place.running() as running:
        place.log_in(running)
        tokens = AgentTokens("work", client=running.client(), fallback=store)
        of_agent = tokens()
    with pytest.raises(AgentUnavailableError, match="The fallback has no token that can be used either"):
        tokens()
    store.save(TokenSet(access_token="stored", refresh_token="r", expires_at=now + 600), "work")
    assert (tokens(), tokens()) == ("stored", "stored")
    assert tokens.tokens().refresh_token is None
    assert [record.getMessage().count("those of its fallback") for record in caplog.records] == [1]
    tokens.refused("stored")
    with pytest.raises(AgentUnavailableError, match="no token that can be used"):
        tokens()
    store.save(TokenSet(access_token="old", expires_at=now + 1), "work")
    with pytest.raises(AgentUnavailableError, match=r"dpop agent start.*no token that can be used"):
        tokens()
    with place.running():
        assert tokens() == of_agent


def test_a_fallback_that_cannot_be_read(folder: Path) -> None:
    """The error says both: that the agent is away, and what is wrong with the fallback."""
    (folder / "tokens.work.json").write_text("{")
    store = FileTokenStore(folder / "tokens.json")
    tokens = AgentTokens("work", client=AgentClient(folder / "none.sock"), fallback=store)
    with pytest.raises(AgentUnavailableError, match=r"none\.sock.*The fallback has no token either: the token file"):
        tokens()


def test_the_fallback_is_a_source(folder: Path) -> None:
    """It is asked, and told when its token was refused."""

    class Source:
        """A token source."""

        token = dpop.BearerToken("one")

        def __call__(self) -> str:
            return self.token

        def refused(self, token: str, /) -> None:
            assert token == "one"
            self.token = dpop.BearerToken("two")

    tokens = AgentTokens("work", client=AgentClient(folder / "none.sock"), fallback=Source())
    assert (tokens(), type(tokens())) == ("one", dpop.BearerToken)
    tokens.refused("one")
    assert (tokens(), tokens()) == ("two", "two")
    wrong = AgentTokens("work", client=AgentClient(folder / "none.sock"), fallback=lambda: 1)  # type: ignore[arg-type, return-value]
    with pytest.raises(AgentUnavailableError, match="must be str"):
        wrong()


def test_a_locked_agent_is_not_away(found: Running) -> None:
    """Somebody locked it on purpose, so no fallback is used."""
    found.agent.lock()
    with pytest.raises(AgentLockedError):
        AgentTokens("work", fallback=lambda: "stored")()


def test_what_is_no_agent(folder: Path) -> None:
    """Something else that listens there is named as such."""
    place = folder / "other.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(os.fspath(place))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                text = b'{"v":1,"access_token":5}'
                connection.sendall(len(text).to_bytes(4, "big") + text)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(AgentUnavailableError, match="is it the agent"):
            AgentTokens("work", client=AgentClient(place))()
        thread.join(30)
