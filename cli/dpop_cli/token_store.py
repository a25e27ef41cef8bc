# SPDX-License-Identifier: Apache-2.0
"""The token file that commands share: its options, its tokens, and a place for tokens that it cannot store."""

from __future__ import annotations

import contextlib
import shlex
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from dpop.errors import DPoPError, TokenError, TokensNotSavedError, TokenStoreError
from dpop.tokens import DEFAULT_ACCOUNT, FileTokenStore, RefreshingSource, TokenSet, locked
from dpop_cli.commands import DetailSetting, Setting
from dpop_cli.console import file_names, hint
from dpop_cli.secret_input import Secret, secret_options

__all__ = ["Stored", "store_options"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def store_options(*, default: str | None = None, argument: bool = False) -> Callable[[_Function], _Function]:
    """Add the token file and the account in it; :meth:`Stored.of` takes the options out again.

    :param argument: the file may be an argument too.
    """

    def decorate(command: _Function) -> _Function:
        options = [
            click.option(
                "--token-store",
                "--store",
                "store_path",
                cls=Setting,
                default=default,
                show_default=default is not None,
                envvar="DPOP_TOKEN_STORE",
                show_envvar=True,
                metavar="FILE",
                shell_complete=file_names,
                help="File that keeps the tokens, which dpop token login writes.",
            ),
            click.option(
                "--account",
                cls=DetailSetting,
                metavar="NAME",
                help="Whose tokens, where the store has those of several.",
            ),
            secret_options("store-password", "the password that encrypts the store", detail=True),
        ]
        if argument:
            options.append(
                click.argument("store_argument", metavar="[STORE]", required=False, shell_complete=file_names)
            )
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@dataclass(frozen=True, slots=True)
class Stored:
    """One account in a token file."""

    store: FileTokenStore
    account: str

    @classmethod
    def of(cls, options: dict[str, Any]) -> Stored | None:
        """Take the options of :func:`store_options` out of a command's options; ``None`` if no file is named.

        :raises click.UsageError: an account or password without a store.
        """
        path, account = options.pop("store_path"), options.pop("account")
        argument = options.pop("store_argument", None)
        if argument is not None:
            if click.get_current_context().get_parameter_source("store_path") is ParameterSource.COMMANDLINE:
                raise click.UsageError("name the store once: by --token-store or as the argument")
            path = argument
        secret = Secret.of("store-password", options)
        if path is None:
            if account is not None or secret.given:
                raise click.UsageError("--account and --store-password-... belong to a token store, and none is named")
            return None
        return cls(FileTokenStore(path, password=secret.read("Password of the store")), account or DEFAULT_ACCOUNT)

    @classmethod
    def named(cls, options: dict[str, Any]) -> Stored:
        """Take the options out as :meth:`of` does, for commands that always have a file.

        :raises click.UsageError: the file's name is empty.
        """
        stored = cls.of(options)
        if stored is None:
            raise click.UsageError("which store? use --token-store tokens.json")
        return stored

    @property
    def as_typed(self) -> str:
        """The file's name as a person would type it in the working directory."""
        path = Path(self.store.path)
        with contextlib.suppress(ValueError):
            path = path.relative_to(Path.cwd())
        return shlex.quote(click.format_filename(path))

    def tokens(self) -> TokenSet:
        """The stored tokens.

        :raises TokenStoreError: nothing, or it cannot be read.
        """
        tokens = self.store.load(self.account)
        if tokens is None:
            others = [name for name in self.store.accounts() if name != self.account]
            also = f" It has those of {', '.join(map(repr, others[:5]))}: name one with --account." if others else ""
            raise TokenStoreError(
                f"there are no tokens of account {self.account!r} in {click.format_filename(self.store.path)};"
                f" dpop token login gets some.{also}"
            )
        return tokens

    def check_writable(self) -> None:
        """Check that tokens can be stored, before the user is asked to agree.

        :raises TokenStoreError: they could not.
        """
        with locked(self.store.lock(self.account), self.account):
            pass

    def keep(self, tokens: TokenSet) -> None:
        """Store new tokens; if that fails, keep them in a file elsewhere and say where."""
        try:
            self.store.save(tokens, self.account)
        except TokenStoreError as error:
            raise _rescued(error, tokens, self.account) from error

    @contextlib.contextmanager
    def rescuing(self) -> Iterator[None]:
        """On exit, keep tokens that a source received and could not store: this process has the only copy."""
        try:
            yield
        except TokensNotSavedError as error:
            raise _rescued(error, error.tokens, self.account) from error

    def renewed(self, source: RefreshingSource, before: TokenSet) -> TokenSet:
        """Renew the tokens even if they have not expired."""
        with self.rescuing():
            return source.ensure(lambda tokens: tokens.fingerprint != before.fingerprint)


def _rescued(error: TokenError, tokens: TokenSet, account: str) -> DPoPError:
    """Write the tokens to a new directory elsewhere, possibly on a disk that has room."""
    try:
        path = Path(tempfile.mkdtemp(prefix="dpop-tokens-")) / "tokens.json"
        FileTokenStore(path).save(tokens, account)
    except (OSError, TokenStoreError):
        return TokenStoreError(f"{error}. They could not be kept elsewhere either, and are lost: log in again")
    hint(f"the tokens are in {click.format_filename(path)}: make room, and move that file to the store's place")
    return TokenStoreError(str(error))
