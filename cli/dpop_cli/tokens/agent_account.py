# SPDX-License-Identifier: Apache-2.0
"""Accounts of the signing agent: hand the tokens of a login to it, and get access tokens from it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from dpop._files import path_from_home
from dpop.agent import AgentClient, AgentKey, AgentTokens
from dpop.client import Prover
from dpop.errors import DPoPError, TokenRefusedError, UsageError
from dpop.origin import Origin
from dpop.profiles import NAMES, RFC9449, Profile
from dpop.tokens import ClientSecretBasic, ClientSecretPost, PrivateKeyJWT, PublicClient, TokenSet
from dpop_cli.console.secret_input import Secret
from dpop_cli.signing.options import load_key
from dpop_cli.tokens.store import rescued

if TYPE_CHECKING:
    from dpop.requests import TokenEndpoint

__all__ = ["AgentAccount", "account_option", "only_account", "tokens_of_agent"]

_LOGIN_SECONDS: Final = 90.0  # a refresh that is under way ends first
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_METHODS: Final[dict[type, str]] = {
    PublicClient: "none",
    ClientSecretBasic: "client_secret_basic",
    ClientSecretPost: "client_secret_post",
    PrivateKeyJWT: "private_key_jwt",
}
_ASSERTION: Final = frozenset({"aud", "exp", "kid", "nbf", "typ"})
_TOKENS: Final = (
    *("access_token", "token_type", "refresh_token", "scope", "issued_at", "expires_at", "refresh_expires_at"),
)


def account_option(options: dict[str, Any]) -> str | None:
    """Take the options of a token store out of a command's; return the account that they name.

    :raises click.UsageError: the options also name a store.
    """
    named = click.get_current_context().get_parameter_source("store_path")
    account: str | None = options.pop("account")
    secret = Secret.of("store-password", options)
    options.pop("store_path")
    argument = options.pop("store_argument", None)
    if named is ParameterSource.COMMANDLINE or secret.given or argument is not None:
        raise click.UsageError("with --agent the agent keeps the tokens; leave the token store out")
    return account


class AgentAccount:
    """An account of the agent, into which a login goes.

    :param account: its name; by default that of the key.
    :raises click.UsageError: the key is not in the agent.
    """

    def __init__(self, account: str | None, prover: Prover) -> None:
        key = prover.key
        if not isinstance(key, AgentKey):
            raise click.UsageError(
                "--agent needs a key that the agent has, because the agent refreshes with it: --key agent:NAME"
            )
        if account is not None and not _NAME.fullmatch(account):
            raise click.UsageError("with --agent an account is 1 to 64 letters, digits, dots, hyphens and underscores")
        self._key = key
        self._members: dict[str, Any] = {}
        self.account = account or key.name

    @property
    def client(self) -> AgentClient:
        """The agent."""
        return self._key.client

    def prepare(
        self,
        endpoint: TokenEndpoint,
        secret: str | None,
        profile: str | None,
        grant: str | None,
        claims: Mapping[str, Any],
    ) -> None:
        """Check that the agent can keep the login, before the user is asked to agree.

        :param secret: the client's secret.
        :param profile: the value of ``--profile``: a name or a file.
        :param grant: the grant type with which the agent gets new tokens if there is no refresh token.
        :param claims: the claims of the client's assertions that were set.
        :raises click.UsageError: the agent cannot keep it.
        """
        grants, server = endpoint.grants, endpoint.server
        auth = grants.client_auth
        method = _METHODS.get(type(auth))
        if method is None or (isinstance(auth, PrivateKeyJWT) and not isinstance(auth.key, AgentKey)):
            raise click.UsageError(
                "the agent cannot authenticate this client, which has a key or certificate of its own; use a key that"
                " the agent has, with a client-id in its rules (--client-key agent:NAME), or log in without --agent,"
                " and keep the tokens fresh with: dpop token refresher"
            )
        if claims.keys() - _ASSERTION:
            raise click.UsageError(f"an agent's client assertions can be told {', '.join(sorted(_ASSERTION))} only")
        members: dict[str, Any] = {
            "token_endpoint": server.token_endpoint,
            "client_id": grants.client_auth.client_id,
            "client_secret": secret,
            "client_auth": method,
            "issuer": server.issuer,
            "profile": _named(grants.profile, profile),
            "grant": grant,
        }
        if isinstance(auth, PrivateKeyJWT) and isinstance(auth.key, AgentKey):
            members |= {"client_key": auth.key.name, "client_assertion": dict(claims) or None}
        origins = self.client.request("key", key=self._key.name)["origins"]
        needed = str(Origin.of_url(server.token_endpoint))
        if needed not in origins:
            raise click.UsageError(
                f"the agent's key {self._key.name} is not for {needed}, which issues the tokens; add it to the key's"
                f" origins: --origin {self._key.name}={needed}"
            )
        revocation = server.revocation_endpoint
        if revocation is not None and str(Origin.of_url(revocation)) in origins:
            members["revocation_endpoint"] = revocation
        if self.client.request("status").get("logins") is None:
            raise click.UsageError("this agent keeps no logins; start it with --logins FOLDER")
        self._members = {name: value for name, value in members.items() if value is not None}

    def keep(self, tokens: TokenSet) -> None:
        """Hand new tokens to the agent; if that fails, keep them in a file and say where."""
        given = {name: getattr(tokens, name) for name in _TOKENS if getattr(tokens, name) is not None}
        if tokens.refresh_token is not None:
            self._members.pop("grant", None)
        elif "grant" not in self._members:
            raise TokenRefusedError(
                "the server gave no refresh token, so the agent cannot keep this login; many servers give one only for"
                " --scope offline_access"
            )
        if tokens.resource:
            given["resource"] = list(tokens.resource)
        try:
            self.client.request(
                "login", seconds=_LOGIN_SECONDS, account=self.account, key=self._key.name, **self._members, **given
            )
        except DPoPError as error:
            then = f"log in again, or use them with --token-store {{}} --account {self.account}"
            raise rescued(error, tokens, self.account, then=then) from error

    def log_out(self, *, forget: bool) -> bool:
        """Have the agent revoke the tokens; return whether the server revoked them.

        :param forget: only remove them from the agent; send nothing.
        """
        told = self.client.request("logout", seconds=_LOGIN_SECONDS, account=self.account, forget=forget)
        return bool(told.get("revoked"))


def tokens_of_agent(account: str | None, key_options: dict[str, Any]) -> tuple[Prover, AgentTokens]:
    """Return a prover with the key of an account, and the account's token source.

    :param account: by default the account with the name of the agent's key, or the only account of the agent.
    :param key_options: the values of the options of ``key_options``. A key that only DPOP_KEY names is ignored if it
        is not in the agent, because DPOP_KEY is for all commands.
    :raises click.UsageError: there are several accounts, and none is named.
    """
    named: str | None = key_options["key_source"]
    by_person = click.get_current_context().get_parameter_source("key_source") is ParameterSource.COMMANDLINE
    if named is not None and (by_person or named[:6].lower() == "agent:"):
        key = load_key(key_options)
        if account is None:
            account = key.name if isinstance(key, AgentKey) else only_account(None)
        return Prover(key), AgentTokens(account)
    return _with_its_key(only_account(account))


def only_account(account: str | None) -> str:
    """Return the named account, or the only account whose tokens this user may have.

    :raises click.UsageError: there are several such accounts, or none.
    """
    if account is not None:
        return account
    with AgentClient() as client:
        found = [each["account"] for each in client.request("list")["accounts"]]
    if len(found) != 1:
        there = f"it has those of {', '.join(found)}; use --account NAME" if found else "dpop login --agent adds one"
        raise click.UsageError(f"which account of the agent? {there}")
    return str(found[0])


def _with_its_key(account: str) -> tuple[Prover, AgentTokens]:
    with AgentClient() as client:
        keys = {each["account"]: each["key"] for each in client.request("list")["accounts"]}
    tokens = AgentTokens(account)
    if account not in keys:
        tokens()  # raises an error that names the account
    return Prover(AgentKey.open(keys[account])), tokens


def _named(profile: Profile, given: str | None) -> str | None:
    """The name or absolute path of a profile, for the agent to load."""
    if profile == RFC9449:
        return None
    for name in NAMES:
        if Profile.load(name) == profile:
            return name
    if given is None:
        raise UsageError("the agent cannot use this profile, which has no name and no file")
    return str(path_from_home(given).absolute())
