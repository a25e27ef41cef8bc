# SPDX-License-Identifier: Apache-2.0
"""Files for a child alone: it reads and writes them by name, and the disk keeps nothing."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest
from dpop_cli.commands.curl.scratch import Scratch


def copied(source: str, target: str) -> None:
    """What a child does that knows both names only."""
    subprocess.run(["sh", "-c", 'cat "$1" >"$2"', "sh", source, target], check=True, close_fds=False)


@pytest.fixture(params=["memory", "no name", "a name"])
def named(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> bool:
    """The three kinds: Linux, other Unix, Windows."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if request.param == "no name":
        monkeypatch.delattr(os, "memfd_create")
    return bool(request.param == "a name")


def test_a_child_reads_and_writes_by_name(named: bool, tmp_path: Path) -> None:
    """What the child writes can be read while it is there, from the start, any number of times."""
    with Scratch(b"octets" * 50_000, named=named) as given, Scratch(named=named) as taken:
        assert taken.read() == b""
        copied(given.path, taken.path)
        assert taken.read() == taken.read() == b"octets" * 50_000
        copied(given.path, taken.path)
        assert len(taken.read()) == 300_000
        assert len(list(tmp_path.iterdir())) == (2 if named else 0)
    assert list(tmp_path.iterdir()) == []


def test_a_name_is_its_owners_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it needs a name, nobody else can open it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Scratch(b"secret", named=True):
        (path,) = tmp_path.iterdir()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_descriptors_are_given_back() -> None:
    """A thousand of them leave none open."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(1000):
        with Scratch(b"x") as scratch:
            scratch.read()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
