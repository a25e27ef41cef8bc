# SPDX-License-Identifier: Apache-2.0
"""Counters, refusals and requests that the test server recorded."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from dpop.encoding import b64url_decode
from dpop.errors import EncodingError, InvalidProof
from dpop.testing._messages import Headers, Request

__all__ = ["KEPT_FORM", "Journal", "RecordedRequest", "Refusal", "Stats"]

KEPT_FORM = 4_096
"""How many bytes of its body a recorded request keeps."""

_LOGGER = logging.getLogger("dpop.testing")
_MAX_JTI = 200_000
_MAX_KEPT_BYTES = 32 * 1024 * 1024
_FIELD_BYTES = 160  # the size of two short strings and their tuple, without their characters


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refusal and its reason, without tokens, proofs, nonces and codes.

    :param endpoint: the endpoint, such as ``token`` or ``resource``.
    :param error: the OAuth error code of the response; empty for a challenge without an error.
    :param reason: a stable name: a :class:`dpop.server.Reason`, or one that only this server has.
    """

    endpoint: str
    method: str
    path: str
    error: str
    reason: str
    detail: str
    expected: str | None
    got: str | None


@dataclass(frozen=True, slots=True, repr=False)
class RecordedRequest:
    """One request as it was on the wire, and the status of its response (0: the connection was dropped).

    :param connection: the number of the TCP connection, counted from 1.
    :param body: the first 4,096 bytes of the body: enough for a form.
    """

    endpoint: str
    method: str
    target: str
    headers: Headers
    body: bytes
    body_length: int
    connection: int
    status: int

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    def fields(self, name: str) -> list[str]:
        """The values of all header fields of that name, in any case."""
        name = name.lower()
        return [value for field_name, value in self.headers if field_name.lower() == name]

    @property
    def proof(self) -> str | None:
        """The DPoP header field; None unless there is exactly one."""
        proofs = self.fields("DPoP")
        return proofs[0] if len(proofs) == 1 else None

    def __repr__(self) -> str:
        return f"<RecordedRequest {self.method} {self.path} -> {self.status}>"


class Stats:
    """Counters since the start or the last :meth:`reset`. Thread-safe.

    ``wasted_per_1000`` is the measure of a client: round trips that only fetched a nonce, per 1,000
    requests that succeeded or were refused for another reason.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clear()

    def _clear(self) -> None:
        self._requests: Counter[str] = Counter()
        self._statuses: Counter[int] = Counter()
        self._challenges: Counter[str] = Counter()
        self._refusals = 0
        self._proofs = 0
        self._repeated_jti = 0
        self._distinct_jti = 0
        self._jti: set[str] = set()
        self._connections = 0

    def reset(self) -> None:
        """Count from 0 again."""
        with self._lock:
            self._clear()

    @property
    def requests(self) -> int:
        """The number of requests, without those of ``/levers`` and ``/stats``."""
        with self._lock:
            return self._requests.total()

    @property
    def requests_by_endpoint(self) -> dict[str, int]:
        """Number of requests by endpoint, such as ``token`` or ``resource``."""
        with self._lock:
            return dict(self._requests)

    @property
    def statuses(self) -> dict[int, int]:
        """The number of responses by status; 0 means a dropped connection."""
        with self._lock:
            return dict(self._statuses)

    @property
    def challenges(self) -> int:
        """The number of ``use_dpop_nonce`` responses, which are wasted round trips."""
        with self._lock:
            return self._challenges.total()

    @property
    def challenges_by_endpoint(self) -> dict[str, int]:
        """Number of ``use_dpop_nonce`` responses by endpoint."""
        with self._lock:
            return dict(self._challenges)

    @property
    def wasted_per_1000(self) -> float:
        """Challenges per 1,000 requests that got no challenge; 0 if there are none."""
        with self._lock:
            useful = self._requests.total() - self._challenges.total()
            return 1000 * self._challenges.total() / useful if useful > 0 else 0.0

    @property
    def refusals(self) -> int:
        """The number of refusals of any kind, with challenges."""
        return self._refusals

    @property
    def proofs(self) -> int:
        """The number of requests with a DPoP header."""
        return self._proofs

    @property
    def distinct_jti(self) -> int:
        """The number of different ``jti`` values in all readable proofs, good or bad."""
        return self._distinct_jti

    @property
    def repeated_jti(self) -> int:
        """The number of proofs whose ``jti`` was seen before, among about the last 200,000."""
        return self._repeated_jti

    @property
    def connections(self) -> int:
        """The number of accepted TCP connections."""
        return self._connections

    def as_dict(self) -> dict[str, object]:
        """Return all counters as JSON values."""
        return {
            "requests": self.requests,
            "requests_by_endpoint": self.requests_by_endpoint,
            "statuses": {str(status): count for status, count in self.statuses.items()},
            "challenges": self.challenges,
            "challenges_by_endpoint": self.challenges_by_endpoint,
            "wasted_per_1000": round(self.wasted_per_1000, 3),
            "refusals": self.refusals,
            "proofs": self.proofs,
            "distinct_jti": self.distinct_jti,
            "repeated_jti": self.repeated_jti,
            "connections": self.connections,
        }

    # --- for the server

    def count_request(self, endpoint: str, proof: str | None) -> None:
        """Count a request."""
        jti = None if proof is None else _jti(proof)
        with self._lock:
            self._requests[endpoint] += 1
            if proof is None:
                return
            self._proofs += 1
            if jti is None:
                return
            if jti in self._jti:
                self._repeated_jti += 1
                return
            if len(self._jti) >= _MAX_JTI:
                self._jti.clear()
            self._jti.add(jti)
            self._distinct_jti += 1

    def count_response(self, status: int) -> None:
        """Count a response, or a dropped connection."""
        with self._lock:
            self._statuses[status] += 1

    def count_refusal(self, endpoint: str, error: str) -> None:
        """Count a refusal."""
        with self._lock:
            self._refusals += 1
            if error == "use_dpop_nonce":
                self._challenges[endpoint] += 1

    def count_connection(self) -> None:
        """Count a connection."""
        with self._lock:
            self._connections += 1


_Kept = TypeVar("_Kept", Refusal, RecordedRequest)


class _Latest(Generic[_Kept]):
    """The newest entries, bounded in number and in size. Thread-safe."""

    def __init__(self, most: int, size_of: Callable[[_Kept], int]) -> None:
        self._most = most
        self._size_of: Callable[[_Kept], int] = size_of
        self._lock = threading.Lock()
        self._entries: deque[_Kept] = deque()
        self._size = 0

    def add(self, entry: _Kept) -> None:
        """Keep an entry; forget the oldest ones beyond the limit."""
        with self._lock:
            self._entries.append(entry)
            self._size += self._size_of(entry)
            while len(self._entries) > self._most or (self._size > _MAX_KEPT_BYTES and len(self._entries) > 1):
                self._size -= self._size_of(self._entries.popleft())

    def all(self) -> list[_Kept]:
        """The entries, oldest first."""
        with self._lock:
            return list(self._entries)

    def clear(self) -> None:
        """Forget all entries."""
        with self._lock:
            self._entries.clear()
            self._size = 0


def _size_of_refusal(refusal: Refusal) -> int:
    texts = (refusal.path, refusal.detail, refusal.expected or "", refusal.got or "")
    return _FIELD_BYTES + sum(map(len, texts))


def _size_of_request(request: RecordedRequest) -> int:
    fields = sum(len(name) + len(value) + _FIELD_BYTES for name, value in request.headers)
    return len(request.target) + len(request.body) + fields + _FIELD_BYTES


class Journal:
    """The last refusals and requests, with the counters. Thread-safe, bounded.

    :param kept: how many entries of each kind are kept.
    """

    def __init__(self, *, kept: int) -> None:
        self.stats: Stats = Stats()
        self._refusals = _Latest[Refusal](kept, _size_of_refusal)
        self._requests = _Latest[RecordedRequest](kept, _size_of_request)

    @property
    def refusals(self) -> list[Refusal]:
        """The last refusals, oldest first."""
        return self._refusals.all()

    @property
    def requests(self) -> list[RecordedRequest]:
        """The last requests, oldest first."""
        return self._requests.all()

    def clear(self) -> None:
        """Forget all entries, and count from 0."""
        self._refusals.clear()
        self._requests.clear()
        self.stats.reset()

    def refused(self, endpoint: str, request: Request, error: InvalidProof, *, bare: bool = False) -> None:
        """Record a refusal and log its reason.

        :param bare: the response names no error, because the client sent no credentials (RFC 9449 §7.1).
        """
        code = "" if bare else error.error
        refusal = Refusal(
            endpoint,
            request.method,
            request.path,
            code,
            error.reason,
            error.detail,
            error.expected,
            error.got,
        )
        self._refusals.add(refusal)
        self.stats.count_refusal(endpoint, code)
        shown = f"{error.detail} ({error.reason})" if bare else error
        _LOGGER.info("%s %s refused: %s", request.method, request.path, shown)

    def recorded(self, request: RecordedRequest) -> None:
        """Record a request."""
        self._requests.add(request)
        self.stats.count_response(request.status)


def _jti(proof: str) -> str | None:
    """Read the ``jti`` of an unverified proof."""
    try:
        jti = json.loads(b64url_decode(proof.split(".")[1])).get("jti")
    except (EncodingError, IndexError, ValueError, AttributeError, RecursionError):
        return None
    if not isinstance(jti, str):
        return None
    # A jti may have any length; 200,000 of them are remembered.
    return jti if len(jti) <= 64 else hashlib.sha256(jti.encode("utf-8", "surrogatepass")).hexdigest()
