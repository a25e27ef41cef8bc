# SPDX-License-Identifier: Apache-2.0
"""The store in memory: the contract, and what a process of its own means."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from support.forking import in_child
from support.paths import DOCS
from support.token_stores import StoreContract, numbered

from dpop.errors import TokenLockError, UsageError
from dpop.tokens import MemoryTokenStore, TokenStore
from dpop.tokens._stores import locked


class TestMemoryTokenStore(StoreContract):
    """What every store does."""

    @pytest.fixture
    def make(self) -> Callable[[], TokenStore]:
        """One store, for it has nothing to share but itself."""
        store = MemoryTokenStore()
        return lambda: store


class TestTheGuidesStore(StoreContract):
    """The store that the guide shows does what every store does."""

    @pytest.fixture
    def make(self, tmp_path: Path) -> Callable[[], TokenStore]:
        """Its class, out of the guide."""
        guide = (DOCS / "tokens.md").read_text("utf-8")
        blocks = re.findall(r"^```python\n(.*?)^```$", guide, re.DOTALL | re.MULTILINE)
        names: dict[str, Any] = {}
        exec(compile(blocks[-1].partition("\n\n\nown = ")[0], "tokens.md", "exec"), names)
        return lambda: cast("TokenStore", names["SQLiteTokenStore"](tmp_path / "tokens.db"))


def test_it_does_not_travel() -> None:
    """A pickled copy would seem to be the same store."""
    with pytest.raises(UsageError):
        pickle.dumps(MemoryTokenStore())


def test_a_forked_child_is_not_locked_out() -> None:
    """A lock held when the process forked is the parent's; the child takes its own."""
    store = MemoryTokenStore()
    lock = store.lock("default")
    assert lock.acquire(0)

    def work() -> bytes:
        store.save(numbered(1))
        return b"saved"

    assert in_child(work) == b"saved"
    lock.release()


def test_a_lock_that_is_not_let_go() -> None:
    """Whoever cannot wait longer is told who may have it."""
    store = MemoryTokenStore()
    lock = store.lock("alice")
    assert lock.acquire(0)
    with pytest.raises(TokenLockError, match="'alice'"), locked(store.lock("alice"), "alice", timeout=0):
        pass
    lock.release()
