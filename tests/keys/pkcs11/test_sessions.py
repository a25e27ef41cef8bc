# SPDX-License-Identifier: Apache-2.0
"""The pool of sessions by itself: with sessions that are told when to sign, to fail and to be opened."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import cast

import pytest

from dpop.errors import DPoPKeyError, PinError
from dpop.keys.pkcs11._cryptoki import CKR, CryptokiError
from dpop.keys.pkcs11._sessions import Session, SessionPool


class FakeSession:
    """A session that does what it is told."""

    def __init__(self, sign: Callable[[bytes], bytes]) -> None:
        self.sign = sign
        self.closed = False

    def close(self) -> None:
        self.closed = True


class Opener:
    """Opens sessions, and keeps them."""

    def __init__(self, sign: Callable[[bytes], bytes] = bytes.upper) -> None:
        self.opened: list[FakeSession] = []
        self.sign = sign
        self.fail: BaseException | None = None

    def __call__(self) -> Session:
        if self.fail is not None:
            raise self.fail
        self.opened.append(FakeSession(self.sign))
        return cast("Session", self.opened[-1])


def test_a_session_is_used_again() -> None:
    """One thread needs one."""
    opener = Opener()
    pool = SessionPool(opener, 8)
    assert [pool.sign(b"a"), pool.sign(b"b")] == [b"A", b"B"]
    assert len(opener.opened) == 1


@pytest.mark.parametrize("error", [CryptokiError("C_Sign", CKR.GENERAL_ERROR), KeyboardInterrupt(), PinError("x")])
def test_a_session_that_failed_is_not_used_again(error: BaseException) -> None:
    """Whatever happened in it, it is closed, and its place is free."""

    def fail(_data: bytes) -> bytes:
        raise error

    opener = Opener(fail)
    pool = SessionPool(opener, 1)
    for _ in range(3):
        with pytest.raises(type(error)):
            pool.sign(b"a")
    assert [session.closed for session in opener.opened] == [True] * 3
    opener.sign = bytes.upper
    assert pool.sign(b"a") == b"A"


@pytest.mark.parametrize(
    "error", [CryptokiError("C_OpenSession", CKR.SESSION_COUNT), PinError("x"), KeyboardInterrupt()]
)
def test_a_session_that_cannot_be_opened(error: BaseException) -> None:
    """The first one's error is the caller's, and takes no place."""
    opener = Opener()
    opener.fail = error
    pool = SessionPool(opener, 1)
    for _ in range(3):
        with pytest.raises(type(error)):
            pool.sign(b"a")
    opener.fail = None
    assert pool.sign(b"a") == b"A"


def test_pausing_waits_for_who_signs() -> None:
    """Nobody begins meanwhile; afterwards, if the module was restarted, sessions are new ones."""
    inside, go_on = threading.Event(), threading.Event()

    def slow(data: bytes) -> bytes:
        inside.set()
        assert go_on.wait(30)
        return data

    opener = Opener(slow)
    pool = SessionPool(opener, 2)
    results: list[bytes] = []
    first = threading.Thread(target=lambda: results.append(pool.sign(b"1")))
    first.start()
    assert inside.wait(30)
    assert not pool.pause(0.01)
    second = threading.Thread(target=lambda: results.append(pool.sign(b"2")))
    second.start()
    go_on.set()
    first.join(30)
    assert pool.pause(30)
    assert results == [b"1"]
    assert len(opener.opened) == 1
    pool.resume(restarted=True)
    second.join(30)
    assert results == [b"1", b"2"]
    assert len(opener.opened) == 2


def test_closing_ends_those_who_wait() -> None:
    """Who waits for a session gets an error, who signs finishes, and all sessions are closed."""
    inside, go_on = threading.Event(), threading.Event()

    def slow(data: bytes) -> bytes:
        inside.set()
        assert go_on.wait(30)
        return data

    opener = Opener(slow)
    pool = SessionPool(opener, 1)
    told: list[object] = []

    def work() -> None:
        try:
            told.append(pool.sign(b"x"))
        except DPoPKeyError as error:
            told.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert inside.wait(30)
    pool.close()
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert sorted(map(str, told)) == ["b'x'", *["the key was closed; load it again"] * 3]
    assert all(session.closed for session in opener.opened)
