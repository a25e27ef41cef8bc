# SPDX-License-Identifier: Apache-2.0
"""One of everything, shared by sixteen threads that take turns after every few steps of the interpreter.

On a Python without the global lock the threads run at once. On the others the interpreter is told to change between
them every microsecond, which finds most of what relies on the lock.
"""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
import requests
from support.jwt_issuer import AUDIENCE, JWTIssuer

import dpop
from dpop.errors import InvalidProof
from dpop.httpx2 import DPoPTransport
from dpop.proof import create_proof
from dpop.requests import DPoPAdapter, TokenEndpoint
from dpop.server import (
    JWTAccessTokens,
    MemoryReplayCache,
    NonceIssuer,
    ProofVerifier,
    ProtectedResource,
    ResourceRequest,
)
from dpop.testing import DPoPTestServer
from dpop.tokens import FileTokenStore, MemoryTokenStore, TokenStore

THREADS = 16


@pytest.fixture(autouse=True)
def _many_turns() -> Iterator[None]:
    """The threads take turns as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def together(work: Callable[[int], object]) -> None:
    """Run it in all threads, which start at the same moment; the first error is raised."""
    start = threading.Barrier(THREADS)

    def run(number: int) -> None:
        start.wait(60)
        work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(run, number) for number in range(THREADS)]:
            done.result(120)


@pytest.mark.parametrize("nonces", ["rotating", "per-answer", "single-use"])
@pytest.mark.parametrize("in_file", [False, True], ids=["memory", "file"])
def test_a_client_whose_tokens_are_revoked_again_and_again(nonces: str, in_file: bool, tmp_path: Path) -> None:
    """Every request is answered, each proof is sent once, and each revocation costs one refresh."""
    rounds = 5
    with DPoPTestServer(nonces=nonces) as server, requests.Session() as session:  # type: ignore[arg-type]
        server.levers.rotate_refresh_tokens = True
        server.levers.nonce_grace = 4 * THREADS  # else a request may meet three nonces in a row that are used up
        key = dpop.generate_key()
        with TokenEndpoint.discover(key, server.issuer, client_id=server.public_client_id) as endpoint:
            store: TokenStore = FileTokenStore(tmp_path / "tokens.json") if in_file else MemoryTokenStore()
            store.save(endpoint.refresh(server.issue_refresh_token(client_id=server.public_client_id)))
            source = endpoint.source(store)
            prover = dpop.Prover(key)
            session.mount(server.origin, DPoPAdapter(prover, origins=server.origin, access_token=source))
            transport = DPoPTransport(prover, origins=server.origin, access_token=source)
            again = threading.Barrier(THREADS, action=server.revoke_access_tokens)
            statuses: Counter[int] = Counter()
            with httpx2.Client(transport=transport) as client:

                def work(number: int) -> None:
                    for _ in range(rounds):
                        again.wait(60)
                        one = session.get if number % 2 else client.get
                        statuses.update(one(f"{server.resource}/{number}").status_code for _ in range(3))

                together(work)
        sent = [request for request in server.requests if request.proof is not None]
    assert set(statuses) == {200}
    assert len({request.proof for request in sent}) == len(sent)
    assert sum(request.endpoint == "token" and request.status == 200 for request in server.requests) == 1 + rounds


def test_a_verifier_that_is_sent_each_proof_by_every_thread() -> None:
    """Each proof is accepted once, and each nonce that is for one use as well."""
    key = dpop.generate_key()
    nonces = NonceIssuer(single_use=MemoryReplayCache())
    verifier = ProofVerifier(replay=MemoryReplayCache(), nonces=nonces)
    reused = [nonces.issue() for _ in range(50)]
    proofs = [
        create_proof(key, "GET", AUDIENCE, access_token="token", nonce=nonce) for nonce in reused for _ in range(2)
    ]
    accepted: list[str] = []

    def work(number: int) -> None:
        for proof in random.Random(number).sample(proofs, len(proofs)):
            try:
                verifier.verify_resource(
                    [("DPoP", proof)], "GET", AUDIENCE, access_token="token", bound_jkt=key.thumbprint
                )
            except InvalidProof:
                continue
            accepted.append(proof)

    together(work)
    assert len(accepted) == len(set(accepted)) == len(reused)


def test_an_api_that_sees_a_token_for_the_first_time_in_every_thread() -> None:
    """The keys of its issuer are fetched once, and each request is let in."""
    key = dpop.generate_key()
    with JWTIssuer() as issuer:
        tokens = JWTAccessTokens(issuer=issuer.url, audience=AUDIENCE)
        api = ProtectedResource(ProofVerifier(replay=MemoryReplayCache()), url=AUDIENCE, token=tokens)
        many = [issuer.token(jti=str(number), cnf={"jkt": key.thumbprint}) for number in range(20)]
        admitted: list[str] = []

        def work(number: int) -> None:
            for token in random.Random(number).sample(many, len(many)):
                proof = create_proof(key, "GET", f"{AUDIENCE}/items", access_token=token)
                request = ResourceRequest(
                    "GET", "/items", "/items", [("Authorization", f"DPoP {token}"), ("DPoP", proof)]
                )
                admitted.append(api.admit(request).claims["jti"])

        together(work)
        assert issuer.fetches == 1
    assert Counter(admitted) == {str(number): THREADS for number in range(20)}


def test_names_that_are_imported_on_first_use() -> None:
    """Threads that meet in a package for the first time all get the same objects."""
    script = """
import sys, threading
sys.setswitchinterval(1e-6)
import dpop
start, found = threading.Barrier(16), []
def work():
    start.wait()
    from dpop import client, errors, keys, profiles, server, tokens
    rooms = (dpop, client, keys, profiles, server, tokens)
    found.append([(room.__name__, name, id(getattr(room, name))) for room in rooms for name in room.__all__])
threads = [threading.Thread(target=work) for _ in range(16)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(found) == 16, len(found)
assert all(names == found[0] for names in found)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
