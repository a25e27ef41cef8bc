# SPDX-License-Identifier: Apache-2.0
"""The guide for servers: each snippet is run as it is printed, the applications on the servers it names."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from support.jwt_issuer import JWTIssuer
from support.paths import DOCS
from support.redis_server import running_sentinel
from support.servers import Reply, ask, running

import dpop
from dpop.server import Event, InvalidProof, JWTAccessTokens
from dpop.testing import DPoPTestServer

GUIDE = (DOCS / "servers.md").read_text("utf-8")
KEY = dpop.generate_key()
TOKEN = f"bound.{KEY.thumbprint}"
AUTHORIZATION = ("Authorization", f"DPoP {TOKEN}")
LOOK_UP = """
def look_up(token):
    kind, _, jkt = token.partition(".")
    return {"sub": "alice", "scope": "read", "cnf": {"jkt": jkt}} if kind == "bound" else None
"""


def snippet(containing: str) -> str:
    """The one Python block of the guide with this text in it."""
    blocks = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)
    (found,) = [block for block in blocks if containing in block]
    return str(found)


def proof(path: str, nonce: str | None = None) -> tuple[str, str]:
    """For a GET of the guide's API."""
    return "DPoP", dpop.create_proof(KEY, "GET", f"https://api.example{path}", access_token=TOKEN, nonce=nonce)


@pytest.mark.parametrize(("server", "title"), [("uvicorn-h11", "# FastAPI"), ("gunicorn", "# Flask")])
def test_an_application_of_the_guide(server: str, title: str, tmp_path: Path) -> None:
    """It lets in who may read, answers the others, and needs no token for what is public."""
    (tmp_path / "api.py").write_text(snippet(title), "utf-8")
    prefix = "async " if server.startswith("uvicorn") else ""
    (tmp_path / "tokens.py").write_text(LOOK_UP.replace("def ", prefix + "def ", 1), "utf-8")
    with running(server, "api", where=tmp_path) as port:
        refused = ask(port, "/items")
        assert (refused.status, refused.body) == (401, b"")
        nonce = (refused.all("DPoP-Nonce") or [None])[0]
        admitted = ask(port, "/items", AUTHORIZATION, proof("/items", nonce))
        assert (admitted.status, json.loads(admitted.body)) == (200, {"for": "alice"})
        assert ask(port, "/items", ("Authorization", f"Bearer {TOKEN}")).status == 401
        if server == "gunicorn":
            assert ask(port, "/health").body == b"well"
            return
        page = ("Origin", "https://app.example")
        assert readable_by_a_page(ask(port, "/items", page))


def readable_by_a_page(reply: Reply) -> bool:
    """Whether a browser shows a refusal and its nonce to the page that asked."""
    exposed = ", ".join(reply.all("Access-Control-Expose-Headers"))
    return bool(reply.all("Access-Control-Allow-Origin")) and {"WWW-Authenticate", "DPoP-Nonce"} <= set(
        exposed.split(", ")
    )


def test_an_api_in_ten_lines(tmp_path: Path) -> None:
    """The issuer, the audience and the routes: a token of another issuer, or without the scope, opens nothing."""
    with JWTIssuer() as issuer:
        (tmp_path / "api.py").write_text(snippet("# Ten lines").replace("https://as.example", issuer.url), "utf-8")
        good = issuer.token(cnf={"jkt": KEY.thumbprint})
        narrow = issuer.token(cnf={"jkt": KEY.thumbprint}, scope="write")
        with running("uvicorn-h11", "api", where=tmp_path) as port:

            def status(token: str) -> int:
                made = dpop.create_proof(KEY, "GET", "https://api.example/items", access_token=token)
                return ask(port, "/items", ("Authorization", f"DPoP {token}"), ("DPoP", made)).status

            assert [status(token) for token in (good, good, narrow, TOKEN)] == [200, 200, 403, 401]


def test_a_fetch_function_of_the_guide() -> None:
    """It hands on what it is asked for."""
    with JWTIssuer() as issuer:
        names: dict[str, Any] = {}
        exec(
            compile(snippet("def fetch").replace('proxy="http://proxy.example:3128"', ""), "servers.md", "exec"), names
        )
        with names["client"]:
            tokens = JWTAccessTokens(issuer=issuer.url, audience="https://api.example", fetch=names["fetch"])
            assert tokens(issuer.token())["sub"] == "alice"


def test_the_look_up_by_introspection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The authorization server says what the token is bound to, and that another is not active."""
    with DPoPTestServer() as server:
        monkeypatch.setenv("CLIENT_ID", server.client_id)
        monkeypatch.setenv("CLIENT_SECRET", server.client_secret)
        monkeypatch.setenv("INTROSPECTION_ENDPOINT", server.introspection_endpoint)
        names: dict[str, Any] = {}
        block = snippet("# introspection").replace('    audience="https://api.example",\n', "")  # it sends no aud
        exec(compile(block, "servers.md", "exec"), names)
        token = server.issue_access_token(jkt=KEY.thumbprint)
        assert names["tokens"](token)["cnf"] == {"jkt": KEY.thumbprint}
        with pytest.raises(InvalidProof, match="active"):
            asyncio.run(names["tokens"].acall("x"))


EVENTS = [
    Event("accepted", scheme="DPoP", client="app"),
    Event("refused", "replayed"),
    Event("looked_up", seconds=0.25),
    Event("looked_up", "lookup_unavailable", seconds=5.0),
]


def test_the_bridge_to_opentelemetry() -> None:
    """Each event becomes a measurement, and the cache's entries are observed."""
    from opentelemetry import metrics
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider([reader]))
    names: dict[str, Any] = {"cache": [1, 2, 3]}
    exec(compile(snippet("# OpenTelemetry"), "servers.md", "exec"), names)
    for event in EVENTS:
        names["to_opentelemetry"](event)
    data = reader.get_metrics_data()
    assert data is not None
    (found,) = [scope.metrics for resource in data.resource_metrics for scope in resource.scope_metrics]
    points = {metric.name: list(metric.data.data_points) for metric in found}
    assert sorted(point.attributes["outcome"] for point in points["dpop.requests"]) == ["accepted", "refused"]
    assert sum(point.sum for point in points["dpop.lookups"]) == 5.25
    assert [point.value for point in points["dpop.replay_cache"]] == [3]


def test_the_bridge_to_prometheus() -> None:
    """The page that Prometheus reads has a line for each kind of event."""
    from prometheus_client import REGISTRY, generate_latest

    names: dict[str, Any] = {"cache": [1, 2, 3]}
    exec(compile(snippet("# Prometheus"), "servers.md", "exec"), names)
    for event in EVENTS:
        names["to_prometheus"](event)
    page = generate_latest(REGISTRY).decode()
    assert 'dpop_requests_total{outcome="refused",reason="replayed",scheme=""} 1.0' in page
    assert "dpop_replay_cache_entries 3.0" in page
    assert 'dpop_lookup_seconds_sum{error="lookup_unavailable",kind="looked_up"} 5.0' in page


def test_the_shared_cache_of_the_guide(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It connects, checks, and accepts a proof once."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("NONCE_SECRET", "00" * 32)
    names: dict[str, Any] = {}
    exec(compile(snippet("NONCE_SECRET"), "servers.md", "exec"), names)
    fields = [proof("/items", names["nonces"].issue())]
    ask_it = names["verifier"].verify_resource
    assert ask_it(fields, "GET", "https://api.example/items", access_token=TOKEN, bound_jkt=KEY.thumbprint)
    with pytest.raises(dpop.DPoPError, match="replayed"):
        ask_it(fields, "GET", "https://api.example/items", access_token=TOKEN, bound_jkt=KEY.thumbprint)
    names["client"].close()


def test_the_introspection_cache_of_the_guide(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second process is told what the first was, without asking."""
    with DPoPTestServer() as server:
        monkeypatch.setenv("REDIS_URL", redis_url)
        monkeypatch.setenv("CACHE_SECRET", "00" * 32)
        monkeypatch.setenv("INTROSPECTION_ENDPOINT", server.introspection_endpoint)
        monkeypatch.setenv("CLIENT_ID", server.client_id)
        monkeypatch.setenv("CLIENT_SECRET", server.client_secret)
        token = server.issue_access_token(jkt=KEY.thumbprint)
        claims = []
        for _ in range(2):
            names: dict[str, Any] = {}
            block = snippet("CACHE_SECRET").replace('    audience="https://api.example",\n', "")  # it sends no aud
            exec(compile(block, "servers.md", "exec"), names)
            claims.append(names["tokens"](token))
            names["client"].close()
        assert claims[0] == claims[1]
        assert claims[0]["cnf"] == {"jkt": KEY.thumbprint}
        assert (
            len([request for request in server.requests if server.introspection_endpoint.endswith(request.path)]) == 1
        )


def test_the_client_of_sentinel_in_the_guide() -> None:
    """It finds the primary by the names of the guide, and an entry is on the replica before the proof is accepted."""
    with running_sentinel(replicas=1, patience=60) as servers:
        named = re.sub(r'\[\("sentinel-1.*\]', f'[("127.0.0.1", {servers.sentinel})]', snippet("# Sentinel"))
        named = named.replace("=0.5", "=60").replace("acknowledged_by=1", "acknowledged_by=1, acknowledge_within=30")
        names: dict[str, Any] = {}
        exec(compile(named, "servers.md", "exec"), names)
        assert names["cache"].add("a.1", time.time() + 90) is True
        names["client"].close()
        names["watched"].sentinels[0].close()
        with redis.Redis.from_url(servers.replicas[0].url) as replica:
            assert replica.exists("dpop:once:a.1")


def test_the_token_endpoint_of_the_guide() -> None:
    """A challenge comes before anything is used up; then the client is authenticated, and only then is it once."""
    names: dict[str, Any] = {}
    exec(compile(snippet("def token_endpoint"), "servers.md", "exec"), names)
    happened: list[str] = []

    def authenticate(_request: object) -> str:
        happened.append("authenticated")
        return "client"

    def find_grant(_request: object, _client: str) -> SimpleNamespace:
        happened.append("grant found")
        return SimpleNamespace(jkt=KEY.thumbprint)

    def issue(_grant: object, *, jkt: str, next_nonce: str | None) -> str:
        happened.append("issued")
        return f"{jkt} {next_nonce}"

    def request(nonce: str | None = None) -> Any:
        text = dpop.create_proof(KEY, "POST", "https://as.example/token", nonce=nonce)
        sent = SimpleNamespace(headers=[("DPoP", text)], method="POST")
        return names["token_endpoint"](sent, authenticate, find_grant, issue)

    status, headers, body = request()
    assert (status, json.loads(body)["error"], happened) == (400, "use_dpop_nonce", [])
    assert request(dict(headers)["DPoP-Nonce"]) == f"{KEY.thumbprint} None"
    assert happened == ["authenticated", "grant found", "issued"]


def test_the_guide_tells_how_to_test_a_server() -> None:
    """Its function finds nothing wrong with the test server, and much with one that lets everybody in."""
    names: dict[str, Any] = {}
    exec(compile(snippet("DEFECTS"), "servers.md", "exec"), names)
    strangers, key = names["strangers"], dpop.generate_key()
    with DPoPTestServer(nonces="none") as server:
        token = server.issue_access_token(jkt=key.thumbprint)
        assert strangers(key, server.resource, token) == []
    with DPoPTestServer(nonces="none", require_proof=False) as server:
        open_door = f"{server.issuer}/.well-known/oauth-authorization-server"
        assert len(strangers(key, open_door, server.issue_access_token(jkt=key.thumbprint))) > 100
