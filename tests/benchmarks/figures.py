# SPDX-License-Identifier: Apache-2.0
"""What benchmarks are made of: figures, and two things timed in turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Figure", "pairs", "seconds"]


@dataclass(frozen=True)
class Figure:
    """One measured figure, and what it should be."""

    name: str
    value: float
    unit: str
    goal: str
    reached: bool


def seconds(function: Callable[[], object], rounds: int) -> float:
    """Time of one call, over so many."""
    start = time.perf_counter()
    for _ in range(rounds):
        function()
    return (time.perf_counter() - start) / rounds


def pairs(
    one: Callable[[], object], other: Callable[[], object], *, rounds: int, repeats: int
) -> list[tuple[float, float]]:
    """Both timed in turn, so often."""
    seconds(one, rounds), seconds(other, rounds)
    return [(seconds(one, rounds), seconds(other, rounds)) for _ in range(repeats)]
