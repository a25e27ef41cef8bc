# SPDX-License-Identifier: Apache-2.0
"""Tokens in the keyring of the operating system, by the ``keyring`` package.

::

    store = KeyringTokenStore("my-program")
    source = endpoint.source(store)

Secret Service and KWallet on Linux, Keychain on macOS, Credential Locker on Windows; the latter keeps 2,560
octets for one entry, so large tokens are spread over several. Where there is no keyring, as on most servers,
every use is an error that says so: use a :class:`dpop.tokens.FileTokenStore` there.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import keyring
import keyring.backend
import keyring.errors

from dpop._tracebacks import hide_frames
from dpop.errors import TokenFormatError, TokenStoreError, UsageError
from dpop.tokens._file_lock import FileLock
from dpop.tokens._records import read_record, write_record
from dpop.tokens._stores import DEFAULT_ACCOUNT, LockedStore, StoreLock, check_account, locked
from dpop.tokens._token_set import TokenSet

if TYPE_CHECKING:
    import os

__all__ = ["KeyringTokenStore"]

# Credential Locker keeps 2,560 octets, in UTF-16.
_PART: Final = 1_200
_MAX_PARTS: Final = 64


class KeyringTokenStore(LockedStore):
    """A :class:`dpop.tokens.TokenStore` in the operating system's keyring.

    Entries too long for one are written in parts, under names of their own, before the entry that names
    them: a write that is cut off leaves the old tokens. Processes of one user exclude each other by lock files.

    :param service: under which name the keyring shows the entries.
    :param backend: a keyring backend; the one ``keyring`` has chosen by default.
    :param lock_directory: for the lock files; by default where the system keeps a program's state.
    :raises UsageError: a service that is none.
    """

    def __init__(
        self,
        service: str = "dpop-toolkit",
        *,
        backend: keyring.backend.KeyringBackend | None = None,
        lock_directory: str | os.PathLike[str] | None = None,
    ) -> None:
        if not isinstance(service, str) or not service or not service.isprintable():
            raise UsageError("service must be a str of printable characters and not empty")
        self._service = service
        self._backend = backend
        self._directory = None if lock_directory is None else Path(lock_directory)

    def __repr__(self) -> str:
        return f"<KeyringTokenStore {self._service!r}>"

    @hide_frames
    def load(self, account: str = DEFAULT_ACCOUNT) -> TokenSet | None:
        """The tokens of an account, ``None`` if there are none.

        :raises TokenFormatError: something is there that cannot be read.
        :raises TokenStoreError: there is no keyring, or it is locked.
        """
        head = self._get(check_account(account))
        if head is None:
            return None
        where = f"the keyring entry {account!r} of {self._service!r}"
        text = ""
        for number, name in enumerate(_part_names(head, where)):
            part = self._get(name)
            if part is None or name != _PARTS + _digest(account, str(number * _PART), part):
                raise TokenFormatError(f"{where} is damaged: a part is missing or changed; authorise again")
            text += part
        return read_record(text.encode(), account, None, where)

    def delete(self, account: str = DEFAULT_ACCOUNT) -> None:
        """Remove the entries of an account, waiting for a refresh that is under way."""
        with locked(self.lock(account), account):
            head = self._get(account)
            if head is not None:
                self._delete(account)
                self._delete_parts(head)
            self._list(account, there=False)

    def accounts(self) -> list[str]:
        """The accounts there are tokens for: keyrings cannot be searched, so an entry of its own names them."""
        try:
            names = json.loads(self._get(_LIST) or "[]")
        except ValueError:
            raise TokenFormatError(f"the keyring's list of accounts of {self._service!r} is damaged") from None
        return sorted(name for name in names if isinstance(name, str))

    def lock(self, account: str) -> StoreLock:
        """A handle of the account's lock."""
        return FileLock(self._lock_file(check_account(account)))

    # -- entries

    def _write(self, tokens: TokenSet, account: str) -> None:
        record = write_record(tokens, account, None).decode("ascii").rstrip("\n")
        before = self._get(account)
        names = []
        for start in range(0, len(record), _PART):
            part = record[start : start + _PART]
            # Named by what is in it, so that no part of the tokens that are there now is overwritten.
            names.append(_PARTS + _digest(account, str(start), part))
            self._set(names[-1], part)
        if len(names) > _MAX_PARTS:
            raise TokenStoreError(f"the tokens are too long for a keyring: {len(record)} characters")
        if before is None:
            self._list(account, there=True)
        self._set(account, json.dumps(names))
        if before is not None:
            self._delete_parts(before, but=names)

    def _delete_parts(self, head: str, *, but: list[str] | None = None) -> None:
        try:
            names = set(_part_names(head, "")) - set(but or [])
        except TokenFormatError:
            return
        for name in names:
            self._delete(name)

    def _list(self, account: str, *, there: bool) -> None:
        with locked(FileLock(self._lock_file(_LIST)), _LIST):
            names = set(self.accounts())
            changed = names | {account} if there else names - {account}
            if changed != names:
                self._set(_LIST, json.dumps(sorted(changed)))

    def _lock_file(self, name: str) -> Path:
        directory = self._directory
        if directory is None:
            import platformdirs  # noqa: PLC0415 - only where it is wanted

            directory = platformdirs.user_state_path("dpop", appauthor=False) / "keyring"
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise TokenStoreError(
                f"cannot make the directory for locks {str(directory)!r}: {error.strerror}"
            ) from error
        return directory / f"{_digest(self._service, name)}.lock"

    def _get(self, name: str) -> str | None:
        value: str | None = self._ask("get_password", name)
        return value

    def _set(self, name: str, value: str) -> None:
        self._ask("set_password", name, value)

    def _delete(self, name: str) -> None:
        try:
            self._ask("delete_password", name)
        except TokenStoreError as error:
            if not isinstance(error.__cause__, keyring.errors.PasswordDeleteError):  # it was not there
                raise

    def _ask(self, method: str, *arguments: str) -> Any:
        backend: Any = keyring.get_keyring() if self._backend is None else self._backend
        try:
            return getattr(backend, method)(self._service, *arguments)
        except keyring.errors.NoKeyringError as error:
            raise TokenStoreError(
                "this machine has no keyring that can be used; keep the tokens in a FileTokenStore"
            ) from error
        except Exception as error:
            raise TokenStoreError(f"the keyring cannot be used: {type(error).__name__}") from error


# Names that no account can have: they hold a control character.
_LIST: Final = "\taccounts"
_PARTS: Final = "\tpart "


def _digest(*texts: str) -> str:
    return hashlib.sha256(json.dumps(texts).encode("ascii")).hexdigest()[:32]


def _part_names(head: str, where: str) -> list[str]:
    try:
        names = json.loads(head)
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(n, str) and n.startswith(_PARTS) for n in names):
        raise TokenFormatError(f"{where} holds no tokens of this package; it was left as it is")
    return names


def __dir__() -> list[str]:
    return sorted(__all__)
