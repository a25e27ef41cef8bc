# SPDX-License-Identifier: Apache-2.0
"""The settings of the levers: the meaning and the valid values of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypedDict, get_args

from dpop.errors import UsageError
from dpop.profiles import Discipline

__all__ = ["ACTIONS", "DISCIPLINES", "Discipline", "LeverSettings", "Settings"]

DISCIPLINES: Final[tuple[Discipline, ...]] = get_args(Discipline)


class LeverSettings(TypedDict, total=False):
    """The settings as keyword arguments; :class:`dpop.testing.Levers` documents them."""

    as_nonces: Discipline
    rs_nonces: Discipline
    nonce_grace: int
    nonce_seconds: float | None
    nonce_on_success: Literal["changed", "always", "never"]
    clock_offset: float
    latency: float
    token_lifetime: int
    bound_tokens: bool
    bind_refresh_tokens: Literal["always", "public"]
    rotate_refresh_tokens: bool
    require_proof: bool
    require_pkce: bool
    required_scope: str | None
    granted_scope: str | None
    refresh_token_expires_in: int | None
    exchange_needs_nonce: bool
    isolate_exchange_nonces: bool
    tokens: Literal["opaque", "jwt"]
    device_user: Literal["visits", "agrees", "refuses"]
    device_interval: int


# Each action, and the argument for which a single JSON value stands.
ACTIONS: Final[Mapping[str, str]] = {
    "lapse": "role",
    "fail_next": "count",
    "redirect_next": "location",
    "drop_next": "count",
    "refuse_next": "count",
    "rotate_keys": "keep",
    "hold_streams": "",
    "release_streams": "",
    "clear": "",
}


class _Kind(NamedTuple):
    """The valid values of a setting: a description, and a test for them."""

    expected: str
    holds: Callable[[Any], bool]


def _one_of(*choices: str) -> _Kind:
    return _Kind(f"one of {', '.join(choices)}", lambda value: isinstance(value, str) and value in choices)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


_FLAG = _Kind("true or false", lambda value: isinstance(value, bool))
_COUNT = _Kind("a whole number, 0 or more", _is_count)
_COUNT_OR_NONE = _Kind("a whole number, 0 or more, or nothing", lambda value: value is None or _is_count(value))
# Within it every time of the server has a date, which it writes into each response.
_OFFSET = _Kind("a number of seconds, at most 1000000000", lambda value: _is_number(value) and abs(value) <= 1e9)
_PERIOD = _Kind("seconds above 0, or nothing", lambda value: value is None or (_is_number(value) and value > 0))
_LATENCY = _Kind("seconds from 0 to 60", lambda value: _is_number(value) and 0 <= value <= 60)
_SCOPE = _Kind("a scope string, or nothing", lambda value: value is None or (isinstance(value, str) and value != ""))

_KINDS: Final[Mapping[str, _Kind]] = {
    "nonces": _one_of(*DISCIPLINES),
    "as_nonces": _one_of(*DISCIPLINES),
    "rs_nonces": _one_of(*DISCIPLINES),
    "nonce_grace": _COUNT,
    "nonce_seconds": _PERIOD,
    "nonce_on_success": _one_of("changed", "always", "never"),
    "clock_offset": _OFFSET,
    "latency": _LATENCY,
    "token_lifetime": _COUNT,
    "bound_tokens": _FLAG,
    "bind_refresh_tokens": _one_of("always", "public"),
    "rotate_refresh_tokens": _FLAG,
    "require_proof": _FLAG,
    "require_pkce": _FLAG,
    "required_scope": _SCOPE,
    "granted_scope": _SCOPE,
    "refresh_token_expires_in": _COUNT_OR_NONE,
    "exchange_needs_nonce": _FLAG,
    "isolate_exchange_nonces": _FLAG,
    "tokens": _one_of("opaque", "jwt"),
    "device_user": _one_of("visits", "agrees", "refuses"),
    "device_interval": _COUNT,
}


@dataclass(eq=False, kw_only=True)
class Settings:
    """Attributes of a server that may be set at any time; each is checked when it is set.

    :param as_nonces: the discipline of the authorization server, see :data:`Discipline`.
    :param rs_nonces: the discipline of the resource server. ``nonces`` sets both.
    :param nonce_grace: how many nonces before the newest one ``rotating`` and ``per-answer`` still accept.
    :param nonce_seconds: seconds after which nonces of these two disciplines also lapse; None: never.
    :param nonce_on_success: when a success carries ``DPoP-Nonce``: if another nonce than the one in the proof is the
        newest (``changed``), ``always``, or ``never``.
    :param clock_offset: how many seconds the server's clock, and its ``Date`` header, are ahead; negative: behind.
    :param latency: additional seconds for each round trip: half of them pass before a
        request is handled, half before its response is sent.
    :param token_lifetime: the lifetime of an access token in seconds.
    :param bound_tokens: access tokens are bound to the proof's key. False: ``token_type`` Bearer in response
        to a proof; the refresh token is still bound (RFC 9449 §5).
    :param bind_refresh_tokens: ``public``: only refresh tokens of public clients are bound to the proof's key, as
        RFC 9449 §5 says; ``always``: those of confidential clients, too, as with some servers.
    :param rotate_refresh_tokens: each refresh brings a new refresh token; using an old one again revokes
        all tokens of the same grant (RFC 9700 §4.14.2).
    :param require_proof: refuse token requests without a proof (RFC 9449 §5.2). False: they get Bearer tokens.
    :param require_pkce: refuse authorization requests without ``code_challenge``.
    :param required_scope: the scope that the resource requires; a token without it gets 403.
    :param granted_scope: the scopes that the user grants at most; None: all that are requested.
    :param refresh_token_expires_in: seconds a refresh token lives, announced next to it; None: for ever.
    :param exchange_needs_nonce: the code exchange needs a nonce also where that is optional by the server's profile.
    :param isolate_exchange_nonces: a nonce from the code exchange is refused at refresh.
    :param tokens: new access tokens are ``opaque``, or ``jwt`` (RFC 9068) signed with a key of ``/jwks``.
    :param device_user: the user of a device agrees when somebody ``visits`` the page of the device grant; ``agrees`` at
        once; or ``refuses``.
    :param device_interval: the minimal seconds between two polls of a device; an earlier one gets ``slow_down``.
    :raises UsageError: a name is unknown or a value is invalid, at construction and at each assignment.
    """

    as_nonces: Discipline = "rotating"
    rs_nonces: Discipline = "rotating"
    nonce_grace: int = 0
    nonce_seconds: float | None = None
    nonce_on_success: Literal["changed", "always", "never"] = "changed"
    clock_offset: float = 0
    latency: float = 0
    token_lifetime: int = 3600
    bound_tokens: bool = True
    bind_refresh_tokens: Literal["always", "public"] = "always"
    rotate_refresh_tokens: bool = False
    require_proof: bool = True
    require_pkce: bool = True
    required_scope: str | None = None
    granted_scope: str | None = None
    refresh_token_expires_in: int | None = None
    exchange_needs_nonce: bool = False
    isolate_exchange_nonces: bool = False
    tokens: Literal["opaque", "jwt"] = "opaque"
    device_user: Literal["visits", "agrees", "refuses"] = "visits"
    device_interval: int = 5

    @property
    def nonces(self) -> Discipline | None:
        """The discipline of both roles, None if they differ."""
        return self.as_nonces if self.as_nonces == self.rs_nonces else None

    @nonces.setter
    def nonces(self, discipline: Discipline) -> None:
        self.as_nonces = discipline
        self.rs_nonces = discipline

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_"):
            check_setting(name, value)
        object.__setattr__(self, name, value)


def check_setting(name: str, value: object) -> None:
    """Check a setting's name and value.

    :raises UsageError: they are invalid; the message lists the valid ones.
    """
    kind = _KINDS.get(name)
    if name in ACTIONS:
        example = {"fail_next": "fail_next(3)", "redirect_next": 'redirect_next("/resource/b")'}.get(name, f"{name}()")
        raise UsageError(
            f"the lever {name} is an action and not a setting: call server.levers.{example}, or send it to /levers of"
            " the running server"
        )
    if kind is None:
        # A typo would otherwise create an attribute without any effect.
        raise UsageError(f"there is no lever {name!a}; the settings are {', '.join(_KINDS)}")
    if not kind.holds(value):
        raise UsageError(f"the lever {name} must be {kind.expected}, not {ascii(value)[:60]}")
