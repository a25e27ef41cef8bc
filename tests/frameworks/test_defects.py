# SPDX-License-Identifier: Apache-2.0
"""Every defect, byte for byte, at an API behind every server: it is refused as it must be, and never with a 500.

Servers differ in what they let through to the application at all; what they do not is refused by themselves.
"""

from __future__ import annotations

import socket

import pytest
from support.resource import PUBLIC_URL
from support.servers import ASGI, START_SECONDS, WSGI, Reply, running

import dpop
from dpop.testing.defects import DEFECTS, defective_fields

# Of a token whose hash has one of the two characters that base64url writes differently.
KEY = next(
    key
    for key in (dpop.generate_key() for _ in range(99))
    if {"-", "_"} & set(dpop.access_token_hash(f"bound.{key.thumbprint}"))
)
TOKEN = f"bound.{KEY.thumbprint}"
TARGET = "/items/Things"
# These need an escape in the path, which not every WSGI server hands on as it came.
OF_OTHER_URLS = {"htu-reserved-decoded", "htu-plus-vs-space"}
OF_OTHER_SERVERS = {"a server that accepts ES384", "a max_age of 60 s"}


def send(port: int, fields: list[tuple[str, str]]) -> Reply | None:
    """A request with these fields; None if the server closes the connection without an answer."""
    lines = [f"GET {TARGET} HTTP/1.1", "Host: internal.example", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in [("Authorization", f"DPoP {TOKEN}"), *fields]]
    data = b""
    with socket.create_connection(("127.0.0.1", port), timeout=START_SECONDS) as connection:
        try:
            connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
            while more := connection.recv(65536):
                data += more
        except OSError:
            pass  # it did not wait for the whole megabyte
    return Reply(data) if data else None


@pytest.mark.parametrize("server", [*ASGI, *WSGI])
def test_every_defect_at_every_server(server: str) -> None:
    """401 with a DPoP challenge for what reaches the application, 200 for what is unusual and right."""
    reached = 0
    with running(server, nonces=False) as port:
        for name, defect in DEFECTS.items():
            if defect.group == "nonce" or defect.where in OF_OTHER_SERVERS or name in OF_OTHER_URLS:
                continue
            fields = defective_fields(name, KEY, "GET", PUBLIC_URL + TARGET, access_token=TOKEN)
            reply = send(port, fields)
            status = None if reply is None else reply.status
            if defect.verdict == "ok":
                assert status == 200, name
                continue
            assert status in {None, 400, 401, 431}, name
            if reply is not None and status == 401:
                reached += 1
                challenge = next(value for value in reply.all("WWW-Authenticate") if value.startswith("DPoP"))
                wanted = "invalid_dpop_proof" if defect.verdict == "missing" else defect.verdict
                assert f'error="{wanted}"' in challenge, name
    # No server holds back more than what is not HTTP.
    assert reached > 180
