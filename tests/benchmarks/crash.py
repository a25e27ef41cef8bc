# SPDX-License-Identifier: Apache-2.0
"""kill -9 at random moments of a refresh: the store always opens, and whatever was handed out is in it.

    python tests/benchmarks/crash.py [--kills 500] [--seed N]

A child refreshes without pause, with a server that replaces the refresh token each time; it says which token
it was given. Its parent kills it, reads the store, and compares with what the server knows:

- the store opens, and holds what the child was last given, or something newer;
- if the server has replaced the refresh token in the store, the store says that a refresh was begun;
- the next child goes on from there, or is told that the answer was lost. Then it logs in again.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.recorder import Received, Recorder, Response

import dpop
from dpop.errors import ReauthorizationError
from dpop.requests import TokenEndpoint
from dpop.tokens import FileTokenStore, TokenSet

KEY = dpop.generate_key()
_TOKENS = "/token"
_STATE = "/state"
_LOGIN = "/login"


def serve() -> None:
    """A token endpoint whose refresh tokens are numbers, each good once."""
    lock, state, dice = threading.Lock(), {"good": 0}, random.Random(1)

    def response(request: Received) -> Response:
        if request.target != _TOKENS:
            with lock:
                state["good"] += request.target == _LOGIN
                return Response(200, [], json.dumps(state).encode())
        time.sleep(dice.random() * 0.002)
        with lock:
            if f"refresh_token=r{state['good']}".encode() not in request.body.split(b"&"):
                return Response(400, [], b'{"error":"invalid_grant"}')
            state["good"] += 1
            number = state["good"]
        time.sleep(dice.random() * 0.002)
        body = {"access_token": f"a{number}", "token_type": "DPoP", "expires_in": 3600, "refresh_token": f"r{number}"}
        return Response(200, [], json.dumps(body).encode())

    with Recorder(response) as recorder:
        print(recorder.port, flush=True)
        sys.stdin.read()


def ask(port: int, path: str) -> int:
    """The number of the newest refresh token, from the server itself."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", path)
        good: int = json.loads(connection.getresponse().read())["good"]
        return good


def child(url: str, path: Path, told: int) -> None:
    """Refresh without pause, saying what was handed out, until killed."""
    store = FileTokenStore(path)
    stored = store.load()
    now = (stored and stored.expires_at) or time.time()  # whatever is there has expired
    endpoint = TokenEndpoint(KEY, url, client_id="c", clock=lambda: now)
    source = endpoint.source(store)
    os.write(told, b"up\n")
    try:
        while True:
            os.write(told, f"{source()[1:]}\n".encode())
            now += 3600
    except ReauthorizationError as error:
        os.write(told, b"lost\n" if "its response never arrived" in str(error) else b"unexplained\n")


def window(port: int, path: Path) -> float:
    """Seconds in which a child refreshes a few times on this machine, now."""
    reading, telling = os.pipe()
    pid = os.fork()
    if pid == 0:
        child(f"http://127.0.0.1:{port}{_TOKENS}", path, telling)
    os.close(telling)
    with os.fdopen(reading, "r") as told:
        assert told.readline() == "up\n"
        begun = time.monotonic()
        for _ in range(3):
            told.readline()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return time.monotonic() - begun


def one(port: int, path: Path, dice: random.Random, outcomes: Counter[str], window: float) -> None:
    """One life of a child, and what its end leaves."""
    reading, telling = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            child(f"http://127.0.0.1:{port}{_TOKENS}", path, telling)
        finally:
            os._exit(0)
    os.close(telling)
    with os.fdopen(reading, "r") as told:
        assert told.readline() == "up\n", "the store could not be read"
        time.sleep(dice.random() * window)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        lines = told.read().split("\n")[:-1]
    handed_out = [int(line) for line in lines if line.isdigit()]
    stored = FileTokenStore(path).load()
    assert stored is not None, "the store is empty"
    number = int(stored.access_token[1:])
    assert stored.refresh_token == f"r{number}", "tokens of two answers in one set"
    assert not handed_out or number >= handed_out[-1], f"{handed_out[-1]} was handed out, and {number} is stored"
    good = wait_until_quiet(port)
    if "unexplained" in lines:
        raise AssertionError("a refusal that the store could not explain")
    if number < good and not stored.refusal:
        assert number == good - 1, f"{good - number} answers are missing in the store"
        assert stored.refresh_sent_at is not None, "an answer was lost, and the store does not say so"
        outcomes["answer lost, and noted"] += 1
    elif "lost" in lines:
        outcomes["told that an answer was lost"] += 1
        good = ask(port, _LOGIN)
        FileTokenStore(path).save(old(good))
    else:
        outcomes["nothing lost" if stored.refresh_sent_at is None else "nothing lost, a refresh begun"] += 1
    left = list(path.parent.glob(".*.tmp"))
    assert len(left) <= 1, f"{len(left)} temporary files lie about"
    outcomes["refreshes"] += len(handed_out)


def wait_until_quiet(port: int) -> int:
    """The newest number, once what the killed child had sent is through."""
    before = -1
    while (good := ask(port, _STATE)) != before:
        before = good
        time.sleep(0.01)
    return good


def old(number: int) -> TokenSet:
    """Tokens that have expired."""
    return TokenSet(access_token=f"a{number}", expires_at=1, refresh_token=f"r{number}", jkt=KEY.thumbprint)


def main() -> int:
    """Kill so often, and say what was left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return 0
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    dice, outcomes = random.Random(seed), Counter[str]()
    # In a process of its own: this one forks, and must have one thread.
    server = subprocess.Popen(
        [sys.executable, __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    try:
        port = int(server.stdout.readline())
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "tokens.json"
            FileTokenStore(path).save(old(0))
            seconds = window(port, path)
            FileTokenStore(path).save(old(ask(port, _LOGIN)))
            for number in range(options.kills):
                try:
                    one(port, path, dice, outcomes, seconds)
                except AssertionError as error:
                    print(f"kill {number} of seed {seed}: {error}")
                    return 1
    finally:
        server.kill()
        server.communicate()
    print(f"{options.kills} kills, seed {seed}: {dict(outcomes)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
