# SPDX-License-Identifier: Apache-2.0
"""Four workers behind nginx that share a replay cache in Redis, while keys are rotated and a worker is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from support.jwt_issuer import AUDIENCE, JWTIssuer
from support.reverse_proxies import ask_through, nginx
from support.servers import running

import dpop

API = """
import os

import redis
from flask import Flask, request

from dpop.redis import RedisReplayCache
from dpop.server import JWTAccessTokens, ProofVerifier, ProtectedResource
from dpop.wsgi import DPoPMiddleware, access

cache = RedisReplayCache(redis.Redis.from_url("REDIS"), when_down="refuse")
tokens = JWTAccessTokens(issuer="ISSUER", audience="https://api.example", ask_again_after=0.1, timeout=25)
app = Flask(__name__)
app.wsgi_app = DPoPMiddleware(
    app.wsgi_app, ProtectedResource(ProofVerifier(replay=cache), url="https://api.example", token=tokens)
)


@app.get("/items")
def items():
    access(request.environ)
    return "", {"X-Worker": str(os.getpid())}
"""
THREADS, PROOFS = 8, 30


class Traffic:
    """Clients that send each of their proofs twice at once, and what became of the proofs."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.key = dpop.generate_key()
        self.accepted: Counter[str] = Counter()
        self.refused: Counter[int] = Counter()
        self.lost: set[str] = set()
        self.pids: set[int] = set()
        self._lock = threading.Lock()

    def run(self, token: str) -> None:
        """Let eight clients send with a token."""
        barrier = threading.Barrier(THREADS)
        self._all(self._client, token, barrier, times=THREADS)

    def _client(self, token: str, barrier: threading.Barrier) -> None:
        for _ in range(PROOFS // THREADS + 1):
            proof = dpop.create_proof(self.key, "GET", f"{AUDIENCE}/items", access_token=token)
            with self._lock:
                self.accepted[proof] += 0
            barrier.wait(30)
            self._all(self._send, token, proof, times=2)

    def _send(self, token: str, proof: str) -> None:
        reply = ask_through(self.path, "/items", ("Authorization", f"DPoP {token}"), ("DPoP", proof))
        with self._lock:
            if reply.status == 200:
                self.accepted[proof] += 1
                self.pids.add(int(reply.all("x-worker")[0]))
            elif reply.status == 502:  # the worker that had it was killed
                self.lost.add(proof)
            else:
                self.refused[reply.status] += 1

    @staticmethod
    def _all(work: Callable[..., None], *arguments: object, times: int) -> None:
        threads = [threading.Thread(target=work, args=arguments) for _ in range(times)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def test_each_proof_is_accepted_once_and_no_good_request_is_refused(redis_url: str, tmp_path: Path) -> None:
    """Before and after a rotation of the keys, and while a worker is killed: only what it had at hand is lost."""
    with JWTIssuer() as issuer:
        text = API.replace("REDIS", redis_url).replace("ISSUER", issuer.url)
        (tmp_path / "api.py").write_text(text, "utf-8")
        with running("gunicorn", "api", where=tmp_path, workers=4) as port, nginx(tmp_path, port, port) as path:
            traffic = Traffic(path)
            bound = {"cnf": {"jkt": traffic.key.thumbprint}}
            traffic.run(issuer.token(**bound))
            issuer.rotate("k2", keep=True)
            time.sleep(0.2)  # the interval within which an issuer is not asked again
            traffic.run(issuer.token(kid="k2", **bound))
            assert not traffic.lost
            killer = threading.Timer(0.02, os.kill, (min(traffic.pids), signal.SIGKILL))
            killer.start()
            traffic.run(issuer.token(kid="k2", **bound))
            killer.join()
            traffic.run(issuer.token(kid="k2", **bound))
    assert max(traffic.accepted.values()) == 1
    assert len(traffic.lost) <= 2 * THREADS
    assert [proof for proof, times in traffic.accepted.items() if times == 0 and proof not in traffic.lost] == []
    assert set(traffic.refused) == {401}
    assert len(traffic.pids) >= 2
