# SPDX-License-Identifier: Apache-2.0
"""The access token of ``dpop curl``: none, a given one, or a fresh one from a store or the signing agent."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from click.core import ParameterSource

from dpop.client import AccessToken, Prover
from dpop.errors import InvalidTargetError
from dpop.htu import url_htu
from dpop_cli.commands.curl.options import CurlWords
from dpop_cli.console.output import hint, show_warnings
from dpop_cli.console.secret_input import Secret
from dpop_cli.signing.options import load_key, read_token

if TYPE_CHECKING:
    from dpop_cli.tokens.client import OAuthClient
    from dpop_cli.tokens.store import Stored

__all__ = ["CurlToken"]

# Tokens in a store take a third of the time to load that a proof takes; without a store nothing of that is loaded.


class CurlToken(NamedTuple):
    """Key and token as the options name them."""

    named: str | None
    stored: Stored | None
    client: OAuthClient | None
    key_options: dict[str, Any]
    in_agent: bool = False
    account: str | None = None

    def __repr__(self) -> str:
        return f"<CurlToken named={self.named is not None} stored={self.stored is not None}>"

    @classmethod
    def of(cls, options: dict[str, Any], words: CurlWords, *, allow_http: bool) -> CurlToken:
        """Take the options for key, token, store and client out of a command's options.

        A store that only DPOP_TOKEN_STORE or a context names is used where that is safe to assume: for a request that
        has no other credentials and is not to the token endpoint itself, and with tokens that are bound to a key.

        :raises click.UsageError: a token and a store.
        """
        named = read_token(options)
        key_options = {name: options[name] for name in options if name not in _OTHERS}
        if options["in_agent"]:
            from dpop_cli.tokens.agent_account import account_option  # noqa: PLC0415 - see above

            if named is not None:
                raise click.UsageError("give a token (--token-file and the like) or --agent, not both")
            show_warnings()
            return cls(None, None, None, key_options, in_agent=True, account=account_option(options))
        named_by = click.get_current_context().get_parameter_source("store_path")
        by_variable = named_by in {ParameterSource.ENVIRONMENT, ParameterSource.DEFAULT_MAP}
        if by_variable and (named is not None or words.has("user")):
            options["store_path"] = None
        if options["store_path"] is None:
            if options["account"] is not None or Secret.of("store-password", options).given:
                raise click.UsageError("--account and --store-password-... belong to a token store, and none is named")
            return cls(named, None, None, key_options)
        show_warnings()
        from dpop_cli.tokens.client import OAuthClient  # noqa: PLC0415 - see above
        from dpop_cli.tokens.store import Stored  # noqa: PLC0415 - see above

        stored = Stored.of(options)
        if by_variable and stored is not None and not _fits(stored, words):
            return cls(named, None, None, key_options)
        if named is not None and stored is not None:
            raise click.UsageError("give a token (--token-file and the like) or --token-store, not both")
        return cls(named, stored, OAuthClient.of({**options, "allow_http": allow_http}), key_options)

    @property
    def is_there(self) -> bool:
        """Whether the request will carry a token."""
        return self.named is not None or self.stored is not None or self.in_agent

    @contextlib.contextmanager
    def in_use(self) -> Iterator[tuple[Prover, AccessToken | None]]:
        """Yield the prover, and the token or its source; refreshed tokens are stored."""
        if self.in_agent:
            from dpop_cli.tokens.agent_account import tokens_of_agent  # noqa: PLC0415 - see above

            yield tokens_of_agent(self.account, self.key_options)
            return
        if self.stored is None or self.client is None:
            yield Prover(load_key(self.key_options)), self.named
            return
        from dpop_cli.tokens.client import kept_nonces, prover_of  # noqa: PLC0415 - see above

        tokens = self.stored.tokens()
        prover = prover_of(self.key_options, tokens)
        with (
            self.client.endpoint(prover, tokens) as endpoint,
            kept_nonces(prover, endpoint.server.token_endpoint),
            self.stored.rescuing(),
        ):
            yield prover, endpoint.source(self.stored.store, account=self.stored.account)


def _fits(stored: Stored, words: CurlWords) -> bool:
    """Whether the tokens of a default store, not named on the command line, belong to this request."""
    tokens = stored.store.load(stored.account)
    if tokens is None:
        hint(
            f"{click.format_filename(stored.store.path)}, the token store that DPOP_TOKEN_STORE or a context names, has"
            f" no tokens of account {stored.account!r}; dpop login gets some"
        )
        return False
    if not tokens.is_bound:
        hint(
            f"the tokens in {click.format_filename(stored.store.path)} are bound to no key, so they are sent only to a"
            " URL for which --token-store names them"
        )
        return False
    try:
        return tokens.token_endpoint is None or url_htu(tokens.token_endpoint) not in map(url_htu, words.urls)
    except InvalidTargetError:
        return True  # the request itself is refused for it


_OTHERS = frozenset(
    {
        "in_agent",
        *("client_file", "client_secret_file", "client_secret_env", "client_secret_prompt"),
        *("store_path", "account", "store_password_file", "store_password_env", "store_password_prompt"),
    }
)
