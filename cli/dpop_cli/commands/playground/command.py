# SPDX-License-Identifier: Apache-2.0
"""``dpop playground``: a page on this machine to try DPoP by clicks, with a test server of its own."""

from __future__ import annotations

import contextlib
import html
import shutil
import tempfile
import webbrowser
from collections.abc import Iterator
from pathlib import Path

import click

from dpop._files import write_private_file
from dpop_cli.commands.playground.page import PlaygroundServer
from dpop_cli.commands.playground.session import Session
from dpop_cli.console.command import Command
from dpop_cli.console.output import hint, stopped_by_signals

__all__ = ["opening_file", "playground"]

_LOOK_SECONDS = 1.0


@click.command(cls=Command, variables=["BROWSER"])
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="The port; 0, the default, for a free one.")
@click.option("--no-browser", is_flag=True, help="Open no browser; only name the file to open.")
def playground(*, port: int, no_browser: bool) -> None:
    """Try DPoP in the browser: log in, call, refresh, and attack, each by one click.

    The page shows each request as it was sent, with secrets shortened, the decoded proof, and which check of the
    server accepts or refuses it. The server is a test server that this command runs on a free port of this machine, or
    your own: name its issuer on the page. Requests go to that server only. Ctrl-C stops everything.

    The page opens through a private file, so no other user of this machine can open it.

    \b
    Examples:
      dpop playground
      dpop playground --no-browser --port 8090
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    with (
        stopped_by_signals() as stop,
        Session() as session,
        PlaygroundServer(session, port) as server,
        opening_file(server.start_url) as file,
    ):
        click.echo(f"The playground is at {server.origin}; Ctrl-C stops it. Open it once, with this file:\n\n  {file}")
        if not no_browser and not webbrowser.open(file.as_uri()):
            hint("no browser could be opened; open the file yourself")
        # Several short waits: on Windows, one long wait would not notice Ctrl-C.
        while not stop.wait(_LOOK_SECONDS):
            pass


@contextlib.contextmanager
def opening_file(url: str) -> Iterator[Path]:
    """Write a file with mode 0600 that leads a browser to a URL, and remove it at the end.

    The URL holds a one-time code. In the arguments of a browser, other users could read it.
    """
    folder = Path(tempfile.mkdtemp(prefix="dpop-playground-"))
    try:
        file = folder / "open.html"
        link = html.escape(url)
        text = (
            '<!doctype html><meta charset="utf-8"><title>dpop playground</title>'
            f'<meta http-equiv="refresh" content="0; url={link}"><a href="{link}">Open the playground</a>\n'
        )
        write_private_file(file, text.encode())
        yield file
    finally:
        shutil.rmtree(folder, ignore_errors=True)
