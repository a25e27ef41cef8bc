# SPDX-License-Identifier: Apache-2.0
"""Secrets from a file, standard input, an environment variable or a prompt; never from an argument.

No message here repeats the value of an option: somebody may have given a token in place of a file's name, and the
message may be logged.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

from dpop_cli.console.command import Detail
from dpop_cli.console.output import file_names

__all__ = ["Secret", "can_ask", "claim_stdin", "read_bytes", "read_text", "secret_options"]

_MAX_BYTES = 1 << 20
_STDIN_TAKEN = "dpop_cli.stdin"

_Function = TypeVar("_Function", bound=Callable[..., Any])


def read_bytes(source: str, option: str, *, limit: int = _MAX_BYTES) -> bytes:
    """Read a file, or standard input for ``-``, which only one option can name.

    :param option: the option that names the source, for messages.
    :param limit: the maximal number of bytes, 1 MiB by default.
    :raises click.UsageError: the file does not exist, is a directory or too long, or standard input is already in use.
    """
    if source == "-":
        claim_stdin(option)
        if sys.stdin is None:
            raise click.UsageError(f"{option} - reads standard input, but that is closed")
        data = sys.stdin.buffer.read(limit + 1)
    else:
        try:
            with Path(source).open("rb") as file:
                data = file.read(limit + 1)
        except (OSError, ValueError) as error:
            why = (getattr(error, "strerror", None) or "not a file name").lower()
            raise click.UsageError(
                f"{option} expects the name of a file, or - for standard input; that file cannot be read: {why}"
            ) from None
    if len(data) > limit:
        raise click.UsageError(f"{option} names a file with more than {limit} bytes; is it the right file?")
    return data


def claim_stdin(option: str) -> None:
    """Reserve standard input for one option of this command.

    :raises click.UsageError: another option has it.
    """
    taken_by: str = click.get_current_context().meta.setdefault(_STDIN_TAKEN, option)
    if taken_by != option:
        raise click.UsageError(f"{taken_by} and {option} both name standard input; give one of them a file")


def read_text(source: str, option: str, *, limit: int = _MAX_BYTES) -> str:
    """Read a file or standard input as text: UTF-8, or UTF-16 with a byte order mark, as Windows PowerShell writes it.

    :raises click.UsageError: as for :func:`read_bytes`, or the text is in another encoding.
    """
    data = read_bytes(source, option, limit=limit)
    encoding = "utf-16" if data[:2] in {b"\xff\xfe", b"\xfe\xff"} else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        raise click.UsageError(f"{option} names a file that is not text in UTF-8") from None


class Secret(NamedTuple):
    """The options for one secret, at most one of them used: ``--NAME-file``, ``--NAME-env``, ``--NAME-prompt``."""

    name: str
    file: str | None
    env: str | None
    prompt: bool

    def __repr__(self) -> str:
        return f"<Secret {self.name}>"

    @classmethod
    def of(cls, name: str, options: dict[str, Any]) -> Secret:
        """Take this secret's options out of a command's options.

        :raises click.UsageError: several of them are given.
        """
        stem = name.replace("-", "_")
        secret = cls(name, options.pop(f"{stem}_file"), options.pop(f"{stem}_env"), options.pop(f"{stem}_prompt"))
        if sum((secret.file is not None, secret.env is not None, secret.prompt)) > 1:
            raise click.UsageError(f"give one of --{name}-file, --{name}-env and --{name}-prompt, not several")
        return secret

    @property
    def given(self) -> bool:
        """Whether any of the three options was used."""
        return self.file is not None or self.env is not None or self.prompt

    def read(self, question: str, *, confirm: bool = False) -> str | None:
        """Read the secret, without its line end; ``None`` if none of the three options was used.

        :param question: the text of the prompt.
        :param confirm: ask twice, for a new password.
        :raises click.UsageError: the secret is empty or missing, or there is no terminal to ask at.
        """
        if self.file is not None:
            text, where = read_text(self.file, f"--{self.name}-file"), f"the file of --{self.name}-file"
        elif self.env is not None:
            where = f"the environment variable of --{self.name}-env"
            value = os.environ.get(self.env)
            if value is None:
                stem = self.name.replace("-", "_")
                raise click.UsageError(
                    f"--{self.name}-env expects the name of an environment variable, such as DPOP_{stem.upper()};"
                    " no variable of that name is set and exported"
                )
            text = value
        elif self.prompt:
            return self.ask(question, confirm=confirm)
        else:
            return None
        text = text.rstrip("\r\n")
        if not text:
            raise click.UsageError(f"{where} is empty; expected the {self.name.replace('-', ' ')}")
        return text

    def ask(self, question: str, *, confirm: bool = False, what: str | None = None) -> str:
        """Ask at the terminal, without echo.

        :param what: the name of the secret in messages, if it differs from the options' name.
        :raises click.UsageError: there is no terminal.
        """
        if not can_ask():
            raise click.UsageError(
                f"there is no terminal to ask for the {what or self.name} at;"
                f" use --{self.name}-file or --{self.name}-env"
            )
        try:
            entered: str = click.prompt(question, hide_input=True, confirmation_prompt=confirm, err=True)
        except UnicodeDecodeError:
            raise click.UsageError(
                f"what was typed is not text in {sys.getfilesystemencoding()}; is the terminal set to another encoding?"
                f" --{self.name}-file takes UTF-8"
            ) from None
        return entered


def can_ask() -> bool:
    """Whether a person can be asked: at standard input or, if that is a pipe, at the terminal."""
    if sys.stdin is not None and sys.stdin.isatty():
        return True
    try:
        os.close(os.open("CONIN$" if os.name == "nt" else "/dev/tty", os.O_RDWR))
    except OSError:
        return False
    return True


def secret_options(name: str, what: str, *, detail: bool = False) -> Callable[[_Function], _Function]:
    """Add the three options of one secret to a command; :meth:`Secret.of` takes them out again.

    :param detail: leave ``--NAME-file``, too, out of the short help.
    """

    def decorate(command: _Function) -> _Function:
        command = click.option(f"--{name}-prompt", cls=Detail, is_flag=True, help=f"Ask for {what}.")(command)
        command = click.option(
            f"--{name}-env", cls=Detail, metavar="VAR", help=f"The environment variable with {what}."
        )(command)
        return click.option(
            f"--{name}-file",
            cls=Detail if detail else click.Option,
            metavar="FILE",
            shell_complete=file_names,
            help=f"The file with {what}; - is standard input.",
        )(command)

    return decorate
