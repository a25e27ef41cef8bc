# SPDX-License-Identifier: Apache-2.0
"""A client of the signing agent in another language: written by the protocol's document, without this package."""

from __future__ import annotations

import json

from interop.peers import node
from support.agents import API, agent_running, rules_of, socket_folder

from dpop.server import MemoryReplayCache, ProofVerifier

TOKEN = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"
URL = f"{API}/me"


def test_node_signs_through_the_agent() -> None:
    """Its proofs are accepted, several at once on one connection; what the rules do not allow is refused to it, too."""
    wanted = [{"htm": "GET", "htu": URL, "access_token": TOKEN, "nonce": "n-1"} for _ in range(20)]
    elsewhere = {"htm": "GET", "htu": "https://evil.example/me"}
    with (
        socket_folder() as folder,
        agent_running(folder, rules_of(folder)) as running,
        node("agent.mjs", packages=()) as process,
    ):
        told = {"socket": str(running.path), "key": "work", "requests": [*wanted, elsewhere]}
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(told) + "\n")
        process.stdin.flush()
        *proofs, refused = json.loads(process.stdout.readline())
        verifier = ProofVerifier(replay=MemoryReplayCache())
        jkt = running.key().thumbprint
        seen = [
            verifier.verify_resource([("DPoP", proof)], "GET", URL, access_token=TOKEN, bound_jkt=jkt)
            for proof in proofs
        ]
        running.path.parent.chmod(0o777)
        process.stdin.write(json.dumps(told) + "\n")
        process.stdin.flush()
        assert "others can write" in json.loads(process.stdout.readline())[0]["error"]
    assert len({proof.jti for proof in seen}) == len(wanted)
    assert refused == {"error": "refused", "reason": "origin"}
