# SPDX-License-Identifier: Apache-2.0
"""What an MCP client with the SDK's OAuth provider sends, byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
import pytest
from mcp.client.auth import OAuthClientProvider, OAuthFlowError
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from pydantic import AnyUrl
from support.recorder import Received, Recorder, Response

import dpop
from dpop.encoding import b64url_encode
from dpop.errors import InsecureOriginError, InvalidTokenResponseError, UnboundTokenError
from dpop.mcp import http_client

CALLBACK = AnyUrl("http://127.0.0.1:1/callback")


class Storage:
    """The SDK's storage, in memory."""

    def __init__(self, tokens: OAuthToken | None, issuer: str | None = None) -> None:
        self.tokens = tokens
        self.issuer = issuer

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull:
        return OAuthClientInformationFull(
            client_id="c", redirect_uris=[CALLBACK], token_endpoint_auth_method="none", issuer=self.issuer
        )

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        raise AssertionError(client_info)


@dataclass
class World:
    """An MCP server at one origin, its authorization server at another, and a user who agrees to everything."""

    recorder: Recorder
    tokens: list[dict[str, Any]] = field(default_factory=list)
    """The token responses, in order; the last one repeats."""
    good: set[str] = field(default_factory=lambda: {"at-1", "at-2"})
    challenge: str = 'DPoP error="invalid_token"'
    issuer: str = ""
    registered_at: str | None = ""
    """The issuer that the SDK has recorded with the client: that of the server if empty."""
    logins: list[str] = field(default_factory=list)
    before: Callable[[Received], Response | None] = lambda _request: None
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def server(self) -> str:
        return self.recorder.origin

    def respond(self, request: Received) -> Response:
        """Play both servers."""
        told = self.before(request)
        if told is not None:
            return told
        path = urlsplit(request.target).path
        if path.startswith("/.well-known/oauth-protected-resource"):
            return self.json({"resource": f"{self.server}/mcp", "authorization_servers": [self.issuer]})
        if path.startswith("/.well-known/oauth-authorization-server"):
            return self.json(
                {
                    "issuer": self.issuer,
                    "authorization_endpoint": f"{self.issuer}/authorize",
                    "token_endpoint": f"{self.issuer}/token",
                    "response_types_supported": ["code"],
                }
            )
        if path == "/token":
            with self.lock:
                told_tokens = self.tokens.pop(0) if len(self.tokens) > 1 else self.tokens[0]
            return self.json(told_tokens, status=400 if "error" in told_tokens else 200)
        sent = request.all("Authorization")
        if sent and sent[0].split(" ")[1] in self.good:
            return self.json({"ok": True})
        return Response(401, [("WWW-Authenticate", self.challenge)])

    @staticmethod
    def json(members: object, status: int = 200) -> Response:
        return Response(status, [("Content-Type", "application/json")], json.dumps(members).encode())

    def provider(self, stored: OAuthToken | None = None) -> OAuthClientProvider:
        """The SDK's provider; the user's browser returns at once."""

        async def redirect(url: str) -> None:
            self.logins.append(url)

        async def callback() -> AuthorizationCodeResult:
            state = parse_qs(urlsplit(self.logins[-1]).query)["state"][0]
            return AuthorizationCodeResult(code="code-1", state=state)

        metadata = OAuthClientMetadata(redirect_uris=[CALLBACK], token_endpoint_auth_method="none")
        storage = Storage(stored, self.issuer if self.registered_at == "" else self.registered_at)
        return OAuthClientProvider(f"{self.server}/mcp", metadata, storage, redirect, callback)

    def calls(self) -> list[Received]:
        """The requests at the MCP endpoint."""
        return [request for request in self.recorder.requests if request.target == "/mcp"]

    def token_requests(self) -> list[Received]:
        return [request for request in self.recorder.requests if request.target == "/token"]


def bound(number: int, **more: Any) -> dict[str, Any]:
    """A token response of a server that binds tokens."""
    return {"access_token": f"at-{number}", "token_type": "DPoP", "refresh_token": f"rt-{number}", **more}


@pytest.fixture
def world() -> Iterator[World]:
    """The two servers."""
    with Recorder(lambda _request: Response(500)) as recorder:
        state = World(recorder, [bound(1)], issuer=recorder.other_origin)
        recorder.handler = state.respond
        yield state


def run(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run a test's coroutine."""
    return asyncio.run(work())


def post(
    world: World, key: dpop.Key, stored: OAuthToken | None = None, *, times: int = 1, **settings: Any
) -> list[int]:
    """Call the MCP endpoint; return the statuses."""

    async def work() -> list[int]:
        async with http_client(key, world.provider(stored), **settings) as client:
            return [(await client.post(f"{world.server}/mcp", json={"n": n})).status_code for n in range(times)]

    statuses: list[int] = run(work)
    return statuses


def stored(access: str, *, refresh: str | None = "rt-0") -> OAuthToken:
    """What an earlier run of the program kept."""
    return OAuthToken(access_token=access, refresh_token=refresh)


def test_a_login_binds_the_tokens_to_the_key(world: World) -> None:
    """The authorization URL names the key; token request and call are signed, with a proof of its own each."""
    key = dpop.generate_key()
    assert post(world, key, times=2) == [200, 200]
    assert parse_qs(urlsplit(world.logins[0]).query)["dpop_jkt"] == [key.thumbprint]
    [redeemed] = world.token_requests()
    assert redeemed.claims["htu"] == f"{world.issuer}/token"
    assert "ath" not in redeemed.claims
    first, *called = world.calls()
    assert first.all("Authorization") == []
    for request in called:
        assert request.one("Authorization") == "DPoP at-1"
        assert request.claims["ath"] == b64url_encode(hashlib.sha256(b"at-1").digest())
        assert request.claims["htu"] == f"{world.server}/mcp"
    proofs = [request.one("DPoP") for request in [redeemed, *called]]
    assert len(called) == 2
    assert len(set(proofs)) == 3


def test_the_nonces_of_both_servers_are_taken_up(world: World) -> None:
    """Neither challenge reaches the provider, which would start another login."""

    def before(request: Received) -> Response | None:
        if request.target == "/token" and request.nonce is None:
            told = world.json({"error": "use_dpop_nonce"}, status=400)
            return Response(told.status, [*told.headers, ("DPoP-Nonce", "as-1")], told.body)
        if request.all("Authorization") and request.nonce != "rs-1":
            return Response(401, [("WWW-Authenticate", 'DPoP error="use_dpop_nonce"'), ("DPoP-Nonce", "rs-1")])
        return None

    world.before = before
    assert post(world, dpop.generate_key(), times=2) == [200, 200]
    assert len(world.logins) == 1
    assert [request.nonce for request in world.token_requests()] == [None, "as-1"]
    assert world.calls()[-1].nonce == "rs-1"


def test_a_refused_token_of_an_earlier_run_is_refreshed(world: World) -> None:
    """The provider does not know when a stored token expires; the user need not log in again."""
    world.tokens = [bound(2)]
    assert post(world, dpop.generate_key(), stored("at-0"), times=2) == [200, 200]
    assert world.logins == []
    [refreshed] = world.token_requests()
    assert parse_qs(refreshed.body.decode())["refresh_token"] == ["rt-0"]
    assert "ath" not in refreshed.claims
    assert refreshed.claims["htu"] == f"http://{refreshed.one('Host')}/token" == f"{world.issuer}/token"
    assert [request.one("Authorization") for request in world.calls()] == ["DPoP at-0", "DPoP at-2", "DPoP at-2"]


@pytest.mark.parametrize("registered_at", [None, "https://as.example"])
def test_a_refresh_token_goes_to_its_own_issuer_only(
    world: World, caplog: pytest.LogCaptureFixture, registered_at: str | None
) -> None:
    """An MCP server that refuses a stored token could otherwise have the refresh token sent wherever it likes."""
    world.registered_at = registered_at
    if registered_at is not None:  # where the provider registers again, which this server has no place for
        with pytest.raises(OAuthFlowError):
            post(world, dpop.generate_key(), stored("at-0"))
    else:
        assert post(world, dpop.generate_key(), stored("at-0")) == [200]
        assert len(world.logins) == 1
    assert [request for request in world.recorder.requests if b"rt-0" in request.body] == []
    assert "the refresh token of an earlier run was not sent to 127.0.0.1" in caplog.text


@pytest.mark.parametrize("found", ["an error", "no metadata", "of another", "of another resource"])
def test_without_metadata_of_its_issuer_no_refresh_token_is_sent(world: World, found: str) -> None:
    """Whatever discovery says, the refresh token stays."""

    def before(request: Received) -> Response | None:
        if request.target.startswith("/.well-known/oauth-protected-resource") and found == "of another resource":
            return world.json({"resource": "https://bank.example/", "authorization_servers": [world.issuer]})
        if not request.target.startswith("/.well-known/oauth-authorization-server"):
            return None
        if found == "of another":
            place = f"{world.server}/evil"
            return world.json({"issuer": world.server, "authorization_endpoint": place, "token_endpoint": place})
        return Response(500 if found == "an error" else 404) if found != "of another resource" else None

    world.before = before
    with contextlib.suppress(OAuthFlowError):
        post(world, dpop.generate_key(), stored("at-0"))
    assert [request for request in world.recorder.requests if b"rt-0" in request.body] == []


def test_a_second_refresh_needs_no_discovery(world: World) -> None:
    """Where the tokens of this run came from is known."""
    world.tokens = [bound(2), bound(3)]

    async def work() -> list[int]:
        async with http_client(dpop.generate_key(), world.provider(stored("at-0"))) as client:
            first = await client.post(f"{world.server}/mcp")
            world.good = {"at-3"}
            return [first.status_code, (await client.post(f"{world.server}/mcp")).status_code]

    assert run(work) == [200, 200]
    assert [parse_qs(request.body.decode())["refresh_token"] for request in world.token_requests()] == [
        ["rt-0"],
        ["rt-2"],
    ]
    assert sum("/.well-known/" in request.target for request in world.recorder.requests) == 2


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("moment", ["before the response", "while it is stored"])
def test_a_session_that_ends_loses_no_refresh_token(world: World, backend: str, moment: str) -> None:
    """What came for a used refresh token is stored, although the request is cancelled meanwhile."""
    sent, world.tokens, provider = threading.Event(), [bound(2)], world.provider(stored("at-0"))
    storage: Any = provider.context.storage
    keep = storage.set_tokens

    async def set_tokens(tokens: OAuthToken) -> None:
        sent.set()
        await anyio.sleep(0.1)
        await keep(tokens)

    def before(request: Received) -> None:
        if request.target == "/token" and moment == "before the response":
            sent.set()
            time.sleep(0.1)

    async def work() -> None:
        async with http_client(dpop.generate_key(), provider) as client, anyio.create_task_group() as tasks:
            tasks.start_soon(client.post, f"{world.server}/mcp")
            while not sent.is_set():  # noqa: ASYNC110 - a thread sets it
                await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()

    world.before, storage.set_tokens = before, set_tokens
    anyio.run(work, backend=backend)
    assert storage.tokens.refresh_token == "rt-2"


def test_a_login_follows_when_the_refresh_fails(world: World) -> None:
    """The refresh token is dead too."""
    world.tokens = [{"error": "invalid_grant"}, bound(1)]
    assert post(world, dpop.generate_key(), stored("at-0")) == [200]
    assert len(world.logins) == 1


@pytest.mark.parametrize("error", ["use_dpop_nonce", "invalid_dpop_proof"])
def test_a_refused_proof_starts_no_login(world: World, error: str) -> None:
    """Another token would not help; the caller gets the response."""
    world.good, world.challenge = set(), f'DPoP error="{error}"'
    assert post(world, dpop.generate_key(), stored("at-0")) == [401]
    assert (world.logins, world.token_requests()) == ([], [])


UNBOUND = {
    "Bearer": ', "token_type": "Bearer"}',
    "bearer, in other letters": ', "token_type": "bEARER"}',
    "no type, which the SDK takes for Bearer": "}",
    "a number that json cannot read": f', "token_type": "Bearer", "x": 1{"0" * 5000}}}',
}


@pytest.mark.parametrize("members", UNBOUND.values(), ids=UNBOUND)
@pytest.mark.parametrize("refreshed", [False, True], ids=["login", "refresh"])
def test_a_token_bound_to_no_key_is_not_used(world: World, members: str, *, refreshed: bool) -> None:
    """It is neither sent nor stored: after a login, and after a refresh, where the error brings it along."""
    body = f'{{"access_token": "at-1", "refresh_token": "rt-1"{members}'.encode()

    def before(request: Received) -> Response | None:
        return Response(200, [("Content-Type", "application/json")], body) if request.target == "/token" else None

    world.before, storage = before, Storage(stored("at-0") if refreshed else None, world.issuer)
    provider = world.provider(storage.tokens)
    provider.context.storage = storage

    async def work() -> None:
        async with http_client(dpop.generate_key(), provider) as client:
            await client.post(f"{world.server}/mcp")

    with pytest.raises(InvalidTokenResponseError) as caught:
        run(work)
    assert [request.all("Authorization") for request in world.calls()] == [["DPoP at-0"] if refreshed else []]
    assert storage.tokens == (stored("at-0") if refreshed else None)
    assert "at-1" not in str(caught.value)
    if '"x"' not in members:
        assert caught.value.tokens.refresh_token == "rt-1"


@pytest.mark.parametrize("challenge", ["Bearer", 'Bearer realm="x", error="invalid_token"'])
@pytest.mark.parametrize("before", [None, "at-0"], ids=["no token", "a dead token"])
def test_no_login_begins_at_a_server_that_wants_bearer_tokens(world: World, challenge: str, before: str | None) -> None:
    """The error says so before a person is asked, and before discovery."""
    world.challenge, world.good = challenge, set()
    with pytest.raises(UnboundTokenError, match=r"127\.0\.0\.1 asks for a bearer token.*allow_bearer=True"):
        post(world, dpop.generate_key(), None if before is None else stored(before, refresh=None))
    assert (world.logins, world.token_requests()) == ([], [])
    assert {request.target for request in world.recorder.requests} == {"/mcp"}


def test_a_dead_token_is_refreshed_whatever_scheme_the_refusal_names(world: World) -> None:
    """Servers that check proofs refuse a dead token as ``Bearer``, too; the new token is a bound one."""
    world.challenge, world.tokens = 'Bearer error="invalid_token"', [bound(2)]
    assert post(world, dpop.generate_key(), stored("at-0")) == [200]
    assert world.calls()[-1].one("Authorization") == "DPoP at-2"


@pytest.mark.parametrize("challenge", ['DPoP algs="ES256", Bearer', 'Negotiate, DPoP error="invalid_token', ""])
def test_other_challenges_begin_a_login(world: World, challenge: str) -> None:
    """Both schemes, fields outside the grammar, and no challenge at all."""
    world.challenge = challenge
    assert post(world, dpop.generate_key()) == [200]
    assert world.calls()[-1].one("Authorization") == "DPoP at-1"


def test_a_token_bound_to_no_key_is_sent_as_what_it_is(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """With ``allow_bearer``: as Bearer, without a proof; a warning names the authorization server."""
    world.tokens, world.challenge = [{"access_token": "at-1", "token_type": "bearer"}], "Bearer"
    assert post(world, dpop.generate_key(), allow_bearer=True) == [200]
    sent = world.calls()[-1]
    assert (sent.one("Authorization"), sent.all("DPoP")) == ("Bearer at-1", [])
    assert "localhost bound the access token to no key" in caplog.text


def test_requests_do_not_wait_for_each_other(world: World) -> None:
    """Each is answered when all five have come."""
    barrier = threading.Barrier(5)

    def before(request: Received) -> None:
        if request.target == "/mcp":
            barrier.wait(30)

    async def work() -> list[int]:
        async with http_client(dpop.generate_key(), provider) as client:
            responses = [client.post(f"{world.server}/mcp") for _ in range(5)]
            return [response.status_code for response in await asyncio.gather(*responses)]

    world.before, provider = before, world.provider()
    provider.context.current_tokens = stored("at-1")
    assert run(work) == [200] * 5
    assert len({request.one("DPoP") for request in world.calls()}) == 5


def test_a_form_that_can_be_read_once_is_sent(world: World) -> None:
    """The user's own; it is not looked into."""

    async def form() -> AsyncIterator[bytes]:
        yield b"grant_type=x"

    async def work() -> int:
        async with http_client(dpop.generate_key(), provider) as client:
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            return (await client.post(f"{world.server}/mcp", content=form(), headers=headers)).status_code

    provider = world.provider()
    provider.context.current_tokens = stored("at-1")
    assert run(work) == 200
    assert world.calls()[-1].body == b"grant_type=x"


def test_many_refused_requests_share_one_refresh(world: World) -> None:
    """Those that come later find the new token."""
    barrier = threading.Barrier(5)

    def before(request: Received) -> None:
        if request.all("Authorization") == ["DPoP at-0"]:
            barrier.wait(30)

    async def work() -> list[int]:
        async with http_client(dpop.generate_key(), provider) as client:
            responses = [client.post(f"{world.server}/mcp") for _ in range(5)]
            return [response.status_code for response in await asyncio.gather(*responses)]

    world.before, world.tokens, provider = before, [bound(2)], world.provider(stored("at-0"))
    provider.context.current_tokens = stored("at-0")
    provider.context.client_info = OAuthClientInformationFull(
        client_id="c", redirect_uris=[CALLBACK], issuer=world.issuer
    )
    assert run(work) == [200] * 5
    assert (len(world.token_requests()), world.logins) == (1, [])


def test_more_scope_takes_another_login(world: World) -> None:
    """The new token is bound, too."""
    world.tokens = [bound(2)]

    def before(request: Received) -> Response | None:
        if request.all("Authorization") == ["DPoP at-1"]:
            return Response(403, [("WWW-Authenticate", 'DPoP error="insufficient_scope", scope="write"')])
        return None

    world.before = before
    assert post(world, dpop.generate_key(), stored("at-1")) == [200]
    assert parse_qs(urlsplit(world.logins[0]).query)["scope"] == ["write"]
    assert world.calls()[-1].one("Authorization") == "DPoP at-2"


def test_an_authorization_server_without_tls_gets_nothing(world: World) -> None:
    """The MCP server's metadata may name any."""

    def before(request: Received) -> Response | None:
        if request.target.startswith("/.well-known/oauth-authorization-server"):
            members = {"issuer": world.issuer, "authorization_endpoint": f"{world.issuer}/authorize"}
            return world.json(
                {**members, "token_endpoint": "http://as.example/token", "response_types_supported": ["code"]}
            )
        return None

    world.before = before
    with pytest.raises(InsecureOriginError, match=r"as\.example"):
        post(world, dpop.generate_key())


def test_metadata_of_another_resource_is_not_taken(world: World) -> None:
    """A challenge may point anywhere; the document must be that of this server."""

    def before(request: Received) -> Response | None:
        if request.target == "/elsewhere":
            return world.json({"resource": "https://bank.example/", "authorization_servers": [world.issuer]})
        return None

    world.before = before
    world.challenge = f'DPoP error="invalid_token", resource_metadata="{world.issuer}/elsewhere"'
    with pytest.raises(OAuthFlowError, match="does not match"):
        post(world, dpop.generate_key())
    assert (world.logins, world.token_requests()) == ([], [])


def test_a_redirect_elsewhere_takes_no_token_along(world: World) -> None:
    """Not even if the caller lets the client follow redirects."""
    with Recorder(lambda _request: Response(200)) as other:
        target = other.origin.replace("127.0.0.1", "localhost")

        def before(request: Received) -> Response | None:
            return Response(307, [("Location", f"{target}/x")]) if request.target == "/mcp" else None

        async def work() -> None:
            async with http_client(dpop.generate_key(), provider) as client:
                await client.post(f"{world.server}/mcp", follow_redirects=True)

        world.before, provider = before, world.provider(stored("at-1"))
        provider.context.current_tokens = stored("at-1")
        run(work)
        [request] = other.requests
        assert (request.all("Authorization"), request.all("DPoP")) == ([], [])


def test_a_redirect_to_the_authorization_server_takes_no_token_along(world: World) -> None:
    """Its origin is one of the transport's since the login."""

    def before(request: Received) -> Response | None:
        if request.target == "/elsewhere":
            return Response(200)
        if request.all("Authorization") == ["DPoP at-1"]:
            return Response(307, [("Location", f"{world.issuer}/elsewhere")])
        return None

    async def work() -> None:
        async with http_client(dpop.generate_key(), world.provider()) as client:
            await client.post(f"{world.server}/mcp", follow_redirects=True)

    world.before = before
    run(work)
    [request] = [request for request in world.recorder.requests if request.target == "/elsewhere"]
    assert request.all("Authorization") == []


def test_no_secret_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """On any level, by this package or the SDK: tokens, proofs, the code, nonces."""
    caplog.set_level(logging.DEBUG)
    world.tokens = [bound(2)]
    key = dpop.generate_key()
    assert post(world, key, stored("at-0")) == [200]
    assert post(world, key) == [200]
    proofs = [request.one("DPoP") for request in world.recorder.requests if request.all("DPoP")]
    for secret in ("at-0", "at-2", "rt-0", "rt-2", "code-1", *proofs):
        assert secret not in caplog.text
