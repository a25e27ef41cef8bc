# SPDX-License-Identifier: Apache-2.0
"""Judge the claims of an access token, and remember those of good ones; used by both kinds of look-up."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Mapping
from typing import Any, Generic, TypeVar

from dpop._forking import reset_after_fork
from dpop.errors import InvalidProof, UsageError
from dpop.server._reasons import Reason, refuse

__all__ = [
    "Memory",
    "check_audience",
    "check_times",
    "copied_claims",
    "names_of",
    "refused_token",
    "time_claim",
    "token_name",
]

_T = TypeVar("_T")


def refused_token(because: str, *, expected: str | None = None, got: object = None) -> InvalidProof:
    """The refusal of a token that is not valid here (RFC 6750 §3.1)."""
    return refuse(Reason.TOKEN_INACTIVE, error="invalid_token", because=because, expected=expected, got=got)


def names_of(what: str, given: str | Iterable[str]) -> tuple[str, ...]:
    """A setting that is one name or several.

    :raises UsageError: none, or one that is empty or no str.
    """
    names = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, Iterable) else ()
    if not names or not all(isinstance(name, str) and name for name in names):
        raise UsageError(f"{what} must be one name or several, each a str that is not empty")
    return names


def token_name(token: str) -> bytes:
    """The hash under which a token is remembered, so that no memory holds it."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def time_claim(claims: Mapping[str, Any], name: str) -> float | None:
    """A NumericDate (RFC 7519 §2); None if there is none.

    :raises InvalidProof: ``invalid_token``: not a number.
    """
    value = claims.get(name)
    if value is not None and type(value) is not int and type(value) is not float:
        raise refused_token(f"its {name} is not a number")
    return value


def check_audience(audience: object, wanted: frozenset[str]) -> None:
    """Check that ``aud`` names this API (RFC 7519 §4.1.3).

    :raises InvalidProof: ``invalid_token``.
    """
    named = [audience] if isinstance(audience, str) else audience
    if not isinstance(named, list) or not all(isinstance(each, str) for each in named):
        raise refused_token("its aud is missing or malformed")
    if wanted.isdisjoint(named):
        raise refused_token("it is for another API", expected=" or ".join(sorted(wanted)), got=" ".join(named))


def check_times(exp: float, nbf: float, now: float, skew: float) -> None:
    """Check that a token is valid now (RFC 7519 §4.1.4, §4.1.5).

    :raises InvalidProof: ``invalid_token``.
    """
    if now >= exp + skew:
        raise refuse(Reason.TOKEN_EXPIRED, error="invalid_token")
    if now < nbf - skew:
        raise refused_token("it is not valid yet; check the clocks")


def _copied(value: Any) -> Any:
    """A copy of a JSON value."""
    if type(value) is dict:
        return {name: _copied(member) for name, member in value.items()}
    if type(value) is list:
        return [_copied(member) for member in value]
    return value


def copied_claims(claims: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of remembered claims: an application that changes it changes no later request."""
    return {name: value if type(value) is str else _copied(value) for name, value in claims.items()}


class Memory(Generic[_T]):
    """Verdicts on tokens by their hash. Bounded: the oldest goes first. Thread-safe.

    :param size: entries at most; 0 to remember nothing.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: dict[bytes, _T] = {}
        self._lock = threading.RLock()  # a signal handler of the thread that holds it may ask, too
        reset_after_fork(self)

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, name: bytes) -> _T | None:
        """The verdict; None if there is none."""
        return self._entries.get(name)

    def put(self, name: bytes, verdict: _T) -> None:
        """Remember a verdict."""
        with self._lock:
            while len(self._entries) >= self._size > 0:
                self._entries.pop(next(iter(self._entries)), None)
            if self._size > 0:
                self._entries[name] = verdict

    def drop(self, name: bytes) -> None:
        """Forget a verdict."""
        with self._lock:
            self._entries.pop(name, None)

    def _reset_after_fork(self) -> None:
        """In a forked child: a lock that another thread held would never be released."""
        self._lock = threading.RLock()
