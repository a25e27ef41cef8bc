# SPDX-License-Identifier: Apache-2.0
"""``dpop agent``: run the signing agent, and speak to it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dpop.agent import AgentClient, agent_socket
from dpop.errors import KeyPasswordError
from dpop_cli.commands.agent.run import AgentOptions, run_agent, run_in_background
from dpop_cli.console.command import Detail, Group
from dpop_cli.console.output import done, file_names, hint
from dpop_cli.console.secret_input import Secret, secret_options
from dpop_cli.signing.options import check_key_source
from dpop_cli.tokens.view import moment

__all__ = ["agent"]

_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,63})=(.+)", re.DOTALL)
_UNLOCK_SECONDS = 120.0
_STATES = {
    "dead": "LOG IN AGAIN: dpop login --agent",
    "failing": "cannot be refreshed at the moment",
    "unreadable": "CANNOT BE READ",
}


def _socket_option(command: Any) -> Any:
    return click.option(
        "--socket",
        "socket_path",
        envvar="DPOP_AGENT_SOCK",
        show_envvar=True,
        metavar="PATH",
        shell_complete=file_names,
        help="The agent's socket; by default in the user's run-time folder.",
    )(command)


def _agent_options(command: Any) -> Any:
    options: list[Callable[[Any], Any]] = [
        click.option(
            "--key",
            "-k",
            "keys",
            multiple=True,
            metavar="NAME=PATH|URI",
            help="A key, and the name that programs give it.",
        ),
        click.option(
            "--origin", "origins", multiple=True, metavar="NAME=URL", help="A server that the key may sign for."
        ),
        click.option(
            "--rules",
            metavar="FILE",
            shell_complete=file_names,
            help="A TOML file of keys and rules; SIGHUP reads it again.",
        ),
        _socket_option,
        click.option(
            "--lock-after",
            type=click.FloatRange(min=1),
            metavar="SECONDS",
            help="Forget the keys after this long without use.",
        ),
        click.option(
            "--audit",
            metavar="FILE",
            shell_complete=file_names,
            help="Where to record each signature: a file, stderr, syslog or none.",
        ),
        click.option(
            "--logins",
            cls=Detail,
            metavar="FOLDER",
            shell_complete=file_names,
            help="Where the agent keeps the tokens of dpop login --agent; by default in your state folder.",
        ),
        click.option("--socket-group", cls=Detail, metavar="GROUP", help="Let the members of this group connect, too."),
        secret_options("password", "the password or PIN of the keys that need one", detail=True),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.group(cls=Group, invoke_without_command=True)
@_agent_options
@click.pass_context
def agent(ctx: click.Context, /, **options: Any) -> None:
    """Hold keys in one process, which signs the proofs of all programs, until Ctrl-C or SIGTERM.

    Programs name such a key with --key agent:NAME, DPOP_KEY=agent:NAME or load_key("agent:NAME"). They have neither
    the key nor its password. The agent signs only proofs, only with the current time, and only for the servers that
    --origin names.

    \b
    Examples:
      dpop agent start --key work=key.pem --origin work=https://api.example
      dpop curl --key agent:work https://api.example/me
      dpop agent status
      dpop agent stop

    Without a command it runs in the foreground, as systemd expects, and uses a socket that systemd passes. It asks
    for passwords and PINs once, at the terminal or with the program in DPOP_ASKPASS or SSH_ASKPASS. It records each
    signature as a line of JSON on standard error, or where --audit says.
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    if ctx.invoked_subcommand is None:
        run_agent(_read_options(options))
    elif any(ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE for name in options):
        ctx.fail(f"options come after the command, as in: dpop agent {ctx.invoked_subcommand} --help")


@agent.command()
@_agent_options
@click.option("--json", "as_json", is_flag=True, help="Print its process and socket as JSON.")
def start(*, as_json: bool, **options: Any) -> None:
    """Open the keys, and run the agent in the background.

    \b
    Examples:
      dpop agent start --key work=key.pem --origin work=https://api.example
      dpop agent start --rules agent.toml --lock-after 28800
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    chosen = _read_options(options)
    pid = run_in_background(chosen)
    path = chosen.path or agent_socket()
    if as_json:
        click.echo(json.dumps({"pid": pid, "socket": str(path)}))
        return
    done(f"The agent runs as process {pid} and listens at {click.format_filename(path)}.")
    if path != agent_socket():
        hint(f"let programs find it: export DPOP_AGENT_SOCK={click.format_filename(path)}")


@agent.command()
@_socket_option
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def status(*, socket_path: str | None, as_json: bool) -> None:
    """Show the state of the agent: its keys, its accounts, and whether its rules file has changed."""
    told = _asked(socket_path, "status")
    if as_json:
        click.echo(json.dumps(told, indent=2))
        return
    click.echo(f"Agent: process {told['pid']}, since {moment(told['started'])}{', locked' * told['locked']}")
    click.echo(f"Signed: {told['signed']}; refused: {told['refused']}; connections: {told['connections']}")
    rules = told["rules"]
    if rules["file"] is not None:
        state = "in force" if rules["in_force"] else "CHANGED SINCE THE AGENT READ IT; run: dpop agent reload"
        click.echo(f"Rules: {rules['file']}, {state}")
    if rules["problem"] is not None:
        click.echo(f"The last reload changed nothing: {rules['problem']}")
    _show_keys(told["keys"])
    _show_accounts(told["accounts"])


@agent.command("list")
@_socket_option
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON, with their public keys.")
def list_(*, socket_path: str | None, as_json: bool) -> None:
    """List the keys that you may use, with their servers, and your accounts."""
    told = _asked(socket_path, "list")
    if as_json:
        click.echo(json.dumps(told["keys"], indent=2))
        return
    _show_keys(told["keys"])
    _show_accounts(told["accounts"])


@agent.command()
@click.argument("key", metavar="NAME=PATH|URI")
@click.option("--origin", "origins", multiple=True, required=True, metavar="URL", help="A server it may sign for.")
@_socket_option
@secret_options("password", "its password or PIN", detail=True)
def add(*, key: str, origins: tuple[str, ...], socket_path: str | None, **options: Any) -> None:
    """Add a key to the running agent. If the agent has the key already, its rules do not change.

    \b
    Example:
      dpop agent add test=key.pem --origin https://api.example
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    name, uri = _named_key(key)
    password = Secret.of("password", options)
    members: dict[str, Any] = {"key": name, "uri": uri, "origins": list(origins)}
    given = password.read(f"Password of {name}")
    try:
        _asked(socket_path, "add", **members, **({} if given is None else {"password": given}))
    except KeyPasswordError:
        if given is not None:
            raise
        _asked(socket_path, "add", **members, password=password.ask(f"Password of {name}"))
    done(f"The agent has the key {name}; use it with: --key agent:{name}")


@agent.command()
@_socket_option
def lock(*, socket_path: str | None) -> None:
    """Make the agent forget its keys, until dpop agent unlock."""
    _asked(socket_path, "lock")
    done("The agent has forgotten its keys. Open them again with: dpop agent unlock")


@agent.command()
@_socket_option
@secret_options("password", "the password or PIN of the keys that need one", detail=True)
def unlock(*, socket_path: str | None, **options: Any) -> None:
    """Make the agent open its keys again; this command asks for passwords and PINs."""
    password = Secret.of("password", options)
    given: dict[str, str] = {}
    while name := _asked(socket_path, "unlock", passwords=given).get("needs"):
        if not isinstance(name, str) or name in given:
            raise KeyPasswordError("the agent asks for the same password again")
        question = f"Password or PIN of {name}"
        given[name] = password.read(question) or password.ask(question)
    done("The agent has its keys again.")


@agent.command()
@_socket_option
def reload(*, socket_path: str | None) -> None:
    """Make the agent read its rules file again, as SIGHUP does. If the file has a mistake, nothing changes."""
    _asked(socket_path, "reload")
    done("The agent uses the rules file as it is now.")


@agent.command()
@_socket_option
def stop(*, socket_path: str | None) -> None:
    """End the agent."""
    _asked(socket_path, "stop")
    done("The agent stops.")


def _asked(socket_path: str | None, op: str, **members: Any) -> dict[str, Any]:
    path = None if socket_path is None else Path(socket_path).absolute()
    seconds = _UNLOCK_SECONDS if op in {"add", "unlock", "reload"} else 5.0
    with AgentClient(path) as client:
        told = client.request(op, seconds=seconds, **members)
    return {name: value for name, value in told.items() if name != "v"}


def _show_keys(keys: list[dict[str, Any]]) -> None:
    for key in keys:
        marks = ", locked" * key["locked"] + ", asks each time" * key["confirm"]
        click.echo(f"{key['key']}  {key['alg']}  jkt {key['jkt']}{marks}")
        methods = f" ({', '.join(key['methods'])})" if key["methods"] else ""
        click.echo(f"  for {', '.join(key['origins'])}{methods}")
    if not keys:
        click.echo("The agent has no keys that you may use.", err=True)


def _show_accounts(accounts: list[dict[str, Any]]) -> None:
    for account in accounts:
        state = _STATES.get(account["state"], account["state"])
        until = account.get("expires_at")
        good = f", {account['token_type']} until {moment(until)}" if until is not None else ""
        click.echo(f"account {account['account']}  {state}{good}, key {account['key']}")
        if account.get("problem"):
            click.echo(f"  {account['problem']}")


# --- what the options say


def _named_key(text: str) -> tuple[str, str]:
    """Split NAME=PATH or NAME=URI; make the path absolute, because the agent has another working directory."""
    check_key_source(text)
    found = _NAMED.fullmatch(text)
    if found is None:
        raise click.UsageError("a key of the agent needs a name: NAME=PATH or NAME=URI, such as work=key.pem")
    name, place = found.groups()
    check_key_source(place)
    if ":" not in place.split("/", 1)[0][2:]:
        place = os.path.abspath(os.path.expanduser(place))  # noqa: PTH100, PTH111 - resolves no symbolic link
    return name, place


def _read_options(options: dict[str, Any]) -> AgentOptions:
    keys = [_named_key(text) for text in options.pop("keys")]
    origins: dict[str, list[str]] = {name: [] for name, _ in keys}
    for text in options.pop("origins"):
        found = _NAMED.fullmatch(text)
        if found is None and len(keys) == 1:
            origins[keys[0][0]].append(text)
        elif found is None or found[1] not in origins:
            raise click.UsageError(
                "--origin expects NAME=URL, with the name of a --key, as in work=https://api.example"
            )
        else:
            origins[found[1]].append(found[2])
    rules, path, logins = options.pop("rules"), options.pop("socket_path"), options.pop("logins")
    if not keys and rules is None:
        raise click.UsageError("name a key with --key NAME=PATH and --origin NAME=URL, or a file with --rules")
    for name, _ in keys:
        if not origins[name]:
            raise click.UsageError(
                f"the key {name} has no --origin, so it could sign for no server; add --origin {name}=https://..."
            )
    return AgentOptions(
        keys=[(name, place, origins[name]) for name, place in keys],
        rules=None if rules is None else Path(rules).absolute(),
        path=None if path is None else Path(path).absolute(),
        group=options.pop("socket_group"),
        lock_after=options.pop("lock_after"),
        audit=options.pop("audit"),
        password=Secret.of("password", options),
        logins=None if logins is None else Path(logins).absolute(),
    )
