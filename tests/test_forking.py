# SPDX-License-Identifier: Apache-2.0
"""Resetting after a fork: one mechanism for every module."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading

import pytest
from support.forking import in_child
from support.paths import COMMANDS, PACKAGE

from dpop._forking import reset_after_fork


def test_one_module_registers_fork_handlers() -> None:
    """Every other module of library and command uses it."""
    sources = [*PACKAGE.rglob("*.py"), *COMMANDS.rglob("*.py")]
    assert [path.name for path in sources if "os.register_at_fork" in path.read_text("utf-8")] == ["_forking.py"]


class Locked:
    """An object whose lock another thread may hold at the fork."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        reset_after_fork(self)

    def _reset_after_fork(self) -> None:
        self.lock = threading.Lock()


def test_objects_are_reset_in_the_child_and_not_kept() -> None:
    """A lock that is held in the parent is free in the child; registering does not keep an object alive."""
    one, other = Locked(), Locked()
    with one.lock:
        assert in_child(lambda: str(one.lock.locked()).encode()) == b"False"
        assert one.lock.locked()
    before = id(other)
    del other
    gc.collect()
    assert in_child(lambda: str(os.getpid()).encode()) != str(os.getpid()).encode()
    assert all(id(each) != before for each in gc.get_objects() if type(each) is Locked)


@pytest.mark.parametrize("module", ["dpop.requests", "dpop.httpx", "dpop.httpx2", "dpop.aiohttp"])
def test_what_a_refusal_needs_is_imported_with_an_integration(module: str) -> None:
    """Not by the thread that gets it: a child that is forked meanwhile would inherit the lock of that import."""
    loaded = f"import sys, {module} as m; [getattr(m, name) for name in m.__all__]; print(*sys.modules)"
    modules = subprocess.check_output([sys.executable, "-c", loaded], text=True).split()
    assert {"dpop.client._demands", "dpop.client._forgiving", "logging"} <= set(modules)
