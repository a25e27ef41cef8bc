# SPDX-License-Identifier: Apache-2.0
"""The levers: settings and actions that change the test server while it runs.

A *setting* is an attribute, and has its value until it is changed::

    server.levers.rs_nonces = "single-use"

An *action* is a method, and happens at once or to the next requests::

    server.levers.lapse()
    server.levers.fail_next(3, status=503, retry_after=1)

:meth:`Levers.apply` takes both as JSON; ``POST /levers`` calls it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple

from dpop.client import Role
from dpop.errors import UsageError
from dpop.testing._incidents import Drop, Fail, Incidents, Redirect, Refuse
from dpop.testing._messages import Headers
from dpop.testing._settings import ACTIONS, Discipline, Settings, check_setting

__all__ = ["Levers", "NoncePolicy", "ServerLevers"]


class NoncePolicy(NamedTuple):
    """How one role treats its nonces. After a change of the policy, all earlier nonces are unknown."""

    discipline: Discipline
    grace: int
    seconds: float | None


@dataclass(eq=False, kw_only=True)
class Levers(Settings):
    """The settings and actions of one server. Thread-safe."""

    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _incidents: Incidents = field(default_factory=Incidents, init=False, repr=False)
    _lapses: dict[Role, int] = field(default_factory=lambda: dict.fromkeys(Role, 0), init=False, repr=False)
    _key_range: tuple[int, int] = field(default=(1, 1), init=False, repr=False)
    _streams: threading.Event = field(default_factory=threading.Event, init=False, repr=False)

    def __post_init__(self) -> None:
        self._streams.set()

    # --- actions

    def lapse(self, role: Role | Literal["AS", "RS"] | None = None) -> None:
        """Issue a new nonce from now on, and refuse all older nonces except the last ``nonce_grace``.

        Without a role it applies to both roles. Single-use nonces have no grace.

        :raises UsageError: the role is not AS or RS.
        """
        if role is not None and (not isinstance(role, str) or role not in set(Role)):
            raise UsageError(f"role must be AS or RS, or left out for both, not {ascii(role)[:60]}")
        with self._lock:
            for each in Role if role is None else (Role(role),):
                self._lapses[each] += 1

    def fail_next(
        self,
        count: int = 1,
        *,
        status: int = 503,
        path: str | None = None,
        retry_after: int | None = None,
        headers: Headers = (),
        body: Mapping[str, object] | None = None,
    ) -> None:
        """Respond to the next requests with this status, without reading them.

        :param path: only requests for this path; ``/resource/*`` means all paths below ``/resource/``.
        :param retry_after: seconds, for a ``Retry-After`` field.
        :param headers: further header fields, such as two ``DPoP-Nonce`` fields.
        :param body: JSON members of the response's body.
        """
        self._incidents.plan(Fail(status=status, path=path, retry_after=retry_after, headers=headers, body=body), count)

    def redirect_next(self, location: str, *, count: int = 1, status: int = 307, path: str | None = None) -> None:
        """Redirect the next requests to a path of this server, or to a URL of another one."""
        self._incidents.plan(Redirect(location=location, status=status, path=path), count)

    def drop_next(self, count: int = 1, *, after: bool = False, path: str | None = None) -> None:
        """Close the connection of the next requests without a response.

        :param after: the request has its effect, and only the response is lost.
        """
        self._incidents.plan(Drop(after=after, path=path), count)

    def refuse_next(
        self,
        count: int = 1,
        *,
        error: str = "invalid_token",
        with_nonce: bool = False,
        path: str | None = None,
    ) -> None:
        """Refuse valid credentials: an access token, or, with errors such as ``invalid_grant``, a token request.

        :param with_nonce: the refusal carries a ``DPoP-Nonce`` (RFC 9449 §8).
        """
        self._incidents.plan(Refuse(error=error, with_nonce=with_nonce, path=path), count)

    def rotate_keys(self, *, keep: bool = True) -> None:
        """Sign new JWT access tokens with a new key, and publish it in ``/jwks``.

        :param keep: still publish the old keys. False: an API refuses tokens that the old keys signed.
        :raises UsageError: ``keep`` is not a bool.
        """
        if not isinstance(keep, bool):
            raise UsageError(f"rotate_keys takes keep=True or keep=False, not {ascii(keep)[:60]}")
        with self._lock:
            oldest, newest = self._key_range
            self._key_range = (oldest if keep else newest + 1, newest + 1)

    def hold_streams(self) -> None:
        """Let ``/resource/stream`` send only its first chunk until :meth:`release_streams`."""
        self._streams.clear()

    def release_streams(self) -> None:
        """Let held streams end."""
        self._streams.set()

    def clear(self) -> None:
        """Cancel all planned incidents that have not happened, and release streams."""
        self._incidents.clear()
        self._streams.set()

    # --- all of them as JSON

    def apply(self, changes: Mapping[str, Any]) -> None:
        """Apply settings and actions by name; if one of them is invalid, nothing is changed.

        An action's value is an object with its arguments, or ``true`` for no arguments, or the argument that
        matters most: ``{"rs_nonces": "rotating", "lapse": true, "fail_next": 3,
        "redirect_next": {"location": "/resource/b", "status": 308}}``.

        :raises UsageError: a name is unknown, or a value is invalid.
        """
        actions: list[Callable[[], None]] = []
        for name, value in changes.items():
            if name in ACTIONS:
                actions.append(self._action(name, value))
            else:
                check_setting(name, value)
        for name, value in changes.items():
            if name not in ACTIONS:
                setattr(self, name, value)
        for action in actions:
            action()

    def as_dict(self) -> dict[str, object]:
        """Return the settings by name, and the number of incidents that have not happened yet."""
        settings: dict[str, object] = {each.name: getattr(self, each.name) for each in fields(Settings)}
        return settings | {"incidents_planned": len(self._incidents)}

    def _action(self, name: str, value: object) -> Callable[[], None]:
        """Return an action with its arguments, after checking them on separate levers."""
        if isinstance(value, Mapping):
            arguments = {str(key): each for key, each in value.items()}
        elif value is True:
            arguments = {}
        elif ACTIONS[name]:
            arguments = {ACTIONS[name]: value}
        else:
            raise UsageError(f"the lever {name} takes true, not {ascii(value)[:60]}")
        if "headers" in arguments:
            arguments["headers"] = _pairs(arguments["headers"])
        rehearsal: Callable[..., None] = getattr(Levers(), name)
        try:
            rehearsal(**arguments)
        except TypeError:
            raise UsageError(f"the lever {name} does not take {', '.join(map(ascii, arguments)) or 'that'}") from None
        action: Callable[..., None] = getattr(self, name)
        return lambda: action(**arguments)


class ServerLevers(Levers):
    """Levers with additional members for their server."""

    @property
    def incidents(self) -> Incidents:
        """The planned incidents that have not happened yet."""
        return self._incidents

    def nonce_policy(self, role: Role) -> NoncePolicy:
        """Return the current nonce policy of a role."""
        discipline = self.as_nonces if role is Role.AS else self.rs_nonces
        return NoncePolicy(discipline, self.nonce_grace, self.nonce_seconds)

    def lapses(self, role: Role) -> int:
        """Return how often :meth:`lapse` was called for a role."""
        return self._lapses[role]

    @property
    def key_range(self) -> tuple[int, int]:
        """The numbers of the oldest and the newest key that are published."""
        return self._key_range

    def wait_for_streams(self, timeout: float) -> bool:
        """Block until streams may continue; return False if that takes longer than ``timeout`` seconds."""
        return self._streams.wait(timeout)


def _pairs(value: object) -> list[tuple[str, str]]:
    """Read header fields from JSON: an array of arrays of two strings."""
    pairs: list[tuple[str, str]] = []
    for pair in value if isinstance(value, list) else [None]:
        match pair:
            case [str(name), str(text)]:
                pairs.append((name, text))
            case _:
                raise UsageError('headers must look like [["DPoP-Nonce", "x"], ["DPoP-Nonce", "y"]]')
    return pairs
