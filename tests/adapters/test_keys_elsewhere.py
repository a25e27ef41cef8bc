# SPDX-License-Identifier: Apache-2.0
"""Clients whose key is in a signing agent or in a device: what the table of behaviours asks for, in one program each.

The table itself, in behaviours/, runs with an agent's key as well. Here each client has its turn, and two devices.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from typing import Any

import pytest
from support.agents import agent_running, rules_of, socket_folder
from support.clients import ASYNCHRONOUS, CLIENTS, make
from support.pkcs11_devices import SoftHsm, Tpm
from support.recorder import Received, Recorder, Response, challenge

import dpop
from dpop.client import Prover
from dpop.errors import AgentRefusedError
from dpop.keys.pkcs11._modules import close_modules
from dpop.server import InvalidProof, MemoryReplayCache, ProofVerifier

BODY = b"0123456789" * 1000
CASES = [*((name, "agent") for name in sorted(CLIENTS)), ("aiohttp", "softhsm"), ("aiohttp", "tpm")]


class Source:
    """A token source whose first token is dead."""

    def __init__(self) -> None:
        self.token = 1

    def __call__(self) -> str:
        return f"token-{self.token}"

    def refused(self, token: str, /) -> None:
        self.token += token == "token-1"


class Api:
    """Verifies each proof, takes each nonce once and the second token only, and redirects whoever asks for that."""

    def __init__(self) -> None:
        self._verifier = ProofVerifier(replay=MemoryReplayCache())
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._good: set[str | None] = set()
        self.jkt = ""
        self.faults: list[str] = []

    def __call__(self, request: Received) -> Response:
        token = request.one("Authorization").removeprefix("DPoP ")
        url = f"http://{request.one('Host')}{request.target}"
        try:
            self._verifier.verify_resource(
                [("DPoP", request.one("DPoP"))], request.method, url, access_token=token, bound_jkt=self.jkt
            )
        except InvalidProof as error:
            self.faults.append(error.reason)
            return Response(400)
        with self._lock:
            fresh = f"n{next(self._numbers)}"
            good = request.nonce in self._good
            self._good.discard(request.nonce)
            self._good.add(fresh)
        if not good:
            return challenge(fresh)
        if token == "token-1":
            return Response(401, [("WWW-Authenticate", 'DPoP error="invalid_token"'), ("DPoP-Nonce", fresh)])
        if request.target == "/there":
            return Response(307, [("Location", "/here"), ("DPoP-Nonce", fresh)])
        return Response(200, [("DPoP-Nonce", fresh)], request.body)


@pytest.fixture
def held(kind: str, request: pytest.FixtureRequest) -> Iterator[tuple[Recorder, Api, dpop.Key]]:
    """A server, and a key elsewhere that is for this server."""
    api = Api()
    with Recorder(api) as server:
        if kind == "agent":
            with socket_folder() as folder, agent_running(folder, rules_of(folder, origins=[server.origin])) as running:
                key: dpop.Key = running.key()
                api.jkt = key.thumbprint
                yield server, api, key
            return
        tokens: SoftHsm | Tpm = request.getfixturevalue(kind)
        close_modules()
        key = dpop.load_key(tokens.uri())
        api.jkt = key.thumbprint
        yield server, api, key
        close_modules()
        if isinstance(tokens, Tpm):
            tokens.flush()


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_key_that_is_elsewhere(name: str, held: tuple[Recorder, Api, dpop.Key]) -> None:
    """A nonce, a dead token, a redirect with a body, an upload that can be read once, and sixteen requests at once."""
    server, api, key = held
    with make(name, key, origins=server.origin, access_token=Source()) as client:
        first = client.send("POST", server.url("/there"), body=client.bytes_body(BODY))
        assert (first.status, first.history, first.body) == (200, [307], BODY)
        # No nonce, the first token, the second, and the hop.
        assert [request.target for request in server.requests] == ["/there"] * 3 + ["/here"]
        upload = client.send("POST", server.url("/here"), body=client.stream_body(BODY))
        assert (upload.status, upload.body) == (200, BODY)
        if name in ASYNCHRONOUS:

            async def storm() -> list[Any]:
                return await asyncio.gather(*(client.asend("GET", server.url("/here")) for _ in range(16)))

            replies = client.runner.run(storm())
        else:
            with ThreadPoolExecutor(16) as pool:
                replies = list(pool.map(lambda _: client.send("GET", server.url("/here")), range(16)))
        assert [reply.status for reply in replies] == [200] * 16
    assert api.faults == []
    proofs = {request.one("DPoP") for request in server.requests}
    assert len(proofs) == len(server.requests)
    assert {dpop.thumbprint(request.jwk) for request in server.requests} == {key.thumbprint}


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes."""
    while error is not None:
        yield error
        error = error.__cause__


@pytest.mark.parametrize("name", ["aiohttp", "requests"])
def test_a_learnt_clock_does_not_count_for_an_agent(name: str) -> None:
    """``learn_clock`` is refused before anything is sent; what the agent's rules say as well is signed."""

    def handler(request: Received) -> Response:
        now = time.time() + 90
        if abs(request.claims["iat"] - now) < 30:
            return Response(200)
        date = ("Date", formatdate(now, usegmt=True))
        return Response(401, [("WWW-Authenticate", 'DPoP error="invalid_dpop_proof"'), date])

    with Recorder(handler) as server, socket_folder() as folder:
        plain = rules_of(folder, origins=[server.origin])
        told = rules_of(folder, "told", origins=[server.origin], clock_offset={server.origin: 90})
        with agent_running(folder, plain, told) as running:
            with make(name, running.key(), origins=server.origin, access_token="t", learn_clock=True) as client:
                assert client.send("GET", server.url("/r")).status == 401
                with pytest.raises(Exception, match="clock-offset") as caught:
                    client.send("GET", server.url("/r"))
            assert len(server.requests) == 1
            refused = [each for each in chain_of(caught.value) if isinstance(each, AgentRefusedError)]
            assert [each.reason for each in refused] == ["iat"]
            prover = Prover(running.key("told"), clock=lambda: time.time() + 90)
            with make(name, prover, origins=server.origin, access_token="t") as client:
                assert client.send("GET", server.url("/r")).status == 200
