# SPDX-License-Identifier: Apache-2.0
"""The recording server, speaking HTTP/2 over TLS: the same handlers, the same record."""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Any

import h2.config
import h2.connection
import h2.events
from support.recorder import Handler, Received, Recorder

__all__ = ["Http2Recorder"]


class Http2Recorder(Recorder):
    """One thread per connection, any number of streams; bodies of answers are bytes."""

    def __init__(self, handler: Handler, *, tls: ssl.SSLContext) -> None:
        super().__init__(handler, tls=tls)

    def _serve(self, connection: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError, EOFError), connection:
            connection.settimeout(30)
            assert self._tls is not None
            with self._tls.wrap_socket(connection, server_side=True) as secure:
                with self._lock:
                    self._open.add(secure)
                try:
                    self._talk(secure, number)
                finally:
                    with self._lock:
                        self._open.discard(secure)

    def _talk(self, secure: ssl.SSLSocket, number: int) -> None:
        h2c = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        h2c.initiate_connection()
        secure.sendall(h2c.data_to_send())
        heads: dict[int, list[tuple[str, str]]] = {}
        bodies: dict[int, bytes] = {}
        pending: dict[int, bytes] = {}
        while content := secure.recv(65536):
            events: list[Any] = h2c.receive_data(content)
            for event in events:
                if isinstance(event, h2.events.RequestReceived):
                    heads[event.stream_id] = [(str(name), str(value)) for name, value in event.headers or []]
                    bodies[event.stream_id] = b""
                elif isinstance(event, h2.events.DataReceived):
                    bodies[event.stream_id] += event.data or b""
                    h2c.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    head, received = heads.pop(event.stream_id), bodies.pop(event.stream_id)
                    if body := self._reply(h2c, event.stream_id, head, received, number):
                        pending[event.stream_id] = body
                elif isinstance(event, h2.events.StreamReset):
                    pending.pop(event.stream_id, None)
            self._send(h2c, pending)
            secure.sendall(h2c.data_to_send())

    def _send(self, h2c: Any, pending: dict[int, bytes]) -> None:
        """As much of the bodies as the client's windows let through."""
        for stream, body in list(pending.items()):
            sent = min(h2c.local_flow_control_window(stream), len(body))
            size = h2c.max_outbound_frame_size
            for start in range(0, sent, size):
                h2c.send_data(stream, body[start : min(start + size, sent)])
            pending[stream] = body[sent:]
            if not pending[stream]:
                h2c.end_stream(stream)
                del pending[stream]

    def _reply(self, h2c: Any, stream: int, head: list[tuple[str, str]], body: bytes, number: int) -> bytes:
        pseudo = dict(pair for pair in head if pair[0].startswith(":"))
        # The authority stands in for Host, so that tests read both protocols alike.
        headers = [("Host", pseudo[":authority"]), *(pair for pair in head if not pair[0].startswith(":"))]
        line = f"{pseudo[':method']} {pseudo[':path']} HTTP/2"
        request = Received(line, headers, body, True, number, self.name)
        with self._lock:
            self.requests.append(request)
        response = self.handler(request)
        if response.drop:
            # A graceful end: what came after the last stream but one was not looked at (RFC 9113 §6.8).
            h2c.close_connection(last_stream_id=stream - 2)
            return b""
        assert isinstance(response.body, bytes)
        fields = [(name.lower(), value) for name, value in response.headers]
        h2c.send_headers(stream, [(":status", str(response.status)), *fields], end_stream=not response.body)
        return response.body
