# SPDX-License-Identifier: Apache-2.0
"""Verifiers in separate processes that share a Redis; a separate module, because such a process cannot import tests."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import redis

from dpop.errors import InvalidProof
from dpop.redis import RedisReplayCache
from dpop.server import ProofVerifier

URL = "https://as.example/token"


def verify_in_a_process(url: str, proofs: list[str], start: Any) -> list[str]:
    """Verify the same proofs in 25 threads of one process; return one verdict for each proof and thread."""
    verdicts = []
    with redis.Redis.from_url(url) as client:
        verifier = ProofVerifier(replay=RedisReplayCache(client, when_down="refuse"))

        def verify(proof: str) -> str:
            try:
                verifier.verify_token_request([("DPoP", proof)], "POST", URL)
            except InvalidProof as refused:
                return refused.reason
            return "accepted"

        start.wait(30)
        with ThreadPoolExecutor(25) as pool:
            for proof in proofs:
                verdicts += list(pool.map(verify, [proof] * 25))
    return verdicts
