# SPDX-License-Identifier: Apache-2.0
"""A real Redis for the tests: on a unix socket that only this user can open, keeping nothing on disk.

with running_redis() as server:
    client = redis.Redis.from_url(server.url)
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import redis

__all__ = ["RedisServer", "redis_program", "running_cluster", "running_redis"]


@dataclass
class RedisServer:
    """A running server that can be stopped, frozen and started again; it comes back empty."""

    directory: Path
    settings: tuple[str, ...]
    process: subprocess.Popen[str] | None = None

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
        )
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            said.append(line)
            if "eady to accept connections" in line:
                return
        raise AssertionError("redis-server ended before it was ready:\n" + "".join(said))

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


def redis_program() -> str:
    """Find the server program. Debian's redis-tools has it under another name, and it acts by its own name."""
    program = shutil.which("redis-server") or shutil.which("redis-check-rdb")
    assert program is not None, "no redis-server here: scripts/setup test installs it"
    return program


@contextlib.contextmanager
def running_redis(*settings: str) -> Iterator[RedisServer]:
    """Run a server with further settings, such as ``"--maxmemory", "2mb"``, and stop it afterwards."""
    # Not in pytest's own directory: the path of a unix socket may have some 100 characters only.
    directory = Path(tempfile.mkdtemp(prefix="redis-"))
    server = RedisServer(directory, settings)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory)


@contextlib.contextmanager
def running_cluster() -> Iterator[int]:
    """Run a cluster of one node, and give its port: a cluster's clients know no unix sockets."""
    port, bus = _free_port(), _free_port()
    settings = ["--port", str(port), "--bind", "127.0.0.1", "--cluster-enabled", "yes", "--cluster-port", str(bus)]
    with running_redis(*settings) as server:
        with redis.Redis.from_url(server.url) as node:
            node.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            deadline = time.monotonic() + 30
            while node.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
                assert time.monotonic() < deadline
        yield port


def _free_port() -> int:
    """A port nobody listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
