# SPDX-License-Identifier: Apache-2.0
"""Proxies for the tests: HTTP (forwarding and CONNECT) and SOCKS5, on 127.0.0.1, which note what they saw.

with ForwardProxy() as proxy, Recorder(handler) as server:
    ...  # a client with proxy.url
assert proxy.seen == ["CONNECT 127.0.0.1:12345"]
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

__all__ = ["ForwardProxy", "SocksProxy"]


class _Proxy:
    """Accepts connections and serves each in a thread until it is closed."""

    scheme = "http"

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.drop_next = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        host, port = self._listener.getsockname()
        return f"{self.scheme}://{host}:{port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in list(self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError, struct.error), client:
            self._sockets.add(client)
            client.settimeout(30)
            self.handle(client)
        self._sockets.discard(client)

    def handle(self, client: socket.socket) -> None:
        raise NotImplementedError

    def note(self, what: str) -> bool:
        """Remember a request; whether its connection is to be dropped."""
        with self._lock:
            self.seen.append(what)
            self.drop_next -= 1
            return self.drop_next >= 0

    def tunnel(self, client: socket.socket, host: str, port: int) -> None:
        """Copy bytes both ways until either side ends."""
        with socket.create_connection((host, port), 10) as server:
            self._sockets.add(server)
            back = threading.Thread(target=_copy, args=(server, client), daemon=True)
            back.start()
            _copy(client, server)
            back.join(30)
            self._sockets.discard(server)


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _head(client: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        more = client.recv(65536)
        if not more:
            raise OSError
        data += more
    return data


class ForwardProxy(_Proxy):
    """CONNECT, and absolute-form forwarding of one request per connection."""

    def __init__(self, *, refuse: list[tuple[str, str]] | None = None) -> None:
        super().__init__()
        self.refuse = refuse

    def handle(self, client: socket.socket) -> None:
        data = _head(client)
        method, target, _ = data.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if self.note(f"{method} {target}"):
            return
        if self.refuse is not None:
            fields = "".join(f"{name}: {value}\r\n" for name, value in self.refuse)
            client.sendall(f"HTTP/1.1 407 X\r\n{fields}Content-Length: 0\r\n\r\n".encode("latin-1"))
            return
        if method == "CONNECT":
            host, _, port = target.rpartition(":")
            client.sendall(b"HTTP/1.1 200 X\r\n\r\n")
            self.tunnel(client, host, int(port))
            return
        url = urlsplit(target)
        with socket.create_connection((url.hostname or "", url.port or 80), 10) as server:
            # As a forwarding proxy does: origin form, and the connection closed after one answer.
            path = url.path + (f"?{url.query}" if url.query else "")
            head, _, body = data.partition(b"\r\n\r\n")
            kept = [field for field in head.split(b"\r\n")[1:] if not field.lower().startswith(b"connection:")]
            line = f"{method} {path} HTTP/1.1".encode("latin-1")
            server.sendall(b"\r\n".join([line, *kept, b"Connection: close", b"", body]))
            pump = threading.Thread(target=_copy, args=(client, server), daemon=True)
            pump.start()
            response = _head(server)
            status, _, rest = response.partition(b"\r\n")
            client.sendall(status + b"\r\nConnection: close\r\n" + rest)
            with contextlib.suppress(OSError):
                while more := server.recv(65536):
                    client.sendall(more)
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)


class SocksProxy(_Proxy):
    """SOCKS5 without authentication (RFC 1928)."""

    scheme = "socks5h"

    def handle(self, client: socket.socket) -> None:
        stream: Any = client.makefile("rb", buffering=0)
        _, methods = struct.unpack("BB", stream.read(2))
        stream.read(methods)
        client.sendall(b"\x05\x00")
        _, _, _, kind = struct.unpack("4B", stream.read(4))
        host = socket.inet_ntoa(stream.read(4)) if kind == 1 else stream.read(stream.read(1)[0]).decode("ascii")
        (port,) = struct.unpack(">H", stream.read(2))
        if self.note(f"{host}:{port}"):
            return
        client.sendall(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x00")
        self.tunnel(client, host, port)
