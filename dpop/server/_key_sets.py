# SPDX-License-Identifier: Apache-2.0
"""The keys of an authorization server: found by its metadata, read one by one, kept fresh (RFC 7517, RFC 8414).

A JOSE library reads a key set as a whole: one key of an unknown kind loses all of them, and keys that are weak or
private come in. So each key passes the check for keys of strangers, and a bad one is skipped.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from dpop._ending import uninterrupted
from dpop._files import without_mark
from dpop._forking import import_now, reset_after_fork
from dpop._well_known import metadata_urls
from dpop.encoding import json_object
from dpop.errors import DPoPError, EncodingError, InvalidKeyError, LookupUnavailableError
from dpop.keys._public import PublicKey, is_given
from dpop.server._checks import MAX_RSA_EXPONENT, MAX_RSA_MODULUS, ONE_KEY_TWO_NAMES
from dpop.server._events import Event, EventHook, emit
from dpop.server._lookups import Fetch, Guard, Lookup, LookupRequest, Waits, check_url

__all__ = ["IssuerKey", "IssuerKeys", "KeySet", "read_key_set"]

_log = logging.getLogger("dpop.server")
_MAX_KEYS: Final = 100
_MAX_TRIED: Final = 8
_MAX_DOCUMENT: Final = 1 << 20
_MAX_DEPTH: Final = 16
# Requests that wait for a key that may not exist: strangers can make those, and a thread that waits serves nobody.
_MAX_WAITING: Final = 8


class IssuerKey(NamedTuple):
    """A key of an authorization server, for signatures of its tokens.

    :param kid: its name; None if the key set gives none.
    :param public: the checked key.
    :param jose: the key as an object of joserfc.
    """

    kid: str | None
    public: PublicKey
    jose: Any

    @property
    def identity(self) -> tuple[str | None, str]:
        """The name and the thumbprint: a key that has changed under its name is another one."""
        return self.kid, self.public.thumbprint

    def verifies(self, alg: str) -> bool:
        """Whether the key may verify signatures of the algorithm (RFC 7517 §4.4, RFC 8725 §3.1)."""
        declared = self.public.declared_alg
        same = declared in {None, alg} or {declared, alg} == ONE_KEY_TWO_NAMES
        return same and alg in self.public.algs


class KeySet:
    """The usable keys of a JWK Set. Immutable."""

    def __init__(self, keys: tuple[IssuerKey, ...]) -> None:
        self._keys = keys
        self.identities: frozenset[tuple[str | None, str]] = frozenset(key.identity for key in keys)

    def find(self, kid: str | None, alg: str) -> tuple[IssuerKey, ...]:
        """The keys to try, at most eight: those of this name, or all if the token names none."""
        return tuple(key for key in self._keys if (kid is None or key.kid == kid) and key.verifies(alg))[:_MAX_TRIED]

    def __len__(self) -> int:
        return len(self._keys)


def read_key_set(body: bytes) -> tuple[KeySet, list[str]]:
    """Read a JWK Set, and say for each key that was skipped why (RFC 7517 §5).

    Keys for encryption are skipped without a word. An empty set is one too: the issuer has withdrawn its keys.

    :raises EncodingError: not a JWK Set.
    """
    listed = json_object(without_mark(body), max_depth=_MAX_DEPTH).get("keys")
    if not isinstance(listed, list):
        raise EncodingError("a JSON object without a list of keys, which is not a JWK Set")
    keys, skipped = [], []
    for number, jwk in enumerate(listed[:_MAX_KEYS], 1):
        if isinstance(jwk, dict) and jwk.get("use") == "enc":
            continue
        try:
            keys.append(_read_key(jwk))
        except InvalidKeyError as error:
            skipped.append(f"key {number}: {error}")
    if len(listed) > _MAX_KEYS:
        skipped.append(f"it has {len(listed)} keys, and {_MAX_KEYS} are read")
    return KeySet(tuple(keys)), skipped


def _read_key(jwk: Mapping[str, Any]) -> IssuerKey:
    from joserfc import jwk as jose  # noqa: PLC0415 - importing dpop.server stays light

    public = PublicKey.from_jwk(jwk)
    if len(public.jwk.get("n", "")) > MAX_RSA_MODULUS or len(public.jwk.get("e", "")) > MAX_RSA_EXPONENT:
        raise InvalidKeyError("an RSA key may have 4096 bits and an exponent of 24 bits at most")
    kid = jwk["kid"] if is_given(jwk, "kid") else None
    if kid is not None and not isinstance(kid, str):
        raise InvalidKeyError('the "kid" of the JWK is not a string')
    return IssuerKey(kid, public, jose.import_key({**public.jwk}))


class IssuerKeys:
    """The keys of one issuer, asked for when a request needs them.

    An old set stays in use while a new one is fetched, and after a fetch that failed. Whatever strangers send, the
    issuer is asked at most once per ``ask_again_after``.

    :param jwks_uri: the URL of the key set; None to find it by the metadata.
    :param refresh_after: seconds after which a request starts a refresh, for which it does not wait.
    :param ask_again_after: seconds between the end of one fetch and the start of the next, at least.
    :param timeout: seconds for one fetch.
    :param monotonic: seconds of a clock that is never set.
    """

    def __init__(
        self,
        issuer: str,
        *,
        jwks_uri: str | None,
        fetch: Fetch,
        refresh_after: float,
        ask_again_after: float,
        timeout: float,
        events: EventHook | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        import_now("cryptography.hazmat.backends.openssl.backend", "joserfc.jwk", "joserfc.jws")
        self.issuer: str = issuer
        self._configured_uri = jwks_uri
        self._found_uri: str | None = None
        self._fetch = fetch
        self._refresh_after = refresh_after
        self._ask_again_after = ask_again_after
        self._timeout = timeout
        self._events = events
        self._monotonic = monotonic
        self._lock = Guard()
        self._lookup: Lookup[None] | None = None
        self._waiting = 0
        self._set: KeySet | None = None
        self._failure: LookupUnavailableError | None = None
        self._due = 0.0
        self._not_before = 0.0
        self._warned_of: list[str] = []
        reset_after_fork(self)

    def _reset_after_fork(self) -> None:
        """In a forked child: the thread that fetched is gone."""
        self._lock = Guard()
        self._lookup = None
        self._waiting = 0

    @property
    def identities(self) -> frozenset[tuple[str | None, str]]:
        """Names and thumbprints of the keys in the set; empty before the first fetch."""
        return frozenset() if self._set is None else self._set.identities

    def candidates(self, kid: str | None, alg: str) -> Waits[tuple[IssuerKey, ...]]:
        """Steps that give the keys to try for a token; empty if the issuer has no such key.

        :raises LookupUnavailableError: there has never been a set; or the key is not in the last one, and the issuer
            could not be asked for a newer one.
        """
        if self._set is None:
            lookup = self._start()
            if lookup is not None:
                yield lookup
            if self._set is None:
                raise self._unavailable()
        self.refresh_if_due()
        found = self._set.find(kid, alg)
        if found:
            return found
        return (yield from self._newer(kid, alg))

    def _newer(self, kid: str | None, alg: str) -> Waits[tuple[IssuerKey, ...]]:
        """Keys that the set does not have: ask for a newer set, unless that was done a moment ago."""
        lookup = self._start()
        if lookup is not None:
            with self._lock.held():
                if self._waiting >= _MAX_WAITING:  # nobody can tell yet whether the issuer has that key
                    raise LookupUnavailableError(f"the keys of {self.issuer} are being fetched", retry_after=1.0)
                self._waiting += 1
            try:
                yield lookup
            finally:
                with self._lock.held():
                    self._waiting -= 1
        if self._failure is not None:
            raise self._unavailable()
        assert self._set is not None  # noqa: S101 - a set is never taken away
        return self._set.find(kid, alg)

    def ask_again(self) -> None:
        """Start a fetch without waiting for it, unless one ended a moment ago.

        For a signature that its own key does not verify: an issuer may have put a new key under an old name.
        """
        with contextlib.suppress(LookupUnavailableError):
            self._start()

    def refresh_if_due(self) -> None:
        """Start a refresh, without waiting for it, if the set is old."""
        if self._monotonic() >= self._due:
            self.ask_again()

    def _start(self) -> Lookup[None] | None:
        """The fetch that is running or may be started now; None if one ended a moment ago."""
        with self._lock.held():
            if self._lookup is not None:
                return self._lookup
            if self._monotonic() < self._not_before:
                return None
            self._lookup = Lookup(self._load, self._timeout + 1)
            return self._lookup

    def _unavailable(self) -> LookupUnavailableError:
        left = max(0.0, self._not_before - self._monotonic())
        why = f"the keys of {self.issuer} are being fetched" if self._failure is None else str(self._failure)
        return LookupUnavailableError(why, retry_after=left or None)

    # --- in the thread of a look-up

    def _load(self) -> None:
        began = time.monotonic()
        try:
            loaded = self._load_set()
        except BaseException as error:  # noqa: BLE001 - a fetch function may raise anything; only after its end does the next one begin
            failure = self._failed(error)
            _log.warning("the keys of %s stay as they are: %s", self.issuer, failure)
            self._end(None, failure, began)
            raise failure from None
        self._end(loaded, None, began)

    def _end(self, loaded: KeySet | None, failure: LookupUnavailableError | None, began: float) -> None:
        with self._lock.held():
            now = self._monotonic()
            self._lookup = None
            self._failure = failure
            self._not_before = now + self._ask_again_after
            if loaded is None:
                self._found_uri = None  # it may have moved
                self._due = self._not_before
            else:
                self._set = loaded
                self._due = now + self._refresh_after
        code = None if failure is None else failure.code
        emit(self._events, Event("looked_up", code, seconds=time.monotonic() - began))

    def _failed(self, error: BaseException) -> LookupUnavailableError:
        if isinstance(error, DPoPError):
            return LookupUnavailableError(f"no keys of {self.issuer}: {error}")
        return LookupUnavailableError(f"no keys of {self.issuer}: the fetch raised {type(error).__name__}")

    def _load_set(self) -> KeySet:
        uri = self._configured_uri or self._found_uri
        deadline = time.monotonic() + self._timeout
        if uri is None:
            uri = self._discover(deadline)
        try:
            body = self._get(uri, deadline)
            with uninterrupted():
                loaded, skipped = read_key_set(body)
        except (_NotThereError, EncodingError) as error:
            raise LookupUnavailableError(f"{uri} is {error}") from None
        self._found_uri = uri
        if skipped and skipped != self._warned_of:
            _log.warning("keys of %s are not used: %s", self.issuer, "; ".join(skipped[:_MAX_TRIED]))
        self._warned_of = skipped
        return loaded

    def _discover(self, deadline: float) -> str:
        """The URL of the key set, from the issuer's metadata (RFC 8414 §3, OpenID Connect Discovery §4)."""
        tried = []
        for url in metadata_urls(self.issuer):
            try:
                members = json_object(without_mark(self._get(url, deadline)), max_depth=_MAX_DEPTH)
            except (_NotThereError, EncodingError) as error:
                tried.append(f"{url} is {error}")  # where the other kind of metadata would be, servers say anything
                continue
            if members.get("issuer") != self.issuer:
                shown = ascii(members.get("issuer"))[:100]
                raise LookupUnavailableError(f"{url} is the metadata of another issuer, {shown}")
            uri = members.get("jwks_uri")
            if not isinstance(uri, str):
                raise LookupUnavailableError(f"{url} names no jwks_uri; give jwks_uri=")
            check_url(uri, self.issuer)
            return uri
        raise LookupUnavailableError(f"it has no metadata, so give jwks_uri= ({'; '.join(tried)})")

    def _get(self, url: str, deadline: float) -> bytes:
        left = max(0.001, deadline - time.monotonic())
        configured = self._configured_uri or self.issuer
        response = self._fetch(LookupRequest("GET", url, (), b"", left, _MAX_DOCUMENT, configured))
        if 300 <= response.status < 500:
            raise _NotThereError(f"not there, says its status {response.status}")
        if response.status != 200:
            raise LookupUnavailableError(f"{url} responded {response.status}")
        if len(response.body) > _MAX_DOCUMENT:
            raise LookupUnavailableError(f"{url} has more than {_MAX_DOCUMENT} bytes")
        return response.body

    def __repr__(self) -> str:
        return f"<IssuerKeys {self.issuer}>"


class _NotThereError(Exception):
    """A server says that it has no such document."""
