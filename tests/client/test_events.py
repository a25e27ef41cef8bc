# SPDX-License-Identifier: Apache-2.0
"""Events of clients: what happened to requests, told by every HTTP client alike, and without a secret."""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any

import httpx2
import pytest
import requests
from support.clients import CLIENTS, make
from support.paths import DOCS
from support.recorder import Received, Recorder, Response, challenge, script

import dpop
import dpop.httpx2
import dpop.requests
from dpop._event_hooks import call_hook
from dpop.client import ClientEvent, Prover, Role
from dpop.errors import ArgumentTypeError, KeyAccessDeniedError, TokenRequestError, UsageError
from dpop.testing import DPoPTestServer
from dpop.tokens import MemoryTokenStore, TokenSet

TOKEN = "access-token-of-alice"
KEY = dpop.generate_key()
DEAD = Response(401, [("WWW-Authenticate", 'DPoP error="invalid_token"')])


@pytest.fixture(params=sorted(CLIENTS))
def name(request: pytest.FixtureRequest) -> str:
    """Each HTTP client."""
    return str(request.param)


def told(events: list[ClientEvent]) -> list[tuple[str, str | None]]:
    """Kinds and reasons; durations of proofs are looked at here."""
    assert all(event.seconds is not None and event.seconds >= 0 for event in events if event.kind == "proof")
    return [(event.kind, event.reason) for event in events]


def sent(name: str, server: Recorder, events: list[ClientEvent], times: int = 1, **options: Any) -> list[int]:
    """The statuses that a client's user gets, with a hook for events."""
    prover = Prover(KEY, events=events.append)
    with make(name, prover, **{"origins": server.origin, "access_token": TOKEN} | options) as client:
        return [client.send("GET", server.url("/r")).status for _ in range(times)]


def test_a_nonce_that_is_asked_for(name: str) -> None:
    """Two proofs, one retry; then the nonce is known."""
    events: list[ClientEvent] = []
    with Recorder(script(challenge("nonce-of-the-server"), Response(200))) as server:
        assert sent(name, server, events, 2) == [200, 200]
    assert told(events) == [
        ("proof", None),
        ("nonce", None),
        ("retried", "use_dpop_nonce"),
        ("proof", None),
        ("proof", None),
    ]
    assert {(event.origin, event.role) for event in events} == {(server.origin, Role.RS)}
    assert TOKEN not in str(events)
    assert "nonce-of-the-server" not in str(events)


def test_a_proof_that_is_refused_for_good() -> None:
    """The caller gets the response."""
    events: list[ClientEvent] = []
    refusal = Response(401, [("WWW-Authenticate", 'DPoP error="invalid_dpop_proof"')])
    with Recorder(script(refusal)) as server:
        assert sent("requests", server, events) == [401]
    assert told(events) == [("proof", None), ("refused", "invalid_dpop_proof")]


def test_a_server_that_never_takes_its_own_nonces() -> None:
    """Each retry is told, and the end too."""
    events: list[ClientEvent] = []
    with Recorder(lambda request: challenge(f"n-{len(server.requests)}-{request.method}")) as server:
        assert sent("requests", server, events) == [401]
    kinds = told(events)
    assert kinds[-1] == ("refused", "use_dpop_nonce")
    assert kinds.count(("retried", "use_dpop_nonce")) == len(server.requests) - 1
    assert kinds.count(("proof", None)) == len(server.requests)


class Source:
    """A token source that gives another token once it is told."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self) -> str:
        return f"{TOKEN}-{self.number}"

    def refused(self, _token: str | None) -> None:
        self.number += 1


def test_a_token_that_is_refused(name: str) -> None:
    """Its source is told; whether the request was sent again is in the event."""
    events: list[ClientEvent] = []
    with Recorder(script(DEAD, Response(200))) as server:
        assert sent(name, server, events, access_token=Source()) == [200]
    assert told(events) == [("proof", None), ("token_refused", "sent_again"), ("proof", None)]
    events.clear()
    with Recorder(script(DEAD)) as server:
        assert sent(name, server, events, access_token=Source()) == [401]
    assert told(events) == [("proof", None), ("token_refused", "sent_again"), ("proof", None)]


def test_a_clock_that_is_learnt() -> None:
    """The event has the seconds by which the server is ahead."""
    events: list[ClientEvent] = []

    def handler(request: Received) -> Response:
        now = time.time() + 120
        if abs(request.claims["iat"] - now) < 60:
            return Response(200)
        fields = [("WWW-Authenticate", 'DPoP error="invalid_dpop_proof"'), ("Date", formatdate(now, usegmt=True))]
        return Response(401, fields)

    with Recorder(handler) as server:
        assert sent("requests", server, events, 2, learn_clock=True) == [401, 200]
    assert [(event.kind, event.reason) for event in events] == [
        ("proof", None),
        ("clock", None),
        ("refused", "invalid_dpop_proof"),
        ("proof", None),
    ]
    assert 60 < (events[1].seconds or 0) <= 121


def test_requests_that_carry_no_proof() -> None:
    """To another server, nothing is told; with a bearer token neither."""
    events: list[ClientEvent] = []
    with Recorder(script(Response(200, [("DPoP-Nonce", "n")]))) as server:
        assert sent("requests", server, events, origins="https://api.example") == [200]
        assert sent("requests", server, events, access_token=dpop.BearerToken(TOKEN)) == [200]
    assert events == []


def test_a_key_that_fails() -> None:
    """The event says which error it was, and the error reaches the caller."""

    class Locked:
        alg, public_jwk, thumbprint, blocking = "ES256", KEY.public_jwk, KEY.thumbprint, True

        def sign(self, signing_input: bytes, /) -> bytes:
            raise KeyAccessDeniedError(f"locked, and asked for {len(signing_input)} bytes")

    events: list[ClientEvent] = []
    prover = Prover(Locked(), events=events.append)
    with Recorder(script(Response(200))) as server, requests.Session() as session:
        session.mount(server.origin, dpop.requests.DPoPAdapter(prover, origins=server.origin, access_token=TOKEN))
        with pytest.raises(KeyAccessDeniedError):
            session.get(server.url("/r"))
        assert server.requests == []
    assert told(events) == [("proof", "key_access_denied")]


def test_refreshes() -> None:
    """How long one took, and the error of one that failed; its proofs are told as those of an authorization server."""
    events: list[ClientEvent] = []
    with DPoPTestServer(rotate_refresh_tokens=True) as server:
        tokens = server.issue_refresh_token(jkt=KEY.thumbprint)
        endpoint = dpop.requests.TokenEndpoint(
            Prover(KEY, events=events.append),
            server.token_endpoint,
            client_id=server.client_id,
            client_secret=server.client_secret,
        )
        with endpoint:
            endpoint.refresh(tokens)
            assert told(events)[-1] == ("refreshed", None)
            assert {event.role for event in events} == {Role.AS}
            events.clear()
            with pytest.raises(TokenRequestError) as caught:
                endpoint.refresh(tokens)
            assert told(events)[-1] == ("refreshed", caught.value.code)


@pytest.mark.parametrize("call", ["__call__", "renew"])
def test_a_hook_that_asks_the_source_whose_refresh_it_is_told_of(call: str, caplog: pytest.LogCaptureFixture) -> None:
    """The refresh would wait for itself: the hook gets an error, and the refresh goes on."""
    sources: list[Any] = []
    tokens: list[str] = []
    prover = Prover(KEY, events=lambda _event: getattr(sources[0], call)())
    with DPoPTestServer() as server:
        options = {"client_id": server.client_id, "client_secret": server.client_secret}
        with dpop.requests.TokenEndpoint(prover, server.token_endpoint, **options) as endpoint:
            store = MemoryTokenStore()
            stale = TokenSet(
                access_token="old",
                token_type="DPoP",
                expires_at=1.0,
                refresh_token=server.issue_refresh_token(jkt=KEY.thumbprint),
                jkt=KEY.thumbprint,
            )
            store.save(stale, "alice")
            sources.append(endpoint.source(store, account="alice"))
            asking = threading.Thread(target=lambda: tokens.append(sources[0]()), daemon=True)
            asking.start()
            asking.join(30)
    assert len(tokens) == 1
    assert "called by its own refresh" in caplog.text


def test_a_task_that_a_hook_starts_during_a_refresh() -> None:
    """Its own requests, later on, are not asked whether the refresh still holds its lock."""

    async def run(server: DPoPTestServer) -> int:
        api = dpop.httpx2.AsyncDPoPTransport(prover, origins=server.origin, access_token=TOKEN)
        async with httpx2.AsyncClient() as http, httpx2.AsyncClient(transport=api) as client:

            async def report() -> int:
                await refreshed.wait()
                return (await client.get(server.resource)).status_code

            def hook(_event: ClientEvent) -> None:
                if not tasks:
                    tasks.append(asyncio.get_running_loop().create_task(report()))

            refreshed = asyncio.Event()
            tasks: list[asyncio.Task[int]] = []
            prover.events = hook
            options: dict[str, Any] = {"client_id": server.client_id, "client_secret": server.client_secret}
            endpoint = dpop.httpx2.AsyncTokenEndpoint(prover, server.token_endpoint, http=http, **options)
            store = MemoryTokenStore()
            grant = server.issue_refresh_token(jkt=KEY.thumbprint)
            store.save(
                TokenSet(access_token="old", token_type="DPoP", expires_at=1.0, refresh_token=grant, jkt=KEY.thumbprint)
            )
            assert await endpoint.source(store)() != "old"
            refreshed.set()
            return await tasks[0]

    prover = Prover(KEY)
    with DPoPTestServer() as server:
        assert asyncio.run(run(server)) == 401  # it has an opinion on the token: the request was sent


def test_a_prover_for_other_algorithms_tells_too() -> None:
    """A key that is switched to another name keeps the hook."""
    events: list[ClientEvent] = []
    prover = Prover(dpop.generate_key("Ed25519"), events=events.append)
    assert prover.for_algs(["EdDSA"]).events == prover.events


def test_a_hook_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """It is a fault of the operator's code, and fails no request; a server cannot fill the log with tracebacks."""

    def hook(_event: ClientEvent) -> None:
        raise RuntimeError("the metrics are down")

    prover = Prover(KEY, events=hook)
    with (
        Recorder(script(challenge("n"), Response(200))) as server,
        caplog.at_level(logging.ERROR),
        make("requests", prover, origins=server.origin, access_token=TOKEN) as client,
    ):
        assert client.send("GET", server.url("/r")).status == 200
    assert caplog.text.count("hook failed") == 1


@dataclass
class FailingHook:
    """A hook without a hash, as dataclasses are."""

    name: str

    def __call__(self, _event: object) -> None:
        """Fail at each event."""
        raise RuntimeError("the metrics are down")


def test_a_hook_without_a_hash_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """It fills the log no more than another: strangers cause the events of a server."""
    hook = FailingHook("metrics")
    for _ in range(5):
        call_hook(hook, object(), logging.getLogger("dpop.client"))
    assert caplog.text.count("hook failed") == 1


def test_a_hook_that_nothing_could_call() -> None:
    """Told at once: a coroutine that nobody awaits would lose every event."""

    async def hook(_event: ClientEvent) -> None: ...

    class Hook:
        async def __call__(self, _event: ClientEvent) -> None: ...

    for each in (hook, Hook()):
        with pytest.raises(UsageError, match="async"):
            Prover(KEY, events=each)
    with pytest.raises(ArgumentTypeError, match="events"):
        Prover(KEY, events=[])  # type: ignore[arg-type]


PAGE = """
from dpop.client import ClientEvent, Role

events = [
    ClientEvent("proof", "https://api.example", Role.RS, None, 0.25),
    ClientEvent("retried", "https://api.example", Role.RS, "use_dpop_nonce"),
    ClientEvent("clock", "https://api.example", Role.RS, None, -30.0),
    ClientEvent("refreshed", "https://as.example", Role.AS, "token_refused", 2.0),
]
"""
PROMETHEUS = """
from prometheus_client import generate_latest

for event in events:
    prover.events(event)
page = generate_latest().decode()
for event in events:
    labels = f'kind="{event.kind}",origin="{event.origin}",reason="{event.reason or ""}"'
    assert f'dpop_client_events_total{{{labels}}} 1.0' in page, page
assert page.count("dpop_client_seconds_sum{") == 2
assert 'dpop_client_seconds_sum{kind="refreshed",origin="https://as.example"} 2.0' in page
"""
OPENTELEMETRY = """
for event in events:
    to_opentelemetry(event)
(scope,) = reader.get_metrics_data().resource_metrics[0].scope_metrics
points = {each.name: each.data.data_points for each in scope.metrics}
assert sum(point.value for point in points["dpop.client.events"]) == 4
assert sorted(point.sum for point in points["dpop.client.duration"]) == [0.25, 2.0]
"""
METER = """
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
"""


@pytest.mark.parametrize(
    ("title", "before", "after"),
    [("# Prometheus", "import dpop; key = dpop.generate_key()", PROMETHEUS), ("# OpenTelemetry", METER, OPENTELEMETRY)],
)
def test_the_bridges_of_the_guide(title: str, before: str, after: str) -> None:
    """Each event becomes a number, in a process of its own because both libraries have one registry for each."""
    guide = (DOCS / "troubleshooting.md").read_text("utf-8")
    (block,) = re.findall(rf"^```python\n({title}\n.*?)^```$", guide, re.DOTALL | re.MULTILINE)
    code = f"{before}\n{block}\n{PAGE}\n{after}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_hook_that_cannot_be() -> None:
    """A wrong argument is an error at once, and not at a request."""
    with pytest.raises(ArgumentTypeError, match="events"):
        Prover(KEY, events="print")  # type: ignore[arg-type]
