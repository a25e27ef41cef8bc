# SPDX-License-Identifier: Apache-2.0
"""The newest nonce of each server, kept on disk from one command to the next.

One small file for each key, origin and role, replaced at once: commands that run at the same time need
no lock and never see half a nonce. A directory of one's own (``DPOP_STATE_DIR``) or the system's place
for such state.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from dpop._files import open_regular_file, write_private_file
from dpop.client import NonceKey, Role
from dpop.encoding import check_nonce, json_object
from dpop.origin import Origin
from dpop_cli.exit_status import Status

__all__ = ["MAX_NONCES", "ROLES", "ROLE_TITLES", "KeptNonce", "NonceState", "StateError", "role_name"]

MAX_NONCES = 200
"""Servers remembered; beyond, those not heard of for longest are forgotten."""

ROLES = {"as": Role.AS, "rs": Role.RS}
"""The two roles as they are named in files and options."""

ROLE_TITLES = {Role.AS: "authorization server", Role.RS: "resource server"}
"""The two roles as people read them."""

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

    :param directory: where; made when the first nonce is learnt.
    :param clock: seconds since 1970.
    """

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.directory = directory / "nonces"
        self._clock = clock

    @classmethod
    def of_user(cls) -> NonceState:
        """The state directory of the user who runs the command.

        :raises StateError: there is no home directory to put it in.
        """
        named = os.environ.get("DPOP_STATE_DIR")
        if named:
            return cls(Path(named))
        import platformdirs  # noqa: PLC0415 - only where nonces are kept

        try:
            directory = platformdirs.user_state_path("dpop", appauthor=False)
        except RuntimeError:  # what pathlib says where no home is known
            directory = None
        # Some versions do not expand "~", which would create a directory of that name here.
        if directory is None or not directory.is_absolute():
            raise StateError("there is no home directory to keep nonces in; name a directory with DPOP_STATE_DIR")
        return cls(directory)

    def newest(self, key: NonceKey) -> str | None:
        """The last nonce learnt for this key, origin and role, if it can be read."""
        kept = self._read(self._path(key))
        return kept.nonce if kept is not None and kept.key == key else None

    def learn(self, key: NonceKey, nonce: str) -> None:
        """Keep a nonce in place of the one before.

        :raises CredentialError: it is none.
        :raises StateError: the directory cannot be written. What was there is as it was.
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
                f"the nonce cannot be kept in {click.format_filename(self.directory)}:"
                f" {error.strerror or type(error).__name__}; name a directory that can be written with DPOP_STATE_DIR"
            ) from None
        self._forget_oldest()

    def all(self) -> list[KeptNonce]:
        """Every stored nonce, the newest first. Files without a nonce are ignored.

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
            if _in_the_making(path):
                continue  # the command that writes it learns after this one, whichever started first
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
        # Not synced to disk: a nonce lost in a crash of the machine costs one round trip.
        write_private_file(self._path(key), data, durable=False)

    def _path(self, key: NonceKey) -> Path:
        """The file of a nonce: its name has a fixed length, and its content names the owner."""
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

        A nonce that cannot be read costs a round trip, no more, so it is no error.
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


def _in_the_making(path: Path) -> bool:
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
    """The short name of a role."""
    return next(name for name, value in ROLES.items() if value is role)
