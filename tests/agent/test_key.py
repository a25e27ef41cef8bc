# SPDX-License-Identifier: Apache-2.0
"""A key in the agent, as a program uses it: from threads, after forks, while the agent comes and goes."""

from __future__ import annotations

import copy
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.agents import API, Running, agent_running, rules_of

import dpop
from dpop.agent import AgentClient, AgentKey
from dpop.agent._protocol import pack
from dpop.client import OutgoingRequest, Policy, ProofFlow
from dpop.errors import (
    AgentLockedError,
    AgentUnavailableError,
    AlgorithmError,
    InvalidKeyError,
    KeyAccessDeniedError,
    KeyNotFoundError,
    KeyPasswordError,
    KeyThrottledError,
    SigningError,
    UsageError,
)
from dpop.server import MemoryReplayCache, ProofVerifier
from dpop.tokens import TokenSet

URL = f"{API}/me"


def accepted(proof: str) -> str:
    """The thumbprint of a proof that a verifier accepts."""
    verifier = ProofVerifier(replay=MemoryReplayCache(), algs=dpop.keys.ALGORITHMS)
    return verifier.verify_token_request([("DPoP", proof)], "GET", URL).jkt


@pytest.fixture
def found(running: Running, monkeypatch: pytest.MonkeyPatch) -> Running:
    """The agent, where :func:`dpop.load_key` finds it."""
    monkeypatch.setenv("DPOP_AGENT_SOCK", os.fspath(running.path))
    return running


# --- a key like any other


def test_a_proof(found: Running) -> None:
    """``load_key("agent:work")`` is a key like any other, and knows what it was opened by."""
    key = dpop.load_key("agent:work?verify=yes")
    assert accepted(dpop.create_proof(key, "GET", URL, nonce="n-1", access_token="t")) == key.thumbprint
    assert key.blocking
    assert (key.thumbprint, key.alg) == (dpop.thumbprint(key.public_jwk), "ES256")
    assert isinstance(key, AgentKey)
    assert key.reference == "agent:work?verify=yes"
    assert copy.deepcopy(key) is key
    with pytest.raises(UsageError, match="hand on its URI"):
        pickle.dumps(key)


@pytest.mark.parametrize("alg", ["ES384", "Ed25519", "PS256"])
def test_each_kind_of_key(folder: Path, alg: str) -> None:
    """Signatures of every kind come back whole."""
    with agent_running(folder, rules_of(folder, alg=alg)) as running:
        key = running.key(verify=True)
        assert key.alg == alg
        accepted(dpop.create_proof(key, "GET", URL))


def test_a_flow(found: Running) -> None:
    """What adapters drive works with it, nonce and token included."""
    policy = Policy(dpop.load_key("agent:work"), origins=API, access_token="t")
    flow = ProofFlow.open(policy, OutgoingRequest("GET", URL))
    assert flow is not None


def test_tokens_note_it(found: Running) -> None:
    """A token set can note an agent's key, as it can any other."""
    key = dpop.load_key("agent:work")
    tokens = TokenSet(access_token="t", jkt=key.thumbprint, key_reference=getattr(key, "reference", None))
    assert tokens.key_reference == "agent:work"


@pytest.mark.parametrize(
    ("uri", "error"),
    [
        ("agent:", InvalidKeyError),
        ("agent:a/b", InvalidKeyError),
        ("agent://work", InvalidKeyError),
        ("agent:work?pin=1", InvalidKeyError),
        ("agent:work?jkt=short", InvalidKeyError),
        ("agent:work?uid=no.such.user", InvalidKeyError),
        ("agent:other", KeyNotFoundError),
        ("agent:Work", KeyNotFoundError),
    ],
)
def test_a_uri_that_names_no_key(found: Running, uri: str, error: type[Exception]) -> None:
    """Each is a typed error."""
    with pytest.raises(error):
        dpop.load_key(uri)


def test_a_password_and_another_algorithm(found: Running) -> None:
    """A password belongs to the agent, and the algorithm is the agent's, too."""
    with pytest.raises(KeyPasswordError, match="dpop agent unlock"):
        dpop.load_key("agent:work", password="x")
    assert dpop.load_key("agent:work", password=lambda: "x", alg="ES256").alg == "ES256"
    with pytest.raises(AlgorithmError, match="signs with ES256"):
        dpop.load_key("agent:work", alg="PS256")


def test_claims_and_a_time_of_ones_own(found: Running) -> None:
    """They are refused before the agent is asked, with the reason."""
    key = dpop.load_key("agent:work")
    for more in ({"claims": {"sub": "me"}}, {"iat": int(time.time())}):
        with pytest.raises(UsageError, match="for tomorrow"):
            dpop.create_proof(key, "GET", URL, **more)  # type: ignore[arg-type]
    assert found.audited == []


# --- many at once


# A program of eight processes of four threads, forked when the key has been used already.
_FORKS = """
import os, sys, threading
import dpop
key = dpop.load_key("agent:work")
proofs = [dpop.create_proof(key, "GET", sys.argv[1])]
children = []
for _ in range(8):
    read, write = os.pipe()
    if os.fork() == 0:
        def work():
            for _ in range(10):
                made = dpop.create_proof(key, "GET", sys.argv[1])
                os.write(write, made.encode() + b"\\n")
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        os._exit(0)
    os.close(write)
    children.append(read)
for read in children:
    with os.fdopen(read) as lines:
        proofs += lines.read().split()
    os.wait()
print(*proofs, dpop.create_proof(key, "GET", sys.argv[1]), sep="\\n")
"""


def test_threads_and_forks(found: Running) -> None:
    """Eight processes of four threads sign at once, each by connections of its own, and leave none behind."""
    shown = subprocess.run([sys.executable, "-c", _FORKS, URL], capture_output=True, text=True, check=True, timeout=120)
    proofs = shown.stdout.split()
    assert len(set(proofs)) == 8 * 40 + 2
    assert {accepted(proof) for proof in proofs} == {found.key().thumbprint}
    due, status = time.monotonic() + 60, found.client()
    while status.request("status")["connections"] > 1 and time.monotonic() < due:
        time.sleep(0.01)
    assert status.request("status")["connections"] == 1


def test_a_key_that_waits_delays_only_its_own(folder: Path) -> None:
    """While one key waits for a touch, another signs."""
    waits, touched = threading.Event(), threading.Event()

    class SlowKey:
        """A device that waits for a touch."""

        def __init__(self) -> None:
            self._key = dpop.generate_key()
            self.alg, self.public_jwk, self.thumbprint = "ES256", self._key.public_jwk, self._key.thumbprint
            self.blocking = True

        def sign(self, signing_input: bytes, /) -> bytes:
            waits.set()
            assert touched.wait(60)
            return self._key.sign(signing_input)

    slow = SlowKey()
    dpop.keys.register_scheme("slowkey", lambda uri, password, alg: slow)
    rules = rules_of(folder), type(rules_of(folder))("slow", "slowkey:1", [API])
    with agent_running(folder, *rules) as running, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(dpop.create_proof, running.key("slow"), "GET", URL)
        assert waits.wait(30)
        try:
            accepted(dpop.create_proof(running.key(), "GET", URL))
            assert not waiting.done()
        finally:
            touched.set()
        accepted(waiting.result(30))


def test_clients_that_are_killed_leave_nothing(found: Running) -> None:
    """After kill -9 of clients in the middle of their work, no connection and no thread of theirs remains."""
    before = threading.active_count()
    script = f"import dpop\nkey = dpop.load_key('agent:work')\nwhile True: dpop.create_proof(key, 'GET', '{URL}')"
    clients = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(4)]
    due = time.monotonic() + 60
    while len(found.audited) < 100 and time.monotonic() < due:
        time.sleep(0.01)
    for client in clients:
        client.kill()
        client.wait()
    while threading.active_count() > before and time.monotonic() < due:
        time.sleep(0.01)
    assert len(found.audited) >= 100
    assert threading.active_count() <= before
    accepted(dpop.create_proof(found.key(), "GET", URL))


# --- when the agent is not there


def test_no_agent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says where it was looked for, and how to start one."""
    monkeypatch.setenv("DPOP_AGENT_SOCK", str(folder / "none.sock"))
    with pytest.raises(AgentUnavailableError, match=r"none\.sock; start it with: dpop agent start"):
        dpop.load_key("agent:work")
    monkeypatch.delenv("DPOP_AGENT_SOCK")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    with pytest.raises(AgentUnavailableError, match=r"/dpop/agent\.sock"):
        dpop.load_key("agent:work")
    monkeypatch.setenv("DPOP_AGENT_SOCK", "relative.sock")
    with pytest.raises(UsageError, match="absolute"):
        dpop.load_key("agent:work")
    monkeypatch.setenv("DPOP_AGENT_SOCK", "/" + "x" * 200)
    with pytest.raises(UsageError, match="shorter"):
        dpop.load_key("agent:work")


def test_an_agent_that_is_restarted(folder: Path) -> None:
    """A key goes on with the next agent, and tells meanwhile that there is none."""
    rules = rules_of(folder)
    with agent_running(folder, rules) as running:
        key = running.key()
        dpop.create_proof(key, "GET", URL)
    with pytest.raises(AgentUnavailableError):
        dpop.create_proof(key, "GET", URL)
    with agent_running(folder, rules):
        accepted(dpop.create_proof(key, "GET", URL))


def test_an_agent_that_hangs(folder: Path) -> None:
    """One that takes no connection, or does not respond, is a typed error in bounded time."""
    place = folder / "agent.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(place))
        place.chmod(0o600)
        listener.listen(0)
        with pytest.raises(AgentUnavailableError, match="did not respond within 0 s"):
            AgentClient(place).request("status", seconds=0.05)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as waiting:
            waiting.setblocking(False)
            waiting.connect_ex(str(place))
            started = time.monotonic()
            with pytest.raises(AgentUnavailableError, match=r"takes no connection within 1 s|did not respond"):
                AgentClient(place).request("status", seconds=0.05)
            assert time.monotonic() - started < 30


def serving(place: Path, response: bytes) -> threading.Thread:
    """Something else than an agent, which says ``response`` to whoever asks, once."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(place))
    listener.listen()

    def serve() -> None:
        with listener:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(response)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"",
        b"\0\0\0\x02{}",
        b"\0\0\0\x07" + b'{"v":9}',
        b"\0\0\0\x07" + b'{"v":1}',
        b"\0\0\0\x02[]",
        b"\0\0\0\x17" + b'{"v":1,"error":["busy"]}'[:23],
        b"\0\0\0\x18" + b'{"v":1,"error":["busy"]}',
        b"\0\0\0\xff{",
        b"\0\0\0\x2f" + b'{"v":1,"alg":"ES256","wait":1,"jwk":{"kty":1}}  '[:47],
    ],
    ids=map(str, range(10)),
)
def test_what_is_no_agent(folder: Path, response: bytes) -> None:
    """Whatever else listens there is named as such."""
    place = folder / "agent.sock"
    thread = serving(place, response)
    with pytest.raises(AgentUnavailableError):
        AgentKey.open("work", client=AgentClient(place))
    thread.join(30)


@pytest.mark.parametrize(
    ("error", "kind"), [("denied", KeyAccessDeniedError), ("busy", KeyThrottledError)], ids=["denied", "busy"]
)
def test_an_agent_that_hangs_up_before_the_request(running: Running, error: str, kind: type[Exception]) -> None:
    """What it said before that reaches the program, although the request could not be sent any more."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    its.sendall(pack({"error": error, "message": "not for you"}))
    its.close()
    with running.client() as client:
        client._idle.append(ours)
        with pytest.raises(kind, match="not for you"):
            client.request("list")


def test_a_signature_that_is_none(folder: Path) -> None:
    """Its length and range are checked in this process, and with ``verify`` the signature itself."""
    key = dpop.generate_key()
    facts = {"alg": "ES256", "jwk": key.public_jwk, "wait": 5}
    wrong = dpop.generate_key().sign(b"x")
    for number, (signature, verify) in enumerate([(b"x", False), (bytes(64), False), (wrong, True)]):
        place = folder / f"{number}.sock"
        text = b'{"v":1,"signature":"%s"}' % dpop.encoding.b64url_encode(signature).encode()
        thread = serving(place, len(text).to_bytes(4, "big") + text)
        with pytest.raises(SigningError):
            AgentKey(AgentClient(place), "work", facts, verify=verify).sign(b"x")
        thread.join(30)


# --- lock and unlock


def test_lock_and_unlock(running: Running) -> None:
    """A locked agent tells so; its keys' public halves are known all the same."""
    key = running.key()
    running.client().request("lock")
    with pytest.raises(AgentLockedError, match="dpop agent unlock"):
        dpop.create_proof(key, "GET", URL)
    assert running.key().thumbprint == key.thumbprint
    assert running.client().request("unlock") == {"v": 1, "locked": False}
    accepted(dpop.create_proof(key, "GET", URL))


def test_a_password_is_asked_for_again(folder: Path) -> None:
    """What was locked needs its password to be opened; the agent kept neither."""
    dpop.generate_key().save(folder / "work.pem", password="right horse")
    with agent_running(folder, rules_of(folder), ask=lambda rules: "right horse") as running:
        client = running.client()
        dpop.create_proof(running.key(), "GET", URL)
        client.request("lock")
        assert client.request("unlock")["needs"] == "work"
        with pytest.raises(KeyPasswordError):
            client.request("unlock", passwords={"work": "wrong horse"})
        with pytest.raises(AgentLockedError):
            dpop.create_proof(running.key(), "GET", URL)
        client.request("unlock", passwords={"work": "right horse"})
        dpop.create_proof(running.key(), "GET", URL)
        assert "horse" not in str(running.audited)


def test_another_key_in_the_same_place(folder: Path) -> None:
    """Unlocking refuses a key that was put there meanwhile: programs know the first."""
    rules = rules_of(folder)
    with agent_running(folder, rules) as running:
        running.agent.lock()
        Path(rules.uri).unlink()
        dpop.generate_key().save(rules.uri)
        with pytest.raises(dpop.errors.KeyMismatchError, match="another key"):
            running.client().request("unlock")


def test_keys_are_forgotten_when_unused(folder: Path) -> None:
    """With ``lock_after`` the agent locks itself, without being asked."""
    rules = dpop.agent.AgentRules((rules_of(folder),), lock_after=0.05)
    with agent_running(folder, rules=rules) as running:
        due = time.monotonic() + 30
        while not running.client().request("status")["locked"] and time.monotonic() < due:
            time.sleep(0.01)
        assert running.client().request("status")["locked"]
    assert not isinstance(AgentLockedError("x"), KeyAccessDeniedError)
