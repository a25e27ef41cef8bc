# SPDX-License-Identifier: Apache-2.0
"""Answers 200 to every request head, without a thought, so that its work is not counted as a client's."""

from __future__ import annotations

import asyncio


class Answering(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.octets = b""

    def data_received(self, data: bytes) -> None:
        self.octets += data
        while b"\r\n\r\n" in self.octets:
            self.octets = self.octets.partition(b"\r\n\r\n")[2]
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")  # type: ignore[attr-defined]


async def main() -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
