# SPDX-License-Identifier: Apache-2.0
"""The rules of the agent's keys: what each may sign, and for whom; from arguments or a TOML file.

::

    lock-after = 28800                        # seconds without a signature; then keys are forgotten

    [keys.work]
    uri = "pkcs11:token=office;object=api"    # anything that load_key opens; a path from the file's folder
    origins = ["https://api.example", "https://as.example"]
    methods = ["GET", "POST"]                 # all, if left out
    uids = [1000]                             # who may use it; the agent's own user, if none is named
    gids = [990]
    rate = 600                                # signatures a minute
    confirm = true                            # a person is asked for each
    password-file = "pin.txt"

    [keys.work.clock-offset]                  # seconds, for servers whose clock is wrong
    "https://as.example" = -30

    [keys.app]                                # authenticates a client, and signs no proofs
    uri = "app.pem"
    origins = ["https://as.example"]
    client-id = "my-app"

    [accounts.work]                           # a login; without a table, those who may use its key get its tokens
    uids = [1000]
    gids = [990]
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

from dpop._files import open_regular_file, path_from_home, toml_document
from dpop.agent._protocol import NAME
from dpop.errors import ArgumentTypeError, UsageError
from dpop.htu import check_method
from dpop.origin import Origin

__all__ = ["AgentRules", "KeyRules", "read_rules"]

_MAX_BYTES: Final = 1 << 20
_MAX_ID: Final = 2**32 - 2
_MAX_OFFSET: Final = 24 * 3600
_MEMBERS: Final = frozenset(
    {"uri", "origins", "methods", "uids", "gids", "rate", "confirm", "password-file", "clock-offset", "client-id"}
)


@dataclass(frozen=True, repr=False)
class KeyRules:
    """One key of the agent, and what it may be used for.

    :param name: by which programs ask for it: ``agent:NAME``.
    :param uri: where it is: anything that :func:`dpop.load_key` opens.
    :param origins: the servers it may sign for. At least one.
    :param methods: the request methods it may sign for; all, if there are none.
    :param uids: users that may use it. If neither users nor groups are named, that is the agent's own user.
    :param gids: groups whose members may use it.
    :param rate: signatures a minute at most, for all clients together; None for no limit.
    :param confirm: ask a person for each signature.
    :param clock_offset: seconds to add to this machine's clock, for servers whose clock is wrong.
    :param password_file: the file that holds its password or PIN.
    :param client_id: the OAuth client that the key authenticates (``private_key_jwt``). Such a key signs assertions of
        this client to its origins, and no proofs.
    :raises UsageError: a name or value that cannot be used.
    """

    name: str
    uri: str
    origins: Iterable[str | Origin]
    methods: Iterable[str] = ()
    uids: Iterable[int] = ()
    gids: Iterable[int] = ()
    rate: int | None = None
    confirm: bool = False
    clock_offset: Mapping[str | Origin, float] = field(default_factory=dict)
    password_file: Path | None = None
    client_id: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise UsageError("the name of a key is 1 to 64 letters, digits, dots, hyphens and underscores")
        if not isinstance(self.uri, str) or not self.uri or not self.uri.isprintable():
            raise UsageError("uri must be the path or URI of a key")
        if self.uri[:6].lower() == "agent:":
            raise UsageError("a key of the agent cannot be in an agent")
        origins = frozenset(map(_origin, _listed("origins", self.origins)))
        if not origins:
            raise UsageError("origins names no server, so the key could be used for none; name those that it is for")
        offsets = {_origin(origin): _offset(value) for origin, value in dict(self.clock_offset).items()}
        if not offsets.keys() <= origins:
            raise UsageError("clock-offset names an origin that is not among origins")
        if self.rate is not None and (type(self.rate) is not int or self.rate < 1):
            raise UsageError("rate must be a whole number of signatures a minute, 1 or more")
        if type(self.confirm) is not bool:
            raise UsageError("confirm must be true or false")
        self._check_client()
        checked: Mapping[str, object] = {
            "origins": origins,
            "methods": frozenset(map(check_method, _listed("methods", self.methods))),
            "uids": frozenset(map(_id, _listed("uids", self.uids))),
            "gids": frozenset(map(_id, _listed("gids", self.gids))),
            "clock_offset": offsets,
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def _check_client(self) -> None:
        if self.client_id is None:
            return
        if not isinstance(self.client_id, str) or not self.client_id or not self.client_id.isprintable():
            raise UsageError("client-id must be the identifier of an OAuth client")
        if self.methods:
            raise UsageError("a key with a client-id signs no requests, so methods do not apply to it")

    def __repr__(self) -> str:
        return f"<KeyRules {self.name}: {', '.join(sorted(map(str, self.origins)))}>"


@dataclass(frozen=True)
class AccountRules:
    """Who may have the access tokens of one account.

    :param name: of the account: ``dpop login --agent --account NAME``.
    :param uids: users that may have its tokens. If neither users nor groups are named, those who may use its key.
    :param gids: groups whose members may have its tokens.
    :raises UsageError: a name or value that cannot be used.
    """

    name: str
    uids: Iterable[int] = ()
    gids: Iterable[int] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise UsageError("the name of an account is 1 to 64 letters, digits, dots, hyphens and underscores")
        for name in ("uids", "gids"):
            object.__setattr__(self, name, frozenset(map(_id, _listed(name, getattr(self, name)))))


@dataclass(frozen=True)
class AgentRules:
    """All that a rules file says.

    :param keys: the keys.
    :param lock_after: seconds without a signature after which keys are forgotten; None for never.
    :param path: the file.
    :param digest: SHA-256 of the file, by which a change is noticed.
    :param accounts: the accounts whose tokens are for others than those who may use their key.
    """

    keys: tuple[KeyRules, ...]
    lock_after: float | None = None
    path: Path | None = None
    digest: str | None = None
    accounts: tuple[AccountRules, ...] = ()

    def on_disk(self) -> bool:
        """Whether the file is still as it was read."""
        if self.path is None:
            return True
        try:
            return hashlib.sha256(_read(self.path)).hexdigest() == self.digest
        except UsageError:
            return False


def read_rules(path: str | os.PathLike[str]) -> AgentRules:
    """Read a rules file, as a whole: one mistake in it, and none of it counts.

    :raises UsageError: it cannot be read, others could change it, it is not TOML, or something in it is not known or
        cannot be used. No value is in the message.
    """
    path = path_from_home(path).absolute()
    data = _read(path)
    try:
        members = toml_document(data)
    except ValueError as error:
        raise UsageError(f"the rules file {path} is not TOML: {error}") from None
    lock_after = members.pop("lock-after", None)
    if lock_after is not None and (type(lock_after) not in {int, float} or not lock_after > 0):
        _wrong(path, "", "lock-after must be a number of seconds")
    keys, accounts = members.pop("keys", None), members.pop("accounts", {})
    if members or not isinstance(accounts, dict):
        _wrong(path, "", "expected lock-after, tables [keys.NAME] and [accounts.NAME], and something else is there")
    if not isinstance(keys, dict) or not keys:
        _wrong(path, "", "it has no table [keys.NAME]")
    read = tuple(_key(path, name, each) for name, each in keys.items())
    named = tuple(_account(path, name, each) for name, each in accounts.items())
    return AgentRules(read, lock_after, path, hashlib.sha256(data).hexdigest(), named)


def _account(path: Path, name: str, members: Any) -> AccountRules:
    place = f"[accounts.{name}]" if NAME.fullmatch(name) else "[accounts.…]"
    if not isinstance(members, dict) or not members.keys() <= {"uids", "gids"}:
        _wrong(path, place, "expected a table of uids and gids")
    try:
        return AccountRules(name, **members)
    except UsageError as error:
        _wrong(path, place, str(error))


def _key(path: Path, name: str, members: Any) -> KeyRules:
    place = f"[keys.{name}]" if NAME.fullmatch(name) else "[keys.…]"
    if not isinstance(members, dict):
        _wrong(path, place, "expected a table")
    for member in members.keys() - _MEMBERS:
        told = member if member.isprintable() and len(member) <= 40 else "a member"
        _wrong(path, place, f"{told} is not known; expected {', '.join(sorted(_MEMBERS))}")
    for member in {"uri", "origins"} - members.keys():
        _wrong(path, place, f"{member} is missing")
    uri, password_file = members["uri"], members.get("password-file")
    for member in (uri, password_file):
        if member is not None and not isinstance(member, str):
            _wrong(path, place, "uri and password-file expect text in quotes")
    if "pin-value=" in uri or "-----BEGIN" in uri:
        _wrong(path, place, "uri holds a secret, and this file holds none; name a password-file, or be asked")
    if ":" not in uri.split("/", 1)[0][2:]:
        uri = str(path.parent / path_from_home(uri))
    try:
        return KeyRules(
            name,
            uri,
            members["origins"],
            methods=members.get("methods", ()),
            uids=members.get("uids", ()),
            gids=members.get("gids", ()),
            rate=members.get("rate"),
            confirm=members.get("confirm", False),
            clock_offset=_table(members.get("clock-offset", {})),
            password_file=None if password_file is None else path.parent / path_from_home(password_file),
            client_id=members.get("client-id"),
        )
    except UsageError as error:
        _wrong(path, place, str(error))


def _wrong(path: Path, place: str, what: str) -> NoReturn:
    raise UsageError(f"the rules file {path}{', ' * bool(place)}{place}: {what}")


def _read(path: Path) -> bytes:
    try:
        with open_regular_file(path) as file:
            seen = os.fstat(file.fileno())
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"the rules file {path} cannot be read: {error.strerror}") from None
    if len(data) > _MAX_BYTES:
        raise UsageError(f"{path} is too long for a rules file")
    for place, status in ((path, seen), (path.parent.resolve(), path.parent.stat())):
        if status.st_uid not in {0, os.geteuid()}:
            raise UsageError(f"{place} belongs to another user, who could change the agent's rules; make it your own")
        if status.st_mode & 0o022:
            raise UsageError(
                f"other users can change {place}, and with it the agent's rules; repair: chmod go-w {place}"
            )
    return data


def _listed(name: str, values: object) -> list[Any]:
    if isinstance(values, (str, Origin)) and name == "origins":
        return [values]
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise UsageError(f"{name} expects a list")
    return list(values)


def _origin(value: object) -> Origin:
    if isinstance(value, Origin):
        return value
    if not isinstance(value, str):
        raise ArgumentTypeError("an origin", "text such as https://api.example", value)
    return Origin.parse(value)


def _id(value: object) -> int:
    if type(value) is not int or not 0 <= value <= _MAX_ID:
        raise UsageError("uids and gids are numbers")
    return value


def _offset(value: object) -> float:
    if type(value) not in {int, float} or not abs(float(str(value))) <= _MAX_OFFSET:
        raise UsageError("clock-offset expects seconds, a day at most")
    return float(str(value))


def _table(value: object) -> Mapping[str | Origin, float]:
    if not isinstance(value, dict):
        raise UsageError("clock-offset expects a table of origins and seconds")
    return value
