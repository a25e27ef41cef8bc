# SPDX-License-Identifier: Apache-2.0
"""Whatever a fuzzer ever found, through each target again, without the fuzzer."""

from __future__ import annotations

import pytest
from fuzz.fuzz import CORPUS, kept
from fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_no_promise_is_broken(name: str) -> None:
    """Seeds and kept inputs raise nothing but what their function promises, and what must hold holds."""
    inputs = [*TARGETS[name].seeds(), *kept(name)]
    assert inputs
    for data in inputs:
        TARGETS[name].run(data)


def test_each_corpus_has_its_target() -> None:
    """A corpus that no target reads would never be tried again."""
    assert {path.stem for path in CORPUS.glob("*.txt")} == set(TARGETS)
