# SPDX-License-Identifier: Apache-2.0
"""``dpop agent``: in the foreground and in the background, with signals, and with systemd's socket."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.agents import API, socket_folder
from support.cli_process import DPOP, AtTerminal, environment, invoke, run
from support.recorder import Received, Recorder, Response, challenge

import dpop
from dpop.agent import AgentClient
from dpop.errors import AgentUnavailableError

URL = f"{API}/me"


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's run-time folder, with a key in it."""
    with socket_folder() as path:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
        dpop.generate_key().save(path / "key.pem")
        yield path


def arguments(folder: Path, *more: str) -> list[str]:
    """What an agent needs to be told."""
    return ["--key", f"work={folder / 'key.pem'}", "--origin", f"work={API}", "--audit", str(folder / "log"), *more]


@contextlib.contextmanager
def foreground(*words: str, **popen: object) -> Iterator[subprocess.Popen[str]]:
    """An agent in the foreground, once it listens."""
    process = subprocess.Popen([*DPOP, "agent", *words], env=environment(), stderr=subprocess.PIPE, text=True, **popen)  # type: ignore[call-overload]
    try:
        assert process.stderr is not None
        assert "listens at" in process.stderr.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


def test_in_the_background(folder: Path) -> None:
    """Start, use, lock, unlock and stop, as a person at a terminal does; the key and the process stay private."""
    dpop.generate_key().save(folder / "key.pem", password="right horse", overwrite=True)
    words = arguments(folder, "--password-env", "HORSE", "--json")
    started = run("agent", "start", *words, env={"HORSE": "right horse"})
    assert started.returncode == 0, started.stderr
    told = json.loads(started.stdout)
    try:
        place = folder / "dpop" / "agent.sock"
        assert told == {"pid": told["pid"], "socket": str(place)}
        again = run("agent", "start", *words, env={"HORSE": "right horse"})
        assert (again.returncode, "already" in again.stderr) == (3, True)
        assert invoke("headers", "GET", URL, "--key", "agent:work").exit_code == 0
        refused = invoke("proof", "GET", "https://evil.example/", "--key", "agent:work")
        assert (refused.exit_code, "do not name https://evil.example" in refused.stderr) == (3, True)
        assert invoke("proof", "GET", URL, "--key", "agent:work", "--iat", "1").exit_code == 2
        listed = json.loads(invoke("agent", "list", "--json").stdout)
        assert [(key["key"], key["origins"]) for key in listed] == [("work", [API])]
        status = json.loads(invoke("agent", "status", "--json").stdout)
        assert (status["signed"], status["refused"], status["pid"], status["locked"]) == (1, 1, told["pid"], False)
        assert not status["dumpable"]
        assert "work  ES256  jkt" in invoke("agent", "status").stdout
        assert invoke("agent", "lock").exit_code == 0
        assert "locked" in invoke("agent", "list").stdout
        unlocked = invoke("agent", "unlock", "--password-env", "HORSE", env={"HORSE": "wrong horse"})
        assert (unlocked.exit_code, "password is wrong" in unlocked.stderr) == (3, True)
        assert invoke("agent", "unlock", "--password-env", "HORSE", env={"HORSE": "right horse"}).exit_code == 0
        assert invoke("key", "show", "--key", "agent:work").exit_code == 0
        command = Path(f"/proc/{told['pid']}/cmdline")
        if command.exists():
            assert b"horse" not in command.read_bytes()
    finally:
        stopped = invoke("agent", "stop")
    assert stopped.exit_code == 0, stopped.stderr
    due = time.monotonic() + 30
    while place.exists() and time.monotonic() < due:
        time.sleep(0.01)
    gone = invoke("agent", "status")
    assert (gone.exit_code, "dpop agent start" in gone.stderr) == (3, True)
    assert "horse" not in (folder / "log").read_text()


def test_adding_a_key(folder: Path) -> None:
    """A key with a password is added to the running agent."""
    dpop.generate_key().save(folder / "more.pem", password="right horse")
    with foreground(*arguments(folder)):
        place = f"more={folder / 'more.pem'}"
        added = invoke("agent", "add", place, "--origin", API, "--password-env", "HORSE", env={"HORSE": "right horse"})
        assert added.exit_code == 0, added.stderr
        assert invoke("proof", "GET", URL, "--key", "agent:more").exit_code == 0
        assert invoke("agent", "add", place, "--origin", API, "--password-env", "H", env={"H": "x"}).exit_code == 2


def test_signals(folder: Path) -> None:
    """SIGHUP reads the rules anew, also wrong ones without harm; SIGTERM ends it, and its socket goes away."""
    rules = folder / "agent.toml"
    rules.write_text(f"[keys.work]\nuri='key.pem'\norigins=['{API}']\n")
    rules.chmod(0o600)
    with foreground("--rules", str(rules), "--audit", "none") as process:
        client = AgentClient()
        assert invoke("proof", "GET", URL, "--key", "agent:work").exit_code == 0
        rules.write_text("nonsense")
        process.send_signal(signal.SIGHUP)
        assert process.stderr is not None
        assert "not TOML" in process.stderr.readline()
        assert client.request("status")["rules"]["in_force"] is False
        assert "CHANGED SINCE THE AGENT READ IT" in invoke("agent", "status").stdout
        rules.write_text("[keys.work]\nuri='key.pem'\norigins=['https://other.example']\n")
        process.send_signal(signal.SIGHUP)
        assert "Rules read" in process.stderr.readline()
        assert invoke("proof", "GET", URL, "--key", "agent:work").exit_code == 3
        assert invoke("agent", "reload").exit_code == 0
        process.terminate()
        assert process.wait(30) == 0
    assert not (folder / "dpop" / "agent.sock").exists()
    with pytest.raises(AgentUnavailableError):
        client.request("status")


def test_it_ends_with_its_terminal(folder: Path) -> None:
    """In the foreground: nobody could end it there any more, nor read its audit log, without which it does not sign."""
    command = ["agent", "--key", "work=key.pem", "--origin", API]
    with AtTerminal(*command, cwd=folder) as terminal:
        terminal.see("Ctrl-C ends it")
        assert invoke("proof", "GET", URL, "--key", "agent:work").exit_code == 0
        terminal.hang_up()
        assert terminal.process.wait(30) == 0
    assert not (folder / "dpop" / "agent.sock").exists()


# Does what systemd does: passes a listening socket as descriptor 3, tells the process so, and becomes dpop agent.
_ACTIVATE = """
import os, socket, sys
listener = socket.socket(fileno=int(sys.argv[1]))
os.dup2(listener.fileno(), 3, inheritable=True)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "dpop-agent.socket"}
os.execv(sys.executable, [sys.executable, "-m", "dpop_cli", "agent", *sys.argv[2:]])
"""


def test_a_signal_that_another_thread_receives_ends_it(folder: Path) -> None:
    """The main thread waits for connections; it notices all the same, at once."""
    program = f"""
import signal, threading
from dpop.agent import Agent, KeyRules, listen
agent = Agent([KeyRules("work", {str(folder / "key.pem")!r}, ({API!r},))])
signal.signal(signal.SIGTERM, lambda *_: agent.stop())
threading.Thread(target=threading.Event().wait, daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # and of threads that start from now on
with listen({str(folder / "socket")!r}) as listener:
    print("listens", flush=True)
    agent.serve(listener)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "listens\n"
            AgentClient(folder / "socket").request("status")
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()


def test_a_socket_of_systemd(folder: Path) -> None:
    """The agent uses the socket that it is passed, and leaves it where it is; a client that came before is served."""
    place = folder / "agent.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(place))
        listener.listen()
        process = subprocess.Popen(
            [sys.executable, "-c", _ACTIVATE, str(listener.fileno()), *arguments(folder)],
            env=environment(),
            stderr=subprocess.PIPE,
            pass_fds=[listener.fileno()],
        )
        try:
            assert AgentClient(place).request("status", seconds=60)["pid"] == process.pid
            made = invoke("proof", "GET", URL, "--key", "agent:work", env={"DPOP_AGENT_SOCK": str(place)})
            assert made.exit_code == 0, made.stderr
            process.terminate()
            _, said = process.communicate(timeout=30)
            assert process.returncode == 0, said
        finally:
            process.kill()
            process.communicate()
    assert place.exists()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "name a key"),
        (["--key", "key.pem"], "NAME=PATH"),
        (["--key", "work=key.pem"], "no --origin"),
        (["start", "--key", "work=key.pem", "--origin", "other=https://api.example"], "NAME=URL"),
        (["--key", "work=pkcs11:object=a?pin-value=1234", "--origin", "https://api.example"], "without pin-value"),
        (["--key", "a=b", "list"], "options come after the command"),
        (["add", "key.pem", "--origin", API], "NAME=PATH"),
    ],
    ids=map(str, range(7)),
)
def test_options_that_say_too_little(folder: Path, words: list[str], why: str) -> None:
    """Each mistake is a message that says what to do."""
    shown = invoke("agent", *words)
    assert (shown.exit_code, why in shown.stderr, "1234" in shown.stderr) == (2, True, False), shown.stderr


def test_an_agent_that_cannot_start(folder: Path) -> None:
    """It ends with a message, also in the background, and nothing of it stays."""
    for words, why in [
        (["--key", "work=none.pem", "--origin", API], "none.pem"),
        (["start", "--rules", "none.toml"], "cannot be read"),
        (["start", "--key", "work=key.pem", "--origin", API, "--socket", str(folder / ("x" * 120))], "too long"),
        (["--key", "work=key.pem", "--origin", API, "--socket-group", "no-such-group"], "names no group"),
    ]:
        shown = run("agent", *words, cwd=folder)
        assert (shown.returncode in {2, 3}, why in shown.stderr) == (True, True), shown.stderr
    assert not (folder / "dpop" / "agent.sock").exists()


def test_its_memory_is_closed_to_others(folder: Path) -> None:
    """No debugger of the same user can attach to the agent (PR_SET_DUMPABLE), and it leaves no core file."""
    code = (
        "import resource\nfrom dpop.agent import protect_memory\nfrom dpop.agent._process import is_dumpable\n"
        "protect_memory()\nprint(is_dumpable(), resource.getrlimit(resource.RLIMIT_CORE)[0])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == [str(False if sys.platform == "linux" else None), "0"]
    assert os.environ["XDG_RUNTIME_DIR"] == str(folder)


def test_a_loop_of_commands_wastes_one_request(folder: Path) -> None:
    """Each begins with the nonce that the one before was given, which is good for one request, by the agent alone."""
    good: set[str | None] = set()

    def respond(request: Received) -> Response:
        taken, fresh = request.nonce in good, f"n{len(server.requests)}"
        good.clear()
        good.add(fresh)
        return Response(200, [("DPoP-Nonce", fresh)]) if taken else challenge(fresh)

    with Recorder(respond) as server, foreground(*arguments(folder)[:2], "--origin", f"work={server.origin}"):
        for number in range(4):
            state = {"DPOP_STATE_DIR": str(folder / f"state-{number}")}
            done = run("curl", "--key", "agent:work", "-sf", server.url("/me"), env=state)
            assert done.returncode == 0, done.stderr
        nonces = [request.nonce for request in server.requests]
    assert nonces[0] is None
    assert len(nonces) == 5
    assert len(set(nonces)) == 5
