# SPDX-License-Identifier: Apache-2.0
"""Key services on this machine: moto's AWS KMS, and servers that fail as clouds do."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import json
import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from dpop.errors import KeyUnavailableError

AWS_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""Those of AWS's documentation, and nothing of whoever runs the tests."""


@dataclass(frozen=True)
class Asked:
    """One request to a service."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Told:
    """The response of a service: JSON, or bytes; status 0 closes the connection without a response."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


Response = Callable[[Asked], Told]


class _Server(ThreadingHTTPServer):
    """An HTTP server that accepts any number of connections."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_arguments: object) -> None:
        """Ignore the error of a client that disconnects."""


class CloudServer:
    """An HTTP service on a free port; a function makes its responses.

    ``faults`` come first, one per request; ``hold`` makes every request wait until it is set.
    """

    def __init__(self, response: Response, certificate: Path | None = None) -> None:
        self.response = response
        self.asked: list[Asked] = []
        self.connections: list[object] = []
        self.faults: list[Told] = []
        self.hold = threading.Event()
        self.hold.set()
        self.arrived = threading.Event()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        scheme = "http"
        if certificate is not None:
            scheme = "https"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            # The handshake is for the connection's own thread: it may take as long as the client likes.
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port: int = self._server.server_address[1]
        self.url = f"{scheme}://127.0.0.1:{self.port}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        cloud = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                cloud.connections.append(self.client_address)
                super().setup()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                asked = Asked(self.command, self.path, headers, json.loads(body) if body else None)
                cloud.asked.append(asked)
                cloud.arrived.set()
                cloud.hold.wait(60)
                told = cloud.faults.pop(0) if cloud.faults else cloud.response(asked)
                if told.status == 0:
                    self.close_connection = True
                    return
                data = told.body if isinstance(told.body, bytes) else json.dumps(told.body).encode()
                with contextlib.suppress(OSError):
                    self.send_response(told.status)
                    for name, value in {"Content-Type": "application/json", **told.headers}.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)

            do_GET = do_POST  # noqa: N815 - http.server's name

            def log_message(self, *args: object) -> None:
                pass

        return Handler

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.hold.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


_T = TypeVar("_T")


def in_the_end(call: Callable[[], _T]) -> _T:
    """Return what a call with a short timeout returns once it is in time: a busy machine may take several tries."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return call()
        except KeyUnavailableError:
            if time.monotonic() > deadline:
                raise


@contextlib.contextmanager
def moto() -> Iterator[str]:
    """Start moto, an AWS on this machine; return its URL."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def self_signed(folder: Path) -> Path:
    """Make a file with a certificate for 127.0.0.1 and its key, for a server and its clients."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "cloud")])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - dt.timedelta(1)).not_valid_after(now + dt.timedelta(1))
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    path = folder / "cloud.pem"
    path.write_bytes(
        certificate.public_bytes(Encoding.PEM) + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return path
