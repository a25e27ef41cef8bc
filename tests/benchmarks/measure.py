# SPDX-License-Identifier: Apache-2.0
"""What is measured, and how it is told: samples, tables, figures to reach."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from peers import Worker

__all__ = [
    "Figure",
    "OpenSSLSpeed",
    "Section",
    "at_least",
    "at_most",
    "interleaved",
    "middle",
    "openssl_speed",
    "pairs",
    "seconds",
    "spread",
    "told",
]


@dataclass(frozen=True)
class Figure:
    """One figure to reach, and what was measured.

    :param timed: whether it is a matter of a machine's speed. What is not must always be reached.
    """

    name: str
    value: float
    unit: str
    goal: str
    reached: bool
    timed: bool = True


def at_least(name: str, value: float, goal: float, unit: str = "x", *, timed: bool = True) -> Figure:
    """A figure that must not be less."""
    return Figure(name, value, unit, f">= {goal:g}", value >= goal, timed)


def at_most(name: str, value: float, goal: float, unit: str = "x", *, timed: bool = True) -> Figure:
    """A figure that must not be more."""
    return Figure(name, value, unit, f"<= {goal:g}" if goal else "0", value <= goal, timed)


def told(name: str, value: float, unit: str) -> Figure:
    """A figure without a goal."""
    return Figure(name, value, unit, "-", reached=True)


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
    taken_on: str = field(default_factory=lambda: time.strftime("%Y-%m-%d"))

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Section:
        """One that was written before."""
        return cls(**{**row, "figures": [Figure(**figure) for figure in row["figures"]]})


def middle(samples: Sequence[float]) -> float:
    """The median."""
    return statistics.median(samples)


def spread(samples: Sequence[float], digits: int = 2) -> str:
    """The median, and between which values the middle half lies."""
    if len(samples) < 4:
        return f"{middle(samples):.{digits}f}"
    low, _, high = statistics.quantiles(samples, n=4)
    return f"{middle(samples):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


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


class OpenSSLSpeed(NamedTuple):
    """What ``openssl speed`` says of P-256: seconds for a signature and for a check, both without the hash."""

    version: str
    sign: float
    verify: float


def openssl_speed(*, short: bool) -> OpenSSLSpeed:
    """The OpenSSL on PATH measures itself. It is not the one inside the cryptography package."""
    version = " ".join(subprocess.check_output(["openssl", "version"], text=True).split()[:2])
    command = ["openssl", "speed", "-mr", "-seconds", "1" if short else "5", "ecdsap256"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    signed, verified = said.split("+F4:")[1].split()[0].split(":")[2:]  # in a second
    return OpenSSLSpeed(version, 1 / float(signed), 1 / float(verified))


def interleaved(
    workers: Sequence[Worker], rounds: int, ready: Callable[[Worker, int], int], *, turn: float = 0.1
) -> list[list[float]]:
    """Seconds per call of each worker in each round, the workers taking turns within a round.

    :param ready: prepares a worker for a round of at most so many calls, and returns how many it can do.
    :param turn: how many seconds one turn should take.
    """
    counts = []
    for worker in workers:
        trial = ready(worker, 50)
        counts.append(max(20, int(turn / (worker.ask("run", count=trial)["seconds"] / trial))))
    samples: list[list[float]] = [[] for _ in workers]
    for number in range(rounds):
        # Whoever comes first in one round comes last in the next: a drifting machine favours nobody.
        turns = list(range(len(workers)))
        for index in turns if number % 2 else reversed(turns):
            count = ready(workers[index], counts[index])
            samples[index].append(workers[index].ask("run", count=count)["seconds"] / count)
    return samples
