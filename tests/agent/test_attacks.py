# SPDX-License-Identifier: Apache-2.0
"""Attacks on the agent and on its clients, each on a real socket."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.agents import API, Running, Wire, agent_running, rules_of
from support.forking import in_child

import dpop
from dpop.agent import AgentClient, AgentKey, listen
from dpop.errors import (
    AgentRefusedError,
    AgentUnavailableError,
    KeyAccessDeniedError,
    KeyFileError,
    KeyMismatchError,
    KeyNotFoundError,
)

IS_ROOT = os.geteuid() == 0
NOBODY = 65534


def segment(members: object) -> str:
    """BASE64URL of JSON."""
    return base64.urlsafe_b64encode(json.dumps(members).encode()).rstrip(b"=").decode()


def good(key: AgentKey) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and payload of a proof that the agent signs."""
    header = {"typ": "dpop+jwt", "alg": key.alg, "jwk": key.public_jwk}
    return header, {"jti": "j" * 22, "htm": "GET", "htu": f"{API}/me", "iat": int(time.time())}


def refusal(running: Running, header: dict[str, Any], payload: dict[str, Any]) -> str:
    """Why the agent does not sign this."""
    with pytest.raises(AgentRefusedError) as refused:
        running.key().sign(f"{segment(header)}.{segment(payload)}".encode())
    return str(refused.value.reason)


# --- what is asked of it


def test_it_signs_what_the_attacks_are_variations_of(running: Running) -> None:
    """The input that each attack changes in one place is signed as it is, and put on record."""
    key = running.key(verify=True)
    header, payload = good(key)
    assert len(key.sign(f"{segment(header)}.{segment(payload)}".encode())) == 64
    assert [(event["event"], event["origin"], event["jti"]) for event in running.audited] == [("signed", API, "j" * 22)]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"htu": "https://evil.example/me"}, "origin"),
        ({"htu": "https://api.example:8443/me"}, "origin"),
        ({"htu": "http://api.example/me"}, "origin"),
        ({"htu": "https://api.example@evil.example/me"}, "no_proof"),
        ({"htu": "https://api.example/me?a=b"}, "no_proof"),
        ({"htu": "https://API.example/me"}, "no_proof"),
        ({"htu": "https://api.example:443/me"}, "no_proof"),
        ({"htu": "https://evil.example\\@api.example/me"}, "no_proof"),
        ({"iat": lambda: int(time.time()) + 60}, "iat"),
        ({"iat": lambda: int(time.time()) - 60}, "iat"),
        ({"iat": time.time}, "no_proof"),
        ({"iat": "now"}, "no_proof"),
        ({"jti": ""}, "no_proof"),
        ({"jti": "x" * 257}, "no_proof"),
        ({"htm": "GET /"}, "no_proof"),
        ({"ath": "short"}, "no_proof"),
        ({"nonce": 'a"b'}, "no_proof"),
        ({"nonce": None}, "no_proof"),
        ({"sub": "me", "aud": "https://as.example/token"}, "no_proof"),
        ({"exp": 4_000_000_000}, "no_proof"),
    ],
    ids=map(str, range(20)),
)
def test_a_payload_that_is_no_proof_for_here_and_now(running: Running, change: dict[str, Any], reason: str) -> None:
    """A proof for another server, another time, or with more in it than a proof has, is not signed."""
    header, payload = good(running.key())
    changed = {name: value() if callable(value) else value for name, value in change.items()}
    assert refusal(running, header, payload | changed) == reason
    assert [event["event"] for event in running.audited] == ["refused"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"typ": "JWT"}, "no_proof"),
        ({"typ": "dpop+JWT"}, "no_proof"),
        ({"kid": "1"}, "no_proof"),
        ({"crit": ["b64"], "b64": False}, "no_proof"),
        ({"alg": "none"}, "key_mismatch"),
        ({"alg": "ES384"}, "key_mismatch"),
        ({"jwk": dpop.generate_key().public_jwk}, "key_mismatch"),
    ],
    ids=map(str, range(7)),
)
def test_a_header_that_is_no_proofs(running: Running, change: dict[str, Any], reason: str) -> None:
    """A client assertion, an ID token, or a header with more or other members than a proof's is not signed."""
    header, payload = good(running.key())
    assert refusal(running, header | change, payload) == reason


def test_a_header_key_with_more_members(running: Running) -> None:
    """The header's key has the required members only: what is beside them is not the agent's to confirm."""
    key = running.key()
    header, payload = good(key)
    assert refusal(running, header | {"jwk": {**key.public_jwk, "kid": "other"}}, payload) == "key_mismatch"


@pytest.mark.parametrize(
    "text",
    ["", "a.b.c", "e30.e30", "e30", "....", "e30.e30=", '{"typ":"dpop+jwt"}.e30', "é.e30", "e30." + "A" * 9000],
)
def test_text_that_is_no_signing_input(running: Running, text: str) -> None:
    """Other text than BASE64URL(header).BASE64URL(payload) is refused, and the connection goes on."""
    with running.connect() as wire:
        assert wire.ask(op="sign", key="work", input=text)["error"] in {"refused", "bad_request"}
        assert wire.ask(op="key", key="work")["alg"] == "ES256"


def test_duplicate_claims(running: Running) -> None:
    """A payload that says two things, of which a server could read the other, is not signed."""
    header, payload = good(running.key())
    twice = json.dumps(payload)[:-1] + ',"htu":"https://evil.example/"}'
    text = f"{segment(header)}.{base64.urlsafe_b64encode(twice.encode()).rstrip(b'=').decode()}"
    with pytest.raises(AgentRefusedError) as refused:
        running.key().sign(text.encode())
    assert refused.value.reason == "no_proof"


def test_a_method_that_the_rules_do_not_name(folder: Path) -> None:
    """A key for reading signs no POST."""
    with agent_running(folder, rules_of(folder, methods=["GET"])) as running:
        dpop.create_proof(running.key(), "GET", API)
        with pytest.raises(AgentRefusedError, match="allow GET only") as refused:
            dpop.create_proof(running.key(), "POST", API)
    assert refused.value.reason == "method"


# --- who asks


def test_a_key_for_another_user_only(folder: Path) -> None:
    """A user whom the rules do not name is not told that there is such a key."""
    with agent_running(folder, rules_of(folder), rules_of(folder, "theirs", uids=[NOBODY - 1])) as running:
        with pytest.raises(KeyNotFoundError):
            running.key("theirs")
        with running.connect() as wire:
            assert [key["key"] for key in wire.ask(op="list")["keys"]] == ["work"]
            assert wire.ask(op="sign", key="theirs", input="e30.e30")["error"] == "unknown_key"


def as_another_user(work: Callable[[], bytes]) -> bytes:
    """The result of ``work`` in a process of another user, or, without the right to make one, in one of this user."""

    def change_and_work() -> bytes:
        if IS_ROOT:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        return work()

    return in_child(change_and_work)


def test_another_user_cannot_connect(running: Running) -> None:
    """The folder and the socket keep other users out, before the agent itself is asked."""

    def work() -> bytes:
        try:
            Wire(running.path)
        except PermissionError:
            return b"refused"
        return b"connected"

    assert as_another_user(work) == (b"refused" if IS_ROOT else b"connected")
    assert [path.stat().st_mode & 0o777 for path in (running.path, running.path.parent)] == [0o600, 0o700]


def test_another_user_who_reaches_the_socket(folder: Path) -> None:
    """Even where somebody opened the folder and the socket to all, the agent serves those only whom its rules name."""
    with agent_running(folder, rules_of(folder)) as running:
        for path, mode in ((folder, 0o711), (running.path.parent, 0o711), (running.path, 0o666)):
            path.chmod(mode)

        def work() -> bytes:
            with Wire(running.path) as wire:
                return json.dumps([wire.ask(op="key", key="work"), wire.receive() if IS_ROOT else None]).encode()

        said, then = json.loads(as_another_user(work))
    assert (said.get("error"), then) == (("denied" if IS_ROOT else None), None)


def test_a_user_whom_the_rules_name(folder: Path) -> None:
    """Another user who is named may use that key, and may not change the agent."""
    named = [NOBODY if IS_ROOT else os.geteuid()]
    with agent_running(folder, rules_of(folder), rules_of(folder, "theirs", uids=named)) as running:
        for path, mode in ((folder, 0o711), (running.path.parent, 0o711), (running.path, 0o666)):
            path.chmod(mode)

        def work() -> bytes:
            with Wire(running.path) as wire:
                seen = [key["key"] for key in wire.ask(op="list")["keys"]]
                return json.dumps([seen, *(wire.ask(op=op).get("error") for op in ("lock", "status"))]).encode()

        seen, *errors = json.loads(as_another_user(work))
    assert seen == (["theirs"] if IS_ROOT else ["work", "theirs"])
    assert errors == (["denied", "denied"] if IS_ROOT else [None, None])


# --- what is sent to it


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00\x00\x00\x00",
        b"\x00\x0f\x42\x40" + b"x" * 1_000_000,
        b"\xff" * 100,
    ],
    ids=["HTTP", "an empty frame", "a body of 1 MB", "noise"],
)
def test_a_length_that_no_request_has(running: Running, data: bytes) -> None:
    """The agent says so and hangs up: where the next frame would begin is not known."""
    with running.connect() as wire:
        wire.send(data)
        response = wire.receive()
        assert response is None or response["error"] == "bad_request"
        assert wire.receive() is None
    assert running.client().request("key", key="work")["alg"] == "ES256"


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "null",
        "{",
        '{"v":1}',
        '{"v":2,"op":"list"}',
        '{"v":true,"op":"list"}',
        '{"op":"list"}',
        '{"v":1,"op":["list"]}',
        '{"v":1,"op":"sign","key":"work"}',
        '{"v":1,"op":"list","more":1}',
        '{"v":1,"op":"key","key":"../work"}',
        '{"v":1,"op":"key","key":1}',
        '{"v":1,"op":"list","op":"stop"}',
        '{"v":1,"op":"exec"}',
        "[" * 10_000,
        '{"v":1,"op":"key","key":"' + "w" * 20_000 + '"}',
    ],
    ids=map(str, range(16)),
)
def test_a_request_that_is_none(running: Running, text: str) -> None:
    """It is refused with a typed error that repeats nothing at length, and the connection goes on."""
    with running.connect() as wire:
        wire.send(len(text).to_bytes(4, "big") + text.encode())
        response = wire.receive()
        assert response is not None
        assert response["error"] in {"bad_request", "unsupported_version"}
        assert len(response["message"]) < 300
        assert wire.ask(op="key", key="work")["alg"] == "ES256"


def test_half_a_frame_delays_nobody(running: Running) -> None:
    """A client that stops within a frame has its own connection waiting, and nobody else's."""
    with running.connect() as stuck, running.connect() as deaf:
        stuck.send(b"\x00\x00\x00\x20{")
        for _ in range(200):  # never reads a response
            deaf.send(b"\x00\x00\x00\x12" + b'{"v":1,"op":"list"}'[:18])
        key = running.key()
        for _ in range(5):
            dpop.create_proof(key, "GET", API)
    assert sum(event["event"] == "signed" for event in running.audited) == 5


def test_a_thousand_connections(running: Running) -> None:
    """Those that stand idle make room for those that ask; a client whose connection was ended connects again."""
    key = running.key()
    wires: list[Wire] = []
    try:
        wires.extend(running.connect() for _ in range(1000))
        assert running.client().request("status", seconds=60)["connections"] <= 257
        dpop.create_proof(key, "GET", API)
    finally:
        for wire in wires:
            wire.socket.close()


# --- the places


def squat(path: Path) -> socket.socket:
    """A socket that listens, of somebody else's making."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(os.fspath(path))
    listener.listen()
    return listener


def test_the_agent_replaces_no_link_and_no_file(folder: Path) -> None:
    """What stands in the place of the socket, and is none that an agent left, stays as it is."""
    (folder / "run").mkdir(mode=0o700)
    place, target = folder / "run" / "agent.sock", folder / "target"
    target.write_text("mine")
    for make in (lambda: place.symlink_to(target), lambda: place.write_text("mine")):
        make()
        with pytest.raises(KeyFileError, match="not a socket of yours"), listen(place):
            pass
        assert target.read_text() == "mine"
        place.unlink()


def test_the_agent_replaces_a_socket_that_an_agent_left(folder: Path) -> None:
    """After kill -9 the socket is still there; the next agent takes its place, and removes its own at the end."""
    (folder / "run").mkdir(mode=0o700)
    place = folder / "run" / "agent.sock"
    squat(place).close()
    with listen(place):
        with pytest.raises(KeyFileError, match="already"), listen(place):
            pass
        assert place.exists()
    assert not place.exists()


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o720, 0o702])
def test_a_folder_that_others_can_write(running: Running, folder: Path, mode: int) -> None:
    """Neither the agent nor a client uses a socket in a folder in which others can put another in its place."""
    running.path.parent.chmod(mode)
    with pytest.raises(KeyAccessDeniedError, match="chmod go-w"):
        running.client().request("list")
    running.path.parent.chmod(0o700)
    other = folder / "other"
    other.mkdir()
    other.chmod(mode)
    with pytest.raises(KeyFileError, match="chmod go-w"), listen(other / "agent.sock"):
        pass


def test_a_folder_above_that_others_can_write(running: Running, folder: Path) -> None:
    """Who can rename the folder can put another in its place."""
    folder.chmod(0o777)
    with pytest.raises(KeyAccessDeniedError, match="chmod go-w"):
        running.client().request("list")
    folder.chmod(0o1777)
    assert running.client().request("list")["keys"]


def test_a_folder_that_is_a_link(folder: Path) -> None:
    """The agent makes its socket in a folder, not where a link leads."""
    (folder / "real").mkdir(mode=0o700)
    (folder / "run").symlink_to(folder / "real")
    with pytest.raises(KeyFileError, match="symbolic link"), listen(folder / "run" / "agent.sock"):
        pass


def test_a_link_in_the_place_of_the_socket(running: Running, folder: Path) -> None:
    """A client follows no link to a socket."""
    (folder / "link").symlink_to(running.path)
    with pytest.raises(KeyAccessDeniedError, match="no socket"):
        AgentClient(folder / "link").request("list")


def foreign_socket(folder: Path, *, of_folder: bool) -> Path:
    """A socket that listens, whose owner, or its folder's, is another user: if this user can make one."""
    place = folder / "foreign" / "agent.sock"
    place.parent.mkdir(mode=0o755)
    listener = squat(place)
    threading.Thread(target=listener.accept, daemon=True).start()
    if IS_ROOT:
        os.chown(place.parent if of_folder else place, NOBODY, NOBODY)
    else:
        place.unlink()
        place.symlink_to("/dev/null")
    return place


@pytest.mark.parametrize("of_folder", [False, True])
def test_a_squatters_socket(folder: Path, of_folder: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket or folder of another owner is not used, wherever its path comes from, unless that user is named."""
    place = foreign_socket(folder, of_folder=of_folder)
    monkeypatch.setenv("DPOP_AGENT_SOCK", os.fspath(place))
    with pytest.raises(KeyAccessDeniedError, match="not used"):
        dpop.load_key("agent:work")


def test_a_squatters_process(folder: Path) -> None:
    """The process behind the socket is asked of the kernel: its user must be trusted, whatever the files say."""
    place = folder / "agent.sock"
    folder.chmod(0o755)
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(120)
        try:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(os.fspath(place))
            if IS_ROOT:
                os.setuid(NOBODY)
            listener.listen()  # the kernel notes who calls this
            os.write(ready[1], b"1")
            os.read(go[0], 1)
        finally:
            os._exit(0)
    try:
        os.read(ready[0], 1)
        client = AgentClient(place)
        if IS_ROOT:
            with pytest.raises(KeyAccessDeniedError, match=f"runs as the user {NOBODY}"):
                client.request("list", seconds=0.2)
        else:
            with pytest.raises(AgentUnavailableError):
                client.request("list", seconds=0.2)
    finally:
        os.write(go[1], b"1")
        os.waitpid(child, 0)
        for end in (*ready, *go):
            os.close(end)


def test_a_pinned_key(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that has another key by that name is found out before anything is signed."""
    monkeypatch.setenv("DPOP_AGENT_SOCK", os.fspath(running.path))
    right = running.key().thumbprint
    assert dpop.load_key(f"agent:work?jkt={right}").thumbprint == right
    other = dpop.generate_key().thumbprint
    with pytest.raises(KeyMismatchError) as error:
        dpop.load_key(f"agent:work?jkt={other}")
    assert (error.value.expected, error.value.got) == (other, right)
