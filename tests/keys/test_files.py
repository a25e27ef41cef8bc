# SPDX-License-Identifier: Apache-2.0
"""Key files: what is read, what is refused, and that a write is whole, private or not there."""

from __future__ import annotations

import errno
import logging
import os
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.paths import ROOT

from dpop.errors import ArgumentTypeError, KeyFileError
from dpop.keys._files import MAX_KEY_BYTES, key_path, read_key_file, write_key_file


def mode_of(path: Path) -> int:
    """Permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


def names(directory: Path) -> list[str]:
    """What is in a directory."""
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def public_directory() -> Iterator[Path]:
    """A directory that every user can reach, which those of pytest are not."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory


def as_plain_user(code: str, *arguments: object) -> str:
    """Run Python code in a process that is not root, and return what it prints."""
    drop = (
        "import os, resource, sys\n"
        "from pathlib import Path\n"
        "from dpop.keys._files import read_key_file, write_key_file\n"
        "from dpop.errors import KeyFileError\n"
        "if os.geteuid() == 0:\n"
        "    os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", drop + code, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout


# --- paths


def test_a_tilde_is_the_home_directory() -> None:
    """~ stands for what the operating system says it does."""
    assert key_path("~/key.pem") == Path.home() / "key.pem"
    assert key_path(Path("key.pem")) == Path("key.pem")


def test_an_unknown_home_is_an_error() -> None:
    """~nobody-of-that-name is not taken for a file name."""
    with pytest.raises(KeyFileError, match="home directory"):
        key_path("~nobody-of-that-name/key.pem")


def test_an_empty_path_is_an_error() -> None:
    """An empty environment variable does not become the current directory."""
    with pytest.raises(KeyFileError, match="empty"):
        key_path("")


@pytest.mark.parametrize("path", [7, None, b"key.pem"], ids=["int", "None", "bytes"])
def test_a_path_is_str_or_a_path_object(path: Any) -> None:
    """bytes are keys elsewhere, so they are no path here."""
    with pytest.raises(ArgumentTypeError, match="path"):
        key_path(path)


# --- reading


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    """All bytes up to the limit come back, through a link too."""
    path = tmp_path / "key"
    path.write_bytes(b"k" * MAX_KEY_BYTES)
    path.chmod(0o600)
    (tmp_path / "link").symlink_to(path)
    assert read_key_file(path) == read_key_file(tmp_path / "link") == b"k" * MAX_KEY_BYTES


def test_a_pipe_is_read(tmp_path: Path) -> None:
    """A key can come from another program without ever being on disk."""
    path = tmp_path / "pipe"
    os.mkfifo(path, 0o600)
    writer = threading.Thread(target=path.write_bytes, args=(b"key",))
    writer.start()
    assert read_key_file(path) == b"key"
    writer.join()


@pytest.mark.parametrize("endless", ["/dev/zero"])
def test_an_endless_file_is_given_up(endless: str) -> None:
    """A device is read up to the limit and no further."""
    with pytest.raises(KeyFileError, match="more than 64 KiB"):
        read_key_file(Path(endless))


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    """Each kind of trouble has its words, the path is in them, and the cause is chained."""
    (tmp_path / "empty").touch(0o600)
    (tmp_path / "large").write_bytes(b"k" * (MAX_KEY_BYTES + 1))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, says in {
        "missing": "No such file",
        ".": "Is a directory",
        "empty": "is empty",
        "large": "more than 64 KiB",
        "empty/x": "Not a directory",
        "loop": "symbolic links",
        "n\0l": "no file name can have",
        "n" * 300: "too long",
    }.items():
        with pytest.raises(KeyFileError, match=says) as caught:
            read_key_file(tmp_path / name)
        assert str(tmp_path) in str(caught.value)


def test_a_file_without_permission_says_so(public_directory: Path) -> None:
    """The message of the operating system is passed on."""
    path = public_directory / "key"
    path.write_bytes(b"key")
    path.chmod(0o000)
    code = (
        "path = Path(sys.argv[1])\n"
        "if os.getuid() == path.stat().st_uid: path.chmod(0)\n"
        "try: read_key_file(path)\n"
        "except KeyFileError as error: print(error, type(error.__cause__).__name__)\n"
    )
    printed = as_plain_user(code, path)
    assert "Permission denied" in printed
    assert "PermissionError" in printed


@pytest.mark.parametrize(
    "secret", ["jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI", "0f" * 32, "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln"]
)
def test_a_secret_given_as_a_path_is_not_repeated(secret: str) -> None:
    """Someone passes d itself by mistake, or a JWT access token: it goes into no message and no traceback."""
    with pytest.raises(KeyFileError, match="looks like a key") as caught:
        read_key_file(Path(secret))
    assert secret not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("mode", "open_to_all"), [(0o644, True), (0o604, True), (0o602, True), (0o640, False), (0o600, False)]
)
def test_a_file_open_to_every_user_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, open_to_all: bool
) -> None:
    """A warning says what to run; the file is read all the same, and a group may read it in silence."""
    path = tmp_path / "key"
    path.write_bytes(b"the content")
    path.chmod(mode)
    with caplog.at_level(logging.DEBUG, logger="dpop.keys"):
        assert read_key_file(path) == b"the content"
    assert bool(caplog.records) is open_to_all
    for record in caplog.records:
        assert record.levelno == logging.WARNING
        assert f"{mode:04o}" in record.getMessage()
        assert "chmod 600" in record.getMessage()
        assert "content" not in record.getMessage()


# --- writing


def test_a_new_file_is_for_its_owner_only(tmp_path: Path) -> None:
    """The bytes are there, with mode 0600 whatever the umask, and nothing else is left."""
    path = tmp_path / "key.pem"
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from dpop.keys._files import write_key_file\n"
        "os.umask(int(sys.argv[1]))\n"
        "write_key_file(Path(sys.argv[2]), b'bytes')\n"
    )
    for umask in (0o000, 0o077, 0o777):
        subprocess.run([sys.executable, "-c", code, str(umask), str(path)], cwd=ROOT, check=True, timeout=60)
        assert path.read_bytes() == b"bytes"
        assert mode_of(path) == 0o600
        assert names(tmp_path) == ["key.pem"]
        path.unlink()


def test_an_existing_file_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    """The refusal names the argument that overrides it; replacing narrows the mode."""
    path = tmp_path / "key.pem"
    path.write_bytes(b"old")
    path.chmod(0o644)
    with pytest.raises(KeyFileError, match="overwrite=True"):
        write_key_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert mode_of(path) == 0o644
    write_key_file(path, b"new", overwrite=True)
    assert path.read_bytes() == b"new"
    assert mode_of(path) == 0o600
    assert names(tmp_path) == ["key.pem"]


def test_overwrite_also_creates(tmp_path: Path) -> None:
    """Nothing has to be there for overwrite."""
    write_key_file(tmp_path / "key.pem", b"bytes", overwrite=True)
    assert mode_of(tmp_path / "key.pem") == 0o600


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("dangling", [False, True])
def test_a_symbolic_link_is_neither_followed_nor_replaced(tmp_path: Path, *, overwrite: bool, dangling: bool) -> None:
    """A key does not land where somebody else's link points."""
    target, link = tmp_path / "target", tmp_path / "link"
    if not dangling:
        target.write_bytes(b"old")
    link.symlink_to(target)
    with pytest.raises(KeyFileError, match="symbolic link"):
        write_key_file(link, b"new", overwrite=overwrite)
    assert link.is_symlink()
    assert target.exists() is not dangling
    assert dangling or target.read_bytes() == b"old"


def test_a_link_to_a_directory_is_followed(tmp_path: Path) -> None:
    """/etc/keys may be a link to where keys are kept."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_key_file(tmp_path / "link" / "key", b"bytes")
    assert (tmp_path / "real" / "key").read_bytes() == b"bytes"


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_cannot_be_written_says_why(tmp_path: Path, *, overwrite: bool) -> None:
    """A directory, a missing directory, a file where a directory should be, an impossible name."""
    (tmp_path / "file").touch()
    for name, says in {
        ".": "it is a directory",
        "missing/key": "No such file or directory",
        "file/key": "Not a directory",
        "n\0l": "no file name can have",
        "n" * 300: "too long",
    }.items():
        with pytest.raises(KeyFileError, match=says):
            write_key_file(tmp_path / name, b"bytes", overwrite=overwrite)
    assert names(tmp_path) == ["file"]


def test_the_longest_name_of_a_file_system_can_be_used(tmp_path: Path) -> None:
    """The temporary file beside it has a short name of its own."""
    path = tmp_path / ("n" * 255)
    write_key_file(path, b"bytes")
    assert path.read_bytes() == b"bytes"


def test_a_read_only_directory_leaves_everything_as_it_was(public_directory: Path) -> None:
    """No permission to create: an error, the old key intact, nothing left behind."""
    path = public_directory / "key.pem"
    path.write_bytes(b"old")
    public_directory.chmod(0o555)
    code = (
        "for overwrite in (False, True):\n"
        "    for name in ('key.pem', 'new.pem'):\n"
        "        try: write_key_file(Path(sys.argv[1]) / name, b'new', overwrite=overwrite)\n"
        "        except KeyFileError as error: print(error)\n"
    )
    printed = as_plain_user(code, public_directory)
    assert printed.count("cannot write the key file") == 4
    assert printed.count("Permission denied") == 3
    assert path.read_bytes() == b"old"
    assert names(public_directory) == ["key.pem"]
    public_directory.chmod(0o755)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_disk_that_runs_full_leaves_everything_as_it_was(public_directory: Path, *, overwrite: bool) -> None:
    """The write stops half-way, as it does on a full disk: the old key is intact, the half is gone."""
    public_directory.chmod(0o777)
    path = public_directory / "key.pem"
    if overwrite:
        path.write_bytes(b"old")
    code = (
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
        f"try: write_key_file(Path(sys.argv[1]), b'k' * 1000, overwrite={overwrite})\n"
        "except KeyFileError as error: print(error)\n"
    )
    assert "File too large" in as_plain_user(code, path)
    assert names(public_directory) == (["key.pem"] if overwrite else [])
    assert not overwrite or path.read_bytes() == b"old"


def no_hard_links(source: str, destination: Path) -> None:
    """What os.link does on a file system without hard links."""
    raise OSError(errno.EPERM, "Operation not permitted")


def test_a_file_system_without_hard_links_will_do(tmp_path: Path) -> None:
    """The name is claimed first, and nothing is overwritten there either."""
    path = tmp_path / "key.pem"
    write_key_file(path, b"bytes", link=no_hard_links)
    assert path.read_bytes() == b"bytes"
    assert mode_of(path) == 0o600

    def taken_meanwhile(source: str, destination: Path) -> None:
        destination.write_bytes(b"of somebody else")
        no_hard_links(source, destination)

    other = tmp_path / "other.pem"
    with pytest.raises(KeyFileError, match="exists"):
        write_key_file(other, b"bytes", link=taken_meanwhile)
    assert other.read_bytes() == b"of somebody else"
    assert names(tmp_path) == ["key.pem", "other.pem"]


def test_a_name_taken_in_the_last_moment_is_left_alone(tmp_path: Path) -> None:
    """Between the first look and the last step somebody else creates the file: theirs stays."""
    path = tmp_path / "key.pem"

    def late(source: str, destination: Path) -> None:
        destination.write_bytes(b"of somebody else")
        os.link(source, destination)

    with pytest.raises(KeyFileError, match="exists"):
        write_key_file(path, b"bytes", link=late)
    assert path.read_bytes() == b"of somebody else"
    assert names(tmp_path) == ["key.pem"]


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    """Ctrl-C in the middle: the temporary file goes, and the interrupt goes on."""

    def interrupted(source: str, destination: Path) -> None:
        assert mode_of(Path(source)) == 0o600
        assert Path(source).parent == destination.parent
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_key_file(tmp_path / "key.pem", b"bytes", link=interrupted)
    assert names(tmp_path) == []


def test_of_many_writers_one_wins(tmp_path: Path) -> None:
    """Sixteen threads create one file: one succeeds, the others are told, and its content is whole."""
    path = tmp_path / "key.pem"
    outcomes: list[bytes | None] = []
    start = threading.Barrier(16)

    def write(number: int) -> None:
        data = bytes([number]) * 5000
        start.wait()
        try:
            write_key_file(path, data)
        except KeyFileError:
            outcomes.append(None)
        else:
            outcomes.append(data)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [outcome for outcome in outcomes if outcome] == [path.read_bytes()]
    assert len(outcomes) == 16
    assert names(tmp_path) == ["key.pem"]


def test_an_endless_path_is_shown_in_short() -> None:
    """The error of a path that is a whole text by mistake has its two ends."""
    path = Path("begin" + "x" * 100_000 + "end")
    for attempt in (lambda: read_key_file(path), lambda: write_key_file(path, b"key")):
        with pytest.raises(KeyFileError, match=r"'begin.* \.\.\. .*end': ") as refused:
            attempt()
        assert len(str(refused.value)) < 500
