# SPDX-License-Identifier: Apache-2.0
"""The group ``dpop``: it loads a command when the command is run, and converts all errors to an exit status.

``dpop --help`` imports no cryptography: the list of commands comes from a table, and a command's module
is imported only when that command is called.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import click

from dpop_cli.console.command import Group, context_option, verbose_option
from dpop_cli.console.exit_status import (
    BrokenInstallationError,
    broken_installation,
    pipe_kept_from_click,
    run_to_exit_status,
)
from dpop_cli.console.output import closest, width_of

__all__ = ["COMMANDS", "LazyCommand", "LazyGroup", "main"]


class LazyCommand(NamedTuple):
    """The location of a command, as ``module:attribute``, and its line in ``dpop --help``.

    The library's warnings are printed from the start, unless the command ``warns_later``: then from the loading of the
    key, and from whatever else may log.
    """

    target: str
    help: str
    warns_later: bool = False


COMMANDS: Mapping[str, LazyCommand] = {
    "key": LazyCommand("dpop_cli.commands.key.command:key", "Make a key; show it or its thumbprint."),
    "proof": LazyCommand("dpop_cli.commands.proof:proof", "Print one proof for one request.", warns_later=True),
    "headers": LazyCommand(
        "dpop_cli.commands.headers:headers", "Print the header lines of a request, for curl -H @-.", warns_later=True
    ),
    "curl": LazyCommand(
        "dpop_cli.commands.curl.command:curl", "Run curl: proof, nonce, retry, redirects.", warns_later=True
    ),
    "login": LazyCommand(
        "dpop_cli.commands.token.command:login", "Log in, and keep the tokens in a file (dpop token login)."
    ),
    "logout": LazyCommand(
        "dpop_cli.commands.token.command:revoke", "Give the tokens back to the server (dpop token revoke)."
    ),
    "tokens": LazyCommand(
        "dpop_cli.commands.token.command:list_tokens", "List the tokens in the file (dpop token list)."
    ),
    "token": LazyCommand(
        "dpop_cli.commands.token.command:token", "Commands for tokens: redeem, import, refresh, show."
    ),
    "agent": LazyCommand(
        "dpop_cli.commands.agent.command:agent", "Run the signing agent: one process signs for all programs."
    ),
    "inspect": LazyCommand(
        "dpop_cli.commands.inspect.command:inspect", "Show the content of a proof, and its mistakes."
    ),
    "sig": LazyCommand("dpop_cli.commands.sig:sig", "Convert a signature: openssl's DER to R||S, and back."),
    "nonce": LazyCommand("dpop_cli.commands.nonce:nonce", "Show, learn or forget the nonces of servers."),
    "doctor": LazyCommand("dpop_cli.commands.doctor:doctor", "Say what a server is, and which settings fit it."),
    "rehearse": LazyCommand(
        "dpop_cli.commands.rehearse.command:rehearse", "Check that your server does all that a client needs."
    ),
    "demo": LazyCommand("dpop_cli.commands.demo.command:demo", "Watch DPoP work, step by step, on this machine."),
    "playground": LazyCommand(
        "dpop_cli.commands.playground.command:playground", "Try DPoP and attacks on it, in the browser."
    ),
    "serve": LazyCommand("dpop_cli.commands.serve:serve", "Run a small authorization and resource server, for tests."),
    "completion": LazyCommand(
        "dpop_cli.commands.completion:completion", "Print a script that completes commands on Tab."
    ),
}
"""All commands, in the order of the help."""

_OTHER_NAMES = {
    "authorize": "login",
    "generate": "key generate",
    "help": "help",
    "import": "token import",
    "jkt": "key thumbprint",
    "keygen": "key generate",
    "redeem": "token redeem",
    "refresh": "token refresh",
    "refresher": "token refresher",
    "revoke": "token revoke",
    "show": "token show",
    "thumbprint": "key thumbprint",
    "verify": "inspect",
    "version": "version",
    "decode": "inspect",
}
"""Words that people may type for commands with another name, or for commands in a group."""

_TOO_LONG = 40


class LazyGroup(Group):
    """A group that knows its commands by name and help, and imports one when it is called.

    Lists, suggestions and completions use placeholders; only :meth:`resolve_command` loads a command.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, LazyCommand], **options: Any) -> None:
        super().__init__(*args, **options)
        self._lazy = lazy
        for name, command in lazy.items():
            self.add_command(click.Command(name, short_help=command.help))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; the words ``help`` and ``version`` are accepted, too, as in other programs."""
        if args[:1] == ["help"]:
            args = [*args[1:], "--help"]
        elif args == ["version"]:
            args = ["--version"]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        """List the command names in the order of the table."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is called, and import its module."""
        try:
            name, command, rest = super().resolve_command(ctx, args)
        except click.NoSuchCommand as error:
            known = args[:1] if args[0] in _OTHER_NAMES or error.possibilities else closest(args[0], _OTHER_NAMES)
            if known and known[0] in _OTHER_NAMES:
                ctx.fail(f"No such command {args[0]!r}. Did you mean 'dpop {_OTHER_NAMES[known[0]]}'?")
            if not error.possibilities and len(args[0]) > _TOO_LONG:
                ctx.fail(
                    "No such command; dpop --help lists all commands."
                )  # the word may be a secret, so it is not shown
            raise
        if name is not None and name in self._lazy:
            command = _loaded(name, self._lazy[name].target)
        return name, command, rest

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Parse the arguments; ``--help`` prints during this step."""
        with pipe_kept_from_click():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with pipe_kept_from_click():
            return super().invoke(ctx)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run; in standalone mode, exit with a documented status and never with a traceback."""

        def run() -> object:
            return click.Group.main(self, args, prog_name, complete_var, standalone_mode=False, **extra)

        if os.environ.get("_DPOP_COMPLETE") in {"bash_complete", "powershell_complete"}:
            importlib.import_module("dpop_cli.commands.completion")  # registers these two shells
        if not standalone_mode:
            return run()
        sys.exit(run_to_exit_status(run))


def _loaded(name: str, target: str) -> click.Command:
    module, _, attribute = target.partition(":")
    try:
        command: click.Command = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in {"dpop", "dpop_cli"}:
            raise  # another project's package may be in the way; run_to_exit_status explains that
        raise click.UsageError(
            f"dpop {name} needs the Python package {error.name}, which is not installed;"
            f" run: pip install 'dpop-toolkit[all]'"
        ) from None
    if "dpop" in sys.modules and (repair := broken_installation()):
        raise BrokenInstallationError(repair)
    return command


def _print_version(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - slow, and seldom wanted

    from dpop import __version__  # noqa: PLC0415 - only here

    click.echo(f"dpop-toolkit {__version__}")
    try:
        version("dpop")
    except PackageNotFoundError:
        pass
    else:
        from dpop_cli.console.output import hint  # noqa: PLC0415 - only here

        hint(
            "an unrelated project named dpop is installed, too, with the same import and command. Repair: pip uninstall"
            " dpop dpop-toolkit, then pip install dpop-toolkit"
        )
    ctx.exit()


_FIRST_STEPS = """\
dpop: OAuth tokens that are useless to a thief (DPoP, RFC 9449).

Watch it work; this needs no network:

  dpop demo

Then try it yourself, with a test server in another terminal:

  dpop serve

All commands: dpop --help"""


_EPILOG = """\
Exit status: 0 success, 1 refused or a bad proof, 2 wrong usage, 3 an error with a key, PIN or file, 70 a bug, 130
Ctrl-C, 141 closed pipe.

\b
Environment:
  DPOP_KEY          the key, if --key is not given
  DPOP_TOKEN_STORE  the file with the tokens
  DPOP_CLIENT       the JSON file that describes the client
  DPOP_CONTEXT      the context of the configuration file
  DPOP_STATE_DIR    the directory with the nonces
  DPOP_AGENT_SOCK   the socket of the signing agent
  PKCS11_MODULE     the driver of a TPM, smart card or HSM
  BROWSER, NO_COLOR as in other programs"""


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EPILOG,
)
@click.option(
    "--version",
    "-V",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Show the version and exit.",
)
@click.pass_context
def main(ctx: click.Context) -> None:
    """DPoP (RFC 9449) at the command line: OAuth tokens, useless without a key.

    \b
    Start with one of:
      dpop demo                        see how DPoP works
      dpop key generate                make a key, key.pem
      dpop curl --key key.pem URL      run curl with a proof
      dpop inspect PROOF               see what is wrong with a proof

    A key is named by a path or a URI (--key, or DPOP_KEY). A secret is never an argument: tokens and
    passwords come from a file, standard input, an environment variable or a prompt.

    A configuration file can hold the settings that you use often, in contexts; --context NAME or DPOP_CONTEXT
    chooses a context. Options on the command line come before a context, and a context before environment
    variables. Only you may be able to write the file. It contains no secrets:

    \b
      [contexts.work]                  in config.toml
      issuer = "https://as.example"    or client = "client.json"
      client-id = "app"
      key = "key.pem"                  a URI, or a path from the file's folder
      store = "tokens.json"
      scope = ["read", "write"]
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    if ctx.invoked_subcommand is None:
        click.echo(click.wrap_text(_FIRST_STEPS, width_of("stdout", 80), preserve_paragraphs=True))
    elif not COMMANDS[ctx.invoked_subcommand].warns_later:
        from dpop_cli.console.output import show_warnings  # noqa: PLC0415 - logging is slow to load

        show_warnings()


main.params += [context_option(), verbose_option()]
