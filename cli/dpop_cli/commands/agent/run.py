# SPDX-License-Identifier: Apache-2.0
"""Run the signing agent, in the foreground or in the background."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from dpop.agent import (
    Agent,
    AgentLogins,
    AgentRules,
    AuditLog,
    KeyRules,
    listen,
    password_from_askpass,
    protect_memory,
    read_rules,
)
from dpop.errors import UsageError
from dpop_cli.console.output import tell
from dpop_cli.console.secret_input import Secret, can_ask
from dpop_cli.console.systemd import notify
from dpop_cli.signing.nonce_state import NonceState, StateError

__all__ = ["AgentOptions", "run_agent", "run_in_background"]


class AgentOptions(NamedTuple):
    """The options of the command line.

    :param keys: the name, the path or URI, and the origins of each key.
    :param path: the path of the socket.
    """

    keys: list[tuple[str, str, list[str]]]
    rules: Path | None
    path: Path | None
    group: str | None
    lock_after: float | None
    audit: str | None
    password: Secret
    logins: Path | None

    def read(self) -> AgentRules:
        """Read the rules file, and add the keys of the command line."""
        own = tuple(KeyRules(name, place, origins) for name, place, origins in self.keys)
        told = AgentRules(()) if self.rules is None else read_rules(self.rules)
        lock_after = told.lock_after if self.lock_after is None else self.lock_after
        return AgentRules((*told.keys, *own), lock_after, told.path, told.digest, told.accounts)


def run_agent(options: AgentOptions, ready: Callable[[], None] | None = None) -> None:
    """Run the agent until SIGINT, SIGTERM or ``dpop agent stop``.

    :param ready: called when the agent listens.
    """
    protect_memory()
    rules = options.read()
    group = None if options.group is None else _group(options.group)
    audit = _audit(options.audit, default="stderr" if ready is None else None)
    reader = options.read if options.rules is not None else None
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listen(options.path, group=group))
        agent = Agent(rules, read=reader, ask=_asking(options.password), audit=audit, logins=_logins(options.logins))
        stack.enter_context(_signals_to(agent, at_terminal=ready is None and _is_at_terminal()))
        where = listener.getsockname()
        if ready is None:
            click.echo(f"The agent listens at {where}; Ctrl-C ends it.", err=True)
        else:
            ready()
        notify("READY=1")
        agent.serve(listener)
        notify("STOPPING=1")


def run_in_background(options: AgentOptions) -> int:
    """Run the agent in a child process, and return the process id when it listens.

    Until then the child keeps the terminal, so that it can ask for passwords and show errors.
    """
    if not hasattr(os, "fork"):
        raise UsageError("this system cannot start the agent in the background; run it in a window: dpop agent")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        run_agent(options, lambda: _detach(write))
        raise SystemExit(0)
    os.close(write)
    with os.fdopen(read, "rb") as told:
        if told.read(1):
            return child
    _, status = os.waitpid(child, 0)
    raise SystemExit(os.waitstatus_to_exitcode(status))


def _detach(write: int) -> None:
    """Leave the terminal, and tell the parent process, which waits."""
    os.setsid()
    os.chdir("/")
    sys.stdout.flush()
    sys.stderr.flush()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    os.close(null)
    os.write(write, b"\1")
    os.close(write)


def _asking(password: Secret) -> Callable[[KeyRules], str]:
    given: list[str] = []

    def ask(rules: KeyRules) -> str:
        question = f"Password or PIN of {rules.name}"
        if password.given:
            if not given:
                given.append(password.read(question) or "")
            return given[0]
        found = None if can_ask() else password_from_askpass(question)
        return password.ask(question) if found is None else found

    return ask


def _audit(target: str | None, default: str | None) -> AuditLog | None:
    chosen = default if target is None else target
    if chosen == "none":
        return None
    if chosen is None:
        return AuditLog("syslog" if Path("/dev/log").exists() else _audit_file())
    return AuditLog(chosen if chosen in {"stderr", "syslog"} else Path(chosen).absolute())


def _audit_file() -> Path:
    import platformdirs  # noqa: PLC0415 - only in the background, without a syslog

    folder = platformdirs.user_state_path("dpop", appauthor=False)
    folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    return folder / "agent.jsonl"


def _logins(folder: Path | None) -> AgentLogins | None:
    """Open the folder of the logins: the named one, or a private folder beside the user's other state."""
    if folder is None:
        try:
            folder = NonceState.of_user().directory.absolute().with_name("agent")
        except StateError:
            return None  # the user has no home folder
    return AgentLogins(folder, _endpoint)


def _endpoint(*arguments: Any, **options: Any) -> Any:
    try:
        from dpop.requests import TokenEndpoint  # noqa: PLC0415 - an agent that only signs needs no HTTP library
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the agent needs the Python package {error.name} to refresh tokens; run: pip install"
            " 'dpop-toolkit[requests]'"
        ) from None
    return TokenEndpoint(*arguments, **options)


def _group(name: str) -> int:
    import grp  # noqa: PLC0415 - not on Windows

    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise click.UsageError("--socket-group names no group of this system") from None


def _is_at_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


@contextlib.contextmanager
def _signals_to(agent: Agent, *, at_terminal: bool) -> Iterator[None]:
    def hung_up() -> None:
        if at_terminal and not _is_at_terminal():
            agent.stop()  # its terminal is gone, and with it the person who could end it, and the audit log
        else:
            reload()

    def reload() -> None:
        problem = agent.reload()
        tell("Warning", f"the rules did not change: {problem}") if problem else click.echo("Rules read.", err=True)

    handlers: dict[int, Any] = {
        signal.SIGINT: lambda *_: agent.stop(),
        signal.SIGTERM: lambda *_: agent.stop(),
        signal.SIGHUP: lambda *_: threading.Thread(target=hung_up, daemon=True).start(),
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
