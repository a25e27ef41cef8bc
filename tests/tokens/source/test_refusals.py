# SPDX-License-Identifier: Apache-2.0
"""Refused refresh tokens: each is sent once, and only its own end is told as one."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest
from support.endpoints import Endpoint
from support.recorder import Recorder, Response, script
from support.sources import KEY, Fragile, Sources

import dpop
from dpop.errors import KeyMismatchError, ReauthorizationError, TokenEndpointUnavailableError, TokenRefusedError
from dpop.tokens import FileTokenStore, MemoryTokenStore, TokenSet


def test_a_foreign_key_sends_nothing(at: Sources) -> None:
    """The jkt in the store is compared before the refresh token leaves."""
    with pytest.raises(KeyMismatchError):
        at.source(key=dpop.generate_key()).ask()
    assert at.server.requests == []


def test_no_tokens(at: Sources) -> None:
    """An empty store, or one without a refresh token, says that the user has to authorise."""
    with pytest.raises(ReauthorizationError, match="no tokens"):
        at.source(MemoryTokenStore()).ask()
    at.store.save(at.old.replace(refresh_token=None))
    with pytest.raises(ReauthorizationError, match="no refresh token"):
        at.source().ask()
    assert at.server.requests == []


def test_a_dead_refresh_token_is_sent_once(at: Sources) -> None:
    """invalid_grant is final: no further call sends it, until other tokens are in the store."""
    at.store.save(at.old.replace(refresh_token="dead"))
    source = at.source()
    for _ in range(5):
        with pytest.raises(ReauthorizationError):
            source.ask()
    assert at.refreshes == [400]
    at.store.save(at.old)
    assert source.ask() != "old"


def test_invalid_grant_when_another_was_faster(at: Sources) -> None:
    """Before giving up the store is read once more: another program may have put new tokens there."""

    class Overtaken(FileTokenStore):
        """A store that another program, which knows no locks, writes to at the worst moment."""

        loads = 0

        def load(self, account: str = "default") -> TokenSet | None:
            self.loads += 1
            if self.loads == 4:  # after the note that a refresh begins: two reads, one to compare, and now
                FileTokenStore.replace(self, super().load(account), newer, account)
            return super().load(account)

    assert isinstance(at.store, FileTokenStore)
    newer = at.old.replace(access_token="newer", expires_at=at.clock.now + 3600)
    at.store.save(at.old.replace(refresh_token="dead"))
    assert at.source(Overtaken(at.store.path)).ask() == "newer"
    assert at.refreshes == [400]


def test_a_dead_refresh_token_that_cannot_be_noted_is_sent_once(at: Sources) -> None:
    """The store takes no note of the refusal, so this process remembers it."""
    assert isinstance(at.store, FileTokenStore)
    at.store.save(at.old.replace(refresh_token="dead"))
    store = Fragile(at.store.path)
    store.fail_at = 2
    source = at.source(store)
    for _ in range(3):
        with pytest.raises(ReauthorizationError):
            source.ask()
    assert at.refreshes == [400]


@pytest.mark.parametrize("sent_before", [False, True], ids=["not looked at", "one before was lost"])
def test_a_refused_client_used_no_refresh_token(at: Sources, sent_before: bool) -> None:
    """The server authenticates the client first (RFC 6749 §6), so nothing is unknown about the refresh token."""
    before = at.old.replace(refresh_sent_at=at.clock.now - 60) if sent_before else at.old
    at.store.save(before)
    with pytest.raises(TokenRefusedError, match="invalid_client"):
        at.source(client_id="nobody-knows-it").ask()
    stored = at.store.load()
    assert stored is not None
    assert (stored.refresh_sent_at is not None) is sent_before
    assert stored.refresh_token == before.refresh_token


def test_a_refusal_that_comes_while_the_store_is_read(requests_at: Sources) -> None:
    """The token that was found there meanwhile is the refused one, so it is renewed all the same."""
    first = requests_at.source().ask()
    source = requests_at.source()
    succeeded, told = source._succeeded, []

    def after_a_refusal(refresh: Any, tokens: TokenSet) -> None:
        if not told:
            told.append(source.refused(tokens.access_token))
        succeeded(refresh, tokens)

    source._succeeded = after_a_refusal
    assert source.ask() != first
    assert requests_at.refreshes == [200, 200]


def test_a_refresher_forgets_no_refusal(requests_at: Sources) -> None:
    """It finds the refused token in the store, where it looks fresh; the next caller has it renewed."""
    source = requests_at.source()
    first = source.ask()
    source.refused(first)
    assert source.ensure(lambda _: True).access_token == first
    assert source.ask() != first
    assert requests_at.refreshes == [200, 200]


def test_the_same_token_again_is_taken(at: Sources) -> None:
    """A server that gives out the refused token once more must know: it is not asked at each call."""
    body = {"access_token": "same", "token_type": "DPoP", "expires_in": 3600, "refresh_token": "r"}
    responses = [Response(200, [], json.dumps(body).encode())] * 2
    with Recorder(lambda _: responses.pop() if responses else Response(503)) as recorder:
        endpoint = Endpoint(at.name, KEY, recorder.url("/token"), client_id="c", clock=at.clock)
        source = endpoint.it.source(at.store)

        def ask() -> Any:
            return endpoint.wait(asked) if inspect.isawaitable(asked := source()) else asked

        assert ask() == "same"
        source.refused("same")
        assert [ask() for _ in range(5)] == ["same"] * 5
        assert len(recorder.requests) == 2
        # Nor is it worse than another when it should be renewed and the server is down.
        at.clock.now += 3600 - 200
        assert ask() == "same"
        endpoint.close()


def test_three_refusals_in_a_row_are_counted_across_processes(at: Sources) -> None:
    """Each process is refused once, under a name that may pass: the third one says that the user has to authorise."""
    refused = Response(400, [], b'{"error":"invalid_request"}')
    tokens = Response(200, [], b'{"access_token":"a","token_type":"DPoP","expires_in":0}')
    with Recorder(script(refused, refused, tokens, refused, refused, refused)) as recorder:

        def another_process() -> Any:
            at.clock.now += 10
            return at.source(server=recorder.url("/token"))

        for expected in (TokenRefusedError, TokenRefusedError, None, TokenRefusedError, TokenRefusedError):
            source = another_process()
            if expected is None:
                assert source.ask() == "a"
            else:
                with pytest.raises(expected) as caught:
                    source.ask()
                assert type(caught.value) is expected
        for _ in range(2):
            with pytest.raises(ReauthorizationError, match="3 times in a row"):
                another_process().ask()
        assert len(recorder.requests) == 6


def test_a_refusal_of_the_proof_leaves_no_note(at: Sources) -> None:
    """invalid_dpop_proof: the refresh token was not looked at, and is as good as it was."""
    at.server.levers.refuse_next(error="invalid_dpop_proof", path="/token")
    before = at.store.load()
    source = at.source()
    with pytest.raises(TokenEndpointUnavailableError):
        source.ask()
    assert at.store.load() == before
    assert source.ask() != "old"
