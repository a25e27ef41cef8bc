# SPDX-License-Identifier: Apache-2.0
"""Wait for the work of another thread on the running event loop, of asyncio or trio."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, Final

from dpop.errors import UsageError

__all__ = ["waiting_here"]

_LOOK_SECONDS: Final = 1.0


def waiting_here() -> Callable[[Future[Any]], Awaitable[None]]:
    """Return a function that waits for the end of a future on the running event loop, for at most a second.

    The result is not passed to the event loop: if the loop ended before, nobody would retrieve it.
    """
    asyncio: Any = sys.modules.get("asyncio")
    trio: Any = sys.modules.get("trio")
    if asyncio is not None and asyncio._get_running_loop() is not None:  # noqa: SLF001 - documented for this use
        loop = asyncio.get_running_loop()

        async def on_asyncio(future: Future[Any]) -> None:
            over = loop.create_future()

            def tell(_: Future[Any]) -> None:
                with contextlib.suppress(RuntimeError):  # the loop may be closed by now
                    loop.call_soon_threadsafe(lambda: over.done() or over.set_result(None))

            future.add_done_callback(tell)
            await asyncio.wait([over], timeout=_LOOK_SECONDS)

        return on_asyncio
    with contextlib.suppress(AttributeError, RuntimeError):  # trio is not imported, or does not run here
        token = trio.lowlevel.current_trio_token()

        async def on_trio(future: Future[Any]) -> None:
            over = trio.Event()

            def tell(_: Future[Any]) -> None:
                with contextlib.suppress(trio.RunFinishedError):
                    token.run_sync_soon(over.set)

            future.add_done_callback(tell)
            with trio.move_on_after(_LOOK_SECONDS):
                await over.wait()

        return on_trio
    raise UsageError("a token source can be awaited on an event loop of asyncio or trio only; neither runs here")
