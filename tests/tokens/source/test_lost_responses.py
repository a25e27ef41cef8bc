# SPDX-License-Identifier: Apache-2.0
"""Responses that are lost or that are none: what the store says of the refresh token afterwards."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from support.endpoints import Endpoint
from support.recorder import Received, Recorder, Response
from support.sources import KEY, Sources

from dpop.errors import (
    InvalidTokenResponseError,
    OutcomeUnknownError,
    ReauthorizationError,
    TokenEndpointUnavailableError,
)
from dpop.tokens import FileTokenStore, TokenSet


@pytest.mark.parametrize(
    ("status", "sent_before", "noted"),
    [(429, False, False), (429, True, True), (503, False, True)],
    ids=["not looked at", "one before was lost", "perhaps used"],
)
def test_what_is_known_of_the_refresh_token_after_a_failure(
    at: Sources, status: int, sent_before: bool, noted: bool
) -> None:
    """The note that it was sent goes only where the server has surely not used it, now or before."""
    before = at.old.replace(refresh_sent_at=at.clock.now - 60) if sent_before else at.old
    at.store.save(before)
    at.server.levers.fail_next(10, status=status, path="/token")
    with pytest.raises(TokenEndpointUnavailableError):
        at.source().ask()
    stored = at.store.load()
    assert stored is not None
    assert (stored.refresh_sent_at is not None) is noted
    assert stored.refresh_token == before.refresh_token


def test_a_failure_after_a_lost_answer_leaves_its_note(at: Sources) -> None:
    """The first answer never came and the second says later: the server may have used the token at the first."""
    at.server.levers.drop_next(1, path="/token")
    at.server.levers.fail_next(10, status=429, path="/token")
    with pytest.raises(TokenEndpointUnavailableError):
        at.source().ask()
    stored = at.store.load()
    assert stored is not None
    assert stored.refresh_sent_at is not None
    assert [entry.status for entry in at.server.requests] == [0, 429]


def test_an_answer_that_is_lost_once(at: Sources) -> None:
    """Without rotation the same refresh token is sent again, with a new proof, and nobody notices."""
    at.server.levers.rotate_refresh_tokens = False
    at.server.levers.drop_next(1, after=True)
    assert at.source().ask() != "old"
    proofs = [entry.proof for entry in at.server.requests]
    assert len(set(proofs)) == len(proofs) == 2


def test_an_answer_that_is_lost_for_good(at: Sources) -> None:
    """With rotation it was the only copy of the new token: the error says that this is what happened."""
    at.server.levers.drop_next(1, after=True)
    with pytest.raises(ReauthorizationError, match="its response never arrived") as caught:
        at.source().ask()
    assert caught.value.error == "invalid_grant"
    assert len(at.server.requests) == 2


def test_no_answer_at_all(at: Sources) -> None:
    """Twice no answer: the outcome is unknown, it stays noted in the store, and a later call may yet succeed."""
    at.server.levers.drop_next(2)
    source = at.source()
    with pytest.raises(OutcomeUnknownError, match="refresh once more"):
        source.ask()
    stored = at.store.load()
    assert stored is not None
    assert stored.refresh_sent_at == at.clock.now
    source._next_try = 0
    assert source.ask() != "old"
    stored = at.store.load()
    assert stored is not None
    assert stored.refresh_sent_at is None


def test_a_process_that_died_in_between(at: Sources) -> None:
    """Its note in the store explains the refusal that follows."""
    at.store.save(at.old.replace(refresh_token="spent", refresh_sent_at=at.clock.now - 60))
    with pytest.raises(ReauthorizationError, match="its response never arrived"):
        at.source().ask()
    assert at.refreshes == [400]


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"",
        b'{"access_token":"a"}',
        b"x" * 2_000_000,
    ],
    ids=["html", "empty", "no type", "large"],
)
def test_bad_answers_leave_the_old_tokens(name: str, body: bytes, tmp_path: Path) -> None:
    """Whatever the server says instead of tokens, what is in the store is still there."""

    def response(_request: Received) -> Response:
        return Response(200, [], body)

    store = FileTokenStore(tmp_path / "tokens.json")
    old = TokenSet(access_token="old", expires_at=1, refresh_token="r", jkt=KEY.thumbprint)
    store.save(old)
    with Recorder(response) as recorder, Endpoint(name, KEY, recorder.url("/token"), client_id="c") as endpoint:
        source = endpoint.it.source(store)
        with pytest.raises(InvalidTokenResponseError):
            endpoint.wait(asked) if inspect.isawaitable(asked := source()) else asked
    stored = store.load()
    assert stored is not None
    assert stored.replace(refresh_sent_at=None) == old
