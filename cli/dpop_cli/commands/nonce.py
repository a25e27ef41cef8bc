# SPDX-License-Identifier: Apache-2.0
"""``dpop nonce``: shows, learns and forgets the nonces that commands store for each other."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from dpop.client import NonceKey
from dpop.origin import Origin
from dpop_cli.console.command import Detail, Group
from dpop_cli.console.output import file_names
from dpop_cli.console.secret_input import read_text
from dpop_cli.signing.nonce_state import ROLE_TITLES, ROLES, KeptNonce, NonceState, role_name
from dpop_cli.signing.options import key_options, load_key
from dpop_cli.wire.header_dump import last_head_with_nonce, last_nonce

__all__ = ["nonce"]

_SHOWN = 12


@click.group(cls=Group)
def nonce() -> None:
    """Show, learn or forget the nonces of servers.

    Each command uses the newest nonce that an earlier command learnt for the same key, server and role. Requests
    without an access token go to an authorization server (as), requests with a token to a resource server (rs).
    The nonces are stored in your state directory, or in DPOP_STATE_DIR; only you can read them.
    """


@nonce.command(variables=["DPOP_STATE_DIR"])
@click.argument("url", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the complete nonces as JSON.")
def show(*, url: str | None, as_json: bool) -> None:
    """Show the stored nonces, the newest first; with URL, only those of its server.

    \b
    Examples:
      dpop nonce show
      dpop nonce show https://api.example/me --json
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    origin = None if url is None else Origin.of_url(url)
    state = NonceState.of_user()
    kept = [entry for entry in state.all() if origin in {None, entry.key.origin}]
    if as_json:
        click.echo(json.dumps({"directory": str(state.directory), "nonces": [_as_json(k) for k in kept]}, indent=2))
        return
    for entry in kept:
        nonce_ = entry.nonce if len(entry.nonce) <= _SHOWN + 3 else f"{entry.nonce[:_SHOWN]}..."
        click.echo(
            f"{entry.key.origin}  {role_name(entry.key.role)}  {nonce_}  {_age(entry)}  key {entry.key.jkt[:8]}..."
        )
    if not kept:
        click.echo(f"No nonces are stored in {click.format_filename(state.directory)}.", err=True)


@nonce.command()
@click.argument("url")
@click.argument("file", metavar="[FILE]", required=False, shell_complete=file_names)
@click.option(
    "--from",
    "source",
    cls=Detail,
    metavar="FILE",
    shell_complete=file_names,
    help="The file, as an option.",
)
@click.option("--role", type=click.Choice(list(ROLES)), help="The server's role; by default the response tells it.")
@key_options
def learn(*, url: str, file: str | None, source: str | None, role: str | None, **options: Any) -> None:
    """Store the nonce in a server's response for the next command with that key.

    FILE contains the headers that curl -D FILE saved, or only a nonce; - is standard input.

    A nonce is never an argument, because shells change some of its characters.

    \b
    Examples:
      curl -s -D headers.txt https://api.example/me
      dpop nonce learn https://api.example/me headers.txt --key key.pem
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    origin = Origin.of_url(url)
    if (file is None) == (source is None):
        raise click.UsageError("name the file once: dpop nonce learn URL FILE")
    text = read_text(file or source or "", "FILE" if source is None else "--from")
    value = last_nonce(text)
    head = last_head_with_nonce(text)
    known = ROLES[role] if role is not None else head.role if head is not None else None
    if known is None:
        raise click.UsageError(
            "the response does not show the server's role; add --role as for a token endpoint, or --role rs for an API"
        )
    NonceState.of_user().learn(NonceKey(load_key(options).thumbprint, origin, known), value)
    click.echo(f"Learnt a nonce of {origin} as {ROLE_TITLES[known]}.", err=True)


@nonce.command(variables=["DPOP_STATE_DIR"])
@click.argument("url", required=False)
def clear(*, url: str | None) -> None:
    """Forget all nonces, or those of URL's server.

    \b
    Examples:
      dpop nonce clear https://api.example/me
      dpop nonce clear
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    count = NonceState.of_user().forget(origin=None if url is None else Origin.of_url(url))
    click.echo(f"{count} nonce{'s' * (count != 1)} forgotten.", err=True)


def _as_json(entry: KeptNonce) -> dict[str, Any]:
    return {
        "origin": str(entry.key.origin),
        "role": role_name(entry.key.role),
        "jkt": entry.key.jkt,
        "nonce": entry.nonce,
        "learnt": entry.learnt,
    }


def _age(entry: KeptNonce) -> str:
    seconds = max(0, int(time.time()) - entry.learnt)
    for name, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {name} ago"
    return f"{seconds} s ago"
