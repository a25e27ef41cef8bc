# SPDX-License-Identifier: Apache-2.0
"""The logins that an agent keeps on disk: for each account its tokens, and the client to which they were issued.

The tokens are in a token store, so that a renewal loses nothing when the agent or the machine stops. What identifies
the client is in a second file, because no renewal changes it.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from dpop._client_auth import PrivateKeyJWT
from dpop._files import open_regular_file, path_from_home, sync_directory, write_private_file
from dpop.client._prover import Prover
from dpop.encoding import json_object
from dpop.errors import EncodingError, TokenFormatError, TokenStoreError, UsageError
from dpop.keys._algorithms import Key
from dpop.origin import Origin
from dpop.tokens._file_lock import FileLock
from dpop.tokens._file_store import FileTokenStore
from dpop.tokens._metadata import ServerMetadata
from dpop.tokens._source import RefreshingSource
from dpop.tokens._token_set import TokenSet

__all__ = ["AgentLogins", "KeptLogins", "Login", "Refreshed"]

Login = Mapping[str, Any]
"""What identifies the client of an account: ``client_id``, ``token_endpoint``, ``jkt`` and the like."""


class Refreshed(NamedTuple):
    """The token endpoint of a login, and its token source."""

    endpoint: Any
    source: RefreshingSource


_MAX_BYTES: Final = 1 << 20
_MAX_ACCOUNTS: Final = 256
_URLS: Final = ("token_endpoint", "revocation_endpoint")


class AgentLogins:
    """The logins of an agent, in a private folder. ``dpop login --agent`` hands a login to the agent.

    :param folder: where they are kept; made with mode 0700 for the first login. Its parent must exist, or be of the
        same user.
    :param endpoint: makes the token endpoint of a login: the class ``TokenEndpoint`` of an integration, such as
        :class:`dpop.requests.TokenEndpoint`.
    :raises UsageError: the folder's path is not absolute.
    """

    def __init__(self, folder: str | os.PathLike[str], endpoint: Callable[..., Any]) -> None:
        self.folder: Path = path_from_home(folder)
        if not self.folder.is_absolute():
            raise UsageError("the path of the folder for the agent's logins must be absolute")
        self.endpoint: Callable[..., Any] = endpoint

    def __repr__(self) -> str:
        return f"<AgentLogins in {self.folder}>"


class KeptLogins:
    """The files of the logins.

    :param logins: where they are.
    """

    def __init__(self, logins: AgentLogins) -> None:
        self.folder: Path = logins.folder
        self._endpoint = logins.endpoint
        self._file = self.folder / "clients.json"
        self.store: FileTokenStore = _AgentStore(self.folder / "tokens.json")

    def read(self) -> dict[str, Login]:
        """Read the logins, by account.

        :raises TokenStoreError: they cannot be read, or others could change them.
        """
        if not self._check_folder():
            return {}
        try:
            with open_regular_file(self._file) as file:
                data = file.read(_MAX_BYTES + 1)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise TokenStoreError(f"the agent's logins in {self._file} cannot be read: {error.strerror}") from None
        try:
            logins = json_object(data, max_depth=6)
        except EncodingError as error:
            raise TokenFormatError(f"the agent's logins in {self._file} are damaged: the file is {error}") from None
        if not all(isinstance(each, dict) for each in logins.values()):
            raise TokenFormatError(f"the agent's logins in {self._file} are damaged; log in again")
        return logins

    def keep(self, account: str, login: Login, tokens: TokenSet) -> dict[str, Login]:
        """Keep a login in place of an earlier one; return all.

        :raises TokenStoreError: it could not be kept.
        """
        self._make_folder()
        logins = self._change(lambda logins: {**logins, account: login})
        self.store.save(tokens, account)  # after its client: tokens that nobody could renew would be of no use
        return logins

    def forget(self, account: str) -> dict[str, Login]:
        """Remove a login; return those that are left.

        :raises TokenStoreError: it could not be removed.
        """
        self.store.delete(account)
        return self._change(lambda logins: {name: each for name, each in logins.items() if name != account})

    def refreshed(
        self, account: str, login: Login, prover: Prover, *, bound: bool, client_key: Key | None = None, **more: Any
    ) -> Refreshed:
        """Make the token endpoint and the token source of a login. Nothing is sent.

        :param bound: whether the access tokens are bound to the key.
        :param client_key: the key of a client that authenticates by assertions.
        :param more: settings of the endpoint.
        :raises UsageError: what identifies the client cannot be used.
        """
        named = [str(Origin.of_url(login[name])) for name in _URLS if name in login]
        server = ServerMetadata(
            **{name: login[name] for name in (*_URLS, "issuer") if name in login},
        )
        endpoint = self._endpoint(
            prover,
            server,
            client_id=login["client_id"] if client_key is None else None,
            client_secret=login.get("client_secret"),
            client_auth=login.get("client_auth") if client_key is None else _assertions(login, client_key),
            allow_bearer=None if bound else True,
            # The rules of the key name each of these servers.
            insecure_origins=[origin for origin in named if origin.startswith("http:")],
            **({"profile": login["profile"]} if "profile" in login else {}),
            **more,
        )
        asked = {name: login[name] for name in ("scope", "grant") if name in login} if "grant" in login else {}
        return Refreshed(endpoint, endpoint.source(self.store, account=account, **asked))

    def __repr__(self) -> str:
        return f"<KeptLogins in {self.folder}>"

    def _change(self, change: Callable[[dict[str, Login]], dict[str, Login]]) -> dict[str, Login]:
        try:
            with FileLock(self.folder / ".clients.lock"):
                logins = change(self.read())
                if len(logins) > _MAX_ACCOUNTS:
                    raise UsageError(f"the agent keeps {_MAX_ACCOUNTS} logins at most")
                write_private_file(self._file, json.dumps(logins, indent=1).encode("ascii"))
                sync_directory(self.folder)
        except OSError as error:
            raise TokenStoreError(f"the agent's logins in {self._file} cannot be written: {error.strerror}") from None
        return logins

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise TokenStoreError(
                f"the folder {self.folder} for the agent's logins cannot be made: {error.strerror}; name another with"
                " --logins"
            ) from None
        self._check_folder()

    def _check_folder(self) -> bool:
        """Whether the folder is there.

        :raises TokenStoreError: others could read or change what is in it.
        """
        try:
            seen = self.folder.stat()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise TokenStoreError(f"the agent's logins in {self.folder} cannot be read: {error.strerror}") from None
        if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.geteuid() or seen.st_mode & 0o077:
            raise TokenStoreError(
                f"{self.folder} must be a folder of the agent's user, with mode 0700: it holds refresh tokens;"
                f" repair: chmod 700 {self.folder}"
            )
        return True


def _assertions(login: Login, key: Key) -> PrivateKeyJWT:
    settings = dict(login.get("client_assertion", {}))
    return PrivateKeyJWT(
        login["client_id"],
        key,
        kid=settings.get("kid"),
        typ=settings.get("typ"),
        audience=settings.get("aud"),
        lifetime=settings.get("exp"),
        valid_from=settings.get("nbf"),
    )


class _AgentStore(FileTokenStore):
    """The store, without its place in messages: they go to programs of other users, too."""

    def __repr__(self) -> str:
        return "the agent"
