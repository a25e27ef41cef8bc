# SPDX-License-Identifier: Apache-2.0
"""What must hold when the agent dies in the middle of something, its disk is full, or its clock is set."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from support.agents import API, agent_running, rules_of
from support.forking import in_child
from support.recorder import Received, Recorder, Response

import dpop
from dpop.agent import AgentLogins, AgentTokens, AuditLog
from dpop.agent._logins import KeptLogins
from dpop.errors import DPoPError, KeyThrottledError
from dpop.requests import TokenEndpoint
from dpop.tokens import TokenSet

_FILE_EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.link", "os.chmod", "os.truncate")


def killed_at(step: int, folder: Path, work: Callable[[], object]) -> bool:
    """Run ``work`` in a child that is killed at its step-th touch of a file below the folder; whether it was."""
    child = os.fork()
    if child == 0:  # pragma: no cover - coverage does not follow
        left = step

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            if event in _FILE_EVENTS and arguments and str(folder) in str(arguments[0]):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        status = 1
        signal.alarm(60)  # rather an error than a test that never ends
        try:
            sys.addaudithook(hook)
            work()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert status in {0, signal.SIGKILL}
    return status != 0


def members(server: Recorder, name: str, jkt: str) -> tuple[dict[str, Any], TokenSet]:
    """A login at a token endpoint of its own, and its tokens, which have expired."""
    url = server.url(f"/{name}")
    tokens = TokenSet(
        access_token=f"at-{name}", token_type="DPoP", refresh_token=f"rt-{name}", issued_at=0, expires_at=1, jkt=jkt,
        token_endpoint=url, client_id=name,
    )  # fmt: skip
    return {"token_endpoint": url, "client_id": name, "jkt": jkt}, tokens


def test_an_agent_that_is_killed_while_it_takes_a_login(folder: Path) -> None:
    """At each of its steps: the next agent starts, has the old login or the new one, and mixes none of them."""
    sent: list[tuple[str, bytes]] = []

    def respond(request: Received) -> Response:
        sent.append((request.target, request.body))
        name = request.target[1:]
        told = {"access_token": f"fresh-{name}", "token_type": "DPoP", "expires_in": 900}
        return Response(200, [], json.dumps(told).encode())

    with Recorder(respond) as server:
        rules = rules_of(folder, origins=[server.origin])
        jkt = dpop.load_key(rules.uri).thumbprint
        old, new = members(server, "old", jkt), members(server, "new", jkt)
        seen = set()
        for step in range(1, 200):
            place = folder / f"logins-{step}"
            logins = AgentLogins(place, TokenEndpoint)
            KeptLogins(logins).keep("work", *old)
            killed = killed_at(step, place, lambda logins=logins: KeptLogins(logins).keep("work", *new))
            with agent_running(folder, rules, logins=logins) as running:
                try:
                    seen.add(AgentTokens("work", client=running.client())())
                except DPoPError as error:
                    seen.add(error.code)
                with running.client() as agent:
                    (account,) = agent.request("list")["accounts"]
                    assert account["state"] in {"fresh", "failing", "dead"}
            if not killed:
                break
        else:
            pytest.fail("it never ended")
        assert step > 5
    assert {"fresh-old", "fresh-new"} <= seen
    # No server got the refresh token of the other.
    assert {(target, body.split(b"refresh_token=rt-")[1].split(b"&")[0]) for target, body in sent} == {
        ("/old", b"old"),
        ("/new", b"new"),
    }


def test_a_full_disk_of_the_audit_log(folder: Path) -> None:
    """Nothing is signed that cannot be noted, and when there is room again it goes on."""
    logs = [AuditLog("/dev/full")]

    def note(event: Mapping[str, Any]) -> None:
        logs[-1](event)

    with agent_running(folder, rules_of(folder), audit=note) as running:
        key = running.key()
        with pytest.raises(DPoPError, match="audit log cannot be written"):
            dpop.create_proof(key, "GET", API)
        logs.append(AuditLog(folder / "log"))
        dpop.create_proof(key, "GET", API)
    assert [json.loads(line)["event"] for line in (folder / "log").read_text().splitlines()] == ["signed"]
    for log in logs:
        log.close()


def test_a_disk_that_is_full_in_the_middle_of_a_line(folder: Path) -> None:
    """The half of a line spoils no other one."""

    def work() -> bytes:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        log, (_, most) = AuditLog(folder / "log"), resource.getrlimit(resource.RLIMIT_FSIZE)
        log({"jti": "first"})
        resource.setrlimit(resource.RLIMIT_FSIZE, (80, most))
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            log({"jti": "lost"})
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        log({"jti": "third"})
        log({"jti": "fourth"})
        return b"done"

    assert in_child(work) == b"done"
    first, half, *rest = (folder / "log").read_text().splitlines()
    assert len(half) > 5
    assert [json.loads(line)["jti"] for line in (first, *rest)] == ["first", "third", "fourth"]


@pytest.mark.parametrize("step", [-86_400.0, 86_400.0])
def test_a_clock_that_is_set(folder: Path, step: float) -> None:
    """By a day: proofs for the new time are signed, the rate is counted on, and no key is forgotten for it."""
    now = time.time()

    def clock() -> float:
        return now

    with agent_running(folder, rules_of(folder, rate=2), clock=clock) as running:
        key = running.key()
        dpop.create_proof(key, "GET", API, clock=clock)
        now += step
        dpop.create_proof(key, "GET", API, clock=clock)
        with pytest.raises(KeyThrottledError):
            for _ in range(50):  # on a machine that takes half a minute for each, the rate would allow some
                dpop.create_proof(key, "GET", API, clock=clock)
        with running.client() as agent:
            assert agent.request("status")["locked"] is False
