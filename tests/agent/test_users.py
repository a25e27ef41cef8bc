# SPDX-License-Identifier: Apache-2.0
"""An agent under a user of its own, whose key the members of a group use: as the guide has it, with real users."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.agents import API, rules_of
from support.forking import in_child

import dpop
from dpop.agent import Agent, AgentClient, AgentKey, listen
from dpop.errors import AgentUnavailableError, DPoPError, KeyAccessDeniedError, KeyNotFoundError

# Without the right to become others, all of them are this user: then the group is enough of a difference.
IS_ROOT = os.geteuid() == 0
AGENT, MEMBER, STRANGER = (60_001, 60_002, 60_003) if IS_ROOT else (os.geteuid(),) * 3
GROUP = 60_010 if IS_ROOT else os.getegid()


def become(user: int, *groups: int) -> None:
    """Go on as a user, for good."""
    if IS_ROOT:
        os.setgroups(groups)
        os.setgid(user)
        os.setuid(user)


@pytest.fixture
def path(folder: Path) -> Iterator[Path]:
    """The socket of an agent that runs as a user of its own."""
    home = folder / "home"
    home.mkdir()
    rules = rules_of(home, gids=[GROUP])
    if IS_ROOT:
        folder.chmod(0o711)
        for each in (home, home / "work.pem"):
            os.chown(each, AGENT, AGENT)
    home.chmod(0o711)
    place = home / "run" / "agent.sock"
    child = os.fork()
    if child == 0:  # pragma: no cover - coverage does not follow
        signal.alarm(240)
        with contextlib.suppress(BaseException):
            become(AGENT, GROUP)
            agent = Agent([rules])
            signal.signal(signal.SIGTERM, lambda *_: agent.stop())
            with listen(place, group=GROUP) as listener:
                agent.serve(listener)
        os._exit(0)
    try:
        due = time.monotonic() + 60
        while time.monotonic() < due:
            with contextlib.suppress(AgentUnavailableError, KeyAccessDeniedError):
                AgentClient(place, uid=AGENT).request("list")
                break
            time.sleep(0.05)
        yield place
    finally:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)


def outcome(user: int, groups: tuple[int, ...], work: Callable[[], str]) -> str:
    """The result of ``work`` as a user, or the name of the error that it ends with."""

    def as_user() -> bytes:
        become(user, *groups)
        try:
            return work().encode()
        except (DPoPError, OSError) as error:
            return type(error).__name__.encode()

    return in_child(as_user).decode()


def test_a_member_of_the_group_signs_without_the_key(path: Path) -> None:
    """The agent's user must be named, and then it signs."""
    file = path.parent.parent / "work.pem"
    thumbprint = dpop.load_key(file).thumbprint

    def sign() -> str:
        opened = AgentKey.open("work", client=AgentClient(path, uid=AGENT), verify=True)
        dpop.create_proof(opened, "GET", f"{API}/me")
        return opened.thumbprint

    assert outcome(MEMBER, (GROUP,), sign) == thumbprint


if IS_ROOT:  # only root can become another user

    def test_a_member_of_the_group_can_do_no_more(path: Path) -> None:
        """It cannot read the key's file, and the agent neither stops nor tells for it."""
        file = path.parent.parent / "work.pem"
        assert outcome(MEMBER, (GROUP,), file.read_text) == "PermissionError"
        unnamed = outcome(MEMBER, (GROUP,), lambda: AgentKey.open("work", client=AgentClient(path)).thumbprint)
        assert unnamed == KeyAccessDeniedError.__name__
        for op in ("lock", "stop", "status"):
            told = outcome(MEMBER, (GROUP,), lambda op=op: str(AgentClient(path, uid=AGENT).request(op)))
            assert told == KeyAccessDeniedError.__name__

    def test_a_user_outside_the_group_does_not_sign(path: Path) -> None:
        """The socket is out of reach; and where somebody opened it to all, the rules name the group."""

        def sign() -> str:
            return AgentKey.open("work", client=AgentClient(path, uid=AGENT)).thumbprint

        assert outcome(STRANGER, (), sign) == KeyAccessDeniedError.__name__
        path.parent.chmod(0o711)
        path.chmod(0o666)
        assert outcome(STRANGER, (), sign) in {KeyNotFoundError.__name__, KeyAccessDeniedError.__name__}
