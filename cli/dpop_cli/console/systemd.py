# SPDX-License-Identifier: Apache-2.0
"""Tell systemd what a command that runs as a service does (sd_notify(3))."""

from __future__ import annotations

import contextlib
import os
import socket

__all__ = ["notify"]


def notify(message: str) -> None:
    """Tell systemd, if it started us and listens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address or not hasattr(socket, "AF_UNIX"):
        return
    if address.startswith("@"):  # Linux's names outside the file system
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
        notifier.sendto(message.encode(), address)
