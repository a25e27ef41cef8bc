# SPDX-License-Identifier: Apache-2.0
"""A token source in use: it refreshes what has expired, alone and behind an adapter."""

from __future__ import annotations

import asyncio
import inspect
import logging
import pickle
import subprocess
import sys

import httpx2
import pytest
import requests
from support.endpoints import ENDPOINTS
from support.sources import KEY, Sources

import dpop
from dpop.client._request import BearerToken
from dpop.errors import ArgumentTypeError, TokenEndpointUnavailableError, UsageError
from dpop.requests import DPoPAdapter, TokenEndpoint
from dpop.testing import DPoPTestServer
from dpop.tokens import MemoryTokenStore, TokenSet


@pytest.mark.parametrize("name", sorted(ENDPOINTS), indirect=True)
def test_refreshed_once_and_then_fresh(at: Sources) -> None:
    """An expired token is refreshed by the first call; later ones send nothing, and the store has it all."""
    source = at.source()
    first = source.ask()
    assert first not in {"", "old"}
    assert [source.ask() for _ in range(10)] == [first] * 10
    assert at.refreshes == [200]
    stored = at.store.load()
    assert stored is not None
    assert (stored.access_token, stored.jkt, stored.refresh_sent_at) == (first, KEY.thumbprint, None)
    assert at.source().ask() == first
    assert at.refreshes == [200]


def test_each_expiry_costs_one_refresh(at: Sources) -> None:
    """Ten expiries, ten refreshes, each with the refresh token of the one before."""
    source = at.source()
    seen = set()
    for _ in range(10):
        seen.add(source.ask())
        at.clock.now += 3600
    assert len(seen) == 10
    assert at.refreshes == [200] * 10


def test_without_an_expiry_it_is_good_until_refused(at: Sources) -> None:
    """A server that does not say how long a token lives is not asked again for that."""
    at.store.save(at.old.replace(expires_at=None))
    source = at.source()
    assert source.ask() == "old"
    at.clock.now += 1e6
    assert source.ask() == "old"
    source.refused("old")
    assert source.ask() != "old"
    assert at.refreshes == [200]


def test_accounts_have_sources_of_their_own(at: Sources) -> None:
    """Each account's tokens are refreshed with its own refresh token."""
    at.store.save(at.old, "alice")
    at.store.save(at.old, "bob")
    endpoint = at.endpoint()
    tokens = set()
    for account in ("default", "alice", "bob"):
        source = endpoint.it.source(at.store, account=account)
        asked = source()
        tokens.add(endpoint.wait(asked) if inspect.isawaitable(asked) else asked)
        assert account in repr(source)
    assert len(tokens) == 3
    assert at.refreshes == [200] * 3


def test_a_grant_that_needs_no_user(at: Sources) -> None:
    """client_credentials: the first token and each after it come of the same grant."""
    source = at.source(MemoryTokenStore(), source={"grant": "client_credentials", "scope": "read"})
    first = source.ask()
    at.clock.now += 3600
    assert source.ask() != first
    assert [entry.body.decode().count("client_credentials") for entry in at.server.requests] == [1, 1]


def test_a_grant_that_needs_no_user_replaces_a_dead_refresh_token(at: Sources) -> None:
    """Where the client can ask anew, invalid_grant is the end of one refresh token and of nothing else."""
    at.store.save(at.old.replace(refresh_token="dead"))
    source = at.source(source={"grant": "client_credentials"})
    assert source.ask() != "old"
    assert at.refreshes == [400, 200]


def test_no_log_holds_a_secret(at: Sources, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever goes well or wrong, our loggers name no token, secret or proof."""
    caplog.set_level(logging.DEBUG)
    at.server.levers.fail_next(1, status=503, path="/token")
    at.server.levers.drop_next(1, path="/token")
    source = at.source()
    with pytest.raises(TokenEndpointUnavailableError):
        source.ask()
    token = source.ask()
    stored = at.store.load()
    assert stored is not None
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("dpop"))
    assert ours
    proofs = [entry.proof for entry in at.server.requests]
    for secret in (token, stored.refresh_token, at.server.client_secret, *proofs):
        assert str(secret) not in ours


def test_a_source_does_not_travel_and_takes_no_nonsense(at: Sources) -> None:
    """It holds a key; its settings must make sense."""
    with pytest.raises(UsageError):
        pickle.dumps(at.source())
    with pytest.raises(ArgumentTypeError):
        at.source("tokens.json")
    for options in ({"ahead": -1}, {"ahead": float("inf")}, {"account": ""}, {"audience": "x"}):
        with pytest.raises(UsageError):
            at.source(source=options)


# -- with an adapter


def test_an_invalid_token_is_renewed_and_the_request_sent_again(requests_at: Sources) -> None:
    """A revoked token: one refresh, one repetition, and the caller sees 200."""
    at = requests_at
    source = at.source()
    with requests.Session() as session:
        session.mount(at.server.origin, DPoPAdapter(KEY, origins=at.server.origin, access_token=source))
        assert session.get(at.server.resource, timeout=60).status_code == 200
        at.server.revoke_access_tokens()
        assert session.get(at.server.resource, timeout=60).status_code == 200
    assert [(entry.path, entry.status) for entry in at.server.requests] == [
        ("/token", 200),
        ("/resource", 200),
        ("/resource", 401),
        ("/token", 200),
        ("/resource", 200),
    ]


def test_a_resource_that_refuses_every_token(requests_at: Sources) -> None:
    """A server that will have none of them does not make us refresh for ever."""
    at = requests_at
    source = at.source()
    with requests.Session() as session:
        session.mount(at.server.origin, DPoPAdapter(KEY, origins=at.server.origin, access_token=source))
        at.server.levers.refuse_next(1000, error="invalid_token", path="/resource")
        for _ in range(30):
            assert session.get(at.server.resource, timeout=60).status_code == 401
    assert len(at.refreshes) <= 7


def test_an_old_token_that_is_refused_late(requests_at: Sources) -> None:
    """Many requests with the old token fail at once: one refresh, not one for each."""
    source = requests_at.source()
    first = source()
    for _ in range(10):
        source.refused(first)
        second = source()
    for _ in range(10):
        source.refused(first)
    assert source() == second != first
    assert requests_at.refreshes == [200, 200]
    # Nor do they count when the new one is refused in earnest.
    source.refused(second)
    assert source() not in {first, second}
    assert requests_at.refreshes == [200, 200, 200]


def test_tokens_bound_to_no_key_go_out_as_bearer() -> None:
    """Google's kind: API calls carry Bearer and no proof, and the token is renewed as any other."""
    with DPoPTestServer(mode="google") as server:
        store = MemoryTokenStore()
        store.save(
            TokenSet(access_token="old", expires_at=0, refresh_token=server.issue_refresh_token(jkt=KEY.thumbprint))
        )
        endpoint = TokenEndpoint(
            KEY,
            server.token_endpoint,
            client_id=server.client_id,
            client_secret=server.client_secret,
            profile=dpop.profiles.GOOGLE,
        )
        source = endpoint.source(store)
        with endpoint, requests.Session() as session:
            session.mount(server.origin, DPoPAdapter(KEY, origins=server.origin, access_token=source))
            assert session.get(server.resource, timeout=60).status_code == 200
            assert isinstance(source(), BearerToken)
            server.revoke_access_tokens()
            assert session.get(server.resource, timeout=60).status_code == 200
        calls = [entry for entry in server.requests if entry.path == "/resource"]
        assert [entry.status for entry in calls] == [200, 401, 200]
        for call in calls:
            assert call.fields("DPoP") == []
            assert call.fields("Authorization")[0].startswith("Bearer ")


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_httpx_clients_use_a_source(server: DPoPTestServer, kind: str) -> None:
    """One source serves synchronous and asynchronous clients."""
    at = Sources("httpx2" if kind == "sync" else "httpx2-async", server, MemoryTokenStore())
    source = at.source()

    async def call() -> list[int]:
        transport = dpop.httpx2.AsyncDPoPTransport(KEY, origins=server.origin, access_token=source)
        async with httpx2.AsyncClient(transport=transport, timeout=60) as client:
            responses = await asyncio.gather(*(client.get(server.resource) for _ in range(10)))
            server.revoke_access_tokens()
            responses += await asyncio.gather(*(client.get(server.resource) for _ in range(10)))
            return [response.status_code for response in responses]

    assert set(at._endpoints[0].wait(call())) == {200}
    assert at.refreshes == [200, 200]
    at.close()


def test_threads_need_no_asyncio() -> None:
    """Importing the integration for requests, or the tokens, does not load what only tasks need."""
    code = "import sys, dpop.requests, dpop.tokens; print('asyncio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"
