# SPDX-License-Identifier: Apache-2.0
"""Ports for servers that must be told one; all others should choose their own, or be given an open socket."""

from __future__ import annotations

import socket

__all__ = ["reserved_port"]


def reserved_port() -> int:
    """Return a port of 127.0.0.1 on which a server can listen, and that the system gives to nobody else for a minute.

    A port that was only free a moment ago may be another program's by the time the server listens. A connection that
    this end closed keeps the port in TIME_WAIT: the system chooses such a port for no socket, and lets those listen on
    it that ask for it with SO_REUSEADDR, as servers do.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            listener.accept()[0].close()
    return port
