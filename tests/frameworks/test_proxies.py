# SPDX-License-Identifier: Apache-2.0
"""Behind a real nginx and a real HAProxy, configured as the guide for servers says."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest
from support.resource import PUBLIC_URL
from support.reverse_proxies import PROXIES, ask_through, recipe
from support.servers import START_SECONDS, Reply, running

import dpop

KEY = dpop.generate_key()
TOKEN = f"bound.{KEY.thumbprint}"


def ask(path: str, target: str, proven: str) -> Reply:
    """A request through a proxy with a proof for this path of the public URL."""
    proof = dpop.create_proof(KEY, "GET", PUBLIC_URL + proven, access_token=TOKEN)
    return ask_through(path, target, ("Authorization", f"DPoP {TOKEN}"), ("DPoP", proof))


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
        PROXIES[proxy](place, port, settings=recipe(proxy)) as path,
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


@contextlib.contextmanager
def dying(port: int) -> Iterator[int]:
    """A server that is lost before it responds: requests reach the one on this port, and nothing comes back."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                near = listener.accept()[0]
                with near, socket.create_connection(("127.0.0.1", port), timeout=START_SECONDS) as far:
                    request = b""
                    while not request.endswith(b"\r\n\r\n"):
                        request += near.recv(65536)
                    far.sendall(request)
                    assert far.recv(1)  # so the proof is recorded

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(30)


def test_a_server_that_is_lost_before_it_responds(proxy: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The proxy must not repeat the request at the next one, whose 401 for a replay would hide that nobody knows."""
    place = tmp_path_factory.mktemp("p")
    with (
        running("gunicorn", nonces=False) as port,
        dying(port) as lost,
        PROXIES[proxy](place, lost, port, settings=recipe(proxy)) as path,
    ):
        statuses = [ask(path, "/v1/items", "/items").status for _ in range(2)]
    assert sorted(statuses) == [200, 502]
