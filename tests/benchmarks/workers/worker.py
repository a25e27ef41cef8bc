# SPDX-License-Identifier: Apache-2.0
"""One peer in a process of its own: does what it is told on standard input, a line of JSON each, and answers so.

    {"do": "prepare", "task": "mint", ...facts}    the module's function of that name makes what will be timed
    {"do": "run", "count": 1000}                   times so many calls of it: {"seconds": 0.031}
    {"do": "call"}                                 calls it once: what it returns
    {"do": "storm", "count": 1000, "workers": 8, "rate": 250}
                                                   sends so many requests on time: {"latencies": [...], "failed": 0}

A peer's module needs no thought of this: ``mint`` and ``verify`` return a function to be called, ``client`` an
object whose ``send()`` makes one request (``async`` if it is) and returns its status.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import inspect
import json
import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any


def run(function: Callable[[], object], count: int) -> dict[str, Any]:
    """Time so many calls."""
    gc.collect()
    start = time.perf_counter()
    for _ in range(count):
        function()
    return {"seconds": time.perf_counter() - start}


class Storm:
    """Requests that fall due one after the other, each sent by whoever of the workers is free first.

    A request's latency counts from the moment it was due: a client that falls behind shows it.
    """

    def __init__(self, count: int, rate: float) -> None:
        self.numbers = iter(range(count))
        self.rate = rate
        self.start = time.perf_counter() + 0.05
        self.latencies: list[float] = []
        self.failed: dict[str, int] = {}
        self.lock = threading.Lock()

    def due(self) -> float | None:
        """When the next request is due; None after the last."""
        with self.lock:
            number = next(self.numbers, None)
        return None if number is None else self.start + number / self.rate

    def done(self, due: float, outcome: object) -> None:
        """Note an answer's status, or what was raised."""
        with self.lock:
            self.latencies.append(time.perf_counter() - due)
            if outcome != 200:
                name = str(outcome) if isinstance(outcome, int) else type(outcome).__name__
                self.failed[name] = self.failed.get(name, 0) + 1

    def result(self) -> dict[str, Any]:
        """What came of it."""
        return {"latencies": self.latencies, "failed": self.failed}


def threads(make: Callable[[], Any], storm: Storm, workers: int) -> None:
    """One client per thread, as requests wants it; what they share is the peer's choice."""

    def work() -> None:
        client = make()
        while (due := storm.due()) is not None:
            time.sleep(max(0.0, due - time.perf_counter()))
            try:
                outcome: object = client.send()
            except Exception as error:  # noqa: BLE001 - counted, by its name
                outcome = error
            storm.done(due, outcome)

    running = [threading.Thread(target=work) for _ in range(workers)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


async def tasks(make: Callable[[], Any], storm: Storm, workers: int) -> None:
    """One client for all tasks, as asynchronous libraries want it."""
    client = make()

    async def work() -> None:
        while (due := storm.due()) is not None:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            try:
                outcome: object = await client.send()
            except Exception as error:  # noqa: BLE001 - counted, by its name
                outcome = error
            storm.done(due, outcome)

    await asyncio.gather(*(work() for _ in range(workers)))


def at_once(count: int, make: Callable[[], Any]) -> Callable[[], dict[str, int]]:
    """A function that has so many threads send a request each at the same moment; it tells how many got what."""

    def all_of_them() -> dict[str, int]:
        barrier = threading.Barrier(count)
        outcomes: list[str] = []

        def work() -> None:
            client = make()
            barrier.wait()
            try:
                outcomes.append(str(client.send()))
            except Exception as error:  # noqa: BLE001 - counted, by its name
                outcomes.append(type(error).__name__)

        running = [threading.Thread(target=work) for _ in range(count)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        return dict(Counter(outcomes))

    return all_of_them


def main() -> None:
    """Serve until standard input ends."""
    logging.disable()  # what goes wrong is counted
    peer: Any = importlib.import_module(sys.argv[1])
    prepared: Any = None
    for line in sys.stdin:
        order = json.loads(line)
        match order.pop("do"):
            case "prepare":
                prepared = getattr(peer, order.pop("task"))(**order)
                response: dict[str, Any] = {}
            case "run":
                response = run(prepared, order["count"])
            case "call":
                response = prepared()
            case "storm":
                storm = Storm(order["count"], order["rate"])
                if inspect.iscoroutinefunction(prepared.send):
                    asyncio.run(tasks(prepared.fresh, storm, order["workers"]))
                else:
                    threads(prepared.fresh, storm, order["workers"])
                response = storm.result()
            case unknown:
                raise SystemExit(f"no such order: {unknown}")
        print(json.dumps(response), flush=True)


if __name__ == "__main__":
    main()
