# SPDX-License-Identifier: Apache-2.0
"""What lies between a client and a server: TLS, HTTP/2, streams, hooks, pools, keys, logs, clocks."""

from __future__ import annotations

import gc
import itertools
import logging
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from email.utils import formatdate
from typing import Any

import pytest
import requests
from support.authority import Authority
from support.clients import BODY, CLIENTS, HTTPX, TOKEN, assert_fresh, pool_of_one, tls_options
from support.http2_recorder import Http2Recorder
from support.recorder import Received, Recorder, challenge, script
from support.recorder import Response as Reply
from urllib3.util.retry import Retry

import dpop
import dpop.requests
from dpop.client._prover import Prover
from dpop.redaction import RedactingFilter
from dpop.tokens import ServerMetadata

# -- TLS and HTTP/2 -------------------------------------------------------------------------------


def test_with_a_client_certificate(name: str, client: Callable[..., Any], authority: Authority) -> None:
    """Mutual TLS and DPoP go together."""
    tls = authority.server_context(want_client=True)
    with Recorder(script(challenge("n1"), Reply(200)), tls=tls) as server:
        one = client(origins=server.origin, access_token=TOKEN, **tls_options(name, authority))
        assert one.send("GET", server.url("/r")).status == 200
        assert_fresh(server.requests, "https")


@pytest.mark.parametrize("name", HTTPX, indirect=True)
def test_over_http2(name: str, client: Callable[..., Any], authority: Authority) -> None:
    """HTTP/2: signed for the authority, challenges and redirects included, one proof per stream."""

    def handler(request: Received) -> Reply:
        if request.nonce != "n1":
            return challenge("n1", b"no")
        return Reply(200, body=b"yes") if request.target == "/there" else Reply(307, [("location", "/there")])

    with Http2Recorder(handler, tls=authority.server_context(http2=True)) as server:
        one = client(origins=server.origin, access_token=TOKEN, http2=True, **tls_options(name, authority))
        for _ in range(3):
            assert one.send("POST", server.url("/here"), body=one.bytes_body(BODY)).status == 200
        assert len(server.requests) == 7
        assert {request.line.split(" ")[2] for request in server.requests} == {"HTTP/2"}
        assert {request.connection for request in server.requests} == {1}
        assert {request.body for request in server.requests} == {BODY}
        assert_fresh(server.requests, "https")


@pytest.mark.parametrize("name", HTTPX, indirect=True)
@pytest.mark.parametrize("size", [400_000, 5_000_000])
def test_an_http2_connection_survives_the_challenges_that_are_dropped(
    name: str, client: Callable[..., Any], authority: Authority, size: int
) -> None:
    """Their bodies count against what the connection may receive: they are read, or another connection is opened."""
    rounds, connections = (60, 1) if size < 1_000_000 else (5, 6)
    served = itertools.count(1)
    expected = [0]

    def handler(request: Received) -> Reply:
        if request.nonce != f"n{expected[0]}":
            return challenge(f"n{expected[0]}", b"x" * size)
        expected[0] = next(served)
        return Reply(200, body=b"yes")

    with Http2Recorder(handler, tls=authority.server_context(http2=True)) as server:
        one = client(origins=server.origin, access_token=TOKEN, http2=True, **tls_options(name, authority))
        assert [one.send("GET", server.url("/r")).status for _ in range(rounds)] == [200] * rounds
        assert len(server.requests) == 2 * rounds
        assert len({request.connection for request in server.requests}) == connections


# -- a pool of one ------------------------------------------------------------------------------


def test_a_pool_of_one_does_not_deadlock(name: str, client: Callable[..., Any]) -> None:
    """With a single connection the challenge's connection is given back before the retry."""
    with Recorder(script(challenge("n1", b"x" * 100_000), challenge("n2", b"y"), Reply(200))) as server:
        one = client(origins=server.origin, access_token=TOKEN, **pool_of_one(name))
        assert [one.send("GET", server.url("/r")).status for _ in range(2)] == [200, 200]
        assert len(server.requests) == 4


def test_a_connection_lives_as_long_as_requests_lets_it(authority: Authority) -> None:
    """One connection while nothing changes; another after close(), or for other TLS settings."""
    tls = authority.server_context()
    with Recorder(lambda _request: Reply(200), tls=tls) as server, requests.Session() as session:
        session.trust_env = False
        session.verify = authority.ca
        session.mount(server.origin, dpop.requests.DPoPAdapter(dpop.generate_key(), origins=server.origin))
        for _ in range(3):
            session.get(server.url("/r"))
        session.close()
        session.get(server.url("/r"))
        with pytest.raises(requests.exceptions.SSLError):
            session.get(server.url("/r"), verify=True)
        session.get(server.url("/r"))
        numbers = [request.connection for request in server.requests]
        assert numbers[0] == numbers[1] == numbers[2] != numbers[3] == numbers[4]


# -- keys and secrets ---------------------------------------------------------------------------


class DeviceKey:
    """A key that cannot export, copy or pickle."""

    def __init__(self) -> None:
        self._key = dpop.generate_key()
        self.alg = self._key.alg
        self.public_jwk: Mapping[str, str] = self._key.public_jwk
        self.thumbprint = self._key.thumbprint
        self.blocking = True

    def sign(self, signing_input: bytes) -> bytes:
        return self._key.sign(signing_input)

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError


def test_a_key_that_cannot_export(client: Callable[..., Any]) -> None:
    """Everything an adapter does works with a key that only signs."""
    with Recorder(script(challenge("n1"), Reply(307, [("Location", "/there")]), Reply(200))) as server:
        one = client(DeviceKey(), origins=server.origin, access_token=TOKEN)
        assert one.send("POST", server.url("/r"), body=one.bytes_body(BODY)).status == 200
        assert_fresh(server.requests)


def test_nothing_secret_is_logged_or_shown(client: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    """At DEBUG level, with the filter for other libraries, no log or repr has a token, proof or nonce."""
    masking = RedactingFilter()
    caplog.handler.addFilter(masking)
    caplog.set_level(logging.DEBUG)
    with Recorder(script(challenge("secret-nonce"), Reply(307, [("Location", "/there")]), Reply(drop=True))) as server:
        one = client(origins=server.origin, access_token="very-secret-token")
        with pytest.raises(Exception, match=r".") as failed:
            one.send("POST", server.url("/r"), body=one.bytes_body(BODY))
    shown = caplog.text + repr(one.transport) + repr(vars(one.transport)) + str(failed.getrepr(style="short"))
    request = getattr(failed.value, "request", None)
    shown += repr(getattr(request, "headers", ""))
    caplog.handler.removeFilter(masking)
    assert "dpop" in shown.lower()
    for secret in ("very-secret-token", "secret-nonce", *(r.one("DPoP")[-40:] for r in server.requests)):
        assert secret not in shown


def test_our_own_loggers_need_no_filter(client: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    """What this package logs itself has nothing to mask."""
    caplog.set_level(logging.DEBUG, "dpop")
    with Recorder(script(challenge("secret-nonce"), challenge("other-nonce"))) as server:
        one = client(origins=server.origin, access_token="very-secret-token")
        one.send("GET", server.url("/r"))
    own = [record.getMessage() for record in caplog.records if record.name.startswith("dpop")]
    assert own
    assert not any(secret in "".join(own) for secret in ("secret-nonce", "other-nonce", "very-secret", "eyJ"))


# -- clocks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [90, -90])
def test_a_wrong_clock_is_explained_and_learnt(
    client: Callable[..., Any], ahead: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The refusal is explained with the measured difference; with learn_clock=True the next call succeeds."""

    def handler(request: Received) -> Reply:
        now = time.time() + ahead
        if abs(request.claims["iat"] - now) < 30:
            return Reply(200)
        headers = [("WWW-Authenticate", 'DPoP error="invalid_dpop_proof"'), ("Date", formatdate(now, usegmt=True))]
        return Reply(401, headers)

    with Recorder(handler) as server:
        one = client(origins=server.origin, access_token=TOKEN, learn_clock=True)
        assert [one.send("GET", server.url("/r")).status for _ in range(2)] == [401, 200]
        assert len(server.requests) == 2
    assert f"s {'ahead of' if ahead > 0 else 'behind'} this machine" in caplog.text


# -- token sources that fail or need a connection themselves ---------------------------------------


@pytest.mark.parametrize("when", ["source", "body", "event"])
def test_a_request_made_while_another_is_sent_has_nothing_of_it(when: str) -> None:
    """A source, a body or an event hook may use a token endpoint: that request carries no token of an API."""

    def now(name: str) -> None:
        if name == when:
            endpoint.revoke("an-old-token")

    def source() -> str:
        now("source")
        return TOKEN

    def body() -> Iterator[bytes]:
        yield b"a"
        now("body")

    with (
        Recorder(script(Reply(200, [("DPoP-Nonce", "of-as")]))) as server,
        Recorder(script(Reply(503), Reply())) as api,
    ):
        metadata = ServerMetadata(token_endpoint=server.url("/token"), revocation_endpoint=server.url("/revoke"))
        prover = Prover(dpop.generate_key(), events=lambda _: now("event"))
        adapter = dpop.requests.DPoPAdapter(
            prover, origins=api.origin, access_token=source, max_retries=Retry(2, status_forcelist=[503])
        )
        options = {"client_id": "client", "client_secret": "secret"}
        with dpop.requests.TokenEndpoint(prover, metadata, **options) as endpoint, requests.Session() as session:
            session.mount(api.origin, adapter)
            session.get(api.url())
            session.post(api.url(), data=body() if when == "body" else None)
        assert server.requests
        for request in server.requests:
            assert request.one("Authorization").startswith("Basic ")
            assert request.all("DPoP") == []
        assert_fresh(api.requests)
        assert {request.nonce for request in api.requests} == {None}


# -- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HTTPX, indirect=True)
def test_a_request_is_gone_when_it_is_over(name: str, client: Callable[..., Any]) -> None:
    """Nothing that is sent, body and all, waits for the garbage collector."""
    library = CLIENTS[name].library
    sent: list[weakref.ref[Any]] = []

    class Inner(library.BaseTransport, library.AsyncBaseTransport):  # type: ignore[misc, name-defined]
        def handle_request(self, request: Any) -> Any:
            sent.append(weakref.ref(request))
            return library.Response(200)

        async def handle_async_request(self, request: Any) -> Any:
            return self.handle_request(request)

    one = client(origins="https://api.example", access_token=TOKEN, transport=Inner())
    gc.disable()
    try:
        for trace in ({}, {"extensions": {"trace": print}}):
            assert one.send("POST", "https://api.example/", body=one.bytes_body(BODY), **trace).status == 200
        assert [request() for request in sent] == [None, None]
    finally:
        gc.enable()
