# SPDX-License-Identifier: Apache-2.0
"""Real servers on loopback, each in a process of its own, on a socket that is open before it starts.

python tests/support/servers.py NAME DESCRIPTOR SETTINGS
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

__all__ = ["ASGI", "FURTHER_ASGI", "START_SECONDS", "WSGI", "Connection", "Reply", "ask", "running"]

ASGI = ("uvicorn-h11", "uvicorn-httptools", "hypercorn")
# Servers whose paths are looked at, and nothing else of them.
FURTHER_ASGI = ("daphne", "granian")
START_SECONDS = 180.0
"""How long a response may take: the first waits until the server's process runs, which a busy machine delays."""
_KEEP_ALIVE = 60  # seconds: clients of a busy machine may pause longer than the five that are usual
WSGI = ("gunicorn", "gunicorn-threads", "waitress", "wsgiref", "granian-wsgi")


@contextlib.contextmanager
def running(
    name: str, application: str = "support.resource", *, where: Path | None = None, workers: int = 1, **settings: Any
) -> Iterator[int]:
    """Run a server of this name; its port. Who connects before it is ready waits in the socket's queue.

    :param where: a directory that has the application's module.
    :param workers: processes, of gunicorn.
    :param settings: of the application.
    """
    environment = os.environ | {"WORKERS": str(workers)}
    if where is not None:
        # Before what is there: the package under test may be found by it.
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(where), os.environ.get("PYTHONPATH")]))
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        listening.set_inheritable(True)
        arguments = [name, str(listening.fileno()), application, json.dumps(settings)]
        process = subprocess.Popen(
            [sys.executable, __file__, *arguments],
            pass_fds=[listening.fileno()],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield listening.getsockname()[1]
        finally:
            process.terminate()
            try:
                said = process.communicate(timeout=30)[1]
            except subprocess.TimeoutExpired:
                process.kill()
                said = process.communicate()[1]
            assert "Traceback" not in said, said


class Reply:
    """An answer as it was on the wire."""

    def __init__(self, data: bytes) -> None:
        head, _, self.body = data.partition(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")
        self.status = int(line.split(" ")[1])
        pairs = [field.partition(":") for field in fields]
        self.fields = [(name.lower(), value.strip()) for name, _, value in pairs]

    def all(self, name: str) -> list[str]:
        """Every value of a header, in order."""
        return [value for key, value in self.fields if key == name.lower()]


def ask(port: int, target: str, *fields: tuple[str, str], method: str = "GET") -> Reply:
    """Send one request, byte for byte, and read the answer to its end."""
    lines = [f"{method} {target} HTTP/1.1", "Host: internal.example:8080", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in fields]
    with socket.create_connection(("127.0.0.1", port), timeout=START_SECONDS) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        data = b""
        while more := connection.recv(65536):
            data += more
    return Reply(data)


class Connection:
    """Sends requests byte for byte over one connection, as long as the server keeps it; then over a new one."""

    def __init__(self, port: int, *, timeout: float = START_SECONDS) -> None:
        self._port, self._timeout = port, timeout
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._close()

    def ask(self, target: str, *fields: tuple[str, str]) -> Reply:
        """Send one request and read its answer.

        :raises OSError: the server hung up.
        """
        lines = [f"GET {target} HTTP/1.1", "Host: internal.example:8080"]
        lines += [f"{name}: {value}" for name, value in fields]
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=self._timeout)
        try:
            self._socket.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
            reply, stays = self._read(self._socket)
        except BaseException:
            self._close()
            raise
        if not stays:
            self._close()
        return reply

    @staticmethod
    def _read(connection: socket.socket) -> tuple[Reply, bool]:
        """Read an answer; whether another request may follow: it ended where its length said."""
        data = b""
        while more := connection.recv(65536):
            data += more
            head, end, body = data.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            if end and length and len(body) == int(length[1]):
                return Reply(data), not re.search(rb"(?i)\r\nconnection: *close|^HTTP/1.0", head)
        return Reply(data), False

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


# --- in the server's process


def _serve(name: str, descriptor: int, application: str, settings: dict[str, Any]) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    listening = socket.socket(fileno=descriptor)
    port = listening.getsockname()[1]
    root_path, trusts_prefix = settings.pop("root_path", ""), settings.pop("trusts_prefix", False)
    if name in {*ASGI, *FURTHER_ASGI}:
        _serve_asgi(name, listening, _application(application, "asgi", settings, port), root_path)
        return
    if root_path:
        os.environ["SCRIPT_NAME"] = root_path  # of gunicorn
    app = _application(application, "wsgi", settings, port)
    if trusts_prefix:
        from werkzeug.middleware.proxy_fix import ProxyFix

        app = ProxyFix(app, x_for=0, x_proto=0, x_host=0, x_prefix=1)
    _serve_wsgi(name, listening, app, root_path)


def _application(where: str, kind: str, settings: dict[str, Any], port: int) -> Any:
    if where != "support.resource":
        import importlib

        return importlib.import_module(where).app
    from support import resource

    if settings.get("url") == "own":
        settings["url"] = f"http://127.0.0.1:{port}"
    if "redis" in settings:
        import redis

        from dpop.redis import RedisReplayCache

        client = redis.Redis.from_url(settings.pop("redis"))
        settings["replay"] = RedisReplayCache(client, when_down="refuse")
    if kind == "asgi":
        from dpop.asgi import DPoPMiddleware

        return DPoPMiddleware(resource.asgi_application, resource.resource(**settings))
    from dpop.wsgi import DPoPMiddleware as WSGIMiddleware

    return WSGIMiddleware(resource.wsgi_application, resource.resource(**settings))


def _serve_asgi(name: str, listening: socket.socket, app: Any, root_path: str) -> None:
    if name == "hypercorn":
        from hypercorn.asyncio import serve
        from hypercorn.config import Config

        config = Config()
        config.bind = [f"fd://{listening.detach()}"]
        config.root_path = root_path
        config.keep_alive_timeout = _KEEP_ALIVE
        asyncio.run(serve(app, config))
        return
    if name == "daphne":
        from daphne.server import Server

        endpoint = f"fd:fileno={listening.detach()}"
        Server(app, endpoints=[endpoint], signal_handlers=False, root_path=root_path, verbosity=0).run()
        return
    if name == "granian":
        asyncio.run(_granian(listening, app, root_path))
        return
    import uvicorn

    parser = name.partition("-")[2]
    config = uvicorn.Config(
        app,
        http=parser,  # type: ignore[arg-type]
        log_level="warning",
        root_path=root_path,
        timeout_keep_alive=_KEEP_ALIVE,
    )
    uvicorn.Server(config).run(sockets=[listening])


async def _granian(listening: socket.socket, app: Any, root_path: str) -> None:
    import signal

    from granian._granian import SocketHolder
    from granian.constants import Interfaces
    from granian.server.embed import Server

    listening.setblocking(False)

    class Granian(Server):
        def _init_shared_socket(self) -> None:
            self._ssp, self._shd = None, SocketHolder(listening.detach(), False, 64)

    server = Granian(app, interface=Interfaces.ASGI, url_path_prefix=root_path or None, log_enabled=False)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stop)
    await server.serve()


def _serve_granian_wsgi(listening: socket.socket, app: Any, root_path: str) -> None:
    from granian._granian import SocketHolder
    from granian.constants import Interfaces
    from granian.server.mt import MTServer

    listening.setblocking(False)

    class Granian(MTServer):  # one process, as its embedded server is one, which does not know WSGI
        def _check_gil(self) -> None: ...

        def _init_shared_socket(self) -> None:
            self._ssp, self._shd = None, SocketHolder(listening.detach(), False, 64)

    server = Granian("none", interface=Interfaces.WSGI, url_path_prefix=root_path or None, log_enabled=False)
    server.serve(target_loader=lambda *_: app, wrap_loader=False)


def _serve_wsgi(name: str, listening: socket.socket, app: Any, root_path: str) -> None:
    if name == "granian-wsgi":
        _serve_granian_wsgi(listening, app, root_path)
        return
    if name == "waitress":
        import waitress

        waitress.serve(app, sockets=[listening], threads=4, url_prefix=root_path)
        return
    if name == "wsgiref":
        from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

        class Quiet(WSGIRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

        server = WSGIServer(("127.0.0.1", 0), Quiet, bind_and_activate=False)
        server.socket = listening
        server.server_name, server.server_port = "127.0.0.1", listening.getsockname()[1]
        server.setup_environ()
        server.set_app(app)
        server.serve_forever()
        return
    from gunicorn.app.base import BaseApplication

    class Gunicorn(BaseApplication):  # type: ignore[misc]
        def load_config(self) -> None:
            settings = {
                "bind": f"fd://{listening.detach()}",
                "workers": int(os.environ["WORKERS"]),
                "loglevel": "error",
            }
            settings |= {"threads": 4} if name.endswith("threads") else {}
            for key, value in settings.items():
                self.cfg.set(key, value)

        def load(self) -> Any:
            return app

    Gunicorn().run()


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4]))
