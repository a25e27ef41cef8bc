# SPDX-License-Identifier: Apache-2.0
"""The token file that commands share: its options, its tokens, and a place for tokens that it cannot store."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from dpop import tokens as dpop_tokens
from dpop.errors import (
    DPoPError,
    InvalidTokenResponseError,
    ReauthorizationError,
    TokensNotSavedError,
    TokenStoreError,
)
from dpop_cli.console.output import hint
from dpop_cli.console.secret_input import Secret

if TYPE_CHECKING:
    from dpop.tokens import FileTokenStore, RefreshingSource, TokenSet

__all__ = ["Stored", "rescued"]

_ROOM = 16_384  # bytes; tokens need fewer
_THEN = "make room, and move that file to the store's place"
_REFUSED = (
    "they must not be used as they are, but their refresh token may be the only valid one; if you trust the server"
)
_REFUSED += ", move that file to the store's place"


@dataclass(frozen=True, slots=True)
class Stored:
    """One account in a token file."""

    store: FileTokenStore
    account: str

    @classmethod
    def of(cls, options: dict[str, Any]) -> Stored | None:
        """Take the options of ``store_options`` out of a command's; ``None`` if no file is named.

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
        return cls(
            dpop_tokens.FileTokenStore(path, password=secret.read("Password of the store")),
            account or dpop_tokens.DEFAULT_ACCOUNT,
        )

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

        :raises TokenStoreError: the account has no tokens, or the file cannot be read.
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
        """Check that tokens can be stored, before the user is asked to agree or a refresh token is used up.

        :raises TokenStoreError: they cannot be stored.
        """
        path = self.store.path
        with dpop_tokens.locked(self.store.lock(self.account), self.account) as lock:
            trial = Path(str(lock.name)).with_suffix(".try")  # nobody else has it while the lock is held
            try:
                if path.is_dir():
                    raise IsADirectoryError(errno.EISDIR, "it is a directory; name a file in it")
                trial.unlink(missing_ok=True)
                try:
                    with trial.open("xb") as file:
                        file.write(bytes(_ROOM))
                        file.flush()
                        os.fsync(file.fileno())
                finally:
                    trial.unlink(missing_ok=True)
            except OSError as error:
                raise TokenStoreError(
                    f"cannot write the token file {str(path)!r}: {error.strerror}; nothing was sent"
                ) from error

    def keep(self, tokens: TokenSet) -> None:
        """Store new tokens; if that fails, keep them in a file elsewhere and say where."""
        try:
            self.store.save(tokens, self.account)
        except TokenStoreError as error:
            raise rescued(error, tokens, self.account) from error

    def keep_result(self, refresh: Callable[[], TokenSet]) -> TokenSet:
        """Store the tokens that a refresh with a refresh token from elsewhere brings, also if the command is ended.

        The refresh token is used up when it is sent. So after Ctrl-C or SIGTERM the response is waited for; the second
        such signal ends the wait.

        :param refresh: sends the refresh and returns the new tokens.
        """
        from concurrent.futures import Future, wait  # noqa: PLC0415 - most commands need no thread

        result: Future[TokenSet] = Future()

        def carry_out() -> None:
            try:
                with self.rescuing():
                    tokens = refresh()
                self.keep(tokens)
            except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
                result.set_exception(error)
            else:
                result.set_result(tokens)

        threading.Thread(target=carry_out, name="dpop-refresh", daemon=True).start()
        try:
            return result.result()
        except (KeyboardInterrupt, SystemExit):
            with contextlib.suppress(OSError):  # the terminal may be gone
                hint("the refresh token was sent, so its response is waited for; a second signal ends this at once")
            wait([result])
            raise

    @contextlib.contextmanager
    def rescuing(self) -> Iterator[None]:
        """If received tokens could not be stored, write them to another file: this process has the only copy."""
        try:
            yield
        except TokensNotSavedError as error:
            raise rescued(error, error.tokens, self.account) from error
        except (InvalidTokenResponseError, ReauthorizationError) as error:
            if error.tokens is not None and error.tokens.refresh_token:
                rescued(error, error.tokens, self.account, then=_REFUSED)
            raise

    def renewed(self, source: RefreshingSource, before: TokenSet) -> TokenSet:
        """Refresh the tokens even if they have not expired."""
        with self.rescuing():
            return source.ensure(lambda tokens: tokens.fingerprint != before.fingerprint)


def rescued(error: DPoPError, tokens: TokenSet, account: str, *, then: str | None = None) -> DPoPError:
    """Write the tokens to a file in a new temporary directory, say where, and return the error to raise.

    :param then: what the user can do with the file, whose name replaces ``{}``.
    """
    try:
        path = Path(tempfile.mkdtemp(prefix="dpop-tokens-")) / "tokens.json"
        dpop_tokens.FileTokenStore(path).save(tokens, account)
    except (OSError, TokenStoreError):
        return TokenStoreError(f"{error}. They could not be kept elsewhere either, and are lost: log in again")
    name = click.format_filename(path)
    hint(f"the tokens are in {name}: {(then or _THEN).format(name)}")
    return TokenStoreError(str(error))
