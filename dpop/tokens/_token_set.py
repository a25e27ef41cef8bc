# SPDX-License-Identifier: Apache-2.0
"""A token set: the tokens of a response, and the thumbprint and reference of the key they are bound to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Final

from dpop._tracebacks import hide_frames
from dpop.errors import ArgumentTypeError, KeyMismatchError, TokenFormatError, UsageError
from dpop.keys._sources import load_key
from dpop.tokens._id_token import claims_in
from dpop.tokens._key_reference import check_key_reference

if TYPE_CHECKING:
    from dpop.keys import Key

__all__ = ["TokenSet"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TokenSet:
    """The tokens of one grant. Immutable; :meth:`replace` makes a changed copy.

    :param access_token: the token for the API; empty if a response brought a refresh token alone.
    :param token_type: ``DPoP`` if the access token is bound to the key, ``Bearer`` if it is not.
    :param issued_at: Unix seconds, by this machine's clock, when the tokens were requested.
    :param expires_at: Unix seconds when the access token expires, counted from ``issued_at``; ``None`` if the
        server did not say.
    :param refresh_token: ``None`` if there is none.
    :param refresh_expires_at: Unix seconds when the refresh token expires, if the server said so.
    :param scope: the granted scopes, separated by spaces; they can be fewer than requested.
    :param jkt: the thumbprint of the key to which the tokens are bound (RFC 9449 §6.1).
    :param key_reference: the path or URI of that key, for :func:`dpop.load_key`; never a key or a PIN.
    :param token_endpoint: the URL that issued the tokens. They are refreshed only there.
    :param client_id: the client to which they were issued.
    :param id_token: an OpenID Connect ID Token.
    :param id_token_verified: whether its claims and its signature were verified at the login. The ID token of a
        refresh is not verified; ``endpoint.verify_id_token`` does that.
    :param refresh_sent_at: Unix seconds when a refresh began whose response is unknown. It is set in a
        store before the refresh token is sent, and removed when the response is stored.
    :param refresh_owner: the process that began that refresh. While it lives and waits for the response, no other
        process of its machine sends the refresh token, even if the lock is lost. It is removed with
        ``refresh_sent_at``, and when the refresh is over without a response.
    :param resource: the requested resources (RFC 8707); a refresh requests them again.
    :param refusal: the server's final refusal of the refresh token: ``error`` and perhaps
        ``subtype`` and ``description``. No process that shares the store sends that refresh token again.
    :param refused_times: how often in a row the server refused the refresh token for a reason that may be temporary.
        All processes that share the store count together; after three refusals the token counts as dead.
    :param extra: further members of the response, JSON values.
    :raises ArgumentTypeError: a fact has another type, or is a number that JSON cannot hold.
    """

    access_token: str
    token_type: str = "DPoP"  # noqa: S105 - a type
    issued_at: float | None = None
    expires_at: float | None = None
    refresh_token: str | None = None
    refresh_expires_at: float | None = None
    scope: str | None = None
    jkt: str | None = None
    key_reference: str | None = None
    token_endpoint: str | None = None
    client_id: str | None = None
    id_token: str | None = None
    id_token_verified: bool = False
    refresh_sent_at: float | None = None
    refresh_owner: str | None = None
    resource: tuple[str, ...] = ()
    refused_times: int | None = None
    refusal: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.key_reference is not None:
            check_key_reference(self.key_reference)
        for name in _FACTS:
            # A fact of another type would make the stored file unreadable, and its refresh token would be lost.
            value = getattr(self, name)
            if not _is_fact(name, value) and (value is not None or name in _ALWAYS):
                raise ArgumentTypeError(name, _EXPECTED.get(_TYPES.get(name, str), "str"), value)
        if isinstance(self.resource, str) or not all(isinstance(each, str) for each in self.resource):
            raise ArgumentTypeError("resource", "several str", self.resource)
        object.__setattr__(self, "resource", tuple(self.resource))  # JSON has lists

    def __repr__(self) -> str:
        refresh = "with" if self.refresh_token else "without"
        return f"<TokenSet {self.token_type}, {refresh} refresh token, jkt {self.jkt}, expires_at {self.expires_at}>"

    @property
    def is_bound(self) -> bool:
        """Whether the access token is bound to the key, and is therefore sent with a proof."""
        return self.token_type.lower() == "dpop"

    @property
    def scopes(self) -> frozenset[str]:
        """The granted scopes; empty if the server named none and the client requested none."""
        return frozenset((self.scope or "").split())

    def missing_scopes(self, *scopes: str) -> frozenset[str]:
        """The ``scopes`` that were not granted; each argument may hold several, separated by spaces."""
        return frozenset(" ".join(scopes).split()) - self.scopes

    def seconds_left(self, now: float) -> float | None:
        """Seconds until the access token expires; negative after that, ``None`` if unknown."""
        return None if self.expires_at is None else self.expires_at - now

    @property
    def id_token_claims(self) -> Mapping[str, Any] | None:
        """The claims in the ID token, as it says; ``None`` if there is none, or it is encrypted.

        Believe them only if :attr:`id_token_verified`.
        """
        return claims_in(self.id_token)

    def replace(self, **changes: Any) -> TokenSet:
        """A copy with some facts changed."""
        return replace(self, **changes)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of access and refresh token, by which stores recognise a token set."""
        both = json.dumps([self.access_token, self.refresh_token])
        return hashlib.sha256(both.encode("ascii")).hexdigest()

    # -- the key

    def check_key(self, thumbprint: str) -> None:
        """Make sure that the tokens are bound to this key, or to no key (RFC 9449 §5).

        :raises KeyMismatchError: they are bound to another key.
        """
        if self.jkt is None or self.jkt == thumbprint:
            return
        where = f" ({self.key_reference})" if self.key_reference else ""
        raise KeyMismatchError(
            f"the tokens are bound to the key {self.jkt}{where}, and the key at hand is {thumbprint};"
            " nothing was sent: load the right key, or authorise again with this one",
            expected=self.jkt,
            got=thumbprint,
        )

    @hide_frames
    def load_key(self, *, password: str | bytes | Callable[[], str | bytes] | None = None) -> Key:
        """Load the key the tokens are bound to from :attr:`key_reference`.

        :raises UsageError: there is no ``key_reference``.
        :raises KeyMismatchError: the reference leads to another key now.
        :raises DPoPKeyError: it cannot be loaded.
        """
        if self.key_reference is None:
            raise UsageError("it was not noted where the key of these tokens is; load it and give it to the endpoint")
        key = load_key(self.key_reference, password=password)
        self.check_key(key.thumbprint)
        return key

    # -- as JSON

    def to_dict(self) -> dict[str, Any]:
        """The known facts as JSON values. They include secrets."""
        facts = {each.name: getattr(self, each.name) for each in fields(self)}
        facts |= {"extra": dict(self.extra), "refusal": dict(self.refusal), "resource": list(self.resource)}
        kept = {name: value for name, value in facts.items() if value is not None and value not in ({}, [])}
        if not self.id_token_verified:
            del kept["id_token_verified"]
        return kept

    def to_json(self) -> bytes:
        """The facts of :meth:`to_dict` as bytes of JSON; equal sets give equal bytes."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":")).encode("ascii")

    @classmethod
    @hide_frames
    def from_dict(cls, facts: Mapping[str, Any]) -> TokenSet:
        """Make a token set from the facts of :meth:`to_dict`; facts with unknown names are ignored.

        :raises TokenFormatError: a fact is missing or of the wrong type.
        """
        known = {}
        for each in fields(cls):
            value = facts.get(each.name)
            if value is None:
                continue
            if not _is_fact(each.name, value):
                raise TokenFormatError(f"{each.name} of the stored tokens has a wrong type; authorise again")
            known[each.name] = value
        if not known.get("access_token") and not known.get("refresh_token"):
            raise TokenFormatError("the stored tokens have no access_token; authorise again")
        try:
            return cls(**{"access_token": "", **known})
        except UsageError as error:
            raise TokenFormatError(f"a fact of the stored tokens cannot be used: {error}") from None


TokenSet.__init__ = hide_frames(TokenSet.__init__)  # type: ignore[method-assign]  # the dataclass's own has all tokens


_TYPES: Final[Mapping[str, Any]] = {
    "issued_at": int | float,
    "expires_at": int | float,
    "refresh_expires_at": int | float,
    "refresh_sent_at": int | float,
    "resource": list | tuple,
    "refused_times": int,
    "id_token_verified": bool,
    "refusal": Mapping,
    "extra": Mapping,
}
_MAX_NUMBER: Final = 1e15
_EXPECTED: Final[Mapping[Any, str]] = {
    int | float: "a number of seconds",
    int: "an int",
    bool: "a bool",
    Mapping: "a mapping",
}
_ALWAYS: Final = frozenset({"access_token", "token_type", "id_token_verified", "refusal", "extra"})
_FACTS: Final = tuple(each.name for each in fields(TokenSet) if each.name != "resource")


def _is_fact(name: str, value: object) -> bool:
    """Whether a fact has the right type, and JSON can hold it."""
    kind = _TYPES.get(name, str)
    if isinstance(value, bool) and kind is not bool:
        return False
    return isinstance(value, kind) and (not isinstance(value, int | float) or abs(value) < _MAX_NUMBER)  # NaN is not
