# SPDX-License-Identifier: Apache-2.0
"""Behind a real nginx and a real HAProxy, configured as the guide for servers says."""

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

import pytest
from frameworks.resource import PUBLIC_URL
from frameworks.servers import Reply, running
from support.paths import DOCS

import dpop

KEY = dpop.generate_key()
TOKEN = f"bound.{KEY.thumbprint}"
NGINX = shutil.which("nginx") or "/usr/sbin/nginx"
CONFIGURATION = """
daemon off; master_process off; worker_processes 1; pid {place}/pid; error_log stderr;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {place}/1; proxy_temp_path {place}/2; fastcgi_temp_path {place}/3; uwsgi_temp_path {place}/4;
  scgi_temp_path {place}/5;
  upstream app {{ server 127.0.0.1:{port}; }}
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
  server app 127.0.0.1:{port}
"""


def recipe(language: str) -> str:
    """The snippet of the guide."""
    (block,) = re.findall(
        rf"^```{language}\n(.*?)^```$", (DOCS / "servers.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    return str(block)


@contextlib.contextmanager
def nginx(
    place: Path, port: int, settings: str = "# in server { }\nlocation / { proxy_pass http://app; }"
) -> Iterator[str]:
    """nginx before a server on this port; the path of its socket."""
    of_http, _, of_server = settings.partition("# in server { }")
    of_server = of_server.partition("\n")[2]
    text = CONFIGURATION.format(place=place, port=port, of_http=of_http, of_server=of_server)
    (place / "nginx.conf").write_text(text, "utf-8")
    with _run([NGINX, "-p", place, "-c", place / "nginx.conf", "-e", "stderr"], place) as path:
        yield path


@contextlib.contextmanager
def haproxy(place: Path, port: int, settings: str = "") -> Iterator[str]:
    """HAProxy before a server on this port; the path of its socket."""
    text = HAPROXY.format(place=place, port=port, settings=settings)
    (place / "haproxy.cfg").write_text(text, "utf-8")
    with _run([shutil.which("haproxy") or "/usr/sbin/haproxy", "-db", "-f", place / "haproxy.cfg"], place) as path:
        yield path


@contextlib.contextmanager
def _run(command: list[Any], place: Path) -> Iterator[str]:
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 30
        while not (place / "socket").exists():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield str(place / "socket")
    finally:
        process.terminate()
        process.communicate(timeout=30)


PROXIES: dict[str, Any] = {"nginx": nginx, "haproxy": haproxy}


def ask(path: str, target: str, proven: str) -> Reply:
    """A request through nginx with a proof for this path of the public URL."""
    proof = dpop.create_proof(KEY, "GET", PUBLIC_URL + proven, access_token=TOKEN)
    lines = [f"GET {target} HTTP/1.1", "Host: api.example", "Connection: close"]
    lines += [f"Authorization: DPoP {TOKEN}", f"DPoP: {proof}", "", ""]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(path)
        connection.sendall("\r\n".join(lines).encode())
        data = b""
        while more := connection.recv(65536):
            data += more
    return Reply(data)


@pytest.fixture(scope="module", params=sorted(PROXIES))
def proxy(request: pytest.FixtureRequest) -> str:
    """The name of each proxy."""
    return str(request.param)


@pytest.fixture(scope="module", params=["uvicorn-h11", "granian"])
def front(request: pytest.FixtureRequest, proxy: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A proxy that removes /v1 as the guide says."""
    place = tmp_path_factory.mktemp("p")
    with (
        running(request.param, nonces=False, url=PUBLIC_URL + "/v1") as port,
        PROXIES[proxy](place, port, recipe(proxy)) as path,
    ):
        yield path


@pytest.mark.parametrize(
    "rest", ["/items", "/a%3Ab", "/a%40b", "/a%2Fb", "//a//b", "/a%20b", "/caf%C3%A9", "/%7Eu", "/"]
)
def test_a_path_reaches_the_application_as_it_was_sent(front: str, rest: str) -> None:
    """nginx's own ways to remove a prefix encode it anew."""
    assert ask(front, f"/v1{rest}?q=%2F", f"/v1{rest}").status == 200
    assert ask(front, f"/v1{rest}", f"/v1{rest}x").status == 401


@pytest.mark.parametrize("target", ["/v2/../v1/items", "/v1/../v1/items", "/v1/%2e%2e/v1/items", "//v1/items"])
def test_nothing_else_comes_in(front: str, target: str) -> None:
    """A proxy may choose the place by a path that it has resolved, and hand on what the client sent."""
    assert ask(front, target, "/v1/items").status == 400


def test_without_a_prefix(proxy: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Without a prefix to remove, both proxies hand on the path as it is."""
    place = tmp_path_factory.mktemp("p")
    with running("gunicorn", nonces=False) as port, PROXIES[proxy](place, port) as path:
        for target in ("/a%3Ab", "/a%2Fb", "//a"):
            assert ask(path, target, target).status == 200
