# SPDX-License-Identifier: Apache-2.0
"""Credentials of google-auth whose tokens are in a store that other programs use as well."""

from __future__ import annotations

import contextvars
import datetime as dt
from collections.abc import Callable, Iterable
from typing import Any, Final, Self

import google.oauth2.credentials

from dpop.agent._tokens import AgentTokens
from dpop.errors import ArgumentTypeError, DPoPError
from dpop.google._credentials import naive_utc, scope_list
from dpop.google._transport import check_bearer, refresh_error
from dpop.tokens._source import RefreshingSource

__all__ = ["SharedCredentials"]

_before_request: Final = contextvars.ContextVar("dpop.google before_request", default=False)


class SharedCredentials(google.oauth2.credentials.Credentials):
    """Credentials that get their access token from a token source and its store.

    Among all threads, processes and hosts, one refreshes the token before it expires. Copies share the source. Pickling
    is an error, because a source has a key: make new credentials in each process.

    :param source: the result of ``source()`` of a :class:`dpop.requests.TokenEndpoint` with Google's profile, or a
        :class:`dpop.agent.AgentTokens`, which refreshes in the signing agent.
    :param scopes: the scopes for ``has_scopes``; a refresh requests the granted scopes.
    :param quota_project_id: as for google-auth's class.
    """

    token: str | None
    expiry: dt.datetime | None

    def __init__(
        self,
        source: RefreshingSource | AgentTokens,
        *,
        scopes: Iterable[str] | str | None = None,
        quota_project_id: str | None = None,
    ) -> None:
        if not isinstance(source, RefreshingSource | AgentTokens):
            raise ArgumentTypeError("source", "a source, made by a TokenEndpoint's source(), or AgentTokens", source)
        super().__init__(None, scopes=scope_list(scopes), quota_project_id=quota_project_id)
        self._source = source

    def __repr__(self) -> str:
        return f"<dpop.google.SharedCredentials from {self._source!r}>"

    def refresh(self, request: Callable[..., Any]) -> None:  # noqa: ARG002 - the source has an endpoint of its own
        """Get another token from the source, because an API refused the current one.

        :raises google.auth.exceptions.RefreshError: there is no token; its cause is an error of :mod:`dpop.errors`.
        """
        try:
            if self.token is not None and not _before_request.get():
                self._source.refused(self.token)
            tokens = self._source.tokens()
            check_bearer(tokens)
        except DPoPError as error:
            raise refresh_error(error) from error
        self.token = tokens.access_token
        self._granted_scopes = sorted(tokens.scopes) or None
        expires_at = tokens.expires_at
        self.expiry = None if expires_at is None else naive_utc(dt.datetime.fromtimestamp(expires_at, dt.UTC))

    def before_request(self, request: Callable[..., Any], method: str, url: str, headers: dict[str, str]) -> None:
        """Put a fresh access token into the headers of an API request."""
        # google-auth also calls refresh() in a token's last minutes, without a refusal; then the source decides.
        mark = _before_request.set(True)
        try:
            super().before_request(request, method, url, headers)
        finally:
            _before_request.reset(mark)

    def with_non_blocking_refresh(self) -> None:
        """Do nothing: the source renews the token in the background already."""

    def _make_copy(self) -> Self:
        copy = self.__class__(self._source)
        worker = copy._refresh_worker  # noqa: SLF001 - each object needs a thread of its own
        vars(copy).update(vars(self))
        copy._refresh_worker = worker  # noqa: SLF001 - the same
        return copy

    def __copy__(self) -> Self:
        return self._make_copy()

    def __deepcopy__(self, _memo: object) -> Self:
        return self._make_copy()
