# SPDX-License-Identifier: Apache-2.0
"""The newest nonce of each server, stored on disk from one command to the next.

There is one small file for each key, origin and role. A file is replaced atomically, so commands that run at the same
time need no lock and never read half a nonce. The directory is ``DPOP_STATE_DIR``, or the system's place for state.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from dpop._files import open_regular_file, write_private_file
from dpop.client import NonceKey, Role
from dpop.encoding import check_nonce, json_object
from dpop.origin import Origin
from dpop_cli.console.exit_status import Status

__all__ = ["MAX_NONCES", "ROLES", "ROLE_TITLES", "KeptNonce", "NonceState", "StateError", "role_name"]

MAX_NONCES = 200
"""How many servers are remembered; beyond, the ones with the oldest nonces are forgotten."""

ROLES = {"as": Role.AS, "rs": Role.RS}
"""The names of the two roles in files and options."""

ROLE_TITLES = {Role.AS: "authorization server", Role.RS: "resource server"}
"""The names of the two roles for people."""

_MAX_BYTES = 16_384
_STALE_SECONDS = 60


class StateError(click.ClickException):
    """The state directory cannot be read or written."""

    exit_code = Status.TROUBLE


class KeptNonce(NamedTuple):
    """A stored nonce, its owner, and the time it was learnt in seconds since 1970."""

    key: NonceKey
    nonce: str
    learnt: int

    def __repr__(self) -> str:
        return f"<KeptNonce of {self.key.origin}>"


class NonceState:
    """The nonces in one directory.

    :param directory: the state directory; it is created for the first nonce.
    :param clock: seconds since 1970.
    """

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.directory = directory / "nonces"
        self._clock = clock

    @classmethod
    def of_user(cls) -> NonceState:
        """Return the state of the user who runs the command.

        :raises StateError: there is no home directory to put it in.
        """
        named = os.environ.get("DPOP_STATE_DIR")
        if named:
            return cls(Path(named))
        try:
            directory = _state_of_user()
        except RuntimeError:  # pathlib knows no home directory
            directory = None
        # Some versions do not expand "~"; that would create a directory named ~ here.
        if directory is None or not directory.is_absolute():
            raise StateError("there is no home directory to store nonces in; name a directory with DPOP_STATE_DIR")
        return cls(directory)

    def newest(self, key: NonceKey) -> str | None:
        """Return the last nonce learnt for this key, origin and role, if it can be read."""
        kept = self._read(self._path(key))
        return kept.nonce if kept is not None and kept.key == key else None

    def learn(self, key: NonceKey, nonce: str) -> None:
        """Store a nonce in place of the earlier one.

        :raises CredentialError: ``nonce`` is not a valid nonce.
        :raises StateError: the directory cannot be written; the earlier nonce is unchanged.
        """
        content = {
            "jkt": key.jkt,
            "origin": str(key.origin),
            "role": role_name(key.role),
            "nonce": check_nonce(nonce),
            "learnt": int(self._clock()),
        }
        data = json.dumps(content).encode("ascii")
        try:
            try:
                self._put(key, data)
            except FileNotFoundError:
                # Another command cleared the directory meanwhile.
                self._put(key, data)
        except OSError as error:
            raise StateError(
                f"the nonce cannot be stored in {click.format_filename(self.directory)}:"
                f" {error.strerror or type(error).__name__}; name a writable directory with DPOP_STATE_DIR"
            ) from None
        self._forget_oldest()

    def all(self) -> list[KeptNonce]:
        """Return all stored nonces, the newest first. Files without a nonce are ignored.

        :raises StateError: the directory cannot be read.
        """
        kept = (self._read(path) for path in self._files())
        return sorted((entry for entry in kept if entry is not None), key=lambda entry: -entry.learnt)

    def forget(self, *, jkt: str | None = None, origin: Origin | None = None) -> int:
        """Delete the nonces of this key and origin, by default all nonces; return how many.

        :raises StateError: a file cannot be deleted.
        """
        count = 0
        for path in self._files():
            if _is_being_written(path):
                continue  # another command is still writing this nonce
            kept = self._read(path)
            if kept is None:
                # A file left by a crash belongs to no key, so only a forget of everything deletes it.
                matches = jkt is None and origin is None
            else:
                matches = jkt in {None, kept.key.jkt} and origin in {None, kept.key.origin}
            if matches:
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    raise self._trouble("changed", error) from None
                count += kept is not None
        return count

    def _put(self, key: NonceKey, data: bytes) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Not synced to disk: if the machine crashes, a lost nonce costs only one round trip.
        write_private_file(self._path(key), data, durable=False)

    def _path(self, key: NonceKey) -> Path:
        """Return the file of a nonce; its name has a fixed length, and its content names the owner."""
        text = f"{key.jkt} {key.origin} {role_name(key.role)}"
        return self.directory / f"{hashlib.sha256(text.encode('ascii')).hexdigest()[:32]}.json"

    def _files(self) -> list[Path]:
        try:
            return [path for path in self.directory.iterdir() if path.name.endswith((".json", ".tmp"))]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._trouble("read", error) from None

    def _trouble(self, done: str, error: OSError) -> StateError:
        return StateError(
            f"the nonces in {click.format_filename(self.directory)} cannot be {done}:"
            f" {error.strerror or type(error).__name__}"
        )

    def _read(self, path: Path) -> KeptNonce | None:
        """Read the nonce in a file; None if the file is missing or invalid.

        A nonce that cannot be read costs only a round trip, so it is not an error.
        """
        try:
            with open_regular_file(path) as file:
                members = json_object(file.read(_MAX_BYTES))
            return _kept(members)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _forget_oldest(self) -> None:
        """Delete the oldest files beyond the limit. Two commands may do so at once."""
        with contextlib.suppress(OSError, StateError):
            files = self._files()
            if len(files) <= MAX_NONCES:
                return
            by_age = sorted(_with_times(files), reverse=True)
            for _, path in by_age[MAX_NONCES:]:
                path.unlink(missing_ok=True)


def _state_of_user() -> Path:
    """The system's place for state: that of platformdirs, whose import takes a tenth of the time of a command.

    :raises RuntimeError: the user has no home directory.
    """
    if sys.platform == "linux":  # XDG Base Directory Specification: a path that is not absolute is ignored
        named = Path(os.environ.get("XDG_STATE_HOME", "").strip())
        return (named if named.is_absolute() else Path("~/.local/state").expanduser()) / "dpop"
    import platformdirs  # noqa: PLC0415 - see above

    return platformdirs.user_state_path("dpop", appauthor=False)


def _is_being_written(path: Path) -> bool:
    """Whether another command may be writing the file now."""
    try:
        return path.suffix == ".tmp" and time.time() - path.stat().st_mtime < _STALE_SECONDS
    except OSError:
        return True


def _with_times(files: list[Path]) -> Iterator[tuple[float, Path]]:
    for path in files:
        with contextlib.suppress(OSError):
            yield path.stat().st_mtime, path


def _kept(members: dict[str, Any]) -> KeptNonce:
    key = NonceKey(str(members["jkt"]), Origin.parse(members["origin"]), ROLES[members["role"]])
    return KeptNonce(key, check_nonce(members["nonce"]), int(members["learnt"]))


def role_name(role: Role | None) -> str:
    """Return the short name of a role."""
    return next(name for name, value in ROLES.items() if value is role)
