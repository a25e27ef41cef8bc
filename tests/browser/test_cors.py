# SPDX-License-Identifier: Apache-2.0
"""A page of one origin calls an API of another in a real browser, Chromium without a window.

The page makes a key and proofs itself, reads ``WWW-Authenticate`` and ``DPoP-Nonce`` of the 401, and tries again with
the nonce.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import socket
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn
from support.chromium import chromium_path
from support.paths import DOCS

PAGE = """<!doctype html><title>page</title><img src="/wait"><script>
const b64 = (data) => btoa(String.fromCharCode(...new Uint8Array(data))).replace(/\\+/g, "-").replace(/\\//g, "_")
  .replace(/=+$/, "")
const text = (value) => new TextEncoder().encode(value)
const hash = async (value) => b64(await crypto.subtle.digest("SHA-256", text(value)))
async function run(url) {
  const pair = await crypto.subtle.generateKey({ name: "ECDSA", namedCurve: "P-256" }, false, ["sign"])
  const { crv, kty, x, y } = await crypto.subtle.exportKey("jwk", pair.publicKey)
  const token = "bound." + await hash(JSON.stringify({ crv, kty, x, y }))
  const ask = async (nonce) => {
    const header = { alg: "ES256", typ: "dpop+jwt", jwk: { crv, kty, x, y } }
    const claims = { jti: crypto.randomUUID(), htm: "GET", htu: url, iat: Math.floor(Date.now() / 1000),
                     ath: await hash(token), nonce }
    const data = b64(text(JSON.stringify(header))) + "." + b64(text(JSON.stringify(claims)))
    const signature = await crypto.subtle.sign({ name: "ECDSA", hash: "SHA-256" }, pair.privateKey, text(data))
    const answer = await fetch(url, {
      headers: { Authorization: "DPoP " + token, DPoP: data + "." + b64(signature) } })
    return { status: answer.status, challenge: answer.headers.get("WWW-Authenticate"),
             nonce: answer.headers.get("DPoP-Nonce") }
  }
  const first = await ask()
  return [first, first.nonce === null ? null : await ask(first.nonce)]
}
run("@URL@").then((told) => JSON.stringify(told), (error) => "error: " + error)
  .then((told) => fetch("/said", { method: "POST", body: told }))
</script>"""

# As the guide says under "Error handlers of other frameworks".
HANDLERS = """
from dpop import asgi
from dpop.server import REFUSALS
from starlette.responses import Response


async def refused(request, error):
    status, headers = asgi.refusal(request.scope, error)
    response = Response(status_code=status)
    for name, value in headers:
        response.headers.append(name, value)
    return response


for kind in REFUSALS:
    app.add_exception_handler(kind, refused)
"""


async def look_up(token: str) -> dict[str, Any]:
    """Tell what the token says: the thumbprint of its key."""
    return {"active": True, "sub": "alice", "scope": "read", "cnf": {"jkt": token.removeprefix("bound.")}}


def guide() -> str:
    """The FastAPI application of the guide for servers."""
    text = (DOCS / "servers.md").read_text("utf-8")
    (block,) = re.findall(r"^```python\n(# FastAPI: uvicorn api:app\n.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return str(block)


EXPOSING = '    expose_headers=["DPoP-Nonce", "WWW-Authenticate"],\n'
ANOTHER = '    expose_headers=["X-Total"],\n'
ADDING = "app.add_middleware(DPoPMiddleware, resource=api)\n"


def inside(recipe: str) -> str:
    """The application with the CORS middleware inside, and refusals by an error handler."""
    moved = recipe.replace(ADDING, "").replace("\n\n@app", "\n\n" + ADDING + "\n\n@app", 1)
    return moved.replace(EXPOSING, ANOTHER) + HANDLERS


APPLICATIONS: dict[str, tuple[Callable[[str], str], bool]] = {
    "as the guide says": (lambda recipe: recipe, True),
    "CORS that exposes nothing of its own": (lambda recipe: recipe.replace(EXPOSING, ""), True),
    "CORS that exposes only something else": (lambda recipe: recipe.replace(EXPOSING, ANOTHER), False),
    "CORS inside, refusals of the application": (inside, True),
}
"""How the application of the guide is changed, and whether the page can read the nonce."""


def browse(chromium: str, page: Page) -> Any:
    """What the page says once it has loaded, which it has when it has said something."""
    with tempfile.TemporaryDirectory() as profile:
        arguments = ["--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--dump-dom", page.address]
        subprocess.run([chromium, *arguments], capture_output=True, timeout=300, check=True)
    assert page.said is not None
    try:
        return json.loads(page.said)
    except ValueError:
        raise AssertionError(f"the page said: {page.said}") from None


@contextlib.contextmanager
def served(application: str) -> Iterator[int]:
    """Run an application with uvicorn in a thread; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = int(listening.getsockname()[1])
        names: dict[str, Any] = {}
        exec(application.replace("https://api.example", f"http://127.0.0.1:{port}"), names)
        server = uvicorn.Server(uvicorn.Config(names["app"], log_level="warning"))
        thread = threading.Thread(target=lambda: server.run(sockets=[listening]))
        thread.start()
        try:
            yield port
        finally:
            server.should_exit = True
            thread.join()


class Page(http.server.ThreadingHTTPServer):
    """Serves the page, and hears what it says."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.url = ""
        self.said: str | None = None
        self.has_said = threading.Event()

    def expect(self, url: str) -> None:
        """From now on the page calls this URL."""
        self.url, self.said = url, None
        self.has_said.clear()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Page

    def do_GET(self) -> None:
        """Give the page; or, for its picture, wait until it has said something."""
        if self.path == "/wait":
            self.server.has_said.wait(200)
            self.send_error(404)
            return
        body = PAGE.replace("@URL@", self.server.url).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        """Take what the page says."""
        self.server.said = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.has_said.set()
        self.send_error(404)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    """The page; the guide's application takes its look-up from a module that a project would have."""
    tokens: Any = types.ModuleType("tokens")
    tokens.look_up = look_up
    monkeypatch.setitem(sys.modules, "tokens", tokens)
    with Page() as page:
        thread = threading.Thread(target=page.serve_forever)
        thread.start()
        yield page
        page.shutdown()
        thread.join()


@pytest.mark.parametrize("name", APPLICATIONS)
def test_a_page_of_another_origin_reads_the_refusal(name: str, page: Page) -> None:
    """It reads challenge and nonce, and comes in with the nonce; unless a CORS middleware in front hides them."""
    change, readable = APPLICATIONS[name]
    recipe = guide()
    assert "https://app.example" in recipe
    assert (EXPOSING in recipe, ADDING in recipe) == (True, True)
    with served(change(recipe).replace("https://app.example", page.address)) as port:
        page.expect(f"http://127.0.0.1:{port}/items")
        first, second = browse(chromium_path(), page)
    assert first["status"] == 401
    assert (first["nonce"] is not None) is readable
    if readable:
        assert 'error="use_dpop_nonce"' in first["challenge"]
        assert second["status"] == 200
