# SPDX-License-Identifier: Apache-2.0
"""``dpop demo``: shows DPoP at work, step by step, with servers of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

import click

from dpop_cli.commands.demo.story import STEPS, Step, story
from dpop_cli.commands.demo.view import Glyphs, View, as_json
from dpop_cli.console.command import Command
from dpop_cli.console.exit_status import Status
from dpop_cli.console.output import may_color, width_of

__all__ = ["demo", "present"]


@click.command(cls=Command)
@click.option("--json", "as_data", is_flag=True, help="Print the steps as JSON.")
@click.option("--no-pause", is_flag=True, help="Print all steps at once, even at a terminal.")
@click.pass_context
def demo(ctx: click.Context, *, as_data: bool, no_pause: bool) -> None:
    """Watch DPoP work: a key, a code, a nonce, a refresh, an API call, and a thief.

    The requests are real, to small servers that this command runs on free ports of this machine. Each step shows
    the decoded proof and the response. Tokens and nonces are shortened. At a terminal it waits for Enter after
    each step.

    The status is 1 if any step fails, so the demo is also a test of an installation.

    \b
    Examples:
      dpop demo
      dpop demo --json
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    pause = not no_pause and not as_data and sys.stdout.isatty() and sys.stdin is not None and sys.stdin.isatty()
    ctx.exit(present(story(), as_data=as_data, pause=pause))


def present(steps: Iterable[Step], *, as_data: bool, pause: bool = False) -> Status:
    """Print the steps as they come; return whether all had the expected outcome.

    :param pause: wait for Enter after each.
    """
    done: list[dict[str, Any]] = []
    color = may_color("stdout")
    view = View(Glyphs.for_encoding(sys.stdout.encoding), color=color, width=width_of("stdout", 80) - 1)
    failed = 0
    for number, step in enumerate(steps, start=1):
        failed += bool(step.problems)
        done.append(as_json(number, step))
        if not as_data:
            if pause and number > 1:
                _wait_for_enter(number)
            click.echo("\n".join(view.lines(number, step)), color=color)
    if as_data:
        click.echo(json.dumps({"ok": not failed, "steps": done}, indent=2))
    elif failed:
        click.echo(f"{failed} of {len(done)} steps failed; see above.")
    else:
        click.echo("Next:  dpop serve            such a server, for you to try things on")
        click.echo("       dpop curl --help      how to reach it with curl")
    return Status.REFUSED if failed else Status.DONE


def _wait_for_enter(number: int) -> None:
    """Wait for Enter before the next step; q or the end of the input ends the demo, like Ctrl-C."""
    click.echo(f"Enter shows step {number} of {STEPS}, q ends. ", nl=False)
    line = sys.stdin.readline()
    if not line or line.strip().lower() in {"q", "quit"}:
        raise click.Abort
    click.echo("\x1b[A\x1b[K" if may_color("stdout") else "", nl=not may_color("stdout"))
