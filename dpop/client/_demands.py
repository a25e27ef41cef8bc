# SPDX-License-Identifier: Apache-2.0
"""Read an API's demand for a new authorization: a stronger or newer login, or more scopes (RFC 9470, RFC 6750)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from dpop.client._challenge import challenges
from dpop.errors import EncodingError, UsageError
from dpop.origin import Origin

__all__ = ["Demand", "demand_of"]

_ERRORS = {"insufficient_user_authentication", "insufficient_scope"}
# Words with single spaces, as scopes and acr_values are; no longer than any URL would hold.
_WORDS = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,200}(?: [\x21\x23-\x5b\x5d-\x7e]{1,200}){0,20}\Z")
_SECONDS = re.compile(r"[0-9]{1,9}\Z")


class Demand(NamedTuple):
    """An API's demand for a new authorization (RFC 9470 §3, RFC 6750 §3.1); ``str()`` says what to do.

    :param error: ``insufficient_user_authentication`` or ``insufficient_scope``.
    :param scope: the scopes that are needed.
    :param acr_values: authentication context classes; one of them is needed.
    :param max_age: how many seconds ago the user may have logged in.
    :param resource_metadata: the URL of the API's metadata (RFC 9728 §5.1), which names its authorization servers.
    """

    error: str
    scope: str | None = None
    acr_values: str | None = None
    max_age: int | None = None
    resource_metadata: str | None = None

    @property
    def parameters(self) -> dict[str, str]:
        """Parameters for the next authorization request: ``endpoint.start_authorization(**demand.parameters)``."""
        found = {"scope": self.scope, "acr_values": self.acr_values, "max_age": self.max_age}
        return {name: str(value) for name, value in found.items() if value is not None}

    def __str__(self) -> str:
        wanted = ", ".join(f"{name}={value}" for name, value in self.parameters.items())
        what = "more scopes" if self.error == "insufficient_scope" else "a stronger or newer login of the user"
        return f"the API wants {what}: start a new authorization{f' with {wanted}' if wanted else ''}"


def demand_of(field_values: Iterable[str]) -> Demand | None:
    """Return the demand in the ``WWW-Authenticate`` fields of a 401 or 403; None if they contain no demand.

    Refreshing the token does not meet a demand. Values that could not stand in an authorization request are left out.
    """
    try:
        by_scheme = challenges(field_values)
    except EncodingError:
        return None
    for scheme in ("dpop", "bearer"):
        parameters = by_scheme.get(scheme, {})
        error = parameters.get("error")
        if error in _ERRORS:
            seconds = parameters.get("max_age") or ""
            return Demand(
                error,
                _words(parameters.get("scope")),
                _words(parameters.get("acr_values")),
                int(seconds) if _SECONDS.match(seconds) else None,
                _https(parameters.get("resource_metadata")),
            )
    return None


def _words(text: str | None) -> str | None:
    return text if text is not None and _WORDS.match(text) else None


def _https(url: str | None) -> str | None:
    try:
        origin = Origin.of_url(url or "")
    except UsageError:
        return None
    return url if origin.scheme == "https" or origin.is_loopback else None
