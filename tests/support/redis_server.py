# SPDX-License-Identifier: Apache-2.0
"""A real Redis for the tests: on a unix socket that only this user can open, keeping nothing on disk.

with running_redis() as server:
    client = redis.Redis.from_url(server.url)
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import redis
from support.ports import reserved_port

__all__ = [
    "RedisServer",
    "Replicated",
    "losing_the_first_answer",
    "redis_program",
    "running_cluster",
    "running_redis",
    "running_replicas",
    "running_sentinel",
]


@dataclass
class RedisServer:
    """A running server that can be stopped, frozen and started again; it comes back empty."""

    directory: Path
    settings: tuple[str, ...]
    process: subprocess.Popen[str] | None = None
    environment: dict[str, str] | None = None

    @property
    def socket(self) -> Path:
        return self.directory / "redis.sock"

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Start the server and wait until it is ready."""
        arguments = ["--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700"]
        arguments += ["--dir", str(self.directory), "--save", "", "--appendonly", "no", "--daemonize", "no"]
        self.process = subprocess.Popen(
            ["redis-server", *arguments, *self.settings],
            executable=redis_program(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment,
        )
        _until_it_says(self.process, "eady to accept connections")

    def stop(self) -> None:
        """Kill the server: new connections are refused from now on."""
        if self.process is None:
            return
        self.process.kill()
        self.process.communicate()
        self.process = None

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze the server: it accepts connections and does not respond."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


def _until_it_says(process: subprocess.Popen[str], wanted: str) -> None:
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if wanted in line:
            return
    raise AssertionError("redis-server ended before it was ready:\n" + "".join(said))


def redis_program() -> str:
    """Find the server program. Debian's redis-tools has it under another name, and it acts by its own name.

    REDIS_SERVER names another one, such as that of Valkey.
    """
    program = os.environ.get("REDIS_SERVER") or shutil.which("redis-server") or shutil.which("redis-check-rdb")
    assert program is not None, "no redis-server here: scripts/setup test installs it"
    return program


@contextlib.contextmanager
def running_redis(*settings: str, environment: dict[str, str] | None = None) -> Iterator[RedisServer]:
    """Run a server with further settings, such as ``"--maxmemory", "2mb"``, and stop it afterwards."""
    # Not in pytest's own directory: the path of a unix socket may have some 100 characters only.
    directory = Path(tempfile.mkdtemp(prefix="redis-"))
    server = RedisServer(directory, settings, environment=environment)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory)


@contextlib.contextmanager
def running_cluster() -> Iterator[int]:
    """Run a cluster of one node, and give its port: a cluster's clients know no unix sockets."""
    port, bus = reserved_port(), reserved_port()
    settings = ["--port", str(port), "--bind", "127.0.0.1", "--cluster-enabled", "yes", "--cluster-port", str(bus)]
    with running_redis(*settings) as server:
        with redis.Redis.from_url(server.url) as node:
            node.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            deadline = time.monotonic() + 30
            while node.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
                assert time.monotonic() < deadline
        yield port


@dataclass
class Replicated:
    """A primary, its replicas, and the port of the sentinel, if there is one, that watches them as ``dpop``."""

    primary: RedisServer
    replicas: list[RedisServer]
    sentinel: int = 0


@contextlib.contextmanager
def running_replicas(replicas: int) -> Iterator[Replicated]:
    """Run a primary with replicas that have caught up with it."""
    port = reserved_port()
    with contextlib.ExitStack() as stack:
        of_all = ["--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0"]
        primary = stack.enter_context(running_redis("--port", str(port), *of_all))
        copies = [
            stack.enter_context(
                running_redis("--port", str(reserved_port()), "--replicaof", f"127.0.0.1 {port}", *of_all)
            )
            for _ in range(replicas)
        ]
        with redis.Redis.from_url(primary.url) as client:
            client.set("caught", "up", px=1)
            _until(lambda: client.wait(replicas, 1000) == replicas)
        yield Replicated(primary, copies)


@contextlib.contextmanager
def running_sentinel(replicas: int, *, patience: float = 2.0) -> Iterator[Replicated]:
    """Run a primary with replicas, and a sentinel that promotes one of these soon after the primary has gone.

    :param patience: seconds without a response after which the primary has gone; a busy machine must not reach them.
    """
    place, port = Path(tempfile.mkdtemp(prefix="sentinel-")), reserved_port()
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, place)
        servers = stack.enter_context(running_replicas(replicas))
        with redis.Redis.from_url(servers.primary.url) as client:
            watched = client.config_get("port")["port"]
        watch = [f"monitor dpop 127.0.0.1 {watched} 1", f"down-after-milliseconds dpop {round(patience * 1000)}"]
        lines = [f"port {port}", "bind 127.0.0.1", f"dir {place}", *(f"sentinel {line}" for line in watch)]
        (place / "sentinel.conf").write_text("\n".join(lines), "utf-8")
        process = subprocess.Popen(
            ["redis-server", str(place / "sentinel.conf"), "--sentinel"],
            executable=redis_program(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        stack.callback(process.communicate)
        stack.callback(process.kill)
        _until_it_says(process, "+monitor")
        with redis.Redis("127.0.0.1", port, decode_responses=True) as sentinel:
            # On a busy machine it would take its late timer for a clock that was set, and do nothing for half a minute.
            sentinel.execute_command("SENTINEL", "DEBUG", "tilt-trigger", "100000")
            _until(lambda: len(sentinel.execute_command("SENTINEL", "REPLICAS", "dpop")) == replicas)
        yield Replicated(servers.primary, servers.replicas, port)


@contextlib.contextmanager
def losing_the_first_answer(server: RedisServer) -> Iterator[str]:
    """A way to the server on which the answer to the first SET is lost, and the connection with it."""
    asked, lost = threading.Event(), threading.Event()

    def forth(near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while request := near.recv(65536):
                if b"\r\nSET\r\n" in request:
                    asked.set()
                far.sendall(request)
            far.shutdown(socket.SHUT_RDWR)

    def back(near: socket.socket, far: socket.socket) -> None:
        with near, far, contextlib.suppress(OSError):
            while response := far.recv(65536):
                if asked.is_set() and not lost.is_set():
                    lost.set()
                    near.shutdown(socket.SHUT_RDWR)
                    break
                near.sendall(response)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                near, far = listener.accept()[0], socket.socket(socket.AF_UNIX)
                far.connect(str(server.socket))
                for way in (forth, back):
                    threading.Thread(target=way, args=(near, far), daemon=True).start()

    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as listener:
        path = str(Path(directory) / "relay.sock")
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"unix://{path}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(60)
    assert lost.is_set()


def _until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
