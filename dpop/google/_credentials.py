# SPDX-License-Identifier: Apache-2.0
"""Credentials of google-auth whose refresh token is bound to a key."""

from __future__ import annotations

import datetime as dt
import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import google.oauth2.credentials
from google.auth.credentials import TokenState
from google.auth.exceptions import RefreshError

from dpop._files import without_mark
from dpop._tracebacks import hide_frames
from dpop.errors import DPoPError, UsageError
from dpop.google._transport import SignedRequest, carrier_of, refresh_error, verdict
from dpop.profiles import GOOGLE
from dpop.requests import TokenEndpoint
from dpop.tokens._key_reference import KeyHolder
from dpop.tokens._metadata import ServerMetadata
from dpop.tokens._token_set import TokenSet

if TYPE_CHECKING:
    from dpop.client._prover import Prover
    from dpop.keys import Key

__all__ = ["Credentials", "naive_utc", "scope_list", "timestamp"]

_TOKEN_URI: Final = "https://oauth2.googleapis.com/token"  # noqa: S105 - a URL
_REVOCATION_URI: Final = "https://oauth2.googleapis.com/revoke"

_Password = str | bytes | Callable[[], str | bytes] | None


class Credentials(google.oauth2.credentials.Credentials):
    """``google.oauth2.credentials.Credentials`` that send a proof with every refresh.

    Google's libraries accept them like its own credentials. Access tokens are Google's Bearer tokens and are sent as
    before. Copies and variants (``with_quota_project`` and others) keep the key. A pickle contains a reference to the
    key; pickling is an error if no reference is known. Threads that need a token at the same time share one refresh.

    :param token: an access token, or ``None``.
    :param arguments: the arguments of google-auth's class: ``refresh_token``, ``token_uri``, ``client_id``,
        ``client_secret``, ``scopes`` and so on.
    :param key: the key (or its prover) to which the refresh token is bound.
    :param key_reference: the path or URI of the key; by default the one that ``key`` was loaded from. Without
        ``key``, the key is loaded from there when it is first needed.
    :param key_password: the password of that key, or a function that asks for it.
    :param refresh_expires_at: Unix seconds when the refresh token expires, if Google said so.
    :raises UsageError: neither a key nor a reference was given.
    """

    token: str | None
    expiry: dt.datetime | None

    @hide_frames
    def __init__(
        self,
        token: str | None,
        *arguments: Any,
        key: Key | Prover | None = None,
        key_reference: str | None = None,
        key_password: _Password = None,
        refresh_expires_at: float | None = None,
        **more: Any,
    ) -> None:
        super().__init__(token, *arguments, **more)
        self._bind(KeyHolder(key, reference=key_reference, password=key_password), refresh_expires_at)

    def _bind(self, holder: KeyHolder, refresh_expires_at: float | None) -> None:
        for name in ("_scopes", "_default_scopes", "_granted_scopes"):
            if isinstance(getattr(self, name, None), str):
                vars(self)[name] = scope_list(getattr(self, name))
        self.expiry = naive_utc(self.expiry)
        self._dpop_key = holder
        self._refresh_expires_at = refresh_expires_at
        self._process_lock = (os.getpid(), threading.RLock())

    def __repr__(self) -> str:
        return f"<dpop.google.Credentials of {self.client_id}, jkt {self._dpop_key.jkt}>"

    # -- the key and the refresh token

    @property
    def jkt(self) -> str | None:
        """The thumbprint of the key to which the refresh token is bound."""
        return self._dpop_key.jkt

    @property
    def key_reference(self) -> str | None:
        """The path or URI of the key; ``None`` if it is not known."""
        return self._dpop_key.reference

    @property
    def refresh_expires_at(self) -> float | None:
        """Unix seconds when the refresh token expires (Google's time-based access); ``None`` if it does not."""
        return self._refresh_expires_at

    def missing_scopes(self, *scopes: str) -> frozenset[str]:
        """Return the ``scopes`` that the user did not grant; an argument may contain several, separated by spaces."""
        granted: Iterable[str] | str = self.granted_scopes or self.scopes or ()
        return frozenset(" ".join(scopes).split()) - frozenset(granted.split() if isinstance(granted, str) else granted)

    @hide_frames
    def with_key(
        self, key: Key | Prover | None = None, *, key_reference: str | None = None, key_password: _Password = None
    ) -> Self:
        """Return a copy with its key: needed after unpickling, if the key has a password.

        :raises KeyMismatchError: the refresh token is bound to another key.
        """
        if key is None and key_reference is None:
            key_reference = self.key_reference
        copy = self._make_copy()
        copy._dpop_key = KeyHolder(key, reference=key_reference, jkt=self.jkt, password=key_password)  # noqa: SLF001
        return copy

    # -- made from other credentials

    @classmethod
    @hide_frames
    def from_credentials(
        cls,
        credentials: google.oauth2.credentials.Credentials,
        *,
        key: Key | Prover | None = None,
        key_reference: str | None = None,
        key_password: _Password = None,
        refresh_expires_at: float | None = None,
    ) -> Self:
        """Make bound credentials from google-auth's credentials and the key for which they were issued.

        :raises UsageError: neither a key nor a reference was given.
        """
        holder = KeyHolder(key, reference=key_reference, password=key_password)
        return cls._of(vars(credentials), holder, refresh_expires_at)

    @classmethod
    def _of(cls, facts: Mapping[str, Any], holder: KeyHolder, refresh_expires_at: float | None) -> Self:
        credentials = cls.__new__(cls)
        vars(credentials).update(facts)
        credentials._refresh_worker = _new_worker()  # noqa: SLF001 - the same class
        credentials._bind(holder, refresh_expires_at)  # noqa: SLF001 - the same class
        return credentials

    def _make_copy(self) -> Self:
        """Make the copy that google-auth's ``with_...`` methods change; its own method would lose the key."""
        return self._of(vars(self), self._dpop_key, self._refresh_expires_at)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        state.pop("_process_lock", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._refresh_worker = _new_worker()
        self._bind(state["_dpop_key"], state.get("_refresh_expires_at"))

    def to_token_set(self) -> TokenSet:
        """Return a token set for a store that :class:`dpop.google.SharedCredentials` or ``dpop curl`` uses.

        :raises UsageError: there is no access token yet; refresh first.
        """
        if not self.token:
            raise UsageError("there is no access token yet; refresh the credentials first")
        scopes: Iterable[str] | str = self.granted_scopes or self.scopes or ()
        return TokenSet(
            access_token=self.token,
            token_type="Bearer",  # noqa: S106 - a type
            expires_at=None if self.expiry is None else timestamp(self.expiry),
            refresh_token=self.refresh_token,
            refresh_expires_at=self.refresh_expires_at,
            scope=(scopes if isinstance(scopes, str) else " ".join(scopes)) or None,
            jkt=self.jkt,
            key_reference=self.key_reference,
            token_endpoint=self.token_uri,
            client_id=self.client_id,
            id_token=self.id_token,
        )

    # -- as google-auth's JSON

    def to_json(self, strip: Iterable[str] | None = None) -> str:
        """Return google-auth's JSON with a member ``dpop``: the key's reference and thumbprint, never the key.

        :param strip: the members to leave out; ``dpop`` is allowed.
        """
        members: dict[str, Any] = json.loads(super().to_json(strip))
        own = {"key_reference": self.key_reference, "jkt": self.jkt, "refresh_expires_at": self.refresh_expires_at}
        if strip is None or "dpop" not in strip:
            members["dpop"] = {name: fact for name, fact in own.items() if fact is not None}
        return json.dumps(members)

    @classmethod
    @hide_frames
    def from_authorized_user_info(
        cls,
        info: Mapping[str, Any],
        scopes: Iterable[str] | None = None,
        *,
        key: Key | Prover | None = None,
        key_password: _Password = None,
    ) -> Self:
        """Make credentials from the parsed JSON of :meth:`to_json`. As in google-auth, ``token_uri`` is Google's.

        :param key: a key that replaces the one in the JSON.
        :raises UsageError: neither the arguments nor the JSON contain a key, or the member ``dpop`` is malformed.
        :raises KeyMismatchError: the refresh token is bound to another key.
        """
        own = {} if info.get("dpop") is None else info["dpop"]
        if not isinstance(own, Mapping):
            raise UsageError("the member dpop of authorized user info must be an object, as to_json writes it")
        texts = {name: own.get(name) for name in ("key_reference", "jkt")}
        wrong = [name for name, value in texts.items() if value is not None and not isinstance(value, str)]
        expires_at = own.get("refresh_expires_at")
        if wrong or isinstance(expires_at, bool) or not isinstance(expires_at, int | float | None):
            raise UsageError(
                "the member dpop of authorized user info is malformed; to_json writes key_reference, jkt and more"
            )
        plain = google.oauth2.credentials.Credentials.from_authorized_user_info(info, scopes)
        holder = KeyHolder(key, reference=texts["key_reference"], jkt=texts["jkt"], password=key_password)
        return cls._of(vars(plain), holder, expires_at)

    @classmethod
    def from_authorized_user_file(
        cls,
        filename: str | os.PathLike[str],
        scopes: Iterable[str] | None = None,
        *,
        key: Key | Prover | None = None,
        key_password: _Password = None,
    ) -> Self:
        """Make credentials from a file with the JSON of :meth:`to_json`; see :meth:`from_authorized_user_info`."""
        info = json.loads(without_mark(Path(filename).read_bytes()))
        return cls.from_authorized_user_info(info, scopes, key=key, key_password=key_password)

    # -- on the wire

    @hide_frames
    def refresh(self, request: Callable[..., Any]) -> None:
        """Get a new access token with the refresh token and a proof.

        :param request: a request of google-auth, whose timeout, proxies, TLS settings and headers are used.
        :raises google.auth.exceptions.RefreshError: there is no new token; its cause is an error of
            :mod:`dpop.errors` that says why. If tokens came that must not be used, they are in its ``tokens``.
        :raises google.auth.exceptions.TransportError: the token endpoint did not respond.
        """
        seen = self.token
        with self._refresh_lock():
            if self.token != seen and self.valid:
                return  # another thread has refreshed while this one waited
            self._refresh(request)

    @hide_frames
    def before_request(self, request: Callable[..., Any], method: str, url: str, headers: dict[str, str]) -> None:
        """Put a fresh access token into the headers of an API request."""
        needs_token = self.token_state is TokenState.INVALID if self._use_non_blocking_refresh else not self.valid
        if needs_token:
            with self._refresh_lock():  # a later thread finds the token of the first one
                super().before_request(request, method, url, headers)
        else:
            super().before_request(request, method, url, headers)

    @hide_frames
    def revoke(self, request: Callable[..., Any] | None = None, *, revocation_uri: str | None = None) -> None:
        """Revoke the refresh token, or the access token if there is none, and with it the user's grant (RFC 7009).

        :param revocation_uri: the server's revocation endpoint, if it is not Google's.
        :raises TokenRequestError: the server did not revoke it.
        """
        token = self.refresh_token or self.token
        if token is None:
            raise UsageError("there is no token to revoke")
        if revocation_uri is None:
            if self.token_uri != _TOKEN_URI:
                raise UsageError("the token endpoint is not Google's: give revocation_uri= as well")
            revocation_uri = _REVOCATION_URI
        with self._endpoint(request, revocation_uri) as endpoint:
            endpoint.revoke(token)
        self.token = None
        self._refresh_token = None

    def _refresh(self, request: Callable[..., Any]) -> None:
        """Run google-auth's refresh, but send its token requests with a token endpoint of this package."""
        facts = (self._refresh_token, self._token_uri, self._client_id, self._client_secret)
        if any(fact is None for fact in facts):
            super().refresh(request)  # calls its refresh_handler, or raises an error that names the missing argument
            return
        try:
            endpoint = self._endpoint(request)
        except DPoPError as error:
            raise refresh_error(error) from error
        with endpoint:
            signed = SignedRequest(request, endpoint)
            try:
                super().refresh(signed)
            except RefreshError as error:
                if signed.error is None or error.__cause__ is not None:
                    raise
                secrets = [str(self._refresh_token), str(self._client_secret)]
                raise verdict(error, signed.error, secrets) from signed.error
        if signed.tokens is not None and signed.tokens.refresh_expires_at is not None:
            self._refresh_expires_at = signed.tokens.refresh_expires_at

    def _endpoint(self, request: object, revocation_uri: str | None = None) -> TokenEndpoint:
        http, timeout = carrier_of(request, self._token_uri)
        return TokenEndpoint(
            self._dpop_key.prover(),
            ServerMetadata(token_endpoint=self._token_uri, revocation_endpoint=revocation_uri),
            client_id=self._client_id,
            client_secret=self._client_secret or None,
            client_auth="client_secret_post" if self._client_secret else "none",
            profile=GOOGLE,
            timeout=timeout,
            http=http,
        )

    def _refresh_lock(self) -> threading.RLock:
        """Return this process's lock: after a fork, a thread of the parent may hold the inherited lock forever."""
        pid, lock = self._process_lock
        if pid != os.getpid():
            lock = threading.RLock()
            self._process_lock = (os.getpid(), lock)
        return lock


def scope_list(scopes: Iterable[str] | str | None) -> list[str] | None:
    """Return scopes as a list, as google-auth expects them; a str contains several, separated by spaces."""
    if scopes is None:
        return None
    return scopes.split() if isinstance(scopes, str) else list(scopes)


def naive_utc(expiry: dt.datetime | None) -> dt.datetime | None:
    """Convert a time to UTC without a time zone, as google-auth compares it."""
    return expiry if expiry is None or expiry.tzinfo is None else expiry.astimezone(dt.UTC).replace(tzinfo=None)


def timestamp(expiry: dt.datetime) -> float:
    """Convert a time to Unix seconds; a time without a zone is UTC."""
    return (expiry if expiry.tzinfo is not None else expiry.replace(tzinfo=dt.UTC)).timestamp()


def _new_worker() -> Any:
    """Return a new thread object of google-auth for background refreshes; each credentials object has its own."""
    return google.oauth2.credentials.Credentials(None)._refresh_worker  # noqa: SLF001 - there is no public way
