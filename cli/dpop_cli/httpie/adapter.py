# SPDX-License-Identifier: Apache-2.0
"""The key and tokens of the HTTPie plugin, and its adapter, which signs."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any, Final

import click
import requests
from httpie.adapters import HTTPieHTTPAdapter

import dpop
from dpop.client import AccessToken, NonceKey, Prover, Role
from dpop.encoding import json_object
from dpop.errors import EncodingError
from dpop.origin import Origin
from dpop.requests import DPoPAdapter, DPoPAuth
from dpop.tokens import DEFAULT_ACCOUNT, FileTokenStore
from dpop_cli.signing.nonce_state import NonceState, StateError
from dpop_cli.signing.options import check_key_source, keep_nonce
from dpop_cli.tokens.client import OAuthClient

__all__ = ["FirstOriginAdapter", "Signing"]

_MAX_FILE: Final = 1 << 20


class Signing:
    """A key, tokens if there are any, and the origin that gets them: that of the first request, typed by the user."""

    def __init__(self, prover: Prover, token: AccessToken | None) -> None:
        self.prover = prover
        self._token = token
        self.origin: Origin | None = None

    @classmethod
    def of(cls, named: str) -> Signing:
        """Load a key; or the tokens in a file, which are refreshed when they have expired, and their key.

        :raises click.UsageError: ``named`` is neither of the two.
        :raises DPoPError: the key or the tokens cannot be loaded.
        """
        check_key_source(named)
        if not _holds_tokens(named):
            return cls(Prover(dpop.load_key(named, password=_ask)), None)
        store = FileTokenStore(named)
        tokens = store.load()
        if tokens is None:
            raise click.UsageError(
                f"there are no tokens of account {DEFAULT_ACCOUNT!r} in {named}; run: dpop token login"
            )
        reference = tokens.key_reference or os.environ.get("DPOP_KEY")
        if not reference:
            raise click.UsageError(f"the tokens in {named} do not say where their key is; name it with DPOP_KEY")
        key = dpop.load_key(reference, password=_ask)
        tokens.check_key(key.thumbprint)
        prover = Prover(key)
        options = {"client_secret_file": None, "client_secret_env": None, "client_secret_prompt": False}
        # The functions of the commands need click's context.
        with click.Context(click.Command("httpie")):
            client = OAuthClient.of({"client_file": os.environ.get("DPOP_CLIENT"), **options})
            return cls(prover, client.endpoint(prover, tokens).source(store))

    def auth(self) -> DPoPAuth:
        """Return the ``auth=`` for requests."""
        return DPoPAuth(self.prover, self._token)

    def adapter(self) -> FirstOriginAdapter:
        """Return an adapter that signs with this key."""
        return FirstOriginAdapter(self)

    def __repr__(self) -> str:
        return f"<Signing for {self.origin}>"


class _SigningAdapter(DPoPAdapter, HTTPieHTTPAdapter):  # type: ignore[misc]
    """An adapter that signs; like HTTPie's own, it keeps repeated header fields separate."""


class FirstOriginAdapter(HTTPieHTTPAdapter):  # type: ignore[misc]
    """Signs requests to the origin of the first request; after a redirect to another origin, nothing is signed."""

    def __init__(self, signing: Signing) -> None:
        super().__init__()
        self._signing = signing
        self._adapter: DPoPAdapter | None = None

    def send(self, request: requests.PreparedRequest, *args: Any, **settings: Any) -> requests.Response:
        """Send a request with the nonce that an earlier command learnt; store a newer one for the next command."""
        prover = self._signing.prover
        if self._signing.origin is None:
            self._signing.origin = Origin.of_url(str(request.url))
        origin = self._signing.origin
        if self._adapter is None:
            self._adapter = _SigningAdapter(prover, origins=str(origin))
        key = NonceKey(prover.thumbprint, origin, Role.RS)
        before = prover.nonces.newest(key)
        if before is None:
            with suppress(StateError):
                before = NonceState.of_user().newest(key)
            if before is not None:
                prover.nonces.learn(key, before)
        try:
            response: requests.Response = self._adapter.send(request, *args, **settings)
            return response
        finally:
            newest = prover.nonces.newest(key)
            if newest is not None and newest != before:
                keep_nonce(key, newest)

    def close(self) -> None:
        """Close the connections."""
        super().close()
        if self._adapter is not None:
            self._adapter.close()


def _holds_tokens(named: str) -> bool:
    """Whether this is a token file: JSON that is not a JWK."""
    try:
        with open(named, "rb") as file:  # noqa: PTH123 - a URI such as pkcs11:... is no path
            return "kty" not in json_object(file.read(_MAX_FILE))
    except (OSError, EncodingError):
        return False


def _ask() -> str:
    entered: str = click.prompt("Password or PIN of the key", hide_input=True, err=True)
    return entered
