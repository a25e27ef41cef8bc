# SPDX-License-Identifier: Apache-2.0
"""What a caller sets beside DPoP, for a client or one request: hooks, netrc, cookies, credentials, traces, timeouts."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from support.clients import ASYNCHRONOUS, HTTPX, TOKEN, make
from support.recorder import Received, Recorder, challenge, script
from support.recorder import Response as Reply
from yarl import URL

import dpop
import dpop.requests
from dpop.client._prover import Prover
from dpop.errors import InvalidTargetError, UsageError


def test_hooks_that_raise_do_not_see_the_challenge(name: str) -> None:
    """A user's raise_for_status hook sees the final answer only, so the nonce retry survives it."""
    seen: list[int] = []

    def check(response: Any, *_args: Any, **_options: Any) -> None:
        seen.append(response.status if name == "aiohttp" else response.status_code)
        response.raise_for_status()

    async def acheck(response: Any) -> None:
        check(response)

    with Recorder(script(challenge("n1"), Reply(200))) as server:
        with make(name, origins=server.origin, access_token=TOKEN) as one:
            if name == "requests":
                one.session.hooks["response"].append(check)
            elif name == "aiohttp":
                one.session._raise_for_status = acheck
            else:
                one.client.event_hooks["response"] = [acheck if name in ASYNCHRONOUS else check]
            assert one.send("GET", server.url("/r")).status == 200
        assert seen == [200]


def test_netrc_does_not_displace_the_token(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A .netrc entry for the host: DPoP survives it, also on a redirect."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login mallory password secret\n", "utf-8")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    responses = script(Reply(307, [("Location", "/there")]), Reply(200))
    with Recorder(responses) as server:
        user = (dpop.generate_key(), "theirs")
        with make(name, origins=server.origin, access_token=TOKEN, trust_env=True) as one:
            one.send("GET", server.url("/here"))
            one.send("GET", server.url("/here"), user=user)
        sent = [request.one("Authorization") for request in server.requests]
        assert sent == [f"DPoP {TOKEN}"] * 2 + ["DPoP theirs"]


@pytest.mark.parametrize("name", ["httpx", "httpx2"], indirect=True)
def test_with_a_base_url_and_wrapped_transports(name: str, client: Callable[..., Any]) -> None:
    """base_url joins before signing, and a given transport is used as it is."""
    one = client(origins="https://api.example", access_token=TOKEN)
    library, integration = one.library, one.integration
    seen: list[Any] = []

    def answer(request: Any) -> Any:
        seen.append(request)
        if len(seen) == 1:
            return library.Response(
                401, headers={"WWW-Authenticate": 'DPoP error="use_dpop_nonce"', "DPoP-Nonce": "n1"}, content=b"no"
            )
        return library.Response(200, content=b"yes")

    transport = integration.DPoPTransport(
        dpop.generate_key(), origins="https://api.example", access_token=TOKEN, transport=library.MockTransport(answer)
    )
    with library.Client(transport=transport, base_url="https://api.example/v1/", timeout=60) as wrapped:
        response = wrapped.post("things", json={"a": 1})
    assert (response.status_code, response.content) == (200, b"yes")
    assert [request.content for request in seen] == [seen[0].content] * 2
    claims = json.loads(base64.urlsafe_b64decode(seen[1].headers["DPoP"].split(".")[1] + "=="))
    assert (claims["htu"], claims["nonce"]) == ("https://api.example/v1/things", "n1")
    assert "DPoP" not in response.request.headers
    with pytest.raises(UsageError, match="retries"):
        integration.DPoPTransport(
            dpop.generate_key(), origins="https://api.example", transport=library.MockTransport(answer), retries=3
        )


@pytest.mark.parametrize("name", ["httpx", "httpx2"], indirect=True)
def test_a_given_transport_gets_a_complete_request(name: str, client: Callable[..., Any]) -> None:
    """Its content can be looked at without reading, and its method is that of the proof, whatever a hook made of it."""
    one = client(origins="https://api.example", access_token=TOKEN)
    library, integration = one.library, one.integration
    seen: list[tuple[bytes, str, str]] = []

    class Given(library.BaseTransport):  # type: ignore[misc]
        def handle_request(self, request: Any) -> Any:
            claims = json.loads(base64.urlsafe_b64decode(request.headers["DPoP"].split(".")[1] + "=="))
            seen.append((request.content, request.method, claims["htm"]))
            return library.Response(200)

    def hook(request: Any) -> None:
        request.method = request.method.lower()

    transport = integration.DPoPTransport(
        dpop.generate_key(), origins="https://api.example", access_token=TOKEN, transport=Given()
    )
    with library.Client(transport=transport, event_hooks={"request": [hook]}, timeout=60) as wrapped:
        wrapped.post("https://api.example/things", content=b"abc")
    assert seen == [(b"abc", "POST", "POST")]


@pytest.mark.parametrize("name", ["httpx", "httpx2"], indirect=True)
def test_a_callers_request_is_left_as_it_is(name: str, client: Callable[..., Any]) -> None:
    """What a foreign origin does not get is not taken out of the caller's own request, nor is anything put in."""
    with Recorder(script(Reply(200))) as ours, Recorder(script(Reply(200))) as foreign:
        one = client(origins=ours.origin)
        for server in (ours, foreign):
            request = one.client.build_request("GET", server.url("/r"), headers={"Authorization": "DPoP mine"})
            before = request.headers.raw.copy()
            one.client.send(request)
            assert request.headers.raw == before
        assert ours.requests[0].one("Authorization") == "DPoP mine"
        assert foreign.requests[0].all("Authorization") == []


@pytest.mark.parametrize("name", ["requests", *HTTPX], indirect=True)
def test_auth_without_an_adapter_says_so(name: str) -> None:
    """DPoPAuth on a client that does not sign: an error that names what is missing, and no token sent."""
    with Recorder(script(Reply(200))) as server:
        with make(name, origins="https://api.example") as one:
            auth = (dpop.requests if name == "requests" else one.integration).DPoPAuth(
                dpop.generate_key(), "secret-token"
            )
            with pytest.raises(UsageError, match="without a proof"):
                if name == "requests":
                    requests.get(server.url("/r"), auth=auth, timeout=60)
                elif name in ASYNCHRONOUS:

                    async def send() -> None:
                        async with one.library.AsyncClient(auth=auth, trust_env=False, timeout=60) as bare:
                            await bare.get(server.url("/r"))

                    one.runner.run(send())
                else:
                    one.library.Client(auth=auth, trust_env=False, timeout=60).get(server.url("/r"))
        assert server.requests[0].all("Authorization") == []


@pytest.mark.parametrize("name", ["httpx", "httpx2"], indirect=True)
def test_credentials_for_one_request_take_a_bare_key(name: str, client: Callable[..., Any]) -> None:
    """extensions={"dpop": ...} with a key as it is, for a stream too after priming for the same key."""
    key = dpop.generate_key()
    with Recorder(script(challenge("n1"), Reply(200))) as server:
        one = client(origins=server.origin)
        assert one.transport.prime(server.url("/r"), prover=Prover(key), method="GET") is True
        extensions = {"dpop": dpop.RequestCredentials(key, "theirs")}
        one.send("GET", server.url("/r"), extensions=extensions)
        assert server.requests[1].one("Authorization") == "DPoP theirs"
        assert dpop.thumbprint(server.requests[1].jwk) == key.thumbprint


@pytest.mark.parametrize("token", [5, b"bytes", ["list"], "two words", ""])
def test_credentials_are_checked_where_they_are_given(name: str, client: Callable[..., Any], token: Any) -> None:
    """Not when the request is half sent."""
    one = client(origins="https://api.example")
    if name == "aiohttp":
        own = one.transport.with_credentials
    else:
        own = (dpop.requests if name == "requests" else one.integration).DPoPAuth
    for carrier in (own, dpop.RequestCredentials):
        with pytest.raises(UsageError, match=r"access.token"):
            carrier(dpop.generate_key(), token)
        with pytest.raises(UsageError, match="key must be"):
            carrier(token)


@pytest.mark.parametrize("name", ["aiohttp", *HTTPX], indirect=True)
def test_priming_does_not_wait_for_ever(name: str, client: Callable[..., Any]) -> None:
    """A transport does not know its client's timeout, so priming has its own."""
    gate = threading.Event()

    def handler(_request: Received) -> Reply:
        gate.wait(60)
        return Reply(200)

    with Recorder(handler) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        try:
            with pytest.raises(TimeoutError if name == "aiohttp" else one.library.ReadTimeout):
                session = [one.session] if name == "aiohttp" else []
                primed = one.transport.prime(*session, server.url("/r"), timeout=0.05)
                if name in ASYNCHRONOUS:
                    one.runner.run(primed)
        finally:
            gate.set()


def test_cookies_of_a_challenge_go_with_the_retry(name: str, client: Callable[..., Any]) -> None:
    """A load balancer's cookie on the 401 brings the retry to the server that gave the nonce, and stays in the jar."""
    answer = challenge("n1")
    answer.headers += [("Set-Cookie", "node=7; Path=/"), ("Set-Cookie", "changed=new; Path=/")]
    last = Reply(200, [("Set-Cookie", "last=9; Path=/")])
    with Recorder(script(answer, last)) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        if name == "aiohttp":
            jar = one.session.cookie_jar
            jar.update_cookies({"old": "1", "changed": "1"}, URL(server.origin))
        else:
            jar = one.session.cookies if name == "requests" else one.client.cookies
            for cookie in ("old", "changed"):
                jar.set(cookie, "1", domain="127.0.0.1", path="/")
        assert one.send("GET", server.url("/r")).status == 200
        if name == "aiohttp":
            kept = {cookie.key: cookie.value for cookie in jar}
        else:
            kept = {cookie.name: cookie.value for cookie in (jar if name == "requests" else jar.jar)}
        assert kept == {"old": "1", "changed": "new", "node": "7", "last": "9"}
        assert sorted(server.requests[0].one("Cookie").split("; ")) == ["changed=1", "old=1"]
        assert sorted(server.requests[1].one("Cookie").split("; ")) == ["changed=new", "node=7", "old=1"]


def test_a_callers_own_cookies_survive_a_challenge() -> None:
    """A Cookie header the caller wrote goes with the retry too, and the answer names the caller's request."""
    answer = challenge("n1")
    answer.headers.append(("Set-Cookie", "node=7; Path=/"))
    with Recorder(script(answer, Reply(200))) as server, requests.Session() as session:
        session.trust_env = False
        session.mount(
            "http://", dpop.requests.DPoPAdapter(dpop.generate_key(), origins=server.origin, access_token="t")
        )
        prepared = requests.Request("GET", server.url("/r"), headers={"Cookie": "own=1"}).prepare()
        response = session.send(prepared, timeout=60)
        assert [request.one("Cookie") for request in server.requests] == ["own=1"] * 2
        assert response.request is prepared


@pytest.mark.parametrize("name", HTTPX, indirect=True)
def test_a_callers_trace_hears_of_every_request(name: str, client: Callable[..., Any]) -> None:
    """The library's trace extension tells of both requests on the wire, from their headers to their end."""
    heard: list[str] = []

    def trace(event: str, _info: Any) -> None:
        heard.append(event)

    async def async_trace(event: str, info: Any) -> None:
        trace(event, info)

    with Recorder(script(challenge("n1"), Reply(200))) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        extensions = {"trace": async_trace if name in ASYNCHRONOUS else trace}
        assert one.send("GET", server.url("/r"), extensions=extensions).status == 200
    for event in ("send_request_headers.started", "receive_response_headers.complete", "response_closed.complete"):
        assert heard.count(f"http11.{event}") == 2


@pytest.mark.parametrize("name", ["aiohttp", *HTTPX], indirect=True)
def test_to_drop_a_challenge_shortens_no_timeout_of_the_retry(name: str, client: Callable[..., Any]) -> None:
    """A second is enough to drain a challenge; the answer to the retry may take as long as the caller allows."""

    def handler(request: Received) -> Reply:
        if request.nonce is None:
            return challenge("n1")
        time.sleep(1.3)
        return Reply(200)

    with Recorder(handler) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        assert one.send("GET", server.url("/r"), timeout=60).status == 200


@pytest.mark.parametrize("name", HTTPX, indirect=True)  # the others have one Host, whatever they are given
def test_a_request_that_names_two_hosts_is_not_sent(name: str, client: Callable[..., Any]) -> None:
    """No proof can name both, and to name one of them would be a guess."""
    with Recorder(lambda _: Reply()) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        with pytest.raises(InvalidTargetError):
            one.send("GET", server.url("/r"), headers=[("Host", "a.example"), ("host", f"127.0.0.1:{server.port}")])
        assert server.requests == []
