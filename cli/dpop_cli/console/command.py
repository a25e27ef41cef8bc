# SPDX-License-Identifier: Apache-2.0
"""The base class of all commands: short help, complete help with ``--help-all``, and errors that repeat no secret."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any

import click

from dpop_cli.console.output import TITLE, closest, may_color, width_of

__all__ = [
    "OTHER_OPTIONS",
    "Command",
    "Detail",
    "DetailSetting",
    "Group",
    "Setting",
    "context_option",
    "is_verbose",
    "verbose_option",
]

_WIDEST_HELP = 80
_NARROW = 60  # in a narrower terminal, two columns leave no room for the texts of options
_LONGEST_OPTION = 40
_ALL = "dpop_cli.help_all"
_HELP = "dpop_cli_help"  # no name of a parameter
_CONTEXT = "dpop_cli.context"
_VERBOSE = "dpop_cli.verbose"

OTHER_OPTIONS = {
    "--access-token": "--token-file",
    "--algorithm": "--alg",
    "--output": "--out",
    "--pin": "--password-prompt",
    "--private-key": "--key",
    "--secret": "--client-secret-file",
    "--server": "--issuer",
}
"""Words that people may type for options with another name."""

_ARGUMENT_OF = {"--issuer": "url", "--server": "url"}

_OPTION_OF = {
    "key_source": "a key with --key",
    "issuer": "a server with --issuer",
    "out": "a new file with --out",
    "port": "a port with --port",
}

_ALWAYS = ("NO_COLOR",)
_WITH_A_KEY = ("DPOP_STATE_DIR", "PKCS11_MODULE", "DPOP_AGENT_SOCK")
_WITH_OPTION = {"--agent": "DPOP_AGENT_SOCK", "--pkcs11": "PKCS11_MODULE"}


class Detail(click.Option):
    """An option that only ``--help-all`` shows, because most users never need it."""


class Setting(click.Option):
    """An option whose value may also come from a context of the configuration file, before the environment."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """Return the variable's value, unless the chosen context has one."""
        if self.name in (ctx.default_map or {}):
            return None
        return super().resolve_envvar_value(ctx)


class DetailSetting(Detail, Setting):
    """A :class:`Setting` that only ``--help-all`` shows."""


class _Formatter(click.HelpFormatter):
    """click's layout with bold headings, and with one column in a narrow terminal."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.width = width_of("stdout", _WIDEST_HELP) - 2

    def write_heading(self, heading: str) -> None:
        self.write(f"{'':>{self.current_indent}}{click.style(f'{heading}:', **TITLE)}\n")

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        start = len(self.buffer)
        super().write_usage(prog, args, prefix)
        first = "".join(self.buffer[start:])
        self.buffer[start:] = [re.sub(r"\A(\w+:)", lambda word: click.style(word[1], **TITLE), first)]

    def write_text(self, text: str) -> None:
        if self.width < _WIDEST_HELP - 2:
            from dpop_cli.console.folding import folded  # noqa: PLC0415 - only a narrow terminal needs it

            text = folded(text, self.width - self.current_indent)
        super().write_text(text)

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        if self.width >= _NARROW:
            super().write_dl(list(rows), col_max, col_spacing)
            return
        from dpop_cli.console.folding import folded_name  # noqa: PLC0415 - as above

        for name, text in rows:
            indent = " " * self.current_indent
            lines = folded_name(name, self.width - self.current_indent).split("\n")
            self.write("".join(f"{indent}{line}\n" for line in lines))
            self.indent()
            if text:
                self.write_text(text)
            self.dedent()


class _Context(click.Context):
    formatter_class = _Formatter

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if not may_color("stdout"):
            self.color = False


class _WithHelpAll(click.Command):
    """The base of commands and groups, with ``--help-all``."""

    context_class = _Context
    epilog_when_short: str | None = None
    _help: click.Option | None = None
    _help_all: click.Option | None = None

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """Return ``--help``: click's own has its text from gettext, which looks for translations for 1 ms."""
        if self._help is None:
            self._help = click.Option(
                [*self.get_help_option_names(ctx), _HELP],
                is_flag=True,
                expose_value=False,
                is_eager=True,
                callback=_show_help,
                help="Show this message and exit.",
            )
        return self._help

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """List the parameters, ``--help-all`` last."""
        if self._help_all is None:
            self._help_all = click.Option(
                ["--help-all"],
                is_flag=True,
                expose_value=False,
                is_eager=True,
                callback=_show_all,
                help="Show all options and the whole text.",
            )
        return [*super().get_params(ctx), self._help_all]

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the text: all of it, or the first paragraph and the examples."""
        whole = inspect.cleandoc(self.help or "")
        text = whole if ctx.meta.get(_ALL) else _shortened(whole)
        if text:
            formatter.write_paragraph()
            with formatter.indentation():
                formatter.write_text(text)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, the details only with ``--help-all``, and how many were left out."""
        everything = bool(ctx.meta.get(_ALL))
        records, left_out = [], 0
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None or isinstance(parameter, click.Argument):
                continue
            if isinstance(parameter, Detail) and not everything:
                left_out += 1
                continue
            if parameter is self._help_all:
                if everything:
                    continue
                record = (record[0], f"Show {left_out} more options." if left_out else "Show the whole text.")
                if not left_out and _shortened(whole := inspect.cleandoc(self.help or "")) == whole:
                    continue
            records.append(record)
        with formatter.section("Options"):
            formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the environment variables that this command reads."""
        super().format_epilog(ctx, formatter)
        line = _environment_line(self, ctx)
        if line and not self.epilog:
            formatter.write_paragraph()
            formatter.write_text(line)


def _show_help(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()


def _show_all(ctx: click.Context, option: click.Parameter, wanted: bool) -> None:
    if wanted:
        ctx.meta[_ALL] = True
    _show_help(ctx, option, wanted)


def _shortened(text: str) -> str:
    """Return the first paragraph of a help text, and its first examples."""
    first, *rest = re.split(r"\n\s*\n", text)
    examples = [part for part in rest if re.match(r"\x08\n(Examples|Start with)", part)]
    return "\n\n".join([first, *examples[:1]])


def _environment_line(command: click.Command, ctx: click.Context) -> str:
    """Return a line with the environment variables that a command reads; ``dpop --help`` explains them."""
    names: list[str] = []
    for parameter in command.get_params(ctx):
        variables = getattr(parameter, "envvar", None)
        names += [variables] if isinstance(variables, str) else variables or []
        names += [_WITH_OPTION[option] for option in parameter.opts if option in _WITH_OPTION]
    if "DPOP_KEY" in names:
        names += _WITH_A_KEY
    names += [*getattr(command, "variables", ()), *_ALWAYS]
    return f"Environment: {', '.join(dict.fromkeys(names))} (see dpop --help)."


class Command(_WithHelpAll):
    """A command whose errors do not repeat unexpected arguments, because one of them may be a token.

    :param variables: further environment variables that the command reads, for its help.
    """

    def __init__(self, *args: Any, variables: Iterable[str] = (), **options: Any) -> None:
        super().__init__(*args, **options)
        self.variables = tuple(variables)
        names = {parameter.name for parameter in self.params}
        if any(isinstance(parameter, Setting) for parameter in self.params):
            self.params.append(context_option())
        if "issuer" in names:  # the command sends requests to a server
            self.params.append(verbose_option())

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse like click, with our own message for too many arguments."""
        ctx.allow_extra_args = True
        try:
            rest = super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if len(error.option_name) <= _LONGEST_OPTION and error.option_name.isprintable():
                _fail_if_argument(ctx, error.option_name)
                own = {name for parameter in self.get_params(ctx) for name in parameter.opts}
                others = {word: option for word, option in OTHER_OPTIONS.items() if option in own}
                for word in closest(error.option_name, own | others.keys()):
                    ctx.fail(f"No such option {error.option_name!r}. Did you mean {others.get(word, word)!r}?")
                raise
            # It may be a key in PEM, which begins with dashes, too.
            ctx.fail("an argument begins with dashes, but is too long for an option. To give a key, name its file")
        if rest and not ctx.resilient_parsing:
            expected = " ".join(self.collect_usage_pieces(ctx)[1:])
            names = {parameter.name for parameter in self.params}
            places = [text for name, text in _OPTION_OF.items() if name in names]
            named = f" Name {', '.join(places)}." if places else ""
            secret = (
                " A token or a password is never an argument: see the options that end in -file, -env and -prompt"
                if any(name is not None and name.endswith("_prompt") for name in names)
                else ""
            )
            ctx.fail(
                f"{len(rest)} more argument{'s' * (len(rest) > 1)} than expected"
                f"{f'; expected {expected}' if expected else ''}.{named}{secret}"
            )
        return rest


def _fail_if_argument(ctx: click.Context, option: str) -> None:
    """Say that what was typed as an option is an argument, if it is one of this command: ``dpop doctor --url URL``."""
    for parameter in ctx.command.params:
        if isinstance(parameter, click.Argument) and parameter.name == _ARGUMENT_OF.get(option, option[2:]):
            named = parameter.make_metavar(ctx).strip("[]")
            usage = " ".join([ctx.command_path, *ctx.command.collect_usage_pieces(ctx)[1:]])
            ctx.fail(f"No such option {option!r}. {named} is an argument, as in: {usage}")


class Group(_WithHelpAll, click.Group):
    """A group of commands; in front of a command it accepts only the help options."""

    command_class = Command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; for an option in front of the command, say where it belongs."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if error.possibilities or not error.option_name.startswith("--"):
                raise
            ctx.fail(
                f"{ctx.command_path} itself has no such option; options come after the command, as in:"
                f" {ctx.command_path} {next(iter(self.commands))} --help"
            )

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, then the options."""
        self.format_commands(ctx, formatter)
        super().format_options(ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        """List the commands with their whole line; in a narrow terminal it is wrapped, but never cut."""
        rows = [(name, each.get_short_help_str(1000)) for name, each in self.commands.items() if not each.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def verbose_option() -> click.Option:
    """Make the option ``--verbose``, accepted before and after a command; :func:`is_verbose` tells whether it is on."""
    return click.Option(
        ["--verbose"],
        is_flag=True,
        expose_value=False,
        callback=_be_verbose,
        help="Show each request on the wire, with secrets masked.",
    )


def _be_verbose(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted:
        ctx.meta[_VERBOSE] = True


def is_verbose() -> bool:
    """Whether the running command has ``--verbose``."""
    return bool(click.get_current_context().meta.get(_VERBOSE))


def context_option() -> click.Option:
    """Make the option ``--context``; a :class:`Command` with any :class:`Setting` has it automatically."""
    return click.Option(
        ["--context", "context_name"],
        envvar="DPOP_CONTEXT",
        show_envvar=True,
        metavar="NAME",
        expose_value=False,
        is_eager=True,
        callback=_use_context,
        shell_complete=_complete_context,
        help="Use key, server, client, store and scope of this context of the configuration file.",
    )


def _use_context(ctx: click.Context, _option: click.Parameter, name: str | None) -> None:
    """Make the values of a context this command's defaults; the context may be named before or after the command."""
    if isinstance(ctx.command, click.Group):
        ctx.meta[_CONTEXT] = name  # for the command that follows, if it has any setting
        return
    chosen: str | None = name or ctx.meta.get(_CONTEXT)
    if not chosen or ctx.resilient_parsing:
        return
    from dpop_cli.console.configuration import context_named  # noqa: PLC0415 - only if a context is named

    names = {parameter.name for parameter in ctx.command.params if isinstance(parameter, Setting)}
    values = {key: value for key, value in context_named(chosen).items() if key in names}
    ctx.default_map = {**(ctx.default_map or {}), **values}


def _complete_context(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[Any]:
    from click.shell_completion import CompletionItem  # noqa: PLC0415 - only for a shell that asks

    from dpop_cli.console.configuration import context_names  # noqa: PLC0415 - as above

    return [CompletionItem(name) for name in context_names() if name.startswith(incomplete)]
