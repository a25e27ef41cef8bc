# SPDX-License-Identifier: Apache-2.0
"""``dpop key rotate``: a new key beside the old one, and the stored tokens bound to it.

Each step leaves a state from which the next run goes on: the new key is in its file before any token is bound to it, a
token set names the key it is bound to, and the old key is never removed.
"""

from __future__ import annotations

import os
import shlex
from typing import Any

import click

import dpop
from dpop._files import path_from_home
from dpop.client import Prover
from dpop.errors import TokenRequestError, TokenStoreError, UsageError
from dpop.keys import Key
from dpop.tokens import DEFAULT_ACCOUNT, TokenSet
from dpop_cli.console.command import Command
from dpop_cli.console.exit_status import Status
from dpop_cli.console.output import done, file_names, hint, tell
from dpop_cli.console.secret_input import Secret
from dpop_cli.signing.options import check_key_source, key_options, load_key, load_named_key
from dpop_cli.tokens.client import OAuthClient
from dpop_cli.tokens.options import server_options, store_options
from dpop_cli.tokens.store import Stored

__all__ = ["rotate"]


@click.command(cls=Command, short_help="Change to a new key; bind the stored tokens to it.")
@click.option(
    "-o",
    "--out",
    required=True,
    metavar="FILE",
    shell_complete=file_names,
    help="File for the new key; one that is there already is used, to go on where an earlier run ended.",
)
@store_options(default="tokens.json")
@server_options
@key_options
@click.pass_context
def rotate(ctx: click.Context, /, *, out: str, **options: Any) -> None:
    """Make a new key beside the old one that --key names, and bind the stored tokens to it.

    Servers do that for confidential clients: those with a secret, a key or a certificate of their own. Where it cannot
    be done, the tokens stay as they are, with the old key, and the command says how to log in with the new one.

    The old key is not removed: other stores may need it. Exit status 1 says that tokens in this store still do.

    \b
    Examples:
      dpop key rotate --key key.pem --out key-2.pem --client client.json
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    chosen = options["account"]
    stored, client = Stored.named(options), OAuthClient.of(options)
    named, password = options["key_source"], Secret.of("password", dict(options))
    old = load_key(options, signs=False)
    new = _new_key(out, old, password)
    accounts = [stored.account] if chosen is not None else stored.store.accounts()
    found = {account: tokens for account in accounts if (tokens := stored.store.load(account)) is not None}
    if not found:
        raise TokenStoreError(f"there are no tokens in {stored.as_typed}; the new key is in {shlex.quote(out)}")
    left = [
        account
        for account, tokens in found.items()
        if tokens.jkt == old.thumbprint and not _rebound(Stored(stored.store, account), tokens, client, new)
    ]
    for account in left:
        of_account = "" if account == DEFAULT_ACCOUNT else f" --account {shlex.quote(account)}"
        hint(
            f"to move {account}: dpop login --key {shlex.quote(out)} --token-store {stored.as_typed}{of_account}, with"
            " the client and scope of its login"
        )
    if left:
        tell(
            "Warning", f"keep {named}: the tokens of {', '.join(left)} are bound to it until they have logged in again"
        )
        ctx.exit(Status.REFUSED)
    done(f"no tokens in {stored.as_typed} need {named} any more; remove it when no other store does")


def _new_key(out: str, old: Key, password: Secret) -> Key:
    """Return the key of an earlier run that did not finish, or a new key; its file is written when this returns.

    :raises click.UsageError: it is the old one.
    """
    check_key_source(out)
    if os.path.lexists(path_from_home(out)):
        new = load_named_key(out, password)
        if new.thumbprint == old.thumbprint:
            raise click.UsageError(f"{click.format_filename(out)} is the old key; expected a new name for --out")
        click.echo(f"{click.format_filename(out)} is there already, and is taken for the new key.", err=True)
        return new
    secret = None if password.prompt else password.read("")
    made = dpop.generate_key(old.alg)
    made.save(out, password=secret)
    click.echo(f"{click.format_filename(out)}: a new {made.alg} key, thumbprint {made.thumbprint}", err=True)
    return load_named_key(out, password)  # one that knows its place


def _rebound(stored: Stored, tokens: TokenSet, client: OAuthClient, new: Key) -> bool:
    """Bind the tokens of an account to the new key, if the server does that.

    :raises DPoPError: that is not known now: the server is out of reach, for example. They are as they were.
    """
    if not tokens.refresh_token or tokens.refusal:
        click.echo(f"{stored.account}: there is no refresh token that could be bound to the new key", err=True)
        return False
    with client.endpoint(Prover(new), tokens) as endpoint:
        try:
            source = endpoint.source(stored.store, account=stored.account, rebind=True)
            with stored.rescuing():
                source.ensure(lambda there: there.jkt == new.thumbprint)
        except (UsageError, TokenRequestError) as error:
            click.echo(f"{stored.account}: {error}", err=True)
            return False
    click.echo(f"{stored.account}: bound to the new key", err=True)
    return True
