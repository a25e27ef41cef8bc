# SPDX-License-Identifier: Apache-2.0
"""Private files: one function writes them all, on file systems of every kind."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest
from support.odd_file_system import run_on_odd_file_system
from support.paths import COMMANDS, PACKAGE

from dpop import _files
from dpop._files import open_regular_file, when_not_in_use, write_private_file
from dpop.tokens import FileTokenStore, TokenSet


def test_one_module_writes_private_files() -> None:
    """No other module of the library makes temporary files, renames or links them; nor does the nonces' module."""
    verbs = re.compile(r"\bmkstemp\(|\.replace\(path\)|os\.(replace|rename|link|fsync)\(")
    sources = [*PACKAGE.rglob("*.py"), COMMANDS / "signing" / "nonce_state.py"]
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
assert time.monotonic() - begun < 30
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


# --- Windows and macOS: their responses at the narrowest place, since no such system is here


def _in_use(number: int) -> OSError:
    """The error of Windows where another process has a file open."""
    error = PermissionError(errno.EACCES, "Access is denied")
    error.winerror = number  # type: ignore[attr-defined,unused-ignore]
    return error


@pytest.mark.parametrize("number", [5, 32, 33])
def test_a_file_that_another_process_has_open_is_replaced_when_it_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Windows refuses to replace an open file. Readers and virus scanners hold one for a moment only."""
    refusals = [_in_use(number)] * 3
    replace = Path.replace

    def replaced(source: Path, target: Path) -> Path:
        if refusals:
            raise refusals.pop()
        return replace(source, target)

    (tmp_path / "tokens").write_bytes(b"old")
    monkeypatch.setattr(Path, "replace", replaced)
    write_private_file(tmp_path / "tokens", b"new")
    assert ((tmp_path / "tokens").read_bytes(), len(list(tmp_path.iterdir()))) == (b"new", 1)


def test_a_file_that_stays_in_use_is_an_error_and_stays_as_it_was() -> None:
    """After 1.6 seconds the error is the system's; any other error is not waited for."""
    waited: list[float] = []
    tries: list[int] = []

    def in_use() -> None:
        tries.append(1)
        raise _in_use(32)

    with pytest.raises(PermissionError):
        when_not_in_use(in_use, sleep=waited.append)
    assert (len(tries), 1.5 < sum(waited) < 1.7) == (9, True)

    def refused() -> None:
        tries.append(1)
        raise PermissionError(errno.EACCES, "Permission denied")

    tries.clear()
    with pytest.raises(PermissionError):
        when_not_in_use(refused, sleep=waited.append)
    assert len(tries) == 1


def test_a_file_is_opened_again_when_it_is_being_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows a reader meets the moment at which another process replaces the file."""
    (tmp_path / "nonce").write_bytes(b"new")
    refusals, opened = [_in_use(5)] * 2, os.open
    monkeypatch.setattr(os, "open", lambda *given: _raise(refusals.pop()) if refusals else opened(*given))
    with open_regular_file(tmp_path / "nonce") as file:
        assert file.read() == b"new"


def _raise(error: OSError) -> int:
    raise error


@pytest.mark.parametrize("number", [1, 50])
def test_a_windows_disk_without_hard_links(tmp_path: Path, number: int) -> None:
    """FAT has none: the name is claimed by an empty file, and a file that is there is kept."""

    def link(_source: str, _target: Path) -> None:
        error = OSError(errno.EINVAL, "Incorrect function")
        error.winerror = number  # type: ignore[attr-defined,unused-ignore]
        raise error

    write_private_file(tmp_path / "key", b"first", overwrite=False, link=link)
    with pytest.raises(FileExistsError):
        write_private_file(tmp_path / "key", b"second", overwrite=False, link=link)
    assert (tmp_path / "key").read_bytes() == b"first"


@pytest.mark.parametrize("known", [True, False])
def test_macos_writes_through_the_disks_own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    """There ``fsync`` is not enough, and F_FULLFSYNC is; where a file system has no such thing, ``fsync`` is left."""
    asked: list[str] = []

    class Fcntl:
        F_FULLFSYNC = 51

        @staticmethod
        def fcntl(_descriptor: int, what: int) -> None:
            asked.append(f"fcntl {what}")
            if not known:
                raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(_files, "fcntl", Fcntl)
    monkeypatch.setattr(os, "fsync", lambda _descriptor: asked.append("fsync"))
    write_private_file(tmp_path / "tokens", b"new")
    assert asked == (["fcntl 51"] if known else ["fcntl 51", "fsync"])
