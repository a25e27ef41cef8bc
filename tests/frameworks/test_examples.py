# SPDX-License-Identifier: Apache-2.0
"""The example APIs: each is run as it stands, on a real server, with an issuer of this machine."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.jwt_issuer import JWTIssuer
from support.paths import ROOT
from support.servers import START_SECONDS, running

import dpop

EXAMPLES = ROOT / "examples" / "frameworks"
KEY = dpop.generate_key()
API = "https://api.example"
SERVERS = {
    "api_fastapi": "uvicorn-httptools",
    "api_starlette": "uvicorn-h11",
    "api_flask": "gunicorn",
    "api_quart": "hypercorn",
    "api_litestar": "uvicorn-httptools",
    "api_falcon": "hypercorn",
    "api_django": "waitress",
}


def test_every_example_is_run() -> None:
    """None is left out here."""
    assert {path.stem for path in EXAMPLES.glob("api_*.py")} == set(SERVERS)


@pytest.fixture(scope="module")
def issuer() -> Iterator[JWTIssuer]:
    """The authorization server of all examples."""
    with JWTIssuer() as started:
        yield started


class Answer:
    """A response; ``body`` is what its JSON says."""

    def __init__(self, response: Any) -> None:
        self.status: int = response.status
        self.headers = response.headers
        text = response.read()
        self.body: Any = json.loads(text) if text and response.status != 405 else None


def ask(port: int, path: str, token: str | None = None, method: str = "GET") -> Answer:
    """Send one request."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    if token is not None:
        request.add_header("Authorization", f"DPoP {token}")
        request.add_header("DPoP", dpop.create_proof(KEY, method, API + path, access_token=token))
    try:
        with urllib.request.urlopen(request, timeout=START_SECONDS) as response:
            return Answer(response)
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error)


@pytest.mark.parametrize("name", SERVERS)
def test_an_example(name: str, issuer: JWTIssuer, tmp_path: Path) -> None:
    """It lets in who may come, says in JSON why others may not, and publishes its metadata."""
    text = (EXAMPLES / f"{name}.py").read_text("utf-8").replace("https://as.example", issuer.url)
    (tmp_path / f"{name}.py").write_text(text, "utf-8")
    bound = {"cnf": {"jkt": KEY.thumbprint}}
    with running(SERVERS[name], name, where=tmp_path) as port:
        assert ask(port, "/health").body == {"status": "well"}
        reader = issuer.token(**bound)
        assert ask(port, "/items", reader).body == {"for": "alice"}
        # Who may read may ask for the head alone, where there is a route for it; other methods are no error of the API.
        assert ask(port, "/items", reader, "HEAD").status in {200, 405}
        assert ask(port, "/items", reader, "PUT").status == 405
        forbidden = ask(port, "/items", reader, "POST")
        assert (forbidden.status, forbidden.body["error"]) == (403, "insufficient_scope")
        assert 'scope="write"' in forbidden.headers["WWW-Authenticate"]
        writer = ask(port, "/items", issuer.token(scope="read write", **bound), "POST")
        assert (writer.status // 100, writer.body) == (2, {"for": "alice"})
        nobody = ask(port, "/items")
        assert nobody.status == 401
        assert "DPoP" in nobody.headers["WWW-Authenticate"]
        expired = ask(port, "/items", issuer.token(exp=1, **bound))
        assert (expired.status, expired.body["error"]) == (401, "invalid_token")
        stolen = ask(port, "/items", issuer.token(cnf={"jkt": dpop.generate_key().thumbprint}))
        assert stolen.status == 401
        document = ask(port, "/.well-known/oauth-protected-resource").body
        assert (document["resource"], document["authorization_servers"]) == (API, [issuer.url])
        if name == "api_fastapi":
            described = ask(port, "/openapi.json").body
            route = described["paths"]["/items"]["get"]
            assert route["security"] == [{"DPoP": []}]
            assert {"401", "403"} <= set(route["responses"])
            assert described["components"]["securitySchemes"]["DPoP"]["scheme"] == "DPoP"
