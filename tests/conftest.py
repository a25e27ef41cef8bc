# SPDX-License-Identifier: Apache-2.0
"""Settings for all tests."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
import redis
from hypothesis import settings
from support.pkcs11_devices import SoftHsm, Tpm, devices_in
from support.pkcs11_faults import Faults, build
from support.redis_server import RedisServer, running_redis

# No deadline, for a slow machine is no fault; no database, for no run should depend on the one before.
settings.register_profile("dpop", deadline=None, database=None)
settings.load_profile("dpop")

# However the tests were started, the commands of their environment come first, and their children hear of Ctrl-C:
# what a script starts in the background ignores it, and so does all that it starts.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
signal.signal(signal.SIGINT, signal.default_int_handler)

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def _own_state(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test's command meets the nonces of a person or of another test; the directory is made on demand."""
    monkeypatch.setenv("DPOP_STATE_DIR", str(tmp_path_factory.getbasetemp() / f"state-{next(_numbers)}"))


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis for all tests of this process, started when the first asks for it."""
    with running_redis() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """Where that Redis is, emptied for this test."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture(scope="session")
def softhsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftHsm]:
    """SoftHSM for this test process, with one device and one key."""
    with devices_in(tmp_path_factory.mktemp("softhsm"), SoftHsm) as devices:
        yield cast("SoftHsm", devices)


@pytest.fixture(scope="session")
def tpm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tpm]:
    """A TPM for this test process, with one device and one key."""
    with devices_in(tmp_path_factory.mktemp("tpm"), Tpm) as devices:
        yield cast("Tpm", devices)


@pytest.fixture(scope="session")
def fault_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The module that goes wrong, compiled once."""
    return build(tmp_path_factory.mktemp("faults"))


@pytest.fixture
def faults(softhsm: SoftHsm, fault_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    """SoftHSM behind a module that goes wrong as it is told."""
    made = Faults(softhsm, fault_library, tmp_path, monkeypatch)
    yield made
    made.forget()
