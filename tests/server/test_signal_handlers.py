# SPDX-License-Identifier: Apache-2.0
"""A signal handler that interrupts an object of the server and asks the same object: it never waits for itself.

The handlers run in a function that the object calls, so that the moment is always the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from dpop.errors import LookupUnavailableError
from dpop.server import BearerReport, Event, Introspection, LookupRequest, LookupResponse
from dpop.server._key_sets import IssuerKeys
from dpop.server._lookups import run
from dpop.server._token_claims import Memory


class Interrupted:
    """Something that is called, in one call of which a signal arrives."""

    def __init__(self) -> None:
        self.handler: Callable[[], object] | None = None
        self.told: list[BaseException | object] = []

    def arrive(self) -> None:
        handler, self.handler = self.handler, None
        if handler is not None:
            try:
                self.told.append(handler())
            except Exception as error:  # noqa: BLE001 - judged by the test
                self.told.append(error)


class Clock(Interrupted):
    """Monotonic seconds."""

    def __call__(self) -> float:
        self.arrive()
        return 100.0


def in_time(call: Callable[[], Any]) -> Any:
    """The result of a call, which must end within some seconds."""
    ended: list[Any] = []
    thread = threading.Thread(target=lambda: ended.append(call()), daemon=True)
    thread.start()
    thread.join(60)
    assert ended, "the call waits for itself"
    return ended[0]


def active(_request: LookupRequest) -> LookupResponse:
    """The token is active."""
    return LookupResponse(200, {}, b'{"active": true}')


def test_introspection() -> None:
    """The handler is refused, as the question may be half noted; the interrupted call goes on."""
    clock = Clock()
    tokens = Introspection("https://as.example/introspect", client_id="api", fetch=active, monotonic=clock)
    clock.handler = lambda: tokens("other")
    assert in_time(lambda: tokens("token")) == {"active": True}
    (error,) = clock.told
    assert isinstance(error, LookupUnavailableError)
    assert "signal handler" in str(error)
    assert in_time(lambda: tokens("other")) == {"active": True}


def test_keys_of_an_issuer() -> None:
    """Both calls end; here with the refusal of a look-up that finds no keys."""
    clock = Clock()

    def nothing(_request: LookupRequest) -> LookupResponse:
        return LookupResponse(404, {}, b"")

    keys = IssuerKeys(
        "https://as.example",
        jwks_uri=None,
        fetch=nothing,
        refresh_after=300,
        ask_again_after=10,
        timeout=5,
        monotonic=clock,
    )

    def ask() -> object:
        with pytest.raises(LookupUnavailableError) as caught:
            run(keys.candidates(None, "ES256"))
        return caught.value

    clock.handler = ask
    assert isinstance(in_time(ask), LookupUnavailableError)
    assert ["signal handler" in str(error) for error in clock.told] == [True]


class Name(bytes):
    """A name of a token in whose hash a signal arrives."""

    signal = Interrupted()

    def __hash__(self) -> int:
        self.signal.arrive()
        return super().__hash__()


def test_remembered_tokens() -> None:
    """Both verdicts are remembered, and no more than there may be."""
    memory: Memory[int] = Memory(2)
    memory.put(b"a", 1)
    memory.put(b"b", 2)
    Name.signal.handler = lambda: memory.put(b"c", 3)
    in_time(lambda: memory.put(Name(b"d"), 4) or True)
    assert memory.get(b"d") == 4
    Name.signal.handler = lambda: memory.drop(b"d")
    in_time(lambda: memory.drop(Name(b"c")) or True)
    assert (memory.get(b"c"), memory.get(b"d")) == (None, None)


class Client(str):
    """A client's name in whose hash a signal arrives."""

    __slots__ = ()
    signal = Interrupted()

    def __hash__(self) -> int:
        self.signal.arrive()
        return super().__hash__()


def test_a_report_of_bearer_tokens() -> None:
    """The report can be read and written by the handler."""
    report = BearerReport()
    Client.signal.handler = lambda: report(Event("accepted", scheme="Bearer", client="other")) or report.bearer
    in_time(lambda: report(Event("accepted", scheme="Bearer", client=Client("app"))) or True)
    assert report.bearer == {"app": 1, "other": 1}
