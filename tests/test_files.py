# SPDX-License-Identifier: Apache-2.0
"""Private files: one function writes them all, on file systems of every kind."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.odd_file_system import run_on_odd_file_system
from support.paths import COMMANDS, PACKAGE

from dpop._files import write_private_file
from dpop.tokens import FileTokenStore, TokenSet


def test_one_module_writes_private_files() -> None:
    """No other module of the library makes temporary files, renames or links them; nor does the nonces' module."""
    verbs = re.compile(r"\bmkstemp\(|\.replace\(path\)|os\.(replace|rename|link|fsync)\(")
    sources = [*PACKAGE.rglob("*.py"), COMMANDS / "nonce_state.py"]
    assert [path.name for path in sources if verbs.search(path.read_text("utf-8"))] == ["_files.py"]


def test_the_mode_is_0600_whatever_the_umask(tmp_path: Path) -> None:
    """Durable or not, new or replaced, nobody else can read it; no temporary file remains."""
    for name in ("a", "a", "b"):
        write_private_file(tmp_path / name, b"secret", durable=name == "a")
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    with pytest.raises(FileExistsError):
        write_private_file(tmp_path / "a", b"other", overwrite=False)
    assert (tmp_path / "a").read_bytes() == b"secret"


_SAVE = """
import sys, time
from dpop.errors import TokenStoreError
from dpop.tokens import FileTokenStore, TokenSet
begun = time.monotonic()
try:
    FileTokenStore({path!r}).save(TokenSet(access_token="new"))
except TokenStoreError as error:
    print(error)
assert time.monotonic() - begun < 10
"""


def test_a_directory_that_cannot_be_synced_is_no_failure(tmp_path: Path) -> None:
    """Some network and user-space file systems refuse fsync of a directory. The tokens are in the file all the same."""
    path = tmp_path / "t" / "tokens.json"
    path.parent.mkdir()
    assert run_on_odd_file_system(_SAVE.format(path=str(path)), tmp_path, fsync="EINVAL") == ""
    assert FileTokenStore(path).load() == TokenSet(access_token="new")


def test_a_disk_that_fails_to_sync_a_directory_is_one(tmp_path: Path) -> None:
    """An I/O error is said, for the new tokens may not survive a crash."""
    path = tmp_path / "t" / "tokens.json"
    path.parent.mkdir()
    assert "Input/output error" in run_on_odd_file_system(_SAVE.format(path=str(path)), tmp_path, fsync="EIO")


def test_a_file_that_is_a_mount_point(tmp_path: Path) -> None:
    """A single file that is mounted into a container cannot be replaced: the message says what to do."""
    path = tmp_path / "t" / "tokens.json"
    path.parent.mkdir()
    said = run_on_odd_file_system(_SAVE.format(path=str(path)), tmp_path, rename="EBUSY")
    assert "mount its directory instead" in said
    assert [file.name for file in path.parent.iterdir()] == [".tokens.json.lock"]


def test_a_file_system_without_locks_is_named_at_once(tmp_path: Path) -> None:
    """No minute of waiting for a process that does not exist."""
    path = tmp_path / "t" / "tokens.json"
    path.parent.mkdir()
    said = run_on_odd_file_system(_SAVE.format(path=str(path)), tmp_path, flock="ENOTSUP")
    assert "no locks" in said
    assert not path.exists()
