# SPDX-License-Identifier: Apache-2.0
"""Incidents: planned faults for the next requests."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dpop.client import Role
from dpop.errors import UsageError
from dpop.testing._messages import Headers, Response, json_response

__all__ = ["Drop", "Fail", "Incidents", "Redirect", "Refuse"]

_FIELD_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")
_RESOURCE_ERRORS = frozenset({"invalid_token", "insufficient_scope", "insufficient_user_authentication"})
_ERROR = re.compile(r"[a-z_]{1,60}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail:
    """Respond with this status to any request."""

    status: int = 503
    path: str | None = None
    retry_after: int | None = None
    headers: Headers = ()
    body: Mapping[str, object] | None = None

    def __post_init__(self) -> None:
        _check_status(self.status, 200, 599)
        if self.retry_after is not None and self.retry_after < 0:
            raise UsageError(f"retry_after must be 0 seconds or more, not {self.retry_after}")
        for name, value in self.headers:
            if not _FIELD_NAME.match(name) or not value.isascii() or not (value.isprintable() or not value):
                raise UsageError(f"not a valid header field: {name!a}: {value!a}")

    def response(self) -> Response:
        """Make the response."""
        headers = [*self.headers]
        if self.retry_after is not None:
            headers.append(("Retry-After", str(self.retry_after)))
        return json_response(self.status, {} if self.body is None else self.body, headers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect:
    """Send the client elsewhere: a path on this server, or an absolute URL."""

    location: str
    status: int = 307
    path: str | None = None

    def __post_init__(self) -> None:
        _check_status(self.status, 300, 399)
        place = self.location
        if not isinstance(place, str) or not (place and place.isascii() and place.isprintable()):
            raise UsageError("location must be a path or an absolute URL of printable ASCII")

    def response(self) -> Response:
        """Make the response."""
        return json_response(self.status, {}, [("Location", self.location)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """Close the connection without a response; with ``after``, the request has its effect before."""

    after: bool = False
    path: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """Refuse valid credentials with an OAuth error, in the role that uses this error."""

    error: str = "invalid_token"
    with_nonce: bool = False
    path: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.error, str) or not _ERROR.match(self.error):
            raise UsageError("error must be an OAuth error code such as invalid_token or invalid_grant")

    @property
    def role(self) -> Role:
        """The role that refuses: RS for errors about access tokens, AS for all others."""
        return Role.RS if self.error in _RESOURCE_ERRORS else Role.AS


Incident = Fail | Redirect | Drop | Refuse


@dataclass(slots=True)
class _Planned:
    incident: Incident
    left: int


@dataclass(slots=True)
class Incidents:
    """Planned incidents in their order; each happens a number of times, to the first requests that match."""

    _planned: list[_Planned] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def plan(self, incident: Incident, count: int) -> None:
        """Plan an incident for the next ``count`` requests that match.

        :raises UsageError: the count is not a whole number above 0, or the path is invalid.
        """
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise UsageError(f"count must be a whole number above 0, not {ascii(count)[:60]}")
        path = incident.path
        if path is not None and (not isinstance(path, str) or not path.startswith("/")):
            raise UsageError("path must begin with a slash; a path that ends in /* means all paths below it")
        with self._lock:
            self._planned.append(_Planned(incident, count))

    def take(self, path: str) -> Fail | Redirect | Drop | None:
        """Take the planned incident for a request to this path, whatever the request contains."""
        found = self._take(lambda incident: not isinstance(incident, Refuse), path)
        return found if isinstance(found, Fail | Redirect | Drop) else None

    def take_refusal(self, role: Role, path: str) -> Refuse | None:
        """Take the planned refusal of a request that this role would accept."""
        found = self._take(lambda incident: isinstance(incident, Refuse) and incident.role == role, path)
        return found if isinstance(found, Refuse) else None

    def clear(self) -> None:
        """Cancel all planned incidents."""
        with self._lock:
            self._planned.clear()

    def __len__(self) -> int:
        with self._lock:
            return sum(planned.left for planned in self._planned)

    def _take(self, wanted: Callable[[Incident], bool], path: str) -> Incident | None:
        if not self._planned:
            return None  # no lock in the usual case
        with self._lock:
            for planned in self._planned:
                if wanted(planned.incident) and _fits(planned.incident.path, path):
                    planned.left -= 1
                    if not planned.left:
                        self._planned.remove(planned)
                    return planned.incident
        return None


def _fits(pattern: str | None, path: str) -> bool:
    if pattern is None or pattern == path:
        return True
    return pattern.endswith("/*") and path.startswith(pattern[:-1])


def _check_status(status: object, lowest: int, highest: int) -> None:
    if not isinstance(status, int) or not lowest <= status <= highest:
        raise UsageError(f"status must be {lowest} to {highest}, not {ascii(status)[:60]}")
