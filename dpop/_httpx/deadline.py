# SPDX-License-Identifier: Apache-2.0
"""A time limit for a whole response in synchronous httpx and httpx2, which limit only the time between bytes.

A server that sends a byte each second, in the head, in the extension of a chunk or in a trailer, would otherwise hold
the caller's thread for ever: no code outside httpcore runs meanwhile. So a timer shuts down the socket.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Any, Final

__all__ = ["ResponseDeadline"]


class ResponseDeadline:
    """Ends the exchange of one request if its response has not come whole in time.

    :param seconds: from the moment when the head of the request, or of its repetition, is written.
    """

    EXTENSION: Final = "dpop_deadline"
    """The extension under which a request has its deadline."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timer: threading.Timer | None = None
        self.pool: Any = None
        """The connection pool of httpcore that sends the request."""
        self.at: float | None = None
        """When the response has to be whole, by the monotonic clock; ``None`` before the request is sent."""

    def restart(self) -> None:
        """Begin again, because a request is about to be sent."""
        self.stop()
        self.at = time.monotonic() + self._seconds
        timer = threading.Timer(self._seconds, self._shut_down)
        timer.daemon = True
        timer.name = "dpop-deadline"
        with contextlib.suppress(RuntimeError):  # the interpreter is shutting down, or has no thread left
            timer.start()
            self._timer = timer

    def stop(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def is_over(self) -> bool:
        """Whether the time is over."""
        return self.at is not None and time.monotonic() >= self.at

    def _shut_down(self) -> None:
        """Wake the thread that reads from the connection of this request: for it, the server has gone away."""
        for each in list(getattr(self.pool, "_requests", ())):
            if each.request.extensions.get(self.EXTENSION) is self:
                connection = each.connection
                while (inner := getattr(connection, "_connection", None)) is not None:
                    connection = inner
                stream = getattr(connection, "_network_stream", None)
                sock = None if stream is None else stream.get_extra_info("socket")
                if isinstance(sock, socket.socket):
                    with contextlib.suppress(OSError):
                        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # SSLSocket's own would also drop its state
