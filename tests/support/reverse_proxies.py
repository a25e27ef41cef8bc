# SPDX-License-Identifier: Apache-2.0
"""A real nginx and a real HAProxy before servers of the tests, configured as the guide for servers says."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.paths import DOCS
from support.servers import Reply

__all__ = ["PROXIES", "ask_through", "haproxy", "nginx", "recipe"]

NGINX = shutil.which("nginx") or "/usr/sbin/nginx"
CONFIGURATION = """
daemon off; master_process off; worker_processes 1; pid {place}/pid; error_log stderr;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {place}/1; proxy_temp_path {place}/2; fastcgi_temp_path {place}/3; uwsgi_temp_path {place}/4;
  scgi_temp_path {place}/5;
  upstream app {{ {servers} }}
  {of_http}
  server {{ listen unix:{place}/socket; {of_server} }}
}}
"""

HAPROXY = """
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
frontend front
  bind unix@{place}/socket
  default_backend app
  {settings}
backend app
  {servers}
"""


def recipe(language: str) -> str:
    """The snippet of the guide."""
    (block,) = re.findall(
        rf"^```{language}\n(.*?)^```$", (DOCS / "servers.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    return str(block)


@contextlib.contextmanager
def nginx(
    place: Path,
    *ports: int,
    settings: str = "# in server { }\nlocation / { proxy_pass http://app; proxy_next_upstream off; }",
) -> Iterator[str]:
    """nginx before servers on these ports, of which the first gets the first request; the path of its socket."""
    of_http, _, of_server = settings.partition("# in server { }")
    of_server = of_server.partition("\n")[2]
    servers = " ".join(f"server 127.0.0.1:{port};" for port in ports)
    text = CONFIGURATION.format(place=place, servers=servers, of_http=of_http, of_server=of_server)
    (place / "nginx.conf").write_text(text, "utf-8")
    with _run([NGINX, "-p", place, "-c", place / "nginx.conf", "-e", "stderr"], place) as path:
        yield path


@contextlib.contextmanager
def haproxy(place: Path, *ports: int, settings: str = "") -> Iterator[str]:
    """HAProxy before servers on these ports; the path of its socket."""
    servers = "\n  ".join(f"server app{number} 127.0.0.1:{port}" for number, port in enumerate(ports))
    text = HAPROXY.format(place=place, servers=servers, settings=settings)
    (place / "haproxy.cfg").write_text(text, "utf-8")
    with _run([shutil.which("haproxy") or "/usr/sbin/haproxy", "-db", "-f", place / "haproxy.cfg"], place) as path:
        yield path


@contextlib.contextmanager
def _run(command: list[Any], place: Path) -> Iterator[str]:
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 30
        while not _accepts(str(place / "socket")):  # the file is there a moment before anybody listens
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield str(place / "socket")
    finally:
        process.terminate()
        process.communicate(timeout=30)


def _accepts(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(path) == 0


PROXIES: dict[str, Any] = {"nginx": nginx, "haproxy": haproxy}


def ask_through(path: str, target: str, *fields: tuple[str, str]) -> Reply:
    """Send one request to a proxy at this path, byte for byte, and read the answer to its end."""
    lines = [f"GET {target} HTTP/1.1", "Host: api.example", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in fields]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(120)
        connection.connect(path)
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        data = b""
        while more := connection.recv(65536):
            data += more
    return Reply(data)
