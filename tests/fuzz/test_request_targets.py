# SPDX-License-Identifier: Apache-2.0
"""A short search for request-targets that are read in two ways; tests/fuzz/request_targets.py makes long ones."""

from __future__ import annotations

import pytest
from fuzz.request_targets import SERVERS, disagreements
from support.servers import running


@pytest.mark.parametrize("name", SERVERS)
def test_check_and_application_read_one_path(name: str) -> None:
    """Admitted implies that the application serves the path of the URL that was verified."""
    with running(name, nonces=False) as port:
        found = disagreements(port, targets=150, seed=7)
    assert found.wrong == []
    assert 503 not in found.refused  # the replay cache is not full
    assert found.admitted > 5  # or nothing was tried
