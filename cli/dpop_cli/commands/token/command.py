# SPDX-License-Identifier: Apache-2.0
"""``dpop token``: get tokens bound to a key, keep them, refresh them, give them back to the server."""

from __future__ import annotations

import contextlib
import json
import shlex
from typing import TYPE_CHECKING, Any

import click

from dpop.errors import DPoPError, ReauthorizationError, TokenStoreError
from dpop.tokens import DEFAULT_ACCOUNT, AuthorizationRequest, TokenSet, locked
from dpop_cli.commands.token.from_files import import_tokens
from dpop_cli.commands.token.refresher import refresher
from dpop_cli.console.command import Detail, Group, Setting
from dpop_cli.console.output import done, file_names, hint, tell, waiting
from dpop_cli.console.secret_input import Secret, read_text, secret_options
from dpop_cli.login.browser import Loopback, login_parameters, open_login
from dpop_cli.login.device import device_login
from dpop_cli.signing.options import key_options
from dpop_cli.tokens.client import OAuthClient, kept_nonces, prover_of
from dpop_cli.tokens.options import server_options, store_options
from dpop_cli.tokens.store import Stored
from dpop_cli.tokens.view import as_facts, as_line, as_lines, print_lines

if TYPE_CHECKING:
    from dpop.requests import TokenEndpoint
    from dpop_cli.tokens.agent_account import AgentAccount

__all__ = ["list_tokens", "login", "revoke", "token"]


_resource_option = click.option(
    "--resource",
    "resources",
    cls=Detail,
    multiple=True,
    metavar="URL",
    help="An API that the token is for (RFC 8707); may be repeated. Later refreshes request it, too.",
)


_agent_option = click.option(
    "--agent", "in_agent", is_flag=True, help="Let the signing agent keep the tokens, not a file."
)


@click.group(cls=Group)
def token() -> None:
    """Get tokens bound to your key, keep them fresh, use them in dpop curl.

    They are kept in a file that only you can read, together with the place of their key. Programs that use this
    library's FileTokenStore share it; an expired token is refreshed once for all of them.
    """


@token.command(variables=["BROWSER"], short_help="Log in, and store the tokens.")
@click.option("--device", is_flag=True, help="Log in on another device, with a code or a QR code.")
@click.option(
    "--device-jkt", cls=Detail, is_flag=True, help="Send the key's thumbprint (dpop_jkt) with the request for a code."
)
@click.option("--client-credentials", is_flag=True, help="Without a user: the client gets tokens for itself.")
@_agent_option
@server_options
@click.option("--scope", cls=Setting, multiple=True, metavar="SCOPE", help="A scope to request; may be repeated.")
@_resource_option
@click.option(
    "--redirect-uri",
    cls=Detail,
    metavar="URL",
    help="The URL on this machine to which the browser returns; without a port, a free one is used."
    " By default http://127.0.0.1/.",
)
@click.option(
    "--param",
    "parameters",
    cls=Detail,
    multiple=True,
    metavar="NAME=VALUE",
    help="A further parameter of the request that begins the login; may be repeated.",
)
@click.option(
    "--id-token-key",
    cls=Detail,
    metavar="FILE",
    shell_complete=file_names,
    help="PEM file with the private key for ID tokens that the server encrypts.",
)
@click.option("--no-browser", is_flag=True, help="Only print the URL; open it yourself.")
@click.option(
    "--timeout",
    cls=Detail,
    type=click.IntRange(1, 86_400),
    metavar="SECONDS",
    help="How long to wait for the browser; by default 300. With --device the server sets the time.",
)
@store_options(default="tokens.json")
@key_options
def login(
    *,
    device: bool,
    device_jkt: bool,
    client_credentials: bool,
    in_agent: bool,
    scope: tuple[str, ...],
    resources: tuple[str, ...],
    redirect_uri: str | None,
    parameters: tuple[str, ...],
    id_token_key: str | None,
    no_browser: bool,
    timeout: int | None,
    **options: Any,
) -> None:
    """Log in with the browser, and store the tokens.

    Your browser opens the server's page. When you have agreed there, it returns to a port of this machine; PKCE and
    state protect the login. On a machine without a browser use --device, or forward the port
    (ssh -L 8765:127.0.0.1:8765) and use --no-browser --redirect-uri http://127.0.0.1:8765/.

    --device shows a code to enter on another device, such as your phone, and waits until you have agreed there. A
    terminal with colours shows a QR code, too, if dpop-toolkit[qr] is installed.

    With --agent and a key of the agent, the signing agent keeps the tokens and refreshes them. Programs hold neither
    the key nor the refresh token: AgentTokens("work") gives them access tokens, where work is the name of the key, or
    the name that --account gives.

    With the scope openid, the ID token in the response is verified; if it is not valid, nothing is stored.

    dpop login and dpop token login are the same command.

    \b
    Examples:
      dpop login --key key.pem --client client.json --scope read
      dpop login --key key.pem --profile google \\
        --client client_secret.json --scope openid
      dpop login --key key.pem --issuer https://as.example --client-id app
      dpop login --key key.pem --client client.json --device
      dpop login --key key.pem --client client.json --client-credentials
      dpop login --key agent:work --client client.json --agent
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    in_browser = not (device or client_credentials)
    if device and client_credentials:
        raise click.UsageError("--device and --client-credentials are two ways to log in; use one of them")
    if device_jkt and not device:
        raise click.UsageError("--device-jkt belongs to --device; a login in the browser names the key by itself")
    if not in_browser and (redirect_uri is not None or no_browser or timeout is not None):
        raise click.UsageError("--redirect-uri, --no-browser and --timeout are for a login in the browser")
    profile = options["profile"]
    stored: Stored | AgentAccount
    if in_agent:
        from dpop_cli.tokens.agent_account import AgentAccount, account_option  # noqa: PLC0415 - files need no agent

        account = account_option(options)
        client, prover = OAuthClient.of(options), prover_of(options)
        stored = AgentAccount(account, prover)
    else:
        stored = Stored.named(options)
        client, prover = OAuthClient.of(options), prover_of(options)
    wanted = " ".join(scope) or None
    more: dict[str, Any] = {**_parameters(parameters), **({"resource": resources} if resources else {})}
    pem = None if id_token_key is None else read_text(id_token_key, "--id-token-key")
    if isinstance(stored, Stored):
        stored.check_writable()
    with contextlib.ExitStack() as opened:
        # Its port is looked for before anything is sent.
        loopback = opened.enter_context(Loopback(redirect_uri or "http://127.0.0.1/")) if in_browser else None
        endpoint = opened.enter_context(client.endpoint(prover))
        opened.enter_context(kept_nonces(prover, endpoint.server.token_endpoint))
        if not isinstance(stored, Stored):
            grant = "client_credentials" if client_credentials else None
            stored.prepare(endpoint, client.secret, profile, grant, client.proof.claims)
        if loopback is not None:
            request = _request(endpoint, loopback, wanted, more)
            open_login(loopback, request, browser=not no_browser)
            with waiting("Waiting for your browser"):
                tokens = loopback.wait(
                    request,
                    endpoint.server,
                    lambda query: _kept(
                        stored,
                        endpoint.finish_authorization(request, query, id_token_key=pem, resource=more.get("resource")),
                    ),
                    timeout=timeout or 300,
                )
        elif device:
            tokens = _kept(stored, device_login(endpoint, wanted, dpop_jkt=device_jkt, id_token_key=pem, **more))
        else:
            tokens = _kept(stored, endpoint.grant("client_credentials", scope=wanted, **more))
    _report(stored, tokens, wanted, "logged in" if in_browser or device else "the client is logged in")


def _request(
    endpoint: TokenEndpoint, loopback: Loopback, wanted: str | None, more: dict[str, Any]
) -> AuthorizationRequest:
    more = {**login_parameters(endpoint.grants.profile), **more}
    return endpoint.start_authorization(loopback.redirect_uri, scope=wanted, **more)


@token.command(short_help="Exchange an authorization code, and store the tokens.")
@server_options
@secret_options("code", "the authorization code, decoded")
@secret_options("code-verifier", "the verifier of PKCE")
@secret_options("id-token-nonce", "the nonce of the authorization request; the ID token is then verified", detail=True)
@click.option("--redirect-uri", metavar="URL", help="The redirect URI of the authorization request.")
@_resource_option
@store_options(default="tokens.json")
@key_options
def redeem(*, redirect_uri: str | None, resources: tuple[str, ...], **options: Any) -> None:
    """Exchange an authorization code that you have for tokens, and store them.

    \b
    Examples:
      dpop token redeem --key key.pem --client client.json --code-file code.txt \\
        --redirect-uri http://127.0.0.1/callback
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    stored, client, prover = Stored.named(options), OAuthClient.of(options), prover_of(options)
    code = Secret.of("code", options).read("Authorization code")
    verifier = Secret.of("code-verifier", options).read("Code verifier")
    nonce = Secret.of("id_token_nonce", options).read("Nonce of the authorization request")
    if code is None:
        raise click.UsageError("which code? use --code-file, --code-env or --code-prompt")
    stored.check_writable()
    with client.endpoint(prover) as endpoint, kept_nonces(prover, endpoint.server.token_endpoint):
        tokens = endpoint.redeem_code(
            code, redirect_uri=redirect_uri, code_verifier=verifier, nonce=nonce, resource=resources or None
        )
        stored.keep(tokens)
    _report(stored, tokens, None, "the code is redeemed")


@token.command()
@server_options
@secret_options("refresh-token", "a refresh token that is not in the store yet")
@click.option("--if-needed", is_flag=True, help="Only if the access token is about to expire.")
@click.option(
    "--scope", multiple=True, metavar="SCOPE", help="Request fewer scopes than were granted; may be repeated."
)
@_resource_option
@store_options(default="tokens.json", argument=True)
@key_options
def refresh(*, if_needed: bool, scope: tuple[str, ...], resources: tuple[str, ...], **options: Any) -> None:
    """Refresh the stored tokens now.

    With --refresh-token-file, -env or -prompt, use a refresh token that you have, and store the new tokens.

    \b
    Examples:
      dpop token refresh
      dpop token refresh --if-needed --client client.json
      dpop token refresh --key key.pem --client client.json \\
        --refresh-token-file refresh.txt
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    stored, client = Stored.named(options), OAuthClient.of(options)
    first = Secret.of("refresh-token", options).read("Refresh token")
    before = None if first is not None else stored.tokens()
    wanted: dict[str, Any] = {"scope": " ".join(scope) or None, "resource": resources or None}
    if before is not None and before.refresh_token is None and not if_needed:
        path = click.format_filename(stored.store.path)
        raise ReauthorizationError(f"no refresh token for {stored.account!r} in {path}: log in again (dpop login)")
    prover = prover_of(options, before)
    with client.endpoint(prover, before) as endpoint, kept_nonces(prover, endpoint.server.token_endpoint):
        if before is None:
            stored.check_writable()
            tokens = stored.keep_result(lambda: endpoint.refresh(first or "", **wanted))
        else:
            source = endpoint.source(stored.store, account=stored.account, **wanted)
            if if_needed:
                with stored.rescuing():
                    tokens = source.tokens()
            else:
                tokens = stored.renewed(source, before)
    if before is not None and tokens.fingerprint == before.fingerprint:
        _report(stored, tokens, None, "nothing had to be refreshed, and nothing was sent")
    else:
        _report(stored, tokens, wanted["scope"], "refreshed")


@token.command()
@click.option("--access-token", "only_token", is_flag=True, help="Print the access token, and nothing else.")
@click.option("--secrets", is_flag=True, help="Show the tokens themselves as well.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--agent", "in_agent", is_flag=True, help="Show fresh tokens of the signing agent, not of a file.")
@store_options(default="tokens.json", argument=True)
def show(*, only_token: bool, secrets: bool, as_json: bool, in_agent: bool, **options: Any) -> None:
    """Show the stored tokens: their expiry, scope, server, and the key they are bound to.

    Nothing is sent, except with --agent.

    \b
    Examples:
      dpop token show
      dpop token show --json
      dpop token show --access-token > token.txt
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    if only_token and (secrets or as_json):
        raise click.UsageError("--access-token prints the token alone; leave --secrets and --json out")
    if in_agent:
        from dpop.agent import AgentTokens  # noqa: PLC0415 - files need no agent
        from dpop_cli.tokens.agent_account import account_option, only_account  # noqa: PLC0415 - as above

        account = only_account(account_option(options))
        tokens = AgentTokens(account).tokens()
    else:
        stored = Stored.named(options)
        account, tokens = stored.account, stored.tokens()
    if only_token:
        click.echo(tokens.access_token)
    elif as_json:
        click.echo(json.dumps(as_facts(tokens, account, secrets=secrets), indent=2))
    else:
        print_lines(*as_lines(tokens, account, secrets=secrets))


@token.command("list", short_help="List the accounts in the store.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
@store_options(default="tokens.json", argument=True)
def list_tokens(*, as_json: bool, **options: Any) -> None:
    """List the accounts in the store: the expiry, scope and key of their tokens. Nothing is sent.

    dpop tokens and dpop token list are the same command.

    \b
    Examples:
      dpop tokens
      dpop tokens --json
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    chosen = options["account"]
    stored = Stored.named(options)
    found: dict[str, TokenSet] = {}
    failure: DPoPError | None = None
    for account in [stored.account] if chosen is not None else stored.store.accounts():
        try:
            found[account] = Stored(stored.store, account).tokens()
        except DPoPError as error:
            if failure is not None:
                tell("Warning", f"{account}: {error}")
            failure = failure or error  # one that cannot be read does not hide the others
    if as_json:
        click.echo(
            json.dumps([as_facts(tokens, account, secrets=False) for account, tokens in found.items()], indent=2)
        )
    else:
        for account, tokens in found.items():
            print_lines(as_line(tokens, account))
    if failure is not None:
        raise failure
    if not found:
        raise TokenStoreError(f"there are no tokens in {stored.as_typed} yet; dpop login gets some")


@token.command(short_help="Give the tokens back to the server.")
@server_options
@click.option("--forget", is_flag=True, help="Send nothing; only remove the tokens here.")
@_agent_option
@store_options(default="tokens.json", argument=True)
@key_options
def revoke(*, forget: bool, in_agent: bool, **options: Any) -> None:
    """Give the tokens back to the server (RFC 7009), and remove them here.

    dpop logout and dpop token revoke are the same command.

    \b
    Examples:
      dpop token revoke --client client.json
      dpop token revoke --forget
      dpop logout --key agent:work --agent
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    if in_agent:
        from dpop_cli.tokens.agent_account import AgentAccount, account_option  # noqa: PLC0415 - files need no agent

        kept = AgentAccount(account_option(options), prover_of(options))
        did = "revoked and removed" if kept.log_out(forget=forget) else "removed from the agent; no server was told"
        click.echo(f"The tokens of {kept.account!r} are {did}.", err=True)
        return
    stored, client = Stored.named(options), OAuthClient.of(options)
    tokens = stored.tokens()
    if not forget:
        prover = prover_of(options, tokens)
        # A refresh that is under way brings another refresh token, and that one must be revoked.
        with locked(stored.store.lock(stored.account), stored.account):
            tokens = stored.tokens()
            with client.endpoint(prover, tokens) as endpoint:
                if endpoint.server.revocation_endpoint is not None:
                    endpoint.revoke(tokens)
                else:
                    with client.found(prover, tokens) as found:
                        found.revoke(tokens)
    stored.store.delete(stored.account)
    click.echo(f"The tokens of {stored.account!r} are {'removed' if forget else 'revoked and removed'}.", err=True)


token.add_command(import_tokens)
token.add_command(refresher)


def _kept(stored: Stored | AgentAccount, tokens: TokenSet) -> TokenSet:
    stored.keep(tokens)
    return tokens


def _report(stored: Stored | AgentAccount, tokens: TokenSet, wanted: str | None, did: str) -> None:
    """Print the facts of the new tokens, what can be done next, and hints about missing ones."""
    print_lines(*as_lines(tokens, stored.account, secrets=False))
    if not isinstance(stored, Stored):
        done(f'{did}; the agent has the tokens. Use them: dpop curl --agent URL, AgentTokens("{stored.account}")')
    else:
        name = stored.as_typed
        account = "" if stored.account == DEFAULT_ACCOUNT else f" --account {shlex.quote(stored.account)}"
        done(f"{did}; the tokens are in {name}. Use them: dpop curl --token-store {name}{account} URL")
    lacking = sorted(tokens.missing_scopes(wanted or ""))
    if lacking:
        hint(f"the server did not grant all scopes; missing: {' '.join(lacking)}")
    if tokens.refresh_token is None:
        hint("there is no refresh token: when the access token expires, log in again")
    if tokens.key_reference is None:
        hint("the tokens do not say where the key is, so name it with --key in each command")


def _parameters(texts: tuple[str, ...]) -> dict[str, Any]:
    pairs: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.UsageError("--param expects NAME=VALUE, such as prompt=login")
        pairs[name] = value
    return pairs
