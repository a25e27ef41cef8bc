# SPDX-License-Identifier: Apache-2.0
"""Token store in the keyring of the operating system, by the ``keyring`` package.

::

    store = KeyringTokenStore("my-program")
    source = endpoint.source(store)

The keyring is Secret Service or KWallet on Linux, Keychain on macOS and Credential Locker on Windows. Credential Locker
stores 2,560 bytes per entry, so large tokens are spread over several entries. Most servers have no keyring: there every
use raises an error that says so, and a :class:`dpop.tokens.FileTokenStore` is the right store.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dpop._extras import extra
from dpop._tracebacks import hide_frames
from dpop.errors import TokenFormatError, TokenStoreError, UsageError
from dpop.tokens._file_lock import FileLock
from dpop.tokens._records import read_record, write_record
from dpop.tokens._stores import DEFAULT_ACCOUNT, LockedStore, StoreLock, check_account, locked
from dpop.tokens._token_set import TokenSet

with extra("keyring"):
    import keyring
    import keyring.backend
    import keyring.errors

if TYPE_CHECKING:
    import os

__all__ = ["KeyringTokenStore"]

_log: Final = logging.getLogger("dpop.tokens")

# Characters per entry: Credential Locker stores 2,560 bytes, in UTF-16.
_PART_LENGTH: Final = 1_200
_MAX_PARTS: Final = 64
_SLOTS: Final = (0, 1)
_READ_ATTEMPTS: Final = 50
_ATTEMPT_SECONDS: Final = 0.01


class KeyringTokenStore(LockedStore):
    """A :class:`dpop.tokens.TokenStore` in the operating system's keyring.

    Tokens are written in parts into one of two slots; then the head entry is changed to name that slot. An interrupted
    write therefore leaves the old tokens. Parts are written from the first to the last and removed from the last to
    the first. So the parts that a killed process left are numbered without a gap, and the next write or ``delete()``
    finds and removes them. Processes of one user exclude each other by lock files.

    :param service: the name under which the keyring shows the entries.
    :param backend: a keyring backend; the one ``keyring`` has chosen by default.
    :param lock_directory: the directory of the lock files; by default the one where the system keeps programs' state.
    :raises UsageError: ``service`` cannot be a name.
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
        """Return the tokens of an account, or ``None`` if there are none.

        :raises TokenFormatError: the entries cannot be read.
        :raises TokenStoreError: there is no keyring, or it is locked.
        """
        where = f"the keyring entry {check_account(account)!r} of {self._service!r}"
        for _ in range(_READ_ATTEMPTS):
            head = self._get(account)
            if head is None:
                return None
            slot, count, digest = _read_head(head, where)
            parts = [self._get(_part(account, slot, number)) for number in range(count)]
            text = "".join(part for part in parts if part is not None)
            if None not in parts and _digest(text) == digest:
                return read_record(text.encode(), account, None, where)
            if self._get(account) == head:
                raise TokenFormatError(f"{where} is damaged: a part is missing or changed; authorise again")
            # Another process has written meanwhile: read the slot that the head entry names now.
            time.sleep(_ATTEMPT_SECONDS)
        raise TokenStoreError(f"{where} is being changed all the time; try again")

    def delete(self, account: str = DEFAULT_ACCOUNT) -> None:
        """Remove the entries of an account, after waiting for a refresh in progress."""
        with locked(self.lock(account), account):
            if self._get(account) is not None:
                self._delete(account)
            for slot in _SLOTS:
                self._sweep(account, slot)
            self._list(account, has_tokens=False)

    def accounts(self) -> list[str]:
        """Return the accounts that have tokens, from an index entry, because keyrings cannot be searched.

        :raises TokenFormatError: the index cannot be read.
        :raises TokenStoreError: there is no keyring, or it is locked.
        """
        names = _read_json(self._get(_LIST) or "[]")
        if not isinstance(names, list):
            raise TokenFormatError(
                f"the keyring's list of accounts of {self._service!r} is damaged; the tokens of each account can still"
                " be loaded by its name, and the next account that is saved or deleted begins a new list"
            )
        return sorted(name for name in names if isinstance(name, str))

    def lock(self, account: str) -> StoreLock:
        """Return a new handle of the account's lock."""
        return FileLock(self._lock_file(check_account(account)))

    # -- entries

    def _write(self, tokens: TokenSet, account: str) -> None:
        record = write_record(tokens, account, None).decode("ascii").rstrip("\n")
        parts = [record[start : start + _PART_LENGTH] for start in range(0, len(record), _PART_LENGTH)]
        if len(parts) > _MAX_PARTS:
            raise TokenStoreError(f"the tokens are too long for a keyring: {len(record)} characters")
        before = self._get(account)
        slot = 1 - _slot_of(before)
        self._sweep(account, slot)  # a killed process may have left parts
        for number, part in enumerate(parts):
            self._set(_part(account, slot, number), part)
        if before is None:
            self._list(account, has_tokens=True)
        self._set(account, json.dumps({"slot": slot, "parts": len(parts), "digest": _digest(record)}))
        self._sweep(account, 1 - slot)

    def _sweep(self, account: str, slot: int) -> None:
        """Remove all parts of a slot."""
        count = 0
        while self._get(_part(account, slot, count)) is not None:
            count += 1
        for number in reversed(range(count)):
            self._delete(_part(account, slot, number))

    def _list(self, account: str, *, has_tokens: bool) -> None:
        with locked(FileLock(self._lock_file(_LIST)), _LIST):
            before: set[str] | None = None
            try:
                before = set(self.accounts())
            except TokenFormatError as error:  # the tokens of a login must not be lost for a list of names
                _log.warning("%s", error)
            names = before or set()
            changed = names | {account} if has_tokens else names - {account}
            if changed != before:
                self._set(_LIST, json.dumps(sorted(changed)))

    def _lock_file(self, name: str) -> Path:
        directory = self._directory
        if directory is None:
            import platformdirs  # noqa: PLC0415 - not needed if lock_directory is given

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
            raise TokenStoreError("this machine has no usable keyring; keep the tokens in a FileTokenStore") from error
        except Exception as error:
            raise TokenStoreError(f"the keyring cannot be used: {type(error).__name__}") from error


# No account can have these names: they contain a control character.
_LIST: Final = "\taccounts"
_PARTS: Final = "\tpart "


def _digest(*texts: str) -> str:
    return hashlib.sha256(json.dumps(texts).encode("ascii")).hexdigest()[:32]


def _part(account: str, slot: int, number: int) -> str:
    """The name of the keyring entry for one part."""
    return f"{_PARTS}{_digest(account)} {slot} {number}"


def _read_json(text: str) -> Any:
    """Read an entry, which may be a stranger's; ``None`` if it is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _read_head(head: str, where: str) -> tuple[int, int, str]:
    """Read the head entry: the slot, the number of parts and their digest."""
    facts = _read_json(head)
    try:
        slot, count, digest = facts["slot"], facts["parts"], facts["digest"]
    except (TypeError, KeyError):
        slot = count = digest = None
    if slot not in _SLOTS or not isinstance(count, int) or not 0 < count <= _MAX_PARTS or not isinstance(digest, str):
        raise TokenFormatError(f"{where} contains no tokens of this package; it was left unchanged")
    return slot, count, digest


def _slot_of(head: str | None) -> int:
    """Return the slot that the head entry names; 0 without a head."""
    try:
        return _read_head(head or "", "")[0]
    except TokenFormatError:
        return 0


def __dir__() -> list[str]:
    return sorted(__all__)
