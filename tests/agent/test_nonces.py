# SPDX-License-Identifier: Apache-2.0
"""Nonces that programs share through the agent."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import requests
from support.agents import API, Running, agent_running, rules_of
from support.recorder import Received, Recorder, Response, challenge

import dpop
from dpop.agent import AgentKey
from dpop.client import NonceKey, Prover, Role
from dpop.origin import Origin
from dpop.requests import DPoPAdapter


def known(key: AgentKey, origin: str = API) -> str | None:
    """The nonce that a new program with this key begins with."""
    return Prover(key).nonces.newest(NonceKey(key.thumbprint, Origin.parse(origin), Role.RS))


def told(nonce: str, *, reusable: bool = True, origin: str = API, role: str = "RS") -> list[dict[str, object]]:
    """What a client reports."""
    return [{"origin": origin, "role": role, "nonce": nonce, "reusable": reusable}]


_PROGRAM = """
import sys, dpop, requests
from dpop.requests import DPoPAdapter
with requests.Session() as session:
    session.trust_env = False
    session.mount(sys.argv[1], DPoPAdapter(dpop.load_key("agent:work"), origins=sys.argv[1], access_token="t"))
    print(session.get(sys.argv[1] + "/r", timeout=60).status_code)
"""


def test_a_series_of_programs_wastes_one_request(folder: Path) -> None:
    """The second program begins with the nonce that the first was given, although the first has ended."""

    def handler(request: Received) -> Response:
        return Response(200, [("DPoP-Nonce", "n-1")]) if request.nonce == "n-1" else challenge("n-1")

    with Recorder(handler) as server, agent_running(folder, rules_of(folder, origins=[server.origin])) as running:
        for _ in range(3):
            shown = subprocess.run(
                [sys.executable, "-c", _PROGRAM, server.origin],
                env={"DPOP_AGENT_SOCK": str(running.path), "PYTHONPATH": ":".join(sys.path)},
                capture_output=True,
                text=True,
                check=True,
                timeout=120,
            )
            assert shown.stdout.strip() == "200"
        assert [request.nonce for request in server.requests] == [None, "n-1", "n-1", "n-1"]


def test_a_nonce_that_was_not_taken_is_not_shared(folder: Path) -> None:
    """A server's nonce is the others' only after it took a proof, so that a refusing one spoils nothing."""
    with (
        Recorder(lambda request: challenge("evil")) as server,
        agent_running(folder, rules_of(folder, origins=[server.origin])) as running,
        requests.Session() as session,
    ):
        key = running.key()
        session.trust_env = False
        session.mount(server.origin, DPoPAdapter(key, origins=server.origin, access_token="t"))
        assert session.get(server.url("/r"), timeout=60).status_code == 401
        dpop.create_proof(key, "GET", server.url("/r"))
        assert known(running.key(), server.origin) is None


def test_what_is_reported_with_a_signature(running: Running) -> None:
    """The next signature takes the report along; no request is made for it."""
    key = running.key()
    key._shared_nonces.report(API, "RS", "n-1", True)
    key._shared_nonces.report("https://evil.example", "RS", "n-1", True)
    key._shared_nonces.report(API, "RS", "n-2", True)
    dpop.create_proof(key, "GET", API)
    assert known(running.key()) == "n-2"
    assert [each["origin"] for each in running.client().request("key", key="work")["nonces"]] == [API]


def test_a_nonce_for_one_request(running: Running) -> None:
    """It is given to one client, comes back if that ends without using it, and is gone when it was used."""
    with running.connect() as first:
        assert first.ask(op="learn", key="work", learnt=told("n-1", reusable=False)) == {"v": 1, "learnt": True}
        assert first.ask(op="key", key="work")["nonces"] == told("n-1", reusable=False)
        with running.connect() as second:
            assert second.ask(op="key", key="work")["nonces"] == []
    due = time.monotonic() + 60
    while not (key := running.key())._shared_nonces.known and time.monotonic() < due:
        time.sleep(0.01)
    assert known(key) == "n-1"
    dpop.create_proof(key, "GET", API, nonce="n-1")
    assert known(running.key()) is None


def test_each_key_has_its_own(folder: Path) -> None:
    """As has each role of a server."""
    with agent_running(folder, rules_of(folder), rules_of(folder, "other")) as running:
        client = running.client()
        client.request("learn", key="work", learnt=told("n-1") + told("n-2", role="AS"))
        assert known(running.key("other")) is None
        key = running.key()
        cache = Prover(key).nonces
        names = [NonceKey(key.thumbprint, Origin.parse(API), role) for role in (Role.RS, Role.AS)]
        assert [cache.newest(name) for name in names] == ["n-1", "n-2"]


def test_what_is_no_nonce(running: Running) -> None:
    """A report that no server can have caused is refused as a whole."""
    with running.connect() as wire:
        for wrong in (
            told("a b"),
            told(""),
            told("x" * 257),
            told("n", role="XX"),
            [{**told("n")[0], "role": ["RS"]}],
            [{"nonce": "n"}],
            "n",
            told("n") * 65,
        ):
            assert wire.ask(op="learn", key="work", learnt=wrong)["error"] == "bad_request"
        assert wire.ask(op="key", key="work")["nonces"] == []
