# SPDX-License-Identifier: Apache-2.0
"""Options of the OAuth client: who it is, which server it talks to, and the file that keeps its tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dpop.errors import InvalidTargetError, UsageError
from dpop.origin import Origin
from dpop.profiles import NAMES, Profile
from dpop_cli.console.command import Detail, DetailSetting, Setting
from dpop_cli.console.output import file_names
from dpop_cli.console.secret_input import secret_options
from dpop_cli.signing.options import allow_http_option

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    _TextType = click.ParamType[str, str]
else:
    _TextType = click.ParamType  # in click 8.4 it has one parameter, not two

__all__ = ["ProfileName", "client_options", "server_options", "store_options"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


class _ServerUrl(_TextType):
    """The absolute URL of a server."""

    name = "url"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Take an absolute http or https URL; the message does not repeat another value, but names the option."""
        try:
            Origin.of_url(value)
        except InvalidTargetError as error:
            self.fail(str(error), param, ctx)
        return value


class ProfileName(_TextType):
    """A profile: one of :data:`dpop.profiles.NAMES`, or the path of a TOML file."""

    name = "profile"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:  # noqa: ARG002 - click's
        """Show it as a name or a file."""
        return "NAME|FILE"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Take the name or path of a profile that can be read."""
        try:
            Profile.load(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Let the shell complete names, and files."""
        from click.shell_completion import CompletionItem as Item  # noqa: PLC0415 - only for a shell that asks

        named: list[CompletionItem] = [Item(name) for name in NAMES if name.startswith(incomplete)]
        return named or file_names(ctx, param, incomplete)


def client_options(command: _Function) -> _Function:
    """Add the client options that a refresh needs, besides the store; ``OAuthClient.of`` takes them out again."""
    options = [
        click.option(
            "--client",
            "client_file",
            cls=Setting,
            envvar="DPOP_CLIENT",
            show_envvar=True,
            metavar="FILE",
            shell_complete=file_names,
            help="JSON with client_id, client_secret, and issuer or endpoints, or Google's client_secret.json.",
        ),
        secret_options("client-secret", "the client's secret", detail=True),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def server_options(command: _Function) -> _Function:
    """Add the client and server options that are needed as long as there are no tokens."""
    options = [
        click.option(
            "--issuer",
            cls=Setting,
            type=_ServerUrl(),
            metavar="URL",
            help="The server's issuer URL; its metadata names the endpoints.",
        ),
        click.option(
            "--token-endpoint",
            cls=DetailSetting,
            type=_ServerUrl(),
            metavar="URL",
            help="The token endpoint, if the server has no metadata.",
        ),
        click.option("--client-id", cls=Setting, metavar="ID", help="The client's identifier, instead of the file's."),
        click.option(
            "--client-key",
            cls=Detail,
            metavar="KEY",
            shell_complete=file_names,
            help="Path or URI of the key of the client's assertions (private_key_jwt), not of the proofs.",
        ),
        secret_options("client-key-password", "the password of that key, or the PIN of its device", detail=True),
        click.option(
            "--client-claim",
            "client_claims",
            cls=Detail,
            multiple=True,
            metavar="NAME=VALUE",
            help="A claim of those assertions, such as aud; may be repeated. exp and nbf are seconds from now; kid and"
            " typ go into the header.",
        ),
        click.option(
            "--client-certificate",
            cls=Detail,
            metavar="FILE",
            shell_complete=file_names,
            help="PEM file with the client's certificate (tls_client_auth), with its key if the file contains it.",
        ),
        click.option(
            "--client-certificate-key",
            cls=Detail,
            metavar="FILE",
            shell_complete=file_names,
            help="PEM file with the key of that certificate.",
        ),
        click.option("--profile", cls=Setting, type=ProfileName(), help="The kind of server."),
        client_options,
        allow_http_option,
    ]
    for option in reversed(options):
        command = option(command)
    return command


def store_options(*, default: str | None = None, argument: bool = False) -> Callable[[_Function], _Function]:
    """Add the token file and the account in it; ``Stored.of`` takes the options out again.

    :param argument: whether the file may also be an argument.
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
                help="The file with the tokens, which dpop token login writes.",
            ),
            click.option(
                "--account",
                cls=DetailSetting,
                metavar="NAME",
                help="The account, if the store has tokens of several.",
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
