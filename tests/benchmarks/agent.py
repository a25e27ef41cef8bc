# SPDX-License-Identifier: Apache-2.0
"""The signing agent beside keys in the process: what a signature costs both sides, and many clients.

    python tests/benchmarks/agent.py [--signatures N]

has the agent alone sign so often, by default 100,000 times, and exits with status 1 if its memory grew.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from measure import Figure, Section, at_least, at_most, seconds, told
from peers import Environments

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.pkcs11_devices import SoftHsm, devices_in

import dpop
from dpop.agent import AgentClient, AgentKey
from dpop.errors import DPoPError
from dpop.keys import Key
from dpop.keys.pkcs11._modules import close_modules

URL = "https://api.example/v1/accounts/42"
_NONCE, _TOKEN = "eyJ7S_zG.eyJH0-Z.HX4w-7v", "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"
_MANY = 1000
_ALLOWED_KILOBYTES = 1024


class RunningAgent(NamedTuple):
    """An agent in a process of its own."""

    pid: int
    path: Path

    def key(self, *, verify: bool = False) -> AgentKey:
        """Open its key by connections of their own."""
        return AgentKey.open("work", client=AgentClient(self.path), verify=verify)

    def cpu(self) -> float:
        """Processor seconds of all its threads, as clock_getcpuclockid(3) has them."""
        return time.clock_gettime((~self.pid << 3) | 2)

    def kilobytes(self) -> int:
        """Memory that it holds."""
        status = Path(f"/proc/{self.pid}/statm").read_text("ascii")
        return int(status.split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


@contextlib.contextmanager
def running_agent(uri: str, folder: Path) -> Iterator[RunningAgent]:
    path = folder / "run" / "agent.sock"
    command = [
        sys.executable,
        "-m",
        "dpop_cli",
        "agent",
        "--key",
        f"work={uri}",
        "--origin",
        "work=https://api.example",
    ]
    command += ["--socket", str(path), "--audit", str(folder / "audit"), "--logins", str(folder / "logins")]
    with subprocess.Popen(command) as process:
        try:
            while True:
                with contextlib.suppress(DPoPError):
                    AgentClient(path).request("status")
                    break
                assert process.poll() is None, "the agent ended; what it said is above"
                time.sleep(0.05)
            yield RunningAgent(process.pid, path)
        finally:
            process.terminate()


def _proof(key: Key) -> Callable[[], object]:
    return lambda: dpop.create_proof(key, "GET", URL, nonce=_NONCE, access_token=_TOKEN)


_CLIENT = """
import sys, threading
import dpop
from dpop.agent import AgentClient, AgentKey
path, threads, count, url = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
keys = [AgentKey.open("work", client=AgentClient(path)) for _ in range(threads)]
def work(key):
    for _ in range(count):
        dpop.create_proof(key, "GET", url)
def run():
    made = [threading.Thread(target=work, args=(key,)) for key in keys]
    [each.start() for each in made], [each.join() for each in made]
print("ready", flush=True)
for _ in sys.stdin:
    run()
    print("done", flush=True)
"""


@contextlib.contextmanager
def _clients(running: RunningAgent, clients: int, each: int) -> Iterator[Callable[[], None]]:
    """Clients, eight in a process at most; the function has each of them get so many proofs."""
    processes = min(clients, 8)
    command = [sys.executable, "-c", _CLIENT, str(running.path), str(clients // processes), str(each), URL]
    with contextlib.ExitStack() as stack:
        made = [
            stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
            )
            for _ in range(processes)
        ]

        def await_all() -> None:
            for one in made:
                assert one.stdout is not None
                assert one.stdout.readline()

        def go() -> None:
            for one in made:
                assert one.stdin is not None
                one.stdin.write("go\n")
            await_all()

        await_all()
        yield go
        for one in made:
            assert one.stdin is not None
            one.stdin.close()


def _rate(running: RunningAgent, clients: int, proofs: int, repeats: int) -> float:
    """Proofs per second of so many clients; the best of several runs."""
    each = max(1, proofs // clients)
    with _clients(running, clients, each) as go:
        return max(each * clients / seconds(go, 1) for _ in range(repeats))


def _many(running: RunningAgent) -> float:
    """Kilobytes that the agent grows by when a thousand clients come, each with one request."""
    before = running.kilobytes()
    held: list[socket.socket] = []
    request = b'{"v":1,"op":"key","key":"work"}'
    for _ in range(_MANY):
        one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        one.connect(str(running.path))
        one.sendall(len(request).to_bytes(4, "big") + request)
        one.recv(65536)
        held.append(one)
    grown = running.kilobytes() - before
    for one in held:
        one.close()
    return grown


def _in_turn(calls: dict[str, Callable[[], object]], *, rounds: int, repeats: int) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        seconds(call, rounds)
    for _ in range(repeats):
        for name, call in calls.items():
            taken[name].append(seconds(call, rounds))
    return taken


def _processor(running: RunningAgent, key: Key, alone: Key, rounds: int, repeats: int) -> tuple[float, float]:
    """Processor seconds for a proof: of the agent, and of this process with the key in it; the least of each."""
    sign, by_itself = _proof(key), _proof(alone)
    ours, its = [], []
    for _ in range(repeats):
        begun, at = time.process_time(), running.cpu()
        seconds(sign, rounds)
        its.append((running.cpu() - at) / rounds)
        begun = time.process_time()
        seconds(by_itself, rounds)
        ours.append((time.process_time() - begun) / rounds)
    return min(its), min(ours)


def measure(_environments: Environments, *, short: bool) -> Section:
    """All of it, in ratios of the least times of one run."""
    section = Section(
        "agent",
        "The signing agent",
        "Proofs with a nonce and the hash of a token, by a key in this process and by the same key in an agent, which"
        " puts each on record in a file. Times are the least of many turns. Processor time of the agent is that of its"
        " process, system calls included.",
        ["what", "us or per second", "against the key in the process"],
    )
    rounds, repeats = (60, 7) if short else (300, 41)
    with tempfile.TemporaryDirectory(prefix="dpop-") as name:
        folder = Path(name)
        alone = dpop.generate_key()
        alone.save(folder / "key.pem")
        with running_agent(str(folder / "key.pem"), folder) as running:
            taken = _in_turn(
                {
                    "in the process": _proof(alone),
                    "in the agent": _proof(running.key()),
                    "in the agent, verify=True": _proof(running.key(verify=True)),
                },
                rounds=rounds,
                repeats=repeats,
            )
            least = {what: min(times) for what, times in taken.items()}
            for what, best in least.items():
                section.lines.append([what, f"{best * 1e6:.1f}", f"{best / least['in the process']:.2f}"])
            its, ours = _processor(running, running.key(), alone, rounds, repeats)
            section.lines.append(["the agent's processor time", f"{its * 1e6:.1f}", f"{its / ours:.2f}"])
            rates = {
                clients: _rate(running, clients, 200 if short else 4000, 3)
                for clients in ((1, 4) if short else (1, 4, 8, 64))
            }
            for clients, rate in rates.items():
                what = f"{clients} client{'s' * (clients > 1)}, proofs per second"
                section.lines.append([what, f"{rate:.0f}", f"{rate * least['in the process']:.2f}"])
            grown = _many(running)
            section.raw = {"turns": taken, "processor": [its, ours], "rates": {str(k): v for k, v in rates.items()}}
        more = {what: round((best - least["in the process"]) * 1e6, 1) for what, best in least.items()}
        section.figures = [
            at_most("a proof by the agent, more than in the process", more["in the agent"], 60, "us"),
            at_most(
                "a proof by the agent, verified, more than in the process", more["in the agent, verify=True"], 110, "us"
            ),
            at_most("the agent's processor time against a proof in the process", round(its / ours, 2), 2.5),
            at_least(
                "four clients of the agent, rate against one in the process",
                round(rates[4] * least["in the process"], 2),
                0.35,
            ),
            told("a thousand clients, the agent's memory grows by", round(grown / 1024, 1), "MB"),
            _device(folder, rounds, repeats),
        ]
    return section


def _device(folder: Path, rounds: int, repeats: int) -> Figure:
    (folder / "softhsm").mkdir()
    before = os.environ.copy()
    try:
        with devices_in(folder / "softhsm", SoftHsm) as softhsm:
            os.environ.update(softhsm.environment)
            with running_agent(softhsm.uri(), folder / "softhsm") as running:
                key = dpop.load_key(softhsm.uri())
                taken = _in_turn({"own": _proof(key), "agent": _proof(running.key())}, rounds=rounds, repeats=repeats)
            close_modules()
    finally:
        os.environ.clear()
        os.environ.update(before)
    ratio = min(taken["own"]) / min(taken["agent"])
    return at_least("SoftHSM in the agent, rate against SoftHSM in the process", round(ratio, 2), 0.6)


def soak(signatures: int) -> int:
    """Have an agent sign so often for 64 clients; return the kilobytes that it grew by after the first fifth."""
    turns = 20
    with tempfile.TemporaryDirectory(prefix="dpop-") as name:
        dpop.generate_key().save(Path(name) / "key.pem")
        with (
            running_agent(f"{name}/key.pem", Path(name)) as running,
            _clients(running, 64, max(1, signatures // 64 // turns)) as go,
        ):
            held = []
            for _ in range(turns):
                go()
                held.append(running.kilobytes())
    print("kilobytes after each twentieth:", *held)
    return held[-1] - held[turns // 5 - 1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Memory of the agent over many signatures: it must stay flat.")
    parser.add_argument("--signatures", type=int, default=100_000)
    grown = soak(parser.parse_args().signatures)
    print(f"{grown} kB more after the first fifth")
    sys.exit(int(grown > _ALLOWED_KILOBYTES))
