# SPDX-License-Identifier: Apache-2.0
"""What the tests of the agent share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.agents import Running, agent_running, rules_of, socket_folder


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
