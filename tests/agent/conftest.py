# SPDX-License-Identifier: Apache-2.0
"""What the tests of the agent share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.agents import Place, Running, agent_running, rules_of, socket_folder

from dpop.testing import DPoPTestServer


@pytest.fixture
def folder() -> Iterator[Path]:
    """A private folder with a short path."""
    with socket_folder() as path:
        yield path


@pytest.fixture
def running(folder: Path) -> Iterator[Running]:
    """An agent with one key, ``work``."""
    with agent_running(folder, rules_of(folder)) as agent:
        yield agent


@pytest.fixture
def place(folder: Path) -> Iterator[Place]:
    """A server, and where an agent runs."""
    with DPoPTestServer(rotate_refresh_tokens=True) as server:
        yield Place(folder, server)


@pytest.fixture
def found(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """An agent with the account ``work``, where programs find it."""
    with place.running() as running:
        monkeypatch.setenv("DPOP_AGENT_SOCK", os.fspath(running.path))
        place.log_in(running)
        yield running
