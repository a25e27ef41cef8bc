# SPDX-License-Identifier: Apache-2.0
"""What most tests of adapters start from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.authority import Authority, make_authority
from support.clients import CLIENTS, Client, make


@pytest.fixture(params=sorted(CLIENTS))
def name(request: pytest.FixtureRequest) -> str:
    """Each client in turn."""
    return str(request.param)


@pytest.fixture
def client(name: str) -> Iterator[Callable[..., Any]]:
    """Makes clients, and closes them."""
    made: list[Client] = []

    def build(prover: Any = None, **options: Any) -> Any:
        made.append(make(name, prover, **options))
        return made[-1]

    yield build
    for one in made:
        one.close()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Certificates for this run."""
    return make_authority(tmp_path_factory.mktemp("tls"))
