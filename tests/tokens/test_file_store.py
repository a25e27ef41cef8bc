# SPDX-License-Identifier: Apache-2.0
"""The store in files: whole, private, encrypted if asked to, and what happens when the disk says no."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.token_stores import FULL, StoreContract

from dpop.errors import TokenFormatError, TokenStoreError, UsageError
from dpop.tokens import FileTokenStore, TokenSet, TokenStore, _file_lock, _file_store
from dpop.tokens._file_lock import FileLock
from dpop.tokens._stores import keep, take_kept

KEY = bytes(range(32))
WRITTEN_BY_0_2_0 = (
    '{"dpop_tokens":1,"account":"default","sealed":{"alg":"A256GCM","salt":"8jtA-use4kCu8oTE-84WFA",'
    '"nonce":"xe81JylryNFaf8ky","octets":"oS5twxzTPZ4D3Hs18tmvwmPLk45fc_be5F4tLpcVG3l9G3XB88npWKQJDVlGa4XYLQIKzyTYlqK3'
    'z0uvJQI"}}'
)


class TestFileTokenStore(StoreContract):
    """What every store does."""

    @pytest.fixture
    def make(self, tmp_path: Path) -> Callable[[], TokenStore]:
        """Stores over the same files."""
        return lambda: FileTokenStore(tmp_path / "tokens.json")


class TestEncryptedFileTokenStore(StoreContract):
    """The same with encryption."""

    @pytest.fixture
    def make(self, tmp_path: Path) -> Callable[[], TokenStore]:
        """Stores over the same files, with the same key."""
        return lambda: FileTokenStore(tmp_path / "tokens.json", key=KEY)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the tokens go."""
    return tmp_path / "tokens.json"


@pytest.mark.parametrize("umask", [0, 0o777])
def test_files_are_private(path: Path, umask: int) -> None:
    """Tokens and lock have mode 0600, whatever the umask, also when a wider file is replaced."""
    before = os.umask(umask)
    try:
        path.write_text("{}")
        path.chmod(0o666)
        FileTokenStore(path).save(FULL)
    finally:
        os.umask(before)
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    assert sorted(file.name for file in path.parent.iterdir()) == [".tokens.json.lock", "tokens.json"]


def test_a_link_is_followed(path: Path, tmp_path: Path) -> None:
    """A link to a file elsewhere stays one."""
    (tmp_path / "elsewhere").mkdir()
    path.symlink_to(tmp_path / "elsewhere" / "t.json")
    FileTokenStore(path).save(FULL)
    assert path.is_symlink()
    assert FileTokenStore(path).load() == FULL


def test_encrypted_files_hold_nothing_readable(path: Path) -> None:
    """Neither tokens nor scopes nor client stand in the file; key and password open it again."""
    FileTokenStore(path, key=KEY).save(FULL)
    assert b"secret" not in path.read_bytes()
    assert b"client" not in path.read_bytes()
    assert FileTokenStore(path, key=KEY).load() == FULL
    other = FileTokenStore(path.with_name("other.json"), password="correct horse")
    other.save(FULL)
    other.save(FULL, "alice")
    again = FileTokenStore(path.with_name("other.json"), password=b"correct horse")
    assert again.load() == again.load("alice") == FULL


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "is encrypted"),
        ({"key": bytes(32)}, "does not open"),
        ({"password": "a password"}, "with a key"),
    ],
)
def test_another_key_does_not_open(path: Path, options: dict[str, bytes], match: str) -> None:
    """No key, another key, a password instead."""
    FileTokenStore(path, key=KEY).save(FULL)
    with pytest.raises(TokenFormatError, match=match):
        FileTokenStore(path, **options).load()  # type: ignore[arg-type]


def test_files_of_earlier_releases_open(path: Path) -> None:
    """How a key is made of a password, and what is encrypted, stays: this file was written by release 0.2.0."""
    path.write_text(WRITTEN_BY_0_2_0)
    assert FileTokenStore(path, password="8 bytes.").load() == TokenSet(access_token="a token")


def test_a_plain_file_is_not_taken_for_an_encrypted_one(path: Path) -> None:
    """Who can write files cannot slip tokens in; another account's file cannot be put in place either."""
    FileTokenStore(path).save(FULL)
    with pytest.raises(TokenFormatError, match="not encrypted"):
        FileTokenStore(path, key=KEY).load()
    store = FileTokenStore(path, key=KEY)
    store.save(FULL, "mallory")
    sealed = json.loads((path.parent / "tokens.mallory.json").read_text())
    path.write_text(json.dumps({**sealed, "account": "default"}))
    with pytest.raises(TokenFormatError, match="does not open"):
        store.load()


def test_another_stores_file_is_not_taken(path: Path) -> None:
    """``tokens.work.json`` may be a store of its own: then account ``work`` of ``tokens.json`` is not listed there."""
    other = FileTokenStore(path.with_name("tokens.work.json"))
    other.save(FULL)
    store = FileTokenStore(path)
    assert store.accounts() == []
    with pytest.raises(TokenStoreError, match="another store"):
        store.save(FULL, "work")
    assert other.load() == FULL


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "is empty"),
        (b"\0" * 400, "is empty"),
        (b"{", "cut off or damaged"),
        (b'{"dpop_tokens":1,"account":"default","tokens":{"access_tok', "cut off or damaged"),
        (b'{"dpop_tokens":1}{"dpop_tokens":1}', "cut off or damaged"),
        (b"\xff\xfe\x00", "cut off or damaged"),
        (b'{"dpop_tokens":2,"account":"default"}', "newer"),
        (b'{"dpop_tokens":true,"account":"default"}', "no tokens of this package"),
        (b'{"access_token":"a"}', "no tokens of this package"),
        (b'{"dpop_tokens":1,"account":"alice","tokens":{"access_token":"a"}}', "another account"),
        (b'{"dpop_tokens":1,"account":"default"}', "no access_token"),
        (b'{"dpop_tokens":1,"account":"default","tokens":{"access_token":5}}', "wrong type"),
        (b'{"dpop_tokens":1,"account":"default","tokens":[]}', "no access_token"),
        (b"x" * 4_000_001, "too large"),
    ],
)
def test_what_is_no_store_is_recognised(path: Path, data: bytes, match: str) -> None:
    """Half-written, of another version, something else: an error that says so, and the file stays as it is."""
    path.write_bytes(data)
    store = FileTokenStore(path)
    with pytest.raises(TokenFormatError, match=match):
        store.load()
    with pytest.raises(TokenFormatError):
        store.replace(None, FULL, "default")
    assert path.read_bytes() == data
    if "another account" not in match:
        store.save(FULL)
        assert store.load() == FULL


@pytest.mark.parametrize("written_as", ["utf-8-sig", "utf-16"])
def test_a_file_that_an_editor_has_marked_is_read(path: Path, written_as: str) -> None:
    """Some editors put a byte order mark before what they save, and PowerShell writes UTF-16."""
    store = FileTokenStore(path)
    store.save(FULL)
    path.write_bytes(path.read_text("utf-8").encode(written_as))
    assert store.load() == FULL
    assert store.accounts() == ["default"]
    store.save(FULL.replace(access_token="another"))
    assert store.load() == FULL.replace(access_token="another")


def test_every_half_of_a_file_is_recognised(path: Path) -> None:
    """However much of a file is there, it is all of it or an error."""
    store = FileTokenStore(path)
    store.save(FULL)
    whole = path.read_bytes()
    for length in range(len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(TokenFormatError):
            store.load()


@pytest.mark.parametrize(
    "make",
    [
        lambda: FileTokenStore(""),
        lambda: FileTokenStore(7),  # type: ignore[arg-type]
        lambda: FileTokenStore("/"),
        lambda: FileTokenStore("a\0b"),
        lambda: FileTokenStore("t", key=b"short"),
        lambda: FileTokenStore("t", key=KEY, password="both of them"),
        lambda: FileTokenStore("t", password="short"),
        lambda: FileTokenStore("t").save("token"),  # type: ignore[arg-type]
    ],
    ids=["empty", "number", "root", "NUL", "short key", "both", "short password", "no set"],
)
def test_what_cannot_be_used(make: Callable[[], object]) -> None:
    """Paths, keys and tokens that are none."""
    with pytest.raises(UsageError):
        make()


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    """Nothing to load, and an error to save."""
    store = FileTokenStore(tmp_path / "no" / "tokens.json")
    assert store.load() is None
    with pytest.raises(TokenStoreError, match="lock"):
        store.save(FULL)
    (tmp_path / "tokens.json").mkdir()
    with pytest.raises(TokenStoreError):
        FileTokenStore(tmp_path / "tokens.json").load()
    with pytest.raises(TokenStoreError):
        FileTokenStore(tmp_path / "tokens.json").save(FULL)


@pytest.mark.parametrize(
    "clear", [lambda store: store.save(FULL), lambda store: store.delete()], ids=["save", "delete"]
)
def test_what_a_killed_writer_left_is_cleared_away(path: Path, clear: Callable[[FileTokenStore], object]) -> None:
    """A temporary file with tokens in it goes with the next write, or a delete; other accounts' and strangers' stay."""
    strangers = [".tokens.json.json.1.tmp", ".tokens.bob.json.1.tmp", "tokens.json.bak"]
    for name in strangers:
        (path.parent / name).write_text("x")
    dying = "from pathlib import Path\nPath.replace = lambda *_: os._exit(0)\n"
    code = f"import os, sys\nfrom dpop.tokens import FileTokenStore, TokenSet\n{dying}"
    code += "FileTokenStore(sys.argv[1]).save(TokenSet(access_token='new'))"
    store = FileTokenStore(path)
    for number in (1, 2):
        subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=60)
        found = [file.name for file in path.parent.glob(".tokens.json.*.tmp") if file.name not in strangers]
        assert found == [f".tokens.json.{number}.tmp"]  # another name: its first writer might still live
    clear(store)
    store.save(FULL)
    assert sorted(file.name for file in path.parent.iterdir()) == sorted(
        [*strangers, ".tokens.json.lock", "tokens.json"]
    )


def test_saving_does_not_look_through_the_directory(path: Path) -> None:
    """A save takes as long with a hundred thousand accounts as with one."""
    code = (
        "import sys\nfrom dpop.tokens import FileTokenStore, TokenSet\nstore = FileTokenStore(sys.argv[1])\n"
        "seen = []\nsys.addaudithook(lambda event, _: seen.append(event))\n"
        "for account in ('default', 'alice', 'Bob ' * 50):\n"
        "    store.save(TokenSet(access_token='a'), account), store.load(account), store.delete(account)\n"
        "print({'os.listdir', 'os.scandir', 'glob.glob'} & set(seen))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "set()\n"


def run(code: str, path: Path) -> str:
    """Run code in a process of its own, as another user than root; what it printed."""
    begin = (
        "import os, resource, sys\nfrom dpop.tokens import FileTokenStore, TokenSet\nfrom dpop.errors import *\n"
        "if os.geteuid() == 0:\n    os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "store = FileTokenStore(sys.argv[1])\nnew = TokenSet(access_token='new')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", begin + code, str(path)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A path in a directory that every user may write to, which those of pytest are not."""
    with tempfile.TemporaryDirectory(prefix="dpop-") as name:
        directory = Path(name)
        directory.chmod(0o777)
        yield directory / "tokens.json"
        directory.chmod(0o777)


@pytest.mark.parametrize("data", [0, 1, 40, 60])
def test_a_disk_that_is_full(open_path: Path, data: int) -> None:
    """A write that stops after so many bytes changes nothing, and says so; no rest of it lies about."""
    said = run(
        "store.save(TokenSet(access_token='old'))\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({data}, {data}))\n"
        "try:\n    store.save(new)\nexcept TokenStoreError as error:\n    print(error.__cause__.errno)\n"
        "print(store.load().access_token, sorted(os.listdir(os.path.dirname(sys.argv[1]))))\n",
        open_path,
    )
    assert said.split("\n") == ["27", "old ['.tokens.json.lock', 'tokens.json']", ""]


def test_a_directory_that_cannot_be_written(open_path: Path) -> None:
    """Read-only: what is there can be loaded, and neither locked nor replaced."""
    run("store.save(TokenSet(access_token='old'))", open_path)
    lock = open_path.with_name(".tokens.json.lock")
    open_path.parent.chmod(0o555)
    said = run(
        "try:\n    store.replace(store.load(), new, 'default')\nexcept TokenStoreError as error:\n    print(error)\n"
        "print(store.load().access_token)\n",
        open_path,
    )
    assert "Permission denied; the stored tokens are unchanged\nold" in said
    open_path.parent.chmod(0o777)
    lock.unlink()
    open_path.parent.chmod(0o555)
    said = run("try:\n    store.save(new)\nexcept TokenStoreError as error:\n    print(error)\n", open_path)
    assert "cannot open the lock" in said


@pytest.mark.parametrize("name", ["nonce", "octets", "salt"])
@pytest.mark.parametrize("value", [7, None, ["a"], "!"])
def test_a_sealed_record_with_members_that_are_no_text(path: Path, name: str, value: object) -> None:
    """A number where base64url should be is a damaged file, not a mistake of the caller."""
    store = FileTokenStore(path, password="correct horse")
    store.save(FULL)
    record = json.loads(path.read_text())
    record["sealed"][name] = value
    path.write_text(json.dumps(record))
    with pytest.raises(TokenFormatError):
        store.load()


class Stale:
    """A function of NFS that says ESTALE the first times that it is called."""

    def __init__(self, function: Callable[..., Any], times: int) -> None:
        self.function, self.left = function, times

    def __call__(self, *arguments: Any) -> Any:
        if self.left > 0:
            self.left -= 1
            raise OSError(errno.ESTALE, "Stale file handle")
        return self.function(*arguments)


def test_files_that_another_host_replaces(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On NFS an open file is gone then: tokens are read again, and the lock is tried again."""
    store = FileTokenStore(path)
    store.save(FULL)
    monkeypatch.setattr(_file_store, "open_regular_file", Stale(_file_store.open_regular_file, 2))
    assert store.load() == FULL
    monkeypatch.setattr(_file_store, "open_regular_file", Stale(_file_store.open_regular_file, 10))
    with pytest.raises(TokenStoreError, match="Stale file handle"):
        store.load()
    lock = FileLock(path.with_name("lock"))
    monkeypatch.setattr(_file_lock, "_lock", Stale(_file_lock._lock, 2))
    assert lock.acquire(60)
    assert lock.is_held()
    lock.release()


def test_a_kept_lock_that_is_lost_is_let_go(path: Path) -> None:
    """Somebody deleted the file of a lock that was kept: the handle gives back what it still has of it."""
    store = FileTokenStore(path)
    lock = store.lock("default")
    assert lock.acquire(0)
    aside = path.with_name("aside")
    file = path.with_name(f".{path.name}.lock")
    aside.hardlink_to(file)
    keep(lock)
    file.unlink()
    assert take_kept(store.lock("default")) is None
    with aside.open() as again:
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
@pytest.mark.parametrize("kept", [True, False])
def test_a_further_member_of_a_response_costs_no_tokens(
    key: bytes | None, kept: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A certificate beside the tokens is no key file; what could not be read again is left out, with a warning."""
    further: list[dict[str, Any]] = [{"ca": "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"}]
    if not kept:
        deep: Any = 1
        for _ in range(30):
            deep = [deep]
        further = [{"a": float("nan")}, {"a": deep}, {"\ud800": 1}, {"a": object()}, {"a": "x" * 5_000_000}]
    store = FileTokenStore(tmp_path / "tokens.json", key=key)
    for extra in further:
        caplog.clear()
        tokens = FULL.replace(extra=extra)
        store.save(tokens)
        assert store.load() == (tokens if kept else FULL.replace(extra={}))
        assert len(caplog.records) == (0 if kept else 1)
