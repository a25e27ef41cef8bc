# SPDX-License-Identifier: Apache-2.0
"""What is measured, and how it is told: samples, tables, figures to reach."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from peers import Worker

__all__ = ["Figure", "Section", "interleaved", "middle", "spread"]


@dataclass(frozen=True)
class Figure:
    """One figure to reach, and what was measured."""

    name: str
    value: float
    goal: str
    reached: bool


@dataclass
class Section:
    """One row of the report: a table with its explanation, its figures, and every sample behind them."""

    name: str
    title: str
    text: str
    header: Sequence[str]
    lines: list[Sequence[str]] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)
    note: str = ""


def middle(samples: Sequence[float]) -> float:
    """The median."""
    return statistics.median(samples)


def spread(samples: Sequence[float], digits: int = 2) -> str:
    """The median, and between which values the middle half lies."""
    if len(samples) < 4:
        return f"{middle(samples):.{digits}f}"
    low, _, high = statistics.quantiles(samples, n=4)
    return f"{middle(samples):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def interleaved(
    workers: Sequence[Worker], rounds: int, ready: Callable[[Worker, int], int], *, seconds: float = 0.1
) -> list[list[float]]:
    """Seconds per call of each worker in each round, the workers taking turns within a round.

    :param ready: prepares a worker for a round of at most so many calls, and returns how many it can do.
    :param seconds: how long one turn should take.
    """
    counts = []
    for worker in workers:
        trial = ready(worker, 50)
        counts.append(max(20, int(seconds / (worker.ask("run", count=trial)["seconds"] / trial))))
    samples: list[list[float]] = [[] for _ in workers]
    for number in range(rounds):
        # Whoever comes first in one round comes last in the next: a drifting machine favours nobody.
        turns = list(range(len(workers)))
        for index in turns if number % 2 else reversed(turns):
            count = ready(workers[index], counts[index])
            samples[index].append(workers[index].ask("run", count=count)["seconds"] / count)
    return samples
