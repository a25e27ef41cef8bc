# SPDX-License-Identifier: Apache-2.0
"""``dpop token import``: use a refresh token from a file of google-auth, gcloud, or this package's own credentials."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from dpop._files import without_mark
from dpop.encoding import json_object
from dpop.errors import EncodingError, TokenError, UnboundTokenError
from dpop.tokens import TokenSet
from dpop_cli.console.command import Command
from dpop_cli.console.exit_status import Status
from dpop_cli.console.output import done, file_names, hint
from dpop_cli.console.secret_input import read_bytes
from dpop_cli.signing.options import key_options
from dpop_cli.tokens.client import OAuthClient, kept_nonces, prover_of
from dpop_cli.tokens.options import server_options, store_options
from dpop_cli.tokens.store import Stored
from dpop_cli.tokens.view import as_lines, print_lines

if TYPE_CHECKING:
    from dpop.requests import TokenEndpoint

__all__ = ["import_tokens"]

_SQLITE = b"SQLite format 3\0"
_GOOGLE = "https://oauth2.googleapis.com/token"
_GCLOUD_CLIENTS = ("32555940559.apps.googleusercontent.com", "764086051850-")
_NO_USER = {
    "service_account": "a service account signs in with a key of its own and has no refresh token",
    "external_account": "workload identity exchanges tokens and has no refresh token",
    "external_account_authorized_user": "workforce identity has a token endpoint of its own, which takes no proofs",
    "impersonated_service_account": "an impersonated service account has no refresh token of its own",
}


class _Found(NamedTuple):
    """The content of a file: a refresh token, the client it was issued to, and the server that issued it.

    :param jkt: the thumbprint of the key it is bound to; only this package's own credentials contain it.
    """

    refresh_token: str
    client_id: str
    client_secret: str | None
    token_endpoint: str
    jkt: str | None
    key_reference: str | None
    scopes: str

    def __repr__(self) -> str:
        return f"<_Found of {self.client_id}>"

    @property
    def is_googles(self) -> bool:
        """Whether Google issued the refresh token."""
        return self.token_endpoint == _GOOGLE


class NewLoginError(click.ClickException):
    """A refresh token that cannot be bound to a key any more."""

    exit_code = Status.REFUSED


@click.command("import", cls=Command, short_help="Take over tokens of google-auth or gcloud.")
@click.argument("file", metavar="FILE", shell_complete=file_names)
@server_options
@store_options(default="tokens.json")
@key_options
def import_tokens(*, file: str, **options: Any) -> None:
    """Take over a refresh token from a file of google-auth or gcloud, if it can be bound to your key.

    \b
    FILE is one of:
      token.json                            what google-auth's to_json() wrote
      application_default_credentials.json  gcloud auth application-default login
      credentials.db                        gcloud auth login; --account chooses
      the JSON of dpop.google.Credentials

    Whether it can be bound depends on who issued it:

    \b
      of dpop.google.Credentials  bound already: it is taken with its key
      Google's, without a key     cannot be bound: a new login is needed
      another server's            it is refreshed once, with a proof; the server's
                                  response tells whether tokens are bound now

    FILE itself is left as it is. Delete it when the new tokens work.

    \b
    Examples:
      dpop token import token.json --key key.pem
      dpop token import ~/.config/gcloud/credentials.db --account me@example.com
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    found = _read(file, options["account"])
    name = click.format_filename(file)
    if found.is_googles and found.jkt is None:
        raise NewLoginError(_new_login(found, name))
    stored, client = Stored.named(options), OAuthClient.of(options).or_of(_facts(found))
    if options["key_source"] is None:
        options["key_source"] = found.key_reference
    prover = prover_of(options)
    before = TokenSet(
        access_token="none",  # noqa: S106 - the refresh below gives one
        token_type="Bearer" if found.is_googles else "DPoP",
        refresh_token=found.refresh_token,
        scope=found.scopes or None,
        jkt=found.jkt,
        key_reference=found.key_reference,
        token_endpoint=found.token_endpoint,
        client_id=found.client_id,
    )
    before.check_key(prover.thumbprint)
    stored.check_writable()
    with client.endpoint(prover, before) as endpoint, kept_nonces(prover, endpoint.server.token_endpoint):
        tokens = stored.keep_result(lambda: _refreshed(endpoint, before, stored))
    print_lines(*as_lines(tokens, stored.account, secrets=False))
    where = stored.as_typed
    done(f"imported into {where}. Use it: dpop curl --token-store {where} URL")
    _tell_binding(found, tokens, name)


def _refreshed(endpoint: TokenEndpoint, before: TokenSet, stored: Stored) -> TokenSet:
    """Refresh once, with a proof.

    :raises NewLoginError: the server takes no proof. Its tokens are stored all the same.
    """
    try:
        return endpoint.refresh(before)
    except UnboundTokenError as error:
        if error.tokens is None:
            raise
        stored.keep(error.tokens)
        raise NewLoginError(
            f"the server issued a token that is bound to no key, and so is the refresh token. It is kept in"
            f" {click.format_filename(stored.store.path)}, so that nothing is lost; for a bound one log in anew:"
            " dpop token login"
        ) from None


def _tell_binding(found: _Found, tokens: TokenSet, name: str) -> None:
    """Say which tokens are bound now, and whether a copy of the old file can still be used."""
    if found.jkt is not None:
        hint(f"the refresh token was bound to this key already; {name} is not needed any more")
    elif tokens.refresh_token != found.refresh_token:
        hint(
            f"the access token is bound to your key, and the refresh token in {name} was replaced. Delete that file; to"
            " be sure that the new refresh token is bound too, log in anew: dpop token login"
        )
    else:
        hint(
            f"the access token is bound to your key, but the refresh token is the old one: whoever has a copy of {name}"
            " and the client's secret can use it without your key. For a bound one log in anew: dpop token login"
        )


def _new_login(found: _Found, name: str) -> str:
    scopes = "".join(f" --scope {scope}" for scope in found.scopes.split())
    text = (
        f"the refresh token in {name} was issued without a key, and Google binds a refresh token only when it is"
        " issued. Nothing was sent, and nothing stored. For a bound one log in anew: dpop token login --profile google"
    )
    if found.client_id.startswith(_GCLOUD_CLIENTS):
        return (
            f"{text} --key key.pem --client client_secret.json. The client in {name} is gcloud's own, so you need one"
            " of yours, from Google's console"
        )
    return f"{text} --key key.pem --client {name}{scopes}"


def _facts(found: _Found) -> dict[str, str]:
    facts = {"client_id": found.client_id, "token_endpoint": found.token_endpoint}
    return facts if found.client_secret is None else {**facts, "client_secret": found.client_secret}


# --- reading


def _read(file: str, account: str | None) -> _Found:
    data = read_bytes(file, "FILE", limit=1 << 24)
    if data.startswith(_SQLITE):
        return _found(_of_gcloud(file, account))
    try:
        return _found(json_object(without_mark(data)))
    except EncodingError as error:
        raise click.UsageError(
            f"FILE expects JSON of google-auth or gcloud, or gcloud's credentials.db; what came is {error}"
        ) from None


def _found(members: Mapping[str, Any]) -> _Found:
    kind = members.get("type")
    if isinstance(kind, str) and kind in _NO_USER:
        raise NewLoginError(f"there is nothing to import: {_NO_USER[kind]}")
    if isinstance(members.get("installed", members.get("web")), dict):
        raise click.UsageError(
            "FILE describes a client and holds no tokens; log in with it: dpop token login --profile google --client"
            " FILE"
        )
    own = members.get("dpop")
    own = own if isinstance(own, dict) else {}
    texts = {
        name: value if isinstance(value, str) and value else None
        for name, value in {**members, **{f"dpop.{name}": value for name, value in own.items()}}.items()
    }
    refresh_token, client_id = texts.get("refresh_token"), texts.get("client_id")
    if refresh_token is None or client_id is None:
        missing = "refresh_token" if refresh_token is None else "client_id"
        raise click.UsageError(
            f"FILE has no {missing}, so there is nothing to import; expected JSON of google-auth, or"
            " a file of gcloud. A login without offline access gives no refresh token"
        )
    scopes = members.get("scopes") or members.get("scope")
    listed = scopes.split() if isinstance(scopes, str) else scopes if isinstance(scopes, list) else []
    return _Found(
        refresh_token=refresh_token,
        client_id=client_id,
        client_secret=texts.get("client_secret"),
        token_endpoint=texts.get("token_uri") or texts.get("token_endpoint") or _GOOGLE,
        jkt=texts.get("dpop.jkt"),
        key_reference=texts.get("dpop.key_reference"),
        scopes=" ".join(each for each in listed if isinstance(each, str)),
    )


def _of_gcloud(file: str, account: str | None) -> Mapping[str, Any]:
    """Read one account of gcloud's database, without changing it.

    :raises click.UsageError: it is another database; or it has several accounts, and --account names none of them.
    """
    import sqlite3  # noqa: PLC0415 - only for gcloud's own file

    uri = f"{Path(file).absolute().as_uri()}?mode=ro&immutable=1"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as database:
            rows = {str(name): value for name, value in database.execute("SELECT account_id, value FROM credentials")}
    except sqlite3.Error:
        raise click.UsageError("FILE is a database, but not gcloud's credentials.db") from None
    if not rows:
        raise click.UsageError("gcloud has no account in FILE; gcloud auth login makes one")
    if account is None and len(rows) == 1:
        account = next(iter(rows))
    if account not in rows:
        raise click.UsageError(f"gcloud has the accounts {', '.join(sorted(rows))} in FILE; name one with --account")
    try:
        return json_object(str(rows[account]).encode())
    except EncodingError:
        raise TokenError(f"gcloud's record of {account} is not JSON") from None
