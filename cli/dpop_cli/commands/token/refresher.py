# SPDX-License-Identifier: Apache-2.0
"""``dpop token refresher``: keep the tokens in a store fresh, until stopped."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import click

from dpop.errors import DPoPError, TokenStoreError
from dpop.tokens import AccountStatus, Refresher
from dpop_cli.console.command import Command
from dpop_cli.console.exit_status import Status
from dpop_cli.console.output import stopped_by_signals, tell
from dpop_cli.console.systemd import notify
from dpop_cli.signing.options import key_options
from dpop_cli.tokens.client import OAuthClient, prover_of
from dpop_cli.tokens.options import server_options, store_options
from dpop_cli.tokens.store import Stored
from dpop_cli.tokens.view import moment

__all__ = ["refresher"]

_LOOK_SECONDS = 1.0


@click.command(cls=Command, short_help="Keep the stored tokens fresh, until stopped.")
@store_options(default="tokens.json")
@server_options
@key_options
@click.option(
    "--once", is_flag=True, help="Refresh once what needs it, and end, for cron; status 1 if an account is not fresh."
)
@click.pass_context
def refresher(ctx: click.Context, /, *, once: bool, **options: Any) -> None:
    """Refresh stored tokens before they expire, until Ctrl-C or SIGTERM.

    It refreshes all accounts of the store, or the one that --account names, each with the key that its tokens name.
    A token is refreshed when two thirds of its life are over, and every 15 minutes at the latest. Programs that use
    the store, such as dpop curl --token-store, then find fresh tokens. Without this command, they refresh the tokens
    themselves.

    Each refresh is reported on standard error, and to systemd (Type=notify). When the command is stopped, it first
    finishes a refresh that has begun.

    \b
    Examples:
      dpop token refresher --token-store tokens.json --client client.json
      dpop token refresher --once
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    chosen = options["account"]
    stored, client = Stored.named(options), OAuthClient.of(options)
    accounts = [stored.account] if chosen is not None else stored.store.accounts()
    if not accounts:
        raise TokenStoreError(
            f"there are no tokens in {click.format_filename(stored.store.path)} yet; dpop token login gets some"
        )
    with contextlib.ExitStack() as open_ones:
        sources = []
        for account in accounts:
            try:
                tokens = Stored(stored.store, account).tokens()
                endpoint = open_ones.enter_context(client.endpoint(prover_of(dict(options), tokens), tokens))
            except DPoPError as error:
                if len(accounts) == 1:
                    raise
                tell("Warning", f"{account} is left out: {error}")  # the others need not suffer for it
                continue
            sources.append(endpoint.source(stored.store, account=account))
        if not sources:
            raise TokenStoreError(f"none of the accounts in {click.format_filename(stored.store.path)} can be used")
        told = _Told()
        running = Refresher(sources, tell=told)
        stop = open_ones.enter_context(stopped_by_signals())
        notify("READY=1")
        while True:
            due = time.monotonic() + running.step()
            if once:
                ctx.exit(Status.DONE if told.all_fresh and len(sources) == len(accounts) else Status.REFUSED)
            # Several short waits: on Windows, one long wait would not notice Ctrl-C.
            while time.monotonic() < due and not stop.is_set():
                stop.wait(min(_LOOK_SECONDS, max(0.0, due - time.monotonic())))
            if stop.is_set():
                break
        notify("STOPPING=1")
    click.echo("Stopped; no refresh was interrupted.", err=True)


class _Told:
    """Reports the state of each account to people and to systemd."""

    def __init__(self) -> None:
        self._states: dict[str, AccountStatus] = {}

    def __call__(self, status: AccountStatus) -> None:
        self._states[status.account] = status
        said = f"{status.account}: {status.state}"
        if status.expires_at is not None:
            said += f", good until {moment(status.expires_at)}"
        if status.error is not None:
            said += f" ({status.error})"
        click.echo(f"{moment(time.time())} {said}; next look {moment(status.next_at)}", err=True)
        fresh = sum(each.state == "fresh" for each in self._states.values())
        notify(f"STATUS={fresh} of {len(self._states)} accounts fresh; next look {moment(self._next_at)}")

    @property
    def all_fresh(self) -> bool:
        """Whether all accounts are fresh."""
        return all(status.state == "fresh" for status in self._states.values())

    @property
    def _next_at(self) -> float:
        return min(status.next_at for status in self._states.values())
