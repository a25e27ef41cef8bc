# SPDX-License-Identifier: Apache-2.0
"""``dpop demo``: DPoP at work, step by step, on servers of its own."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from typing import Any

import click

from dpop_cli.console import NoEchoCommand
from dpop_cli.demo_story import Step, story
from dpop_cli.demo_view import Glyphs, View, as_json
from dpop_cli.exit_status import Status

__all__ = ["demo", "present"]


@click.command(cls=NoEchoCommand)
@click.option("--json", "as_data", is_flag=True, help="Print the steps as JSON.")
@click.pass_context
def demo(ctx: click.Context, *, as_data: bool) -> None:
    """Watch DPoP work: a key, a code, a nonce, a refresh, an API call, and a thief.

    Real requests, to small servers that this command runs on free ports of this machine; each step shows
    the decoded proof and the response. Tokens and nonces are cut short. NO_COLOR is respected.

    The status is 1 if any step does not go as it must, which makes the demo a test of an installation.

    \b
    Examples:
      dpop demo
      dpop demo --json
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    ctx.exit(present(story(), as_data=as_data))


def present(steps: Iterable[Step], *, as_data: bool) -> Status:
    """Print the steps as they come; return whether all had the expected outcome."""
    done: list[dict[str, Any]] = []
    color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    view = View(Glyphs.for_encoding(sys.stdout.encoding), color=color)
    failed = 0
    for number, step in enumerate(steps, start=1):
        failed += bool(step.problems)
        done.append(as_json(number, step))
        if not as_data:
            click.echo("\n".join(view.lines(number, step)), color=color)
    if as_data:
        click.echo(json.dumps({"ok": not failed, "steps": done}, indent=2))
    elif failed:
        click.echo(f"{failed} of {len(done)} steps did not go as they must; see above.")
    else:
        click.echo("Next:  dpop serve            such a server, for you to try things on")
        click.echo("       dpop curl --help      how to reach it with curl")
    return Status.REFUSED if failed else Status.DONE
