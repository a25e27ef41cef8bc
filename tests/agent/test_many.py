# SPDX-License-Identifier: Apache-2.0
"""Many clients of one agent at once, and a key in a device, which only the agent has open."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.agents import API, Wire, agent_running, rules_of
from support.forking import in_child
from support.pkcs11_devices import KEY, PIN, SoftHsm

import dpop
from dpop.agent import AgentKey, AgentLogins, AgentTokens, KeyRules
from dpop.errors import AgentLockedError
from dpop.requests import TokenEndpoint
from dpop.server import MemoryReplayCache, ProofVerifier
from dpop.testing import DPoPTestServer

URL = f"{API}/me"


def accepted(proofs: list[str]) -> set[str]:
    """The thumbprints of proofs, each of which a verifier accepts once."""
    verifier = ProofVerifier(replay=MemoryReplayCache())
    return {verifier.verify_token_request([("DPoP", proof)], "GET", URL).jkt for proof in proofs}


def test_64_clients_at_once(folder: Path) -> None:
    """Each has proofs signed on a connection of its own, while others stop in the middle of a frame; none remains."""
    with agent_running(folder, rules_of(folder)) as running:
        before = threading.active_count()
        together = threading.Barrier(64)

        def client() -> list[str]:
            with running.client() as own:
                key = AgentKey.open("work", client=own)
                together.wait(60)
                return [dpop.create_proof(key, "GET", URL) for _ in range(5)]

        stuck = [Wire(running.path) for _ in range(16)]
        for wire in stuck:
            wire.send(b"\0\0\1\0{")
        with ThreadPoolExecutor(64) as pool:
            proofs = [proof for made in pool.map(lambda _: client(), range(64)) for proof in made]
        for wire in stuck:
            wire.socket.close()
        assert len(set(proofs)) == 320
        assert accepted(proofs) == {running.key().thumbprint}
        due = time.monotonic() + 60
        while threading.active_count() > before + 1 and time.monotonic() < due:
            time.sleep(0.01)
        assert threading.active_count() <= before + 1  # the key above is still connected


def test_a_key_in_a_device(softhsm: SoftHsm, folder: Path) -> None:
    """Forked processes sign with one key in a device, and a login is refreshed with it; after a lock it goes on."""
    (folder / "pin.txt").write_text(PIN)
    with DPoPTestServer() as server:
        uri = f"pkcs11:token={softhsm.label};object={KEY}"
        rules = KeyRules("work", uri, [API, server.origin], password_file=folder / "pin.txt")
        with agent_running(folder, rules, logins=AgentLogins(folder / "logins", TokenEndpoint)) as running:
            key = running.key(verify=True)

            def child() -> bytes:
                return dpop.create_proof(key, "GET", URL).encode()

            proofs = [in_child(child).decode() for _ in range(3)]
            assert accepted([*proofs, dpop.create_proof(key, "GET", URL)]) == {key.thumbprint}
            running.client().request(
                "login",
                account="work",
                key="work",
                token_endpoint=server.token_endpoint,
                client_id=server.public_client_id,
                access_token="old",
                token_type="DPoP",
                expires_at=1,
                refresh_token=server.issue_refresh_token(jkt=key.thumbprint, client_id=server.public_client_id),
            )
            tokens = AgentTokens("work", client=running.client())
            first = tokens()
            running.agent.lock()
            with pytest.raises(AgentLockedError):
                tokens()
            running.agent.unlock()
            assert tokens.renew() != first
