# SPDX-License-Identifier: Apache-2.0
"""Token store in files: one private file per account, written atomically.

New tokens are written to a temporary file and synced to the disk; only then that file gets the final name. So whenever
the process or the machine stops, the store has either the old tokens or the new ones.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

from dpop._files import open_regular_file, path_from_home, sync_directory, without_mark, write_private_file
from dpop._tracebacks import hide_frames
from dpop.encoding import json_object
from dpop.errors import TokenFormatError, TokenStoreError, UsageError
from dpop.tokens._file_lock import FileLock
from dpop.tokens._records import MAX_RECORD, Sealer, read_record, write_record
from dpop.tokens._stores import DEFAULT_ACCOUNT, LockedStore, StoreLock, check_account, locked
from dpop.tokens._token_set import TokenSet

__all__ = ["FileTokenStore"]

_PLAIN: Final = re.compile(r"[a-z0-9_@+-][a-z0-9_@+.-]*\Z")
_LONGEST: Final = 150


class FileTokenStore(LockedStore):
    """Stores the default account in ``path``, and account ``alice`` in ``tokens.alice.json`` in the same directory.

    Several processes may use it at once. Each file has a lock file, which is never removed.

    :param path: the path of the file; ``~`` is replaced. Its directory must exist. A symbolic link is followed.
    :param key: 32 random bytes that encrypt the files; do not store them in the same place.
    :param password: a password that encrypts the files, instead of ``key``.
    :raises UsageError: the path, key or password is invalid.
    """

    @hide_frames
    def __init__(
        self, path: str | os.PathLike[str], *, key: bytes | None = None, password: str | bytes | None = None
    ) -> None:
        if not isinstance(path, str | os.PathLike) or not os.fspath(path):
            raise UsageError("the path of the token file must be a str or path object, and not empty")
        try:
            self._path: Path = Path(os.path.realpath(path_from_home(path)))
        except ValueError:
            raise UsageError("the path of the token file holds characters no file name can have") from None
        if not self._path.name:
            raise UsageError(f"the path of the token file is {str(self._path)!r}, a directory; name a file in it")
        self._sealer = None if key is None and password is None else Sealer(key, password=password)

    def __repr__(self) -> str:
        return f"<FileTokenStore {str(self._path)!r}{', encrypted' if self._sealer else ''}>"

    @property
    def path(self) -> Path:
        """The file of the default account."""
        return self._path

    @hide_frames
    def load(self, account: str = DEFAULT_ACCOUNT) -> TokenSet | None:
        """Return the tokens of an account, or ``None`` if there is no file.

        :raises TokenFormatError: the file is damaged, of another version, or sealed with another key.
        :raises TokenStoreError: the file cannot be read.
        """
        path = self._file(account)
        try:
            data = _content(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise TokenStoreError(f"cannot read the token file {str(path)!r}: {error.strerror}") from error
        if len(data) > MAX_RECORD:
            raise TokenFormatError(f"the token file {str(path)!r} is too large for tokens")
        return read_record(data, account, self._sealer, f"the token file {str(path)!r}")

    def delete(self, account: str = DEFAULT_ACCOUNT) -> None:
        """Remove the file of an account, after waiting for a refresh in progress."""
        path = self._file(account)
        with locked(self.lock(account), account):
            try:
                _clear_temporary(path)
                path.unlink(missing_ok=True)
                sync_directory(path.parent)
            except OSError as error:
                raise TokenStoreError(f"cannot remove the token file {str(path)!r}: {error.strerror}") from error

    def accounts(self) -> list[str]:
        """Return the accounts that have a file; its content is not checked."""
        found = [DEFAULT_ACCOUNT] if self._path.exists() else []
        before, after = f"{self._path.stem}.", self._path.suffix
        for path in self._path.parent.glob(f"{_literal(before)}*{_literal(after)}"):
            middle = path.name.removeprefix(before).removesuffix(after)
            inside = _account_in(path)
            account = inside if middle.startswith("%%") else unquote(middle)
            # If the file names another account, it belongs to another store with a similar path.
            if account and inside in {None, account} and path != self._path and self._file(account) == path:
                found.append(account)
        return sorted(found)

    def lock(self, account: str) -> StoreLock:
        """Return a new handle of the account's lock."""
        path = self._file(account)
        return FileLock(path.with_name(f".{path.name}.lock"))

    def _file(self, account: str) -> Path:
        """Return the file of an account: a different one for each account, also on case-insensitive file systems."""
        if check_account(account) == DEFAULT_ACCOUNT:
            return self._path
        name = account if _PLAIN.match(account) else "".join(_escaped(character) for character in account)
        if len(name) > _LONGEST:
            name = "%%" + hashlib.sha256(account.encode()).hexdigest()
        return self._path.with_name(f"{self._path.stem}.{name}{self._path.suffix}")

    def _write(self, tokens: TokenSet, account: str) -> None:
        path = self._file(account)
        inside = _account_in(path)
        if inside not in {None, account}:
            raise TokenStoreError(
                f"the token file {str(path)!r} contains the tokens of account {inside!r} of another store; keep the two"
                " in different directories"
            )
        data = write_record(tokens, account, self._sealer)
        try:
            write_private_file(path, data, prefix=f".{path.name}.", names=_clear_temporary(path))
            sync_directory(path.parent)
        except OSError as error:
            raise TokenStoreError(
                f"cannot write the token file {str(path)!r}: {error.strerror}; the stored tokens are unchanged"
            ) from error


def _content(path: Path, tries: int = 5) -> bytes:
    """Read a file; again if another host has replaced it meanwhile, which NFS says by ESTALE.

    :raises OSError: it cannot be read.
    """
    try:
        with open_regular_file(path) as file:
            return file.read(MAX_RECORD + 1)
    except OSError as error:
        if error.errno != errno.ESTALE or tries <= 1:
            raise
    return _content(path, tries - 1)


def _clear_temporary(path: Path) -> list[Path]:
    """Remove what a killed process left of this file; return the names that a new temporary file may have.

    The caller holds the lock, so nobody else writes. But the lock's file may have been deleted meanwhile: then a name
    that was found is not used again, for the other process must not publish our file while it is incomplete. Two names
    are enough for that, and need no look at the directory, which may have a hundred thousand files.
    """
    names = [path.with_name(f".{path.name}.{number}.tmp") for number in (1, 2)]
    unused = []
    for name in names:
        try:
            name.unlink()
        except FileNotFoundError:
            unused.append(name)
        except OSError:
            pass  # it may be another user's, and new tokens matter more
    return unused


def _account_in(path: Path) -> str | None:
    """Return the account that a file names; ``None`` if there is no file, or no readable account in it."""
    try:
        with open_regular_file(path) as file:
            account = json_object(without_mark(file.read(MAX_RECORD + 1)), max_depth=24).get("account")
    except (OSError, ValueError):
        return None
    return account if isinstance(account, str) and account else None


def _escaped(character: str) -> str:
    """Percent-encode a character of a name; capital letters are encoded, too."""
    if _PLAIN.match(character) or character == ".":
        return quote(character, safe="@+") if character != "." else "%2E"
    return "".join(f"%{byte:02X}" for byte in character.encode())


def _literal(text: str) -> str:
    """Escape a name for a glob pattern."""
    return re.sub(r"([\[\]*?])", r"[\1]", text)
