# SPDX-License-Identifier: Apache-2.0
"""The pytest fixture ``dpop_server``, found through the entry point ``pytest11``.

pytest imports this module in every run, so it imports the server only when a test asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from dpop.testing._server import DPoPTestServer

__all__ = ["dpop_server"]


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers", "dpop_server(**arguments): arguments of DPoPTestServer for the fixture dpop_server."
    )


@pytest.fixture
def dpop_server(request: pytest.FixtureRequest) -> Iterator[DPoPTestServer]:
    """A fresh :class:`dpop.testing.DPoPTestServer` for one test.

    Its arguments come from the closest marker: ``@pytest.mark.dpop_server(nonces="single-use")``.
    """
    from dpop.testing._server import DPoPTestServer  # noqa: PLC0415 - see the module

    marker = request.node.get_closest_marker("dpop_server")
    arguments: dict[str, Any] = {} if marker is None else dict(marker.kwargs)
    with DPoPTestServer(**arguments) as server:
        yield server
