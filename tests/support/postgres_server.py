# SPDX-License-Identifier: Apache-2.0
"""A real PostgreSQL for the tests: on a unix socket in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

__all__ = ["running_postgres"]


def _program(name: str) -> str:
    """Find a program: that of scripts/setup, or one of Debian's, which are outside of the PATH, by version."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    program = shutil.which(name) or (str(found[-1]) if found else None)
    assert program is not None, f"no {name} here: scripts/setup test installs it"
    return program


@contextlib.contextmanager
def running_postgres() -> Iterator[str]:
    """Run a server; gives how to connect. It refuses to run as root, so that root starts it as nobody."""
    directory = Path(tempfile.mkdtemp(prefix="postgres-"))
    options: dict[str, Any] = {"env": {"PATH": os.environ["PATH"], "LC_ALL": "C"}, "cwd": directory}
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(directory, nobody.pw_uid, nobody.pw_gid)
        options |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    data = str(directory / "data")
    initialise = [_program("initdb"), "-D", data, "-A", "trust", "-U", "tests", "--no-sync"]
    subprocess.run(initialise, check=True, capture_output=True, **options)
    serve = [_program("postgres"), "-D", data, "-k", str(directory), "-c", "listen_addresses=", "-c", "fsync=off"]
    server = subprocess.Popen(serve, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
    where = f"host={directory} user=tests dbname=postgres"
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(where).close()
                break
            except psycopg.OperationalError:
                assert server.poll() is None, "postgres ended before it was ready"
                assert time.monotonic() < deadline, "postgres was not ready in time"
                time.sleep(0.05)
        yield where
    finally:
        server.send_signal(signal.SIGINT)  # a fast shutdown
        server.wait(30)
        shutil.rmtree(directory)
