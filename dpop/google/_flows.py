# SPDX-License-Identifier: Apache-2.0
"""The flows of google_auth_oauthlib, with a proof in the code exchange."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Self

from dpop.client._prover import Prover
from dpop.errors import UsageError
from dpop.google._credentials import Credentials, scope_list
from dpop.origin import Origin
from dpop.profiles import GOOGLE
from dpop.requests import DPoPAdapter
from dpop.tokens._responses import seconds_of

if TYPE_CHECKING:
    import requests

    from dpop.keys import Key

    class _GoogleFlow:
        """The interface of google_auth_oauthlib's ``Flow``, which has no type annotations."""

        oauth2session: Any
        client_config: Mapping[str, Any]
        redirect_uri: str | None
        code_verifier: str | None

        @classmethod
        def from_client_config(
            cls, client_config: Mapping[str, Any], scopes: Iterable[str] | None, **options: Any
        ) -> Self: ...
        @classmethod
        def from_client_secrets_file(
            cls, client_secrets_file: str, scopes: Iterable[str] | None, **options: Any
        ) -> Self: ...
        def authorization_url(self, **parameters: Any) -> tuple[str, str]: ...
        def fetch_token(self, **options: Any) -> Mapping[str, Any]: ...
        @property
        def credentials(self) -> Any: ...
        def authorized_session(self) -> requests.Session: ...

    class _GoogleInstalledAppFlow(_GoogleFlow):
        """The interface of google_auth_oauthlib's ``InstalledAppFlow``, for a program on the user's own machine."""

        def run_local_server(self, **options: Any) -> Credentials: ...

    _Shared = _GoogleFlow
else:
    from google_auth_oauthlib.flow import Flow as _GoogleFlow
    from google_auth_oauthlib.flow import InstalledAppFlow as _GoogleInstalledAppFlow

    _Shared = object

__all__ = ["Flow", "InstalledAppFlow"]

_log: Final = logging.getLogger("dpop.tokens")


class _SignedExchange(_Shared):
    """A mixin for both flows: the code exchange with a proof."""

    _prover: Prover | None = None
    _key_reference: str | None = None
    _refresh_expires_at: float | None = None

    @classmethod
    def from_client_config(
        cls,
        client_config: Mapping[str, Any],
        scopes: Iterable[str] | None,
        *,
        key: Key | Prover | None = None,
        key_reference: str | None = None,
        **options: Any,
    ) -> Self:
        """Make a flow from a parsed client secrets file.

        :param key: the key to which the refresh token will be bound; :meth:`bind` can set it later.
        :param key_reference: the path or URI of the key; by default the one that ``key`` was loaded from.
        :param options: further options of google_auth_oauthlib's flow.
        """
        options.setdefault("autogenerate_code_verifier", True)  # PKCE; older versions do not use it by default
        flow = super().from_client_config(client_config, scopes, **options)
        return flow if key is None else flow.bind(key, key_reference=key_reference)

    def bind(self, key: Key | Prover, *, key_reference: str | None = None) -> Self:
        """Set the key that signs the code exchange; return the flow."""
        self._prover = Prover.of(key).for_algs(GOOGLE.algs or ())
        self._key_reference = key_reference
        token_uri = self.client_config["token_uri"]
        adapter = DPoPAdapter(
            self._prover,
            origins=str(Origin.of_url(token_uri)),
            as_endpoints=[token_uri],
            profile=GOOGLE._replace(algs=None),  # the prover has an algorithm from that list already
        )
        self.oauth2session.mount(token_uri, adapter)
        return self

    def fetch_token(self, **options: Any) -> Mapping[str, Any]:
        """Exchange the code; arguments as for google_auth_oauthlib's flow.

        It is not an error if the user grants fewer scopes than requested: see ``credentials.missing_scopes(...)``.

        :raises UsageError: the flow has no key.
        """
        if self._prover is None:
            raise UsageError(
                "the flow has no key to bind the refresh token to: make it with key=, or call flow.bind(key)"
            )
        try:
            super().fetch_token(**options)
        except Warning as warning:
            # oauthlib raises this if the scopes differ from the requested ones; valid tokens would then be lost.
            token = getattr(warning, "token", None)
            if token is None:
                raise
            self.oauth2session.token = token
            wanted = scope_list(self.oauth2session.scope) or []  # google_auth_oauthlib takes them in one text, too
            lacking = sorted(set(wanted) - set(token.get("scope", ())))
            if lacking:
                _log.warning("the user did not grant all requested scopes; missing: %s", " ".join(lacking))
        tokens: Mapping[str, Any] = self.oauth2session.token
        lifetime = seconds_of(tokens.get("refresh_token_expires_in"))
        self._refresh_expires_at = time.time() + lifetime if lifetime and lifetime > 0 else None
        return tokens

    @property
    def credentials(self) -> Credentials:
        """Credentials that refresh with the key, for the scopes that were granted.

        :raises ValueError: no code has been exchanged yet.
        """
        plain = super().credentials
        token: Mapping[str, Any] = self.oauth2session.token
        credentials = Credentials.from_credentials(
            plain,
            key=self._prover,
            key_reference=self._key_reference,
            refresh_expires_at=self._refresh_expires_at,
        )
        granted = list(token.get("scope") or credentials.scopes or ())
        if set(credentials.scopes or ()) - set(granted):
            credentials._scopes = granted  # noqa: SLF001 - a refresh must not request more
        return credentials


class Flow(_SignedExchange, _GoogleFlow):
    """``google_auth_oauthlib.flow.Flow`` whose code exchange carries a proof."""


class InstalledAppFlow(_SignedExchange, _GoogleInstalledAppFlow):
    """``google_auth_oauthlib.flow.InstalledAppFlow`` whose code exchange carries a proof."""
