# SPDX-License-Identifier: Apache-2.0
"""Worker threads of asyncio for keys that block."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

__all__ = ["asyncio_tools"]

_T = TypeVar("_T")
_MAX_THREADS: Final = 32


class _AsyncioTools:
    """Sleep and worker threads for the driver of a flow; holds nothing that belongs to one event loop for long."""

    def __init__(self) -> None:
        self._limits: dict[asyncio.AbstractEventLoop, asyncio.Semaphore] = {}

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def to_thread(self, function: Callable[[], _T]) -> _T:
        """Run the function in an extra thread: a device that hangs must not use up the program's own worker threads.

        A task that is cancelled does not wait for it, and neither does the end of the program.
        """
        loop = asyncio.get_running_loop()
        limit = self._limits.get(loop)
        if limit is None:
            # A semaphore that a task has waited for refers to its event loop, so a dict with weak keys would keep both.
            for ended in [each for each in list(self._limits) if each.is_closed()]:
                self._limits.pop(ended, None)
            limit = self._limits[loop] = asyncio.Semaphore(_MAX_THREADS)
        await limit.acquire()
        future: asyncio.Future[_T] = loop.create_future()
        context = contextvars.copy_context()

        def settle(outcome: Callable[[], None]) -> None:
            limit.release()
            if not future.done():  # its task may have been cancelled
                outcome()

        def run() -> None:
            outcome: Callable[[], None]
            try:
                outcome = partial(future.set_result, context.run(function))
            except BaseException as error:  # noqa: BLE001 - it is raised in the task
                outcome = partial(future.set_exception, error)
            with contextlib.suppress(RuntimeError):  # the event loop is closed
                loop.call_soon_threadsafe(settle, outcome)

        try:
            threading.Thread(target=run, name="dpop", daemon=True).start()
        except BaseException:
            limit.release()
            raise
        return await future


asyncio_tools: Final = _AsyncioTools()
